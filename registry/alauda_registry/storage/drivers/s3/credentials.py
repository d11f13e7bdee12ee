"""Who we are to the S3 server: keys that are given, in files, or found as AWS programs find them.

Files are read again when they change, so that a mounted secret can be rotated without a restart.
Everything else (environment, web identity, an instance's role) is botocore's own chain, which
renews what expires. Who gives those may be away for a while: keys that are still good are used on,
and without any the request is tried again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError as NotConnected,
    HTTPClientError,
    MetadataRetrievalError,
    PartialCredentialsError,
)
from typing_extensions import override

from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.drivers.s3.errors import NAME, CredentialsAway, Refused, is_passing
from alauda_registry.storage.drivers.s3.signing import Keys

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_FIND_SECONDS = 10.0
"""How long whoever gives credentials is waited for, with botocore's own tries."""

_KEPT_SECONDS = 5.0
"""How long keys that could not be renewed are used before it is tried again."""

_TROUBLE = (BotoCoreError, ClientError, OSError, TimeoutError)
_ADVICE = (
    "there are no credentials: set storage.s3.accesskey and storage.s3.secretkey, or give this "
    "process a credentials file or a role"
)


class Credentials(Protocol):
    """Gives the keys to sign the next request with.

    Attributes:
        looked: Becomes another number when keys were looked for where that takes a while.
    """

    looked: int = 0

    async def keys(self) -> Keys:
        """Return them.

        Raises:
            CredentialsAway: Whoever gives them does not answer.
            Refused: There are none.
        """
        ...

    def doubt(self, looked: int) -> None:
        """Have them looked for again, since some were refused.

        Args:
            looked: What :attr:`looked` was before those were asked for.
        """
        ...


class GivenKeys(Credentials):
    """Keys that stay as they are."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @override
    async def keys(self) -> Keys:
        return self._keys

    @override
    def doubt(self, looked: int) -> None:
        return


@dataclass(slots=True)
class _Watch:
    """Tells when files have changed, by looking now and then."""

    files: tuple[Path, ...]
    clock: Callable[[], float]
    seen: tuple[tuple[int, int, int], ...] = ()
    looked_at: float = field(default=float("-inf"))

    def is_changed(self) -> bool:
        now = self.clock()
        if now - self.looked_at < _LOOK_SECONDS:
            return False
        self.looked_at = now
        found = tuple(_identity(path) for path in self.files)
        changed, self.seen = found != self.seen, found
        return changed

    def forget(self) -> None:
        self.looked_at, self.seen = float("-inf"), ()


class KeyFiles(Credentials):
    """Keys in files of their own, as Kubernetes mounts the keys of a Secret.

    Args:
        access: The file with the access key.
        secret: The file with the secret key.
        clock: Seconds that only go forward.
    """

    def __init__(
        self, access: Path, secret: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._access = access
        self._secret = secret
        self._watch = _Watch((access, secret), clock)
        self._keys: Keys | None = None

    @override
    async def keys(self) -> Keys:
        if self._watch.is_changed() or self._keys is None:
            try:
                access, secret = self._access.read_text(), self._secret.read_text()
            except (OSError, UnicodeDecodeError) as error:
                if self._keys is None:
                    what = f"a file with credentials can't be read: {error}"
                    raise Refused(what, path="/", code="NO_CREDENTIALS", advice=_ADVICE) from error
            else:
                self._keys = Keys(access.strip(), secret.strip())
        return self._keys

    @override
    def doubt(self, looked: int) -> None:
        self._watch.forget()


async def find(shared_file: Path | None) -> Any:
    """Go through botocore's chain of providers; None when none of them has anything."""
    session = AioSession()
    # Requests are tried again as a whole.
    session.set_default_client_config(
        AioConfig(
            connect_timeout=_ANSWER_SECONDS,
            read_timeout=_ANSWER_SECONDS,
            retries={"total_max_attempts": 1},
        )
    )
    if shared_file is not None:
        session.set_config_variable("credentials_file", str(shared_file))
    with contextlib.suppress(PartialCredentialsError):
        return await session.get_credentials()
    return None


class FoundKeys(Credentials):
    """Whatever botocore's chain of providers gives.

    The last that was found is kept until something else is, and has given keys: a file may be
    looked into while it is written, whoever gives keys may be away, and not every refusal is the
    keys' fault.

    Args:
        shared_file: A file of the form of ``~/.aws/credentials`` that is looked into; None for
            the one that ``AWS_SHARED_CREDENTIALS_FILE`` names, or the usual one.
        clock: Seconds that only go forward.
        find: Goes through the chain.
    """

    def __init__(
        self,
        shared_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        find: Callable[[Path | None], Awaitable[Any]] = find,
    ) -> None:
        usual = Path(AioSession().get_config_variable("credentials_file"))
        self._shared_file = shared_file
        self._clock = clock
        self._watch = _Watch((shared_file or usual.expanduser(),), clock)
        self._find = find
        self._found: Any = None
        self._finding = asyncio.Lock()
        self._is_doubted = True
        self._is_asking = False
        self._asks_again_at = float("-inf")

    @override
    async def keys(self) -> Keys:
        if self._watch.is_changed():
            self._is_doubted = True
        try:
            await self._look()
            if self._found is None:
                # Nobody is told when an environment gets a role.
                self._is_doubted = True
                raise Refused("no credentials", path="/", code="NO_CREDENTIALS", advice=_ADVICE)
            return await self._current()
        except _TROUBLE as error:
            raise _failure(error) from error

    @override
    def doubt(self, looked: int) -> None:
        # Others have been refused and looked since, where it is another number.
        if looked == self.looked:
            self._is_doubted = True

    async def _current(self) -> Keys:
        """Return the keys that were found, renewed where that is due and possible.

        In the last minutes of keys botocore returns none but new ones, and has everybody wait for
        these, one after another. So one request asks for them, and all others use what is good.
        """
        found = self._found
        if (self._is_asking or self._clock() < self._asks_again_at) and (good := _unexpired(found)):
            return good
        self._is_asking = True
        try:
            async with asyncio.timeout(_FIND_SECONDS):
                return _keys_of(await found.get_frozen_credentials())
        except _TROUBLE as error:
            good = _unexpired(found)
            if good is None:
                raise
            self._asks_again_at = self._clock() + _KEPT_SECONDS
            logger.warning("the keys are used to their end, since they can't be renewed: %s", error)
            return good
        finally:
            self._is_asking = False

    async def _look(self) -> None:
        """Look if there is reason to, or wait for whoever does."""
        if not self._is_doubted and not self._finding.locked():
            return
        async with self._finding:
            if not self._is_doubted:
                return
            # Who doubts from here on does not know whether this look was behind what made him.
            self._is_doubted = False
            try:
                async with asyncio.timeout(_FIND_SECONDS):
                    found = await self._find(self._shared_file)
                    if found is not None:
                        # Some find out only now that they get no keys.
                        await found.get_frozen_credentials()
                        self._found = found
            except BaseException as error:
                if self._found is None or not isinstance(error, _TROUBLE):
                    self._is_doubted = True
                    raise
                logger.warning("the keys are kept, since others can't be had now: %s", error)
            self.looked += 1


def _keys_of(frozen: Any) -> Keys:
    return Keys(frozen.access_key, frozen.secret_key, frozen.token)


def _unexpired(found: Any) -> Keys | None:
    """Return the keys that botocore has, as long as they are good; None where they do not end."""
    end, frozen = (getattr(found, name, None) for name in ("_expiry_time", "_frozen_credentials"))
    if end is None or frozen is None or end <= datetime.now(UTC):
        return None
    return _keys_of(frozen)


def _failure(error: Exception) -> DriverError:
    """Return the driver's error for keys that can't be had."""
    what = f"no credentials: {error}"[:256]
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_away = is_passing(status, error.response.get("Error", {}).get("Code", ""))
    else:
        # botocore tells of a container's metadata in an error that has lost its cause.
        is_away = isinstance(error, NotConnected | HTTPClientError | TimeoutError) or isinstance(
            error.__context__, MetadataRetrievalError
        )
    if is_away:
        return CredentialsAway(what, driver=NAME, path="/")
    return Refused(what, path="/", code="NO_CREDENTIALS", advice=_ADVICE)


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
