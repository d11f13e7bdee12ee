"""Whom to believe that somebody else has been authenticated (facts/apiserver.md 1.5 and 5.2).

kube-apiserver passes requests on in the name of its users: it shows a client certificate of the
*front proxy* authority, and says in header fields who asks. Both authorities (the front proxy's and
the one of ordinary users) are in one TLS context, so it is looked at which of them a chain leads
to: a user's certificate does not become kube-apiserver's by its name.

All of it comes from the ConfigMap that kube-apiserver keeps for servers like this one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from alauda_registry.kube.client import UserInfo

Header: TypeAlias = tuple[bytes, bytes]

ALWAYS_STRIPPED = b"x-remote-"
"""What these header fields begin with by default; nobody but a front proxy sends them."""


class TrustInvalid(Exception):
    """The ConfigMap says something that cannot be understood; the message says what."""


class HeadersInvalid(Exception):
    """What the front proxy says of a user cannot be understood."""


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """Where a front proxy says who asks; names in small letters, in order of preference."""

    usernames: tuple[bytes, ...] = ()
    uids: tuple[bytes, ...] = ()
    groups: tuple[bytes, ...] = ()
    extra_prefixes: tuple[bytes, ...] = ()

    def user_in(self, headers: Sequence[Header]) -> UserInfo | None:
        """Return who asks, or None when the header fields do not say.

        Raises:
            HeadersInvalid: They are no text.
        """
        name = _first(headers, self.usernames)
        if not name:
            return None
        extra: dict[str, list[str]] = {}
        for prefix in self.extra_prefixes:
            for header, value in headers:
                if header.startswith(prefix):
                    key = _text(unquote_to_bytes(header[len(prefix) :])).lower()
                    extra.setdefault(key, []).append(_text(value))
        # A field is one value: commas are part of it.
        groups = [
            _text(value)
            for wanted in self.groups
            for header, value in headers
            if header == wanted and value
        ]
        return UserInfo(
            name,
            _first(headers, self.uids),
            tuple(dict.fromkeys(groups)),
            tuple(sorted((key, tuple(values)) for key, values in extra.items())),
        )

    def is_one(self, header: bytes) -> bool:
        """Tell whether a header field is one of these, or of those that others use for it."""
        return (
            header.startswith((ALWAYS_STRIPPED, *self.extra_prefixes))
            or header in self.usernames
            or header in self.uids
            or header in self.groups
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates say what; what is empty says nothing.

    Args:
        client_authorities: Of ordinary users, DER.
        proxy_authorities: Of front proxies, DER.
        proxy_names: Common names of front proxies; none for every name.
        headers: What a front proxy says.
        bundles: All authorities, PEM, for TLS.
    """

    client_authorities: frozenset[bytes] = frozenset()
    proxy_authorities: frozenset[bytes] = frozenset()
    proxy_names: frozenset[str] = frozenset()
    headers: RequestHeaders = field(default_factory=RequestHeaders)
    bundles: tuple[bytes, ...] = ()

    @property
    def is_ambiguous(self) -> bool:
        """Whether every user's certificate could pass for a front proxy's."""
        return not self.proxy_names and bool(self.proxy_authorities & self.client_authorities)

    def is_front_proxy(self, chain: Sequence[bytes], name: str) -> bool:
        """Tell whether a certificate is a front proxy's.

        Args:
            chain: From the certificate to its authority, as TLS has verified it.
            name: The certificate's common name.
        """
        if self.is_ambiguous or self.proxy_authorities.isdisjoint(chain[1:]):
            return False
        return not self.proxy_names or name in self.proxy_names

    def is_user(self, chain: Sequence[bytes]) -> bool:
        """Tell whether a certificate is one of an ordinary user."""
        return not self.client_authorities.isdisjoint(chain[1:])

    @classmethod
    def read(cls, data: Mapping[str, str]) -> "Trust":
        """Read it from ``kube-system/extension-apiserver-authentication``.

        Raises:
            TrustInvalid: It cannot be understood.
        """
        bundles = [data.get(key, "") for key in ("client-ca-file", "requestheader-client-ca-file")]
        clients, proxies = (_certificates(bundle) for bundle in bundles)
        return cls(
            clients,
            proxies,
            frozenset(_names(data, "requestheader-allowed-names")),
            RequestHeaders(
                _headers(data, "requestheader-username-headers"),
                _headers(data, "requestheader-uid-headers"),
                _headers(data, "requestheader-group-headers"),
                _headers(data, "requestheader-extra-headers-prefix"),
            ),
            tuple(bundle.encode() for bundle in bundles if bundle.strip()),
        )


def _certificates(bundle: str) -> frozenset[bytes]:
    if not bundle.strip():
        return frozenset()
    try:
        found = x509.load_pem_x509_certificates(bundle.encode())
    except ValueError as error:
        raise TrustInvalid(f"its authorities are no PEM: {error}") from error
    return frozenset(certificate.public_bytes(Encoding.DER) for certificate in found)


def _names(data: Mapping[str, str], key: str) -> list[str]:
    try:
        names = json.loads(data.get(key) or "[]")
    except ValueError as error:
        raise TrustInvalid(f"{key} is no JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TrustInvalid(f"{key} is no list of names")
    return names


def _headers(data: Mapping[str, str], key: str) -> tuple[bytes, ...]:
    return tuple(name.strip().lower().encode() for name in _names(data, key) if name.strip())


def _first(headers: Sequence[Header], wanted: Iterable[bytes]) -> str:
    """Return the first value that there is; names that come earlier count first."""
    for name in wanted:
        found = next((value for header, value in headers if header == name), b"")
        if found:
            return _text(found)
    return ""


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise HeadersInvalid("the front proxy sends a name that is not UTF-8") from None
