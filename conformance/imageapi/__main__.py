"""The command ``python -m conformance.imageapi``: run the checks against a resource of a server."""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase

import httpx

from conformance.imageapi.checks import CHECKS, Check
from conformance.imageapi.target import Failed, Target, make_client

USAGE = 2

DESCRIPTION = """\
Checks a namespaced resource of a Kubernetes API against the conventions that client-go, kubectl and
the controllers rely on. It makes objects in new namespaces and does not clean up.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance.imageapi", description=DESCRIPTION)
    parser.add_argument("--url", help="the server, such as http://127.0.0.1:5000")
    parser.add_argument("--group", default="image.alauda.io", help="default: %(default)s")
    parser.add_argument("--version", default="v1", help="default: %(default)s")
    parser.add_argument("--resource", default="imagestreams", help="default: %(default)s")
    parser.add_argument("--kind", default="ImageStream", help="default: %(default)s")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--filter", default="*", metavar="PATTERN", help="only these checks")
    parser.add_argument("--list", action="store_true", help="print the checks and run none")
    options = parser.parse_args(arguments)
    checks = [check for check in CHECKS if fnmatchcase(check.id, options.filter)]
    if options.list:
        for check in checks:
            print(f"{check.id}\n    {check.requirement}")
        return 0
    if not options.url or not checks:
        parser.error("tell the server with --url, and a --filter that fits a check")
    # A token belongs into no list of processes.
    token = os.environ.get("CONFORMANCE_TOKEN", "")
    client = make_client(options.url, token, verify=not options.insecure)
    target = Target(client, options.group, options.version, options.resource, options.kind)
    with client:
        failed = [check for check in checks if not report(check, run(check, target))]
    print(f"\n{len(checks)} checks: {len(checks) - len(failed)} ok, {len(failed)} failed")
    return 1 if failed else 0


def run(check: Check, target: Target) -> str:
    """Run a check, and return what is wrong; nothing when all is well."""
    try:
        check.run(target.place())
    except (Failed, httpx.HTTPError) as error:
        return str(error) or type(error).__name__
    except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
        return f"the answer has another shape: {type(error).__name__}: {error}"
    return ""


def report(check: Check, trouble: str) -> bool:
    """Print how a check ended; whether it was well."""
    print(f"{'FAIL' if trouble else 'ok':<5} {check.id}", flush=True)
    if trouble:
        print(textwrap.indent(f"{check.requirement}\n{trouble[:2000]}", " " * 8))
    return not trouble


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
