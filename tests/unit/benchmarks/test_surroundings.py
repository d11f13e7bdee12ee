"""What the benchmarks know about the machine, and what they write on its disk."""

from pathlib import Path

import pytest

from conformance.benchmarks import trees
from conformance.benchmarks.content import Content
from conformance.benchmarks.load import ProgramMissing, find_program
from conformance.benchmarks.machine import file_system_of

MOUNTS = [
    "/dev/a / ext4 rw 0 0",
    "tmpfs /tmp tmpfs rw 0 0",
    "/dev/b /tmp/data xfs rw 0 0",
]


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        pytest.param("/srv", "ext4", id="root"),
        pytest.param("/tmp/x", "tmpfs", id="mount"),
        pytest.param("/tmp/data/x", "xfs", id="mount in a mount"),
        pytest.param("/tmp/database", "tmpfs", id="name that only begins like a mount"),
    ],
)
def test_file_system_is_that_of_the_deepest_mount(place: str, kind: str) -> None:
    assert file_system_of(Path(place), MOUNTS) == kind


def test_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(ProgramMissing, match="apt-get install no-such-program"):
        find_program("no-such-program")


def test_tags_are_written_as_distribution_would(tmp_path: Path) -> None:
    content = Content(tmp_path / "content")
    manifest = content.add(b"{}")

    tags = trees.build_tags(tmp_path, "team/app", manifest, 2)

    content.close()
    base = tmp_path / "docker/registry/v2"
    digest = manifest.digest.removeprefix("sha256:")
    home = base / "repositories/team/app/_manifests"
    assert {str(path.relative_to(home)): path.read_text() for path in home.rglob("link")} == {
        f"revisions/sha256/{digest}/link": manifest.digest,
        f"tags/{tags[0]}/current/link": manifest.digest,
        f"tags/{tags[1]}/current/link": manifest.digest,
    }
    assert (base / f"blobs/sha256/{digest[:2]}/{digest}/data").read_bytes() == b"{}"


def test_repositories_come_in_byte_order_and_exist(tmp_path: Path) -> None:
    names = trees.build_repositories(tmp_path, 201)

    home = tmp_path / "docker/registry/v2/repositories"
    found = sorted(str(path.parent.relative_to(home)) for path in home.glob("*/*/_manifests"))
    assert names == sorted(names) == found
