"""The ``n`` and ``last`` of lists."""

import re

from alauda_registry.oci.errors import PaginationNumberInvalid
from alauda_registry.server.state import RegistryRequest

_NUMBER = re.compile("[0-9]+")
_LONGEST_NUMBER = 18


def page_size(request: RegistryRequest) -> int | None:
    """Return how many entries the client asks for; None if it does not say.

    Raises:
        PaginationNumberInvalid: What it says is no number, or a negative one.
    """
    text = request.query_params.get("n")
    if text is None or text == "":
        return None
    if _NUMBER.fullmatch(text) is None:
        raise PaginationNumberInvalid(n=text)
    # Of a longer one it is enough to know that it is larger than any list.
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LONGEST_NUMBER else 10**_LONGEST_NUMBER


def page_start(request: RegistryRequest) -> str:
    """Return the entry after which the page begins; empty for the first page."""
    return request.query_params.get("last", "")
