"""``/v2/``: whether this is a registry."""

from starlette.responses import Response

from alauda_registry.server.routing import Kind, Target, V2Route
from alauda_registry.server.state import RegistryRequest


async def get_base(_request: RegistryRequest, _target: Target) -> Response:
    """Say that the specification is spoken here (end-1)."""
    return Response(b"{}", media_type="application/json")


routes = [V2Route(Kind.BASE, {"GET": get_base, "HEAD": get_base})]
