"""What can be set of a bucket, by distribution's names and those of OpenShift's Config."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from alauda_registry.server.configuration.sections import Section, Size
from alauda_registry.server.configuration.sizes import parse_amount

_MIB = 1024 * 1024
_LARGEST_PART = 512 * _MIB


def _bytes(value: object) -> object:
    """Take sizes as Kubernetes writes them beside distribution's plain numbers."""
    return parse_amount(value).of(0) if isinstance(value, str) else value


def _bucket_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", name):
        raise ValueError("must be the name of a bucket alone, such as image-registry")
    return name


def _root(text: str) -> str:
    root = text.strip("/")
    if not re.fullmatch(r"(?:(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+(?:/(?!\Z)|\Z))*", root):
        raise ValueError("must be a path of letters, digits and ._-, such as registry")
    return root


def _storage_class(value: object) -> object:
    return None if str(value).upper() in ("NONE", "") else str(value).upper()


ChunkSize = Annotated[int, BeforeValidator(_bytes), Field(ge=5 * _MIB, le=5120 * _MIB)]


class S3(Section):
    """`storage.s3`: a bucket of AWS, or of a server that speaks its API."""

    bucket: Annotated[str, AfterValidator(_bucket_name)]
    """Its name. It must exist."""
    region: str | None = None
    """Where it is; servers other than AWS take any, and us-east-1 is what is said unless set."""
    region_endpoint: str | None = None
    """URL of the server, without the bucket. Unset: that of AWS for the region."""
    redirect_endpoint: str | None = None
    """URL by which clients reach the server when blobs are redirected. Unset: the same."""
    root_directory: Annotated[str, AfterValidator(_root)] = ""
    """What all keys begin with, so that a bucket can be shared."""
    access_key: SecretStr | None = None
    """The access key's identifier. Without keys and files of keys they are looked for as every
    AWS program does it: environment, credentials file, web identity, the instance's role."""
    secret_key: SecretStr | None = None
    """The secret key."""
    session_token: SecretStr | None = None
    """For keys that expire."""
    access_key_file: str | None = None
    """File with the access key, as Kubernetes mounts a Secret. Read again when it changes."""
    secret_key_file: str | None = None
    """File with the secret key."""
    credentials_config_path: str | None = None
    """File like ~/.aws/credentials; OpenShift's name for it. Read again when it changes."""
    force_path_style: bool | None = None
    """Whether the bucket is in the path and not in the host's name. Unset: if an endpoint is
    given, or the bucket's name has dots or capitals."""
    virtual_hosted_style: bool | None = None
    """The opposite of `forcepathstyle`, by the name of Config.spec.storage.s3."""
    secure: bool = True
    """HTTPS, where `regionendpoint` does not say."""
    skip_verify: bool = False
    """Trust whatever certificate the server shows. For trials."""
    trusted_ca: str | None = None
    """PEM file with the only authorities to trust for the server. Unset: the system's."""
    v4_auth: bool = True
    """Signatures of version 4; there are no others any more."""
    encrypt: bool = False
    """Ask the server to encrypt."""
    key_id: str | None = None
    """KMS key to encrypt with; without `encrypt` it has no effect."""
    storage_class: Annotated[str | None, BeforeValidator(_storage_class)] = None
    """Such as STANDARD_IA; unset, or NONE: the bucket's default."""
    object_acl: str | None = None
    """Such as private or bucket-owner-full-control; unset: the bucket's default."""
    chunk_size: ChunkSize = 8 * _MIB
    """Bytes of the first parts of an upload, 5 MiB to 5 GiB as S3 takes them; more than 512 MiB
    counts as that. Later ones are up to eight times as large, and all are smaller when memory is
    short."""
    multipart_copy_max_concurrency: Annotated[int, Field(ge=1, le=1000)] = 16
    """Parts that are copied at once inside the bucket when an upload ends."""
    upload_memory: Size = parse_amount("48Mi")
    """Memory of each worker for parts on their way, for all uploads together. Each upload may
    take 5 MiB beyond it."""
    use_dual_stack: bool = False
    """AWS's addresses for IPv6, too."""
    accelerate: bool = False
    """AWS's Transfer Acceleration; the bucket must have it."""
    user_agent: str = "alauda-image-registry"
    """What the server's log says of us."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.v4_auth:
            raise ValueError("v4auth: signatures of version 2 are not supported; remove it")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("accesskey and secretkey belong together; give both or none")
        if (self.access_key_file is None) != (self.secret_key_file is None):
            raise ValueError("accesskeyfile and secretkeyfile belong together; give both or none")
        if self.access_key is not None and self.access_key_file is not None:
            raise ValueError("accesskey and accesskeyfile are both given; keep one of them")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("sessiontoken needs accesskey and secretkey")
        if None not in (self.force_path_style, self.virtual_hosted_style) and (
            self.force_path_style == self.virtual_hosted_style
        ):
            raise ValueError("forcepathstyle and virtualhostedstyle contradict each other")
        if self.region is None and self.region_endpoint is None:
            raise ValueError("region is missing: say where the bucket is, such as eu-west-1")
        for name in ("regionendpoint", "redirectendpoint"):
            given: Any = {"regionendpoint": self.endpoint, "redirectendpoint": self.public}[name]
            if given is not None and not _is_url(given):
                raise ValueError(f"{name} must be a URL such as https://s3.example.com")
        return self

    @property
    def endpoint(self) -> str | None:
        """The server's URL with its scheme; None for AWS's."""
        return self._url(self.region_endpoint)

    @property
    def public(self) -> str | None:
        """The URL by which clients reach it."""
        return self._url(self.redirect_endpoint)

    @property
    def path_style(self) -> bool | None:
        """Whether the bucket is in the path; None for what is usual."""
        if self.virtual_hosted_style is not None:
            return not self.virtual_hosted_style
        return self.force_path_style

    @property
    def part_size(self) -> int:
        """Bytes of the first parts of an upload."""
        return min(self.chunk_size, _LARGEST_PART)

    @property
    def unheeded(self) -> Iterator[tuple[str, str]]:
        """What is set and not followed, and why; operators set it all the same."""
        if self.key_id is not None and not self.encrypt:
            yield "keyid", "it has no effect without encrypt: true"
        if self.chunk_size > _LARGEST_PART:
            yield "chunksize", "the first parts of an upload are 512 MiB, which is the most"

    @property
    def where(self) -> str:
        """The bucket and its root, as it is written in URLs."""
        return f"s3://{self.bucket}/{self.root_directory}".rstrip("/")

    def _url(self, text: str | None) -> str | None:
        if text is None or "://" in text:
            return text
        return f"{'https' if self.secure else 'http'}://{text}"


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
