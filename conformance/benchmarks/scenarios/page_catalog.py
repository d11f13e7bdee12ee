"""A hundred repositories out of ten, a thousand and a hundred thousand."""

from contextlib import ExitStack

from conformance.benchmarks import servers, trees
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.client import Connection
from conformance.benchmarks.pages import PAGE, Page, compare
from conformance.benchmarks.results import Row, Section

METHOD = "Repositories lie a hundred to a team: `team-0000/app-00` and so on."


def run(bench: Bench) -> Section:
    """Measure milliseconds a page."""
    rows: list[Row] = []
    for size in (10, 1000, 10_000) if bench.quick else (10, 1000, 100_000):
        with bench.root() as root, ExitStack() as stack:
            names = trees.build_repositories(root, size)
            target = f"/v2/_catalog?n={PAGE}"
            pages = Page.first_and_middle(f"catalog of {size:,}", target, "repositories", names)
            connections = {
                server: stack.enter_context(
                    Connection(stack.enter_context(servers.started(server, root)).port)
                )
                for server in bench.registries
            }
            rows += compare(bench, connections, pages)
    return Section("Pages", METHOD, rows)
