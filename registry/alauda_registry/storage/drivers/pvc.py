"""A directory on a claim: as on a disk, but only while the claim is there, and never to the brim.

A full file system is more than a failing push: some cannot delete any more when nothing is
free, and what shares the claim fails, too. So a part of it is kept for deletes and collection;
everything that writes looks first whether there is room beyond it.
"""

import errno
import math
import time
from collections.abc import Callable
from pathlib import Path

from typing_extensions import override

from alauda_registry.storage.directory.claims import DRIVER, Claim, NotMounted, default_reserve
from alauda_registry.storage.directory.rooted import RootGone
from alauda_registry.storage.driver import Capacity, OutOfSpace
from alauda_registry.storage.drivers.filesystem import FilesystemDriver, capacity_of

_MEASURE_SECONDS = 0.1


class PVCDriver(FilesystemDriver):
    """Keeps files in a directory of a mounted claim.

    Args:
        root: The directory: where the claim is mounted, or one below, made when it is missing.
        claim: What has to be mounted.
        reserve: From the size to what is kept for deletes, both in bytes.
        threads: As of :class:`FilesystemDriver`.
        read_only: As of :class:`FilesystemDriver`.
        volume: As of :class:`FilesystemDriver`.
        clock: Seconds that only go forward.

    Raises:
        NotMounted: The claim is not there; nothing was made.
        OSError: As of :class:`FilesystemDriver`.
    """

    def __init__(
        self,
        root: Path,
        claim: Claim,
        *,
        reserve: Callable[[int], int] = default_reserve,
        threads: int = 16,
        read_only: bool = False,
        volume: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claim = claim
        self._reserve = reserve
        self._clock = clock
        # What may be written without asking anew, and since when.
        self._spare = 0
        self._measured_at = 0.0
        with claim.opened():
            try:
                super().__init__(
                    root,
                    threads=threads,
                    read_only=read_only,
                    name=DRIVER,
                    advice=claim.advice,
                    volume=volume,
                )
            except RootGone as gone:
                raise NotMounted(gone.strerror or "", path=str(root)) from gone

    @override
    def _accept(self, root: int) -> None:
        try:
            self._claim.require_mounted(root)
        except NotMounted as error:
            raise RootGone(errno.ENODEV, error.reason, error.path) from error

    @override
    def _require_room(self, path: str, length: int) -> None:
        """Refuse to write what would eat into the reserve.

        Asking takes a microsecond on a disk, and a message to a server on a network. So an
        answer counts for a tenth of a second, as long as what is written leaves as much again
        as is reserved; closer to the reserve each write asks. Writers in other processes do not
        know of one another: together they may overshoot by what each is just writing, which
        is at most a mebibyte or a manifest for each request under way.
        """
        now = self._clock()
        if length <= self._spare and now - self._measured_at < _MEASURE_SECONDS:
            self._spare -= length
            return
        self._spare = 0
        try:
            status = self._root.statvfs()
        except OSError as error:
            raise self._as_driver_error(error, path) from error
        # Some count no inodes, and say that they have none at all.
        has_inodes = status.f_favail != 0 or status.f_files == 0
        capacity = capacity_of(status, self._reserve)
        room = math.inf if capacity is None else capacity.free - capacity.reserved
        if length > room or not has_inodes:
            raise OutOfSpace(driver=self._name, path=path, advice=self._claim.advice)
        if capacity is not None:
            self._spare = capacity.free - 2 * capacity.reserved - length
            self._measured_at = now

    @override
    def _measure(self) -> Capacity | None:
        return capacity_of(self._root.statvfs(), self._reserve)

    @override
    def _check(self, write: bool) -> None:
        try:
            super()._check(write)
        finally:
            # What went wrong there may be for this reason, which says more.
            self._claim.require_mounted(self._root.fileno())
        if write:
            self._spare = 0
            self._require_room("/", 1)
