"""A certificate of the S3 server that does not fit: it is told, and when it fits again all is well.

The certificates are shown by a front that speaks TLS before a real server, and can be given others
while it runs, as whoever renews them does it.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.volumes import Pusher, assert_served, connected
from tests.parts import registry, s3
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.processes import PartFailed, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_server_in_short")]

ADVICE = "the S3 server's certificate is not signed by an authority that is trusted"


class Front:
    """Speaks TLS before a server that does not."""

    def __init__(self, upstream: str) -> None:
        self._host, _, self._port = upstream.rpartition(":")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.endpoint = ""

    def show(self, pair: CertificatePair) -> None:
        """Show this certificate from now on, to everybody."""

        async def change() -> None:
            self._context.load_cert_chain(pair.certificate, pair.key)
            self._hang_up()

        self._do(change())

    def open(self) -> None:
        """Begin to listen."""

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

        self._thread.start()
        self._server = self._do(listen())
        self.endpoint = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Stop."""

        async def stop() -> None:
            self._server.close()
            self._hang_up()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks, timeout=5)

        self._do(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, onwards = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, onwards}
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await asyncio.gather(_pass_on(reader, onwards), _pass_on(beyond, writer))
        self._writers -= {writer, onwards}
        for one in (writer, onwards):
            one.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(64 * 1024):
        writer.write(chunk)
        await writer.drain()
    writer.close()


@dataclass(frozen=True)
class Certificates:
    """Those that may be shown, the first of which is the right one."""

    right: CertificatePair
    foreign: CertificatePair
    misnamed: CertificatePair


@contextmanager
def fronted(bucket: s3.Bucket) -> Iterator[Front]:
    front = Front(bucket.server.address)
    front.open()
    try:
        yield front
    finally:
        front.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority = Authority()
    return Certificates(
        authority.issue(tmp_path / "right"),
        Authority().issue(tmp_path / "foreign"),
        authority.issue(tmp_path / "misnamed", name="elsewhere.example", is_here=False),
    )


@pytest.mark.parametrize("wrong", ["foreign", "misnamed"])
def test_a_certificate_that_does_not_fit_stops_the_start(
    wrong: str, bucket: s3.Bucket, certificates: Certificates, tmp_path: Path
) -> None:
    with fronted(bucket) as front:
        front.show(getattr(certificates, wrong))
        variables = bucket.variables(front.endpoint, trustedca=str(certificates.right.authority))
        with (
            pytest.raises(PartFailed) as caught,
            registry.running(tmp_path / "us", storage=variables),
        ):
            pass

    log = str(caught.value)
    assert f"image-registry: cannot use s3://{bucket.name}: {ADVICE}" in log
    assert "storage.s3.trustedca" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("wrong", ["foreign", "misnamed"])
def test_service_comes_back_with_the_right_certificate(
    wrong: str, bucket: s3.Bucket, certificates: Certificates, tmp_path: Path
) -> None:
    settings = {
        "REGISTRY_STORAGE_REDIRECT_DISABLE": "true",
        "REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL": "1s",
    }
    with fronted(bucket) as front:
        front.show(certificates.right)
        variables = bucket.variables(front.endpoint, trustedca=str(certificates.right.authority))
        with (
            registry.running(tmp_path / "us", storage=variables, settings=settings) as server,
            connected(server.url) as client,
        ):

            def is_ready() -> bool:
                return client.get("/readyz").status_code == 200

            pusher = Pusher(client)
            pusher.image("a", "latest", "first")
            assert is_ready()

            front.show(getattr(certificates, wrong))

            wait_until(lambda: not is_ready(), "the registry to say that it is not ready")
            assert ADVICE in client.get("/readyz").text
            refused = client.get("/v2/a/manifests/latest")
            assert refused.status_code == 503
            assert refused.json()["errors"][0]["code"] == "UNAVAILABLE"
            assert "Retry-After" in refused.headers

            front.show(certificates.right)

            wait_until(is_ready, "the registry to be ready again")
            assert_served(client, pusher.volume)
            pusher.image("a", "latest", "later")
            assert_served(client, pusher.volume)
        assert "Traceback" not in server.log.read_text()
