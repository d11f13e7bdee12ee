"""The catalog of a bucket is the one of a directory, whatever the pages of the listing."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given, strategies as st

from alauda_registry.storage import paths
from alauda_registry.storage.bucket.catalog import BucketCatalog
from alauda_registry.storage.bucket.listing import PARTS_AT_ONCE
from alauda_registry.storage.driver import FileInfo, ObjectStore, require_valid

pytestmark = pytest.mark.anyio

components = st.text(alphabet="ab0", min_size=1, max_size=2).flatmap(
    lambda word: st.sampled_from([word, f"{word}-a", f"{word}.b", f"{word}__0"])
)
repositories = st.lists(components, min_size=1, max_size=3).map("/".join)


class FakeObjects:
    """Lists keys, a few at a time."""

    def __init__(self, keys: list[str], size: int) -> None:
        self.keys = sorted(keys)
        self.size = size
        self.requests = 0
        self.under_way = 0
        self.most = 0

    async def wait(self) -> None:
        self.requests += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1

    async def page(self, path: str, *, start_after: str = "") -> tuple[list[FileInfo], bool]:
        async with aclosing(self.pages(path, start_after=start_after)) as pages:
            return await anext(pages)

    async def pages(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[FileInfo], bool], None]:
        require_valid(path, driver="fake")
        assert "/" not in start_after.removeprefix(f"{path}/")
        more = True
        while more:
            await self.wait()
            below = [key for key in self.keys if key.startswith(f"{path}/") and key > start_after]
            infos = [FileInfo(key, 1, datetime.now(UTC)) for key in below[: self.size]]
            more = len(below) > self.size
            yield infos, more
            start_after = infos[-1].path if infos else ""

    async def folders(
        self, path: str, *, start_after: str = ""
    ) -> AsyncGenerator[tuple[list[str], bool], None]:
        await self.wait()
        below = (key.removeprefix(f"{path}/") for key in self.keys if key.startswith(f"{path}/"))
        names = {rest.partition("/")[0] for rest in below}
        yield sorted(names, key="{}/".format), False


def catalog_of(objects: FakeObjects) -> BucketCatalog:
    return BucketCatalog(cast(ObjectStore, objects))


def keys_of(names: set[str], links: int = 3) -> list[str]:
    keys = []
    for name in names:
        folder = f"{paths.REPOSITORIES}/{name}"
        keys += [f"{folder}/_layers/sha256/{number:04}/link" for number in range(links)]
        keys += [
            f"{folder}/_manifests/revisions/sha256/{number:04}/link" for number in range(links)
        ]
        keys += [f"{folder}/_uploads/{number:04}/data" for number in range(links)]
    return keys


@given(
    names=st.sets(repositories, max_size=12),
    others=st.sets(repositories, max_size=4),
    size=st.integers(1, 20),
    limit=st.integers(1, 5),
)
async def test_the_pages_are_the_sorted_names(
    names: set[str], others: set[str], size: int, limit: int
) -> None:
    uploading = [f"{paths.REPOSITORIES}/{name}/_uploads/x/data" for name in others]
    objects = FakeObjects(keys_of(names) + uploading, size)
    expected = sorted(names, key=lambda name: name.split("/"))

    seen: list[str] = []
    more = True
    while more:
        after = seen[-1] if seen else ""
        page = await catalog_of(objects).page(after=after, limit=limit)
        assert len(page.names) <= limit
        seen += page.names
        more = page.more

    assert seen == expected
    whole = await catalog_of(objects).page(after="", limit=None)
    assert whole.names == expected
    found = await catalog_of(objects).uploading()
    assert sorted(found) == sorted(names | others)


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 9, 1000])
@pytest.mark.parametrize(
    ("after", "expected"),
    [
        # The keys of b/1 are before those of b itself.
        ("", ["b", "b/1", "b/2", "b/b", "b/c", "b-1", "b-1/1", "c"]),
        # What is below b was listed when the listing comes to b-1.
        ("b/2", ["b/b", "b/c", "b-1", "b-1/1", "c"]),
        ("b/a/a", ["b/b", "b/c", "b-1", "b-1/1", "c"]),
    ],
)
async def test_no_page_leaves_out_or_repeats_what_has_repositories_below_it(
    after: str, expected: list[str], size: int, limit: int
) -> None:
    names = {"b", "b/1", "b/2", "b/b", "b/c", "b-1", "b-1/1", "c"}
    catalog = catalog_of(FakeObjects(keys_of(names), size))

    page = await catalog.page(after=after, limit=limit)
    rest = await catalog.page(after=page.names[-1], limit=9)

    assert page.names + rest.names == expected


@pytest.mark.parametrize(("count", "links", "pages"), [(300, 1, 2), (10, 5000, 42)])
async def test_small_repositories_share_a_page_and_large_ones_are_passed_over(
    count: int, links: int, pages: int
) -> None:
    objects = FakeObjects(keys_of({f"team{number:03}/app" for number in range(count)}, links), 1000)

    page = await catalog_of(objects).page(after="", limit=1000)

    assert len(page.names) == count
    assert objects.requests <= pages


@pytest.mark.parametrize(
    ("form", "pages"),
    [
        ("team/{:04}", 100),
        ("app-{:04}", 101),
        ("team/app-{:04}", 101),
        ("team-{:04}/app", 101),
        # What is beside a large team is asked for by itself.
        ("team/a/{:04}", 102),
    ],
)
async def test_a_page_of_many_repositories_costs_a_request(form: str, pages: int) -> None:
    names = [form.format(number) for number in range(10_000)]
    objects = FakeObjects(keys_of(set(names), 1), 1000)
    catalog = catalog_of(objects)

    seen: list[str] = []
    more = True
    while more:
        page = await catalog.page(after=seen[-1] if seen else "", limit=100)
        seen += page.names
        more = page.more

    assert seen == names
    # And a few for what may come before all of them, to find that a team is large, and at the end.
    assert objects.requests <= pages + 6


@pytest.mark.parametrize("after", ["", "a", "team-0", "team-0/app-5", "team-2/app-9", "zoo"])
async def test_a_bucket_of_a_page_costs_one_request(after: str) -> None:
    names = [f"team-{number // 10}/app-{number % 10}" for number in range(30)] + ["a", "team"]
    objects = FakeObjects(keys_of(set(names)), 1000)

    await catalog_of(objects).page(after=after, limit=10)

    assert objects.requests == 1


@pytest.mark.parametrize(
    ("form", "links"), [("{:04}", 2), ("team-{:02}/app", 400), ("team/app-{:03}", 2)]
)
async def test_all_names_are_found_by_some_requests_at_once(form: str, links: int) -> None:
    names = {form.format(number) for number in range(20 if links > 2 else 1500)}
    objects = FakeObjects(keys_of(names, links), 1000)
    catalog = catalog_of(objects)

    assert (await catalog.page(after="", limit=None)).names == sorted(names)

    # The pages, a part that is not full for each of them, and the landmarks.
    assert objects.requests <= 2 * -(-len(objects.keys) // 1000) + 1
    assert objects.most <= PARTS_AT_ONCE
    assert objects.most > 1 or form.startswith("team/")


@pytest.mark.parametrize(
    "after",
    [
        *("a b", "a\x00", "é", "~", "/", "//", "a/", "-", "../x", "a/..", "a/../b", "./a"),
        "a/" * 2000 + "a",
        "a" * 3000,
    ],
)
async def test_a_page_begins_behind_what_is_no_name(after: str) -> None:
    names = ["a", "a/b", "a-b", "b"]
    objects = FakeObjects(keys_of(set(names)), 1000)

    page = await catalog_of(objects).page(after=after, limit=9)

    assert page.names == [
        name for name in names if name.replace("/", "\0") > after.replace("/", "\0")
    ]
