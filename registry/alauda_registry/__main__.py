"""The console script ``image-registry``, which is also ``python -m alauda_registry``."""

import sys

from alauda_registry.server.cli import main

if __name__ == "__main__":
    sys.exit(main())
