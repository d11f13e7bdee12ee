"""From settings to a server that runs: checks first, then one process or several."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.extensions import IMAGE_API
from alauda_registry.server.opening.authentication import (
    open_authentication,
    prepare_authentication,
    warnings as authentication_warnings,
)
from alauda_registry.server.opening.certificates import open_certificates
from alauda_registry.server.opening.exposure import check_exposure
from alauda_registry.server.opening.roots import check_root, prepare_root, warn_of_caches
from alauda_registry.server.workers.supervisor import Supervisor
from alauda_registry.serving.file_limit import allow_many_open_files
from alauda_registry.serving.listening import bind_socket, describe_address
from alauda_registry.serving.logs import configure_logging
from alauda_registry.serving.starting import CannotStart

logger = logging.getLogger(__name__)

ExtensionFinder: TypeAlias = Callable[[str], str | None]
"""Returns where an extension is, as ``module:attribute``; None if it is not installed."""


def serve(
    settings: Settings,
    warnings: Sequence[str] = (),
    find_extension: ExtensionFinder = lambda _name: None,
) -> int:
    """Serve until told to stop; the exit code.

    Everything that can be wrong is looked at before a process is started or a port is taken.

    Raises:
        CannotStart: Something is; the message says what to do.
    """
    configure_logging(settings.log.level, settings.log.formatter, settings.log.fields)
    for warning in (*warnings, *authentication_warnings(settings)):
        logger.warning("%s", warning)
    check(settings)
    extension = _find_image_api(settings, find_extension)
    prepare_root(settings.storage)
    if settings.storage.s3 is not None:
        # botocore takes a while to import, and memory.
        from alauda_registry.server.opening.buckets import check_bucket

        check_bucket(settings, settings.storage.s3)
    prepare_authentication(settings)
    warn_of_caches(settings.storage)
    allow_many_open_files()
    with bind_socket(settings.http.addr) as sock:
        scheme = "https" if settings.http.tls.certificate else "http"
        where = settings.storage.where
        location = f"{scheme}://{describe_address(sock)} from {where}"
        if settings.workers > 1:
            _warn_small_limits(settings)
            return Supervisor(settings, sock, location, extension).run()
        # Not above: a supervisor has no use for the application.
        from alauda_registry.server.workers.worker import Worker

        worker = Worker(settings, extension=extension)
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
    check_exposure(settings.http, settings.auth)
    if settings.http.tls.certificate is not None:
        open_certificates(settings.http.tls)
    check_root(settings.storage)
    if (authentication := open_authentication(settings, is_check=True)) is not None:
        authentication.close()


def _find_image_api(settings: Settings, find_extension: ExtensionFinder) -> str | None:
    if not settings.image_api.enabled:
        return None
    found = find_extension(IMAGE_API)
    if found is None:
        raise CannotStart("imageapi is enabled, but this installation has no image API")
    return found


def _warn_small_limits(settings: Settings) -> None:
    for kind, limit in (("read", settings.read_limit), ("write", settings.write_limit)):
        if 0 < limit.max_running < settings.workers:
            logger.warning(
                "limits.%s.maxrunning is %d, but each of the %d workers serves at least one",
                kind,
                limit.max_running,
                settings.workers,
            )
