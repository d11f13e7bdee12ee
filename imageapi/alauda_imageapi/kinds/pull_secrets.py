"""``imagestreams/secrets``: what images of a namespace are pulled with (facts/image-api.md 3.17).

As in OpenShift they are read with the server's own rights, so that whoever may get them of a stream
may read all pull secrets of its namespace. The stream's name is not looked at: it need not exist.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.kinds.content import Content
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.names import EXCLUDE_SECRET, GROUP, annotation
from alauda_imageapi.machinery.errors import BadRequest, too_large_revision
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.options import ListOptions
from alauda_imageapi.machinery.resources import Context, Subresource
from alauda_imageapi.machinery.store import ObjectStore

_SECRETS = "secrets"
_SELECTABLE = frozenset({"metadata.name", "metadata.namespace", "type"})
"""As of Secrets."""


class PullSecrets(Protocol):
    """Reads Secrets of the two types that images are pulled with."""

    async def read(
        self, namespace: str, revision: int | None, is_wanted: Callable[[Object], bool]
    ) -> tuple[int, Sequence[Object]]:
        """Return those of a namespace, and the revision they are of.

        Args:
            namespace: Of them.
            revision: As they were then; None for now.
            is_wanted: Chooses among them.

        Raises:
            Expired: The revision is not known any more.
            RequestEntityTooLarge: They are too large together.
            ServiceUnavailable: They cannot be read at the moment.
        """
        ...


class ImageStreamsWithSecrets(ImageStreams):
    """``imagestreams`` where there are Secrets.

    Args:
        secrets: Reads them.
        store: Keeps the streams.
        images: The Images that they point to.
        registry: Where the registry is: HOST:PORT.
        content: Keeps what their tags point to.
        public_registry: Where others than pods reach the registry, if they do.
    """

    subresources = (
        *ImageStreams.subresources,
        Subresource(_SECRETS, "SecretList", schemas.SECRET_LIST, ("get",), lists=True),
    )

    def __init__(
        self,
        secrets: PullSecrets,
        store: ObjectStore,
        images: Images,
        registry: str,
        content: Content | None = None,
        *,
        public_registry: str = "",
    ) -> None:
        super().__init__(
            GROUP,
            store,
            images,
            registry,
            content,
            public_registry=public_registry,
            collects_garbage=True,
        )
        self._secrets = secrets

    @override
    async def get_part(self, context: Context, name: str, subresource: str) -> Object:
        if subresource != _SECRETS:
            return await super().get_part(context, name, subresource)
        options = ListOptions.parse(context.parameters, _SELECTABLE)
        if options.token:
            raise BadRequest("continue key is not valid: this list has no pages")
        exact = options.revision if options.match == "Exact" else None
        revision, found = await self._secrets.read(
            context.namespace, exact, lambda secret: _is_wanted(secret, options)
        )
        if options.revision and options.revision > revision:
            raise too_large_revision(options.revision, revision)
        return {
            "kind": "SecretList",
            "apiVersion": self.group.api_version,
            "metadata": {"resourceVersion": str(revision)},
            "items": [{"kind": "Secret", "apiVersion": "v1", **secret} for secret in found],
        }


def _is_wanted(secret: Object, options: ListOptions) -> bool:
    metadata = secret["metadata"]
    if annotation(metadata, EXCLUDE_SECRET) == "true":
        return False
    fields = {f"metadata.{name}": metadata[name] for name in ("name", "namespace")}
    return options.labels.matches(metadata.get("labels") or {}) and options.fields.matches(
        {**fields, "type": secret["type"]}
    )
