"""Puts a driver together from plain values."""

import contextlib
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import botocore.session
from botocore.exceptions import EndpointVariantError
from botocore.regions import EndpointResolver

from alauda_registry.storage.drivers.s3.bodies import PlainTransport
from alauda_registry.storage.drivers.s3.client import ObjectOptions, S3Client
from alauda_registry.storage.drivers.s3.credentials import Credentials
from alauda_registry.storage.drivers.s3.driver import S3Driver, S3Options
from alauda_registry.storage.drivers.s3.transport import Endpoint, HttpTransport, proxy_of

_LABEL = re.compile("[a-z0-9]([a-z0-9-]*[a-z0-9])?")
"""Names of buckets that are one label of a host's name. AWS's certificates have no others, and its
older buckets may have dots and capitals."""


class NoSuchRegion(Exception):
    """AWS has none of that name."""


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Which bucket, and how it is reached.

    Attributes:
        bucket: Its name.
        region: Where it is.
        endpoint: The server's URL; None for AWS.
        public_endpoint: The URL by which clients reach it; None for the same.
        path_style: Whether the bucket is in the path; None: if an endpoint is given, or its name
            does not go before a host's.
        root: What all keys begin with.
        dual_stack: Whether AWS is asked for its addresses of both kinds.
        accelerate: Whether AWS is asked for its accelerated addresses.
    """

    bucket: str
    region: str
    endpoint: str | None = None
    public_endpoint: str | None = None
    path_style: bool | None = None
    root: str = ""
    dual_stack: bool = False
    accelerate: bool = False


@dataclass(frozen=True, slots=True)
class Connecting:
    """How the server is talked to.

    Attributes:
        trusted_ca: A PEM file with the only authorities to trust; None for the system's.
        verify: Whether the server's certificate is looked at.
        connections: How many may be open at once.
        user_agent: What the server's log says of us.
    """

    trusted_ca: Path | None = None
    verify: bool = True
    connections: int = 256
    user_agent: str = "alauda-image-registry"


@dataclass(frozen=True, slots=True)
class Making:
    """What each object is made with.

    Attributes:
        encrypt: Whether the server is asked to encrypt it.
        key_id: The KMS key to do that with; None for the server's own.
        storage_class: Such as STANDARD_IA; None for the bucket's default.
        acl: Such as private; None for the bucket's default.
    """

    encrypt: bool = False
    key_id: str | None = None
    storage_class: str | None = None
    acl: str | None = None

    def options(self) -> ObjectOptions:
        """Return it as headers."""
        headers = {}
        if self.encrypt:
            headers["x-amz-server-side-encryption"] = "aws:kms" if self.key_id else "AES256"
            if self.key_id:
                headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.key_id
        if self.storage_class:
            headers["x-amz-storage-class"] = self.storage_class
        if self.acl:
            headers["x-amz-acl"] = self.acl
        return ObjectOptions(headers)


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything that a driver is made of."""

    address: BucketAddress
    connecting: Connecting = field(default_factory=Connecting)
    making: Making = field(default_factory=Making)
    options: S3Options = field(default_factory=S3Options)


def open_s3(opening: Opening, credentials: Credentials) -> S3Driver:
    """Make a driver. Nothing is sent yet.

    Args:
        opening: What it is made of.
        credentials: Who we are.

    Raises:
        NoSuchRegion: AWS has none of that name.
        OSError: The file with the authorities can't be read.
    """
    address = opening.address
    url = address.endpoint or _aws_endpoint(address)
    path_style = address.path_style
    if path_style is None:
        path_style = address.endpoint is not None or not _LABEL.fullmatch(address.bucket)
    endpoint = Endpoint(url, address.bucket, path_style)
    public = Endpoint(address.public_endpoint or url, address.bucket, path_style)
    connecting = opening.connecting
    transport: HttpTransport
    if url.startswith("https:") or proxy_of(endpoint.origin) is not None:
        transport = HttpTransport(
            endpoint,
            public,
            address.region,
            credentials,
            tls=_tls(connecting) if url.startswith("https:") else None,
            connections=connecting.connections,
            user_agent=connecting.user_agent,
        )
    else:
        transport = PlainTransport(
            endpoint,
            public,
            address.region,
            credentials,
            connections=connecting.connections,
            user_agent=connecting.user_agent,
        )
    client = S3Client(
        transport,
        address.bucket,
        credentials,
        root=address.root.strip("/"),
        options=opening.making.options(),
    )
    return S3Driver(client, opening.options)


def _tls(connecting: Connecting) -> ssl.SSLContext:
    cafile = str(connecting.trusted_ca) if connecting.trusted_ca else None
    context = ssl.create_default_context(cafile=cafile)
    if not connecting.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _aws_endpoint(address: BucketAddress) -> str:
    """Return the URL of AWS's own server for a region, in whichever partition it is."""
    if address.accelerate:
        return f"https://s3-accelerate{'.dualstack' * address.dual_stack}.amazonaws.com"
    resolver = EndpointResolver(botocore.session.Session().get_data("endpoints"))
    found = None
    # Where it has no addresses for IPv6, some regions are an error and others nothing.
    with contextlib.suppress(EndpointVariantError):
        found = resolver.construct_endpoint(
            "s3", address.region, use_dualstack_endpoint=address.dual_stack
        )
    if found is None:
        kind = " with usedualstack" if address.dual_stack else ""
        raise NoSuchRegion(f"AWS has no region {address.region}{kind}")
    return f"https://{found['hostname']}"
