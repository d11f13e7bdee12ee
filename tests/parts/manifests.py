"""Our manifests, as a cluster is given them: package data, and in one of them a word is missing."""

import re
from importlib import resources
from typing import Any

import yaml

from alauda_registry import kube

IMAGE_API = (
    *("cluster-roles", "store-crds", "store-access"),
    *("image-api-access", "image-api-flow", "image-api-service", "image-api-apiservice"),
)
"""In the order in which the image API needs them; it has to answer before the last."""


def render(name: str, **values: str) -> list[dict[str, Any]]:
    """Return the objects of a manifest.

    Args:
        name: The file's, without ``.yaml``.
        values: What stands for ``${CA_BUNDLE}``.

    Raises:
        KeyError: A value is missing.
    """
    text = resources.files(kube).joinpath("manifests", f"{name}.yaml").read_text()
    # With braces only: a comment may have a variable of the shell.
    filled = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    return list(yaml.safe_load_all(filled))
