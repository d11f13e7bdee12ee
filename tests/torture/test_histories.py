"""Three servers on one storage, as replicas on one claim or bucket, never serve anything stale.

Clients push, move, delete, mount and read the same few things, and ask any of the servers each
time. What they were told is recorded with the times of question and answer, and has to be
explained by one registry that does one thing after the other: nothing that one server deleted is
served by another, and nothing that one acknowledged is missed by another.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.buckets import assert_nothing_dangles
from tests.parts import s3
from tests.parts.registry import PROGRAM, Server
from tests.parts.tools import require
from tests.torture.asking import Asker
from tests.torture.checking import Books
from tests.torture.crowd import Crowd
from tests.torture.histories import History
from tests.torture.load import Client
from tests.torture.replicas import can_mount, claim, replicas
from tests.torture.servers import Storage, in_bucket
from tests.torture.talking import Line
from tests.torture.world import make_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

_CLIENTS = 12
_FLAWED = (sys.executable, Path(__file__).with_name("flawed_server.py"))


@pytest.fixture
def seed() -> int:
    """The same clients again: ``TORTURE_SEED=... make torture``."""
    seed = int(os.environ.get("TORTURE_SEED") or random.randrange(2**32))
    sys.stdout.write(f"seed {seed}\n")
    return seed


@contextmanager
def three_servers(
    driver: str,
    directory: Path,
    start_s3: Callable[[s3.Kind], s3.S3Server],
    program: Sequence[str | Path] = PROGRAM,
    **variables: str,
) -> Iterator[list[Server]]:
    for kind in s3.KINDS:
        if driver == kind:
            require(kind)
            bucket = start_s3(kind).create_bucket()
            with replicas(directory, [in_bucket(bucket, program)] * 3, variables) as servers:
                yield servers
            assert_nothing_dangles(bucket)
            bucket.remove()
            return
    if driver == "filesystem":
        storages = [Storage(root=directory / "root", program=program)] * 3
        with replicas(directory, storages, variables) as servers:
            yield servers
        return
    if not can_mount():
        pytest.skip("only root can mount a claim")
    with (
        claim(directory, program) as storages,
        replicas(directory, storages, variables) as servers,
    ):
        yield servers


def play(
    servers: Sequence[Server],
    seed: int,
    *,
    rounds: int,
    seconds: float,
    writes_again: bool = False,
) -> None:
    """Let clients loose on the servers, and look at everything after each round."""
    chance = random.Random(seed)
    addresses = [server.address for server in servers]
    world = make_world(chance, repositories=3, tags=4)
    history = History(writes_again=writes_again)
    books = Books(history, [world.subject.digest])
    clients = [
        Client(
            number,
            world,
            Asker(
                [Line(address) for address in addresses],
                history,
                random.Random(chance.getrandbits(64)),
            ),
        )
        for number in range(_CLIENTS)
    ]
    crowd = Crowd([client.act for client in clients])
    asked = 0
    played = 0.0
    try:
        clients[0].prepare()
        with crowd.running():
            for _ in range(rounds):
                asked -= history.counts.total()
                crowd.release()
                time.sleep(seconds)
                crowd.hold()
                crowd.wait_until_still()
                asked += history.counts.total()
                played += seconds
                books.balance(addresses)
    finally:
        for client in clients:
            client.asker.hang_up()
        sys.stdout.write(f"{asked} requests of clients in {played:.0f} s; all in all {books}\n")
        sys.stdout.write(f"{dict(sorted(history.counts.items()))}\n")


@pytest.mark.parametrize(
    ("driver", "minutes"), [("filesystem", 3), ("pvc", 10), ("versitygw", 5), ("minio", 5)]
)
def test_what_any_of_three_servers_says_is_what_one_would_say(
    driver: str,
    minutes: int,
    tmp_path: Path,
    seed: int,
    is_long: bool,
    start_s3: Callable[[s3.Kind], s3.S3Server],
) -> None:
    if driver in s3.KINDS and driver != s3.IN_SHORT and not is_long:
        pytest.skip("make torture has this server, too")
    with three_servers(driver, tmp_path, start_s3) as servers:
        if is_long:
            play(servers, seed, rounds=minutes, seconds=60, writes_again=driver in s3.KINDS)
        else:
            play(servers, seed, rounds=2, seconds=2.5, writes_again=driver in s3.KINDS)


@pytest.mark.parametrize(
    ("flaw", "finding"),
    [
        ("caches links", "nothing explains"),
        ("caches blobs", "nothing explains"),
        ("holds no locks", "nothing explains|: 50[03] | lists .*: 404 "),
    ],
)
def test_the_check_finds_servers_that(
    flaw: str,
    finding: str,
    tmp_path: Path,
    seed: int,
    start_s3: Callable[[s3.Kind], s3.S3Server],
) -> None:
    with (
        three_servers("filesystem", tmp_path, start_s3, _FLAWED, FLAW=flaw) as servers,
        pytest.raises(AssertionError, match=finding),
    ):
        play(servers, seed, rounds=30, seconds=1.5)
