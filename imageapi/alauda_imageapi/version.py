"""Which Kubernetes this server claims to be."""

import importlib.metadata

from alauda_imageapi.machinery.application import Version

KUBERNETES = ("1", "34")
"""The version of Kubernetes whose API conventions are kept; kubectl compares it with its own."""


def server_version() -> Version:
    """Return what ``/version`` says."""
    own = importlib.metadata.version("alauda-image-registry")
    return Version(*KUBERNETES, f"v{KUBERNETES[0]}.{KUBERNETES[1]}.0+alauda.{own}")
