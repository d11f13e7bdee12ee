"""Users with passwords in a file of Apache's ``htpasswd``, as distribution reads it: bcrypt only.

Whether there is a user of a name must not show in how long the answer takes. So a password is
compared with something in any case, and after a failure as much more is computed as the most
expensive password of the file would have taken.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import bcrypt
from typing_extensions import override

from alauda_registry.auth.authenticator import Authenticator, Basic, Caller, Credentials, Identity
from alauda_registry.auth.caches import Kept
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.service import Accounts
from alauda_registry.auth.throttle import Throttle, network_of
from alauda_registry.oci.errors import TooManyRequests, Unauthorized

logger = logging.getLogger(__name__)

LONGEST_PASSWORD = 72
"""Bytes that bcrypt looks at; distribution and Apache ignore the rest, and so does the check."""

USUAL_COST = 10
"""Of new passwords: 2 to this many rounds; what Go's and Apache's users know. About 50 ms."""

KEPT_SECONDS = 600.0
"""What has been computed is not computed again for this long, unless the file has changed. Nodes
show the same secret over and over, a stale one, too, which is no guessing."""

KEPT_PASSWORDS = 1024
MOST_WAITING = 64
"""Passwords that wait to be computed; more are refused with 429."""

MOST_FROM_ADDRESS = 32
"""Of them from one address, which is before any of them has failed and is slowed down."""

_Known: TypeAlias = tuple[bytes, float]
"""What the file had, and until when this is remembered."""

_BCRYPT = re.compile(
    # Costs that there are, and a salt of 128 bits, whose last character has only two of them:
    # bcrypt raises an error for others, and not only for their user.
    rb"\$2[aby]\$(?:0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}"
)
_WRONG = "incorrect username or password: check both and log in again"


@dataclass(frozen=True)
class Passwords:
    """What is in the file.

    Args:
        hashes: By name.
    """

    hashes: Mapping[str, bytes]

    @cached_property
    def highest_cost(self) -> int:
        """Of the passwords in the file."""
        return max(map(_cost, self.hashes.values()), default=USUAL_COST)

    @cached_property
    def marks(self) -> Mapping[str, str]:
        """By name, what changes with the password and tells nothing about it."""
        return {
            name: hashlib.sha256(name.encode() + b"\0" + found).hexdigest()[:16]
            for name, found in self.hashes.items()
        }


def read_passwords(contents: Sequence[bytes]) -> Passwords:
    """Read files of lines ``name:hash``; of two lines for a name the last one counts.

    Raises:
        FileInvalid: A line is not of this form.
    """
    hashes = {}
    for number, line in enumerate(b"\n".join(contents).split(b"\n"), start=1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, colon, hashed = line.partition(b":")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = ""
        if not colon or not text:
            raise FileInvalid(f"auth.htpasswd.path: line {number} is not NAME:HASH")
        if _BCRYPT.fullmatch(hashed):
            hashes[text] = hashed
        else:
            hashes.pop(text, None)
            logger.warning(
                "auth.htpasswd.path: %s cannot log in: the password in line %d is not bcrypt; set "
                "it again with image-registry htpasswd add",
                text,
                number,
            )
    return Passwords(hashes)


def hash_password(password: str, cost: int = USUAL_COST) -> str:
    """Return what the file has for a password.

    Raises:
        ValueError: It is empty or too long.
    """
    encoded = password.encode()
    if not encoded or len(encoded) > LONGEST_PASSWORD:
        raise ValueError(f"a password has between 1 and {LONGEST_PASSWORD} bytes")
    return bcrypt.hashpw(encoded, bcrypt.gensalt(cost)).decode()


class HtpasswdAuthenticator(Authenticator, Accounts):
    """Knows the users of a file.

    Args:
        passwords: The file.
        throttle: Slows down guessing.
        check: Compares a password with a hash; takes as long as the hash wants.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        passwords: Watched[Passwords],
        throttle: Throttle,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._passwords = passwords
        self._throttle = throttle
        self._check = check
        self._now = now
        self._right: Kept[bytes, _Known] = Kept(KEPT_PASSWORDS)
        self._running: dict[tuple[str, bytes], asyncio.Task[None]] = {}
        # bcrypt computes outside of the interpreter's lock; one core is left for requests.
        cores = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(max(1, min(cores - 1, 4)), "bcrypt")

    @override
    def mark(self, name: str) -> str | None:
        return self._passwords.current.marks.get(name)

    @property
    @override
    def marks_known_until(self) -> float:
        return self._passwords.known_until

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        """Return whose name and password these are."""
        if not isinstance(credentials, Basic):
            raise Unauthorized("the token is not good: get a new one", error="invalid_token")
        name, network = credentials.username, network_of(address)
        shown = self._throttle.mark(
            name.encode("utf-8", "surrogateescape"),
            credentials.password.encode("utf-8", "surrogateescape"),
        )
        caller = Caller(Identity(name))
        hashed = self._passwords.current.hashes.get(name, b"")
        is_known_there = self._throttle.knows(address, name, self._there(shown, hashed, network))
        if self._is_right(shown, hashed):
            # Whoever guesses must not learn it from this either.
            if not is_known_there:
                self._throttle.require_open(address, name)
            self._throttle.let_in(address, name, self._there(shown, hashed, network))
            return replace(caller, known_until=self._passwords.known_until)
        if self._throttle.outcome(self._throttle.mark(shown, hashed)) is False:
            raise Unauthorized(_WRONG)
        # Clients ask for many things at once. Whoever shows the same meanwhile waits for the same
        # answer, and counts as one try.
        task = self._running.get((network, shown))
        if task is None:
            from_there = sum(other == network for other, _ in self._running)
            if len(self._running) >= MOST_WAITING or from_there >= MOST_FROM_ADDRESS:
                raise TooManyRequests("too many logins at once: try again", retry_after=2)
            if not is_known_there:
                self._throttle.begin(address, name)
            task = asyncio.create_task(self._find_out(credentials, shown, address))
            self._running[network, shown] = task
            task.add_done_callback(lambda done: self._finish((network, shown), done))
        await asyncio.shield(task)
        return caller

    def close(self) -> None:
        """End the threads when they have done what they are at; nobody waits for it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _there(self, shown: bytes, hashed: bytes, network: str) -> bytes:
        """Stand for a password where somebody shows it, as long as the file has the same."""
        return self._throttle.mark(shown, hashed, network.encode())

    def _is_right(self, shown: bytes, hashed: bytes) -> bool:
        found = self._right.get(shown)
        return found is not None and found[0] == hashed and self._now() < found[1]

    async def _find_out(self, credentials: Basic, shown: bytes, address: str) -> None:
        name = credentials.username
        password = credentials.password.encode("utf-8", "surrogateescape")
        passwords = self._passwords.current
        hashed = passwords.hashes.get(name, b"")
        is_right = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._compute, password, hashed, passwords.highest_cost
        )
        if not is_right:
            self._throttle.failed(address)
            self._throttle.remember(self._throttle.mark(shown, hashed), is_right=False)
            raise Unauthorized(_WRONG)
        self._throttle.succeeded(address, name)
        self._throttle.let_in(address, name, self._there(shown, hashed, network_of(address)))
        self._right.put(shown, (hashed, self._now() + KEPT_SECONDS))

    def _compute(self, password: bytes, hashed: bytes, highest: int) -> bool:
        """Compare, and after a failure compute until it has taken as long as it can."""
        password = password[:LONGEST_PASSWORD]
        if hashed:
            if self._check(password, hashed):
                return True
            # 2^c + 2^c + 2^(c+1) + … + 2^(h-1) = 2^h
            for cost in range(_cost(hashed), highest):
                self._check(password, _dummy(cost))
        else:
            self._check(password, _dummy(highest))
        return False

    def _finish(self, key: tuple[str, bytes], done: "asyncio.Task[None]") -> None:
        self._running.pop(key, None)
        if not done.cancelled():
            # Looked at, even if whoever waited for it has gone.
            done.exception()


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _dummy(cost: int) -> bytes:
    """A hash that no password has: what bcrypt makes never ends like this."""
    return b"$2b$%02d$" % cost + b"." * 52 + b"/"
