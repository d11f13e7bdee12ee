"""What can be set, with its unit, its default and the reason for it.

The names are distribution's, so that the configuration of an existing ``registry:3`` works as it
is; ours are added beside them. A name in YAML is the field's name without underscores
(``root_directory`` is ``rootdirectory``). Where values come from (flags, environment, file) is the
affair of :mod:`alauda_registry.server.sources`; keys of distribution's that we know and do not act
on are listed in :mod:`alauda_registry.server.unsupported`. Nothing below the composition root is
handed these objects: it gets plain arguments.
"""

import ipaddress
import os.path
import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    model_validator,
)

from alauda_registry.auth.keys import Algorithm as NewKeyAlgorithm
from alauda_registry.auth.trusted_tokens import ASYMMETRIC, SYMMETRIC
from alauda_registry.server.addresses import split_address
from alauda_registry.server.bucket_settings import S3
from alauda_registry.server.durations import format_duration, parse_duration
from alauda_registry.server.sections import Section, Size
from alauda_registry.server.sizes import Amount, parse_amount

Duration = Annotated[
    timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)
]
SomeTime = Annotated[Duration, Field(gt=timedelta(0))]
Count = Annotated[int, Field(ge=0)]
Reserve = Annotated[Amount, PlainValidator(parse_amount), PlainSerializer(str, return_type=str)]
Prefix = Annotated[str, AfterValidator(lambda text: f"/{text.strip('/')}/".replace("//", "/"))]


DRIVERS = ("filesystem", "pvc", "s3", "inmemory")
"""The keys of `storage` that choose where bytes are kept."""

MODES = ("none", "htpasswd", "token", "kubernetes")
"""The keys of `auth` that choose how it is known who may do what."""


class CannotStart(Exception):
    """The process cannot serve as it was asked to; the message says why and what to do."""


class Level(StrEnum):
    """How much is logged."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"
    DEBUG = "debug"


class Formatter(StrEnum):
    """What a log line looks like."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


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


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path such as /var/lib/registry")
    return os.path.normpath(path)


def _object_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
        raise ValueError("must be the name of a PersistentVolumeClaim, such as image-registry")
    return name


def _network(value: object) -> object:
    try:
        return ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError("must be an address or a network such as 10.0.0.0/8") from None


def _algorithm(name: str) -> str:
    if name not in (*ASYMMETRIC, *SYMMETRIC):
        raise ValueError(f"must be one of {', '.join((*ASYMMETRIC, *SYMMETRIC))}")
    return name


Algorithm = Annotated[str, AfterValidator(_algorithm)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str, return_type=str),
]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


def _split(value: object) -> object:
    return re.split(r"[\s,:]+", value.strip()) if isinstance(value, str) else value


def _split_words(value: object) -> object:
    return re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value


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


class Filesystem(Section):
    """`storage.filesystem`."""

    root_directory: Annotated[str, Field(min_length=1)] = "/var/lib/registry"
    """The folder that holds everything, in distribution's layout."""


class Expectation(Section):
    """`storage.pvc.expect`: what the mount has to be, or we do not start."""

    file_systems: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Types such as nfs4, ext4 or ceph, one of which it has to be."""
    source: str | None = None
    """What it is mounted from, as /proc/self/mountinfo has it; * and ? stand for anything."""
    minimum_size: Size | None = None
    """Such as 10Gi."""
    volatile: bool = False
    """Accept what is gone with the pod: an emptyDir, a tmpfs. For trials."""


class PVC(Section):
    """`storage.pvc`: a folder of a PersistentVolumeClaim. Without the claim we do not start."""

    root_directory: AbsolutePath = "/var/lib/registry"
    """The folder that holds everything, in distribution's layout: where the claim is mounted, or
    below. Unset: `mountpath`, if that is given."""
    mount_path: AbsolutePath | None = None
    """Where the claim is mounted. Unset: `rootdirectory`."""
    claim: Annotated[str, AfterValidator(_object_name)] | None = None
    """The claim's name, for messages: clients are told which claim is full."""
    reserve: Reserve | None = None
    """What only deletes may use, such as 1Gi or 5%. Unset: 1 % but at least 64 MiB, and at most
    10 %. Some file systems can't delete any more when they are full to the last byte."""
    expect: Expectation = Expectation()

    @model_validator(mode="before")
    @classmethod
    def _root_where_the_claim_is(cls, value: Any) -> Any:
        where = value.get("mountpath") if isinstance(value, dict) else None
        # One that is wrong is complained of once.
        return {"rootdirectory": where, **value} if str(where).startswith("/") else value

    @model_validator(mode="after")
    def _root_in_the_claim(self) -> Self:
        if not PurePosixPath(self.root_directory).is_relative_to(self.mounted_at):
            raise ValueError(
                f"rootdirectory must be {self.mounted_at}, where mountpath says the claim is "
                "mounted, or a folder below it"
            )
        return self

    @property
    def mounted_at(self) -> str:
        """Where the claim is mounted."""
        return self.mount_path or self.root_directory


class InMemory(Section):
    """`storage.inmemory`: gone when the process ends; one worker only."""


class Redirect(Section):
    """`storage.redirect`: whether clients fetch blobs from the bucket themselves."""

    disable: bool = False
    """Pass the bytes through, for clients that can't reach the S3 server. No other storage
    redirects."""


class Delete(Section):
    """`storage.delete`."""

    enabled: bool = True
    """DELETE of anything; otherwise 405. On, unlike in distribution."""
    tags: bool = True
    """DELETE of a tag, which spares its manifest."""
    manifests: bool = True
    """DELETE of a manifest by digest, with the tags that point at it."""
    blobs: bool = True
    """DELETE of a blob."""


class ReadOnly(Section):
    """`storage.maintenance.readonly`."""

    enabled: bool = False
    """Only GET and HEAD; everything else is 405 UNSUPPORTED."""


class UploadPurging(Section):
    """`storage.maintenance.uploadpurging`: upload sessions that nobody goes on with."""

    enabled: bool = True
    age: Duration = timedelta(hours=24)
    """A session idle for this long is removed. A day outlasts every client's retries."""
    interval: SomeTime = timedelta(hours=1)
    """Time between sweeps; one worker of one replica sweeps at a time."""


class Maintenance(Section):
    """`storage.maintenance`."""

    read_only: ReadOnly = ReadOnly()
    upload_purging: UploadPurging = UploadPurging()


class Storage(Section):
    """`storage`: exactly one driver, and what is done with it."""

    filesystem: Filesystem | None = None
    pvc: PVC | None = None
    s3: S3 | None = None
    in_memory: InMemory | None = None
    redirect: Redirect = Redirect()
    delete: Delete = Delete()
    maintenance: Maintenance = Maintenance()

    @model_validator(mode="before")
    @classmethod
    def _directory_unless_told_otherwise(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.keys().isdisjoint(DRIVERS):
            return {**value, "filesystem": {}}
        return value

    @model_validator(mode="after")
    def _one_driver(self) -> Self:
        if len(chosen := self._chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are both configured; keep one of them")
        return self

    @property
    def _chosen(self) -> list[str]:
        drivers = (self.filesystem, self.pvc, self.s3, self.in_memory)
        return [name for name, driver in zip(DRIVERS, drivers, strict=True) if driver is not None]

    @property
    def driver(self) -> str:
        """The name of the driver."""
        return self._chosen[0]

    @property
    def root(self) -> str | None:
        """The folder that holds everything; None when bytes are kept elsewhere."""
        folder = self.filesystem or self.pvc
        return folder.root_directory if folder else None

    @property
    def where(self) -> str:
        """Where the bytes are kept, in words."""
        return self.root or (self.s3.where if self.s3 else "memory")


class TLS(Section):
    """`http.tls`: HTTPS, when a certificate is given. Files are re-read when they change."""

    certificate: str | None = None
    """PEM file: the server's certificate, followed by the intermediate ones."""
    key: str | None = None
    """PEM file: its private key, without a pass phrase."""
    client_cas: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """PEM files: clients must show a certificate that one of these signed."""
    client_auth: ClientAuth = ClientAuth.REQUIRE
    minimum_tls: Annotated[TLSVersion, BeforeValidator(_tls_version)] = TLSVersion.TLS12
    """tls1.2 or tls1.3."""
    cipher_suites: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
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
    headers: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_listed)]] = {}
    """Added to every answer."""
    tls: TLS = TLS()
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_split_words)] = ()
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


class NoAuth(Section):
    """`auth.none`: everybody may do everything."""


class Htpasswd(Section):
    """`auth.htpasswd`: users with passwords in a file."""

    realm: str = ""
    """Has no effect: clients are sent to our token endpoint. Distribution's."""
    path: Annotated[str, Field(min_length=1)]
    """The file, as Apache's htpasswd -B or image-registry htpasswd makes it: bcrypt only. Read
    again when it changes."""
    access_file: str | None = None
    """YAML: which users may do what in which repositories. Unset: everybody in the file may do
    everything, as in distribution. Read again when it changes."""


def _local_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be a path such as /auth/token")
    return path


class Token(Section):
    """`auth.token`: a token server makes tokens, and we believe them."""

    realm: str = ""
    """Its URL, where clients get tokens."""
    service: Annotated[str, Field(min_length=1)]
    """What it calls this registry: the audience of the tokens."""
    issuer: Annotated[str, Field(min_length=1)]
    """What it calls itself in tokens."""
    root_cert_bundle: str | None = None
    """PEM file with certificates: their keys, or keys whose certificates they have signed, sign
    tokens. Read again when it changes."""
    jwks: str | None = None
    """JSON Web Key Set with such keys. Read again when it changes."""
    signing_algorithms: Annotated[tuple[Algorithm, ...], BeforeValidator(_split)] = ASYMMETRIC
    """How tokens may be signed. HS256 and its kin must be named here, and their keys be in jwks."""
    auto_redirect: bool = False
    """The token server is at the address that the client uses for us, behind the same proxy."""
    auto_redirect_path: Annotated[str, AfterValidator(_local_path)] = "/auth/token"
    """Then its path there."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not (self.realm or self.auto_redirect):
            raise ValueError("realm must be the URL of the token server")
        if self.root_cert_bundle is None and self.jwks is None:
            raise ValueError("rootcertbundle or jwks must name a file with the token server's keys")
        return self


class Kubernetes(Section):
    """`auth.kubernetes`: a cluster's users and service accounts, and its RBAC."""

    kubeconfig: AbsolutePath | None = None
    """Where the API server is, and who the registry is there. Unset: the service account of the
    pod. Either needs the ClusterRole system:auth-delegator."""
    audiences: Annotated[tuple[str, ...], BeforeValidator(_split_words)] = ()
    """Tokens must be meant for one of these. Unset: for the API server, as those are that pods
    and `kubectl create token` get."""
    challenge_denied: bool = False
    """Answer 401 also to a known user who may not, as OpenShift's registry; otherwise 403."""


class TokenService(Section):
    """`auth.tokenservice`: tokens that this registry makes, in every mode but `token`."""

    keys: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """PEM files: the first private key signs, all others verify. The same in all replicas. Unset:
    one is made in the folder of the images. Read again when they change."""
    algorithm: NewKeyAlgorithm = NewKeyAlgorithm.ES256
    """Of the key that is made: ES256, RS256 or EdDSA."""
    issuer: Annotated[str, Field(min_length=1)] = "alauda-image-registry"
    """What the tokens say who made them."""
    service: Annotated[str, Field(min_length=1)] = "alauda-image-registry"
    """Whom the tokens are for. Registries that share keys need one each."""
    audiences: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Other registries' `auth.token.service`, which may have tokens from us, too."""
    lifetime: Annotated[Duration, Field(ge=timedelta(seconds=60))] = timedelta(minutes=5)
    """How long a token is good. Clients take any to be good for a minute, which is what tokens are
    in mode `kubernetes`."""
    refresh_lifetime: SomeTime = timedelta(days=30)
    """How long a client that keeps a token instead of a password need not log in again."""


class Auth(Section):
    """`auth`: exactly one mode, and the tokens."""

    none: NoAuth | None = None
    htpasswd: Htpasswd | None = None
    token: Token | None = None
    kubernetes: Kubernetes | None = None
    token_service: TokenService = TokenService()

    @model_validator(mode="before")
    @classmethod
    def _none_unless_told_otherwise(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.keys().isdisjoint(MODES):
            return {**value, "none": {}}
        return value

    @model_validator(mode="after")
    def _one_mode(self) -> Self:
        modes = (self.none, self.htpasswd, self.token, self.kubernetes)
        chosen = [name for name, mode in zip(MODES, modes, strict=True) if mode is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are both configured; keep one of them")
        return self

    @property
    def is_none(self) -> bool:
        """Whether everybody may do everything."""
        return self.none is not None


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
    def _image_api_asks_nobody(self) -> Self:
        # It has no guard yet, and must not be the way around that of /v2/.
        if self.image_api.enabled and not self.auth.is_none:
            raise ValueError(
                "imageapi does not ask yet who is there, and would be a way around auth: leave out "
                "--image-api (imageapi.enabled), or the section auth"
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
