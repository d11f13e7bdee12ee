"""Steps of an upload, for the tests of sessions."""

from httpx2 import Response
from starlette.testclient import TestClient

from alauda_registry.oci.digest import Digest

CONTENT = b"0123456789" * 100
DIGEST = Digest.of(CONTENT)
UPLOADS = "/v2/team/app/blobs/uploads/"


def start(client: TestClient) -> str:
    return client.post(UPLOADS).headers["Location"]


def with_digest(location: str, digest: Digest = DIGEST) -> str:
    return f"{location}&digest={digest}"


def patch(client: TestClient, location: str, first: int, end: int) -> str:
    answer = client.patch(
        location, content=CONTENT[first:end], headers={"Content-Range": f"{first}-{end - 1}"}
    )
    assert answer.status_code == 202
    return answer.headers["Location"]


def code(answer: Response) -> str:
    return str(answer.json()["errors"][0]["code"])
