"""Claims that are mounted as far as the list of mounts says, which is a file of the test's own."""

import os
from pathlib import Path

from alauda_registry.storage.directory.claims import Claim, Expectation


def mount_number(folder: Path) -> int:
    """Return the kernel's number of the mount that a folder is really on."""
    fd = os.open(folder, os.O_PATH)
    try:
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    finally:
        os.close(fd)
    raise AssertionError("the kernel does not number its mounts")


def line(
    folder: Path,
    *,
    at: Path | None = None,
    root: str = "/",
    file_system: str = "ext4",
    source: str = "/dev/rbd0",
) -> str:
    """Return the line of a list of mounts that has a folder mounted, there or elsewhere."""
    number = mount_number(folder)
    return f"{number} 1 252:0 {root} {at or folder} rw,relatime - {file_system} {source} rw\n"


def claimed(
    folder: Path,
    text: str | None = None,
    *,
    name: str | None = "image-registry",
    expected: Expectation | None = None,
) -> Claim:
    """Return a claim that is mounted at a folder, or as a text says.

    Args:
        folder: Where it is mounted; made when it is missing.
        text: The list of mounts.
        name: The claim's.
        expected: What it has to be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mountinfo = folder.parent / f"{folder.name}.mountinfo"
    mountinfo.write_text(line(folder) if text is None else text)
    return Claim(folder, name, expected or Expectation(), mountinfo)
