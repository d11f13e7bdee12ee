"""The command ``image-registry fsck``: checks a tree, and repairs it when asked to."""

import argparse
import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid
from alauda_registry.server.commands.reports import JsonReport, Meter, Report, TextReport
from alauda_registry.server.durations import parse_duration
from alauda_registry.server.roots import check_claim
from alauda_registry.server.settings import CannotStart
from alauda_registry.server.sources import load_settings
from alauda_registry.storage.driver import Busy, DriverError
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from alauda_registry.storage.fsck.check import Check, Watcher
from alauda_registry.storage.fsck.directory import DirectoryTree
from alauda_registry.storage.fsck.progress import OtherTree, Progress
from alauda_registry.storage.fsck.repairs import Repairer
from alauda_registry.storage.fsck.verdicts import Rules
from alauda_registry.storage.rooted import RootedDirectory

EPILOG = """\
examples:
  image-registry fsck --root ./data
      read everything, compare every blob with its digest, change nothing

  image-registry fsck --root ./data --no-hash
      only look whether everything is there: much faster

  image-registry fsck --config /etc/distribution/config.yml --repair
      put right what can be put right; what leads to nothing is moved to _fsck/quarantine

  image-registry fsck --root ./data --state /var/tmp/fsck.state
      keep in a file how far hashing came; the same command goes on there

  image-registry fsck --root ./data --format json | jq 'select(.severity == "broken")'
      one JSON object on each line; the last one is the summary

A registry may run meanwhile, and be written to. Only with --repair must it not be registry:2
or registry:3, which know nothing of our locks.

exit codes:
  0  nothing is broken, or all of it was repaired; there may be garbage
  1  something is broken
  2  the command was not understood
  3  the tree could not be checked to its end, or nobody read what was found
  130  stopped by Ctrl-C or SIGTERM
"""

FLAGS = (
    "--root",
    "--config",
    "--no-hash",
    "--repair",
    "--format",
    "--verbose",
    "--allow-sparse",
    "--age",
    "--state",
    "--after",
    "--jobs",
    "--progress",
    "--no-progress",
)
_TREE = "docker/registry/v2"
_LOCKS = "_driver/locks"
_FOLDERS = (
    "docker",
    "docker/registry",
    _TREE,
    f"{_TREE}/repositories",
    f"{_TREE}/blobs",
    f"{_TREE}/blobs/sha256",
    f"{_TREE}/blobs/sha512",
)
_BROKEN, _UNCHECKED, _STOPPED = 1, 3, 130
_JOBS_MAXIMUM = 8
"""Each takes some 20 MB, and a container may have little of that on a machine with many cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's flags."""
    parser.add_argument("--root", metavar="DIR", help="folder of the data")
    parser.add_argument("--config", metavar="FILE", help="or the configuration that names it")
    parser.add_argument(
        "--no-hash", action="store_true", help="do not compare blobs with their digests"
    )
    parser.add_argument("--repair", action="store_true", help="put right what can be put right")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="text (default) or json"
    )
    parser.add_argument("--verbose", action="store_true", help="list garbage and notes one by one")
    parser.add_argument(
        "--allow-sparse", action="store_true", help="layers that were never pushed may be missing"
    )
    parser.add_argument(
        "--age",
        metavar="DURATION",
        type=_duration,
        default=timedelta(hours=1),
        help="leave out garbage younger than this (default 1h)",
    )
    parser.add_argument("--state", metavar="FILE", help="keep here how far hashing came")
    parser.add_argument("--after", metavar="DIGEST", type=_digest, help="hash blobs behind this")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        help=f"processes that hash (default: one for each core, at most {_JOBS_MAXIMUM})",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show how far it is (default: on a terminal)",
    )


def run(options: argparse.Namespace) -> int:
    """Check the tree; the exit code."""
    # Python has None for what was closed from the start.
    if getattr(sys, "stderr", None) is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- for as long as there is something to say
    if getattr(sys, "stdout", None) is None:
        _say("the standard output is closed, and nobody could read there what is found")
        return _UNCHECKED
    try:
        target = _target(options)
        progress = None if options.state is None else Progress.open(Path(options.state), target.id)
    except CannotStart as error:
        _say(*str(error).splitlines())
        return _UNCHECKED
    except (OSError, OtherTree) as error:
        _say(f"cannot use {options.state}: {error}")
        return _UNCHECKED
    report: Report = JsonReport() if options.format == "json" else TextReport(options.verbose)
    is_shown = sys.stderr.isatty() if options.progress is None else options.progress
    watcher = _Watcher(Meter(is_shown), progress, options.after)
    try:
        return asyncio.run(_check(target, options, report, watcher))
    except asyncio.CancelledError:
        watcher.meter.close()
        _say("stopped", *watcher.how_to_go_on(options))
        return _STOPPED
    except Busy:
        watcher.meter.close()
        _say("another fsck --repair is at work on this tree: wait for its end")
        return _UNCHECKED
    except (DriverError, OSError) as error:
        watcher.meter.close()
        if isinstance(error, BrokenPipeError):
            # Whoever read the output went away: nobody was told that nothing is broken.
            return _UNCHECKED
        _say(f"cannot go on: {error}", *watcher.how_to_go_on(options))
        return _UNCHECKED
    except sqlite3.Error as error:
        watcher.meter.close()
        _say(f"cannot keep notes: {error}; set TMPDIR to a folder with more room")
        return _UNCHECKED
    finally:
        watcher.meter.close()
        if progress is not None:
            progress.close()


@dataclass(frozen=True, slots=True)
class _Target:
    """What to check, and by which rules."""

    root: Path
    rules: Rules

    @property
    def id(self) -> str:
        """What names the tree.

        Raises:
            CannotStart: It has no name that can be read.
        """
        try:
            root = RootedDirectory(self.root, make=False)
        except OSError as error:
            raise CannotStart(f"cannot read {self.root}: {error}") from error
        root.close()
        volume = root.volume or self.root.stat().st_ino
        return f"{self.root.resolve()}, volume {volume}"


def _target(options: argparse.Namespace) -> _Target:
    """Find the tree.

    Raises:
        CannotStart: There is none.
    """
    root, upload_age, allow_sparse = options.root, timedelta(hours=24), options.allow_sparse
    if root is None or options.config is not None:
        settings = load_settings(options.config, []).settings
        upload_age = settings.storage.maintenance.upload_purging.age
        allow_sparse = allow_sparse or settings.validation.allow_sparse
        if root is None and settings.storage.pvc is not None:
            check_claim(settings.storage.pvc)
        root = root or settings.storage.root
        if root is None and settings.storage.s3 is not None:
            raise CannotStart(
                f"fsck checks folders, and not {settings.storage.where} yet: copy the bucket into "
                "one (aws s3 sync, mc mirror) and say --root"
            )
        if root is None:
            raise CannotStart(
                "the configuration keeps nothing on a disk: there is nothing to check"
            )
    rules = Rules(options.age, upload_age, allow_sparse, not options.no_hash)
    _require_tree(Path(root))
    if options.repair and os.geteuid() == 0 != Path(root).stat().st_uid:
        raise CannotStart(
            f"{root} belongs to user {Path(root).stat().st_uid}, and what root makes there the "
            "registry could not use: run the command as that user"
        )
    return _Target(Path(root), rules)


def _require_tree(root: Path) -> None:
    """See whether there is a registry in a folder, and otherwise where it may be.

    Raises:
        CannotStart: There is none.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise CannotStart(f"cannot read {root}: {error.strerror}") from error
    for folder in (root / name for name in _FOLDERS):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            what = "a symbolic link, and none is followed" if folder.is_symlink() else "no folder"
            raise CannotStart(f"{folder} is {what}: mount or move what belongs there in its place")
    if (root / _TREE).is_dir() or "_driver" in names:
        return
    for above in root.absolute().parents[:3]:
        if (above / _TREE).is_dir():
            raise CannotStart(f"{root} is inside of a registry's folder: say --root {above}")
    for name in names:
        with contextlib.suppress(OSError):
            if (root / name / _TREE).is_dir():
                raise CannotStart(f"there is no registry in {root}: did you mean {root / name}?")
    raise CannotStart(f"there is no registry in {root}: it has no folder {_TREE}")


async def _check(
    target: _Target, options: argparse.Namespace, report: Report, watcher: "_Watcher"
) -> int:
    driver = FilesystemDriver(target.root, read_only=not options.repair)
    tree = DirectoryTree(target.root, jobs=options.jobs or _cores())
    check = Check(
        driver,
        tree,
        target.rules,
        watcher,
        repairer=Repairer(driver, _run_name()) if options.repair else None,
        # A lock is a file, too, and without --repair none is made.
        locking=options.repair or os.access(target.root / _LOCKS, os.W_OK),
        after=watcher.after,
        suspects=watcher.suspects,
    )
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def stop() -> None:
        tree.interrupt()
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        async with contextlib.aclosing(check.findings()) as findings:
            async for finding in findings:
                with watcher.meter.paused():
                    report.add(finding)
        watcher.finish()
        report.end(check.summary, hashed=target.rules.hashing)
    finally:
        tree.close()
        check.close()
        await driver.aclose()
    return _BROKEN if check.summary.broken else 0


class _Watcher(Watcher):
    """Shows how far the check is, and remembers it."""

    def __init__(self, meter: Meter, progress: Progress | None, after: Digest | None) -> None:
        self.meter = meter
        self._progress = progress
        self.after = after
        self.suspects: list[Digest] = []
        if progress is not None and progress.after is not None and after is None:
            self.after, self.suspects = progress.after, progress.suspects
        self._is_hashing = False

    @override
    def begin(self, phase: str, total: int | None, unit: str) -> None:
        self._is_hashing = phase == "hashing"
        self.meter.begin(phase, total, unit)

    @override
    def advance(self, count: int) -> None:
        self.meter.advance(count)

    @override
    def reached(self, digest: Digest, suspects: Sequence[Digest]) -> None:
        self.after = digest
        if self._progress is not None:
            self._progress.reached(digest, list(suspects))

    def finish(self) -> None:
        """Everything was looked at."""
        self.meter.close()
        if self._progress is not None:
            self._progress.finish()

    def how_to_go_on(self, options: argparse.Namespace) -> list[str]:
        """Say how to do what is left."""
        if self.after is None:
            return []
        if options.state is not None:
            return [f"blobs up to {self.after} are hashed: the same command goes on there"]
        return [
            f"blobs up to {self.after} are hashed: add this to the command to go on there:",
            f"  --after {self.after}",
        ]


def _run_name() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), _JOBS_MAXIMUM)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1000:
        raise argparse.ArgumentTypeError("write a number from 1 to 999")
    return int(text)


def _say(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(f"image-registry: {line}\n")
