"""The command ``python -m conformance.oci``: run the checks against a registry, print a table."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import httpx

from conformance.oci import suite
from conformance.oci.check import Level, Version
from conformance.oci.registry import Registry
from conformance.oci.suite import Outcome, Result

USAGE = 2

DESCRIPTION = """\
Checks a registry against the OCI distribution specification, one check for each MUST and SHOULD,
and against what common clients count on besides (section "Clients").

It pushes small content to repositories below conformance/ and does not clean up, so take a registry
that is made for trials. Redirects are followed; Basic and Bearer challenges are answered.
"""

EPILOG = """\
examples:
  python -m conformance.oci --url http://127.0.0.1:5000
  python -m conformance.oci --url https://registry.example.org --username me --version 1.1
  python -m conformance.oci --url http://127.0.0.1:5000 --filter 'Listing*' --filter 'mount-*'
  python -m conformance.oci --list

outcomes:
  ok              the registry does what is asked
  FAIL            it does something else; the message says what was asked, what came and what
                  was expected
  not supported   it leaves out what the specification lets it leave out, and says so as it has to

exit status: 0 no MUST failed, 1 at least one MUST failed, 2 wrong usage or no registry at the URL
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    version = Version(options.version)
    checks = suite.select(version, options.filter)
    if not checks:
        parser.error("no check has such an id or section; --list shows all of them")
    if options.list:
        for check in checks:
            told = f"{check.id:<52} {check.level_in(version):<6} {check.version:<4} {check.section}"
            print(f"{told}\n    {check.requirement}")
        return 0
    if not options.url:
        parser.error("tell the registry with --url, for example --url http://127.0.0.1:5000")

    registry = Registry(
        options.url,
        username=options.username,
        password=options.password,
        prefix=options.repository,
        allow_sparse=options.allow_sparse,
        verify=not options.insecure,
    )
    try:
        registry.request("GET", "v2/")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"no registry answers at {options.url}: {error}", file=sys.stderr)
        return USAGE
    results = []
    for check in checks:
        results.append(suite.run(check, registry))
        print(line(results[-1], version), flush=True)
    registry.close()

    print(summary(results, version))
    if options.json:
        options.json.write_text(json.dumps(report(results, options.url, version), indent=2) + "\n")
    return 1 if failures(results, version, Level.MUST) else 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance.oci",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", help="the registry, without /v2/")
    parser.add_argument(
        "--version",
        default=Version.DEV.value,
        choices=[version.value for version in Version],
        help="the specification to check against: release 1.1, or its current main (default: dev)",
    )
    parser.add_argument("--username", default="", help="for Basic and Bearer challenges")
    parser.add_argument(
        "--password",
        default=os.environ.get("CONFORMANCE_PASSWORD", ""),
        help="better given in the environment variable CONFORMANCE_PASSWORD",
    )
    parser.add_argument(
        "--repository",
        default="conformance",
        metavar="PREFIX",
        help="repositories are made below this name (default: conformance)",
    )
    parser.add_argument(
        "--allow-sparse",
        action="store_true",
        help="the registry is set to take manifests whose parts are missing, so it must",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate of an https registry"
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only checks whose id or section fits; * is anything; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--list", action="store_true", help="print the checks and run none")
    return parser


def line(result: Result, version: Version) -> str:
    """Return the table line of a result, with the message of one that isn't ok below it."""
    check = result.check
    told = f"{result.outcome:<13} {check.level_in(version):<6} {check.id:<52} {check.section}"
    if result.outcome is Outcome.FAIL:
        told += "\n" + textwrap.indent(f"{check.requirement}\n{result.message}", " " * 8)
    return told


def summary(results: Sequence[Result], version: Version) -> str:
    """Count what came of the checks."""
    counts = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    must = len(failures(results, version, Level.MUST))
    return (
        f"\n{len(results)} checks of version {version}: {counts[Outcome.OK]} ok, "
        f"{counts[Outcome.FAIL]} failed ({must} of them MUST), "
        f"{counts[Outcome.NOT_SUPPORTED]} not supported"
    )


def failures(results: Sequence[Result], version: Version, level: Level) -> list[Result]:
    """Return what failed at a level."""
    return [
        result
        for result in results
        if result.outcome is Outcome.FAIL and result.check.level_in(version) is level
    ]


def report(results: Sequence[Result], url: str, version: Version) -> dict[str, object]:
    """Return the results as they are written to a file."""
    return {
        "url": url,
        "version": version.value,
        "checks": [
            {
                "id": result.check.id,
                "section": result.check.section,
                "level": result.check.level_in(version).value,
                "since": result.check.version.value,
                "requirement": result.check.requirement,
                "outcome": result.outcome.value,
                "message": result.message,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
