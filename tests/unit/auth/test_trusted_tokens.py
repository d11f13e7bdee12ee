"""Tokens of others: what distribution takes is taken, and what it must not take is not.

Each test of a bad token has beside it the good one that it differs from in one thing.
"""

import base64
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from alauda_registry.auth import trusted_tokens
from alauda_registry.auth.authenticator import Basic, Bearer, Caller
from alauda_registry.auth.files import FileInvalid, Watched
from alauda_registry.auth.keys import libtrust_id, public_jwk, thumbprint
from alauda_registry.auth.scopes import Access
from alauda_registry.auth.tokens import TokenInvalid, read
from alauda_registry.auth.trusted_tokens import (
    ASYMMETRIC,
    SYMMETRIC,
    TokenServer,
    TrustedTokens,
    read_certificates,
    read_jwks,
)
from alauda_registry.oci.errors import Unauthorized
from tests.parts.tokens import (
    ISSUER,
    SERVICE,
    Certified,
    certified,
    claims,
    pull,
    raw,
    sign,
    write_bundle,
)

pytestmark = pytest.mark.anyio

Check = Callable[[str], Any]

PULL = Access("repository", "team/app", "pull")


@pytest.fixture(scope="module")
def root() -> Certified:
    return certified()


@pytest.fixture(scope="module")
def kid(root: Certified) -> str:
    return thumbprint(public_jwk(root.certificate.public_key()))  # type: ignore[arg-type]


@pytest.fixture
def tokens(root: Certified, tmp_path: Path) -> TrustedTokens:
    bundle = write_bundle(tmp_path / "bundle.pem", root)
    return TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])


async def accepted(tokens: TrustedTokens, token: str) -> Caller:
    return await tokens.authenticate(Bearer(token), "192.0.2.1")


async def refused(tokens: TrustedTokens, token: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        await tokens.authenticate(Bearer(token), "192.0.2.1")
    assert caught.value.error == "invalid_token"
    return caught.value.message


async def test_a_token_with_the_id_of_registry_3_is_taken(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    caller = await accepted(tokens, sign(claims(), root.key, "ES256", kid=kid))

    assert caller.identity.name == "alice"
    assert caller.grants is not None
    assert caller.grants.cover(PULL)
    assert not caller.grants.cover(Access("repository", "team/app", "push"))
    assert not caller.grants.cover(Access("repository", "team/other", "pull"))


async def test_a_token_with_the_id_of_registry_2_is_taken(
    tokens: TrustedTokens, root: Certified
) -> None:
    old = libtrust_id(root.certificate.public_key())  # type: ignore[arg-type]
    assert len(old.split(":")) == 12

    await accepted(tokens, sign(claims(), root.key, "ES256", kid=old))


async def test_a_chain_of_certificates_to_the_bundle_is_followed(tmp_path: Path) -> None:
    authority = certified(is_authority=True, name="authority")
    middle = certified(signer=authority, is_authority=True, name="middle")
    leaf = certified(signer=middle, name="leaf")
    stranger = certified(signer=certified(is_authority=True, name="authority"), name="leaf")
    bundle = write_bundle(tmp_path / "bundle.pem", authority)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])

    def token(key: Certified, *chain: Certified) -> str:
        return sign(claims(), key.key, "ES256", x5c=[found.der for found in chain])

    await accepted(tokens, token(leaf, leaf, middle))
    await accepted(tokens, token(authority, authority))
    await accepted(
        tokens,
        sign(
            claims(),
            leaf.key,
            "ES256",
            jwk=public_jwk(leaf.key.public_key()) | {"x5c": [leaf.der, middle.der]},
        ),
    )
    await refused(tokens, token(leaf, leaf))
    await refused(tokens, token(stranger, stranger))
    await refused(tokens, token(stranger, stranger, middle))
    # A good chain, and a key that is not its.
    await refused(tokens, token(stranger, leaf, middle))
    # Certified, but not to certify others.
    beyond = certified(signer=leaf, name="beyond")
    await refused(tokens, token(beyond, beyond, leaf, middle))
    late = certified(signer=middle, name="late", days=-1)
    await refused(tokens, token(late, late, middle))
    for nonsense in ([], "x", [1], ["!"], [leaf.der[:40]], [leaf.der] * 50):
        await refused(tokens, sign(claims(), leaf.key, "ES256", x5c=nonsense))


@pytest.mark.parametrize("may_sign", [True, False])
@pytest.mark.parametrize("where", ["middle", "root"])
async def test_an_authority_whose_key_is_not_for_certificates_vouches_for_nobody(
    where: str, may_sign: bool, tmp_path: Path
) -> None:
    others = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=may_sign, **others)
    of = {name: usage if name == where else None for name in ("root", "middle")}
    authority = certified(is_authority=True, name="root", usage=of["root"])
    middle = certified(signer=authority, is_authority=True, name="middle", usage=of["middle"])
    leaf = certified(signer=middle, name="leaf")
    bundle = write_bundle(tmp_path / "bundle.pem", authority)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])
    token = sign(claims(), leaf.key, "ES256", x5c=[leaf.der, middle.der])

    await (accepted if may_sign else refused)(tokens, token)


async def test_of_the_certificates_in_a_token_one_way_is_tried(
    tokens: TrustedTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ways through a dozen of one name are as many signatures as the library looks at."""
    looked_at: list[int] = []

    class Counting:
        def verify(self, _leaf: object, others: Sequence[object]) -> None:
            looked_at.append(len(others))
            raise ValueError("not trusted")

    monkeypatch.setattr(trusted_tokens, "_verifier", lambda _roots: Counting())

    async def look(leaf: Certified, *others: Certified) -> None:
        x5c = [found.der for found in (leaf, *others)]
        await refused(tokens, sign(claims(), leaf.key, "ES256", x5c=x5c))

    same = certified(is_authority=True, name="same")
    again = [certified(same.key, signer=same, is_authority=True, name="same") for _ in range(8)]
    await look(certified(signer=same, name="leaf"), *again)
    # Two that vouch for one another.
    one, two = (certified(is_authority=True, name=name) for name in ("one", "two"))
    round_about = [
        certified(one.key, signer=two, is_authority=True, name="one"),
        certified(two.key, signer=one, is_authority=True, name="two"),
    ]
    await look(certified(signer=one, name="leaf"), *round_about, *round_about)
    assert looked_at == [1, 2]

    # Whose signatures take milliseconds to look at.
    numbers = rsa.RSAPublicNumbers(65537, (1 << 16_383) + 1)
    large = certified(signer=one, is_authority=True, name="large", public=numbers.public_key())
    await look(certified(signer=large, name="leaf"), large)
    assert looked_at == [1, 2]


async def test_a_certificate_with_any_byte_changed_is_no_certificate(
    tmp_path: Path, root: Certified
) -> None:
    bundle = write_bundle(tmp_path / "bundle.pem", root)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])
    der = base64.b64decode(root.der)

    for at in range(len(der)):
        changed = base64.b64encode(der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]).decode()
        await refused(tokens, sign(claims(), root.key, "ES256", x5c=[changed]))


async def test_an_expired_certificate_in_the_bundle_vouches_for_no_chain(tmp_path: Path) -> None:
    old = certified(days=-1)
    bundle = write_bundle(tmp_path / "bundle.pem", old)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])

    await refused(tokens, sign(claims(), old.key, "ES256", x5c=[old.der]))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (rsa.generate_private_key(65537, 2048), "PS512"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_algorithm_of_distribution_is_taken(
    key: Any, algorithm: str, tmp_path: Path
) -> None:
    jwks = tmp_path / "jwks.json"
    entry = public_jwk(key.public_key())
    jwks.write_text(json.dumps({"keys": [entry | {"kid": "any name"}]}))
    bundle = write_bundle(tmp_path / "bundle.pem", certified(key))

    by_set = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([jwks], read_jwks)])
    by_bundle = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])

    await accepted(by_set, sign(claims(), key, algorithm, kid="any name"))
    await accepted(by_bundle, sign(claims(), key, algorithm, kid=thumbprint(entry)))


async def test_a_key_in_the_token_must_be_one_that_is_trusted(
    tokens: TrustedTokens, root: Certified
) -> None:
    own = ec.generate_private_key(ec.SECP256R1())

    await accepted(tokens, sign(claims(), root.key, "ES256", jwk=public_jwk(root.key.public_key())))
    await refused(tokens, sign(claims(), own, "ES256", jwk=public_jwk(own.public_key())))
    # The public key of one who is trusted, and a signature by another.
    await refused(tokens, sign(claims(), own, "ES256", jwk=public_jwk(root.key.public_key())))
    for nonsense in ("x", {}, {"kty": "EC"}, {"kty": ["EC"]}, {"kty": "oct", "k": "AAAA"}):
        await refused(tokens, sign(claims(), own, "ES256", jwk=nonsense))


async def test_of_several_trusted_keys_the_one_in_the_token_counts(
    root: Certified, tmp_path: Path
) -> None:
    second = certified()
    bundle = write_bundle(tmp_path / "bundle.pem", root, second)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([bundle], read_certificates)])

    for key in (root.key, second.key):
        await accepted(tokens, sign(claims(), key, "ES256", jwk=public_jwk(key.public_key())))
    await refused(
        tokens, sign(claims(), root.key, "ES256", jwk=public_jwk(second.key.public_key()))
    )


async def test_nothing_is_fetched_from_where_a_token_says(tokens: TrustedTokens, kid: str) -> None:
    own = ec.generate_private_key(ec.SECP256R1())

    for header in ({"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}):
        assert "not trusted" in await refused(tokens, sign(claims(), own, "ES256", **header))
        assert "signature" in await refused(tokens, sign(claims(), own, "ES256", kid=kid, **header))


async def test_no_signature_is_no_signature(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    good = sign(claims(), root.key, "ES256", kid=kid)
    header, body, signature = good.split(".")

    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        await refused(tokens, raw({"alg": algorithm, "kid": kid}, claims(), b""))
    await refused(tokens, f"{header}.{body}.")
    await refused(tokens, f"{header}.{body}")
    await refused(tokens, f"{header}.{body}.{signature}.{signature}")
    await refused(tokens, f"{header}.{body}.{signature[:-4]}AAAA")
    await accepted(tokens, good)


async def test_the_public_key_is_no_secret_to_sign_with(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    public = root.key.public_key()
    encodings = [
        public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]
    for secret in (*encodings, root.pem, json.dumps(public_jwk(public)).encode()):
        for algorithm in SYMMETRIC:
            # By hand: the library refuses to make such a token.
            header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
            signed = raw(header, claims(), b"").rpartition(".")[0]
            hash_of = jwt.get_algorithm_by_name(algorithm)
            signature = hash_of.sign(signed.encode(), secret)
            encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
            assert "accepted" in await refused(tokens, f"{signed}.{encoded}")


async def test_shared_secrets_are_taken_only_when_they_are_asked_for(tmp_path: Path) -> None:
    jwks = tmp_path / "jwks.json"
    secret = b"s" * 64
    k = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    jwks.write_text(json.dumps({"keys": [{"kty": "oct", "kid": "s", "k": k}]}))
    token = sign(claims(), secret, "HS256", kid="s")

    def of(*algorithms: str) -> TrustedTokens:
        server = TokenServer(ISSUER, SERVICE, algorithms)
        return TrustedTokens(server, [Watched([jwks], read_jwks)])

    await accepted(of(*ASYMMETRIC, "HS256"), token)
    await refused(of(*ASYMMETRIC), token)
    await refused(of("HS384"), token)


async def test_only_the_algorithms_that_are_configured_are_taken(
    root: Certified, kid: str, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle.pem", root)
    server = TokenServer(ISSUER, SERVICE, ("RS256",))
    tokens = TrustedTokens(server, [Watched([bundle], read_certificates)])

    await refused(tokens, sign(claims(), root.key, "ES256", kid=kid))


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - 70}, "expired"),
        ({"exp": None}, "not valid"),
        ({"exp": "never"}, "not valid"),
        ({"exp": 1e400}, "not valid"),
        ({"exp": [1]}, "not valid"),
        ({"nbf": NOW + 3600}, "not valid yet"),
        ({"nbf": "x"}, "not valid"),
        ({"iss": "other.example"}, "another issuer"),
        ({"iss": None}, "not valid"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"aud": "other.example"}, "another service"),
        ({"aud": ["other.example", "registry"]}, "another service"),
        ({"aud": None}, "not valid"),
        ({"aud": []}, "not valid"),
        ({"aud": [1]}, "another service"),
        ({"aud": {"a": 1}}, "another service"),
        ({"access": "all"}, "no list"),
        ({"access": [1]}, "type, name and actions"),
        ({"access": [{"type": "repository", "actions": None}]}, "type, name and actions"),
        ({"access": [{"type": "repository", "name": "a", "actions": "pull"}]}, "actions"),
        ({"access": [{"type": "repository", "name": "a", "actions": [1]}]}, "actions"),
    ],
    ids=range(21),
)
async def test_what_is_wrong_with_a_token_is_told(
    changes: dict[str, Any], reason: str, tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    key: Any = root.key
    # By hand, since the library checks what it encodes.
    header = {"alg": "ES256", "typ": "JWT", "kid": kid}
    signed = raw(header, claims(**changes), b"").rpartition(".")[0]
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), key)
    encoded = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()

    assert reason in await refused(tokens, f"{signed}.{encoded}")


async def test_clocks_may_differ_by_a_minute(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    now = int(time.time())

    await accepted(tokens, sign(claims(exp=now - 50, iat=now - 90), root.key, "ES256", kid=kid))
    await accepted(tokens, sign(claims(nbf=now + 50, iat=now + 50), root.key, "ES256", kid=kid))


async def test_several_audiences_and_no_access_are_fine(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    caller = await accepted(
        tokens, sign(claims(aud=["other", SERVICE], access=None), root.key, "ES256", kid=kid)
    )

    assert caller.grants is not None
    assert not caller.grants.cover(PULL)


def signed_by(key: Any, header: str, said: str) -> str:
    signed = raw(header, said, b"").rpartition(".")[0]
    signature = jwt.get_algorithm_by_name("ES256").sign(signed.encode(), key)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_a_member_that_is_there_twice_means_two_things(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    header = json.dumps({"alg": "ES256", "kid": kid})
    said = json.dumps(claims())

    await accepted(tokens, signed_by(root.key, header, said))
    for twice in (
        (header, said[:-1] + ', "sub": "root"}'),
        (header, said.replace('"actions"', '"name": "other", "actions"')),
        (header[:-1] + ', "alg": "none"}', said),
        (header[:-1] + f', "kid": "{kid}"' + "}", said),
    ):
        assert "cannot be read" in await refused(tokens, signed_by(root.key, *twice))


@pytest.mark.parametrize(
    "exp", [10**400, float("inf"), float("nan"), [], True, "soon"], ids=range(6)
)
async def test_an_end_that_is_no_time_is_refused(
    exp: object, tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    told = await refused(tokens, sign({**claims(), "exp": exp}, root.key, "ES256", kid=kid))

    assert re.search("not valid|no time that there is|expired", told)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "\N{SNOWMAN}.b.c",
        "e30.e30.",
        "W10.W10.AA",
        "bnVsbA.bnVsbA.AA",
        raw("[" * 100_000, {}, b"x"),
        raw({"alg": "ES256"}, "[" * 5_000, b"x"),
        raw({"alg": 1}, {}, b"x"),
        raw({"alg": ["none"]}, {}, b"x"),
        raw({"alg": "ES256", "kid": {"a": 1}}, {}, b"x"),
        raw({"alg": "ES256", "kid": 1}, {}, b"x"),
        raw({"alg": "ES256", "crit": ["exp"]}, {}, b"x"),
        raw({"alg": "ES256", "b64": False}, {}, b"x"),
        raw({"alg": "ES256"}, {"x": "y" * 20_000}, b"x"),
    ],
    ids=range(17),
)
async def test_nonsense_is_refused_and_nothing_else_happens(
    token: str, tokens: TrustedTokens
) -> None:
    await refused(tokens, token)


async def test_extensions_that_must_be_understood_are_not(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    await refused(tokens, sign(claims(), root.key, "ES256", kid=kid, crit=["exp"], exp=1))
    # Also by a library that knows some of them.
    for header in ({"crit": ["b64"]}, {"b64": True}, {"zip": "DEF"}):
        with pytest.raises(TokenInvalid, match="extensions"):
            read(raw({"alg": "ES256", "kid": kid, **header}, claims(), b"x"))


async def test_a_password_is_not_taken(tokens: TrustedTokens) -> None:
    with pytest.raises(Unauthorized):
        await tokens.authenticate(Basic("alice", "secret"), "192.0.2.1")


async def test_a_token_that_was_good_is_not_when_its_key_is_gone(
    root: Certified, kid: str, tmp_path: Path
) -> None:
    clock = [0.0]
    path = write_bundle(tmp_path / "bundle.pem", root)
    watched = Watched([path], read_certificates, now=lambda: clock[0])
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [watched])
    token = sign(claims(), root.key, "ES256", kid=kid)
    other = certified()
    other_kid = thumbprint(public_jwk(other.key.public_key()))
    await accepted(tokens, token)

    write_bundle(path, root, other)
    clock[0] += 2
    await accepted(tokens, token)
    await accepted(tokens, sign(claims(), other.key, "ES256", kid=other_kid))

    write_bundle(path, other)
    clock[0] += 2
    await refused(tokens, token)


async def test_a_good_token_is_known_until_its_end_or_a_file_is_looked_at(
    root: Certified, kid: str, tmp_path: Path
) -> None:
    path = write_bundle(tmp_path / "bundle.pem", root)
    looks = [10.0]
    watched = Watched([path], read_certificates, now=lambda: looks[0])
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [watched])
    token = sign(claims(exp=int(time.time()) + 100), root.key, "ES256", kid=kid)
    assert (await accepted(tokens, token)).known_until == -math.inf

    assert (await accepted(tokens, token)).known_until == watched.known_until == 11.0
    looks[0] = time.monotonic() + 3600
    end = (await accepted(tokens, token)).known_until - time.monotonic()
    assert end == pytest.approx(160, abs=5)


@pytest.mark.parametrize("first", ["leaf", "middle", "root", "itself"])
async def test_a_good_token_is_known_until_the_first_of_its_certificates_ends(
    first: str, tmp_path: Path
) -> None:
    days = {name: 1 if name == first else 3 for name in ("leaf", "middle", "root", "itself")}
    authority = certified(is_authority=True, name="root", days=days["root"])
    middle = certified(signer=authority, is_authority=True, name="middle", days=days["middle"])
    leaf = certified(signer=middle, name="leaf", days=days["leaf"])
    itself = certified(name="itself", days=days["itself"])
    bundle = write_bundle(tmp_path / "bundle.pem", authority, itself)
    watched = Watched([bundle], read_certificates, now=lambda: time.monotonic() + 10**6)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [watched])
    chain = [itself] if first == "itself" else [leaf, middle]
    said = claims(exp=int(time.time()) + 2 * 86_400)
    token = sign(said, chain[0].key, "ES256", x5c=[found.der for found in chain])
    await accepted(tokens, token)

    end = (await accepted(tokens, token)).known_until - time.monotonic()

    assert end == pytest.approx(86_400, abs=5)


async def test_a_token_that_was_good_is_not_when_its_time_is_over(
    root: Certified, kid: str, tmp_path: Path
) -> None:
    clock = [time.time()]
    path = write_bundle(tmp_path / "bundle.pem", root)
    tokens = TrustedTokens(
        TokenServer(ISSUER, SERVICE), [Watched([path], read_certificates)], now=lambda: clock[0]
    )
    token = sign(claims(exp=int(clock[0]) - 54), root.key, "ES256", kid=kid)
    await accepted(tokens, token)

    clock[0] += 10
    await anyio.sleep(6.1)
    assert "expired" in await refused(tokens, token)


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN CERTIFICATE-----\n"])
async def test_a_bundle_without_certificates_is_explained(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(content)

    with pytest.raises(FileInvalid, match="rootcertbundle"):
        Watched([path], read_certificates)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": [{}]}', b'{"keys": [{"kty": "EC"}]}', b'{"keys": 1}']
)
async def test_a_key_set_that_is_none_is_explained(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(content)

    with pytest.raises(FileInvalid, match="jwks"):
        Watched([path], read_jwks)


async def test_keys_of_a_set_that_cannot_be_used_are_passed_over(
    root: Certified, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = rsa.generate_private_key(65537, 1024).public_key()
    secret = "c2VjcmV0"
    path = tmp_path / "jwks.json"
    keys = [
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "A" * 43},
        jwt.algorithms.RSAAlgorithm.to_jwk(small, as_dict=True) | {"use": "enc"},
        {"kty": "oct", "k": [secret]},
        public_jwk(root.key.public_key()) | {"kid": "good"},
    ]
    path.write_text(json.dumps({"keys": keys}))

    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [Watched([path], read_jwks)])

    await accepted(tokens, sign(claims(), root.key, "ES256", kid="good"))
    assert [f"key {number} of auth.token.jwks is passed over" in caplog.text for number in (1, 4)]
    assert caplog.text.count("is passed over") == 4
    assert secret not in caplog.text


async def test_a_bundle_with_a_key_of_another_kind_is_explained(tmp_path: Path) -> None:
    odd = certified(public=dsa.generate_private_key(1024).public_key())
    path = write_bundle(tmp_path / "bundle.pem", odd)

    with pytest.raises(FileInvalid, match="kind that"):
        Watched([path], read_certificates)


async def test_remembered_tokens_are_bounded(
    root: Certified, kid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trusted_tokens, "KEPT_TOKENS", 4)
    bundle = Watched([write_bundle(tmp_path / "bundle.pem", root)], read_certificates)
    tokens = TrustedTokens(TokenServer(ISSUER, SERVICE), [bundle])
    for number in range(10):
        await accepted(tokens, sign(claims(jti=str(number)), root.key, "ES256", kid=kid))

    assert len(tokens._verified) == 4


@pytest.mark.parametrize(
    "entry", [{"actions": None}, {}, {"actions": []}], ids=["null", "absent", "empty"]
)
async def test_a_resource_without_actions_spoils_no_others(
    entry: dict[str, Any], tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    said = claims({"type": "repository", "name": "team/denied", **entry}, pull("team/app"))

    caller = await accepted(tokens, sign(said, root.key, "ES256", kid=kid))

    assert caller.grants is not None
    assert caller.grants.cover(PULL)
    assert not caller.grants.cover(Access("repository", "team/denied", "pull"))


async def test_access_of_one_resource_adds_up(
    tokens: TrustedTokens, root: Certified, kid: str
) -> None:
    said = claims(pull("a"), pull("a", "push"), pull("b", "*"))

    caller = await accepted(tokens, sign(said, root.key, "ES256", kid=kid))

    assert caller.grants is not None
    assert caller.grants.cover(Access("repository", "a", "pull"))
    assert caller.grants.cover(Access("repository", "a", "push"))
    assert not caller.grants.cover(Access("repository", "a", "delete"))
    assert caller.grants.cover(Access("repository", "b", "delete"))
    assert not caller.grants.cover(Access("registry", "b", "delete"))
