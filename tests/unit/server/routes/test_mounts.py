"""Blobs taken over from other repositories."""

import pytest
from starlette.testclient import TestClient

from alauda_registry.server.state import ServerOptions
from tests.unit.server.conftest import MakeClient
from tests.unit.server.pushing import push_blob
from tests.unit.server.uploading import CONTENT, DIGEST, UPLOADS, with_digest


def test_mount_links_the_blob_without_its_bytes(client: TestClient) -> None:
    push_blob(client, CONTENT, "team/source")

    answer = client.post(f"{UPLOADS}?mount={DIGEST}&from=team/source")

    assert answer.status_code == 201
    assert answer.headers["Docker-Content-Digest"] == str(DIGEST)
    assert client.get(answer.headers["Location"]).content == CONTENT


def test_mount_without_source_is_up_to_the_options(make_client: MakeClient) -> None:
    client = make_client(ServerOptions())
    careful = make_client(ServerOptions(anonymous_mount=False))
    push_blob(client, CONTENT, "team/source")

    assert careful.post(f"{UPLOADS}?mount={DIGEST}").status_code == 202
    assert careful.post(f"{UPLOADS}?mount={DIGEST}&from=team/source").status_code == 201
    assert client.post(f"/v2/team/third/blobs/uploads/?mount={DIGEST}").status_code == 201


@pytest.mark.parametrize("source", ["team/source", "team/nothing", "NOT/A/NAME", "..", ""])
def test_mount_that_cannot_be_becomes_an_upload(client: TestClient, source: str) -> None:
    answer = client.post(f"{UPLOADS}?mount={DIGEST}&from={source}")

    assert answer.status_code == 202
    assert client.put(with_digest(answer.headers["Location"]), content=CONTENT).status_code == 201
