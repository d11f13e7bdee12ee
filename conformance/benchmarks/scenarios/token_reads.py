"""What it costs to ask who is there: a manifest with a token, and without one being needed."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from conformance.benchmarks import servers
from conformance.benchmarks.bench import Bench, seeded
from conformance.benchmarks.content import MANIFEST_TYPE, Image
from conformance.benchmarks.images import push_image
from conformance.benchmarks.load import CONNECTIONS, get_rate
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples
from conformance.benchmarks.servers import Configured, Server

GET = "GET manifest by tag, with a token"
COST = "what the token costs"
TARGET = 2.5
MOST = 30.0

METHOD = (
    f"{CONNECTIONS} connections ask for one manifest by tag, by `wrk`, after a warm-up. Both "
    "registries run in the mode `token` with the same key set, and are shown the same token "
    "(ES256). What the token costs is the part of our rate without authentication that is lost in "
    "the same rounds."
)
_ISSUER, _SERVICE = "tokens.example", "registry.example"


def run(bench: Bench) -> Section:
    """Measure requests a second."""
    layers = [bench.content.random(4096)]
    image = bench.content.image("bench/guarded", "latest", layers)
    settings, token = by_token(bench.directory / "jwks.json", image)
    headers = {"Accept": MANIFEST_TYPE, "Authorization": f"Bearer {token}"}
    ours = Configured(bench.ours, settings, "ours with tokens")
    peer = Configured(bench.peer, settings, "distribution with tokens")

    with ExitStack() as stack:
        # Filled while everybody may push.
        roots: dict[Server, Path] = {
            guarded: stack.enter_context(
                seeded(bench, guarded.inner, lambda running: push_image(running.port, image))
            )
            for guarded in (ours, peer)
        }
        roots[bench.ours] = roots[ours]

        def measure(server: Server) -> Mapping[str, float]:
            with servers.started(server, roots[server]) as running:
                target = f"/v2/{image.repository}/manifests/{image.tag}"
                # The same bytes to read, also where nobody looks at them.
                return {GET: get_rate(running.port, target, headers, bench.seconds)}

        found = bench.collect([ours, bench.ours, peer], measure)[GET]
    lost = [100 * (1 - kept) for kept in found[ours].over(found[bench.ours]).values]
    return Section(
        "Who is asking",
        METHOD,
        [
            Row(GET, "requests/s", found[ours], found[peer], target=TARGET),
            Row(COST, "%", Samples.of(lost), limit=MOST, higher_is_better=False),
        ],
    )


def by_token(keys: Path, image: Image) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the settings of a registry in the mode ``token``, and a token that pulls an image.

    Args:
        keys: The file of the key set, which is written.
        image: What may be pulled.
    """
    token = _make_token(keys, image)
    settings = (
        ("REGISTRY_AUTH", "token"),
        ("REGISTRY_AUTH_TOKEN_REALM", "http://127.0.0.1:1/token"),
        ("REGISTRY_AUTH_TOKEN_SERVICE", _SERVICE),
        ("REGISTRY_AUTH_TOKEN_ISSUER", _ISSUER),
        ("REGISTRY_AUTH_TOKEN_JWKS", str(keys)),
    )
    return settings, token


def _make_token(keys: Path, image: Image) -> str:
    """Write a key set, and return a token by it that outlives the run."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    keys.write_text(json.dumps({"keys": [{**public, "kid": "bench", "use": "sig"}]}))
    now = int(time.time())
    claims = {
        "iss": _ISSUER,
        "sub": "bench",
        "aud": _SERVICE,
        "exp": now + 24 * 3600,
        "nbf": now - 60,
        "iat": now,
        "jti": "bench",
        "access": [{"type": "repository", "name": image.repository, "actions": ["pull"]}],
    }
    return jwt.encode(claims, key, "ES256", headers={"kid": "bench"})
