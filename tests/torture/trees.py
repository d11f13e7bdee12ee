"""Trees of files: as plain data, and made on a real file system with as few changes as possible."""

import hashlib
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tests.torture.effects import Stamp
from tests.torture.recording import Stamps


class Node(NamedTuple):
    """A file or directory.

    Attributes:
        stamp: What ``fstat`` tells of it.
        content: A file's bytes; None for a directory.
    """

    stamp: Stamp
    content: bytes | None


Tree = dict[str, Node]
"""What is at each path; the root is at ""."""


class OnDisk:
    """A directory that is made to hold one tree after the other.

    A file with two names in a tree has them on disk, too.

    Args:
        root: The directory; it is empty.

    Attributes:
        stamps: What ``fstat`` is to tell of the files in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamps = Stamps()
        self._held: Tree = {}
        self._real: dict[str, int] = {}

    def hold(self, tree: Tree) -> None:
        """Make the directory hold a tree."""
        stale = [path for path, node in self._held.items() if not _is_same(node, tree.get(path))]
        for path in sorted(stale, reverse=True):
            self._remove(path)
        first = {tree[path].stamp.inode: path for path in self._held}
        for path in sorted(tree.keys() - self._held.keys()):
            node = tree[path]
            self._make(path, node, first.setdefault(node.stamp.inode, path))
        self._held = tree
        real = self._real
        self.stamps.known = {real[path]: node.stamp for path, node in tree.items()}

    def take_note_of_changes(self, folder: str) -> None:
        """Look what has become of a folder since it was made, so that it can be undone."""
        held = {path for path in self._held if path == folder or path.startswith(f"{folder}/")}
        found = dict(_scan(self.root, folder))
        same = {path for path in held if found.get(path) == self._real[path]}
        if len(same) == len(held) == len(found):
            return
        for path in sorted(found.keys() - same, reverse=True):
            _delete(f"{self.root}{path}")
        self._held = {p: node for p, node in self._held.items() if p in same or p not in held}
        for path in held - same:
            del self._real[path]

    def differences(self) -> list[str]:
        """Return the paths that are not as they were made."""
        found = {"": os.stat(self.root).st_ino} | dict(_scan(self.root, ""))
        return sorted(
            path
            for path in found.keys() | self._held.keys()
            if found.get(path) != self._real.get(path) or not self._is_unchanged(path)
        )

    def _is_unchanged(self, path: str) -> bool:
        content = self._held[path].content
        return content is None or Path(f"{self.root}{path}").read_bytes() == content

    def _remove(self, path: str) -> None:
        node = self._held.pop(path)
        del self._real[path]
        if node.content is None:
            os.rmdir(f"{self.root}{path}")
        else:
            os.unlink(f"{self.root}{path}")

    def _make(self, path: str, node: Node, first: str) -> None:
        place = f"{self.root}{path}"
        if node.content is None:
            if path:
                os.mkdir(place)
            self._real[path] = os.stat(place).st_ino
        elif first != path:
            os.link(f"{self.root}{first}", place)
            self._real[path] = self._real[first]
        else:
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                if node.content:
                    os.write(fd, node.content)
                self._real[path] = os.fstat(fd).st_ino
            finally:
                os.close(fd)
        self._held[path] = node


def _is_same(held: Node, wanted: Node | None) -> bool:
    return (
        wanted is not None
        and held.stamp.inode == wanted.stamp.inode
        and held.content == wanted.content
    )


def _delete(place: str) -> None:
    if os.path.isdir(place):
        shutil.rmtree(place)
    else:
        os.unlink(place)


def _scan(root: Path, folder: str) -> list[tuple[str, int]]:
    """Return the paths below a folder, and the folder's, with their real numbers."""
    found = []
    folders = [folder]
    if folder and os.path.isdir(f"{root}{folder}"):
        found.append((folder, os.stat(f"{root}{folder}").st_ino))
    elif folder:
        return []
    while folders:
        folder = folders.pop()
        with os.scandir(f"{root}{folder}") as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                found.append((path, entry.inode()))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
    return found


def read_tree(root: Path) -> Tree:
    """Return what a directory holds, each file with a number of its own."""
    tree: Tree = {"": Node(Stamp(1, 1, 0), None)}
    for path, _ in sorted(_scan(root, "")):
        place = Path(f"{root}{path}")
        number = len(tree) + 1
        content = None if place.is_dir() else place.read_bytes()
        tree[path] = Node(Stamp(number, number, 0), content)
    return tree


@lru_cache(4096)
def hashed(content: bytes, algorithm: str) -> str:
    """Return the hexadecimal digits of a digest; the same few contents come again and again."""
    return hashlib.new(algorithm, content).hexdigest()
