"""Tokens between us and distribution, in both directions, with its own configuration.

Its registry is started as its documentation has it and trusts our token service, by our key set
and by a bundle of certificates. Ours is started with the same settings and trusts the token servers
of others.
"""

import json
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from alauda_registry.auth.keys import Algorithm, libtrust_id, public_jwk, thumbprint
from tests.integration.guarded import Guarded, bearer, by_password
from tests.parts import distribution, registry
from tests.parts.tokens import (
    ISSUER,
    SERVICE,
    Certified,
    certified,
    claims,
    pull,
    sign,
    write_bundle,
)
from tests.parts.tools import require

pytestmark = pytest.mark.integration

OURS = "registry.example"


@pytest.fixture(scope="module", params=[Algorithm.ES256, Algorithm.RS256, Algorithm.EDDSA])
def tokens(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """Our token service, which makes tokens for a registry of distribution's."""
    settings = {
        "REGISTRY_AUTH_TOKENSERVICE_AUDIENCES": f"[{OURS}]",
        "REGISTRY_AUTH_TOKENSERVICE_ALGORITHM": request.param,
    }
    with by_password(tmp_path_factory.mktemp("tokens"), settings=settings) as place:
        yield Guarded(place.server, place.server, OURS, client=place.client)


def certificate_of(place: Guarded, path: Path) -> Path:
    """Make a certificate of the token service's key, as `openssl req -x509 -key` does."""
    (found,) = place.server.root.rglob("token-key.pem")
    key = serialization.load_pem_private_key(found.read_bytes(), None)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, algorithm)  # type: ignore[arg-type]
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("trust", ["jwks", "rootcertbundle"])
def test_distribution_accepts_our_tokens(trust: str, tokens: Guarded, tmp_path: Path) -> None:
    require("distribution")
    settings = {
        "REGISTRY_AUTH": "token",
        "REGISTRY_AUTH_TOKEN_REALM": f"{tokens.url}/token",
        "REGISTRY_AUTH_TOKEN_SERVICE": OURS,
        "REGISTRY_AUTH_TOKEN_ISSUER": "alauda-image-registry",
    }
    if trust == "jwks":
        keys = tmp_path / "jwks.json"
        keys.write_text(tokens.client.get(f"{tokens.url}/.well-known/jwks.json").text)
    else:
        keys = certificate_of(tokens, tmp_path / "bundle.pem")
    settings[f"REGISTRY_AUTH_TOKEN_{trust.upper()}"] = str(keys)
    with distribution.running(tmp_path / "peer", settings=settings) as peer:
        push_and_pull(peer.url, tokens)


def push_and_pull(url: str, tokens: Guarded) -> None:
    """Do with our tokens what they allow, and try what they do not."""
    with httpx.Client(base_url=url, timeout=30) as client:
        challenge = client.get("/v2/").headers["WWW-Authenticate"]
        assert f'realm="{tokens.url}/token",service="{OURS}"' in challenge
        uploads = "/v2/team/app/blobs/uploads/"
        writer = bearer(tokens.token("writer", "repository:team/app:pull,push"))
        reader = bearer(tokens.token("reader", "repository:team/app:pull,push"))
        admin = bearer(tokens.token("admin", "repository:team/app:* registry:catalog:*"))

        assert client.get("/v2/", headers=bearer(tokens.token("reader"))).status_code == 200
        started = client.post(uploads, headers=writer)
        assert started.status_code == 202
        location = urllib.parse.urlsplit(started.headers["Location"])
        digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        put = f"{location.path}?{location.query}&digest={digest}"
        assert client.put(put, content=b"{}", headers=writer).status_code == 201
        blob = f"/v2/team/app/blobs/{digest}"
        assert client.get(blob, headers=reader).content == b"{}"
        assert client.post(uploads, headers=reader).status_code == 401
        assert client.delete(blob, headers=writer).status_code == 401
        assert client.delete(blob, headers=admin).status_code == 202
        assert client.get("/v2/_catalog", headers=writer).status_code == 401
        assert client.get("/v2/_catalog", headers=admin).status_code == 200
        assert client.get("/v2/other/app/tags/list", headers=admin).status_code == 401


def test_ours_does_with_them_what_distribution_does(tokens: Guarded, tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(tokens.client.get(f"{tokens.url}/.well-known/jwks.json").text)
    settings = {
        "REGISTRY_AUTH": "token",
        "REGISTRY_AUTH_TOKEN_REALM": f"{tokens.url}/token",
        "REGISTRY_AUTH_TOKEN_SERVICE": OURS,
        "REGISTRY_AUTH_TOKEN_ISSUER": "alauda-image-registry",
        "REGISTRY_AUTH_TOKEN_JWKS": str(keys),
    }
    with registry.running(tmp_path / "ours", settings=settings) as server:
        push_and_pull(server.url, tokens)


DOCUMENTED = """\
version: 0.1
storage:
  inmemory: {{}}
http:
  addr: 127.0.0.1:0
auth:
  token:
    autoredirect: false
    realm: http://127.0.0.1:1/token
    service: {service}
    issuer: {issuer}
    rootcertbundle: {bundle}
"""


@pytest.fixture(scope="module")
def root() -> Certified:
    return certified(is_authority=True)


@pytest.fixture(scope="module", params=["distribution", "ours"])
def trusting(
    request: pytest.FixtureRequest, root: Certified, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A registry that trusts a token server which is not ours, by a bundle of certificates."""
    directory = tmp_path_factory.mktemp("trusting")
    settings = {
        "REGISTRY_AUTH_TOKEN_REALM": "http://127.0.0.1:1/token",
        "REGISTRY_AUTH_TOKEN_SERVICE": SERVICE,
        "REGISTRY_AUTH_TOKEN_ISSUER": ISSUER,
        "REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE": str(write_bundle(directory / "bundle.pem", root)),
    }
    if request.param == "ours":
        with registry.running(directory, settings=settings) as server:
            yield server.url
    else:
        require("distribution")
        settings["REGISTRY_AUTH"] = "token"
        with distribution.running(directory, settings=settings) as peer:
            yield peer.url


def test_tokens_of_others_are_taken_by_both(trusting: str, root: Certified) -> None:
    """What one of the two takes and the other does not would be a trap for whoever changes over."""
    leaf = certified(signer=root, name="leaf")
    stranger = certified()
    kid = thumbprint(public_jwk(root.key.public_key()))
    said = claims(pull("team/app", "pull", "push"))
    for token, is_good in (
        (sign(said, root.key, "ES256", kid=kid), True),
        (sign(said, leaf.key, "ES256", x5c=[leaf.der]), True),
        (sign(said, root.key, "ES256", x5c=[root.der]), True),
        (sign(said, leaf.key, "ES256", kid="wrong", x5c=[leaf.der]), True),
        (sign(claims(aud=["x", SERVICE]), root.key, "ES256", kid=kid), True),
        (sign(claims(sub=""), root.key, "ES256", kid=kid), True),
        (sign(said, stranger.key, "ES256", kid=kid), False),
        (sign(said, stranger.key, "ES256", x5c=[stranger.der]), False),
        (sign(said, stranger.key, "ES256", jwk=public_jwk(stranger.key.public_key())), False),
        (sign(claims(aud="x"), root.key, "ES256", kid=kid), False),
        (sign(claims(iss="x"), root.key, "ES256", kid=kid), False),
        (sign(claims(exp=1), root.key, "ES256", kid=kid), False),
        (sign(claims(nbf=2**33), root.key, "ES256", kid=kid), False),
        (sign(said, b"k" * 64, "HS256", kid=kid), False),
    ):
        answer = httpx.get(f"{trusting}/v2/", headers=bearer(token), timeout=30)
        assert (answer.status_code == 200) is is_good, token
        if not is_good:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_the_id_of_registry_2_is_taken_by_ours(root: Certified, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle.pem", root)
    configuration = tmp_path / "config.yml"
    configuration.write_text(DOCUMENTED.format(service=SERVICE, issuer=ISSUER, bundle=bundle))
    token = sign(claims(), root.key, "ES256", kid=libtrust_id(root.key.public_key()))

    with registry.running(tmp_path, arguments=["--config", configuration]) as server:
        answer = httpx.get(f"{server.url}/v2/", headers=bearer(token), timeout=30)
        assert answer.status_code == 200
        log = server.log.read_text()
    assert json.dumps(token) not in log
    assert '"level": "warn"' not in log
