"""A hundred tags out of ten, a thousand and a hundred thousand."""

from contextlib import ExitStack

from conformance.benchmarks import servers, trees
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import Connection
from conformance.benchmarks.pages import PAGE, Page, compare
from conformance.benchmarks.results import Section

METHOD = (
    f"Milliseconds for a page of {PAGE} on one connection, from the start and from the middle, out "
    "of trees in distribution's layout that both servers read, names in the kernel's cache after "
    "an untimed page. Both servers run through all rounds; requests to them alternate."
)


def run(bench: Bench) -> Section:
    """Measure milliseconds a page."""
    sizes = (10, 1000, 10_000) if bench.quick else (10, 1000, 100_000)
    manifest = bench.content.image("bench/tags", "paged", []).manifest
    with bench.root() as root, ExitStack() as stack:
        pages: list[Page] = []
        for size in sizes:
            repository = f"bench/tags-{size}"
            tags = trees.build_tags(root, repository, manifest, size)
            target = f"/v2/{repository}/tags/list?n={PAGE}"
            pages += Page.first_and_middle(f"tags of {size:,}", target, "tags", tags)
        connections = {
            server: stack.enter_context(
                Connection(stack.enter_context(servers.started(server, root)).port)
            )
            for server in bench.registries
        }
        rows = compare(bench, connections, pages)
    return Section("Pages", METHOD, rows)
