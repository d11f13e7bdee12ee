"""The server is killed at any moment, with ``SIGKILL``, and nothing that was acknowledged is lost.

Clients of ours and real ones push, move, delete, mount and read while it happens. Then the server
is started again on the same storage and everything is looked at over HTTP: what was acknowledged
is there, byte for byte, what was acknowledged as deleted is gone, what was under way happened or
did not, and nothing that is served or listed dangles. Clients go on with what they were at.

The clients know nothing of files or buckets: another kind of storage is another ``Storage``.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.buckets import assert_nothing_dangles
from tests.parts import s3
from tests.parts.processes import run
from tests.parts.registry import PROGRAM
from tests.parts.tools import require
from tests.torture.asking import Asker
from tests.torture.checking import Books
from tests.torture.crowd import Crowd
from tests.torture.histories import NEVER, History, Key
from tests.torture.load import Client
from tests.torture.real_clients import RealClient, find_clients
from tests.torture.servers import Storage, Victim, Way, in_bucket
from tests.torture.talking import Line
from tests.torture.world import World, make_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

_CLIENTS = 8
_FLAWED_SERVER = Path(__file__).with_name("flawed_server.py")
_OLDER_LOOKED_AT = 60


@pytest.fixture
def seed() -> int:
    """The same load again: ``TORTURE_SEED=... make torture``."""
    return int(os.environ.get("TORTURE_SEED") or random.randrange(2**32))


@pytest.fixture(params=["filesystem", *s3.KINDS])
def storage(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    program: Sequence[str | Path],
    start_s3: Callable[[s3.Kind], s3.S3Server],
    *,
    is_long: bool,
) -> Iterator[Storage]:
    if request.param not in s3.KINDS:
        yield Storage(root=tmp_path / "root", program=program)
        return
    if "writes late" in request.node.name:
        pytest.skip("what is found in a folder would be found in a bucket, by the same clients")
    if request.param != s3.IN_SHORT and not is_long:
        pytest.skip("make torture has this server, too")
    require(request.param)
    bucket = start_s3(request.param).create_bucket()
    yield in_bucket(bucket, program)
    bucket.remove()


@pytest.fixture
def program() -> Sequence[str | Path]:
    """What runs the server."""
    return PROGRAM


@dataclass
class Ordeal:
    """A server, its clients, and what has to be true whenever they hold still."""

    victim: Victim
    world: World
    chance: random.Random
    directory: Path
    history: History = field(default_factory=History)
    well_since: float = 0.0
    kills: int = 0

    def __post_init__(self) -> None:
        self.books = Books(self.history, [self.world.subject.digest])
        self.raw = [
            Client(
                number,
                self.world,
                Asker([Line(self.victim.address)], self.history, self._chance()),
            )
            for number in range(_CLIENTS)
        ]
        self.real = [
            RealClient(
                name,
                program,
                self.victim.address,
                self.directory / name,
                self.history,
                self._chance(),
                lambda: self.well_since,
            )
            for name, program in find_clients().items()
        ]
        self.crowd = Crowd(
            [
                *(client.act for client in self.raw[:-2]),
                *(client.push_new_image for client in self.raw[-2:]),
            ]
        )
        self.real_crowd = Crowd([client.push for client in self.real])

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.victim.running():
            self.raw[0].prepare()
            with self.crowd.running(), self.real_crowd.running():
                try:
                    yield
                finally:
                    for one in self.real:
                        one.patience = 0.0
        for client in self.raw:
            client.asker.hang_up()

    def survive(self, way: Way, *, kills: int = 1, with_real: bool) -> None:
        """Let clients work while the server is killed, then look at everything.

        Args:
            way: How it is killed.
            kills: How often, before the look.
            with_real: Whether real clients take part, which take seconds to try again.
        """
        self.crowd.release()
        if with_real:
            self.real_crowd.release()
        for _ in range(kills):
            self._kill(way)
        # Real clients go on trying until they are done, and then they hold still, too.
        self.crowd.hold()
        self.real_crowd.hold()
        if way is not Way.WORKERS:
            self.restart()
        self.check()

    def restart(self) -> None:
        """Start the server again, after it was killed or in good order."""
        self.victim.stop()
        self.victim.start()
        self.well_since = time.monotonic()

    def check(self, *, is_last: bool = False) -> None:
        """Look at everything, once everybody is still."""
        self.crowd.wait_until_still()
        self.real_crowd.wait_until_still()
        self.books.balance([self.victim.address], None if is_last else self._to_look_at())
        assert self.victim.complaints() == []

    def expect_only_garbage(self) -> None:
        """See that what was left behind is garbage, and nothing of it is in the way."""
        root, bucket = self.victim.storage.root, self.victim.storage.bucket
        if bucket is not None:
            hollow = {(key.repository, key.name) for key in self.history.hollow}
            assert_nothing_dangles(bucket, hollow)
        if root is not None:
            run([*PROGRAM, "fsck", "--root", root, "--age", "0s", "--no-progress"])

    def report(self) -> str:
        pushes = ", ".join(f"{one.name} {one.pushes}/{one.attempts}" for one in self.real)
        return f"{self.kills} kills; {self.books}; pushes/attempts: {pushes}"

    def _kill(self, way: Way) -> None:
        time.sleep(self.chance.uniform(0.05, 1.2))
        self.well_since = NEVER
        self.victim.kill(way, self.chance)
        self.kills += 1
        if way is Way.WORKERS:
            self.well_since = time.monotonic()

    def _to_look_at(self) -> set[Key]:
        """Return all that clients meet at or touched just now, and some of what was before."""
        recent = {*self.world.keys(), *self.history.keys()}
        older = sorted(self.books.keys() - recent)
        return recent | set(self.chance.sample(older, min(_OLDER_LOOKED_AT, len(older))))

    def _chance(self) -> random.Random:
        return random.Random(self.chance.getrandbits(64))


@pytest.fixture
def ordeal(storage: Storage, workers: int, seed: int, tmp_path: Path) -> Iterator[Ordeal]:
    chance = random.Random(seed)
    world = make_world(chance, repositories=2, tags=4)
    history = History(writes_again=storage.bucket is not None)
    ordeal = Ordeal(Victim(tmp_path, storage, workers), world, chance, tmp_path, history)
    sys.stdout.write(f"seed {seed}\n")
    with ordeal.running():
        yield ordeal
    sys.stdout.write(f"{ordeal.report()}\n")


@pytest.mark.parametrize(
    ("workers", "way"),
    [(1, Way.AT_ONCE), (2, Way.AT_ONCE), (2, Way.ONE_BY_ONE)],
    ids=["one process", "a process group", "process by process"],
)
def test_a_server_that_is_killed_comes_back_with_all_it_acknowledged(
    ordeal: Ordeal, way: Way, workers: int, is_long: bool
) -> None:
    for number in range(60 if is_long else 2):
        # Real clients wait for seconds before they try again; in the short run they meet this
        # way and that of workers.
        ordeal.survive(way, with_real=number % 3 == 0 and (is_long or workers == 1))
    ordeal.restart()
    ordeal.check(is_last=True)
    ordeal.expect_only_garbage()


@pytest.mark.parametrize("workers", [2])
def test_workers_that_are_killed_are_replaced_and_lose_nothing(
    ordeal: Ordeal, is_long: bool
) -> None:
    for number in range(15 if is_long else 1):
        ordeal.survive(Way.WORKERS, kills=3, with_real=number % 3 == 0)
        # A supervisor waits longer and longer before it replaces workers that die young.
        ordeal.restart()
        ordeal.check()
    ordeal.check(is_last=True)
    ordeal.expect_only_garbage()


@pytest.mark.parametrize("workers", [1])
@pytest.mark.parametrize(
    "program", [("env", "FLAW=writes late", sys.executable, _FLAWED_SERVER)], ids=["writes late"]
)
def test_the_check_finds_a_server_that(ordeal: Ordeal) -> None:
    with pytest.raises(AssertionError, match="nothing explains"):
        survive_often(ordeal, 10)


def survive_often(ordeal: Ordeal, kills: int) -> None:
    for _ in range(kills):
        ordeal.survive(Way.AT_ONCE, with_real=False)
