"""What kubectl does with each of our kinds, as tables (facts/apiserver.md 2.5).

``test_kubectl_matrix.py`` runs them, wherever the image API is served.
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.parts.kubectl import Kubectl

API = "image.alauda.io/v1"
GROUP = "image.alauda.io"
Object = dict[str, Any]
Make = Callable[["Samples", str], Object]


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere the image API is served.

    Args:
        kubectl: Talks to it.
        new_namespace: Makes one that nobody else uses.
    """

    kubectl: Kubectl
    new_namespace: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Samples:
    """A stream with a tag and its image, in a namespace of its own."""

    kubectl: Kubectl
    namespace: str

    @property
    def digest(self) -> str:
        """The image's name, which is the cluster's and so nobody else's."""
        return f"sha256:{hashlib.sha256(self.namespace.encode()).hexdigest()}"

    def prepare(self) -> "Samples":
        """Make them."""
        items = [STREAMS.make(self, "app"), mapping(self, "v1"), _signature(self, "one")]
        self.kubectl("create", "-n", self.namespace, "-f", "-", given=items)
        return self

    def fill(self, words: str) -> list[str]:
        """Return a command line with the names of the samples in it."""
        return [
            word.format(namespace=self.namespace, digest=self.digest, hex=self.digest[7:])
            for word in words.split()
        ]

    def where(self, kind: "Kind") -> list[str]:
        """Return the flag that says in which namespace a kind's objects are."""
        return ["-n", self.namespace] if kind.namespaced else []


@dataclass(frozen=True, slots=True)
class Kind:
    """One of our kinds, and what can be seen of its sample.

    Args:
        plural: As discovery has it.
        kind: Likewise.
        short: Likewise; the plural with the group where there is none.
        name: Of the sample.
        verbs: What the API offers.
        columns: Of the table, and behind them those of ``-o wide``.
        explained: A field, and what ``explain`` has to say of it.
        make: Returns an object of a name.
        fresh: A name that is free.
        change: A merge patch for what was made, and the JSON path with the value it leads to.
        refuses: What is refused as OpenShift refuses it, with the complaint.
    """

    plural: str
    kind: str
    short: str
    name: str
    verbs: frozenset[str]
    columns: tuple[list[str], list[str]]
    explained: tuple[str, str]
    make: Make
    fresh: str = ""
    change: tuple[Object, str, str] = ({}, "", "")
    namespaced: bool = True
    refuses: Mapping[str, str] = field(default_factory=dict)

    def target(self, samples: Samples) -> list[str]:
        """Return the words of kubectl for the sample."""
        return [self.plural_with_group, *samples.fill(self.name), *samples.where(self)]

    @property
    def plural_with_group(self) -> str:
        """Return a name that is no other group's."""
        return f"{self.plural}.{GROUP}"


def mapping(samples: Samples, tag: str) -> Object:
    """Return what a push to the stream posts."""
    digest = samples.digest
    return {
        **_header("ImageStreamMapping", "app"),
        "image": {
            "metadata": {"name": digest},
            "dockerImageReference": f"q.io/team/app@{digest}",
        },
        "tag": tag,
    }


def _header(kind: str, name: str) -> Object:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}}


def _image(samples: Samples, name: str) -> Object:
    digest = f"sha256:{hashlib.sha256((samples.namespace + name).encode()).hexdigest()}"
    return {**_header("Image", digest), "dockerImageReference": f"q.io/team/app@{digest}"}


def _stream(samples: Samples, name: str) -> Object:
    tags = [{"name": "v1", "from": {"kind": "DockerImage", "name": "q.io/team/app:1"}}]
    found = {**_header("ImageStream", name), "spec": {"tags": tags}}
    found["metadata"]["labels"] = {"tier": "front"}
    return found


def _stream_tag(samples: Samples, name: str) -> Object:
    source = {"kind": "ImageStreamImage", "name": f"app@{samples.digest}"}
    return {**_header("ImageStreamTag", name), "tag": {"from": source}}


def _image_tag(samples: Samples, name: str) -> Object:
    source = {"kind": "ImageStreamImage", "name": f"app@{samples.digest}"}
    tag = name.partition(":")[2]
    return {**_header("ImageTag", name), "spec": {"name": tag, "from": source}}


def _signature(samples: Samples, name: str) -> Object:
    header = _header("ImageSignature", f"{samples.digest}@{name}")
    content = hashlib.sha256(name.encode()).hexdigest()
    return {**header, "type": "AtomicImageV1", "content": content}


def _mapping(samples: Samples, name: str) -> Object:
    return mapping(samples, name)


_STORED = frozenset(
    {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
)
_VIEWS = _STORED - {"deletecollection", "watch"}

IMAGES = Kind(
    "images",
    "Image",
    "images.image.alauda.io",
    "{digest}",
    _STORED,
    (["NAME", "IMAGE REFERENCE"], []),
    ("dockerImageReference", "Where it can be pulled from."),
    _image,
    "new",
    ({"dockerImageReference": "q.io/other/app:1"}, "{.dockerImageReference}", "q.io/other/app:1"),
    namespaced=False,
)
STREAMS = Kind(
    "imagestreams",
    "ImageStream",
    "is",
    "app",
    _STORED,
    (["NAME", "IMAGE REPOSITORY", "TAGS", "UPDATED"], []),
    ("spec.tags.importPolicy.importMode", "PreserveOriginal"),
    _stream,
    "new",
    ({"spec": {"lookupPolicy": {"local": True}}}, "{.spec.lookupPolicy.local}", "true"),
)
STREAM_TAGS = Kind(
    "imagestreamtags",
    "ImageStreamTag",
    "istag",
    "app:v1",
    _VIEWS,
    (["NAME", "IMAGE REFERENCE", "UPDATED"], ["IMAGE NAME"]),
    ("tag.from.kind", "ImageStreamImage"),
    _stream_tag,
    "app:new",
    ({"tag": {"reference": True}}, "{.tag.reference}", "true"),
    refuses={"label": "only annotations may be changed"},
)
IMAGE_TAGS = Kind(
    "imagetags",
    "ImageTag",
    "itag",
    "app:v1",
    _VIEWS,
    (["NAME", "SPEC", "STATUS", "HISTORY", "UPDATED"], []),
    ("spec.from.name", "pull spec"),
    _image_tag,
    "app:new",
    ({"spec": {"reference": True}}, "{.spec.reference}", "true"),
    refuses=dict.fromkeys(("label", "annotate", "apply"), "only spec may be changed"),
)
STREAM_IMAGES = Kind(
    "imagestreamimages",
    "ImageStreamImage",
    "isimage",
    "app@{digest}",
    frozenset({"get"}),
    (["NAME", "UPDATED"], ["IMAGE REFERENCE", "IMAGE NAME"]),
    ("image.dockerImageLayers", "the lowest first"),
    lambda samples, _name: _header("ImageStreamImage", f"app@{samples.digest}"),
)
MAPPINGS = Kind(
    "imagestreammappings",
    "ImageStreamMapping",
    "imagestreammappings",
    "app",
    frozenset({"create"}),
    ([], []),
    ("tag", "The tag."),
    _mapping,
    "v2",
)
SIGNATURES = Kind(
    "imagesignatures",
    "ImageSignature",
    "imagesignatures",
    "{digest}@one",
    frozenset({"create", "delete"}),
    ([], []),
    ("content", "The signature itself."),
    _signature,
    "two",
    namespaced=False,
)
KINDS = {
    kind.plural: kind
    for kind in (
        IMAGES,
        SIGNATURES,
        STREAM_IMAGES,
        MAPPINGS,
        STREAMS,
        STREAM_TAGS,
        IMAGE_TAGS,
    )
}


def having(*verbs: str) -> list[str]:
    """Return the kinds that have these verbs, and not only some of them."""
    return [name for name, kind in KINDS.items() if kind.verbs >= set(verbs)]


def unique(prefix: str = "matrix") -> str:
    """Return a name that nobody else uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def with_path(path: str, value: object) -> Object:
    """Return an object that has one value at a JSON path such as ``{.spec.local}``."""
    found: Any = value
    for name in reversed(path.strip("{.}").split(".")):
        found = {name: found}
    result: Object = found
    return result
