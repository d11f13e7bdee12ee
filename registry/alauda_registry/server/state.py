"""What a handler is given: the registry, how it is to behave, and who signs upload URLs.

The lifespan opens all of it once and Starlette hands it to each request, so a handler needs
no globals: ``request.state["registry"]`` is typed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

from starlette.requests import Request

from alauda_registry.oci.errors import Unsupported
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.server.extensions import ImageRecorder
from alauda_registry.server.proxies import Proxies
from alauda_registry.server.upload_state import UploadStates
from alauda_registry.storage.repositories import Registry, Repository


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the endpoints behave. Sizes are in bytes.

    Args:
        prefix: The path below which ``/v2/`` is served.
        external_url: The URL clients know the registry by, for absolute locations.
        relative_urls: Whether locations are paths (true) or whole URLs (false). Unset,
            they are paths unless ``external_url`` is given: a path is right behind every
            proxy, and can't name a host that a client refuses to follow.
        proxies: Whose word about clients, and about the URL they use, is taken.
        headers: Added to every answer that does not have them yet.
        secret: Signs upload URLs, the same in all replicas; unset, storage keeps one.
        read_only: Refuse everything but GET and HEAD.
        delete_enabled: Whether anything may be deleted.
        delete_tags: Whether tags may be, if anything may.
        delete_manifests: Whether manifests may be, if anything may.
        delete_blobs: Whether blobs may be, if anything may.
        anonymous_mount: Mount a blob without being told where it is. It tells whoever
            knows a digest that some repository has it, so it goes with open registries.
            No setting leads here: authentication switches it off.
        max_manifest_size: Larger manifests are refused.
        max_tags_in_push: More ``tag`` parameters in one push are refused.
        tags_max: The longest page of a tag list; unset, as long as the client asks for.
        referrers_max: The longest page of referrers. Not every client follows pages.
        catalog_default: A page of the catalog, when the client does not say.
        catalog_max_entries: Longer pages of the catalog are refused.
    """

    prefix: str = "/"
    external_url: str | None = None
    relative_urls: bool | None = None
    proxies: Proxies = field(default_factory=Proxies)
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    secret: bytes | None = field(default=None, repr=False)
    read_only: bool = False
    delete_enabled: bool = True
    delete_tags: bool = True
    delete_manifests: bool = True
    delete_blobs: bool = True
    anonymous_mount: bool = True
    max_manifest_size: int = 4 * 2**20 + 256 * 2**10
    max_tags_in_push: int = 100
    tags_max: int | None = None
    referrers_max: int = 1000
    catalog_default: int = 100
    catalog_max_entries: int = 1000


class AppState(TypedDict):
    """What the lifespan opens."""

    registry: Registry
    options: ServerOptions
    upload_states: UploadStates
    recorder: ImageRecorder


RegistryRequest: TypeAlias = Request[AppState]
"""A request whose ``state`` is what the lifespan opened."""


def find_repository(request: RegistryRequest, name: str) -> Repository:
    """Return the repository a request is about; it need not exist.

    Raises:
        NameInvalid: The name breaks the grammar.
    """
    return request.state["registry"].repository(RepositoryName.parse(name))


def require_deletion(request: RegistryRequest, allowed: bool, what: str) -> None:
    """Let a deletion pass, or not.

    Raises:
        Unsupported: Deleting is switched off.
    """
    if not (request.state["options"].delete_enabled and allowed):
        raise Unsupported(f"deleting {what} is disabled: ask whoever runs the registry")
