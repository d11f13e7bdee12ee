"""Whether a client has the content already: ``If-None-Match`` and ``If-Range``.

The tag of content is its digest in quotes, so it is always a strong one, and content never
changes under its tag (RFC 9110, sections 8.8.3 and 13.1).
"""

import re
from collections.abc import Iterable

from alauda_registry.oci.digest import Digest

_TAG = re.compile(r'(?:W/)?"([^"]*)"|([^\s,"]+)')


def entity_tag(digest: Digest) -> str:
    """Return the ``ETag`` of the content with this digest."""
    return f'"{digest}"'


def is_known(if_none_match: Iterable[str], digest: Digest) -> bool:
    """Tell whether a client says it has the content.

    Args:
        if_none_match: The values of all ``If-None-Match`` lines. Tags are compared weakly;
            one without quotes is taken for what was meant, as distribution does.
        digest: The content's digest.
    """
    wanted = str(digest)
    for line in if_none_match:
        if line.strip() == "*":
            return True
        if any(wanted in match.groups() for match in _TAG.finditer(line)):
            return True
    return False


def is_range_current(if_range: str | None, digest: Digest) -> bool:
    """Tell whether a range may be served: the client's part is of this very content.

    A weak tag and a date don't prove that, so the client is sent everything.
    """
    return if_range is None or if_range.strip() == entity_tag(digest)
