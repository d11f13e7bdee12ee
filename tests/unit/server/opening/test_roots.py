"""Whether the folder that is to hold everything can be used.

Real mounts are for ``tests/integration/test_claims.py``.
"""

import logging
import os
from pathlib import Path

import pytest

from alauda_registry.server.configuration.storage_settings import Storage
from alauda_registry.server.opening.roots import check_root, claim_of, prepare_root, warn_of_caches
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.directory.claims import Claim, Expectation
from tests.unit.storage.directory.claiming import claimed, line

NFS = "rw,vers=4.2,hard"


def storage(**drivers: object) -> Storage:
    return Storage.model_validate(drivers)


def test_every_setting_reaches_the_claim() -> None:
    pvc = {
        "rootdirectory": "/registry/below",
        "mountpath": "/registry",
        "claim": "image-registry",
        "expect": {
            "filesystems": ["nfs4"],
            "source": "*:/exports/*",
            "minimumsize": "1Ki",
            "volatile": True,
        },
    }
    settings = storage(pvc=pvc).pvc

    assert settings is not None
    assert claim_of(settings) == Claim(
        Path("/registry"),
        "image-registry",
        Expectation(("nfs4",), "*:/exports/*", 1024, volatile=True),
    )


def test_without_settings_nothing_is_expected_of_the_claim() -> None:
    settings = storage(pvc={}).pvc

    assert settings is not None
    assert claim_of(settings) == Claim(Path("/var/lib/registry"))


def test_memory_needs_no_folder() -> None:
    nowhere = storage(inmemory={})

    check_root(nowhere)
    prepare_root(nowhere)
    warn_of_caches(nowhere)


def test_a_folder_is_made_unless_only_its_claim_is_missing(tmp_path: Path) -> None:
    plain = storage(filesystem={"rootdirectory": str(tmp_path / "a" / "b")})
    claim = storage(pvc={"rootdirectory": str(tmp_path / "c")})

    check_root(plain)
    assert list(tmp_path.iterdir()) == []
    prepare_root(plain)
    with pytest.raises(CannotStart, match="is not mounted at"):
        check_root(claim)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_belongs_to_somebody_else_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    with pytest.raises(CannotStart, match="Permission denied; choose another with --root, or let"):
        check_root(storage(filesystem={"rootdirectory": str(tmp_path)}))


@pytest.mark.parametrize(
    ("file_system", "options", "is_late"),
    [
        ("ext4", "rw", False),
        ("ceph", "rw", False),
        ("nfs4", NFS, True),
        ("nfs", f"{NFS},lookupcache=none", True),
        ("nfs4", f"{NFS},acregmin=0,acregmax=0,acdirmin=0,acdirmax=0", True),
        ("nfs4", f"{NFS},acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,lookupcache=none", False),
        ("nfs4", f"{NFS},noac,lookupcache=none", False),
    ],
)
def test_a_mount_that_shows_changes_late_is_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    file_system: str,
    options: str,
    is_late: bool,
) -> None:
    folder = tmp_path / "registry"
    folder.mkdir()
    text = line(folder, file_system=file_system, source="10.96.4.11:/exports/pvc-1")
    mountinfo = claimed(folder, text.replace(" rw\n", f" {options}\n")).mountinfo
    with caplog.at_level(logging.WARNING):
        warn_of_caches(storage(filesystem={"rootdirectory": str(folder)}), mountinfo)

    assert len(caplog.messages) == is_late
    if is_late:
        assert "10.96.4.11:/exports/pvc-1" in caplog.text
        assert "lookupcache=none,actimeo=0" in caplog.text


def test_a_kernel_that_does_not_tell_of_mounts_is_no_trouble(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        warn_of_caches(
            storage(filesystem={"rootdirectory": str(tmp_path)}), tmp_path / "no mountinfo"
        )

    assert caplog.messages == []
