"""The catalog of a bucket is the one of a directory, whatever the pages of the listing."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from alauda_registry.storage import bucket_catalog, paths
from alauda_registry.storage.driver import FileInfo, ObjectStore

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
        self.pages = 0

    async def page(self, path: str, *, start_after: str = "") -> tuple[list[FileInfo], bool]:
        self.pages += 1
        below = [key for key in self.keys if key.startswith(f"{path}/") and key > start_after]
        infos = [FileInfo(key, 1, datetime.now(UTC)) for key in below[: self.size]]
        return infos, len(below) > self.size


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
        page = await bucket_catalog.page(cast(ObjectStore, objects), after=after, limit=limit)
        assert len(page.names) <= limit
        seen += page.names
        more = page.more

    assert seen == expected
    whole = await bucket_catalog.page(cast(ObjectStore, objects), after="", limit=None)
    assert whole.names == expected
    found = await bucket_catalog.uploading(cast(ObjectStore, objects))
    assert sorted(found) == sorted(names | others)


@pytest.mark.parametrize(("count", "links", "pages"), [(300, 1, 2), (10, 5000, 22)])
async def test_small_repositories_share_a_page_and_large_ones_are_passed_over(
    count: int, links: int, pages: int
) -> None:
    objects = FakeObjects(keys_of({f"team{number:03}/app" for number in range(count)}, links), 1000)

    page = await bucket_catalog.page(cast(Any, objects), after="", limit=1000)

    assert len(page.names) == count
    assert objects.pages <= pages
