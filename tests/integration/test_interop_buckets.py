"""A bucket changes hands between us and the registry of the distribution project, both ways."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.volumes import (
    OCI_LAYER,
    Pusher,
    Volume,
    assert_served,
    connected,
    descriptor,
    digest_of,
)
from tests.parts import distribution, registry, s3
from tests.parts.tools import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LARGE = 40 * 2**20
ROOT = "some/where"

Start = Callable[[Path, s3.Bucket], AbstractContextManager[httpx.Client]]


@contextmanager
def ours(directory: Path, bucket: s3.Bucket) -> Iterator[httpx.Client]:
    variables = bucket.variables(rootdirectory=f"/{ROOT}") | THROUGH
    with (
        registry.running(directory / "us", storage=variables) as server,
        connected(server.url) as client,
    ):
        yield client
        assert "Traceback" not in server.log.read_text()


@contextmanager
def theirs(directory: Path, bucket: s3.Bucket) -> Iterator[httpx.Client]:
    require("distribution")
    storage = {
        "s3": bucket.parameters(rootdirectory=f"/{ROOT}"),
        "redirect": {"disable": True},
    }
    with (
        distribution.running(directory / "peer", storage=storage) as peer,
        connected(peer.url) as client,
    ):
        yield client


# Their blobs are compared where they are served, and not where a client is sent to.
THROUGH = {"REGISTRY_STORAGE_REDIRECT_DISABLE": "true"}
BOTH = pytest.mark.parametrize(
    ("writes", "reads"), [(theirs, ours), (ours, theirs)], ids=["theirs to ours", "ours to theirs"]
)


def fill(client: httpx.Client) -> tuple[Volume, str]:
    """Push what both have to understand, and what takes several parts of an upload."""
    pusher = Pusher(client)
    pusher.everything()
    subject, _ = pusher.referrers("referrers")
    large = os.urandom(LARGE)
    location = pusher.start("large")
    answer = client.patch(location, content=iter([large[: LARGE // 2], large[LARGE // 2 :]]))
    assert answer.status_code == 202, answer.text
    location = answer.headers["Location"]
    separator = "&" if "?" in location else "?"
    done = client.put(f"{location}{separator}digest={digest_of(large)}")
    assert done.status_code == 201, done.text
    pusher.volume.blobs["large", digest_of(large)] = large
    pusher.artifact("large", "latest", layers=[descriptor(OCI_LAYER, large)])
    return pusher.volume, subject


@BOTH
def test_what_one_wrote_the_other_serves_lists_and_goes_on_with(
    bucket: s3.Bucket, tmp_path: Path, writes: Start, reads: Start, is_long: bool
) -> None:
    if bucket.server.kind == "minio" and writes is ours and not is_long:
        pytest.skip("make torture has it; versitygw shows both directions in the short run")
    with writes(tmp_path, bucket) as client:
        volume, subject = fill(client)

    written = bucket.keys()
    assert all(key.startswith(f"{ROOT}/") for key in written)
    with reads(tmp_path, bucket) as client:
        assert_served(client, volume, in_order=reads is ours)
        if reads is ours:
            listed = client.get(f"/v2/referrers/referrers/{subject}").json()["manifests"]
            assert len(listed) == 6
        pusher = Pusher(client, volume)
        pusher.image("a", "latest", "later")
        pusher.delete("/v2/tags/manifests/moved")
        del volume.tags["tags"]["moved"]

    with writes(tmp_path / "again", bucket) as client:
        assert_served(client, volume, in_order=writes is ours)


def test_both_can_work_on_one_bucket_at_once(bucket: s3.Bucket, tmp_path: Path) -> None:
    with ours(tmp_path, bucket) as our_client, theirs(tmp_path, bucket) as their_client:
        volume = Volume()
        us, them = Pusher(our_client, volume), Pusher(their_client, volume)
        for number in range(3):
            us.artifact("shared", f"ours-{number}", "latest", annotations={"ours": str(number)})
            assert_served(their_client, volume, in_order=False)
            them.artifact("shared", f"theirs-{number}", "latest", annotations={"it": str(number)})
            assert_served(our_client, volume)
