"""The bytes that are pushed and pulled."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.benchmarks.content import DOCKER_CHUNK, Content


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    made = Content(tmp_path / "content")
    yield made
    made.close()


def test_blob_carries_the_digest_of_its_own_bytes(content: Content) -> None:
    content.add(b"before")
    blob = content.add(b"layer")
    content.add(b"after")

    assert blob.content.read() == b"layer"
    assert blob.digest == f"sha256:{hashlib.sha256(b'layer').hexdigest()}"


def test_pieces_join_to_the_whole(content: Content) -> None:
    blob = content.add(b"0123456789")

    assert [piece.read() for piece in blob.content.pieces(4)] == [b"0123", b"4567", b"89"]


def test_named_bytes_are_made_once(content: Content) -> None:
    assert content.reuse("large", 100) == content.reuse("large", 100)


def test_shifted_pieces_of_the_same_bytes_are_different_blobs(content: Content) -> None:
    whole = content.reuse("large", 100)

    first, second = (content.piece(whole, offset, 90) for offset in (0, 1))

    assert first.content.read()[1:] == second.content.read()[:-1]
    assert first.digest != second.digest


def test_chunked_coding_cuts_where_docker_does(content: Content) -> None:
    size = DOCKER_CHUNK + 3
    blob = content.add(b"x" * size)

    coded = content.encode(blob).read()

    assert coded == b"8000\r\n" + b"x" * DOCKER_CHUNK + b"\r\n3\r\nxxx\r\n0\r\n\r\n"


def test_index_tells_where_tag_and_digest_lie(content: Content) -> None:
    image = content.image("team/app", "v1", [content.add(b"layer")])

    place = (image.manifest.content.offset, image.manifest.content.size)
    assert (content.index["v1"], content.index[image.manifest.digest]) == (place, place)
