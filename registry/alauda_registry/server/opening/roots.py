"""Whether the folder that is to hold everything can be used, before anything is started.

Of a claim it is also asked whether it is there, and that first of all: a folder made where it is
not mounted would look like an empty registry, on the disk of the node.
"""

import errno
import logging
import os
import stat
import tempfile
from pathlib import Path

from alauda_registry.server.configuration.storage_settings import PVC, Storage
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.directory.claims import Claim, Expectation, NotMounted, format_bytes
from alauda_registry.storage.directory.mounts import (
    MOUNTINFO,
    mount_of,
    read_mounts,
    shows_changes_late,
)
from alauda_registry.storage.directory.rooted import UNANSWERED, make_root

logger = logging.getLogger(__name__)


def claim_of(settings: PVC) -> Claim:
    """Return the claim that the settings are about."""
    expect = settings.expect
    return Claim(
        Path(settings.mounted_at),
        settings.claim,
        Expectation(
            file_systems=expect.file_systems,
            source=expect.source,
            minimum_size=expect.minimum_size.of(0) if expect.minimum_size else 0,
            volatile=expect.volatile,
        ),
    )


def check_root(storage: Storage) -> None:
    """See whether the folder can be used, or made.

    Raises:
        CannotStart: It cannot; the message says what to do.
    """
    if storage.root is None:
        return
    if storage.pvc is not None:
        check_claim(storage.pvc)
    is_read_only = storage.maintenance.read_only.enabled
    path = Path(storage.root).absolute()
    needed = os.R_OK | os.X_OK if is_read_only else os.R_OK | os.W_OK | os.X_OK
    try:
        if not is_read_only:
            path = next(above for above in (path, *path.parents) if above.exists())
        if not stat.S_ISDIR(path.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(path, needed):
            is_mounted_so = os.statvfs(path).f_flag & os.ST_RDONLY
            code = errno.EROFS if is_mounted_so else errno.EACCES
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise _cannot_use(storage, error) from error


def prepare_root(storage: Storage) -> None:
    """Make the folder and see whether it can be used.

    Raises:
        CannotStart: It cannot; the message says what to do.
    """
    if storage.root is None:
        return
    path = Path(storage.root)
    try:
        if storage.maintenance.read_only.enabled:
            next(path.iterdir(), None)
            return
        make_root(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # What is there can still be pulled and deleted.
            return
        raise _cannot_use(storage, error) from error


def warn_of_caches(storage: Storage, mountinfo: Path = MOUNTINFO) -> None:
    """Say so when other replicas' pushes and deletes would show late.

    Args:
        storage: Where the folder is.
        mountinfo: Where the kernel lists the mounts.
    """
    if storage.root is None:
        return
    try:
        fd = os.open(storage.root, os.O_PATH)
        try:
            mount = mount_of(fd, read_mounts(mountinfo))
        finally:
            os.close(fd)
    except OSError as error:
        logger.debug("the mounts are not known: %s", error)
        return
    if mount is not None and shows_changes_late(mount):
        logger.warning(
            "%s is on NFS (%s), which shows changes of other hosts late: with several replicas "
            "mount it with lookupcache=none,actimeo=0, in Kubernetes by mountOptions of the "
            "StorageClass or PersistentVolume",
            storage.root,
            mount.source,
        )


def check_claim(settings: PVC) -> None:
    """See whether the claim is there.

    Raises:
        CannotStart: It is not; the message says what to do.
    """
    claim = claim_of(settings)
    try:
        with claim.opened() as fd:
            status = os.fstatvfs(fd)
    except NotMounted as error:
        raise CannotStart(error.reason) from error
    size = status.f_blocks * status.f_frsize
    if settings.reserve is not None and 0 < size <= settings.reserve.of(size):
        raise CannotStart(
            f"storage.pvc.reserve: {settings.reserve} is all of {claim.title}, which has "
            f"{format_bytes(size)}: nothing could be pushed"
        )


def _cannot_use(storage: Storage, error: OSError) -> CannotStart:
    is_read_only = storage.maintenance.read_only.enabled
    verb = "read it" if is_read_only else "write to it"
    advice = f"choose another with --root, or let this user {verb}"
    if error.errno == errno.EROFS and not is_read_only:
        advice = "say --read-only to serve what is there"
    elif error.errno in UNANSWERED:
        advice = "its file system does not answer: look at the disk or server, and mount it again"
    elif storage.pvc is not None and error.errno in (errno.EACCES, errno.EPERM):
        advice = _advice_on_permissions(storage.pvc, verb)
    return CannotStart(f"cannot use {storage.root}: {error.strerror}; {advice}")


def _advice_on_permissions(settings: PVC, verb: str) -> str:
    groups = ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
    user = f"user {os.geteuid()} with the groups {groups}"
    try:
        status = Path(settings.mounted_at).stat()
    except OSError:
        owner = "another's"
    else:
        mode = stat.S_IMODE(status.st_mode)
        owner = f"user {status.st_uid}'s, group {status.st_gid}, mode {mode:o}"
    return (
        f"the claim is {owner}, and this process, {user}, may not {verb}: set fsGroup in the "
        "pod's securityContext to a number of your choice; where that changes nothing, as on "
        "NFS, give the folder to this user on the server, or run as its owner"
    )
