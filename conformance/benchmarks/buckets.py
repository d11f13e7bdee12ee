"""The same registries with their data in a bucket, on each of two S3 servers.

Both are given one configuration, whose keys are distribution's. Pulls go through the
registry, or by redirect where a server is asked to.
"""

import contextlib
import hashlib
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from typing_extensions import override

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.servers import PEER_PROGRAM, WORKERS, Server
from conformance.s3proxy import proxy
from tests.parts import processes, tools
from tests.parts.certificates import CertificatePair

PROGRAMS: Mapping[str, Path] = {kind: tools.pins().go[kind].path for kind in ("versitygw", "minio")}
ACCESS_KEY = "benchmarks"
SECRET_KEY = "a-secret-of-the-benchmarks"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Buckets:
    """A running S3 server."""

    kind: str
    address: str
    root: Path
    tls: CertificatePair | None = None

    @property
    def endpoint(self) -> str:
        """Where its API is."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def client(self) -> Any:
        """A client of it."""
        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self.tls.authority) if self.tls else None,
            config=Config(s3={"addressing_style": "path"}),
        )


def bucket_of(root: Path) -> str:
    """Name the bucket that stands for a folder."""
    return f"bench-{hashlib.sha256(str(root).encode()).hexdigest()[:20]}"


@contextlib.contextmanager
def running(kind: str, directory: Path, *, tls: CertificatePair | None = None) -> Iterator[Buckets]:
    """Run an S3 server while the block runs.

    Args:
        kind: Which.
        directory: For its data.
        tls: Its certificate; without one it speaks plain HTTP.

    Raises:
        PartFailed: It did not come up.
    """
    port = processes.free_port()
    root = directory / f"{kind}-buckets"
    root.mkdir()
    program, address = str(PROGRAMS[kind]), f"127.0.0.1:{port}"
    certificates = directory / "certificates"
    if tls:
        # As MinIO looks for them.
        certificates.mkdir(exist_ok=True)
        shutil.copy(tls.certificate, certificates / "public.crt")
        shutil.copy(tls.key, certificates / "private.key")
    signed = ["--cert", str(tls.certificate), "--key", str(tls.key)] if tls else []
    # versitygw closes each connection after its answer unless told otherwise.
    command, variables = {
        "versitygw": (
            [program, "--port", address, "--keep-alive", "--quiet", *signed, "posix", str(root)],
            {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
        ),
        "minio": (
            [
                *(program, "server", "--quiet", "--address", address),
                *(["--certs-dir", str(certificates)] if tls else []),
                str(root),
            ],
            {
                "MINIO_ROOT_USER": ACCESS_KEY,
                "MINIO_ROOT_PASSWORD": SECRET_KEY,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
            },
        ),
    }[kind]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), **variables}
    try:
        log = directory / f"{kind}.log"
        found = Buckets(kind, address, root, tls)
        authority = tls.authority if tls else None
        with servers.answering(command, environment, port, log, authority=authority):
            if kind == "minio":
                context = ssl.create_default_context(cafile=authority) if authority else None
                health = f"{found.endpoint}/minio/health/ready"
                processes.wait_until(lambda: _is_healthy(health, context), health)
            yield found
    finally:
        shutil.rmtree(root)


@dataclass(frozen=True, slots=True)
class InBucket(Server):
    """A registry whose data is in a bucket.

    Attributes:
        endpoint: Of the S3 server, or of what stands before it.
        redirects: Whether clients fetch blobs from there.
        program: What serves a configuration file; ours by default.
        tls: Its certificate; without one it speaks plain HTTP.
        trusted: Who signed the S3 server's certificate, if it has one.
    """

    endpoint: str
    redirects: bool = False
    program: Path | None = None
    name: str = "ours"
    tls: CertificatePair | None = None
    trusted: Path | None = None

    @property
    @override
    def authority(self) -> Path | None:
        return self.tls.authority if self.tls else None

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        configuration = root.with_name(f"{root.name}-{port}.yml")
        s3: dict[str, object] = {
            "bucket": bucket_of(root),
            "region": REGION,
            "regionendpoint": self.endpoint,
            "forcepathstyle": True,
            "secure": self.trusted is not None,
            "accesskey": ACCESS_KEY,
            "secretkey": SECRET_KEY,
        }
        if self.trusted and self.program:
            # It has no setting for an authority.
            s3["skipverify"] = True
        elif self.trusted:
            s3["trustedca"] = str(self.trusted)
        storage: dict[str, object] = {
            "s3": s3,
            "delete": {"enabled": True},
            "redirect": {"disable": not self.redirects},
        }
        if self.program:
            storage["cache"] = {"blobdescriptor": "inmemory"}
        http: dict[str, object] = {"addr": f"127.0.0.1:{port}"}
        if self.tls:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        content = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": storage,
            "http": http,
        }
        # JSON is YAML.
        configuration.write_text(json.dumps(content))
        if self.program:
            return [str(self.program), "serve", str(configuration)]
        serve = [sys.executable, "-m", "alauda_registry", "serve", "--config", str(configuration)]
        return [*serve, "--workers", str(WORKERS)]

    @override
    def environment(self) -> Mapping[str, str]:
        return {"OTEL_TRACES_EXPORTER": "none"}


@dataclass(frozen=True, slots=True)
class BucketBench(Bench):
    """A run in which every folder stands for a bucket, and costs are requests to S3."""

    buckets: Buckets

    @override
    @contextlib.contextmanager
    def root(self) -> Iterator[Path]:
        client = self.buckets.client()
        with Bench.root(self) as root:
            bucket = bucket_of(root)
            client.create_bucket(Bucket=bucket)
            try:
                yield root
            finally:
                for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                    client.abort_multipart_upload(
                        Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                # Faster than object by object, and both keep a bucket as a folder.
                shutil.rmtree(self.buckets.root / bucket)

    @override
    def count_costs(self, server: Server, work: Callable[[int], object]) -> int:
        with self.root() as root:
            return self.count_requests(server, root, work).total()

    def count_requests(
        self, server: Server, root: Path, work: Callable[[int], object]
    ) -> Counter[str]:
        """Count what a server asks of S3 for a load, by S3's operations."""
        assert isinstance(server, InBucket)
        with proxy.before(self.buckets.address) as counting:
            counted = replace(server, endpoint=counting.endpoint)
            with servers.started(counted, root) as started:
                _wait_until_quiet(counting.counts)
                counting.forget()
                work(started.port)
                return counting.counts()


def bench_in(
    bench: Bench,
    buckets: Buckets,
    *,
    redirects: bool = False,
    tls: CertificatePair | None = None,
) -> BucketBench:
    """Turn a run on folders into one on buckets.

    Args:
        bench: The run.
        buckets: The S3 server.
        redirects: Whether clients fetch blobs from there.
        tls: The certificate of both registries; without one they speak plain HTTP.
    """
    program = getattr(bench.peer, "program", PEER_PROGRAM)
    trusted = buckets.tls.authority if buckets.tls else None
    ours = InBucket(buckets.endpoint, redirects, tls=tls, trusted=trusted)
    return BucketBench(
        directory=bench.directory,
        content=bench.content,
        rounds=bench.rounds,
        seconds=bench.seconds,
        quick=bench.quick,
        ours=ours,
        peer=replace(ours, program=program, name="distribution"),
        buckets=buckets,
    )


def _wait_until_quiet(counts: Callable[[], Counter[str]]) -> None:
    """Wait until a server that has just started asks nothing any more."""
    before, now = -1, counts().total()
    while now != before:
        time.sleep(0.3)
        before, now = now, counts().total()


def _is_healthy(url: str, context: ssl.SSLContext | None) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):
            return True
    except urllib.error.HTTPError as early:
        early.close()
        return False
