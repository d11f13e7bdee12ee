"""Where a bucket is, by its endpoint and its name."""

import pytest

from alauda_registry.storage.drivers.s3.transport import Endpoint


@pytest.mark.parametrize(
    ("url", "host", "origin", "path"),
    [
        ("https://s3.example", "s3.example", "https://s3.example", "/images/a/b"),
        ("https://s3.example:443/", "s3.example", "https://s3.example", "/images/a/b"),
        ("http://s3.example:80", "s3.example", "http://s3.example", "/images/a/b"),
        ("http://s3.example:443", "s3.example:443", "http://s3.example:443", "/images/a/b"),
        ("http://s3.example/api/", "s3.example", "http://s3.example", "/api/images/a/b"),
        ("http://[::1]:9000", "[::1]:9000", "http://[::1]:9000", "/images/a/b"),
    ],
)
def test_a_bucket_in_the_path(url: str, host: str, origin: str, path: str) -> None:
    endpoint = Endpoint(url, "images", path_style=True)

    assert (endpoint.host, endpoint.origin, endpoint.path("a/b")) == (host, origin, path)


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://s3.example", "images.s3.example", "/a/b"),
        ("https://s3.example:9000/", "images.s3.example:9000", "/a/b"),
        ("https://s3.example/api", "images.s3.example", "/api/a/b"),
    ],
)
def test_a_bucket_before_the_host(url: str, host: str, path: str) -> None:
    endpoint = Endpoint(url, "images", path_style=False)

    assert (endpoint.host, endpoint.origin, endpoint.path("a/b")) == (host, f"https://{host}", path)


@pytest.mark.parametrize(("path_style", "expected"), [(True, "/images/"), (False, "/")])
def test_the_bucket_itself_has_a_path(path_style: bool, expected: str) -> None:
    assert Endpoint("https://s3.example", "images", path_style).path("") == expected
