"""What is a claim and what only looks like one, and what is said of it."""

import os
from pathlib import Path

import pytest

from alauda_registry.storage.directory.claims import (
    Claim,
    Expectation,
    NotMounted,
    default_reserve,
    format_bytes,
)
from tests.unit.storage.directory.claiming import claimed, line

MIB = 1024 * 1024
POD = "/var/lib/kubelet/pods/0f1c2a"
OWN = "0123456789abcdef" * 4


def problem(claim: Claim) -> str | None:
    """Return what is said against a claim; None when it is taken."""
    try:
        with claim.opened():
            return None
    except NotMounted as error:
        return error.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("root", "file_system", "source"),
    [
        ("/", "nfs4", "10.96.4.11:/exports/pvc-2f0b"),
        ("/", "ext4", "/dev/rbd0"),
        ("/", "xfs", "/dev/longhorn/pvc-2f0b"),
        ("/", "ceph", "10.0.0.1:6789:/volumes/csi/csi-vol-1"),
        ("/", "fuse.juicefs", "JuiceFS:pvc-2f0b"),
        ("/subvolumes/pvc-2f0b", "btrfs", "/dev/sdb"),
        # Folders of the node's own disk: local-path, hostPath, subPath.
        ("/opt/local-path-provisioner/pvc-2f0b_ns_image-registry", "ext4", "/dev/vda1"),
        ("/data/registry", "xfs", "/dev/mapper/root"),
        ("/team-a", "ext4", "/dev/rbd0"),
    ],
)
def test_whatever_is_mounted_there_and_outlives_the_pod_is_a_claim(
    folder: Path, root: str, file_system: str, source: str
) -> None:
    text = line(folder, root=root, file_system=file_system, source=source)

    assert problem(claimed(folder, text)) is None


@pytest.mark.parametrize(
    ("root", "file_system", "words"),
    [
        (f"{POD}/volumes/kubernetes.io~empty-dir/data", "ext4", "an emptyDir"),
        (f"{POD}/volumes/kubernetes.io~empty-dir/data/sub", "xfs", "an emptyDir"),
        ("/", "tmpfs", "a file system of type tmpfs"),
        ("/", "overlay", "a file system of type overlay"),
        (
            f"/var/lib/containerd/io.containerd.grpc.v1.cri/containers/{OWN}/volumes/{OWN}",
            "ext4",
            "the container runtime made",
        ),
        (f"/var/lib/docker/volumes/{OWN}/_data", "ext4", "the container runtime made"),
    ],
)
def test_what_is_gone_with_the_pod_is_no_claim_unless_that_will_do(
    folder: Path, root: str, file_system: str, words: str
) -> None:
    text = line(folder, root=root, file_system=file_system)

    refused = problem(claimed(folder, text))
    accepted = problem(claimed(folder, text, expected=Expectation(volatile=True)))

    assert refused is not None
    assert words in refused
    assert "storage.pvc.expect.volatile" in refused
    assert accepted is None


def test_a_type_that_was_asked_for_will_do_but_makes_no_claim_of_an_empty_dir(
    folder: Path,
) -> None:
    memory = line(folder, file_system="tmpfs")
    empty_dir = line(folder, root=f"{POD}/volumes/kubernetes.io~empty-dir/data")

    assert problem(claimed(folder, memory, expected=Expectation(("tmpfs",)))) is None
    assert problem(claimed(folder, empty_dir, expected=Expectation(("ext4",)))) is not None


def test_a_plain_folder_is_no_claim_whatever_will_do(folder: Path) -> None:
    text = line(folder, at=Path("/"), file_system="overlay", source="overlay")

    said = problem(claimed(folder, text, expected=Expectation(volatile=True)))

    assert said == (
        f"the claim image-registry is not mounted at {folder}: there is a plain folder of the root "
        "of the container or node / (overlay); give the pod a volume with "
        "persistentVolumeClaim.claimName: image-registry and the container a volumeMount of it "
        f"with mountPath: {folder}, or say with storage.pvc.mountpath where it is mounted"
    )


def test_a_folder_below_another_mount_is_no_claim_and_the_mount_is_named(folder: Path) -> None:
    said = problem(claimed(folder, line(folder, at=folder.parent, source="/dev/rbd0")))

    assert said is not None
    assert f"a plain folder of the mount {folder.parent} (ext4 on /dev/rbd0)" in said


def test_the_root_of_the_container_is_no_claim() -> None:
    said = problem(Claim(Path("/")))

    assert said is not None
    assert "the root of the container or node" in said


def test_a_folder_that_is_not_there_is_no_claim_and_is_not_made(tmp_path: Path) -> None:
    said = problem(Claim(tmp_path / "missing"))

    assert said is not None
    assert "there is no such folder" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_claim(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "it cannot be opened (Not a directory)" in str(problem(Claim(tmp_path / "file")))


def test_a_claim_whose_folder_was_deleted_on_the_node_is_none(folder: Path) -> None:
    text = line(folder, root="/opt/local-path-provisioner/pvc-1//deleted")

    assert "was deleted on the node" in str(problem(claimed(folder, text)))


def test_a_claim_that_was_unmounted_is_none(folder: Path) -> None:
    assert "it was unmounted" in str(problem(claimed(folder, "")))


def test_a_kernel_that_does_not_tell_is_said_so(folder: Path) -> None:
    claim = Claim(folder, mountinfo=folder / "missing")

    assert "the mounts cannot be read (No such file or directory)" in str(problem(claim))


def test_a_path_with_symbolic_links_leads_to_the_claim(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    mounted = claimed(folder)

    assert problem(Claim(link, mountinfo=mounted.mountinfo)) is None


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Expectation(file_systems=("nfs4", "ceph")), "it is of type ext4, and"),
        (Expectation(file_systems=("nfs4", "ceph")), "filesystems: nfs4, ceph;"),
        (Expectation(source="*:/exports/*"), "it is mounted from /dev/rbd0, and"),
        (Expectation(source="/dev/RBD0"), "source: /dev/RBD0;"),
        (Expectation(minimum_size=1 << 50), "minimumsize: 1024 TiB;"),
    ],
)
def test_another_mount_than_was_expected_is_refused(
    folder: Path, expected: Expectation, words: str
) -> None:
    said = problem(claimed(folder, expected=expected))

    assert said is not None
    assert said.startswith(f"the claim image-registry at {folder} is not what was expected: it is ")
    assert words in said


def test_what_was_expected_is_taken(folder: Path) -> None:
    size = os.statvfs(folder)
    expected = Expectation(("xfs", "ext4"), "/dev/rbd?", size.f_blocks * size.f_frsize)

    assert problem(claimed(folder, expected=expected)) is None


def test_a_claim_without_a_name_is_spoken_of_all_the_same(folder: Path) -> None:
    said = problem(claimed(folder, "", name=None))

    assert said is not None
    assert said.startswith(f"the claim is not mounted at {folder}")
    assert "give the pod a volume and the container" in said


@pytest.mark.parametrize(
    ("size", "reserve"),
    [
        (0, 0),
        (64 * MIB, 64 * MIB // 10),
        (640 * MIB, 64 * MIB),
        (6400 * MIB, 64 * MIB),
        (10_000 * MIB, 100 * MIB),
    ],
)
def test_the_reserve_is_a_hundredth_but_neither_tiny_nor_large(size: int, reserve: int) -> None:
    assert default_reserve(size) == reserve


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (64 * MIB, "64 MiB"),
        (1 << 40, "1 TiB"),
    ],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
