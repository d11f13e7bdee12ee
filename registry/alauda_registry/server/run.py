"""From settings to a server that runs: checks first, then one process or several."""

import errno
import logging
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alauda_registry.server.listening import bind_socket, check_listening, describe_address
from alauda_registry.server.logs import configure_logging
from alauda_registry.server.settings import CannotStart, Settings
from alauda_registry.server.supervisor import Supervisor
from alauda_registry.server.tls import Certificates

logger = logging.getLogger(__name__)


def serve(settings: Settings, warnings: Sequence[str] = ()) -> int:
    """Serve until told to stop; the exit code.

    Everything that can be wrong is looked at before a process is started or a port is taken.

    Raises:
        CannotStart: Something is; the message says what to do.
    """
    configure_logging(settings.log.level, settings.log.formatter, settings.log.fields)
    for warning in warnings:
        logger.warning("%s", warning)
    check(settings)
    if settings.storage.root is not None:
        prepare_root(settings.storage.root, settings.storage.maintenance.read_only.enabled)
    with bind_socket(settings.http.addr) as sock:
        scheme = "https" if settings.http.tls.certificate else "http"
        where = settings.storage.root or "memory"
        location = f"{scheme}://{describe_address(sock)} from {where}"
        if settings.workers > 1:
            _warn_small_limits(settings)
            return Supervisor(settings, sock, location).run()
        # Not above: a supervisor has no use for the application.
        from alauda_registry.server.worker import Worker

        worker = Worker(settings)
        try:
            worker.serve(sock, lambda: logger.info("serving %s", location))
        except SystemExit:
            # uvicorn's way to say that the application did not start; the log has the reason.
            return 1
    return 0


def check(settings: Settings) -> None:
    """Look at everything that can be wrong and be told without making anything.

    Raises:
        CannotStart: Something is; the message says what to do.
    """
    check_listening(settings.http)
    if settings.http.tls.certificate is not None:
        Certificates(settings.http.tls)
    if settings.storage.root is not None:
        _check_root(settings.storage.root, settings.storage.maintenance.read_only.enabled)


def _check_root(root: str, is_read_only: bool) -> None:
    """See whether a folder can be used, or made."""
    path = Path(root).absolute()
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
        raise _cannot_use(root, error, is_read_only) from error


def prepare_root(root: str, is_read_only: bool) -> None:
    """Make the folder and see whether it can be used.

    Raises:
        CannotStart: It cannot.
    """
    path = Path(root)
    try:
        if is_read_only:
            next(path.iterdir(), None)
            return
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # What is there can still be pulled and deleted.
            return
        raise _cannot_use(root, error, is_read_only) from error


def _cannot_use(root: str, error: OSError, is_read_only: bool) -> CannotStart:
    advice = "choose another with --root, or let this user write to it"
    if is_read_only:
        advice = "choose another with --root, or let this user read it"
    elif error.errno == errno.EROFS:
        advice = "say --read-only to serve what is there"
    return CannotStart(f"cannot use {root}: {error.strerror}; {advice}")


def _warn_small_limits(settings: Settings) -> None:
    for kind, limit in (("read", settings.read_limit), ("write", settings.write_limit)):
        if 0 < limit.max_running < settings.workers:
            logger.warning(
                "limits.%s.maxrunning is %d, but each of the %d workers serves at least one",
                kind,
                limit.max_running,
                settings.workers,
            )
