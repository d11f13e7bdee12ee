"""The one list of storage drivers."""

from pathlib import Path

from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.opening.roots import claim_of
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.directory.claims import NotMounted, default_reserve
from alauda_registry.storage.driver import DriverError, StorageDriver
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.drivers.pvc import PVCDriver


def open_driver(settings: Settings, volume: str | None = None) -> StorageDriver:
    """Open what keeps the bytes.

    Args:
        settings: Say which it is to be.
        volume: The identity that a directory must have; None or "" for any.

    Raises:
        CannotStart: The driver cannot use what it is to keep bytes in.
    """
    storage = settings.storage
    root = storage.root
    if storage.s3 is not None:
        # botocore takes a while to import, and memory.
        from alauda_registry.server.opening.buckets import open_bucket

        return open_bucket(settings, storage.s3)
    try:
        if root is None:
            return InMemoryDriver()
        if storage.pvc is None:
            return FilesystemDriver(Path(root), volume=volume or None)
        reserve = storage.pvc.reserve
        return PVCDriver(
            Path(root),
            claim_of(storage.pvc),
            reserve=reserve.of if reserve else default_reserve,
            volume=volume or None,
        )
    except NotMounted as error:
        raise CannotStart(error.reason) from error
    except OSError as error:
        where, advice = str(error.filename), ""
        if where.startswith("/_driver"):
            advice = "; remove it, or let this user write to it: it holds no images"
        raise CannotStart(f"cannot use {root}: {where}: {error.strerror}{advice}") from error
    except DriverError as error:
        raise CannotStart(f"cannot use {root}: {error}") from error
