"""Which bytes: the ``Range`` of a pull and the ``Content-Range`` of an upload's chunk.

The two have nothing in common but the minus sign. A pull's range is HTTP's (RFC 9110,
section 14), a chunk's is the distribution specification's: ``<first>-<last>``, both
included, without a unit. Numbers of any length are read, as they come from anybody.
``tests/property/test_ranges.py`` compares both with plain slicing.
"""

import re
from dataclasses import dataclass

from alauda_registry.oci.errors import BlobUploadInvalid, BlobUploadOutOfOrder, RangeNotSatisfiable

# Possessive, so that a header of nothing but spaces does not cost the square of its length.
_BYTES = re.compile(r"bytes[ \t]*+=[ \t]*+([0-9]*+)[ \t]*+-[ \t]*+([0-9]*+)[ \t]*+", re.IGNORECASE)
_CHUNK = re.compile(r"([0-9]+)-([0-9]+)")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of some bytes, never an empty one.

    Args:
        first: Where it starts.
        last: Where it ends, included.
    """

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return self.last - self.first + 1

    def content_range(self, size: int) -> str:
        """Return the header that says which part of how many bytes this is."""
        return f"bytes {self.first}-{self.last}/{size}"


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the part of a blob that is asked for; None for all of it.

    What is no single range of bytes is ignored, as HTTP allows: several ranges, other
    units and nonsense get the whole blob, with which every client can go on. So does any
    range of an empty blob, which has no part that could be named.

    Raises:
        RangeNotSatisfiable: The range begins behind the end, or ends before it begins.
    """
    match = _BYTES.fullmatch(header) if header is not None else None
    if match is None or size == 0:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        wanted = ByteRange(max(size - _number(last), 0), size - 1)
    else:
        wanted = ByteRange(_number(first), min(_number(last), size - 1) if last else size - 1)
    if wanted.length <= 0:
        raise RangeNotSatisfiable(size=size, range=str(header))
    return wanted


def parse_content_range(header: str | None) -> ByteRange | None:
    """Return where a chunk says it belongs; None if it does not say.

    Raises:
        BlobUploadInvalid: The header is not what the specification asks for.
        BlobUploadOutOfOrder: The chunk ends before it begins.
    """
    if header is None:
        return None
    match = _CHUNK.fullmatch(header)
    if match is None:
        raise BlobUploadInvalid(
            "invalid Content-Range: write it as <first byte>-<last byte>, as in 0-1023",
            range=header,
        )
    chunk = ByteRange(_number(match[1]), _number(match[2]))
    if chunk.length <= 0:
        raise BlobUploadOutOfOrder(range=header)
    return chunk


def _number(digits: str) -> int:
    # More digits than any size has: still a number, and still larger than all of them.
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 19 else 10**19
