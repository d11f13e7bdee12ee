"""Whatever befalls the requests to a bucket: nothing is lost, and service comes back by itself.

A proxy spoils them before the server. What passes is tried again and no client notices; what
lasts is answered with what is wrong, `/readyz` follows, and when it is over the same request
succeeds. Then everything that was acknowledged is there, nothing dangles, and no multipart upload
is left.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from conformance.s3proxy import proxy
from conformance.s3proxy.proxy import Proxy, Toxic
from tests.integration.bucket_journeys import Failed, Journey
from tests.integration.buckets import assert_nothing_dangles
from tests.integration.volumes import connected, digest_of
from tests.parts import registry, s3, toxics
from tests.parts.processes import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("one_server_in_short"),
]

OPERATIONS = (
    *("GetObject", "HeadObject", "PutObject", "CopyObject", "DeleteObject", "DeleteObjects"),
    *("ListObjectsV2", "ListMultipartUploads", "CreateMultipartUpload", "UploadPart"),
    *("UploadPartCopy", "CompleteMultipartUpload", "AbortMultipartUpload"),
)
ANSWER_LATE = "CopyObject|UploadPartCopy|CompleteMultipartUpload"
"""Operations whose answer begins before they know how they end, so that 200 may be a failure."""

PASSING: dict[str, Toxic] = {
    "latency": toxics.Latency(0.3),
    "reset": toxics.Reset(),
    "request breaks off": toxics.CutRequest(1000),
    "answer is cut": toxics.CutAnswer(10),
    "answer breaks off": toxics.CutAnswer(10, resets=True),
    "answer is lost": toxics.Lost(),
    "slow down": toxics.Refusal(503, "SlowDown"),
    "internal error": toxics.Refusal(500, "InternalError"),
    "internal error after all": toxics.Refusal(500, "InternalError", after_effect=True),
    "no answer but noise": toxics.GarbledHead(),
}

TOGETHER = (
    ("answer is lost", "slow down", "request breaks off"),
    ("internal error after all", "answer is cut", "no answer but noise"),
)
"""What befalls one request of each kind after the other."""


NOT_BORNE = {("minio", "request breaks off", "CompleteMultipartUpload")}
"""MinIO may lose parts when the connection breaks while it completes an upload: it says InvalidPart
from then on, one time in ten here. The client is answered with 503, and pushes again."""


@dataclass(frozen=True)
class Trouble:
    """Something that lasts.

    Attributes:
        toxic: What it is; None when the server is away.
        statuses: What clients are answered with.
        spares_some: Whether it does not concern every step.
    """

    toxic: Toxic | None
    statuses: tuple[int, ...] = (503,)
    spares_some: bool = False


LASTING = {
    "away": Trouble(None),
    "access denied": Trouble(toxics.Refusal(403, "AccessDenied")),
    "expired": Trouble(toxics.Refusal(400, "ExpiredToken")),
    "skewed": Trouble(toxics.Refusal(403, "RequestTimeTooSkewed")),
    "no bucket": Trouble(toxics.Refusal(404, "NoSuchBucket")),
    "answers are lost": Trouble(toxics.Lost()),
}
LASTING_LONG = {
    "slow down": Trouble(toxics.Refusal(503, "SlowDown", headers={"Retry-After": "1"})),
    "internal error": Trouble(toxics.Refusal(500, "InternalError")),
    "bad gateway": Trouble(toxics.Refusal(502, "")),
    "reset": Trouble(toxics.Reset()),
    # The answers to a push of a small blob have no bodies that could be cut.
    "answers are cut": Trouble(toxics.CutAnswer(0), spares_some=True),
    "noise": Trouble(toxics.GarbledHead()),
    "silence": Trouble(toxics.Silence()),
}


@dataclass
class Spoiled:
    """A registry over a bucket that can be spoiled, and a client of it."""

    bucket: s3.Bucket
    proxy: Proxy
    journey: Journey
    log: Path

    def is_ready(self) -> bool:
        return self.journey.client.get("/readyz").status_code == 200

    def attempt(self, step: Callable[[], None]) -> Failed | None:
        """Do a step, and return how it failed if it did."""
        try:
            step()
        except Failed as failed:
            return failed
        return None

    def attempt_all(self, *, at_once: bool) -> dict[str, Failed | None]:
        """Do every step once."""
        steps = self.journey.steps()
        with ThreadPoolExecutor(len(steps) if at_once else 1) as pool:
            return dict(zip(steps, pool.map(self.attempt, steps.values()), strict=True))

    def end_well(self) -> None:
        """See that all is well again."""
        self.proxy.clear()
        wait_until(self.is_ready, "the registry to be ready again")
        failed = {name: why for name, why in self.attempt_all(at_once=False).items() if why}
        assert failed == {}
        self.journey.assert_all_is_there()
        assert "Traceback" not in self.log.read_text()


@contextmanager
def spoiled(bucket: s3.Bucket, directory: Path) -> Iterator[Spoiled]:
    settings = {
        "REGISTRY_STORAGE_REDIRECT_DISABLE": "true",
        "REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL": "1s",
    }
    with proxy.before(bucket.server.address) as before:
        variables = bucket.variables(before.endpoint)
        with (
            registry.running(directory / "us", storage=variables, settings=settings) as server,
            connected(server.url) as client,
        ):
            client.timeout = httpx.Timeout(120)
            journey = Journey(client)
            journey.prepare()
            yield Spoiled(bucket, before, journey, server.log)
        assert_no_upload_is_left(bucket, before)
    sweep(bucket, directory / "sweeping")
    assert_nothing_dangles(bucket)
    assert unfinished(bucket) == []


def assert_no_upload_is_left(bucket: s3.Bucket, before: Proxy) -> None:
    """See that no multipart upload is left but those whose beginning was not told as it was."""
    untold = Counter(
        seen.request.key
        for seen in before.seen
        if seen.request.operation == "CreateMultipartUpload" and seen.spoiled_by is not None
    )
    left = Counter(upload.key for upload in bucket.uploads())
    assert left - untold == Counter(), "before anything is swept"


def sweep(bucket: s3.Bucket, directory: Path) -> None:
    """Have what was left unfinished dropped, as a replica does a day later."""
    if not unfinished(bucket):
        return
    settings = {
        "REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_AGE": "0s",
        "REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_INTERVAL": "1s",
    }
    with registry.running(directory, storage=bucket.variables(), settings=settings):
        wait_until(lambda: not unfinished(bucket), "what is unfinished to be dropped")


def unfinished(bucket: s3.Bucket) -> list[str]:
    """Return the keys of what is neither a file nor gone."""
    keys = bucket.keys()
    left = [key for key in keys if "/_uploads/" in key or "~" in key]
    return left + [upload.key for upload in bucket.uploads()]


@pytest.mark.parametrize("names", [*TOGETHER, *((name,) for name in PASSING)], ids=" and ".join)
def test_what_passes_no_client_notices(
    names: tuple[str, ...], bucket: s3.Bucket, tmp_path: Path, is_long: bool
) -> None:
    if len(names) == 1 and not is_long:
        pytest.skip("make torture has each alone")
    with spoiled(bucket, tmp_path) as registry_:
        for operation in OPERATIONS:
            for name in names:
                if (bucket.server.kind, name, operation) not in NOT_BORNE:
                    registry_.proxy.add(PASSING[name], operation, times=1)
        failed = {step: why for step, why in registry_.attempt_all(at_once=False).items() if why}
        assert failed == {}
        registry_.end_well()


def test_a_success_that_turns_out_a_failure_is_tried_again(
    bucket: s3.Bucket, tmp_path: Path
) -> None:
    with spoiled(bucket, tmp_path) as registry_:
        late = [
            registry_.proxy.add(toxics.Refusal(200, "InternalError"), operation, times=1)
            for operation in ANSWER_LATE.split("|")
        ]
        assert not any(registry_.attempt_all(at_once=False).values())
        assert sum(rule.hits for rule in late) >= 2
        registry_.end_well()


@pytest.mark.parametrize(
    ("code", "times", "status"),
    [("SlowDown", 2, 204), ("NoSuchKey", None, 204), ("AccessDenied", None, 503)],
)
def test_a_key_that_is_refused_among_others_is_told_as_if_it_were_alone(
    code: str, times: int | None, status: int, bucket: s3.Bucket, tmp_path: Path
) -> None:
    with spoiled(bucket, tmp_path) as registry_:
        rule = registry_.proxy.add(toxics.KeyRefusal(code), "DeleteObjects", times=times)
        failed = registry_.attempt(registry_.journey.steps()["cancel an upload"])
        told = failed.answer.status_code if failed is not None and failed.answer else 204
        assert (told, rule.hits) == (status, times or 1)
        registry_.end_well()


@pytest.mark.parametrize("toxic", [toxics.GarbledBody(), toxics.WrongETag()], ids=repr)
def test_bytes_of_others_are_never_taken_for_the_right_ones(
    toxic: Toxic, bucket: s3.Bucket, tmp_path: Path
) -> None:
    with spoiled(bucket, tmp_path) as registry_:
        for operation in OPERATIONS:
            registry_.proxy.add(toxic, operation, times=1)
        for step, failed in registry_.attempt_all(at_once=False).items():
            # Nobody can tell noise in a big blob from the blob but whoever hashes it.
            if failed is not None and failed.answer is not None:
                assert failed.answer.status_code in {404, 503}, f"{step}: {failed}"
        registry_.end_well()


@pytest.mark.parametrize("name", [*LASTING, *LASTING_LONG])
def test_what_lasts_is_told_and_ends_by_itself(
    name: str, bucket: s3.Bucket, tmp_path: Path, is_long: bool
) -> None:
    if not is_long and name in LASTING_LONG:
        pytest.skip("takes long, and is one of many: make torture has it")
    trouble = (LASTING | LASTING_LONG)[name]
    with spoiled(bucket, tmp_path) as registry_:
        if trouble.toxic is None:
            with registry_.proxy.away():
                see_trouble(registry_, trouble)
        else:
            registry_.proxy.add(trouble.toxic)
            see_trouble(registry_, trouble)
        registry_.end_well()


def see_trouble(registry_: Spoiled, trouble: Trouble) -> None:
    """Ask for everything while it lasts."""
    attempts = registry_.attempt_all(at_once=True)
    assert any(attempts.values())
    for step, failed in attempts.items():
        if failed is None and trouble.spares_some:
            continue
        assert failed is not None, f"{step}: nothing was wrong"
        assert failed.answer is not None, str(failed)
        assert failed.answer.status_code in trouble.statuses, str(failed)
        assert failed.answer.headers.keys() >= {"retry-after"}, str(failed)
        assert failed.answer.request.method == "HEAD" or (
            failed.answer.json()["errors"][0]["code"] == "UNAVAILABLE"
        )
    deadline = time.monotonic() + 60
    while registry_.is_ready():
        assert time.monotonic() < deadline, "the registry says that it is ready"
        time.sleep(0.1)


def test_a_slow_server_is_waited_for(bucket: s3.Bucket, tmp_path: Path) -> None:
    with spoiled(bucket, tmp_path) as registry_:
        registry_.proxy.add(toxics.Bandwidth(20 * 2**20))
        assert not any(registry_.attempt_all(at_once=False).values())
        registry_.end_well()


def test_a_client_that_goes_away_frees_its_connection(bucket: s3.Bucket, tmp_path: Path) -> None:
    with spoiled(bucket, tmp_path) as registry_:
        registry_.proxy.add(toxics.Bandwidth(2**17), "GetObject")
        before = registry_.proxy.connections
        large = f"/v2/kept/blobs/{digest_of(registry_.journey.kept)}"
        for _ in range(4):
            with registry_.journey.client.stream("GET", large) as answer:
                next(answer.iter_raw(1000))
        wait_until(lambda: registry_.proxy.connections <= before, "the connections to end", 30)
        registry_.end_well()
