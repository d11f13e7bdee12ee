"""What ``make tools`` runs: installs the programs that the tests need, and says what it does."""

import sys

from tests.parts.tools import install, is_ci, pins


def main() -> int:
    missing = install(lambda line: print(f"tools: {line}", flush=True))
    for sentence in missing:
        print(f"tools: {sentence}", file=sys.stderr)
    if missing and not is_ci():
        print("tools: the tests that need these will be skipped", file=sys.stderr)
    if not missing:
        listed = pins()
        versions = [f"{program.name} {program.version}" for program in listed.go.values()]
        print(f"tools: {', '.join([*listed.debian, *versions])} are here")
    return 1 if missing and is_ci() else 0


if __name__ == "__main__":
    sys.exit(main())
