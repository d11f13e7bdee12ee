"""Passwords in a file: who is let in, what it costs, and what that tells."""

import asyncio
import logging
import os
import threading
from pathlib import Path

import bcrypt
import pytest

from alauda_registry.auth.authenticator import Basic, Bearer
from alauda_registry.auth.failures import Failures
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.htpasswd import (
    KEPT_SECONDS,
    LONGEST_PASSWORD,
    MOST_FROM_ADDRESS,
    MOST_WAITING,
    HtpasswdAuthenticator,
    hash_password,
    read_passwords,
)
from alauda_registry.auth.throttle import (
    FREE_FROM_ADDRESS,
    FREE_WITH_NAME,
    MOST_REFUSED,
    Throttle,
)
from alauda_registry.oci.errors import TooManyRequests, Unauthorized

pytestmark = pytest.mark.anyio

ADDRESS, ELSEWHERE = "192.0.2.1", "192.0.2.2"


class Work:
    """Counts what is computed, in rounds of bcrypt."""

    def __init__(self) -> None:
        self.rounds = 0
        self.calls = 0
        self.is_open = threading.Event()
        self.is_open.set()

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.is_open.wait(10)
        self.calls += 1
        self.rounds += 2 ** int(hashed[4:6])
        return bcrypt.checkpw(password, hashed)


class Place:
    """An authenticator over a file, with clocks that are set by hand."""

    def __init__(self, path: Path, failures: Failures | None = None) -> None:
        self.path = path
        self.clock = 0.0
        self.work = Work()
        self.passwords = {"alice": hash_password("secret", 4), "bob": hash_password("hunter", 6)}
        self.write()
        watched = Watched([path], read_passwords, lambda: self.clock)
        self.failures = Failures() if failures is None else failures
        throttle = Throttle(self.failures, lambda: self.clock)
        self.authenticator = HtpasswdAuthenticator(watched, throttle, self.work, lambda: self.clock)

    def write(self) -> None:
        lines = [f"{name}:{hashed}\n" for name, hashed in self.passwords.items()]
        self.path.write_text("".join(lines))
        self.clock += 1

    async def login(self, name: str, password: str, address: str = ADDRESS) -> str:
        caller = await self.authenticator.authenticate(Basic(name, password), address)
        assert caller.grants is None
        return caller.identity.name

    async def fails(self, name: str, password: str, address: str = ADDRESS) -> str:
        with pytest.raises(Unauthorized) as caught:
            await self.login(name, password, address)
        return caught.value.message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "htpasswd")


async def test_the_right_password_lets_in_and_no_other(place: Place) -> None:
    assert await place.login("alice", "secret") == "alice"
    for name, password in (
        ("alice", "hunter"),
        ("alice", "secret "),
        ("alice", ""),
        ("alice", "secret\0"),
        ("Alice", "secret"),
        ("carol", "secret"),
        ("", ""),
        ("alice:secret", ""),
        ("\N{SNOWMAN}", "\N{SNOWMAN}"),
    ):
        assert "incorrect username or password" in await place.fails(name, password, name)


async def test_a_token_is_not_a_password(place: Place) -> None:
    with pytest.raises(Unauthorized) as caught:
        await place.authenticator.authenticate(Bearer("secret"), ADDRESS)
    assert caught.value.error == "invalid_token"


async def test_a_failure_costs_the_same_whoever_it_is(place: Place) -> None:
    """Rounds are counted, and not seconds, since those depend on who else uses the machine."""
    costs = {}
    for name in ("alice", "bob", "carol", ""):
        place.work.rounds = 0
        await place.fails(name, "wrong", f"address of {name}")
        costs[name] = place.work.rounds

    assert set(costs.values()) == {2**6}


async def test_what_was_right_is_not_computed_again_for_a_while(place: Place) -> None:
    for _ in range(3):
        await place.login("alice", "secret")
    assert place.work.calls == 1

    place.clock += KEPT_SECONDS + 1
    await place.login("alice", "secret")
    assert place.work.calls == 2


async def test_what_is_remembered_is_no_password(place: Place) -> None:
    await place.login("alice", "secret")

    remembered = repr(place.authenticator._right._values).encode()
    shared = place.failures.descriptor
    assert b"secret" not in remembered + os.pread(shared, os.fstat(shared).st_size, 0)


async def test_what_was_wrong_is_no_guess_when_it_is_shown_again(place: Place) -> None:
    for _ in range(10 * FREE_WITH_NAME):
        await place.fails("alice", "stale")
        await place.fails("carol", "stale")

    assert place.work.rounds == 2 * 2**6
    assert await place.login("alice", "secret") == "alice"


async def test_what_was_wrong_may_be_right_later(place: Place) -> None:
    await place.fails("alice", "later")
    place.passwords["alice"] = hash_password("later", 4)
    place.write()

    assert await place.login("alice", "later") == "alice"


async def test_another_password_in_the_file_counts_at_once(place: Place) -> None:
    before = place.authenticator.mark("alice")
    await place.login("alice", "secret")
    place.passwords["alice"] = hash_password("new", 4)
    place.write()

    await place.fails("alice", "secret")
    assert await place.login("alice", "new") == "alice"
    assert place.authenticator.mark("alice") not in (before, None)
    assert place.authenticator.mark("bob") is not None

    del place.passwords["alice"]
    place.write()
    await place.fails("alice", "new")
    assert place.authenticator.mark("alice") is None


async def test_many_who_show_the_same_at_once_are_computed_once(place: Place) -> None:
    names = await asyncio.gather(*(place.login("alice", "secret") for _ in range(50)))

    assert names == ["alice"] * 50
    assert place.work.calls == 1


async def test_many_who_show_the_same_wrong_thing_at_once_are_one_try(place: Place) -> None:
    results = await asyncio.gather(
        *(place.login("alice", "wrong") for _ in range(50)), return_exceptions=True
    )

    assert {type(result) for result in results} == {Unauthorized}
    assert "incorrect" in await place.fails("alice", "again")


async def test_only_so_many_wait(place: Place) -> None:
    place.work.is_open.clear()
    waiting = [
        asyncio.create_task(place.login(f"user{number}", "x", f"198.51.100.{number}"))
        for number in range(MOST_WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await place.login("alice", "secret")

    place.work.is_open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {Unauthorized}
    assert await place.login("alice", "secret") == "alice"


async def test_one_address_leaves_places_to_others(place: Place) -> None:
    place.work.is_open.clear()
    waiting = [
        # Of one network, as whoever has it may take any address in it.
        asyncio.create_task(place.login(f"user{number}", "x", f"2001:db8::{number:x}"))
        for number in range(MOST_WAITING)
    ]
    await asyncio.sleep(0)
    other = asyncio.create_task(place.login("alice", "secret"))
    await asyncio.sleep(0)
    place.work.is_open.set()

    assert await other == "alice"
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [
        *[Unauthorized] * MOST_FROM_ADDRESS,
        *[TooManyRequests] * (MOST_WAITING - MOST_FROM_ADDRESS),
    ]


async def test_one_who_goes_away_while_waiting_does_not_disturb_the_others(place: Place) -> None:
    place.work.is_open.clear()
    first = asyncio.create_task(place.login("alice", "secret"))
    second = asyncio.create_task(place.login("alice", "secret"))
    await asyncio.sleep(0)
    first.cancel()
    place.work.is_open.set()

    assert await second == "alice"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_guessing_is_slowed_down_and_whoever_has_logged_in_lately_is_not(
    place: Place,
) -> None:
    await place.login("alice", "secret")
    for number in range(FREE_WITH_NAME):
        await place.fails("alice", f"guess{number}")

    with pytest.raises(TooManyRequests) as caught:
        await place.login("alice", "guess")
    assert caught.value.retry_after == 1
    # The same address and the same name: a machine whose stale secret is shown beside a good one.
    assert await place.login("alice", "secret") == "alice"
    assert await place.login("bob", "hunter") == "bob"
    assert await place.login("alice", "secret", "192.0.2.2") == "alice"


async def test_a_guesser_elsewhere_does_not_learn_what_has_let_somebody_in(place: Place) -> None:
    await place.login("alice", "secret")
    for number in range(FREE_WITH_NAME):
        await place.fails("alice", f"guess{number}", ELSEWHERE)

    for password in ("guess", "secret"):
        with pytest.raises(TooManyRequests):
            await place.login("alice", password, ELSEWHERE)
    assert await place.login("alice", "secret") == "alice"


async def test_a_guesser_at_the_same_address_learns_it_from_few_guesses_only(place: Place) -> None:
    await place.login("alice", "secret")
    for number in range(FREE_WITH_NAME):
        await place.fails("alice", f"guess{number}")

    for number in range(MOST_REFUSED):
        assert await place.login("alice", "secret") == "alice"
        with pytest.raises(TooManyRequests):
            await place.login("alice", f"more{number}")
    with pytest.raises(TooManyRequests):
        await place.login("alice", "secret")
    # It comes to nothing for whoever is not guessed at.
    assert await place.login("bob", "hunter") == "bob"


def workers(path: Path) -> tuple[Place, Place]:
    """Two processes with the same file of passwords."""
    failures = Failures()
    here, there = (Place(path, failures) for _ in range(2))
    here.passwords = there.passwords
    here.write()
    return here, there


async def test_workers_count_guesses_together(tmp_path: Path) -> None:
    here, there = workers(tmp_path / "htpasswd")
    for number in range(FREE_WITH_NAME):
        await (here, there)[number % 2].fails("alice", f"guess{number}")

    for worker in (here, there):
        with pytest.raises(TooManyRequests):
            await worker.login("alice", "guess")
    # What was wrong at one is no guess at the other, and costs nothing.
    before = there.work.calls
    await there.fails("alice", "guess0")
    assert there.work.calls == before


async def test_who_has_logged_in_at_one_worker_is_known_to_the_others(tmp_path: Path) -> None:
    here, there = workers(tmp_path / "htpasswd")
    await here.login("alice", "secret")
    for number in range(FREE_FROM_ADDRESS):
        await here.fails(f"user{number}", "guess")

    with pytest.raises(TooManyRequests):
        await there.login("bob", "hunter")
    assert await there.login("alice", "secret") == "alice"
    # It is not taken from there as right, but computed.
    assert there.work.calls == 1


async def test_a_long_password_is_looked_at_as_far_as_bcrypt_does(place: Place) -> None:
    place.passwords["alice"] = hash_password("p" * LONGEST_PASSWORD, 4)
    place.write()

    assert await place.login("alice", "p" * LONGEST_PASSWORD + "and more") == "alice"
    await place.fails("alice", "p" * (LONGEST_PASSWORD - 1))
    with pytest.raises(ValueError, match="72 bytes"):
        hash_password("p" * (LONGEST_PASSWORD + 1))
    with pytest.raises(ValueError, match="72 bytes"):
        hash_password("")


async def test_what_apache_and_others_write_is_read(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    good = hash_password("x", 4)
    found = read_passwords(
        [
            b"# a comment\r\n\r\n"
            b"old:$apr1$salt$hash\n"
            b"sha:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=\n"
            + f"apache:{good.replace('$2b$', '$2y$')}\r\n".encode()
            + f"twice:{good}\ntwice:{hash_password('y', 4)}\n".encode()
            + f"gone:{good}\ngone:x\n".encode()
            + f"j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen:{good}".encode()
        ]
    )

    assert list(found.hashes) == ["apache", "twice", "j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen"]
    assert bcrypt.checkpw(b"y", found.hashes["twice"])
    assert bcrypt.checkpw(b"x", found.hashes["apache"])
    assert sum("is not bcrypt" in record.message for record in caplog.records) == 3
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert "$apr1$" not in caplog.text


@pytest.mark.parametrize("start", ["$2b$99$", "$2b$03$", "$2b$04$" + "." * 21 + "x"])
async def test_what_bcrypt_cannot_compute_hinders_nobody_else(place: Place, start: str) -> None:
    place.passwords["carol"] = start + hash_password("x", 4)[len(start) :]
    place.write()

    assert await place.login("alice", "secret") == "alice"
    assert "incorrect" in await place.fails("carol", "x")
    assert "incorrect" in await place.fails("dave", "x")
    assert "incorrect" in await place.fails("alice", "x")


@pytest.mark.parametrize("line", [b"alice", b":hash", b"\xff:hash", b"alice hash"])
async def test_a_line_of_another_form_is_explained(line: bytes) -> None:
    with pytest.raises(FileInvalid, match="line 2 is not NAME:HASH"):
        read_passwords([b"# users\n" + line])


async def test_an_empty_file_lets_nobody_in(place: Place) -> None:
    place.passwords = {}
    place.write()

    await place.fails("alice", "secret")
    assert place.work.rounds == 2**10
