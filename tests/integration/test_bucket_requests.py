"""No operation costs more requests to S3 than it costs distribution, counted in the same test.

Nor more than it did when it was last looked at: distribution takes so many for a push that ours
could take three times as many as it does, and still be fewer.

The first page of a very long list may cost one more, for its order: a bucket has ``team-a/`` and
``1.0/`` before ``team/`` and ``1/``, and distribution lists them so, too. Where more than a page of
a listing begins with ``team-``, that page can't tell whether there is ``team``, which is first.
"""

from pathlib import Path

import pytest

from conformance.benchmarks import buckets
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.buckets import bench_in
from conformance.benchmarks.content import Content
from conformance.benchmarks.scenarios import bucket_requests
from conformance.benchmarks.servers import Ours, Peer
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

FOR_THE_ORDER = {
    f"first page of {bucket_requests.PAGE} tags": 1,
    f"first page of {bucket_requests.PAGE} repositories": 1,
}
"""Of 10 000 tags and of 2 000 repositories; none where a page of the listing has them all."""

MOST = {
    "GET manifest by tag": 3,
    "pull of an image of one layer by tag, through": 7,
    "push of a layer of 1 MiB": 6,
    "push of a layer of 32 MiB": 11,
    "push of a layer of 32 MiB, chunked": 22,
    "mount of a layer": 3,
    "push of an image of one layer by tag": 20,
    "list of 300 tags": 1,
    f"first page of {bucket_requests.PAGE} tags": 1,
    f"page of {bucket_requests.PAGE} tags": 1,
    f"first page of {bucket_requests.PAGE} repositories": 1,
    f"page of {bucket_requests.PAGE} repositories": 1,
}
"""Our requests for each operation. Who makes them fewer writes it down here."""

MOST_OF_LONG_LISTS = {
    "list of 10\u202f000 tags": 10,
    f"first page of {bucket_requests.PAGE} tags": 2,
    f"first page of {bucket_requests.PAGE} repositories": 6,
}


def test_ours_never_asks_more_of_s3_than_distribution(tmp_path: Path, is_long: bool) -> None:
    require("versitygw", "distribution")
    content = Content(tmp_path / "content")
    bench = Bench(
        directory=tmp_path,
        content=content,
        rounds=1,
        seconds=1,
        # A list of 300 tags in place of 10 000, which take a minute to make and to list.
        quick=not is_long,
        ours=Ours(),
        peer=Peer(),
    )
    try:
        with buckets.running("versitygw", tmp_path) as running:
            in_buckets = bench_in(bench, running)
            found = bucket_requests.count(in_buckets)
    finally:
        content.close()

    more = {
        what: (dict(by_server[in_buckets.ours]), dict(by_server[in_buckets.peer]))
        for what, by_server in found.items()
        if by_server[in_buckets.ours].total()
        > by_server[in_buckets.peer].total() + (FOR_THE_ORDER.get(what, 0) if is_long else 0)
    }
    assert more == {}
    most = MOST | MOST_OF_LONG_LISTS if is_long else MOST
    more_than_before = {
        what: dict(by_server[in_buckets.ours])
        for what, by_server in found.items()
        if by_server[in_buckets.ours].total() > most[what]
    }
    assert more_than_before == {}
    # A count of nothing would pass, too.
    assert all(
        by_server[server].total() > 0
        for by_server in found.values()
        for server in in_buckets.registries
    )
