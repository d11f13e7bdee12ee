"""Whatever somebody shows, they are let in or refused, and nothing else happens."""

import asyncio
import base64
import ipaddress
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, strategies as st

from alauda_registry.auth.authenticator import Bearer, Caller
from alauda_registry.auth.files import Watched
from alauda_registry.auth.keys import public_jwk
from alauda_registry.auth.scopes import parse_scopes
from alauda_registry.auth.trusted_tokens import TokenServer, TrustedTokens, read_jwks
from alauda_registry.oci.errors import Unauthorized
from alauda_registry.server.middleware.guard import read_credentials
from alauda_registry.server.proxies import Proxies
from tests.parts.tokens import ISSUER, SERVICE, claims

KEY = ec.generate_private_key(ec.SECP256R1())
JWKS = json.dumps({"keys": [public_jwk(KEY.public_key()) | {"kid": "known"}]}).encode()
TOKENS = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([], lambda _: read_jwks([JWKS]))])

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([ISSUER, SERVICE, int(time.time()) + 300, int(time.time()) - 300]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def signed(header: Any, said: Any) -> str:
    """A token by a trusted key, whatever it says."""
    parts = [json.dumps(part).encode() for part in (header, said)]
    start = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.get_algorithm_by_name("ES256").sign(start, KEY)
    return (start + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def outcome(token: str) -> Caller | None:
    try:
        return asyncio.run(TOKENS.authenticate(Bearer(token), "192.0.2.1"))
    except Unauthorized:
        return None


@given(name=st.sampled_from([*claims(), "identity", "mark"]), value=json_values)
def test_a_token_may_say_anything(name: str, value: object) -> None:
    caller = outcome(signed({"alg": "ES256", "kid": "known"}, claims() | {name: value}))

    if caller is not None:
        assert isinstance(caller.identity.name, str)
        assert caller.grants is not None


@given(said=json_values)
def test_what_a_token_says_may_be_no_object(said: object) -> None:
    caller = outcome(signed({"alg": "ES256", "kid": "known"}, said))

    assert caller is None


@given(name=st.sampled_from(["alg", "kid", "typ", "jwk", "x5c", "crit", "jku"]), value=json_values)
def test_the_head_of_a_token_may_be_anything(name: str, value: object) -> None:
    outcome(signed({"alg": "ES256", "kid": "known"} | {name: value}, claims()))


@given(
    text=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")
)
def test_a_token_may_be_any_text(text: str) -> None:
    assert outcome(text) is None


@given(st.lists(st.binary(max_size=100), max_size=3))
def test_the_field_may_hold_any_bytes(values: list[bytes]) -> None:
    prefixed = [prefix + value for value in values for prefix in (b"", b"Basic ", b"Bearer ")]
    for fields in (values, *([value] for value in prefixed)):
        scope = {"headers": [(b"authorization", value) for value in fields]}
        try:
            found = read_credentials(scope, Proxies())
        except Unauthorized:
            continue
        assert (found is None) == (not fields or fields[0].strip().lower() == b"bearer anonymous")


@given(
    st.dictionaries(
        st.sampled_from([b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"host"]),
        st.binary(max_size=60) | st.from_regex(rb"for=.*;host=.*;proto=.*", fullmatch=True),
    )
)
def test_what_proxies_say_may_be_anything(headers: dict[bytes, bytes]) -> None:
    scope = {
        "scheme": "http",
        "client": ("10.0.0.1", 1),
        "server": ("192.0.2.1", 5000),
        "headers": list(headers.items()),
    }
    origin = Proxies((ipaddress.ip_network("10.0.0.0/8"),)).origin(scope)

    ipaddress.ip_address(origin.address)
    assert origin.url.startswith(("http://", "https://"))
    assert not set(origin.url) & set('"\\ \r\n,')


@given(st.lists(st.text(max_size=80), max_size=6))
def test_scopes_may_be_any_text(texts: list[str]) -> None:
    for scope in parse_scopes(texts):
        assert parse_scopes([str(scope)]) == (scope,)
