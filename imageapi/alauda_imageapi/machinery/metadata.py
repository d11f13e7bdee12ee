"""ObjectMeta: what it looks like, what may be in it, and who owns which part of it.

The rules are those of ``k8s.io/apimachinery`` (facts/apiserver.md 2.8, 2.11 and 2.13).
"""

import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from alauda_imageapi.machinery import errors, schema
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.objects import Object

LONGEST_NAME = 253
LONGEST_ANNOTATIONS = 256 * 1024
OF_CLIENTS = ("labels", "annotations", "finalizers", "ownerReferences")
"""The fields that clients have a say in once the object is made."""
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_PART = 63
_GENERATED = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_BASE = 58
_GENERATED_LENGTH = 5

OWNER_REFERENCE = schema.struct(
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "OwnerReference contains enough information to let you identify an owning object.",
    apiVersion=schema.text("API version of the referent."),
    blockOwnerDeletion=schema.boolean(
        "If true, and the owner is deleted in the foreground, it stays until this is gone."
    ),
    controller=schema.boolean("Whether this reference points to the managing controller."),
    kind=schema.text("Kind of the referent."),
    name=schema.text("Name of the referent."),
    uid=schema.text("UID of the referent."),
)
MANAGED_FIELDS_ENTRY = schema.struct(
    "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry",
    "ManagedFieldsEntry says which fields a workflow has set.",
    apiVersion=schema.text("The version that the fields are of."),
    fieldsType=schema.text("Always FieldsV1."),
    fieldsV1=schema.free("The fields, as FieldsV1 writes them."),
    manager=schema.text("The workflow."),
    operation=schema.text("Apply or Update."),
    subresource=schema.text("The subresource it was done by, if any."),
    time=schema.time("Of the last change of this entry."),
)
OBJECT_META = schema.struct(
    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    "ObjectMeta is metadata that all persisted resources must have.",
    annotations=schema.texts("Anything that tools want to keep with the object."),
    creationTimestamp=schema.time("When the object was made; set by the server."),
    deletionGracePeriodSeconds=schema.integer("Set together with deletionTimestamp."),
    deletionTimestamp=schema.time("When the deletion was asked for; set by the server."),
    finalizers=schema.text_set("The object is gone when this list has become empty."),
    generateName=schema.text("A prefix, from which the server makes a unique name."),
    generation=schema.integer("Grows whenever what is wanted changes; set by the server."),
    labels=schema.texts("What objects are organised and selected by."),
    managedFields=schema.listed(MANAGED_FIELDS_ENTRY, "Who has set which fields."),
    name=schema.text("Unique among the objects of its kind in its namespace."),
    namespace=schema.text("The space within which the name is unique."),
    ownerReferences=schema.listed(
        OWNER_REFERENCE, "Objects that this one goes with.", keys=("uid",)
    ),
    resourceVersion=schema.text("Changes whenever the object does; set by the server."),
    selfLink=schema.text("Not used any more."),
    uid=schema.text("Unique in time and space; set by the server."),
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is not decided by requests, and so is another thing in tests.

    Attributes:
        now: The time.
        make_uid: Makes the identity of an object.
        make_suffix: Makes the end of a generated name.
    """

    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    make_uid: Callable[[], str] = field(default=lambda: str(uuid.uuid4()))
    make_suffix: Callable[[], str] = field(
        default=lambda: "".join(secrets.choice(_GENERATED) for _ in range(_GENERATED_LENGTH))
    )

    def timestamp(self) -> str:
        """Return the time as Kubernetes writes it."""
        return format_time(self.now())


def format_time(moment: datetime) -> str:
    """Write a moment as Kubernetes does: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read a moment; what is no valid one reads as the beginning of time."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def is_qualified_name(text: str) -> bool:
    """Tell whether this can be the key of a label or an annotation."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > LONGEST_NAME or not _PREFIX.fullmatch(prefix)):
        return False
    return len(name) <= _LONGEST_PART and _NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Tell whether this can be the value of a label."""
    return not text or (len(text) <= _LONGEST_PART and _NAME.fullmatch(text) is not None)


def is_path_segment(text: str) -> bool:
    """Tell whether this can stand in a URL as the name of an object."""
    return text not in ("", ".", "..") and "/" not in text and "%" not in text


def generate_name(base: str, suffix: str) -> str:
    """Return a name that begins with what the client wants."""
    return f"{base[:_GENERATED_BASE]}{suffix}"


def check_metadata(metadata: Object) -> list[Cause]:
    """Return what breaks the rules that hold for every kind."""
    return [
        *_check_labels(metadata.get("labels") or {}),
        *check_annotations(metadata.get("annotations") or {}),
        *_check_owners(metadata.get("ownerReferences") or []),
        *_check_finalizers(metadata.get("finalizers") or []),
    ]


def warn_of(metadata: Object) -> list[str]:
    """Return what is allowed and not advisable."""
    return [
        f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name including a path '
        "(/) to avoid accidental conflicts with other finalizer writers"
        for name in metadata.get("finalizers") or []
        if "/" not in name and name not in (ORPHAN, FOREGROUND)
    ]


def check_metadata_update(metadata: Object, old: Object) -> list[Cause]:
    """Return what must not have been changed."""
    causes = [
        errors.invalid(f"metadata.{name}", metadata.get(name), "field is immutable")
        for name in ("name", "namespace", "uid")
        if metadata.get(name) != old.get(name)
    ]
    if old.get("deletionTimestamp"):
        known = set(old.get("finalizers") or [])
        new = sorted(set(metadata.get("finalizers") or []) - known)
        if new:
            detail = f"no new finalizers can be added if the object is being deleted, found {new}"
            causes.append(errors.forbidden("metadata.finalizers", detail))
    return causes


def keep_server_fields(metadata: Object, old: Object) -> None:
    """Put back what only the server sets."""
    for name in (
        *("creationTimestamp", "generation", "deletionTimestamp"),
        *("deletionGracePeriodSeconds", "generateName"),
    ):
        if name in old:
            metadata[name] = old[name]
        else:
            metadata.pop(name, None)
    metadata.setdefault("uid", old.get("uid"))
    metadata.pop("selfLink", None)


def drop_empty(metadata: Object) -> None:
    """Leave out what says nothing, as Go does."""
    for name in ("labels", "annotations", "finalizers", "ownerReferences", "managedFields"):
        if name in metadata and not metadata[name]:
            del metadata[name]
    for name in ("generateName", "selfLink", "resourceVersion", "namespace", "uid"):
        if metadata.get(name) == "":
            del metadata[name]


def _check_labels(labels: Object) -> list[Cause]:
    causes = []
    for key, value in labels.items():
        if not is_qualified_name(key):
            causes.append(errors.invalid("metadata.labels", key, _KEY_RULE))
        if not is_label_value(value):
            detail = (
                "a valid label must be an empty string or consist of at most 63 alphanumeric "
                "characters, '-', '_' or '.', and must start and end with an alphanumeric character"
            )
            causes.append(errors.invalid("metadata.labels", value, detail))
    return causes


def check_annotations(annotations: Object) -> list[Cause]:
    """Return what is wrong with annotations."""
    causes = [
        errors.invalid("metadata.annotations", key, _KEY_RULE)
        for key in annotations
        if not is_qualified_name(key.lower())
    ]
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > LONGEST_ANNOTATIONS:
        causes.append(errors.too_long("metadata.annotations", LONGEST_ANNOTATIONS))
    return causes


def _check_owners(owners: list[Object]) -> list[Cause]:
    causes = []
    for index, owner in enumerate(owners):
        where = f"metadata.ownerReferences[{index}]"
        causes += [
            errors.invalid(f"{where}.{name}", "", "must not be empty")
            for name in ("apiVersion", "kind", "name", "uid")
            if not owner.get(name)
        ]
    if sum(owner.get("controller") is True for owner in owners) > 1:
        detail = "Only one reference can have Controller set to true"
        causes.append(errors.invalid("metadata.ownerReferences", "", detail))
    return causes


def _check_finalizers(finalizers: list[str]) -> list[Cause]:
    causes = [
        errors.invalid("metadata.finalizers", name, _KEY_RULE)
        for name in finalizers
        if not is_qualified_name(name)
    ]
    if ORPHAN in finalizers and FOREGROUND in finalizers:
        detail = f"finalizer {ORPHAN} and {FOREGROUND} cannot be both set"
        causes.append(errors.invalid("metadata.finalizers", ", ".join(finalizers), detail))
    return causes


_KEY_RULE = (
    "name part must consist of at most 63 alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character, with an optional DNS subdomain prefix and '/'"
)
