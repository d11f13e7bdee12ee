"""What can be set, with its unit, its default and the reason for it.

The names are distribution's, so that the configuration of an existing ``registry:3`` works as it
is; ours are added beside them. A name in YAML is the field's name without underscores
(``root_directory`` is ``rootdirectory``). Where values come from (flags, environment, file) is the
affair of ``sources.py``; keys of distribution's that we know and do not act on are listed in
``unsupported.py``. Nothing below the composition root is handed these objects: it gets plain
arguments.
"""

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    model_validator,
)

from alauda_registry.server.configuration.auth_settings import Auth, NoAuth
from alauda_registry.server.configuration.sections import (
    AbsolutePath,
    Duration,
    Section,
    SomeTime,
    listed,
    split_list,
    split_words,
)
from alauda_registry.server.configuration.storage_settings import Storage
from alauda_registry.serving.addresses import split_address
from alauda_registry.serving.logs import Formatter, Level

Count = Annotated[int, Field(ge=0)]
Prefix = Annotated[str, AfterValidator(lambda text: f"/{text.strip('/')}/".replace("//", "/"))]


class TLSVersion(StrEnum):
    """The oldest protocol that is spoken."""

    TLS12 = "tls1.2"
    TLS13 = "tls1.3"


class ClientAuth(StrEnum):
    """Whether clients must show a certificate of `TLS.client_cas`; Go's names."""

    REQUIRE = "require-and-verify-client-cert"
    IF_GIVEN = "verify-client-cert-if-given"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _level(value: object) -> object:
    aliases = {"warning": "warn", "trace": "debug", "fatal": "error", "panic": "error"}
    return aliases.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _formatter(value: object) -> object:
    # Every line of ours is one JSON object, which is what logstash wants, too.
    return "json" if value == "logstash" else _lower(value)


def _tls_version(value: object) -> object:
    names = {"versiontls12": "tls1.2", "versiontls13": "tls1.3"}
    return names.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _network(value: object) -> object:
    try:
        return ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
]


class AccessLog(Section):
    """`log.accesslog`."""

    disabled: bool = False
    """No line for each request. Errors are still logged."""


class Log(Section):
    """`log`."""

    level: Annotated[Level, BeforeValidator(_level)] = Level.INFO
    """error, warn, info or debug."""
    formatter: Annotated[Formatter, BeforeValidator(_formatter)] = Formatter.AUTO
    """text, json, or auto: text on a terminal and JSON elsewhere, where programs read it."""
    fields: Mapping[str, str] = {}
    """Added to every JSON line, such as {service: registry}."""
    access_log: AccessLog = AccessLog()


class TLS(Section):
    """`http.tls`: HTTPS, when a certificate is given. Files are re-read when they change."""

    certificate: str | None = None
    """PEM file: the server's certificate, followed by the intermediate ones."""
    key: str | None = None
    """PEM file: its private key, without a pass phrase."""
    client_cas: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """PEM files: clients must show a certificate that one of these signed."""
    client_auth: ClientAuth = ClientAuth.REQUIRE
    minimum_tls: Annotated[TLSVersion, BeforeValidator(_tls_version)] = TLSVersion.TLS12
    """tls1.2 or tls1.3."""
    cipher_suites: Annotated[tuple[str, ...], BeforeValidator(split_list)] = ()
    """Go's names (TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256); for TLS 1.2 only, as in Go."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together; give both or none")
        if self.client_cas and not self.certificate:
            raise ValueError("clientcas needs a certificate and a key of the server")
        return self


class HTTP(Section):
    """`http`."""

    addr: str = "127.0.0.1:5000"
    """HOST:PORT. Loopback by default; an empty host means every address of the machine."""
    prefix: Prefix = "/"
    """Path below which /v2/ is served."""
    host: str | None = None
    """URL under which clients know us, for absolute Location headers behind a proxy."""
    relative_urls: bool | None = None
    """Location headers without scheme and host, which are right behind every proxy. Unset: yes,
    unless `host` is given."""
    secret: SecretStr | None = None
    """Signs upload URLs; the same for all replicas. One is made in storage when there is none."""
    drain_timeout: Duration = timedelta(seconds=30)
    """After SIGTERM, running requests get this long to finish."""
    drain_delay: Duration = timedelta(0)
    """After SIGTERM, connections are accepted this much longer while /readyz already fails,
    so that a load balancer looks elsewhere first. Zero when nothing balances."""
    headers: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(listed)]] = {}
    """Added to every answer."""
    tls: TLS = TLS()
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(split_words)] = ()
    """Addresses and networks of proxies whose Forwarded and X-Forwarded-* fields are believed:
    where clients come from, and the address that they use for us."""
    allow_plain_http: bool = False
    """Serve without TLS on an address that others can reach."""
    allow_anonymous: bool = False
    """Serve without authentication (`auth`) on an address that others can reach."""

    @model_validator(mode="after")
    def _address(self) -> Self:
        split_address(self.addr)
        for name, values in self.headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f"headers: {name!r} is not a header's name")
            if any(not value.isprintable() for value in values):
                raise ValueError(f"headers: the value of {name} contains control characters")
        return self


class StorageHealth(Section):
    """`health.storagedriver`."""

    enabled: bool = True
    """/readyz writes to and reads from storage; otherwise only draining makes it fail."""
    interval: SomeTime = timedelta(seconds=5)
    """Time between checks. More than 5 s counts as 5 s: no result is good for longer than 10 s."""
    threshold: Annotated[int, Field(ge=1)] = 1
    """Failures in a row until we are not ready."""


class Health(Section):
    """`health`."""

    storage_driver: StorageHealth = StorageHealth()


class Validation(Section):
    """`validation`."""

    allow_sparse: bool = False
    """Accept manifests whose layers are not in the repository."""


class Catalog(Section):
    """`catalog`."""

    max_entries: Annotated[int, Field(ge=1)] = 1000
    """Longest page of /v2/_catalog."""


class Tags(Section):
    """`tags`."""

    max_tags: Annotated[int, Field(ge=1)] | None = None
    """Longest page of a tag list; none means that a client gets as many as it asks for."""


class RequestLimit(Section):
    """How many requests of one kind run at once; divided among the workers."""

    max_running: Count = 0
    """0: no limit."""
    max_in_queue: Count = 0
    """Requests that may wait for their turn; 0: refuse at once with 429."""
    max_wait_in_queue: Duration = timedelta(0)
    """How long one waits before it is refused; 0: for ever."""


class Requests(Section):
    """`openshift.requests`, the same as `limits` under OpenShift's name."""

    read: RequestLimit = RequestLimit()
    write: RequestLimit = RequestLimit()


class OpenShift(Section):
    """`openshift`: what OpenShift's registry adds to distribution's configuration."""

    requests: Requests = Requests()


class Limits(Section):
    """`limits`."""

    read: RequestLimit | None = None
    """GET, HEAD and OPTIONS: downloads."""
    write: RequestLimit | None = None
    """Everything else: uploads."""
    manifest_size: Annotated[int, Field(ge=1024)] = 4 * 2**20 + 256 * 2**10
    """Bytes of the largest manifest that is taken. The specification asks for 4 MiB; the rest is
    for clients that measure without the white space."""
    header_size: Annotated[int, Field(ge=1024)] = 64 * 2**10
    """Bytes of one request's headers; more is answered with 431."""
    header_timeout: SomeTime = timedelta(seconds=10)
    """Time for the headers of a request to arrive."""
    body_timeout: SomeTime = timedelta(seconds=60)
    """Longest silence of a client that sends or receives a body."""
    keep_alive: SomeTime = timedelta(seconds=90)
    """An idle connection is closed after this; longer than load balancers keep theirs (60-75 s),
    so that they never send a request into a connection that is just being closed."""


class ImageAPI(Section):
    """`imageapi`: image.alauda.io/v1, for kubectl, beside /v2/."""

    enabled: bool = False
    """Serve it."""
    database: AbsolutePath | None = None
    """The file that keeps its objects, on a disk of this machine: no NFS. Unset:
    _imageapi/objects.db in the folder of the images; in memory if those are."""


class Settings(Section):
    """Everything that can be set."""

    version: Annotated[str, Field(pattern=r"^0\.\d+$")] = "0.1"
    """Of the format; distribution's."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve. One core each; one is plenty for a few dozen clients."""
    log: Log = Log()
    storage: Storage = Storage()
    http: HTTP = HTTP()
    auth: Auth = Auth(none=NoAuth())
    health: Health = Health()
    validation: Validation = Validation()
    catalog: Catalog = Catalog()
    tags: Tags = Tags()
    limits: Limits = Limits()
    open_shift: OpenShift = OpenShift()
    image_api: ImageAPI = ImageAPI()

    @model_validator(mode="after")
    def _memory_is_not_shared(self) -> Self:
        if self.storage.in_memory is not None and self.workers > 1:
            raise ValueError(
                "storage.inmemory lives in one process: set workers to 1 or use storage.filesystem"
            )
        return self

    @model_validator(mode="after")
    def _objects_have_a_place(self) -> Self:
        storage = self.storage
        has_place = storage.root is not None or storage.in_memory is not None
        if self.image_api.enabled and self.image_api.database is None and not has_place:
            raise ValueError(
                "imageapi.database must name a file on a local disk: there is no place for the "
                f"objects of the image API in storage.{storage.driver}"
            )
        return self

    @model_validator(mode="after")
    def _image_api_knows_the_mode(self) -> Self:
        if self.image_api.enabled and not (self.auth.is_none or self.auth.htpasswd):
            raise ValueError(
                "imageapi is served without auth, or with auth.htpasswd: leave out --image-api "
                "(imageapi.enabled); in a cluster image-api-server serves it"
            )
        return self

    @property
    def read_limit(self) -> RequestLimit:
        """For downloads: ours, or OpenShift's."""
        return self.limits.read or self.open_shift.requests.read

    @property
    def write_limit(self) -> RequestLimit:
        """For uploads: ours, or OpenShift's."""
        return self.limits.write or self.open_shift.requests.write
