"""Starts the S3 servers that the tests run on, and looks into their buckets.

Two of them, since no two agree: versitygw keeps objects as the files of a directory,
MinIO in a format of its own. What this module asks them goes through botocore and never
through our driver, so that the driver is not its own witness.
"""

import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import botocore.session
from botocore.config import Config

from tests.parts.certificates import CertificatePair
from tests.parts.processes import free_port, inherited, started
from tests.parts.tools import find

Kind = Literal["versitygw", "minio"]

KINDS: tuple[Kind, ...] = ("versitygw", "minio")
IN_SHORT: Kind = "versitygw"
"""The one that long proofs have in ``make test``; in ``make torture`` they have all."""

REGION = "us-east-1"
ACCESS_KEY = "registry"
SECRET_KEY = "a-secret-of-the-tests"

# What DeleteObjects takes at once.
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was neither completed nor aborted."""

    key: str
    id: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket, seen by its owner. Keys have no leading slash."""

    name: str
    server: "S3Server"
    client: Any

    def parameters(self, endpoint: str | None = None, **more: object) -> dict[str, object]:
        """Return the section ``storage.s3`` of a registry's configuration.

        Args:
            endpoint: What stands before the server, if it shall not be asked itself.
            more: Other parameters, by distribution's names.
        """
        return {
            "bucket": self.name,
            "region": REGION,
            "regionendpoint": endpoint or self.server.endpoint,
            "forcepathstyle": True,
            "secure": self.server.tls is not None,
            "accesskey": ACCESS_KEY,
            "secretkey": SECRET_KEY,
            **more,
        }

    def variables(self, endpoint: str | None = None, **more: object) -> dict[str, str]:
        """Return the same as ``REGISTRY_*`` variables."""
        return {
            f"REGISTRY_STORAGE_S3_{name.upper()}": json.dumps(value).strip('"')
            for name, value in self.parameters(endpoint, **more).items()
        }

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects, in the server's order."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the size of each object in bytes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        """Make or replace an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def copy(self, other: "Bucket") -> None:
        """Make the objects of another bucket of the same server."""
        for key in other.sizes():
            source = {"Bucket": other.name, "Key": key}
            self.client.copy_object(Bucket=self.name, Key=key, CopySource=source)

    def delete(self, *keys: str) -> None:
        """Delete objects; those that are not there do not matter."""
        for first in range(0, len(keys), PAGE):
            objects = [{"Key": key} for key in keys[first : first + PAGE]]
            answer = self.client.delete_objects(
                Bucket=self.name, Delete={"Objects": objects, "Quiet": True}
            )
            assert not answer.get("Errors"), answer["Errors"]

    def uploads(self) -> list[Upload]:
        """Return the multipart uploads in progress.

        Without a prefix, as MinIO takes one for a whole key.
        """
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name)
        return [
            Upload(item["Key"], item["UploadId"])
            for page in pages
            for item in page.get("Uploads", [])
        ]

    def start_upload(self, key: str) -> Upload:
        """Start a multipart upload, and leave it."""
        answer = self.client.create_multipart_upload(Bucket=self.name, Key=key)
        return Upload(key, answer["UploadId"])

    def put_part(self, upload: Upload, number: int, content: bytes) -> None:
        """Give a multipart upload a part."""
        self.client.upload_part(
            Bucket=self.name,
            Key=upload.key,
            UploadId=upload.id,
            PartNumber=number,
            Body=content,
        )

    def abort(self, upload: Upload) -> None:
        """Abort a multipart upload."""
        self.client.abort_multipart_upload(Bucket=self.name, Key=upload.key, UploadId=upload.id)

    def remove(self) -> None:
        """Delete the bucket with everything that is in it."""
        for upload in self.uploads():
            self.abort(upload)
        self.delete(*self.keys())
        self.client.delete_bucket(Bucket=self.name)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server."""

    kind: Kind
    address: str
    root: Path
    pid: int
    tls: CertificatePair | None = None

    @property
    def endpoint(self) -> str:
        """Where its API is."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def client(self, endpoint: str | None = None) -> Any:
        """Return a botocore client of it, or of what stands before it at another endpoint."""
        return make_client(endpoint or self.endpoint, self.tls and self.tls.authority)

    def create_bucket(self, name: str | None = None) -> Bucket:
        """Make a bucket; by default one with a name that was never used."""
        name = name or f"images-{uuid.uuid4().hex[:16]}"
        client = self.client()
        client.create_bucket(Bucket=name)
        return Bucket(name, self, client)


@contextmanager
def running(
    kind: Kind, directory: Path, *, tls: CertificatePair | None = None, port: int | None = None
) -> Iterator[S3Server]:
    """Run one for the length of a ``with`` block.

    Args:
        kind: Which of the two.
        directory: For its buckets and its log.
        tls: Certificate and key; without it the server speaks plain HTTP.
        port: Where it listens; by default on a port of its own.

    Raises:
        MissingPart: It has not been built.
        PartFailed: It did not come up.
    """
    root = directory / "buckets"
    root.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    command: list[str | Path] = [find(kind)]
    environment: Mapping[str, str]
    match kind:
        case "versitygw":
            environment = inherited(ROOT_ACCESS_KEY=ACCESS_KEY, ROOT_SECRET_KEY=SECRET_KEY)
            # Other servers keep connections open without being asked to.
            command += ["--port", address, "--region", REGION, "--keep-alive", "--quiet"]
            if tls:
                command += ["--cert", tls.certificate, "--key", tls.key]
            command += ["posix", root]
        case "minio":
            environment = inherited(
                MINIO_ROOT_USER=ACCESS_KEY,
                MINIO_ROOT_PASSWORD=SECRET_KEY,
                MINIO_REGION=REGION,
                MINIO_BROWSER="off",
                MINIO_UPDATE="off",
            )
            command += ["server", "--quiet", "--address", address]
            command += ["--certs-dir", _minio_certificates(directory / "certs", tls), root]
    url = f"{'https' if tls else 'http'}://{address}"
    with started(
        command,
        log=directory / f"{kind}.log",
        ready=lambda: _answers(url + ("/minio/health/ready" if kind == "minio" else "/"), tls),
        environment=environment,
    ) as process:
        yield S3Server(kind, address, root, process.pid, tls)


@lru_cache
def make_client(endpoint: str, authority: Path | None = None, *, read_timeout: float = 30.0) -> Any:
    """Return a client that never tries again; made once, since that takes a tenth of a second."""
    return botocore.session.Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        verify=str(authority) if authority else None,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            max_pool_connections=32,
            read_timeout=read_timeout,
            # versitygw leaves the end of some bodies with a checksum in a trailer, which it is
            # sent over TLS, to be read as the next request.
            request_checksum_calculation="when_required",
        ),
    )


def _minio_certificates(directory: Path, tls: CertificatePair | None) -> Path:
    """Return a folder with the names that MinIO looks for; empty without TLS."""
    directory.mkdir(exist_ok=True)
    if tls:
        (directory / "public.crt").write_bytes(tls.certificate.read_bytes())
        (directory / "private.key").write_bytes(tls.key.read_bytes())
    return directory


def _answers(url: str, tls: CertificatePair | None) -> bool:
    """Whether it is up. versitygw refuses whoever does not sign, and says so only when it is."""
    context = ssl.create_default_context(cafile=tls.authority) if tls else None
    try:
        with urllib.request.urlopen(url, timeout=5, context=context):
            return True
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code == 403
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
