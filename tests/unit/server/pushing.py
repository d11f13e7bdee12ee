"""Pushes for tests that are about something else."""

import json
from typing import Any

from starlette.testclient import TestClient

from alauda_registry.oci.digest import Algorithm, Digest
from alauda_registry.oci.media_types import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST

EMPTY = b"{}"


def push_blob(
    client: TestClient,
    content: bytes,
    repository: str = "team/app",
    algorithm: Algorithm = Algorithm.SHA256,
) -> Digest:
    digest = Digest.of(content, algorithm)
    url = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    answer = client.post(url, content=content)
    assert answer.status_code == 201, answer.text
    return digest


def descriptor(
    content: bytes, media_type: str, algorithm: Algorithm = Algorithm.SHA256
) -> dict[str, Any]:
    digest = str(Digest.of(content, algorithm))
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def artifact(**fields: Any) -> bytes:
    """Return a manifest that needs no blob but the empty one."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(EMPTY, OCI_EMPTY),
        "layers": [],
        **fields,
    }
    return json.dumps(manifest).encode()


def index(**fields: Any) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], **fields}
    ).encode()


def push_manifest(
    client: TestClient,
    content: bytes,
    reference: str | None = None,
    repository: str = "team/app",
) -> Digest:
    """Push a manifest by tag, or by its digest when there is no reference."""
    push_blob(client, EMPTY, repository)
    digest = Digest.of(content)
    answer = client.put(
        f"/v2/{repository}/manifests/{reference or digest}",
        content=content,
        headers={"Content-Type": json.loads(content)["mediaType"]},
    )
    assert answer.status_code == 201, answer.text
    return digest
