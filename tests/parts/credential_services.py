"""Gives credentials as AWS's own services do: STS for web identities, and both kinds of metadata.

botocore finds it by the settings it has for that, so its whole chain is what is tested.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from typing_extensions import override

_ROLES = "/latest/meta-data/iam/security-credentials/"
_TOKEN = "a-token-of-the-metadata"
_CONTAINER = "/container/credentials"


@dataclass
class CredentialServices:
    """What is given, and what was asked.

    Attributes:
        port: On the loopback address.
        access_key: Given from now on.
        secret_key: The other one.
        lifetime: How long they are good for.
        refusal: An error of STS, status and code, in place of them; None to give them.
        identities: The web identities that were shown.
    """

    port: int
    access_key: str = "found"
    secret_key: str = "a-secret"
    session_token: str = "a-session"
    lifetime: timedelta = timedelta(hours=6)
    refusal: tuple[int, str] | None = None
    identities: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def web_identity(self) -> dict[str, str]:
        """The variables that lead to STS, but for the file with the identity."""
        return {
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/registry",
            "AWS_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def instance(self) -> dict[str, str]:
        """The variables that lead to the metadata of an instance."""
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url}

    @property
    def container(self) -> dict[str, str]:
        """The variables that lead to the metadata of a container."""
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}{_CONTAINER}"}

    @property
    def expires(self) -> str:
        """When the keys do that are given now."""
        return (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")

    def metadata(self) -> bytes:
        """Return what the metadata of instances and containers say."""
        return json.dumps(
            {
                "Code": "Success",
                "AccessKeyId": self.access_key,
                "SecretAccessKey": self.secret_key,
                "Token": self.session_token,
                "Expiration": self.expires,
            }
        ).encode()

    def assume_role(self, form: dict[str, list[str]]) -> tuple[int, bytes]:
        """Return what STS says to whoever shows a web identity."""
        assert form["Action"] == ["AssumeRoleWithWebIdentity"]
        self.identities += form["WebIdentityToken"]
        if self.refusal is not None:
            status, code = self.refusal
            error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error>"
            return status, f"<ErrorResponse>{error}</ErrorResponse>".encode()
        keys = (
            f"<AccessKeyId>{self.access_key}</AccessKeyId>"
            f"<SecretAccessKey>{self.secret_key}</SecretAccessKey>"
            f"<SessionToken>{self.session_token}</SessionToken>"
            f"<Expiration>{self.expires}</Expiration>"
        )
        result = f"<AssumeRoleWithWebIdentityResult><Credentials>{keys}</Credentials>"
        answer = "AssumeRoleWithWebIdentityResponse"
        return 200, f"<{answer}>{result}</AssumeRoleWithWebIdentityResult></{answer}>".encode()


@contextmanager
def running(port: int = 0) -> Iterator[CredentialServices]:
    """Run them for the length of a ``with`` block, on a port of their own unless it is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200 if self.path == "/latest/api/token" else 404, _TOKEN.encode())

        def do_GET(self) -> None:
            if self.path == _CONTAINER:
                self._answer(200, services.metadata())
            elif self.headers["x-aws-ec2-metadata-token"] != _TOKEN:
                self._answer(401, b"")
            else:
                known = {_ROLES: b"registry", f"{_ROLES}registry": services.metadata()}
                self._answer(200 if self.path in known else 404, known.get(self.path, b""))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._answer(*services.assume_role(parse_qs(body)))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        services = CredentialServices(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield services
        finally:
            server.shutdown()
            thread.join()
