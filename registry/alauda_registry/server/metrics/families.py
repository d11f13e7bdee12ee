"""Every metric there is, under OpenShift's names and under distribution's.

The label values are those that existing alerts and dashboards ask for.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from alauda_registry.server.metrics.sums import BYTES, SECONDS, Sums, Tally
from alauda_registry.storage.driver import Capacity

_OPERATIONS = {
    ("manifest", "GET"): "ManifestService.Get",
    ("manifest", "HEAD"): "ManifestService.Exists",
    ("manifest", "PUT"): "ManifestService.Put",
    ("manifest", "DELETE"): "ManifestService.Delete",
    ("blob", "GET"): "BlobStore.ServeBlob",
    ("blob", "HEAD"): "BlobStore.Stat",
    ("blob", "DELETE"): "BlobStore.Delete",
    ("blob_upload", "POST"): "BlobStore.Create",
    ("blob_upload_chunk", "GET"): "BlobStore.Resume",
    ("blob_upload_chunk", "PATCH"): "BlobStore.Resume",
    ("blob_upload_chunk", "PUT"): "BlobWriter.Commit",
    ("blob_upload_chunk", "DELETE"): "BlobWriter.Cancel",
    ("tags", "GET"): "TagService.All",
}
"""OpenShift's name of what a request does. Deleting a tag counts as ManifestService.Delete."""


class Families(Collector):
    """Shows sums to prometheus-client.

    Args:
        sums: What was counted.
        driver: The name of the storage driver.
        capacity: Of the storage; None while that is not known.
    """

    def __init__(self, sums: Sums, driver: str, capacity: Capacity | None = None) -> None:
        self._sums = sums
        self._driver = driver
        self._capacity = capacity

    @override
    def collect(self) -> Iterator[Metric]:
        yield from self._now()
        yield from self._counts()
        yield from self._distributions()
        yield from self._storage()
        if self._capacity is not None:
            yield from _room(self._capacity)

    def _now(self) -> Iterator[Metric]:
        in_flight = self._sums.in_flight
        yield GaugeMetricFamily(
            "imageregistry_http_in_flight_requests", "Requests that are being served.", in_flight
        )
        for place, state in enumerate(("running", "waiting")):
            gauge = GaugeMetricFamily(
                f"imageregistry_requests_{state}",
                f"Limited requests that are {state}.",
                labels=["kind"],
            )
            for kind, numbers in self._sums.queues.items():
                gauge.add_metric([kind], numbers[place])
            yield gauge

    def _counts(self) -> Iterator[Metric]:
        yield _counter(
            "imageregistry_requests_rejected",
            "Requests that were refused with 429.",
            ["kind"],
            (([kind], count) for kind, count in self._sums.rejected.items()),
        )
        requests = self._sums.requests.items()
        yield _counter(
            "imageregistry_http_requests",
            "Requests that were answered.",
            ["code", "method"],
            (([str(status), method], some.count) for (_, method, status), some in requests),
        )
        yield _counter(
            "registry_http_requests",
            "Requests that were answered.",
            ["handler", "code", "method"],
            (
                ([handler, str(status), method], some.count)
                for (handler, method, status), some in requests
            ),
        )

    def _distributions(self) -> Iterator[Metric]:
        seconds = _Histogram("imageregistry_http_request_duration_seconds", ["method"])
        received = _Histogram("imageregistry_http_request_size_bytes", [], BYTES)
        sent = _Histogram("imageregistry_http_response_size_bytes", [], BYTES)
        operations = _Histogram("imageregistry_request_duration_seconds", ["operation"])
        registry_seconds = _Histogram(
            "registry_http_request_duration_seconds", ["handler", "method"]
        )
        registry_received = _Histogram("registry_http_request_size_bytes", ["handler"], BYTES)
        registry_sent = _Histogram("registry_http_response_size_bytes", ["handler"], BYTES)
        for (handler, method, _), requests in self._sums.requests.items():
            seconds.add([method], requests.seconds)
            registry_seconds.add([handler, method], requests.seconds)
            if operation := _OPERATIONS.get((handler, method)):
                operations.add([operation], requests.seconds)
            received.add([], requests.received)
            registry_received.add([handler], requests.received)
            sent.add([], requests.sent)
            registry_sent.add([handler], requests.sent)
        for histogram in (
            *(seconds, received, sent, operations),
            *(registry_seconds, registry_received, registry_sent),
        ):
            yield histogram.family()

    def _storage(self) -> Iterator[Metric]:
        seconds = _Histogram("imageregistry_storage_duration_seconds", ["operation"])
        registry_seconds = _Histogram("registry_storage_action_seconds", ["action", "driver"])
        for operation, storage in self._sums.storage.items():
            action = operation.removeprefix("StorageDriver.")
            seconds.add([operation], storage.seconds)
            registry_seconds.add([action, self._driver], storage.seconds)
        yield seconds.family()
        yield registry_seconds.family()
        yield _counter(
            "imageregistry_storage_errors",
            "Calls of the storage driver that failed.",
            ["operation", "code"],
            (
                ([operation, code], count)
                for operation, storage in self._sums.storage.items()
                for code, count in storage.errors.items()
            ),
        )


class _Histogram:
    """Adds up tallies by their labels."""

    def __init__(self, name: str, labels: Sequence[str], bounds: Sequence[float] = SECONDS) -> None:
        self._name = name
        self._labels = labels
        self._bounds = bounds
        # Without labels there is one even before anything was counted.
        self._tallies: dict[tuple[str, ...], Tally] = {} if labels else {(): Tally(bounds)}

    def add(self, labels: Iterable[str], tally: Tally) -> None:
        merged = self._tallies.setdefault(tuple(labels), Tally(self._bounds))
        merged.merge(tally.counts, tally.total)

    def family(self) -> HistogramMetricFamily:
        what = self._name.split("_", 1)[1].replace("_", " ")
        family = HistogramMetricFamily(self._name, f"Distribution of {what}.", labels=self._labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, tally in self._tallies.items():
            buckets = list(zip(names, accumulate(tally.counts), strict=True))
            family.add_metric(labels, buckets, tally.total)
        return family


def _room(capacity: Capacity) -> Iterator[Metric]:
    for name, text, count in (
        ("size", "All of the storage.", capacity.size),
        ("free", "What is free in the storage, with what only deletes may use.", capacity.free),
        ("reserved", "What only deletes may use of the storage.", capacity.reserved),
    ):
        yield GaugeMetricFamily(f"imageregistry_storage_{name}_bytes", text, count)


def _counter(
    name: str, text: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    added: dict[tuple[str, ...], int] = {}
    for values, count in counts:
        key = tuple(values)
        added[key] = added.get(key, 0) + count
    for key, count in added.items():
        family.add_metric(key, count)
    return family
