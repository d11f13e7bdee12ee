"""The command ``image-registry fsck``: checks a tree, and repairs it when asked to."""

import argparse
import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from typing_extensions import override

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import DigestInvalid
from alauda_registry.server.commands.reports import JsonReport, Meter, Report, TextReport
from alauda_registry.server.commands.targets import JOBS_MAXIMUM, Target, find_target
from alauda_registry.serving.durations import parse_duration
from alauda_registry.serving.starting import CannotStart
from alauda_registry.storage.driver import Busy, DriverError
from alauda_registry.storage.fsck.check import Check, Watcher
from alauda_registry.storage.fsck.progress import OtherTree, Progress
from alauda_registry.storage.fsck.repairs import Repairer
from alauda_registry.storage.fsck.tree import Tree

EPILOG = """\
examples:
  image-registry fsck --root ./data
      read everything, compare every blob with its digest, change nothing

  image-registry fsck --root ./data --no-hash
      only look whether everything is there: much faster

  image-registry fsck --config /etc/distribution/config.yml --repair
      put right what can be put right; what leads to nothing is moved to _fsck/quarantine

  image-registry fsck --config /etc/distribution/config.yml
      check what the configuration names, which may be a bucket

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
_BROKEN, _UNCHECKED, _STOPPED = 1, 3, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's flags."""
    parser.add_argument("--root", metavar="DIR", help="folder of the data")
    parser.add_argument(
        "--config", metavar="FILE", help="or the configuration that names it, or a bucket"
    )
    # Where nothing is hashed, nothing is to be kept of it; what is kept begins at the beginning.
    hashing = parser.add_mutually_exclusive_group()
    hashing.add_argument(
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
    hashing.add_argument("--state", metavar="FILE", help="keep here how far hashing came")
    hashing.add_argument("--after", metavar="DIGEST", type=_digest, help="hash blobs behind this")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        help=f"processes that hash (default: one for each core, at most {JOBS_MAXIMUM})",
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
        target = find_target(options)
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
    except CannotStart as error:
        _say(*str(error).splitlines())
        return _UNCHECKED
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
        advice = getattr(error, "advice", None)
        reason = f"{advice} ({error})" if advice else str(error)
        _say(f"cannot go on: {reason}", *watcher.how_to_go_on(options))
        return _UNCHECKED
    except sqlite3.Error as error:
        watcher.meter.close()
        _say(f"cannot keep notes: {error}; set TMPDIR to a folder with more room")
        return _UNCHECKED
    finally:
        watcher.meter.close()
        if progress is not None:
            progress.close()


async def _check(
    target: Target, options: argparse.Namespace, report: Report, watcher: "_Watcher"
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        storage = await stack.enter_async_context(target.opened())
        check = Check(
            storage.driver,
            storage.tree,
            target.rules,
            watcher,
            repairer=Repairer(storage.driver, _run_name()) if options.repair else None,
            locking=storage.locking,
            after=watcher.after,
            suspects=watcher.suspects,
        )
        stack.callback(check.close)
        _stop_on_signals(storage.tree)
        findings = await stack.enter_async_context(contextlib.aclosing(check.findings()))
        async for finding in findings:
            with watcher.meter.paused():
                report.add(finding)
        watcher.finish()
        # Of what a state says that it was hashed, what was wrong then was looked at again.
        report.end(check.summary, hashed=target.rules.hashing, after=options.after)
    return _BROKEN if check.summary.broken else 0


def _stop_on_signals(tree: Tree) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def stop() -> None:
        tree.interrupt()
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


class _Watcher(Watcher):
    """Shows how far the check is, and remembers it."""

    def __init__(self, meter: Meter, progress: Progress | None, after: Digest | None) -> None:
        self.meter = meter
        self._progress = progress
        self.after = after
        self.suspects: list[Digest] = []
        if progress is not None and progress.after is not None:
            self.after, self.suspects = progress.after, progress.suspects

    @override
    def begin(self, phase: str, total: int | None, unit: str) -> None:
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


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1000:
        raise argparse.ArgumentTypeError("write a number from 1 to 999")
    return int(text)


def _say(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(f"image-registry: {line}\n")
