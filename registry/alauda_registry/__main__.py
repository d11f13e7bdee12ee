"""The console script ``image-registry``, which is also ``python -m alauda_registry``.

The only place that finds what may be served beside the registry: the server knows it by a protocol.
"""

import importlib.metadata
import sys

from alauda_registry.server import cli
from alauda_registry.server.extensions import GROUP


def main() -> int:
    """Run the command; the exit code."""
    return cli.main(find_extension=find_extension)


def find_extension(name: str) -> str | None:
    """Return where an extension is, as ``module:attribute``; None if it is not installed."""
    found = importlib.metadata.entry_points(group=GROUP, name=name)
    return next((entry.value for entry in found), None)


if __name__ == "__main__":
    sys.exit(main())
