"""A directory that no path can lead out of.

Every file is opened relative to the root's descriptor with ``openat2(2)`` and
``RESOLVE_BENEATH`` and ``RESOLVE_NO_SYMLINKS``: no path leads out, and symbolic links that
somebody left in the tree are not followed at all. Everything else is done relative to the
descriptor of the parent directory. All functions block; the driver
decides which of them it calls in a thread.

The root is a volume with an identity of its own, a random word in a file. When the volume was
unmounted and mounted again, the root's descriptor leads to where nothing is any more, and
:meth:`RootedDirectory.reopen` follows it, but only to a directory that has the same word in
it: the empty folder below a mount point, or another volume, does not.

A file server may tell of handles that are stale because somebody else replaced what they
stood for, and may lose the answer to what it has done. What is safe to do again is done again
from the root, a few times.
"""

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from alauda_registry.storage.directory.mounts import mount_number

_SYS_OPENAT2 = 437
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_TRIES = 8
_STALE_TRIES = 3
_BUSY_TRIES = 1000
"""How often the kernel may ask to resolve a path again; each takes microseconds."""

_OBSTACLES = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ELOOP, errno.EXDEV, errno.ENXIO}
)

_SCRATCH = "/_driver/scratch"
"""Files that nobody shall see yet, and folders that nobody shall see any more."""

LOCKS = "/_driver/locks"
"""The file whose bytes stand for the named locks."""

_VOLUME = "/_driver/volume"
"""The word that tells a volume from all others."""

UNANSWERED = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EREMOTEIO),
    }
)
"""What a file system answers that is not there any more, among others."""

_AWAY = UNANSWERED | {errno.ENOENT, errno.ENOTDIR}
_SCRATCH_MAXIMUM_AGE = 24 * 3600.0
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMLINK})
_NO_LINKS = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES}
)

P = ParamSpec("P")
T = TypeVar("T")

_syscall = ctypes.CDLL(None, use_errno=True).syscall


def _again_when_stale(function: Callable[P, T]) -> Callable[P, T]:
    """Call a function again, which begins at the root, when it came upon a stale handle."""

    @functools.wraps(function)
    def persistent(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_STALE_TRIES - 1):
            try:
                return function(*args, **kwargs)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return function(*args, **kwargs)

    return persistent


def make_root(root: Path) -> None:
    """Make a directory and those above it that are missing, and all of them durable.

    Raises:
        OSError: It can't be made.
    """
    path = root.absolute()
    made = [above for above in path.parents if not above.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # Who made the last one before may have been stopped before this.
    for directory in (path, *made):
        with contextlib.suppress(PermissionError):
            fd = os.open(directory.parent, _DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


class RootGone(OSError):
    """The volume is not at the root's path; ``strerror`` says what is, and what to do."""


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of ``openat2(2)``."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class RootedDirectory:
    """Opens, renames and deletes below one directory, and never beside it.

    Args:
        root: The directory.
        make: Whether it is made, with its parents, when it is missing.
        openat2: Whether to use the system call of that name where the kernel has it.
        volume: The identity that it must have; it is not made then.
        accept: Given the descriptor of what is at the root's path, before that is used, now and
            whenever the root is opened again; raises :class:`RootGone` when it must not be.

    Attributes:
        path: Where it is.
        volume: Its identity; None when it has none yet, and then it is not followed.
        generation: Grows whenever the root is opened again; odd while that is going on.

    Raises:
        OSError: The directory can't be made or opened, or is another one.
    """

    def __init__(
        self,
        root: Path,
        *,
        make: bool = True,
        openat2: bool = True,
        volume: str | None = None,
        accept: Callable[[int], object] = lambda fd: None,
    ) -> None:
        self.path = root
        self.volume = volume
        self.generation = 0
        self._accept = accept
        if volume is None:
            if make:
                make_root(root)
            self._fd = os.open(root, _DIRECTORY)
            try:
                accept(self._fd)
                self.volume = _read_volume(self._fd)
            except OSError:
                os.close(self._fd)
                raise
        else:
            self._fd = self._open_same()
        self._how: dict[int, _OpenHow] = {}
        self._has_openat2 = openat2
        try:
            os.close(self.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except OSError:
            # Before Linux 5.6, and in sandboxes that do not know the call.
            self._has_openat2 = False

    def close(self) -> None:
        """Release the root. Closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor of the root itself, which stays the root's."""
        return self._fd

    def is_same(self) -> bool:
        """Tell whether the root's path still leads to the directory that was opened."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def reopen(self, forget: Callable[[], object]) -> bool:
        """Follow the volume to where it is mounted now, and tell whether it had moved.

        Nothing is written, and nothing is made.

        Args:
            forget: Called while nobody may rely on what is known of the volume.

        Raises:
            OSError: The root's path can't be opened.
            RootGone: The volume is not there.
        """
        with self._opened_at_path() as fd:
            if self._leads_to(fd):
                return False
        fd = self._open_same()
        self.generation += 1
        try:
            forget()
            # The descriptor's number stays, since others use it at this moment.
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            self.generation += 1
            os.close(fd)
        return True

    @contextlib.contextmanager
    def _opened_at_path(self) -> Iterator[int]:
        """Open whatever directory the root's path leads to, for as long as the block runs."""
        try:
            fd = os.open(self.path, _DIRECTORY)
        except OSError as error:
            raise _gone(self.path, error) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _leads_to(self, fd: int) -> bool:
        """Tell whether the root is open where it is mounted now, and answers."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(".", dir_fd=self._fd)) and (
                mount_number(fd) == mount_number(self._fd)
            )
        except OSError:
            return False

    def _open_same(self) -> int:
        """Open the directory at the root's path if it is the volume we know."""
        with self._opened_at_path() as fd:
            try:
                found = _read_volume(fd)
            except OSError as error:
                raise _gone(self.path, error) from error
            if self.volume is not None and found == self.volume:
                self._accept(fd)
                return os.dup(fd)
        what = "mount the volume there again, and service resumes by itself"
        if self.volume is None:
            what = "restart when the right one is there"
        reason = f"another directory is where the root was, and nothing is written to it; {what}"
        raise RootGone(errno.ENODEV, reason, str(self.path))

    def statvfs(self) -> os.statvfs_result:
        """Return what is known of the file system that the root is on.

        Raises:
            OSError: It does not answer.
        """
        return os.statvfs(self._fd)

    def open(self, path: str, flags: int) -> int:
        """Open a path below the root and return its descriptor.

        Raises:
            OSError: As ``open(2)``; ``EXDEV`` when the path would leave the root.
        """
        if not self._has_openat2:
            return self._open_stepwise(path, flags)
        how = self._how.get(flags)
        if how is None:
            mode = 0o666 if flags & os.O_CREAT else 0
            how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE)
            self._how[flags] = how
        relative = os.fsencode(path[1:] or ".")
        tries = 0
        while True:
            fd: int = _syscall(_SYS_OPENAT2, self._fd, relative, ctypes.byref(how), 24)
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            tries += 1
            # A rename elsewhere while the kernel resolved the path; it asks to try again.
            is_asked = code in (errno.EAGAIN, errno.EINTR) and tries < _BUSY_TRIES
            # Replaced on a file server by somebody else.
            is_stale = code == errno.ESTALE and tries < _STALE_TRIES
            if not (is_asked or is_stale):
                raise OSError(code, os.strerror(code), path)

    @_again_when_stale
    def _open_stepwise(self, path: str, flags: int) -> int:
        """Open a path one component at a time, following no symbolic link at all."""
        *folders, name = path[1:].split("/")
        fd = os.dup(self._fd)
        try:
            for folder in folders:
                below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            return os.open(name or ".", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=fd)
        finally:
            os.close(fd)

    def is_at(self, path: str, fd: int) -> bool:
        """Tell whether a path leads to the file or directory that is open by a descriptor."""
        try:
            found = self.open(path, os.O_PATH)
        except OSError:
            return False
        try:
            return os.path.samestat(os.fstat(found), os.fstat(fd))
        finally:
            os.close(found)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open a directory below the root for as long as the block runs."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int) -> int:
        """Open a file for writing, making its directories when they are missing."""
        if not flags & os.O_CREAT:
            return self.open(path, flags)
        with _telling_what_is_in_the_way(path):
            for _ in range(_TRIES):
                try:
                    return self.open(path, flags)
                except FileNotFoundError:
                    self.make_directory(_parent(path))
            raise _in_the_way(path)

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it, whoever else is making them."""
        parent, name = _split(path)
        for _ in range(_TRIES):
            try:
                with self.directory(parent) as fd:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=fd)
                    return
            except OSError as error:
                if error.errno == errno.ESTALE:
                    continue
                if error.errno != errno.ENOENT or parent == "/":
                    raise
                self.make_directory(parent)
        raise _in_the_way(path)

    @_again_when_stale
    def rename(self, source: str, target: str) -> None:
        """Rename a file, making the target's directory."""
        source_parent, source_name = _split(source)
        target_parent, target_name = _split(target)
        with self.directory(source_parent) as source_fd, _telling_what_is_in_the_way(target):
            moved = os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
            for _ in range(_TRIES):
                try:
                    with self.directory(target_parent) as target_fd:
                        _rename(source_name, source_fd, target_name, target_fd, moved)
                        return
                except FileNotFoundError:
                    os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
                    self.make_directory(target_parent)
            raise _in_the_way(target_parent)

    def remove(self, path: str, *, durable: bool) -> None:
        """Delete a file or a whole directory, which vanishes at once.

        A directory is first renamed out of the tree: nobody sees it half deleted, and
        a crash leaves scratch that :meth:`sweep_scratch` removes. Where there is no room for
        that, on a full disk, it is taken apart in its place.
        """
        fd, cleanup = self._take_away(*_split(path))
        with cleanup:
            if durable:
                os.fsync(fd)

    @_again_when_stale
    def _take_away(self, parent: str, name: str) -> tuple[int, contextlib.ExitStack]:
        """Remove a name, and return the directory it was in and what is left to do then."""
        with contextlib.ExitStack() as cleanup:
            fd = cleanup.enter_context(self.directory(parent))
            try:
                os.unlink(name, dir_fd=fd)
            except IsADirectoryError:
                self._take_directory_away(fd, name, cleanup)
            return fd, cleanup.pop_all()

    def _take_directory_away(self, fd: int, name: str, cleanup: contextlib.ExitStack) -> None:
        doomed = secrets.token_hex(12)
        try:
            # Missing where the volume was read-only when it was opened.
            self.make_directory(_SCRATCH)
            scratch = cleanup.enter_context(self.directory(_SCRATCH))
            moved = os.stat(name, dir_fd=fd, follow_symlinks=False)
            _rename(name, fd, doomed, scratch, moved)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _take_apart(fd, name)
        else:
            cleanup.callback(_take_apart_if_possible, scratch, doomed)

    def scratch_path(self) -> str:
        """Return a new name in the folder for files that nobody shall see yet."""
        return f"{_SCRATCH}/{secrets.token_hex(12)}"

    def prepare(self) -> None:
        """Make the driver's own files and remove scratch that a crash left behind.

        Raises:
            OSError: They can't be made, or a folder below the root is not on the root's file
                system: files could not be renamed into it.
        """
        device = os.fstat(self._fd).st_dev
        with self.directory("/") as fd, os.scandir(fd) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    # Snapshots and the like, which belong to the file system.
                    continue
                try:
                    is_elsewhere = entry.stat().st_dev != device
                except FileNotFoundError:
                    continue
                if is_elsewhere or entry.is_symlink():
                    reason = "is on another file system or leads out of the root: mount the root"
                    where = f"{self.path}/{entry.name}"
                    raise OSError(errno.EXDEV, f"{reason} itself there", where)
        self.make_directory(_SCRATCH)
        os.close(self.open_file(LOCKS, os.O_RDWR | os.O_CREAT))
        self.sweep_scratch()
        self.identify()

    def identify(self) -> None:
        """Give the volume its identity if it has none yet, once and for all.

        Raises:
            OSError: It can't be written down.
        """
        if self.volume is not None:
            return
        temporary = self.scratch_path()
        fd = self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            os.pwrite(fd, f"{secrets.token_hex(16)}\n".encode(), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        scratch, name = _split(temporary)
        parent, volume = _split(_VOLUME)
        with self.directory(scratch) as scratch_fd, self.directory(parent) as parent_fd:
            try:
                # Unlike a rename, this leaves another process its word.
                os.link(name, volume, src_dir_fd=scratch_fd, dst_dir_fd=parent_fd)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
            finally:
                os.unlink(name, dir_fd=scratch_fd)
            os.fsync(parent_fd)
        with self.directory("/") as fd:
            os.fsync(fd)
        self.volume = _read_volume(self._fd)

    def sweep_scratch(self) -> None:
        """Remove scratch files and folders that nobody can still be working on."""
        horizon = time.time() - _SCRATCH_MAXIMUM_AGE
        with self.directory(_SCRATCH) as fd, os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_mtime > horizon:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        _take_apart_if_possible(fd, entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=fd)


@contextlib.contextmanager
def _telling_what_is_in_the_way(path: str) -> Iterator[None]:
    """Let no error about the way to a new file pass for the absence of an old one."""
    try:
        yield
    except OSError as error:
        if error.errno in _OBSTACLES:
            raise _in_the_way(path) from error
        raise


def _rename(name: str, fd: int, target: str, target_fd: int, moved: os.stat_result) -> None:
    """Rename what has this status; a file server may have done so, and its answer been lost."""
    try:
        os.rename(name, target, src_dir_fd=fd, dst_dir_fd=target_fd)
    except FileNotFoundError:
        try:
            there = os.stat(target, dir_fd=target_fd, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, moved):
            raise


@_again_when_stale
def _take_apart(fd: int, name: str) -> None:
    """Remove a directory and everything in it in byte order.

    So what makes the rest count goes first: a tag's ``current``, an upload's ``data``, a
    ``link``. What others remove meanwhile, or a file server keeps until it is closed, is no
    obstacle.
    """
    below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
    try:
        with os.scandir(below) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for child, is_directory in found:
            with contextlib.suppress(FileNotFoundError):
                if is_directory:
                    _take_apart(below, child)
                else:
                    os.unlink(child, dir_fd=below)
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            # It stays for a while, but what was in it does not come back.
            os.fsync(below)
    finally:
        os.close(below)


def _take_apart_if_possible(fd: int, name: str) -> None:
    """Remove a directory of scratch, of which something may be left if that fails."""
    with contextlib.suppress(OSError):
        _take_apart(fd, name)


def _read_volume(fd: int) -> str | None:
    """Return the identity that a volume has, or None when it has none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        volume = os.open(_VOLUME[1:], flags, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(volume).st_mode):
            raise OSError(errno.EINVAL, "no file: look what is in its place", _VOLUME)
        return os.pread(volume, 64, 0).decode("ascii", "replace").strip() or None
    finally:
        os.close(volume)


def _gone(root: Path, error: OSError) -> OSError:
    """Return the error for a root that can't be opened."""
    if error.errno not in _AWAY:
        return error
    advice = "mount it again, and service resumes by itself"
    return RootGone(errno.ENODEV, f"the root is gone ({error.strerror}): {advice}", str(root))


def _in_the_way(path: str) -> OSError:
    """Return the error for a directory that can neither be opened nor made.

    It is a symbolic link to nothing, or deleted again and again.
    """
    return OSError(errno.EBUSY, "no directory can be made here; look what is in its way", path)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent or "/", name
