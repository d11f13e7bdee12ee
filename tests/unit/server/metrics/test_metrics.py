"""The counts, as Prometheus would read them."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from alauda_registry.server.metrics.metrics import Metrics
from alauda_registry.server.metrics.shared_records import SharedRecords
from alauda_registry.server.metrics.sums import BYTES, SECONDS, Tally
from alauda_registry.server.middleware.handler_names import classify
from alauda_registry.storage.driver import Capacity

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "a" * 64


def read(metrics: Metrics, capacity: Capacity | None = None) -> dict[str, float]:
    """Every sample by its name and labels."""
    metrics.flush()
    samples = {}
    for family in text_string_to_metric_families(metrics.render(capacity).decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        ("/v2/", "base"),
        ("/v2/_catalog", "catalog"),
        ("/v2/a/b/manifests/latest", "manifest"),
        (f"/v2/a/blobs/{DIGEST}", "blob"),
        ("/v2/a/blobs/uploads/", "blob_upload"),
        ("/v2/a/blobs/uploads", "blob_upload"),
        ("/v2/a/blobs/uploads/123", "blob_upload_chunk"),
        ("/v2/a/tags/list", "tags"),
        (f"/v2/a/referrers/{DIGEST}", "referrers"),
        ("/v2/blobs/uploads/manifests/uploads", "manifest"),
        ("/v2/tags/list/tags/list", "tags"),
        ("/prefix/v2/a/manifests/b", "manifest"),
        ("/healthz", "other"),
        ("/", "other"),
        ("", "other"),
        ("/favicon.ico", "other"),
    ],
)
def test_a_path_counts_for_the_handler_of_its_last_noun(path: str, handler: str) -> None:
    assert classify(path) == handler


def test_a_request_counts_under_openshifts_and_distributions_names() -> None:
    metrics = Metrics()

    metrics.observe_request("manifest", "GET", 200, 0.02, 0, 5000)
    metrics.observe_request("manifest", "GET", 404, 3.0, 0, 0)

    samples = read(metrics)
    for name in (
        "imageregistry_http_requests_total{code=200,method=GET}",
        "registry_http_requests_total{code=200,handler=manifest,method=GET}",
        "imageregistry_http_requests_total{code=404,method=GET}",
    ):
        assert samples[name] == 1
    for name in (
        "imageregistry_http_request_duration_seconds{}",
        "registry_http_request_duration_seconds{handler=manifest}",
    ):
        family = name.split("{", maxsplit=1)[0]
        labels = name.split("{")[1].rstrip("}")
        suffix = f"{labels}{',' if labels else ''}"
        assert samples[f"{family}_count{{{suffix}method=GET}}"] == 2
        assert samples[f"{family}_sum{{{suffix}method=GET}}"] == pytest.approx(3.02)
    assert (
        samples["imageregistry_request_duration_seconds_count{operation=ManifestService.Get}"] == 2
    )
    assert samples["imageregistry_http_response_size_bytes_sum{}"] == 5000
    assert samples["imageregistry_http_response_size_bytes_bucket{le=1024.0}"] == 1
    assert samples["imageregistry_http_response_size_bytes_bucket{le=16384.0}"] == 2


def test_flushing_twice_counts_once() -> None:
    metrics = Metrics()
    metrics.observe_request("blob", "GET", 200, 0.1, 10, 20)
    read(metrics)

    samples = read(metrics)

    assert samples["imageregistry_http_requests_total{code=200,method=GET}"] == 1
    assert samples["registry_http_response_size_bytes_count{handler=blob}"] == 1
    assert (
        samples["imageregistry_request_duration_seconds_count{operation=BlobStore.ServeBlob}"] == 1
    )


def test_unknown_methods_share_one_label() -> None:
    metrics = Metrics()

    for number in range(50):
        metrics.observe_request("other", f"M{number}", 405, 0.1, 0, 0)

    samples = read(metrics)
    assert samples["imageregistry_http_requests_total{code=405,method=OTHER}"] == 50
    assert not any("M1" in name for name in samples)


def test_calls_of_storage_count_with_the_labels_of_existing_alerts() -> None:
    metrics = Metrics("filesystem")

    metrics.observe_storage("StorageDriver.PutContent", 0.2, None)
    metrics.observe_storage("StorageDriver.PutContent", 0.3, "READ_ONLY_FILESYSTEM")

    samples = read(metrics)
    operation = "operation=StorageDriver.PutContent"
    assert samples[f"imageregistry_storage_duration_seconds_count{{{operation}}}"] == 2
    assert (
        samples[f"imageregistry_storage_errors_total{{code=READ_ONLY_FILESYSTEM,{operation}}}"] == 1
    )
    assert (
        samples["registry_storage_action_seconds_sum{action=PutContent,driver=filesystem}"] == 0.5
    )


def test_queues_and_refusals_are_shown() -> None:
    metrics = Metrics()
    metrics.in_flight = 3

    metrics.observe_queue("write", 4, 2)
    metrics.observe_rejected("write")
    metrics.observe_rejected("write")

    samples = read(metrics)
    assert samples["imageregistry_http_in_flight_requests{}"] == 3
    assert samples["imageregistry_requests_running{kind=write}"] == 4
    assert samples["imageregistry_requests_waiting{kind=write}"] == 2
    assert samples["imageregistry_requests_rejected_total{kind=write}"] == 2


@pytest.mark.parametrize("bounds", [SECONDS, BYTES], ids=["seconds", "bytes"])
def test_a_value_on_a_bound_belongs_to_the_bucket_it_ends(bounds: tuple[float, ...]) -> None:
    tally = Tally(bounds)

    tally.add(bounds[1])
    tally.add(bounds[-1] * 2)

    assert tally.counts == [0, 1] + [0] * (len(bounds) - 2) + [1]


async def test_the_last_counts_are_moved_on_when_the_process_ends() -> None:
    metrics = Metrics()
    flushing = asyncio.ensure_future(metrics.flush_regularly(3600))
    await asyncio.sleep(0)
    metrics.observe_request("base", "GET", 200, 0.1, 0, 2)

    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)

    assert b'imageregistry_http_requests_total{code="200",method="GET"} 1.0' in metrics.render()


@pytest.fixture
def shared() -> Iterator[SharedRecords]:
    records = SharedRecords()
    yield records
    records.close()


def test_workers_are_added_up_and_a_successor_goes_on(shared: SharedRecords) -> None:
    first, second = (Metrics("filesystem", shared, index, 2) for index in range(2))
    for metrics in (first, second, second):
        metrics.observe_request("base", "GET", 200, 0.1, 1, 2)
        metrics.observe_storage("StorageDriver.Stat", 0.5, "PATH_NOT_FOUND")
        metrics.observe_rejected("read")
        metrics.observe_queue("read", 1, 2)
        metrics.in_flight = 4
    first.flush()
    second.flush()

    together = read(first)
    successor = read(Metrics("filesystem", shared, 0, 2))

    for name, value in {
        "imageregistry_http_requests_total{code=200,method=GET}": 3,
        "imageregistry_http_response_size_bytes_sum{}": 6,
        "imageregistry_storage_errors_total{code=PATH_NOT_FOUND,operation=StorageDriver.Stat}": 3,
        "imageregistry_storage_duration_seconds_sum{operation=StorageDriver.Stat}": 1.5,
        "imageregistry_requests_rejected_total{kind=read}": 3,
    }.items():
        assert (name, together[name]) == (name, value)
        assert successor[name] == value
    assert together["imageregistry_http_in_flight_requests{}"] == 8
    assert together["imageregistry_requests_waiting{kind=read}"] == 4
    # What was going on in the one before is over.
    assert successor["imageregistry_http_in_flight_requests{}"] == 4
    assert successor["imageregistry_requests_waiting{kind=read}"] == 2


def test_room_is_shown_and_not_added_up(shared: SharedRecords) -> None:
    first, second = (Metrics("pvc", shared, index, 2) for index in range(2))
    second.flush()

    samples = read(first, Capacity(1000, 300, 100))
    unknown = read(first)

    for name, value in {"size": 1000, "free": 300, "reserved": 100}.items():
        assert samples[f"imageregistry_storage_{name}_bytes{{}}"] == value
        assert f"imageregistry_storage_{name}_bytes{{}}" not in unknown


def test_what_went_on_in_a_worker_that_died_is_over(
    shared: SharedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Metrics("filesystem", shared, 0, 2)
    dead.in_flight = 5
    dead.observe_rejected("read")
    ended = subprocess.Popen(["true"])
    ended.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: ended.pid)
        dead.flush()

    samples = read(Metrics("filesystem", shared, 1, 2))

    assert samples["imageregistry_http_in_flight_requests{}"] == 0
    assert samples["imageregistry_requests_rejected_total{kind=read}"] == 1


def test_counts_that_cannot_be_shared_are_said_once_and_serving_goes_on(
    shared: SharedRecords, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_index: int, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "no room")

    metrics = Metrics("filesystem", shared, 0, 2)
    metrics.observe_rejected("read")
    monkeypatch.setattr(shared, "write", fail)

    metrics.flush()
    samples = read(metrics)

    assert samples["imageregistry_requests_rejected_total{kind=read}"] == 1
    assert len(caplog.messages) == 1
