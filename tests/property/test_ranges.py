"""Range headers, compared with slicing."""

from hypothesis import example, given, strategies as st

from alauda_registry.oci.errors import BlobUploadInvalid, BlobUploadOutOfOrder, RangeNotSatisfiable
from alauda_registry.server.ranges import ByteRange, parse_content_range, parse_range

positions = st.integers(0, 40) | st.integers(0, 10**40)
sizes = st.integers(1, 32)


def served(header: str, size: int) -> bytes | None:
    """Return the bytes a range selects; None when it selects none."""
    content = bytes(range(size))
    try:
        part = parse_range(header, size)
    except RangeNotSatisfiable:
        return None
    return content if part is None else content[part.first : part.last + 1]


@given(positions, positions, sizes)
def test_closed_range_is_a_slice(first: int, last: int, size: int) -> None:
    expected = bytes(range(size))[first : last + 1]

    assert served(f"bytes={first}-{last}", size) == (expected or None)


@given(positions, sizes)
def test_open_range_is_the_rest(first: int, size: int) -> None:
    assert served(f"bytes={first}-", size) == (bytes(range(size))[first:] or None)


@given(positions, sizes)
def test_suffix_range_is_the_end(length: int, size: int) -> None:
    start = max(size - length, 0)

    assert served(f"bytes=-{length}", size) == (bytes(range(size))[start:] or None)


@given(st.text(alphabet="bytes=0123456789-, \t*/", max_size=20) | st.text(), st.integers(0, 32))
@example("bytes=-", 7)
@example("bytes=0-1,3-4", 7)
@example("bytes=٣-٤", 7)
def test_any_header_selects_a_part_of_the_blob_or_nothing(header: str, size: int) -> None:
    try:
        part = parse_range(header, size)
    except RangeNotSatisfiable:
        return

    assert part is None or 0 <= part.first <= part.last < size


def test_hostile_header_costs_no_more_than_its_length() -> None:
    # The square of this length would take longer than any test may.
    for middle in (" ", "\t", "0"):
        assert parse_range(f"bytes=1-{middle * 1_000_000}x", 10) is None
        assert parse_range(f"bytes={middle * 1_000_000}x", 10) is None


@given(positions, st.integers(1, 10**40))
def test_content_range_is_read_back(first: int, length: int) -> None:
    # Beyond what any size can be, it is enough that a number stays a large one.
    last = first + length - 1
    if last >= 10**19:
        return

    assert parse_content_range(f"{first}-{last}") == ByteRange(first, last)


@given(st.text(alphabet="0123456789-, bytes=/*", max_size=50) | st.text())
@example("9" * 5000 + "-" + "9" * 5000)
@example("1-0")
@example("0-1\n")
def test_any_content_range_is_read_or_refused(header: str) -> None:
    try:
        chunk = parse_content_range(header)
    except (BlobUploadInvalid, BlobUploadOutOfOrder):
        return

    assert chunk is not None
    assert 0 <= chunk.first <= chunk.last
