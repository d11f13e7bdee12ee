"""Reading the kernel's list of mounts, with lists as pods have them."""

import os
from pathlib import Path, PurePosixPath

import pytest

from alauda_registry.storage.directory.mounts import Mount, mount_of, parse_mounts, read_mounts

POD = r"""
2131 1893 0:312 / / rw,relatime master:671 - overlay overlay rw,lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs,upperdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/2/fs,workdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/2/work
2132 2131 0:315 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
2133 2131 0:316 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
2139 2131 252:1 /var/lib/kubelet/pods/0f1c/etc-hosts /etc/hosts rw,relatime - ext4 /dev/vda1 rw
2140 2131 0:48 / /nfs rw,relatime - nfs4 10.96.4.11:/exports/pvc-2f0b rw,vers=4.2,hard,lookupcache=none,acregmin=0,addr=10.96.4.11
2141 2131 252:16 / /rbd rw,relatime - ext4 /dev/rbd0 rw,stripe=16
2142 2131 252:1 /opt/local-path-provisioner/pvc-91_ns_image-registry /local rw,relatime shared:1 master:2 propagate_from:3 - ext4 /dev/vda1 rw
2143 2131 252:16 /registry /sub rw,relatime - ext4 /dev/rbd0 rw,stripe=16
2144 2131 252:1 /var/lib/kubelet/pods/0f1c/volumes/kubernetes.io~empty-dir/data /empty rw,relatime - ext4 /dev/vda1 rw
2145 2131 0:50 / /shm\040and\011more\134\043 rw - tmpfs  rw,size=1024k
2146 2131 0:61 / /ceph rw,relatime - ceph 10.0.0.1:6789,10.0.0.2:6789:/volumes/csi/csi-vol-1/ab rw,name=csi,secret=<hidden>,acl
""".strip()  # noqa: E501


def mounts() -> dict[str, Mount]:
    return {str(mount.path): mount for mount in parse_mounts(POD)}


@pytest.mark.parametrize(
    ("path", "root", "file_system", "source"),
    [
        ("/", "/", "overlay", "overlay"),
        ("/nfs", "/", "nfs4", "10.96.4.11:/exports/pvc-2f0b"),
        ("/rbd", "/", "ext4", "/dev/rbd0"),
        (
            "/local",
            "/opt/local-path-provisioner/pvc-91_ns_image-registry",
            "ext4",
            "/dev/vda1",
        ),
        ("/sub", "/registry", "ext4", "/dev/rbd0"),
        (
            "/empty",
            "/var/lib/kubelet/pods/0f1c/volumes/kubernetes.io~empty-dir/data",
            "ext4",
            "/dev/vda1",
        ),
        ("/ceph", "/", "ceph", "10.0.0.1:6789,10.0.0.2:6789:/volumes/csi/csi-vol-1/ab"),
    ],
)
def test_the_mounts_of_a_pod_are_told_apart(
    path: str, root: str, file_system: str, source: str
) -> None:
    mount = mounts()[path]

    assert (mount.root, mount.file_system, mount.source) == (root, file_system, source)


def test_every_line_is_a_mount_however_many_optional_fields_it_has() -> None:
    assert [mount.number for mount in parse_mounts(POD)] == [2131, 2132, 2133, *range(2139, 2147)]


def test_escaped_characters_are_themselves_and_an_empty_source_is_empty() -> None:
    mount = mounts()["/shm and\tmore\\#"]

    assert (mount.file_system, mount.source) == ("tmpfs", "")


def test_the_options_are_those_of_the_mount_and_of_the_file_system() -> None:
    assert {"rw", "relatime", "lookupcache=none", "hard"} <= mounts()["/nfs"].options


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "1 2 3:4 / /a rw",
        "1 2 3:4 / /a rw -",
        "1 2 3:4 / /a rw - ext4",
        "x 2 3:4 / /a rw - ext4 /dev/vda rw",
        "- - - - - - - - -",
    ],
)
def test_what_is_no_mount_is_left_out(line: str) -> None:
    good = "7 2 3:4 / /b rw - ext4 /dev/vda rw"

    assert [mount.number for mount in parse_mounts(f"{line}\n{good}\n")] == [7]


def test_names_that_are_not_utf_8_are_read_like_file_names(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(b"7 2 3:4 / /\xff rw - ext4 /dev/vda rw\n")

    assert os.fsencode(read_mounts(mountinfo)[0].path) == b"/\xff"


def test_an_open_folder_knows_its_mount() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        mount = mount_of(fd, read_mounts())
    finally:
        os.close(fd)

    assert mount is not None
    assert (mount.path, mount.file_system) == (PurePosixPath("/proc"), "proc")


def test_a_mount_that_is_in_no_list_is_not_mounted() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    try:
        assert mount_of(fd, []) is None
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("path", "number"),
    [("/", 1), ("/a", 3), ("/a/x", 3), ("/a/b", 4), ("/a/b/c", 4), ("/ab", 1)],
)
def test_without_numbers_the_deepest_mount_counts_and_of_two_the_last(
    path: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [(1, "/"), (2, "/a"), (3, "/a"), (4, "/a/b")]
    text = "\n".join(f"{number} 0 1:1 / {at} rw - ext4 x rw" for number, at in lines)
    fd = os.open("/", os.O_RDONLY)
    # As in a sandbox that has such files, but no numbers in them.
    monkeypatch.setattr(Path, "read_text", lambda self: "pos:\t0\nflags:\t0100000\n")
    monkeypatch.setattr(os, "readlink", lambda link: path)
    try:
        mount = mount_of(fd, parse_mounts(text))
    finally:
        os.close(fd)

    assert mount is not None
    assert mount.number == number
