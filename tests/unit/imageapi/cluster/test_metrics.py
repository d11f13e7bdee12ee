"""Requests are counted under the words of kube-apiserver."""

import pytest

from alauda_imageapi.cluster.metrics import Metrics
from alauda_imageapi.kinds.names import GROUP
from alauda_registry.kube.client import NonResourceAttributes, ResourceAttributes


class Streams:
    name = "imagestreams"
    subresources = ()


@pytest.mark.parametrize(
    ("verb", "namespace", "name", "said"),
    [
        ("create", "team", "", ("POST", "resource")),
        ("update", "team", "app", ("PUT", "resource")),
        ("patch", "team", "app", ("PATCH", "resource")),
        ("delete", "team", "app", ("DELETE", "resource")),
        ("deletecollection", "team", "", ("DELETECOLLECTION", "namespace")),
        ("get", "team", "app", ("GET", "resource")),
        ("get", "", "app", ("GET", "resource")),
        ("list", "team", "", ("LIST", "namespace")),
        ("list", "", "", ("LIST", "cluster")),
        ("watch", "", "", ("WATCH", "cluster")),
        ("dance", "", "", ("OTHER", "cluster")),
    ],
)
def test_verb_and_scope(verb: str, namespace: str, name: str, said: tuple[str, str]) -> None:
    metrics = Metrics([Streams()])  # type: ignore[list-item]
    asked = ResourceAttributes(
        verb, GROUP.name, "imagestreams", "", namespace, name, version=GROUP.version
    )

    found = metrics.labels(asked)

    assert (found[0], found[-1]) == said


def test_what_is_no_resource_has_no_scope() -> None:
    assert Metrics([]).labels(NonResourceAttributes("get", "/version")) == ("GET", *[""] * 5)
