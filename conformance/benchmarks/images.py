"""Pushing and pulling, in the requests that clients send.

The three ways to push a blob are those seen in the wild: one PUT (podman, skopeo,
crane), one PATCH of unknown length and an empty PUT (docker, containerd), and PATCHes
of a fixed size (regctl, clients behind proxies that limit a body).
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from urllib.parse import urlsplit

from conformance.benchmarks.client import Connection, Request
from conformance.benchmarks.content import MANIFEST_TYPE, MIB, Blob, Image, Slice

PATCH_SIZE = 16 * MIB
_BYTES = {"Content-Type": "application/octet-stream"}
_MANIFEST = {"Content-Type": MANIFEST_TYPE}
_ACCEPT = {"Accept": MANIFEST_TYPE}

T = TypeVar("T")


def push_blob(connection: Connection, repository: str, blob: Blob) -> None:
    """Push a blob as one PUT."""
    location = _start_upload(connection, repository)
    _finish_upload(connection, location, blob, blob.content)


def push_blob_in_patches(connection: Connection, repository: str, blob: Blob) -> None:
    """Push a blob in PATCHes of a fixed size."""
    location = _start_upload(connection, repository)
    start = 0
    for piece in blob.content.pieces(PATCH_SIZE):
        headers = {**_BYTES, "Content-Range": f"{start}-{start + piece.size - 1}"}
        answer = connection.ask(Request("PATCH", location, headers, piece), 202)
        location = _path_of(answer.headers["location"])
        start += piece.size
    _finish_upload(connection, location, blob, b"")


def push_blob_like_docker(
    connection: Connection, repository: str, blob: Blob, encoded: Slice
) -> None:
    """Push a blob as one PATCH of unknown length, whose coded body is given."""
    location = _start_upload(connection, repository)
    answer = connection.ask(Request("PATCH", location, _BYTES, encoded, chunked=True), 202)
    _finish_upload(connection, _path_of(answer.headers["location"]), blob, b"")


def push_manifest(connection: Connection, repository: str, reference: str, blob: Blob) -> None:
    """Push a manifest by tag or digest."""
    target = f"/v2/{repository}/manifests/{reference}"
    connection.ask(Request("PUT", target, _MANIFEST, blob.content.read()), 201)


def push_image(port: int, image: Image) -> None:
    """Push an image over one connection: layers, config, manifest."""
    with Connection(port) as connection:
        for blob in (*image.layers, image.config):
            push_blob(connection, image.repository, blob)
        push_manifest(connection, image.repository, image.tag, image.manifest)


def pull_image(port: int, image: Image) -> None:
    """Pull an image over one connection: manifest, config, layers."""
    with Connection(port) as connection:
        target = f"/v2/{image.repository}/manifests/{image.tag}"
        connection.ask(Request("GET", target, _ACCEPT), 200)
        for blob in (image.config, *image.layers):
            pull_blob(connection, image.repository, blob)


def pull_blob(connection: Connection, repository: str, blob: Blob, *, keep: bool = False) -> bytes:
    """Pull a blob, from another server when redirected, and throw it away unless it is wanted."""
    request = Request("GET", f"/v2/{repository}/blobs/{blob.digest}")
    answer = connection.ask(request, 200, 307, keep=keep)
    if answer.status == 307:
        there = urlsplit(answer.headers["location"])
        with Connection(there.port or 80) as storage:
            target = f"{there.path}?{there.query}"
            answer = storage.ask(Request("GET", target, host=there.netloc), 200, keep=keep)
    return answer.body


def timed(work: Callable[[], object]) -> float:
    """Tell how many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_parallel(clients: int, work: Callable[[T], object], items: Sequence[T]) -> float:
    """Work off the items with that many clients at once, and tell how many seconds it took."""
    with ThreadPoolExecutor(clients) as pool:
        return timed(lambda: list(pool.map(work, items)))


def _start_upload(connection: Connection, repository: str) -> str:
    answer = connection.ask(Request("POST", f"/v2/{repository}/blobs/uploads/"), 202)
    return _path_of(answer.headers["location"])


def _finish_upload(connection: Connection, location: str, blob: Blob, last: Slice | bytes) -> None:
    joint = "&" if "?" in location else "?"
    target = f"{location}{joint}digest={blob.digest}"
    connection.ask(Request("PUT", target, _BYTES, last), 201)


def _path_of(location: str) -> str:
    """Cut scheme and host from an absolute location."""
    if location.startswith("http"):
        return "/" + location.split("/", 3)[3]
    return location
