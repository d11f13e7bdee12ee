"""Pages over HTTP: put together they are the whole list, whatever the names and the size."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain

from hypothesis import given, strategies as st
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.manifest import Manifest
from alauda_registry.oci.media_types import OCI_INDEX
from alauda_registry.oci.reference import RepositoryName, Tag
from alauda_registry.server.app import create_app
from alauda_registry.storage.drivers.inmemory import InMemoryDriver
from alauda_registry.storage.repositories import Registry

CONTENT = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode()

# Few letters, so that many names begin with others.
components = st.from_regex(r"[ab](?:(?:\.|_|-)[ab]){0,2}", fullmatch=True)
names = st.sets(st.lists(components, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8)
tags = st.sets(st.from_regex(r"[aA0_][aA0_.-]{0,3}", fullmatch=True), min_size=1, max_size=12)
sizes = st.integers(1, 5)


@contextmanager
def serve(pushes: list[tuple[str, list[str]]]) -> Iterator[TestClient]:
    registry = Registry(InMemoryDriver())

    async def push_all() -> None:
        manifest = Manifest.parse(CONTENT, OCI_INDEX)
        for name, pushed in pushes:
            manifests = registry.repository(RepositoryName.parse(name)).manifests
            await manifests.put(manifest, Digest.of(CONTENT), [Tag.parse(tag) for tag in pushed])

    asyncio.run(push_all())
    with TestClient(create_app(lambda: nullcontext(registry))) as client:
        yield client


def read_pages(client: TestClient, url: str, key: str) -> list[list[str]]:
    pages = []
    while url:
        answer = client.get(url)
        assert answer.status_code == 200
        pages.append(answer.json()[key])
        link = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("Link", ""))
        url = link[1] if link else ""
    return pages


@given(tags, sizes)
def test_pages_of_tags_are_the_whole_list(pushed: set[str], size: int) -> None:
    with serve([("a", sorted(pushed))]) as client:
        pages = read_pages(client, f"/v2/a/tags/list?n={size}", "tags")

    assert list(chain.from_iterable(pages)) == sorted(pushed)
    assert all(len(page) == size for page in pages[:-1])
    assert 0 < len(pages[-1]) <= size


@given(names, sizes)
def test_pages_of_the_catalog_are_the_whole_list(pushed: set[str], size: int) -> None:
    with serve([(name, []) for name in pushed]) as client:
        pages = read_pages(client, f"/v2/_catalog?n={size}", "repositories")

    assert list(chain.from_iterable(pages)) == sorted(pushed, key=lambda name: name.split("/"))
    assert all(len(page) == size for page in pages[:-1])
    assert 0 < len(pages[-1]) <= size


@given(tags, st.text(alphabet="aA0_.-~ü\0/", max_size=4))
def test_last_need_not_be_a_tag(pushed: set[str], last: str) -> None:
    with serve([("a", sorted(pushed))]) as client:
        answer = client.get("/v2/a/tags/list", params={"last": last})

    assert answer.json()["tags"] == [tag for tag in sorted(pushed) if tag > last]
