"""Digests: the names of content.

A :class:`Digest` is parsed once, where it enters, and is right from then on; nothing below
the routes handles a digest as text. Only the algorithms the image specification registers
are known, since an unknown one cannot be checked. Parsing happens in every request, so it
is one match of one expression. Grammar: distribution specification, "Pulling manifests".
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from typing_extensions import override

from alauda_registry.oci.errors import DigestInvalid


class Hasher(Protocol):
    """What :mod:`hashlib` objects offer and the registry uses."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Continue with the next bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far, as lower-case hexadecimal digits."""
        ...

    def copy(self) -> Self:
        """Return another hasher that has seen the same bytes."""
        ...


class Algorithm(StrEnum):
    """The hash algorithms a digest may name."""

    SHA256 = "sha256"
    SHA512 = "sha512"

    def hasher(self) -> Hasher:
        """Return a new hasher that has seen nothing yet."""
        return hashlib.sha256() if self is Algorithm.SHA256 else hashlib.sha512()


@dataclass(frozen=True, slots=True)
class Digest:
    """The digest of some content. Made by :meth:`parse` or :meth:`of`.

    Args:
        algorithm: What the content was hashed with.
        encoded: The hash, as lower-case hexadecimal digits.
    """

    algorithm: Algorithm
    encoded: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a digest such as ``sha256:e3b0…b855``.

        Raises:
            DigestInvalid: The text is no digest, or one of an unsupported algorithm.
        """
        if _DIGEST.fullmatch(text) is None:
            raise DigestInvalid(_complaint(text), digest=text)
        return cls(_ALGORITHMS[text[:6]], text[7:])

    @classmethod
    def of(
        cls, content: bytes | bytearray | memoryview, algorithm: Algorithm = Algorithm.SHA256
    ) -> Self:
        """Compute the digest of some content."""
        hasher = algorithm.hasher()
        hasher.update(content)
        return cls(algorithm, hasher.hexdigest())

    @override
    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.encoded}"


_DIGEST = re.compile("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_ALGORITHMS = {algorithm.value: algorithm for algorithm in Algorithm}
_ENCODED_LENGTH = {"sha256": 64, "sha512": 128}


def _complaint(text: str) -> str:
    name, colon, encoded = text.partition(":")
    if not colon:
        return "invalid digest: write it as <algorithm>:<hexadecimal digits>"
    length = _ENCODED_LENGTH.get(name)
    if length is None:
        return "unsupported digest algorithm: use sha256 or sha512"
    if len(encoded) != length:
        return f"invalid digest: {name} has {length} hexadecimal digits, not {len(encoded)}"
    return "invalid digest: use lower-case hexadecimal digits only"
