"""What a disk can look like after a power cut.

The model. A disk holds files and directories. What is done to them is seen by everybody at once,
and reaches the disk whenever it likes until somebody syncs:

- ``fsync`` makes durable what was there when it was called, as soon as it has returned.
- ``fsync`` of a file makes its bytes and its size durable, and not its name. Of bytes written
  since, any may have arrived: all, none (the file has the size it had), some (it ends anywhere),
  or the size without the bytes (zeros from anywhere on).
- ``fsync`` of a directory makes durable which names it holds and what each leads to. Of what
  happened to names since, each may have arrived or not, whatever the order it was done in, in this
  directory or others. A name that was changed several times is as it was after any of them.
- ``rename`` is two such things, one in each directory: after a cut the new name can be there
  with the old one (both lead to one file), or neither. A name that was renamed *over* leads to
  the old file or to the new one, and is never gone.
- What is in a directory is there only if all names on the way to it are: nothing is made
  durable by syncing a directory whose own name was lost.
- A directory that could be in two places is in one of them.
- ``sync_file_range`` makes nothing durable, and closing a file makes nothing durable.
- Locks are gone. Memory is gone, that of ``/proc/sys/kernel/random/boot_id``, too.

This is worse than what disks do. ext4, xfs and btrfs do a rename in one transaction, and bring
changes of names to the disk in their order (ext4 and xfs with the next commit of the journal, so
that one ``fsync`` brings along what others did before; btrfs logs the file that is synced and the
names it needs). All three give a size only to bytes that have arrived, unless they are told
otherwise (``data=writeback``), and may all the same leave a file that was never synced empty.
An NFS server has to have made a name durable before it answers, and bytes with COMMIT, which
``fsync`` sends; what it promises is what the file system below it keeps. POSIX promises less
than all of them: what is not synced may be anything. So this model is the one for which
``storage/driver.py`` and ``storage/directory/durability.py`` are written.

Not modelled: disks that acknowledge a flush and do not do it, bytes that were durable and rot,
and an ``fsync`` that fails (``tests/integration/test_disk_trouble.py``).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from typing_extensions import override

from tests.torture.effects import (
    ROOT,
    Effect,
    Linked,
    Made,
    Removed,
    Renamed,
    Stamp,
    Synced,
    Syncing,
    Truncated,
    Written,
)
from tests.torture.trees import Node, Tree


@dataclass(slots=True)
class File:
    """A file: its bytes on the disk, and as everybody sees them, and how old these are."""

    stamp: Stamp
    durable: bytes = b""
    seen: bytes = b""
    durable_since: int = 0
    seen_since: int = 0


@dataclass(slots=True)
class Directory:
    """A directory: the names on the disk, and what they were changed to since, and when."""

    stamp: Stamp
    durable: dict[str, int] = field(default_factory=dict)
    pending: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)
    synced_at: int = 0

    def seen(self, name: str) -> int | None:
        """Return what everybody sees a name lead to."""
        versions = self.pending.get(name)
        return versions[-1][1] if versions else self.durable.get(name)


class Adversary(Protocol):
    """Decides what arrived of what was not synced."""

    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        """Return what a name leads to; the first of the versions is the durable one."""
        ...

    def content(self, inode: int, file: File) -> bytes:
        """Return what a file holds."""
        ...


class Disk:
    """Follows a history, and says what would be left of it.

    Args:
        tree: What is on the disk at the start, all of it durable.
    """

    def __init__(self, tree: Tree) -> None:
        self._directories: dict[int, Directory] = {}
        self._files: dict[int, File] = {}
        self._places: dict[int, tuple[int, str]] = {}
        self._dirty: set[int] = set()
        self._effects = 0
        self._syncing: dict[int, tuple[int, bytes]] = {}
        for path, node in sorted(tree.items()):
            inode = node.stamp.inode
            if node.content is None:
                self._directories[inode] = Directory(node.stamp, synced_at=node.stamp.changed_at)
            else:
                self._files[inode] = File(node.stamp, node.content, node.content)
            if path:
                parent, _, name = path.rpartition("/")
                self._directories[tree[parent].stamp.inode].durable[name] = inode
                self._places[inode] = tree[parent].stamp.inode, name

    def apply(self, effect: Effect, now: int) -> None:
        """Take note of what was done next."""
        self._effects += 1
        match effect:
            case Made(parent, name, stamp, is_directory):
                if is_directory:
                    self._directories[stamp.inode] = Directory(stamp, synced_at=now)
                else:
                    self._files[stamp.inode] = File(stamp)
                self._change(parent, name, stamp.inode, now)
            case Written(inode, offset, content):
                seen = self._files[inode].seen
                before = seen[:offset].ljust(offset, b"\0")
                self._rewrite(inode, before + content + seen[offset + len(content) :], now)
            case Truncated(inode, size):
                self._rewrite(inode, self._files[inode].seen[:size].ljust(size, b"\0"), now)
            case Renamed(parent, name, target_parent, target_name):
                inode = self._directories[parent].seen(name)  # type: ignore[assignment] # it is there
                self._change(target_parent, target_name, inode, now)
                self._change(parent, name, None, now)
            case Linked(parent, name, inode):
                self._change(parent, name, inode, now)
            case Removed(parent, name):
                self._change(parent, name, None, now)
            case Syncing(inode, number):
                seen = self._files[inode].seen if inode in self._files else b""
                self._syncing[number] = self._effects, seen
            case Synced(inode, number):
                self._sync(inode, *self._syncing.pop(number))

    def undecided(self) -> list[tuple[int, str | None]]:
        """Return what a cut may take: names in directories, and contents (None) of files.

        What is below the driver's own folder is left out, as long as there is anything else.
        """
        found: list[tuple[int, str | None]] = [(inode, None) for inode in sorted(self._dirty)]
        for inode, directory in self._directories.items():
            found += [(inode, name) for name in directory.pending]
        return [item for item in found if not self._is_of_the_driver(item[0])] or found

    def tree(self, adversary: Adversary) -> Tree:
        """Return what an adversary would leave."""
        tree: Tree = {}
        found = {ROOT}
        folders = [("", ROOT)]
        while folders:
            path, inode = folders.pop()
            directory = self._directories[inode]
            entries = directory.durable
            stamp = directory.stamp
            if directory.pending:
                entries, is_changed = self._entries(inode, directory, adversary)
                if not is_changed:
                    stamp = Stamp(stamp.inode, stamp.number, directory.synced_at)
            tree[path] = Node(stamp, None)
            for name, child in entries.items():
                place = f"{path}/{name}"
                if child not in self._files:
                    if child not in found:
                        found.add(child)
                        folders.append((place, child))
                    continue
                file = self._files[child]
                content = adversary.content(child, file) if child in self._dirty else file.durable
                tree[place] = Node(file.stamp, content)
        return tree

    def _entries(
        self, inode: int, directory: Directory, adversary: Adversary
    ) -> tuple[dict[str, int], bool]:
        entries = dict(directory.durable)
        for name, pending in directory.pending.items():
            versions = [directory.durable.get(name), *(version for _, version in pending)]
            chosen = adversary.entry(inode, name, versions)
            if chosen is None:
                entries.pop(name, None)
            else:
                entries[name] = chosen
        return entries, entries != directory.durable

    def _change(self, parent: int, name: str, inode: int | None, now: int) -> None:
        directory = self._directories[parent]
        if inode is not None:
            self._places[inode] = parent, name
        directory.pending.setdefault(name, []).append((self._effects, inode))
        directory.stamp = Stamp(directory.stamp.inode, directory.stamp.number, now)

    def _is_of_the_driver(self, inode: int) -> bool:
        name = ""
        while inode in self._places:
            inode, name = self._places[inode]
        return name == "_driver"

    def _rewrite(self, inode: int, seen: bytes, now: int) -> None:
        file = self._files[inode]
        file.seen, file.seen_since = seen, self._effects
        file.stamp = Stamp(inode, file.stamp.number, now)
        self._dirty.add(inode)

    def _sync(self, inode: int, begun: int, seen: bytes) -> None:
        """Make durable what was there when a sync began."""
        if inode in self._files:
            file = self._files[inode]
            if begun > file.durable_since:
                file.durable, file.durable_since = seen, begun
            if file.seen_since < begun:
                self._dirty.discard(inode)
            return
        directory = self._directories[inode]
        for name, pending in list(directory.pending.items()):
            arrived = [version for since, version in pending if since < begun]
            if not arrived:
                continue
            if arrived[-1] is None:
                directory.durable.pop(name, None)
            else:
                directory.durable[name] = arrived[-1]
            del pending[: len(arrived)]
            if not pending:
                del directory.pending[name]
        directory.synced_at = directory.stamp.changed_at


class NothingArrived:
    """Only what was synced is there."""

    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        return versions[0]

    def content(self, inode: int, file: File) -> bytes:
        return file.durable


class EverythingArrived:
    """All is there, as after a process was killed."""

    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        return versions[-1]

    def content(self, inode: int, file: File) -> bytes:
        return file.seen


class NamesWithoutBytes(EverythingArrived):
    """All names are there, and files are as long as they were when they were last synced."""

    @override
    def content(self, inode: int, file: File) -> bytes:
        return file.durable


class NamesWithZeros(EverythingArrived):
    """All names and sizes are there, and zeros where bytes were not synced."""

    @override
    def content(self, inode: int, file: File) -> bytes:
        return _zeroed(file, 0)


class NothingRemoved(EverythingArrived):
    """What was made is there, and what was removed is there, too."""

    @override
    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        return next((version for version in reversed(versions) if version is not None), None)


class NothingMade(NothingArrived):
    """What was removed is gone, and what was made is not there."""

    @override
    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        return None if None in versions[1:] else versions[0]


class Dice:
    """Each thing arrived or not.

    Args:
        die: Decides.
        chance: How likely it is that a change of a name arrived.
    """

    def __init__(self, die: random.Random, chance: float) -> None:
        self._die = die
        self._chance = chance
        self._chosen: dict[int, bytes] = {}

    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        if self._die.random() < self._chance:
            return versions[-1]
        return self._die.choice(versions)

    def content(self, inode: int, file: File) -> bytes:
        if inode not in self._chosen:
            self._chosen[inode] = _torn(file, self._die)
        return self._chosen[inode]


class OneLost(EverythingArrived):
    """All but one thing arrived.

    Args:
        lost: A directory with a name, or a file with None.
        die: Decides what is left of bytes.
    """

    def __init__(self, lost: tuple[int, str | None], die: random.Random) -> None:
        self._lost = lost
        self._die = die
        self._content: bytes | None = None

    @override
    def entry(self, directory: int, name: str, versions: list[int | None]) -> int | None:
        return versions[0] if (directory, name) == self._lost else versions[-1]

    @override
    def content(self, inode: int, file: File) -> bytes:
        if (inode, None) != self._lost:
            return file.seen
        if self._content is None:
            self._content = _torn(file, self._die)
        return self._content


def _zeroed(file: File, arrived: int) -> bytes:
    """Return a file of the right size in which only the first unsynced bytes arrived."""
    kept = max(len(file.durable), arrived)
    seen = file.seen[:kept] if file.seen.startswith(file.durable) else file.durable[:kept]
    return seen.ljust(len(file.seen), b"\0")[: len(file.seen)]


def _torn(file: File, die: random.Random) -> bytes:
    arrived = die.randint(min(len(file.durable), len(file.seen)), len(file.seen))
    match die.randrange(4):
        case 0:
            return file.durable
        case 1:
            return file.seen
        case 2:
            return file.seen[:arrived]
        case _:
            return _zeroed(file, arrived)


def survivors(disk: Disk, die: random.Random, *, each: bool = False) -> Iterator[tuple[str, Tree]]:
    """Yield what several adversaries would leave, with their names.

    Args:
        disk: Says what they have to decide about.
        die: Decides for some of them.
        each: Whether each single thing that can be lost is, one at a time.
    """
    yield "nothing arrived", disk.tree(NothingArrived())
    undecided = disk.undecided()
    if not undecided:
        return
    yield "everything arrived", disk.tree(EverythingArrived())
    yield "names without bytes", disk.tree(NamesWithoutBytes())
    yield "names with zeros", disk.tree(NamesWithZeros())
    yield "nothing removed", disk.tree(NothingRemoved())
    yield "nothing made", disk.tree(NothingMade())
    for lost in undecided if each else [die.choice(undecided)]:
        yield "one lost", disk.tree(OneLost(lost, die))
    for chance in (0.1, 0.5, 0.9):
        yield "by dice", disk.tree(Dice(die, chance))
