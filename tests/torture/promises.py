"""What has to be there after a power cut, and what must not be.

Of each thing that clients can ask for, a history says what it may be after a cut: what an
operation made of it that had begun by then, unless another one that was acknowledged by then
began only after that operation was over. So what is acknowledged counts, what is under way may
count, and what came first was replaced.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.errors import (
    BlobUnknown,
    BlobUploadOutOfOrder,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameUnknown,
)
from alauda_registry.oci.reference import Tag
from alauda_registry.storage import paths
from alauda_registry.storage.driver import PathNotFound, StorageDriver
from alauda_registry.storage.repositories import Registry, Repository
from tests.torture.clients import (
    BLOBS,
    BY_DIGEST,
    HERE,
    MANIFESTS,
    PARSED,
    REFERRERS,
    REPOSITORIES,
    SECRET,
    TAGS,
    Claim,
    Key,
    Operation,
    Outcome,
    Upload,
    Value,
    key,
)
from tests.torture.programs import History
from tests.torture.trees import Tree, hashed
from tests.unit.storage.pushing import piece, push_blob, put, read_blob

Answers = dict[Key, Value]


class Broken(AssertionError):
    """A promise was not kept.

    Attributes:
        promise: Which one, in few words.
    """

    def __init__(self, promise: str, details: object) -> None:
        super().__init__(f"{promise}: {details}")
        self.promise = promise


@dataclass(slots=True)
class Expected:
    """What may be after a cut.

    Attributes:
        values: What each thing may be; what is not in here may only be absent.
        blobs: What each manifest relies on: blobs that must be there when it is.
        uploads: The sessions whose end was not acknowledged, and how many bytes have to be
            there if they are.
    """

    values: dict[Key, set[Value]]
    blobs: dict[Key, list[Key]]
    uploads: list[tuple[Upload, int]]


class Promises:
    """What a history promises at each of its places."""

    def __init__(self, history: History) -> None:
        self._operations = [
            operation for operation in history.operations if operation.outcome != Outcome.REFUSED
        ]
        self._acknowledged = {operation.ended for operation in history.operations}
        self._uploads = history.uploads
        self._known = history.known
        moments = {0}
        for operation in history.operations:
            moments |= {operation.begun, operation.ended or operation.begun}
        for upload in history.uploads:
            moments |= {place for place, _ in upload.received}
            moments |= {upload.over or 0, upload.answered or 0}
        self._moments = sorted(moments)
        self._expected: dict[int, Expected] = {}

    def is_kept_from(self, place: int) -> bool:
        """Tell whether something was acknowledged after exactly so many effects."""
        return place in self._acknowledged

    def at(self, place: int) -> Expected:
        """Return what is expected after so many effects."""
        moment = self._moments[bisect_right(self._moments, place) - 1]
        expected = self._expected.get(moment)
        if expected is None:
            expected = self._expected[moment] = self._expect(moment)
        return expected

    def _expect(self, place: int) -> Expected:
        begun = [operation for operation in self._operations if operation.begun <= place]
        claims = [(operation, claim) for operation in begun for claim in operation.claims]
        keys = set(self._known) | {claim.key for _, claim in claims}
        values = {
            wanted: self._values(
                place, wanted, [(op, claim) for op, claim in claims if claim.key == wanted]
            )
            for wanted in keys
        }
        return Expected(values, dict(self._reliance(place, begun)), self._sessions(place))

    def _values(self, place: int, wanted: Key, claims: list[tuple[Operation, Claim]]) -> set[Value]:
        def is_replaced(value: Value, since: int | None) -> bool:
            return since is not None and any(
                operation.outcome is Outcome.DONE
                and operation.ended is not None
                and operation.ended <= place
                and since < operation.turn
                and claim.only_if in (None, value)
                for operation, claim in claims
            )

        found = {claim.value for op, claim in claims if not is_replaced(claim.value, op.last_turn)}
        before = self._known.get(wanted)
        if not is_replaced(before, 0):
            found.add(before)
        return found

    def _reliance(self, place: int, begun: list[Operation]) -> Iterable[tuple[Key, list[Key]]]:
        """Yield the blobs that no client deleted since a manifest that needs them was pushed."""
        for kind, repository, digest in {
            known for known in self._known if known[0] == "manifest"
        } | {claim.key for op in begun for claim in op.claims if claim.key[0] == "manifest"}:
            manifest = (kind, repository, digest)
            pushes = [op.turn for op in begun if any(c == Claim(manifest, HERE) for c in op.claims)]
            since = 0 if manifest in self._known else min(pushes, default=0)
            needed = []
            for blob in PARSED[Digest.parse(digest)].required_blobs():
                wanted = key("blob", repository, blob.digest)
                if not any(
                    Claim(wanted, None) in op.claims
                    and (op.last_turn is None or op.last_turn > since)
                    for op in begun
                ):
                    needed.append(wanted)
            yield manifest, needed

    def _sessions(self, place: int) -> list[tuple[Upload, int]]:
        sessions = []
        for upload in self._uploads:
            received = max((size for at, size in upload.received if at <= place), default=0)
            if upload.over is not None and upload.over <= place:
                received = 0
            if upload.answered is None or upload.answered > place:
                sessions.append((upload, received))
        return sessions


_REPOSITORY = "|".join(REPOSITORIES)
_DIGEST = "(?P<algorithm>sha256|sha512)/(?P<encoded>[0-9a-f]+)"
_LAYOUT = re.compile(
    rf"{paths.ROOT}/(?:"
    rf"blobs/(?P<in_blobs>sha256|sha512)/[0-9a-f]{{2}}/(?P<data>[0-9a-f]+)/data"
    rf"|repositories/(?P<repository>{_REPOSITORY})/(?:"
    rf"(?P<kind>_layers|_manifests/revisions)/{_DIGEST}/link"
    rf"|_manifests/tags/(?P<tag>[^/]+)/current/link"
    rf"|_manifests/tags/[^/]+/index/(?P<history>.+)/link"
    rf"|_referrers/by-subject/(?P<entry>.+/.+/.+)))"
)
_KINDS = {"_layers": "blob", "_manifests/revisions": "manifest"}


@lru_cache(100_000)
def _parse(path: str) -> dict[str, str] | None:
    match = _LAYOUT.fullmatch(path)
    return {name: text for name, text in match.groupdict().items() if text} if match else None


def check_tree(tree: Tree, expected: Expected) -> None:
    """See that nothing in the tree leads nowhere, or to the wrong bytes.

    Raises:
        Broken: Something does.
    """
    found: dict[Key, str] = {}
    intact = set()
    for path, node in tree.items():
        parts = _parse(path) if node.content is not None else None
        if parts is None or node.content is None:
            continue
        if "data" in parts:
            if hashed(node.content, parts["in_blobs"]) != parts["data"]:
                raise Broken("bytes are those of their digest", path)
            intact.add(f"{parts['in_blobs']}:{parts['data']}")
        elif "entry" in parts:
            _check_entry(path, node.content)
        else:
            text = node.content.decode("ascii", "replace")
            if "kind" in parts:
                named = f"{parts['algorithm']}:{parts['encoded']}"
                found[_KINDS[parts["kind"]], parts["repository"], named] = text
            elif "tag" in parts:
                found["tag", parts["repository"], parts["tag"]] = text
            named = text if "tag" in parts else named if "kind" in parts else _named(parts)
            if text != named or not _is_digest(text):
                raise Broken("links are whole", (path, text))
    _check_links(found, intact, expected)


def _check_links(found: dict[Key, str], intact: set[str], expected: Expected) -> None:
    for wanted, target in found.items():
        kind, repository, _ = wanted
        if kind == "tag" and ("manifest", repository, target) not in found:
            raise Broken("tags lead to manifests", wanted)
        if kind != "tag" and target not in intact:
            raise Broken("links lead to bytes", wanted)
        if kind == "manifest":
            missing = [blob for blob in expected.blobs.get(wanted, []) if blob not in found]
            if missing:
                raise Broken("manifests have their blobs", (wanted, missing))
        value = target if kind == "tag" else HERE
        if value not in expected.values.get(wanted, {None}):
            raise Broken("what was deleted or replaced stays so", (wanted, value))
    for wanted, values in expected.values.items():
        if wanted != SECRET and None not in values and wanted not in found:
            raise Broken(f"an acknowledged {wanted[0]} is there", (wanted, values))


def _named(parts: dict[str, str]) -> str:
    return parts["history"].replace("/", ":")


def _is_digest(text: str) -> bool:
    return re.fullmatch("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", text) is not None


def _check_entry(path: str, content: bytes) -> None:
    try:
        json.loads(content)
    except ValueError as error:
        raise Broken("entries of the referrers index are whole", path) from error


async def ask(registry: Registry, driver: StorageDriver, keys: Iterable[Key]) -> Answers:
    """Return what a registry answers when it is asked for everything.

    Args:
        registry: It.
        driver: What keeps its bytes.
        keys: What to ask for; what the registry lists is asked for as well.

    Raises:
        Broken: It serves bytes that are not those that were asked for, or half of something.
    """
    answers: Answers = {}
    for kind, name, what in (wanted for wanted in keys if wanted != SECRET):
        repository = registry.repository(next(known for known in REPOSITORIES if known == name))
        if kind == "blob":
            answers[kind, name, what] = await _blob(repository, Digest.parse(what))
        elif kind == "manifest":
            answers[kind, name, what] = await _manifest(repository, Digest.parse(what))
    for name in REPOSITORIES:
        repository = registry.repository(name)
        for tag in await _tags(repository):
            answers["tag", name, tag] = await _tag(repository, tag)
        await _check_referrers(repository, answers)
    try:
        answers[SECRET] = (await driver.read(paths.SECRET)).hex()
    except PathNotFound:
        answers[SECRET] = None
    return answers


async def _blob(repository: Repository, digest: Digest) -> Value:
    try:
        size = await repository.blobs.stat(digest)
        content = await read_blob(repository, digest)
    except BlobUnknown:
        return None
    if content != BY_DIGEST[digest].content or size != len(content):
        raise Broken("blobs are served as they were pushed", digest)
    return HERE


async def _served(repository: Repository, digest: Digest) -> bytes | None:
    try:
        return await read_blob(repository, digest)
    except BlobUnknown:
        return None


async def _manifest(repository: Repository, digest: Digest) -> Value:
    try:
        stored = await repository.manifests.get(digest)
    except ManifestUnknown:
        return None
    if stored.content != BY_DIGEST[digest].content:
        raise Broken("manifests are served as they were pushed", digest)
    return HERE


async def _tags(repository: Repository) -> list[str]:
    try:
        return (await repository.tags.page(limit=None)).names
    except NameUnknown:
        return []


async def _tag(repository: Repository, name: str) -> Value:
    try:
        digest = await repository.tags.resolve(Tag(name))
    except ManifestUnknown as unknown:
        raise Broken("tags that are listed are there", (repository.name, name)) from unknown
    if await _manifest(repository, digest) is None:
        raise Broken("tags lead to manifests", (repository.name, name))
    return str(digest)


async def _check_referrers(repository: Repository, answers: Answers) -> None:
    for subject in set(REFERRERS.values()):
        there = {
            str(referrer)
            for referrer, about in REFERRERS.items()
            if about == subject and answers.get(key("manifest", repository.name, referrer))
        }
        page = await repository.referrers.page(subject, artifact_type=None, limit=100)
        listed = {str(descriptor.digest) for descriptor in page.descriptors}
        if listed != there:
            raise Broken("referrers are listed", (repository.name, listed ^ there))


def check_answers(answers: Answers, expected: Expected) -> None:
    """See that a registry serves what it has to, and nothing that it must not.

    Raises:
        Broken: It does not.
    """
    for wanted in answers.keys() | expected.values.keys():
        value = answers.get(wanted)
        if value not in expected.values.get(wanted, {None}):
            if value is None:
                raise Broken(f"an acknowledged {wanted[0]} is served", wanted)
            raise Broken("what was deleted or replaced stays so", (wanted, value))


async def check_uploads(registry: Registry, expected: Expected) -> None:
    """See that an upload is either unknown, or has all that was acknowledged.

    Raises:
        Broken: It has less.
    """
    for upload, received in expected.uploads:
        try:
            session = await registry.repository(upload.repository).uploads.resume(upload.id)
        except BlobUploadUnknown:
            continue
        if session.size < received:
            raise Broken("uploads keep what was acknowledged", (upload, session.size, received))


class Manner(Enum):
    """How a client goes on with an upload after it was cut off."""

    ASKS = auto()
    """It asks how much has arrived, and sends the rest."""

    ENDS = auto()
    """It ends with what was acknowledged."""

    SENDS = auto()
    """It sends what was not acknowledged, without saying where that belongs."""


async def finish_uploads(registry: Registry, expected: Expected, manner: Manner) -> set[Key]:
    """Go on with the uploads, and return what has become of those that were accepted.

    Args:
        registry: What to push to.
        expected: Has the uploads in it.
        manner: How clients go on.

    Raises:
        Broken: Something else became of one than its client meant.
    """
    accepted = set()
    for upload, received in expected.uploads:
        repository = registry.repository(upload.repository)
        content, digest = upload.blob.content, upload.blob.digest
        try:
            session = await repository.uploads.resume(upload.id)
            match manner:
                case Manner.ASKS:
                    rest = content[session.size :]
                    await session.commit(digest, piece(rest, start=session.size))
                case Manner.ENDS:
                    content = content[:received]
                    digest = Digest.of(content, digest.algorithm)
                    await session.commit(digest)
                case Manner.SENDS:
                    await session.append(piece(content[received:]))
                    await session.commit(digest)
        except (BlobUploadUnknown, BlobUploadOutOfOrder, DigestInvalid):
            continue
        if await _served(repository, digest) != content:
            raise Broken("a resumed upload becomes what its client meant", upload)
        accepted.add(key("blob", upload.repository, digest))
    return accepted


async def push_everything(registry: Registry) -> Expected:
    """Push all there is, and return what has to be there then."""
    values: dict[Key, set[Value]] = {}
    needed: dict[Key, list[Key]] = {}
    for name in REPOSITORIES:
        repository = registry.repository(name)
        for blob in BLOBS:
            await push_blob(repository, blob.content, blob.digest.algorithm)
            values[key("blob", name, blob.digest)] = {HERE}
        for manifest in MANIFESTS:
            await put(repository, manifest.content, *TAGS, algorithm=manifest.digest.algorithm)
            wanted = key("manifest", name, manifest.digest)
            values[wanted] = {HERE}
            blobs = PARSED[manifest.digest].required_blobs()
            needed[wanted] = [key("blob", name, blob.digest) for blob in blobs]
        values |= {key("tag", name, tag): {str(MANIFESTS[-1].digest)} for tag in TAGS}
    return Expected(values, needed, [])
