"""Several servers on one directory, each with its own view of it, as replicas have of a claim."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.parts import registry
from tests.parts.processes import PartFailed, run, started
from tests.parts.registry import Server
from tests.torture.servers import Storage

_CLAIM_BYTES = 2 * 2**30

# Mounts in a namespace of its own vanish with its last process, whatever becomes of the tests.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
_HOLD = 'mount -o loop "$0" "$1" && touch "$2" && exec sleep infinity'
_MOUNT_AT = 'mount --bind "$0" "$1" && shift && exec "$@"'


def can_mount() -> bool:
    """Tell whether this user may mount something that nobody else sees."""
    try:
        run([*_OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"])
    except (PartFailed, OSError):
        return False
    return True


@contextmanager
def claim(directory: Path, program: Sequence[str | Path]) -> Iterator[list[Storage]]:
    """Have a claim on an ext4 volume, mounted three times, for the length of a block.

    Args:
        directory: For the volume and the places that it is mounted at.
        program: What runs the server.
    """
    volume, shared, sign = directory / "volume", directory / "claim", directory / "mounted"
    with volume.open("wb") as file:
        os.truncate(file.fileno(), _CLAIM_BYTES)
    run(["mkfs.ext4", "-q", volume])
    shared.mkdir()
    with started(
        (*_OWN_MOUNTS, "sh", "-c", _HOLD, volume, shared, sign),
        log=directory / "claim.log",
        ready=sign.exists,
    ) as holder:
        yield [
            _mounted_for(directory / f"replica-{number}", shared, holder.pid, program)
            for number in range(3)
        ]


def _mounted_for(place: Path, shared: Path, holder: int, program: Sequence[str | Path]) -> Storage:
    place.mkdir()
    own_view: list[str | Path] = [
        *("nsenter", f"--mount=/proc/{holder}/ns/mnt"),
        *_OWN_MOUNTS,
        *("sh", "-c", _MOUNT_AT, shared, place),
    ]
    return Storage(
        variables={
            "REGISTRY_STORAGE_PVC_ROOTDIRECTORY": str(place),
            "REGISTRY_STORAGE_PVC_CLAIM": "shared",
        },
        program=[*own_view, *program],
    )


@contextmanager
def replicas(
    directory: Path, storages: Sequence[Storage], variables: Mapping[str, str]
) -> Iterator[list[Server]]:
    """Run a server on each view of one directory; the last one has two workers.

    Args:
        directory: For their logs.
        storages: What each of them sees.
        variables: Their environment, on top of ours.
    """
    with ExitStack() as running:
        yield [
            running.enter_context(
                registry.running(
                    directory / f"server-{number}",
                    root=storage.root,
                    storage=storage.variables,
                    program=storage.program,
                    workers=2 if number == len(storages) - 1 else 1,
                    settings={"REGISTRY_LOG_ACCESSLOG": "{disabled: true}", **variables},
                )
            )
            for number, storage in enumerate(storages)
        ]
