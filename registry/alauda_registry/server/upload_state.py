"""The ``_state`` of an upload's URL: what the client has been told about the session.

It is signed, so whoever goes on with a session was given its URL by one of us, and that may
have been another replica: the secret is shared. It is a receipt and not the truth: how much
of the upload has arrived is asked of storage alone. The form is distribution's: the
HMAC-SHA256 of a JSON object, followed by that object, in the URL's base64.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from alauda_registry.oci.errors import BlobUploadInvalid

_MAC_SIZE = hashlib.sha256().digest_size
_LONGEST_TOKEN = 2048


@dataclass(frozen=True, slots=True)
class UploadState:
    """What an upload's URL says.

    Args:
        name: The repository.
        upload_id: The session.
        offset: How many bytes had arrived when the URL was made.
    """

    name: str
    upload_id: str
    offset: int


class UploadStates:
    """Signs states, and reads back only what was signed.

    Args:
        open_secret: Gets the secret, once, when the first upload needs it: a registry
            that only serves pulls can do without, even on a disk it can't write to.
    """

    def __init__(self, open_secret: Callable[[], Awaitable[bytes]]) -> None:
        self._open_secret = open_secret
        self._secret: bytes | None = None
        self._opening = asyncio.Lock()

    async def sign(self, state: UploadState) -> str:
        """Return the token that says this."""
        fields = {"Name": state.name, "UUID": state.upload_id, "Offset": state.offset}
        content = json.dumps(fields, separators=(",", ":")).encode()
        signed = await self._mac(content) + content
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    async def verify(self, token: str, *, name: str, upload_id: str) -> UploadState:
        """Read a token.

        Raises:
            BlobUploadInvalid: We did not sign it, or for another session.
        """
        content = await self._authentic_content(token)
        if content is None:
            raise BlobUploadInvalid(
                "the _state of the upload's URL is missing or not ours: use the Location of "
                "the last answer as it is, or start a new upload"
            )
        fields = json.loads(content)
        if (fields["Name"], fields["UUID"]) != (name, upload_id):
            raise BlobUploadInvalid(
                "the _state belongs to another upload: use the Location of the last answer "
                "as it is, or start a new upload"
            )
        return UploadState(name, upload_id, fields["Offset"])

    async def _authentic_content(self, token: str) -> bytes | None:
        if not token.isascii() or len(token) > _LONGEST_TOKEN:
            return None
        try:
            signed = base64.b64decode(
                token + "=" * (-len(token) % 4), altchars=b"-_", validate=True
            )
        except binascii.Error:
            return None
        mac, content = signed[:_MAC_SIZE], signed[_MAC_SIZE:]
        return content if hmac.compare_digest(mac, await self._mac(content)) else None

    async def _mac(self, content: bytes) -> bytes:
        secret = self._secret or await self._open()
        return hmac.digest(secret, content, "sha256")

    async def _open(self) -> bytes:
        async with self._opening:
            # Whoever waited finds it opened.
            secret = self._secret or await self._open_secret()
            self._secret = secret
            return secret
