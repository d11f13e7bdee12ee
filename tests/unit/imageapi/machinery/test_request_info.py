"""Requests in the words of RBAC; tests/integration compares them with kube-apiserver's."""

import pytest

from alauda_imageapi.machinery.request_info import attributes_of
from alauda_registry.kube.client import NonResourceAttributes, ResourceAttributes

GROUP = "image.alauda.io"


def resource(
    verb: str, plural: str, subresource: str = "", namespace: str = "", name: str = ""
) -> ResourceAttributes:
    return ResourceAttributes(verb, GROUP, plural, subresource, namespace, name, "v1")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "namespaces/n/imagestreams", resource("list", "imagestreams", "", "n")),
        ("HEAD", "namespaces/n/imagestreams", resource("list", "imagestreams", "", "n")),
        ("GET", "imagestreams", resource("list", "imagestreams")),
        ("GET", "namespaces/n/imagestreams/a", resource("get", "imagestreams", "", "n", "a")),
        (
            "GET",
            "namespaces/n/imagestreams/a/layers",
            resource("get", "imagestreams", "layers", "n", "a"),
        ),
        ("POST", "namespaces/n/imagestreams", resource("create", "imagestreams", "", "n")),
        ("PUT", "images/a", resource("update", "images", "", "", "a")),
        ("PATCH", "images/a", resource("patch", "images", "", "", "a")),
        ("DELETE", "images/a", resource("delete", "images", "", "", "a")),
        ("DELETE", "images", resource("deletecollection", "images")),
        ("TRACE", "images", resource("", "images")),
        ("GET", "watch/images", resource("watch", "images")),
        ("GET", "namespaces/n", resource("get", "namespaces", "", "n", "n")),
        ("GET", "namespaces/n/status", resource("get", "namespaces", "status", "n", "n")),
        ("GET", "namespaces", resource("list", "namespaces")),
    ],
)
def test_paths_below_the_group_are_resources(
    method: str, path: str, expected: ResourceAttributes
) -> None:
    segments = ["apis", GROUP, "v1", *path.split("/")]

    assert attributes_of(method, segments, {}) == expected


@pytest.mark.parametrize(
    ("query", "verb", "name"),
    [
        ({"watch": "true"}, "watch", ""),
        ({"watch": "1"}, "watch", ""),
        ({"watch": ""}, "watch", ""),
        ({"watch": "nonsense"}, "watch", ""),
        ({"watch": "False"}, "list", ""),
        ({"watch": "0"}, "list", ""),
        ({"fieldSelector": "metadata.name=a"}, "list", "a"),
        ({"fieldSelector": "metadata.name==a", "watch": "1"}, "watch", "a"),
        ({"fieldSelector": "metadata.namespace=n,metadata.name=a"}, "list", "a"),
        ({"fieldSelector": "metadata.name!=a"}, "list", ""),
        ({"fieldSelector": "metadata.name=a/b"}, "list", ""),
        ({"fieldSelector": "metadata.name="}, "list", ""),
        ({"fieldSelector": "!!"}, "list", ""),
    ],
)
def test_lists_and_watches_are_told_apart(query: dict[str, str], verb: str, name: str) -> None:
    segments = ["apis", GROUP, "v1", "images"]

    assert attributes_of("GET", segments, query) == resource(verb, "images", "", "", name)


@pytest.mark.parametrize(
    "path", ["", "apis", "apis/image.alauda.io", "apis/image.alauda.io/v1", "api", "api/v1", "x/y"]
)
def test_other_paths_are_no_resources(path: str) -> None:
    found = attributes_of("GET", path.split("/"), {"watch": "true"})

    assert found == NonResourceAttributes("get", f"/{path}")


def test_the_oldest_group_has_no_name() -> None:
    found = attributes_of("GET", ["api", "v1", "namespaces", "n", "pods", "p"], {})

    assert found == ResourceAttributes("get", "", "pods", "", "n", "p", "v1")
