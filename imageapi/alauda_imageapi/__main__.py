"""The console script ``image-api-server``, which is also ``python -m alauda_imageapi``."""

import sys

from alauda_imageapi.cluster.command import main

if __name__ == "__main__":
    sys.exit(main())
