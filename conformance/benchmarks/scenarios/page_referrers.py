"""Referrers of one subject out of ten, a thousand and ten thousand; the peer has no such API."""

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import Answer, Connection, Request
from conformance.benchmarks.content import Blob, Content, render_manifest
from conformance.benchmarks.images import in_parallel, push_blob, push_manifest
from conformance.benchmarks.pages import Page, compare
from conformance.benchmarks.results import Row, Section

KIND = "application/vnd.example.signature.v1"
PUSHERS = 8

METHOD = (
    "Referrers are pushed through our server; distribution has no referrers API. Its first page, "
    "and the page that its link names as the next."
)


def run(bench: Bench) -> Section:
    """Measure milliseconds a page."""
    rows: list[Row] = []
    for size in (10, 1000) if bench.quick else (10, 1000, 10_000):
        with bench.root() as root, servers.started(bench.ours, root) as running:
            repository = f"bench/referrers-{size}"
            subject = _push_referrers(bench.content, running.port, repository, size)
            first = f"/v2/{repository}/referrers/{subject.digest}"
            with Connection(running.port) as connection:
                pages = _pages(connection, first, size)
                rows += compare(bench, {bench.ours: connection}, pages)
    return Section("Pages", METHOD, rows)


def _push_referrers(content: Content, port: int, repository: str, count: int) -> Blob:
    subject = content.image(repository, f"subject-{count}", [])
    # Pushing is not what is measured: no two manifests are alike, but they share a blob.
    referrers = [
        content.add(
            render_manifest(
                subject.config, [], subject=subject.manifest, kind=KIND, note=f"{number}"
            )
        )
        for number in range(count)
    ]

    def push(share: list[Blob]) -> None:
        with Connection(port) as connection:
            for manifest in share:
                push_manifest(connection, repository, manifest.digest, manifest)

    with Connection(port) as connection:
        push_blob(connection, repository, subject.config)
        push_manifest(connection, repository, subject.tag, subject.manifest)
    in_parallel(PUSHERS, push, [referrers[number::PUSHERS] for number in range(PUSHERS)])
    return subject.manifest


def _pages(connection: Connection, first: str, size: int) -> list[Page]:
    def ask(request: Request) -> Answer:
        return connection.ask(request, 200, keep=True)

    answer = ask(Request("GET", first))
    pages = [Page.as_answered(f"referrers of {size:,}, first page", first, "manifests", answer)]
    link = answer.headers.get("link", "")
    if link:
        target = "/" + link.partition("<")[2].partition(">")[0].partition("/")[2]
        found = ask(Request("GET", target))
        pages.append(
            Page.as_answered(f"referrers of {size:,}, second page", target, "manifests", found)
        )
    return pages
