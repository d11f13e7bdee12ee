"""The ways in which clients change objects: whole ones, patches of three kinds, and apply."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Any, ClassVar

from typing_extensions import override

from alauda_imageapi.machinery import aside, errors, field_sets, managed_fields, objects
from alauda_imageapi.machinery.errors import BadRequest, invalid_object
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.metadata import Surroundings
from alauda_imageapi.machinery.objects import NotJSON, Object
from alauda_imageapi.machinery.resources import Change, Resource
from alauda_imageapi.machinery.schema import Schema, WrongType, conform, unknown_fields


class FieldValidation(StrEnum):
    """What becomes of fields that nobody knows, or that are there twice."""

    IGNORE = "Ignore"
    WARN = "Warn"
    STRICT = "Strict"


class NotDecoded(Exception):
    """A document is not an object of its kind; the message says why."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Makes objects of a kind out of documents.

    Attributes:
        kind: What they must say they are, if they say anything.
        api_version: Likewise.
        schema: What they look like.
        validation: What becomes of fields that nobody knows.
        warnings: Gets a line for each of those, where they are to be warned of.
    """

    kind: str
    api_version: str
    schema: Schema
    validation: FieldValidation
    warnings: list[str]

    def decode(self, document: Any) -> Object:
        """Return the object.

        Raises:
            NotDecoded: It is none.
        """
        if not isinstance(document, dict):
            raise NotDecoded("it is not an object")
        for name, expected in (("kind", self.kind), ("apiVersion", self.api_version)):
            if document.get(name) not in (None, "", expected):
                raise NotDecoded(f"{name} is {str(document[name])[:64]!r} and not {expected!r}")
        if self.validation is not FieldValidation.IGNORE:
            self._look_for_mistakes(document)
        try:
            conformed: Object = conform(self.schema, document)
        except WrongType as error:
            raise NotDecoded(str(error)) from error
        conformed |= {"kind": self.kind, "apiVersion": self.api_version}
        conformed.setdefault("metadata", {})
        return conformed

    def look_for_repeated(self, document: Any) -> None:
        """Look for fields that are there twice in a patch, which its result does not show.

        Raises:
            BadRequest: There are some, and that is not allowed.
        """
        if self.validation is not FieldValidation.IGNORE:
            try:
                self._report(
                    f'duplicate field "{path}"' for path in objects.repeated_keys(document)
                )
            except NotDecoded as error:
                raise BadRequest(f"the patch cannot be handled: {error}") from error

    def _look_for_mistakes(self, document: Object) -> None:
        unknown = (f'unknown field "{path}"' for path in unknown_fields(self.schema, document))
        repeated = (f'duplicate field "{path}"' for path in objects.repeated_keys(document))
        self._report(chain(unknown, repeated))

    def _report(self, findings: Iterable[str]) -> None:
        found = list(islice(findings, _MOST_FINDINGS))
        if found and self.validation is FieldValidation.STRICT:
            raise NotDecoded(f"strict decoding error: {', '.join(found)}")
        self.warnings.extend(line for line in found if line not in self.warnings)


_MOST_FINDINGS = 100


def decode_body(resource: Resource, decoder: Decoder, document: Any) -> Object:
    """Return the object that a client sent.

    Raises:
        BadRequest: It sent something else.
    """
    try:
        return decoder.decode(document)
    except NotDecoded as error:
        raise BadRequest(
            f'{decoder.kind} in version "{resource.group.version}" cannot be handled as a '
            f"{decoder.kind}: {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class Replacement(Change):
    """A whole object that is to be put in place of the old one."""

    document: Object
    manager: Manager
    replaces: ClassVar[bool] = True

    @override
    async def __call__(self, old: Object | None) -> Object:
        """Return the object, whatever was there."""
        del old
        document = self.document
        copied: Object = await aside.run(aside.weigh(document), objects.copy, document)
        return copied


@dataclass(frozen=True, slots=True)
class Patch(Change):
    """Something that is done to the old object."""

    apply: Callable[[Object], Awaitable[Any]]
    decoder: Decoder
    manager: Manager
    group: str

    @override
    async def __call__(self, old: Object | None) -> Object:
        """Return the patched object.

        Raises:
            BadRequest: The patch makes no sense.
            Invalid: Applied to this object it does not.
        """
        name = (old or {}).get("metadata", {}).get("name", "")
        patched = await self.apply(old or {})
        try:
            return await aside.run(aside.weigh(patched), self._decode, patched)
        except (NotDecoded, NotJSON) as error:
            causes = [errors.invalid("patch", "", str(error))]
            raise invalid_object(self.decoder.kind, self.group, name, causes) from error

    def _decode(self, patched: Any) -> Object:
        objects.check_tree(patched)
        return self.decoder.decode(patched)


@dataclass(frozen=True, slots=True)
class Apply(Change):
    """What a manager wants of an object (server-side apply)."""

    document: Object
    schema: Schema
    manager: Manager
    surroundings: Surroundings
    force: bool
    creates: ClassVar[bool] = True
    manages: ClassVar[bool] = True

    @override
    async def __call__(self, old: Object | None) -> Object:
        """Return the merged object with its managed fields.

        Raises:
            Conflict: Others own what is to be changed.
        """
        return await aside.run(aside.weigh([old, self.document]), self._merge, old)

    def _merge(self, old: Object | None) -> Object:
        now = self.surroundings.timestamp()
        applied = objects.copy(self.document)
        return managed_fields.apply(self.schema, old, applied, self.manager, now, force=self.force)


def check_applied(schema: Schema, document: Object, name: str) -> None:
    """Check what is to be applied before anything is looked up.

    Raises:
        BadRequest: It says itself who owns what, is for another object, or has two wishes for
            the same item of a list.
    """
    metadata = document["metadata"]
    if metadata.get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    if metadata.get("name", name) != name:
        raise BadRequest(
            f"the name of the object ({metadata['name'][:64]}) does not match the name on the URL "
            f"({name})"
        )
    repeated = list(islice(field_sets.repeated_items(schema, document), _MOST_FINDINGS))
    if repeated:
        raise BadRequest(f"failed to create typed patch object: {', '.join(repeated)}")
