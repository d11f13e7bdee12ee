"""Keys: made once, changed without a token being refused."""

import json
import multiprocessing
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from alauda_registry.auth.files import FileInvalid
from alauda_registry.auth.keys import (
    Algorithm,
    ensure_key_file,
    make_key,
    public_jwk,
    read_keys,
    thumbprint,
)


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """The example of RFC 7638, section 3.1."""
    jwk = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1"
        "L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4"
        "QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO"
        "pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csF"
        "Cur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }

    assert thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_that_is_made_can_be_used(algorithm: Algorithm) -> None:
    ring = read_keys([make_key(algorithm)])

    assert ring.signing.algorithm == algorithm
    assert list(ring.verifying) == [ring.signing.kid]
    (entry,) = ring.jwks()["keys"]
    assert (entry["kid"], entry["alg"], entry["use"]) == (ring.signing.kid, algorithm, "sig")
    assert not entry.keys() & {"d", "p", "q", "dp", "dq", "qi"}


def test_the_first_private_key_signs_and_all_verify() -> None:
    first, second = make_key(Algorithm.ES256), make_key(Algorithm.EDDSA)
    third = ec.generate_private_key(ec.SECP384R1()).public_key()
    public = third.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    ring = read_keys([public + b"# a comment\n" + first, second])

    assert ring.signing.kid == read_keys([first]).signing.kid
    assert len(ring.verifying) == 3
    assert thumbprint(public_jwk(third)) in ring.verifying
    assert read_keys([first + second]).verifying.keys() == ring.verifying.keys() - {
        thumbprint(public_jwk(third))
    }


def test_keys_of_openssl_are_read(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout"],
        capture_output=True,
        check=True,
    )

    assert read_keys([made.stdout]).signing.algorithm == "ES256"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "must be PEM"),
        (pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "without a pass phrase"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (pem(rsa.generate_private_key(65537, 1024)), "2048 bits"),
    ],
)
def test_what_cannot_be_used_is_explained(content: bytes, reason: str) -> None:
    with pytest.raises(FileInvalid, match=reason) as caught:
        read_keys([content])
    assert "BEGIN" not in str(caught.value)


def test_a_key_is_made_for_its_owner_only_and_once(tmp_path: Path) -> None:
    path = tmp_path / "below" / "key.pem"

    assert ensure_key_file(path, Algorithm.ES256)
    made = path.read_bytes()
    assert not ensure_key_file(path, Algorithm.ES256)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == made
    assert list(path.parent.iterdir()) == [path]


def _ensure(path: Path, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait()
    ensure_key_file(path, Algorithm.ES256)
    read_keys([path.read_bytes()])


def test_of_several_that_start_at_once_all_use_the_same_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(10):
        path = tmp_path / str(number) / "key.pem"
        barrier = context.Barrier(4)
        processes = [context.Process(target=_ensure, args=(path, barrier)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        assert list(path.parent.iterdir()) == [path]


def test_a_key_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FileInvalid, match=r"auth\.tokenservice\.keys"):
        ensure_key_file(tmp_path / "file" / "key.pem", Algorithm.ES256)
    # It cannot even be told whether there is one, as in a folder that is closed to us.
    with pytest.raises(FileInvalid, match=r"auth\.tokenservice\.keys"):
        ensure_key_file(tmp_path / ("x" * 300) / "key.pem", Algorithm.ES256)


def test_public_keys_can_be_shown_as_json() -> None:
    assert json.dumps(read_keys([make_key(Algorithm.RS256)]).jwks())
