"""Runs the official conformance program of the Open Container Initiative against a registry.

The program isn't in any package registry, so it is never fetched from here: whoever has built it
names it in ``OCI_CONFORMANCE_PROGRAM``. Every option for APIs and data is turned on, because what
is turned off passes silently. A skip counts as a failure for the same reason: the program skips
what a registry doesn't support, and we claim to support all of it. The one exception is mounting a
blob without saying where it is, which a registry with a login must not do.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from typing_extensions import override

PROGRAM = "OCI_CONFORMANCE_PROGRAM"
VERSIONS = ("1.1", "dev")
TIMEOUT = 600
ABSENT = 3

NAMELESS_MOUNT = "BLOBS_MOUNT_ANONYMOUS"
"""Mounting a blob without saying where it is. Who has to say who they are can't have it: it would
tell them which blobs others have."""

APIS = (
    "PING",
    "PULL",
    "PUSH",
    "REFERRER",
    "BLOBS_ATOMIC",
    "BLOBS_DELETE",
    "BLOBS_DIGEST_HEADER",
    NAMELESS_MOUNT,
    "BLOBS_UPLOAD_CANCEL",
    "MANIFESTS_ATOMIC",
    "MANIFESTS_DELETE",
    "MANIFESTS_DIGEST_HEADER",
    "MANIFESTS_TAG_PARAM",
    "TAGS_ATOMIC",
    "TAGS_DELETE",
    "TAGS_LIST",
)

DATA = (
    "IMAGE",
    "INDEX",
    "INDEX_LIST",
    "SPARSE",
    "ARTIFACT",
    "ARTIFACT_LIST",
    "SUBJECT",
    "SUBJECT_MISSING",
    "SUBJECT_LIST",
    "DATA_FIELD",
    "NONDISTRIBUTABLE",
    "CUSTOM_FIELDS",
    "NO_LAYERS",
    "EMPTY_BLOB",
    "SHA512",
)

DESCRIPTION = f"""\
Runs the official OCI conformance program against a registry, with every API and data option on.

The program has to be built by you, with Go, from the folder conformance of the repository
opencontainers/distribution-spec on GitHub (go build -o oci-conformance .); name it in the
environment variable {PROGRAM}. The registry has to take manifests whose parts
are missing, since sparse data is on, too (ours: image-registry serve --allow-sparse).

exit status: 0 everything passed, 1 something failed or was skipped, 2 wrong usage,
             {ABSENT} the program isn't at hand, which says nothing about the registry
"""


class ProgramAbsent(Exception):
    """The official program isn't at hand. That is no pass."""


class NoResults(Exception):
    """The program ended without results, so it didn't judge the registry."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the program found in one version."""

    version: str
    counts: Counter[str]
    troubles: list[str] = field(default_factory=list)
    may_be_disabled: bool = False
    """Whether an option was turned off."""
    mounts_fell_back: int = 0
    """How many mounts were answered by an upload. With tokens of another server that is no fault:
    the program mounts with one for the target alone, and who may pull the source is not known."""

    @property
    def passed(self) -> bool:
        """Nothing failed, nothing else was left out, and something was tried."""
        left = Counter(self.counts)
        if self.may_be_disabled:
            del left["disabled"]
            left["skip"] -= self.mounts_fell_back
        return set(+left) == {"pass"}

    @override
    def __str__(self) -> str:
        """One line with the counts, and a line for each test that didn't pass."""
        counts = ", ".join(
            f"{self.counts[state]} {state}"
            for state in ("pass", "fail", "skip", "disabled", "error")
        )
        return "\n  ".join([f"version {self.version}: {counts}", *self.troubles])


def find_program(environment: Mapping[str, str]) -> Path:
    """Return the official program.

    Raises:
        ProgramAbsent: None is named, or what is named can't be run.
    """
    named = environment.get(PROGRAM, "")
    if not named:
        raise ProgramAbsent(
            f"the official program isn't at hand: {PROGRAM} names none. Nothing was checked"
        )
    program = Path(named).resolve()
    if not os.access(program, os.X_OK) or program.is_dir():
        raise ProgramAbsent(
            f"the official program isn't at hand: {PROGRAM}={named} can't be run. "
            "Nothing was checked"
        )
    return program


def run(
    program: Path,
    url: str,
    version: str,
    folder: Path,
    *,
    username: str = "",
    password: str = "",
) -> Outcome:
    """Run the program once and return what it found.

    Args:
        program: The official program.
        url: The registry.
        version: The specification to judge by.
        folder: An empty folder, where the program leaves its reports.
        username: Who logs in; empty for nobody.
        password: The password that goes with it.

    Raises:
        NoResults: The program left no results.
    """
    address = urlsplit(url)
    environment = {
        "OCI_REGISTRY": address.netloc,
        "OCI_TLS": "enabled" if address.scheme == "https" else "disabled",
        "OCI_VERSION": version,
        "OCI_RESULTS_DIR": str(folder),
        "OCI_USERNAME": username,
        "OCI_PASSWORD": password,
        **{f"OCI_API_{name}": "true" for name in APIS},
        **({f"OCI_API_{NAMELESS_MOUNT}": "false"} if username else {}),
        **{f"OCI_DATA_{name}": "true" for name in DATA},
    }
    # An inherited OCI_* variable would turn an option off behind our back.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
    done = subprocess.run(
        [program],
        env={**inherited, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    report = folder / "junit.xml"
    if not report.is_file():
        raise NoResults(f"{program} left no results: {done.stderr.strip() or done.stdout.strip()}")
    outcome = replace(read_report(report.read_bytes(), version), may_be_disabled=bool(username))
    if done.returncode != 0 and outcome.passed:
        raise NoResults(f"{program} ended with {done.returncode}: {done.stderr.strip()}")
    return outcome


def read_report(report: bytes, version: str) -> Outcome:
    """Read the report in JUnit's form; each of its test cases counts once."""
    counts: Counter[str] = Counter()
    troubles = []
    fell_back = 0
    # The report is written by the program we have just run, so it isn't hostile.
    for case in ElementTree.fromstring(report).iter("testcase"):
        state = state_of(case)
        counts[state] += 1
        if state != "pass":
            reason = " ".join((case.findtext("system-out") or "no reason given").split())
            troubles.append(f"{state:<8} {case.get('name')}: {reason}")
            fell_back += state == "skip" and reason.endswith("fell back to blob POST+PUT")
    return Outcome(version, counts, troubles, mounts_fell_back=fell_back)


def state_of(case: ElementTree.Element) -> str:
    """Return the state of a test case; the report calls a disabled one skipped."""
    states = {"passed": "pass", "failure": "fail", "error": "error"}
    told = case.get("status", "")
    if told == "skipped":
        disabled = "disabled in the configuration" in (case.findtext("system-err") or "")
        return "disabled" if disabled else "skip"
    return states.get(told, "error")


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.official",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", required=True, help="the registry, for example http://127.0.0.1:5000"
    )
    parser.add_argument(
        "--version", action="append", choices=VERSIONS, help="only this one (default: both)"
    )
    parser.add_argument("--username", default="", help="who logs in")
    parser.add_argument(
        "--password",
        default=os.environ.get("CONFORMANCE_PASSWORD", ""),
        help="better given in the environment variable CONFORMANCE_PASSWORD",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="keep the program's reports in folders below this",
    )
    options = parser.parse_args(arguments)
    if urlsplit(options.url).scheme not in {"http", "https"}:
        parser.error("the URL has to begin with http:// or https://")
    try:
        program = find_program(os.environ)
    except ProgramAbsent as absent:
        print(absent, file=sys.stderr)
        return ABSENT

    passed = True
    with tempfile.TemporaryDirectory() as temporary:
        for version in options.version or VERSIONS:
            folder = (options.results or Path(temporary)).resolve() / version
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "junit.xml").unlink(missing_ok=True)
            try:
                outcome = run(
                    program,
                    options.url,
                    version,
                    folder,
                    username=options.username,
                    password=options.password,
                )
            except (NoResults, OSError, subprocess.TimeoutExpired) as error:
                print(f"version {version}: no judgement: {error}", file=sys.stderr)
                return 1
            print(outcome)
            passed = passed and outcome.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
