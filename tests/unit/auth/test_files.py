"""Files that are read again when they change."""

import logging
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest

from alauda_registry.auth.files import FileInvalid, Watched
from tests.unit.auth.clocks import Clock


def read(contents: Sequence[bytes]) -> bytes:
    if b"bad" in contents[0]:
        raise FileInvalid("it is bad")
    return contents[0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def watched(path: Path, clock: Clock) -> Watched[bytes]:
    return Watched([path], read, clock)


def test_a_change_counts_within_a_second(watched: Watched[bytes], path: Path, clock: Clock) -> None:
    path.write_bytes(b"two")
    assert watched.current == b"one"

    clock.now += 1
    assert watched.current == b"two"
    assert watched.generation == 1


def test_a_file_of_the_same_size_and_time_is_told_from_another(
    watched: Watched[bytes], path: Path, clock: Clock
) -> None:
    found = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    clock.now += 1

    assert watched.current == b"two"


def test_a_link_that_is_moved_is_noticed(tmp_path: Path, clock: Clock) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "current"
    link.symlink_to("one")
    watched = Watched([link / "file"], read, clock)

    scratch = tmp_path / "scratch"
    scratch.symlink_to("two")
    scratch.replace(link)
    clock.now += 1

    assert watched.current == b"two"


@pytest.mark.parametrize("content", [b"bad", None])
def test_what_was_read_before_stays_when_the_new_one_is_no_good(
    content: bytes | None,
    watched: Watched[bytes],
    path: Path,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    for _ in range(3):
        clock.now += 1
        assert watched.current == b"one"

    assert watched.generation == 0
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    path.write_bytes(b"three")
    clock.now += 1
    assert watched.current == b"three"


def test_what_could_not_be_read_for_a_moment_is_read_afterwards(
    watched: Watched[bytes], path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"two")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for _ in range(3):
            clock.now += 1
            assert watched.current == b"one"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    clock.now += 1

    assert watched.current == b"two"
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [
        logging.ERROR
    ]


def test_what_is_no_good_at_the_beginning_is_told(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FileInvalid, match=r"cannot read .*absent: No such file.* user \d+"):
        Watched([tmp_path / "absent"], read)
    path.write_bytes(b"bad")
    with pytest.raises(FileInvalid, match=f"^{path}: it is bad"):
        Watched([path], read)
