"""What can be set of `storage`: which driver keeps the bytes where, and what is done with them."""

import re
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from alauda_registry.server.configuration.bucket_settings import S3
from alauda_registry.server.configuration.sections import (
    AbsolutePath,
    Duration,
    Section,
    Size,
    SomeTime,
    split_list,
)
from alauda_registry.server.configuration.sizes import Amount, parse_amount

Reserve = Annotated[Amount, PlainValidator(parse_amount), PlainSerializer(str, return_type=str)]

DRIVERS = ("filesystem", "pvc", "s3", "inmemory")
"""The keys of `storage` that choose where bytes are kept."""


def _object_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
        raise ValueError("must be the name of a PersistentVolumeClaim, such as image-registry")
    return name


class Filesystem(Section):
    """`storage.filesystem`."""

    root_directory: Annotated[str, Field(min_length=1)] = "/var/lib/registry"
    """The folder that holds everything, in distribution's layout."""


class Expectation(Section):
    """`storage.pvc.expect`: what the mount has to be, or we do not start."""

    file_systems: Annotated[tuple[str, ...], BeforeValidator(split_list)] = ()
    """Types such as nfs4, ext4 or ceph, one of which it has to be."""
    source: str | None = None
    """What it is mounted from, as /proc/self/mountinfo has it; * and ? stand for anything."""
    minimum_size: Size | None = None
    """Such as 10Gi."""
    volatile: bool = False
    """Accept what is gone with the pod: an emptyDir, a tmpfs. For trials."""


class PVC(Section):
    """`storage.pvc`: a folder of a PersistentVolumeClaim. Without the claim we do not start."""

    root_directory: AbsolutePath = "/var/lib/registry"
    """The folder that holds everything, in distribution's layout: where the claim is mounted, or
    below. Unset: `mountpath`, if that is given."""
    mount_path: AbsolutePath | None = None
    """Where the claim is mounted. Unset: `rootdirectory`."""
    claim: Annotated[str, AfterValidator(_object_name)] | None = None
    """The claim's name, for messages: clients are told which claim is full."""
    reserve: Reserve | None = None
    """What only deletes may use, such as 1Gi or 5%. Unset: 1 % but at least 64 MiB, and at most
    10 %. Some file systems can't delete any more when they are full to the last byte."""
    expect: Expectation = Expectation()

    @model_validator(mode="before")
    @classmethod
    def _root_where_the_claim_is(cls, value: Any) -> Any:
        where = value.get("mountpath") if isinstance(value, dict) else None
        # One that is wrong is complained of once.
        return {"rootdirectory": where, **value} if str(where).startswith("/") else value

    @model_validator(mode="after")
    def _root_in_the_claim(self) -> Self:
        if not PurePosixPath(self.root_directory).is_relative_to(self.mounted_at):
            raise ValueError(
                f"rootdirectory must be {self.mounted_at}, where mountpath says the claim is "
                "mounted, or a folder below it"
            )
        return self

    @property
    def mounted_at(self) -> str:
        """Where the claim is mounted."""
        return self.mount_path or self.root_directory


class InMemory(Section):
    """`storage.inmemory`: gone when the process ends; one worker only."""


class Redirect(Section):
    """`storage.redirect`: whether clients fetch blobs from the bucket themselves."""

    disable: bool = False
    """Pass the bytes through, for clients that can't reach the S3 server. No other storage
    redirects."""


class Delete(Section):
    """`storage.delete`."""

    enabled: bool = True
    """DELETE of anything; otherwise 405. On, unlike in distribution."""
    tags: bool = True
    """DELETE of a tag, which spares its manifest."""
    manifests: bool = True
    """DELETE of a manifest by digest, with the tags that point at it."""
    blobs: bool = True
    """DELETE of a blob."""


class ReadOnly(Section):
    """`storage.maintenance.readonly`."""

    enabled: bool = False
    """Only GET and HEAD; everything else is 405 UNSUPPORTED."""


class UploadPurging(Section):
    """`storage.maintenance.uploadpurging`: upload sessions that nobody goes on with."""

    enabled: bool = True
    age: Duration = timedelta(hours=24)
    """A session idle for this long is removed. A day outlasts every client's retries."""
    interval: SomeTime = timedelta(hours=1)
    """Time between sweeps; one worker of one replica sweeps at a time."""


class Maintenance(Section):
    """`storage.maintenance`."""

    read_only: ReadOnly = ReadOnly()
    upload_purging: UploadPurging = UploadPurging()


class Storage(Section):
    """`storage`: exactly one driver, and what is done with it."""

    filesystem: Filesystem | None = None
    pvc: PVC | None = None
    s3: S3 | None = None
    in_memory: InMemory | None = None
    redirect: Redirect = Redirect()
    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()

    @model_validator(mode="before")
    @classmethod
    def _directory_unless_told_otherwise(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.keys().isdisjoint(DRIVERS):
            return {**value, "filesystem": {}}
        return value

    @model_validator(mode="after")
    def _one_driver(self) -> Self:
        if len(chosen := self._chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are both configured; keep one of them")
        return self

    @property
    def _chosen(self) -> list[str]:
        drivers = (self.filesystem, self.pvc, self.s3, self.in_memory)
        return [name for name, driver in zip(DRIVERS, drivers, strict=True) if driver is not None]

    @property
    def driver(self) -> str:
        """The name of the driver."""
        return self._chosen[0]

    @property
    def root(self) -> str | None:
        """The folder that holds everything; None when bytes are kept elsewhere."""
        folder = self.filesystem or self.pvc
        return folder.root_directory if folder else None

    @property
    def where(self) -> str:
        """Where the bytes are kept, in words."""
        return self.root or (self.s3.where if self.s3 else "memory")
