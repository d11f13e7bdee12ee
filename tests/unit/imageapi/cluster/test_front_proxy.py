"""What the ConfigMap says, and whom it makes us believe."""

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from alauda_imageapi.cluster.front_proxy import HeadersInvalid, RequestHeaders, Trust, TrustInvalid
from alauda_registry.kube.client import UserInfo
from tests.parts.certificates import Authority

HEADERS = RequestHeaders(
    usernames=(b"x-remote-user", b"x-user"),
    uids=(b"x-remote-uid",),
    groups=(b"x-remote-group", b"x-group"),
    extra_prefixes=(b"x-remote-extra-",),
)


def test_a_user_has_all_that_the_front_proxy_says() -> None:
    found = HEADERS.user_in(
        [
            (b"x-remote-user", "jürgen".encode()),
            (b"x-remote-uid", b"42"),
            (b"x-remote-group", b"a,b"),
            (b"x-group", b"c"),
            (b"x-remote-group", b""),
            (b"x-remote-group", b"d"),
            (b"x-remote-extra-authentication.kubernetes.io%2fcredential-id", b"one"),
            (b"x-remote-extra-authentication.kubernetes.io%2Fcredential-id", b"two"),
            (b"x-remote-extra-a%25b", b"three"),
            (b"x-other", b"four"),
        ]
    )

    assert found == UserInfo(
        "jürgen",
        "42",
        ("a,b", "d", "c"),
        (("a%b", ("three",)), ("authentication.kubernetes.io/credential-id", ("one", "two"))),
    )


def test_the_first_name_that_is_there_counts() -> None:
    assert HEADERS.user_in([(b"x-user", b"bob"), (b"x-remote-user", b"alice")]) == UserInfo("alice")
    assert HEADERS.user_in([(b"x-user", b"bob"), (b"x-remote-user", b"")]) == UserInfo("bob")


@pytest.mark.parametrize("headers", [[], [(b"x-remote-user", b"")], [(b"x-remote-group", b"a")]])
def test_without_a_name_nobody_is_named(headers: list[tuple[bytes, bytes]]) -> None:
    assert HEADERS.user_in(headers) is None


def test_a_uid_counts_only_where_it_is_configured() -> None:
    headers = RequestHeaders(usernames=(b"x-remote-user",))

    found = headers.user_in([(b"x-remote-user", b"alice"), (b"x-remote-uid", b"0")])

    assert found == UserInfo("alice")


@pytest.mark.parametrize("header", [b"x-remote-user", b"x-remote-group", b"x-remote-extra-%ff"])
def test_what_is_no_text_is_refused(header: bytes) -> None:
    with pytest.raises(HeadersInvalid):
        HEADERS.user_in([(b"x-remote-user", b"alice"), (header, b"\xff")][::-1])


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust.read(config_map(tmp_path, Authority(), Authority()))


def config_map(
    directory: Path, users: Authority, proxies: Authority, names: str = '["front-proxy-client"]'
) -> dict[str, str]:
    user, proxy = (
        authority.issue(directory / str(number))
        for number, authority in enumerate((users, proxies))
    )
    return {
        "client-ca-file": user.authority.read_text(),
        "requestheader-client-ca-file": proxy.authority.read_text(),
        "requestheader-allowed-names": names,
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }


def der(pem: str) -> bytes:
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


def test_the_authority_decides_and_not_the_name(tmp_path: Path) -> None:
    content = config_map(tmp_path, Authority(), Authority())
    trust = Trust.read(content)
    users, proxies = (
        (b"leaf", der(content[key])) for key in ("client-ca-file", "requestheader-client-ca-file")
    )

    assert trust.is_front_proxy(proxies, "front-proxy-client")
    assert not trust.is_front_proxy(proxies, "somebody")
    assert not trust.is_front_proxy(users, "front-proxy-client")
    assert not trust.is_front_proxy((), "front-proxy-client")
    assert not trust.is_front_proxy((proxies[1],), "front-proxy-client")
    assert trust.is_user(users)
    assert not trust.is_user(proxies)


def test_without_names_every_name_of_the_authority_is_a_front_proxy(tmp_path: Path) -> None:
    content = config_map(tmp_path, Authority(), Authority(), names="[]")

    trust = Trust.read(content)

    assert trust.is_front_proxy((b"leaf", der(content["requestheader-client-ca-file"])), "any")


def test_one_authority_for_both_without_names_is_believed_as_neither_proxy(tmp_path: Path) -> None:
    shared = Authority()
    content = config_map(tmp_path, shared, shared, names="[]")

    trust = Trust.read(content)

    assert trust.is_ambiguous
    assert not trust.is_front_proxy((b"leaf", der(content["client-ca-file"])), "admin")


def test_one_authority_for_both_is_told_apart_by_the_name(tmp_path: Path) -> None:
    shared = Authority()
    content = config_map(tmp_path, shared, shared)
    trust, chain = Trust.read(content), (b"leaf", der(content["client-ca-file"]))

    assert trust.is_front_proxy(chain, "front-proxy-client")
    assert not trust.is_front_proxy(chain, "alice")


def test_nothing_is_believed_that_is_not_written() -> None:
    assert Trust.read({}) == Trust()
    assert not Trust().is_front_proxy((b"leaf", b"root"), "front-proxy-client")
    assert not Trust().is_user((b"leaf", b"root"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("client-ca-file", "nonsense"),
        ("requestheader-client-ca-file", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE--"),
        ("requestheader-allowed-names", "{"),
        ("requestheader-allowed-names", json.dumps("front-proxy-client")),
        ("requestheader-username-headers", json.dumps([1])),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path: Path, key: str, text: str) -> None:
    content = config_map(tmp_path, Authority(), Authority()) | {key: text}

    with pytest.raises(TrustInvalid):
        Trust.read(content)


@pytest.mark.parametrize(
    "header", [b"x-remote-user", b"x-remote-anything", b"x-group", b"x-remote-extra-a"]
)
def test_all_that_says_who_asks_is_known(header: bytes) -> None:
    assert HEADERS.is_one(header)
    assert not HEADERS.is_one(b"accept")
