"""A check takes no more memory for a million links than for a few."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName
from alauda_registry.storage import paths
from alauda_registry.storage.fsck.walker import Walk
from tests.parts.processes import run

FEW = 20_000
MOST_MORE_KIBIBYTES = 48 * 1024


def peak(links: int) -> int:
    """Return the most memory that a check of so many links takes, in KiB."""
    program = [sys.executable, "-m", "tests.torture.generated_tree", str(links)]
    return int(run(program, directory=Path(__file__).parents[2], seconds=600).stdout)


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_number_of_links(is_long: bool) -> None:
    assert peak(1_000_000 if is_long else 200_000) - peak(FEW) < MOST_MORE_KIBIBYTES


def test_a_folder_with_many_names_is_read_in_pieces(tmp_path: Path) -> None:
    layers = tmp_path / paths.layers(RepositoryName("many"))[1:] / "sha256"
    for number in range(10_000):
        (layers / Digest.of(b"%d" % number).encoded).mkdir(parents=True)
        (layers / Digest.of(b"%d" % number).encoded / "link").write_bytes(b"")
    tracemalloc.start()
    count = 0
    for batch in Walk(str(tmp_path)).batches(paths.ROOT):
        count += len(batch)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 10_000
    # All names alone would be more; a batch of 2 000 with its paths is not.
    assert most < 4 * 1024 * 1024
