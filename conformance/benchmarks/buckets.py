"""The same registries with their data in a bucket, on each of two S3 servers.

Both are given one configuration, whose keys are distribution's. Pulls go through the
registry, or by redirect where a server is asked to.
"""

import contextlib
import hashlib
import json
import shutil
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

from conformance.benchmarks import processes, servers
from conformance.benchmarks.bench import Bench
from conformance.benchmarks.servers import PEER_PROGRAM, WORKERS, Server
from conformance.s3proxy import proxy

CACHE = PEER_PROGRAM.parents[1]
PROGRAMS: Mapping[str, Path] = {
    "versitygw": CACHE / "versitygw-v1.8.0/versitygw",
    "minio": CACHE / "minio-v0.0.0-20260212201848-7aac2a2c5b7c/minio",
}
ACCESS_KEY = "benchmarks"
SECRET_KEY = "a-secret-of-the-benchmarks"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Buckets:
    """A running S3 server."""

    kind: str
    endpoint: str
    root: Path

    @property
    def address(self) -> str:
        """Its host and port."""
        return self.endpoint.removeprefix("http://")

    def client(self) -> Any:
        """A client of it."""
        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )


def bucket_of(root: Path) -> str:
    """Name the bucket that stands for a folder."""
    return f"bench-{hashlib.sha256(str(root).encode()).hexdigest()[:20]}"


@contextlib.contextmanager
def running(kind: str, directory: Path) -> Iterator[Buckets]:
    """Run an S3 server while the block runs.

    Raises:
        StartFailed: It did not come up.
    """
    port = processes.free_port()
    root = directory / f"{kind}-buckets"
    root.mkdir()
    program, address = str(PROGRAMS[kind]), f"127.0.0.1:{port}"
    # versitygw closes each connection after its answer unless told otherwise.
    command, variables = {
        "versitygw": (
            [program, "--port", address, "--keep-alive", "--quiet", "posix", str(root)],
            {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
        ),
        "minio": (
            [program, "server", "--quiet", "--address", address, str(root)],
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
        with processes.running(command, environment, port, directory / f"{kind}.log"):
            if kind == "minio":
                _wait_until_healthy(f"http://{address}/minio/health/ready")
            yield Buckets(kind, f"http://{address}", root)
    finally:
        shutil.rmtree(root)


@dataclass(frozen=True, slots=True)
class InBucket(Server):
    """A registry whose data is in a bucket.

    Attributes:
        endpoint: Of the S3 server, or of what stands before it.
        redirects: Whether clients fetch blobs from there.
        program: What serves a configuration file; ours by default.
    """

    endpoint: str
    redirects: bool = False
    program: Path | None = None
    name: str = "ours"

    @override
    def command(self, root: Path, port: int) -> Sequence[str]:
        configuration = root.with_name(f"{root.name}-{port}.yml")
        storage: dict[str, object] = {
            "s3": {
                "bucket": bucket_of(root),
                "region": REGION,
                "regionendpoint": self.endpoint,
                "forcepathstyle": True,
                "secure": False,
                "accesskey": ACCESS_KEY,
                "secretkey": SECRET_KEY,
            },
            "delete": {"enabled": True},
            "redirect": {"disable": not self.redirects},
        }
        if self.program:
            storage["cache"] = {"blobdescriptor": "inmemory"}
        content = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": storage,
            "http": {"addr": f"127.0.0.1:{port}"},
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


def bench_in(bench: Bench, buckets: Buckets, *, redirects: bool = False) -> BucketBench:
    """Turn a run on folders into one on buckets."""
    program = getattr(bench.peer, "program", PEER_PROGRAM)
    return BucketBench(
        directory=bench.directory,
        content=bench.content,
        rounds=bench.rounds,
        seconds=bench.seconds,
        quick=bench.quick,
        ours=InBucket(buckets.endpoint, redirects),
        peer=InBucket(buckets.endpoint, redirects, program, "distribution"),
        buckets=buckets,
    )


def _wait_until_quiet(counts: Callable[[], Counter[str]]) -> None:
    """Wait until a server that has just started asks nothing any more."""
    before, now = -1, counts().total()
    while now != before:
        time.sleep(0.3)
        before, now = now, counts().total()


def _wait_until_healthy(url: str) -> None:
    deadline = time.monotonic() + processes.START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as early:
            early.close()
            if time.monotonic() > deadline:
                raise processes.StartFailed(f"{url} answers {early.code}") from None
        time.sleep(0.05)
