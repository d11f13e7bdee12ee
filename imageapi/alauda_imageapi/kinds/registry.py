"""``registry``: not an object, but a name in RBAC (``registry/metrics``), so that kubectl knows it.

Who may read the registry's metrics is a role on ``registry/metrics``, and ``kubectl auth can-i``
asks discovery first whether there is such a thing.
"""

from typing import ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.machinery.errors import MethodNotAllowed
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import Context, Resource, Subresource
from alauda_imageapi.machinery.schema import Schema


class RegistryAccess(Resource):
    """``registry``, whose parts are granted and served elsewhere."""

    name = "registry"
    singular = "registry"
    kind = "Registry"
    namespaced = False
    verbs = ()
    schema: ClassVar[Schema] = schemas.REGISTRY
    subresources = (Subresource("metrics", "Registry", schemas.REGISTRY, ("get",)),)

    @override
    async def get_part(self, context: Context, name: str, subresource: str) -> Object:
        raise MethodNotAllowed(
            "the registry itself serves its metrics, at /metrics: this name is for roles only",
            details={"group": self.group.name, "kind": context.resource},
        )
