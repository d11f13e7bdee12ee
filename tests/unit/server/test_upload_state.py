"""The signed receipt in an upload's URL."""

import base64
import json

import pytest

from alauda_registry.oci.errors import BlobUploadInvalid
from alauda_registry.server.upload_state import UploadState, UploadStates

pytestmark = pytest.mark.anyio

STATE = UploadState("team/app", "some-id", 42)


def make_states(secret: bytes = b"secret") -> UploadStates:
    async def open_secret() -> bytes:
        return secret

    return UploadStates(open_secret)


async def test_signed_state_is_read_back() -> None:
    token = await make_states().sign(STATE)

    assert await make_states().verify(token, name="team/app", upload_id="some-id") == STATE


async def test_token_has_the_form_distribution_uses() -> None:
    token = await make_states().sign(STATE)

    signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert json.loads(signed[32:]) == {"Name": "team/app", "UUID": "some-id", "Offset": 42}


@pytest.mark.parametrize(
    ("name", "upload_id"), [("team/other", "some-id"), ("team/app", "other-id")]
)
async def test_state_is_good_for_one_session_only(name: str, upload_id: str) -> None:
    token = await make_states().sign(STATE)

    with pytest.raises(BlobUploadInvalid, match="another upload"):
        await make_states().verify(token, name=name, upload_id=upload_id)


async def test_state_signed_with_another_secret_is_refused() -> None:
    token = await make_states(b"other").sign(STATE)

    with pytest.raises(BlobUploadInvalid, match="not ours"):
        await make_states().verify(token, name="team/app", upload_id="some-id")


async def test_no_byte_of_a_token_can_be_changed() -> None:
    states = make_states()
    token = await states.sign(STATE)

    for position in range(len(token) - 1):
        changed = "B" if token[position] == "A" else "A"
        forged = token[:position] + changed + token[position + 1 :]
        with pytest.raises(BlobUploadInvalid):
            await states.verify(forged, name="team/app", upload_id="some-id")


async def test_secret_is_opened_once_and_only_when_needed() -> None:
    opened = 0

    async def open_secret() -> bytes:
        nonlocal opened
        opened += 1
        return b"secret"

    states = UploadStates(open_secret)
    assert opened == 0

    for _ in range(3):
        await states.sign(STATE)

    assert opened == 1
