"""Nothing acknowledged is lost when the power goes, wherever in a history it goes.

Hypothesis makes the programs up. Each runs with its clients in two processes on one disk; then
the power is cut after every single effect, and registries are started on what may be left.
"""

import ast
import multiprocessing
import os
import random
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from typing_extensions import override

from alauda_registry import storage
from tests.torture.covering import CHANGES, READS
from tests.torture.cuts import Count, Proof
from tests.torture.mutations import programs_of_mutations
from tests.torture.programs import Program, programs, run
from tests.torture.replay import Disk, EverythingArrived, survivors
from tests.torture.trees import OnDisk, Tree, read_tree

SHORT, LONG = 2_000, 120_000
PROMISED = 100_000
SHARE = 3_000
"""How many cuts one worker makes before it is given another seed."""

DIRECTED = programs_of_mutations()


def prove(folder: Path, number: int, places: int) -> Count:
    """Cut the power in at least so many places of programs that follow from a number."""
    proof = Proof(folder, restarts=0.01)

    @settings(
        max_examples=20,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(longest=4))
    def check(program: Program) -> None:
        proof.check(program)

    try:
        for more in count(number * 1_000_000):
            if proof.count.places >= places:
                return proof.count
            seed(more)(check)()
    finally:
        proof.close()
    raise AssertionError("numbers do not end")


def try_to_prove(folder: Path, number: int, places: int) -> Count | str:
    """Do the same for another process, which can't be given any exception."""
    try:
        return prove(folder, number, places)
    except BaseException:  # noqa: BLE001 -- whatever it is, somebody has to read it
        return traceback.format_exc()


@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(
    memory: Path,
    is_long: bool,
    tell: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if is_long:
        total = Count()
        workers = os.cpu_count() or 1
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            shares = [
                pool.submit(try_to_prove, memory, number, SHARE) for number in range(LONG // SHARE)
            ]
            for share in as_completed(shares):
                counted = share.result()
                if isinstance(counted, str):
                    pool.shutdown(cancel_futures=True)
                    pytest.fail(counted)
                total.add(counted)
                with capsys.disabled():
                    print(f"{total.places} of {LONG} cuts made", flush=True)  # noqa: T201
    else:
        total = prove(memory, random.randrange(1000), SHORT)

    tell(f"power cuts, programs made up by hypothesis: {total}")
    assert total.places >= (PROMISED if is_long else SHORT)


@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_the_programs_that_mutations_are_found_in(
    memory: Path, is_long: bool, tell: Callable[[str], None]
) -> None:
    proof = Proof(memory, restarts=0.2 if is_long else 0.01)

    for program in programs_of_mutations(orders=None if is_long else 2):
        proof.check(program)

    proof.close()
    tell(f"power cuts, programs that mutations are found in: {proof.count}")
    assert proof.count.places > 1_000


def test_the_same_program_has_the_same_history(memory: Path) -> None:
    program = next(program for program in DIRECTED if len(program.clients) > 2)
    histories = []
    for name in ("first", "second"):
        (memory / name).mkdir()
        histories.append(run(program, memory / name))

    first, second = (
        [(type(effect), now) for effect, now in history.effects] for history in histories
    )
    assert first == second
    assert [op.outcome for op in histories[0].operations] == [
        op.outcome for op in histories[1].operations
    ]


def contents(tree: Tree) -> dict[str, bytes | None]:
    return {path: node.content for path, node in tree.items()}


@pytest.mark.parametrize("program", DIRECTED[:4], ids=range(4))
def test_what_was_recorded_is_what_happened(memory: Path, program: Program) -> None:
    history = run(program, memory)
    disk = Disk(history.tree)
    for effect, now in history.effects:
        disk.apply(effect, now)

    assert contents(disk.tree(EverythingArrived())) == contents(read_tree(memory))


def test_each_tree_is_made_as_it_was_meant(memory: Path) -> None:
    folders = [memory / name for name in ("run", "made")]
    for folder in folders:
        folder.mkdir()
    history = run(DIRECTED[0], folders[0])
    disk = Disk(history.tree)
    made = OnDisk(folders[1])
    die = random.Random(0)

    for effect, now in history.effects:
        disk.apply(effect, now)
        for _, tree in survivors(disk, die):
            made.hold(tree)

            assert contents(read_tree(folders[1])) == contents(tree)


class Reach(ast.NodeVisitor):
    """Finds what of the modules that lead to the disk a source uses."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.imported: set[str] = set()

    @override
    def visit_Import(self, node: ast.Import) -> None:
        self.imported |= {alias.name.partition(".")[0] for alias in node.names if alias.asname}
        self.imported |= {alias.name.partition(".")[0] for alias in node.names}

    @override
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = (node.module or "").partition(".")[0]
        self.imported.add(module)
        if module in ("os", "shutil", "ctypes", "io", "posix"):
            self.used |= {f"from {module} import {alias.name}" for alias in node.names}

    @override
    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id in ("os", "shutil", "_libc"):
            self.used.add(f"{node.value.id}.{node.attr}")
        elif node.attr in ("write_bytes", "write_text", "touch", "symlink_to", "hardlink_to"):
            self.used.add(f"Path.{node.attr}")
        self.generic_visit(node)

    @override
    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            self.used.add("open()")
        self.generic_visit(node)


def is_constant(name: str) -> bool:
    """Tell whether this is a number or a type of ``os``: both do nothing by themselves."""
    value = getattr(os, name.removeprefix("os."), None)
    return isinstance(value, int | type)


WATCHED = (
    {f"os.{name}" for name in READS | CHANGES}
    | {"shutil.rmtree"}
    # To open (not when openat2 is switched off, as it is here), to ask, and to say what is
    # not relied on.
    | {"_libc.syscall", "_libc.statx", "_libc.sync_file_range"}
)
LEADS_TO_DISK = {"io", "mmap", "posix", "sqlite3", "subprocess", "tempfile", "fileinput"}
SOURCES = sorted(
    path
    for folder in storage.__path__
    for path in Path(folder).rglob("*.py")
    # A program of its own, which no client waits for.
    if "fsck" not in path.parts
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: "-".join(path.parts[-2:]))
def test_no_module_of_the_storage_touches_the_disk_unseen(source: Path) -> None:
    reach = Reach()
    reach.visit(ast.parse(source.read_text()))

    unseen = {name for name in reach.used - WATCHED if not is_constant(name)}
    assert unseen == set(), f"let tests/torture/recording.py know of what {source} does"
    assert reach.imported & LEADS_TO_DISK == set()
