"""Kubernetes decides: TokenReview says who, SubjectAccessReview says whether.

Everything is asked with the registry's own account, for whoever asks the registry, and with every
request. Answers are good for two seconds, so that a dozen requests of one pull cost one question,
and so that what an administrator grants or takes away holds two seconds later. When nobody can be
asked, nobody is let in.

What is asked for which request (design 13.3; the group is ``image.alauda.io``):

============================  ==================================================
pull                          ``get imagestreams/layers``, namespace and stream
push                          ``update imagestreams/layers``
delete a tag                  ``delete imagestreamtags`` in the namespace
delete a manifest, a blob     ``delete images``, for the whole cluster
the catalog                   ``list imagestreams``, for the whole cluster
the metrics                   ``get registry/metrics``, for the whole cluster
============================  ==================================================
"""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from typing_extensions import override

from alauda_registry.auth import tokens
from alauda_registry.auth.authenticator import (
    Authenticator,
    Basic,
    Caller,
    Certificate,
    Credentials,
    Identity,
)
from alauda_registry.auth.authorizer import Authorizer
from alauda_registry.auth.recent import Recent
from alauda_registry.auth.scopes import CATALOG, DELETE, METRICS, PULL, PUSH, REPOSITORY, Access
from alauda_registry.auth.throttle import FREE_FROM_ADDRESS, Throttle, network_of
from alauda_registry.kube.client import (
    ANONYMOUS,
    AUTHENTICATED,
    KubeClient,
    ResourceAttributes,
    UserInfo,
)
from alauda_registry.kube.errors import Forbidden, KubeError
from alauda_registry.oci.errors import (
    AuthorityUnavailable,
    NameInvalid,
    TooManyRequests,
    Unauthorized,
)

logger = logging.getLogger(__name__)

GROUP = "image.alauda.io"
"""The API group of what is asked about."""

REVIEW_SECONDS = 2.0
"""How long an answer of the API server is good for."""

REVIEWS_KEPT = 20_000
"""Answers that are remembered, a few hundred bytes each."""

NEW_AT_ONCE = 64
"""Tokens nobody has shown before that are reviewed at once, wherever they come from: of a hundred
connections to the API server some are left for what those ask who are known."""

ANONYMOUS_AT_ONCE = 32
"""Questions about what anybody may that are asked at once: anybody can ask for as much as they like
without showing anything, and those who are known need connections, too."""

COMPLAINT_SECONDS = 10.0
"""How long it is enough to have said that the API server does not answer."""

CERTIFICATES_KEPT = 1024
ACCESSES_KEPT = 4096

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CREDENTIAL_ID = "authentication.kubernetes.io/credential-id"

_Answer = TypeVar("_Answer")


class KubernetesAuthenticator(Authenticator):
    """Says who: by TokenReview, or by a client certificate that TLS has verified.

    Args:
        client: Asks the API server.
        throttle: Slows down whoever shows one bad token after another. Who shows the same one again
            and again has an old secret, and costs a review every two seconds.
        audiences: One of which tokens must be meant for; none: the API server itself.
    """

    def __init__(
        self, client: KubeClient, throttle: Throttle, audiences: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._throttle = throttle
        self._audiences = audiences
        self._server = _Server()
        self._reviews: Recent[bytes, Identity | None] = Recent(REVIEW_SECONDS, REVIEWS_KEPT)
        self._new = asyncio.Semaphore(NEW_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @override
    async def authenticate(self, credentials: Credentials, address: str) -> Caller:
        """Return who shows a token, as a password of whatever user name or as it is."""
        if isinstance(credentials, Certificate):
            return Caller(_identity_in(credentials))
        token = credentials.password if isinstance(credentials, Basic) else credentials.token
        # Nothing that somebody could log in with is kept.
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        identity = await self._find(token, digest, address)
        if identity is None:
            raise Unauthorized(
                "the token is not one of this cluster, or not any more: log in with a new one, "
                "such as `kubectl create token` prints",
                error="invalid_token",
            )
        return Caller(identity, known_until=self._reviews.known_until(digest))

    async def _find(self, token: str, digest: bytes, address: str) -> Identity | None:
        has_asked = False

        def review() -> Coroutine[Any, Any, Identity | None]:
            nonlocal has_asked
            has_asked = True
            return self._review(token, digest, address)

        while True:
            try:
                return await self._reviews.get(digest, review)
            except TooManyRequests:
                if has_asked:
                    raise
                # It was too early for somebody else, who asked about the same token first.

    async def _review(self, token: str, digest: bytes, address: str) -> Identity | None:
        if len(token) > tokens.LONGEST_TOKEN or not token.isascii():
            # No API server has to look at what can't be a token.
            return None
        # Good or bad, what was seen before is nobody's guess any more.
        mark = self._throttle.mark(digest)
        if self._throttle.outcome(mark) is not None:
            user = await self._server.ask(self._client.review_token(token, self._audiences))
        else:
            user = await self._review_new(token, digest.hex(), address)
        self._throttle.remember(mark, is_right=user is not None)
        if user is None:
            return None
        return Identity(
            user.username, frozenset(user.groups), user.uid, dict(user.extra), _expiry(token)
        )

    async def _review_new(self, token: str, name: str, address: str) -> UserInfo | None:
        # In turns: all that are under way at once would be looked at before the first has failed.
        turns = self._turns.setdefault(network_of(address), asyncio.Semaphore(FREE_FROM_ADDRESS))
        async with turns, self._new:
            self._throttle.begin(address, name)
            is_bad = False
            try:
                user = await self._server.ask(self._client.review_token(token, self._audiences))
                is_bad = user is None
            finally:
                # Good, not known, or nobody waits for it any more: it was no guess.
                if not is_bad:
                    self._throttle.succeeded(address, name)
            if is_bad:
                self._throttle.failed(address)
        return user


class KubernetesAuthorizer(Authorizer):
    """Says whether, by SubjectAccessReview.

    Args:
        client: Asks the API server.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._server = _Server()
        self._anonymous = asyncio.Semaphore(ANONYMOUS_AT_ONCE)
        self._reviews: Recent[tuple[UserInfo, ResourceAttributes], bool] = Recent(
            REVIEW_SECONDS, REVIEWS_KEPT
        )

    @override
    async def allows(self, identity: Identity, access: Access) -> bool:
        """Tell whether somebody may do this; who shows nothing is ``system:anonymous``."""
        attributes = attributes_of(access)
        if attributes is None:
            return False
        user = _user_of(identity)
        return await self._reviews.get((user, attributes), lambda: self._review(user, attributes))

    @override
    def known_until(self, identity: Identity, access: Access) -> float:
        attributes = attributes_of(access)
        if attributes is None:
            return math.inf
        return self._reviews.known_until((_user_of(identity), attributes))

    async def _review(self, user: UserInfo, attributes: ResourceAttributes) -> bool:
        async with self._anonymous if user == ANONYMOUS else nullcontext():
            return await self._server.ask(self._client.review_access(user, attributes))


@lru_cache(ACCESSES_KEPT)
def attributes_of(access: Access) -> ResourceAttributes | None:
    """Return what the API server is asked; None for what it has no words for.

    Raises:
        NameInvalid: The repository is not ``NAMESPACE/NAME``.
    """
    if access == CATALOG:
        return ResourceAttributes("list", GROUP, "imagestreams")
    if access == METRICS:
        return ResourceAttributes("get", GROUP, "registry", "metrics")
    if access.type != REPOSITORY:
        return None
    namespace, _, stream = access.name.partition("/")
    if not _NAMESPACE.fullmatch(namespace) or not stream or "/" in stream:
        raise NameInvalid(
            "a repository is NAMESPACE/NAME here: a namespace of the cluster, and one name "
            "without slashes",
            name=access.name,
        )
    if access.action in _LAYER_VERBS:
        verb = _LAYER_VERBS[access.action]
        return ResourceAttributes(verb, GROUP, "imagestreams", "layers", namespace, stream)
    if access.action != DELETE:
        return None
    if access.tag:
        tag = f"{stream}:{access.tag}"
        return ResourceAttributes("delete", GROUP, "imagestreamtags", "", namespace, tag)
    return ResourceAttributes("delete", GROUP, "images")


_LAYER_VERBS = {PULL: "get", PUSH: "update"}


class _Server:
    """Asks the API server, and says in the log when there is no answer: not for every question."""

    def __init__(self) -> None:
        self._said: dict[int, float] = {}

    async def ask(self, question: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Return the answer.

        Raises:
            AuthorityUnavailable: There is none.
        """
        try:
            return await question
        except Forbidden as error:
            self._say(
                logging.ERROR,
                f"{error}: give the registry's account the ClusterRole system:auth-delegator",
            )
            raise AuthorityUnavailable(
                "the Kubernetes API server does not let the registry ask who may do this: tell "
                "whoever runs the registry that its account needs the ClusterRole "
                "system:auth-delegator"
            ) from error
        except KubeError as error:
            self._say(logging.WARNING, f"nobody is let in: {error}")
            raise AuthorityUnavailable(
                "the Kubernetes API server does not answer who may do this: try again in a moment"
            ) from error

    def _say(self, level: int, message: str) -> None:
        now = time.monotonic()
        if now - self._said.get(level, -math.inf) >= COMPLAINT_SECONDS:
            self._said[level] = now
            logger.log(level, "%s", message)


def _user_of(identity: Identity) -> UserInfo:
    if identity.is_anonymous:
        return ANONYMOUS
    extra = tuple(sorted((key, tuple(values)) for key, values in identity.extra.items()))
    return UserInfo(identity.name, identity.uid, tuple(sorted(identity.groups)), extra)


def _expiry(token: str) -> float | None:
    """When a token ends that the API server has found good; None if that can't be told."""
    try:
        expires = tokens.read(token).claims.get("exp")
        expires = float(expires) if isinstance(expires, int | float) else math.nan
    except (tokens.TokenInvalid, OverflowError):
        return None
    return expires if math.isfinite(expires) else None


def _identity_in(certificate: Certificate) -> Identity:
    """Whom a certificate names, as kube-apiserver reads it: CN is the user, O are the groups.

    Raises:
        Unauthorized: Nobody, or it has expired since the connection was opened.
    """
    identity = _read_certificate(certificate.der)
    if identity is None:
        raise Unauthorized(
            "the client certificate names no user: its subject has no common name that can be read"
        )
    if identity.expires is not None and identity.expires <= datetime.now(UTC).timestamp():
        raise Unauthorized("the client certificate has expired: connect again with a new one")
    return identity


@lru_cache(CERTIFICATES_KEPT)
def _read_certificate(der: bytes) -> Identity | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = certificate.subject
    except (ValueError, x509.InvalidVersion):
        # Of kinds of text that nobody uses any more, though its signature is right.
        return None
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    # Of several the last, as Go's library reads them.
    if not names or not names[-1].value:
        return None
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Identity(
        str(names[-1].value),
        frozenset([*(str(group.value) for group in groups), AUTHENTICATED]),
        extra={_CREDENTIAL_ID: (f"X509SHA256={fingerprint}",)},
        expires=certificate.not_valid_after_utc.timestamp(),
    )
