"""Whether the root is still there: noticed, waited for, and followed when it comes back.

While the volume is away nothing is written any more, not even through descriptors that still
lead to it. When it is back it is opened again, and what had begun before that fails: part of it
may have reached the disk through the one descriptor and part through the other, and locks
that were held on the old one may hold off nobody.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from alauda_registry.storage.directory.rooted import UNANSWERED, RootedDirectory, RootGone
from alauda_registry.storage.driver import DriverError, Unreachable
from alauda_registry.storage.threads import run_blocking

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""How often requests may look for a root that is away; the check of storage looks, too."""

_RECENT_SECONDS = 10.0


class Attachment:
    """Keeps a driver to its volume.

    Args:
        root: The volume's directory.
        driver: The driver's name.
        checker: Looks for the root, so that nobody else waits for a dead one.
        forget: Makes the driver forget what it knows of the volume.

    Attributes:
        spoilt: Files whose bytes no disk may have, because syncing them failed.
    """

    def __init__(
        self, root: RootedDirectory, driver: str, checker: Executor, forget: Callable[[], object]
    ) -> None:
        self._root = root
        self._driver = driver
        self._checker = checker
        self._forget = forget
        self.spoilt: set[str] = set()
        self._missing: RootGone | None = None
        self._is_looking = False
        self._looked_at = float("-inf")
        self._moved_at = float("-inf")
        self._writers: dict[str, set[Hold]] = {}

    def look(self) -> None:
        """See whether the root is where it was, and follow it. Blocks.

        Raises:
            OSError: It can't be told.
            RootGone: It is away.
        """
        self._looked_at = time.monotonic()
        try:
            has_moved = self._root.reopen(self._forget)
        except RootGone as gone:
            if self._missing is None:
                logger.error("%s: %s", self._root.path, gone.strerror)  # noqa: TRY400,RUF100 -- no traceback needed
            self._missing = gone
            raise
        if has_moved:
            self._moved_at = time.monotonic()
        if has_moved or self._missing is not None:
            logger.warning("%s: the root is back, and service resumes", self._root.path)
        self._missing = None

    async def require(self, path: str) -> None:
        """Let nobody begin to write while the root is away.

        Raises:
            Unreachable: It is.
        """
        if self._missing is not None:
            await self._look_soon(path)

    async def notice(self, error: OSError, path: str) -> bool:
        """See whether an error means that the root is away.

        Returns:
            Whether what failed may succeed now: the root was followed a moment ago.

        Raises:
            Unreachable: It is away.
        """
        if error.errno not in UNANSWERED and self._root.is_same():
            return False
        await self._look_soon(path)
        if not self._root.is_same():
            raise Unreachable("the root directory is gone", driver=self._driver, path=path)
        return time.monotonic() - self._moved_at < _RECENT_SECONDS

    @contextmanager
    def unbroken(self, path: str) -> Iterator[None]:
        """Do something that must not be done half before and half after the root has moved.

        Raises:
            Unreachable: It moved meanwhile, or a lock that is held is one of before.
        """
        generation = self._root.generation
        if generation % 2 or any(lock.generation != generation for lock in _HELD.get()):
            raise self._moved(path)
        yield
        if self._root.generation != generation:
            raise self._moved(path)

    @contextmanager
    def held(self, generation: int) -> Iterator[None]:
        """Hold a lock that this task took in this generation of the root."""
        lock = _Lock(generation)
        _HELD.set((*_HELD.get(), lock))
        try:
            yield
        finally:
            _HELD.set(tuple(held for held in _HELD.get() if held is not lock))

    def begin_writing(self, path: str, generation: int) -> "Hold":
        """Note that a file is open for appending since this generation of the root."""
        hold = Hold(self, path, generation)
        self._writers.setdefault(path, set()).add(hold)
        return hold

    def end_writing(self, hold: "Hold") -> None:
        """Note that a file is not open for appending any more."""
        holds = self._writers[hold.path]
        holds.discard(hold)
        if not holds:
            del self._writers[hold.path]

    def require_written_here(self, path: str) -> None:
        """Let no bytes be relied on that were written before the root has moved.

        Raises:
            Unreachable: They were, to a file that is open for appending.
        """
        # More than one has it open when the root has moved between them.
        for hold in self._writers.get(path, ()):
            hold.require()

    def require_same(self, generation: int, path: str) -> None:
        """Let nothing be used that was opened before the root has moved.

        Raises:
            Unreachable: This was; what was written to it may be gone.
        """
        if self._root.generation != generation:
            error = self._moved(path)
            error.loses_bytes = True
            raise error

    def forget_spoilt(self, deleted: str) -> None:
        """Forget the spoilt files at and below a path, as they are deleted."""
        gone = {path for path in self.spoilt if f"{path}/".startswith(f"{deleted}/")}
        self.spoilt -= gone

    async def _look_soon(self, path: str) -> None:
        """Look for the root unless somebody just did."""
        if not self._is_looking and time.monotonic() - self._looked_at >= _LOOK_SECONDS:
            self._is_looking = True
            try:
                await run_blocking(self._checker, self.look)
            except OSError as error:
                logger.debug("the root was looked for: %s", error)
            finally:
                self._is_looking = False
        if self._missing is not None:
            raise Unreachable(self._missing.strerror or "", driver=self._driver, path=path)

    def _moved(self, path: str) -> DriverError:
        reason = "the root was mounted again meanwhile; try again"
        return Unreachable(reason, driver=self._driver, path=path)


@dataclass(frozen=True, slots=True, eq=False)
class _Lock:
    """A lock that is held, and since which generation of the root."""

    generation: int


_HELD: ContextVar[tuple[_Lock, ...]] = ContextVar("held", default=())
"""The locks that the running task holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """That a file is open for appending, and since which generation of the root."""

    attachment: Attachment
    path: str
    generation: int

    def require(self) -> None:
        """See whether the file may still be used.

        Raises:
            Unreachable: The root has moved since; what was written may be gone.
        """
        self.attachment.require_same(self.generation, self.path)

    def spoil(self) -> None:
        """Note that syncing the file failed: nobody may rely on its bytes any more."""
        self.attachment.spoilt.add(self.path)

    def end(self) -> None:
        """Let go of the file."""
        self.attachment.end_writing(self)
