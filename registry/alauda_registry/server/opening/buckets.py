"""The bucket that is to hold everything: how it is opened, and whether it can be used.

This is the only module of the server that knows the S3 driver, and it is imported when one is
configured: botocore takes a while, and memory.
"""

import asyncio
import logging
from pathlib import Path

from alauda_registry.server.configuration.bucket_settings import S3
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.driver import DriverError
from alauda_registry.storage.drivers.s3.credentials import (
    Credentials,
    FoundKeys,
    GivenKeys,
    KeyFiles,
)
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.errors import Refused, Untrusted
from alauda_registry.storage.drivers.s3.opening import (
    BucketAddress,
    Connecting,
    Making,
    NoSuchRegion,
    Opening,
    open_s3,
)
from alauda_registry.storage.drivers.s3.signing import Keys

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 15.0
_CONNECTIONS_FOR_A_WRITE = 6
_CONNECTIONS_TO_SPARE = 16
_CONNECTIONS_WITHOUT_LIMITS = 512


def open_bucket(settings: Settings, s3: S3) -> S3Driver:
    """Open the bucket; nothing is sent to it yet.

    Raises:
        CannotStart: The file with the authorities can't be used, or AWS has no such region.
    """
    opening = Opening(
        BucketAddress(
            s3.bucket,
            s3.region or "us-east-1",
            s3.endpoint,
            s3.public,
            s3.path_style,
            s3.root_directory,
            s3.use_dual_stack,
            s3.accelerate,
        ),
        Connecting(
            Path(s3.trusted_ca) if s3.trusted_ca else None,
            not s3.skip_verify,
            _connections(settings),
            s3.user_agent,
        ),
        Making(s3.encrypt, s3.key_id, s3.storage_class, s3.object_acl),
        S3Options(
            redirect=not settings.storage.redirect.disable,
            part_size=s3.part_size,
            copies_at_once=s3.multipart_copy_max_concurrency,
            memory=s3.upload_memory.of(0),
        ),
    )
    try:
        return open_s3(opening, _credentials(s3))
    except OSError as error:
        raise CannotStart(f"storage.s3.trustedca: cannot use {s3.trusted_ca}: {error}") from error
    except NoSuchRegion as error:
        raise CannotStart(
            f"storage.s3.region: {error}: correct it, or give the server's URL in "
            "storage.s3.regionendpoint if it is not AWS's"
        ) from error


def check_bucket(settings: Settings, s3: S3) -> None:
    """See whether the bucket can be used. One that does not answer may do so later.

    Raises:
        CannotStart: It will not before somebody corrects something; the message says what.
    """
    writes = not settings.storage.maintenance.read_only.enabled

    async def check() -> None:
        driver = open_bucket(settings, s3)
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await driver.check(write=writes)
        finally:
            await driver.aclose()

    try:
        asyncio.run(check())
    except (Refused, Untrusted) as error:
        raise CannotStart(f"cannot use {s3.where}: {error.advice} ({error})") from error
    except (DriverError, TimeoutError) as error:
        advice = getattr(error, "advice", None) or "it does not answer"
        logger.warning("%s can't be used yet: %s (%s)", s3.where, advice, error)


def _credentials(s3: S3) -> Credentials:
    if s3.access_key is not None and s3.secret_key is not None:
        token = s3.session_token.get_secret_value() if s3.session_token else None
        return GivenKeys(
            Keys(s3.access_key.get_secret_value(), s3.secret_key.get_secret_value(), token)
        )
    if s3.access_key_file is not None and s3.secret_key_file is not None:
        return KeyFiles(Path(s3.access_key_file), Path(s3.secret_key_file))
    shared = s3.credentials_config_path
    return FoundKeys(Path(shared) if shared else None)


def _connections(settings: Settings) -> int:
    """Return how many connections are enough for all requests that may run at once."""
    read, write = settings.read_limit.max_running, settings.write_limit.max_running
    if not (read and write):
        return _CONNECTIONS_WITHOUT_LIMITS
    wanted = read + _CONNECTIONS_FOR_A_WRITE * write
    return -(-wanted // settings.workers) + _CONNECTIONS_TO_SPARE
