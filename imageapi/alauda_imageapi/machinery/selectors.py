"""Label and field selectors (facts/apiserver.md 2.6)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import override

from alauda_imageapi.machinery.errors import BadRequest
from alauda_imageapi.machinery.metadata import is_label_value, is_qualified_name

# Repeats give nothing back once they have taken it, so that no text is read in more than one way:
# 16 000 blanks in two that follow one another cost seconds.
_CONDITION = re.compile(
    r"\s*+(?:"
    r"!\s*+(?P<absent>[^\s,()=!]++)"
    r"|(?P<set>[^\s,()=!]++)\s++(?P<op>in|notin)\s*+\((?P<values>[^()]*+)\)"
    r"|(?P<key>[^\s,()=!]++)\s*+(?:(?P<is>==?|!=)\s*+(?P<value>[^\s,()=!]*+))?"
    r")\s*+(?:,|$)"
)
_FIELD = re.compile(r"((?:[^\\=!,]|\\.)*?)(==|!=|=)((?:[^\\,=]|\\.)*)(?:,|$)", re.DOTALL)
_LONGEST = 16 * 1024
_MOST = 100
"""Requirements of a selector. All of them are looked at for each object of a list, between other
requests: 2 000 would hold these up for seconds. The values of one cost nothing."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition: the value is, or is not, among these; none asks for existence only."""

    key: str
    is_in: bool
    values: frozenset[str] | None

    def matches(self, values: Mapping[str, str]) -> bool:
        """Tell whether it holds."""
        found = values.get(self.key)
        if self.values is None:
            return (found is not None) == self.is_in
        return (found in self.values) == self.is_in


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, values: Mapping[str, str]) -> bool:
        """Tell whether an object's labels, or fields, are wanted."""
        return all(requirement.matches(values) for requirement in self.requirements)

    def exactly(self, key: str) -> str | None:
        """Return the one value that a key must have, if there is such a condition."""
        for requirement in self.requirements:
            if requirement.key == key and requirement.is_in and requirement.values:
                return next(iter(requirement.values)) if len(requirement.values) == 1 else None
        return None


class Fields(Mapping[str, str]):
    """What field selectors look at; an object is read only for what its key does not tell.

    A thousand may watch one object each, by its name, and all of them have to be asked whether a
    change is theirs.

    Args:
        known: What is known without reading.
        read: Reads the others.
    """

    def __init__(self, known: Mapping[str, str], read: Callable[[], Mapping[str, str]]) -> None:
        self._known, self._read = known, read
        self._is_read = False

    @override
    def __getitem__(self, name: str) -> str:
        return self._known[name] if name in self._known else self._all()[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    @override
    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> Mapping[str, str]:
        if not self._is_read:
            self._known, self._is_read = {**self._known, **self._read()}, True
        return self._known


def parse_labels(text: str) -> Selector:
    """Read a label selector.

    Raises:
        BadRequest: It breaks the grammar.
    """
    found, position = [], 0
    if not text.strip():
        return Selector()
    if len(text) > _LONGEST:
        raise BadRequest("unable to parse the label selector: it is too long")
    while position < len(text):
        match = _CONDITION.match(text, position)
        if match is None or match.end() == position:
            raise BadRequest(f"unable to parse requirement: found {text[position:][:64]!r}")
        found.append(_requirement(match))
        _check_count("label", found)
        position = match.end()
    if text.rstrip().endswith(","):
        raise BadRequest("unable to parse requirement: nothing follows the last comma")
    return Selector(tuple(found))


def parse_fields(text: str) -> Selector:
    """Read a field selector.

    Raises:
        BadRequest: It breaks the grammar.
    """
    found, position = [], 0
    if len(text) > _LONGEST:
        raise BadRequest("unable to parse the field selector: it is too long")
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            raise BadRequest(f"invalid selector: {text[:64]!r}; can't understand it")
        key, operator, value = match.groups()
        found.append(Requirement(key, operator != "!=", frozenset([_unescape(value)])))
        _check_count("field", found)
        position = match.end()
    return Selector(tuple(found))


def _check_count(what: str, requirements: Sequence[Requirement]) -> None:
    if len(requirements) > _MOST:
        raise BadRequest(
            f"unable to parse the {what} selector: it has more than {_MOST} requirements"
        )


def _requirement(match: re.Match[str]) -> Requirement:
    if (absent := match["absent"]) is not None:
        requirement = Requirement(absent, False, None)
    elif (key := match["set"]) is not None:
        values = frozenset(value.strip() for value in match["values"].split(","))
        requirement = Requirement(key, match["op"] == "in", values)
    elif match["is"] is None:
        requirement = Requirement(match["key"], True, None)
    else:
        values = frozenset([match["value"]])
        requirement = Requirement(match["key"], match["is"] != "!=", values)
    if not is_qualified_name(requirement.key):
        raise BadRequest(f"unable to parse requirement: {requirement.key[:64]!r} is no label key")
    for value in requirement.values or ():
        if not is_label_value(value):
            raise BadRequest(f"unable to parse requirement: {value[:64]!r} is no label value")
    return requirement


def _unescape(text: str) -> str:
    if re.search(r"\\(?![\\,=])", text):
        raise BadRequest(f"invalid field selector: {text[:64]!r} has an escape of nothing")
    return re.sub(r"\\(.)", r"\1", text)
