"""Where settings come from: flags over ``REGISTRY_*`` variables over the file over defaults.

The rules are distribution's: a variable is ``REGISTRY_`` and the path of the key in upper case with
single underscores, its value is YAML, so that ``REGISTRY_STORAGE_MAINTENANCE_READONLY`` may be
``{enabled: true}``. A service called ``registry`` makes Kubernetes set variables that look the same
(``REGISTRY_PORT=tcp://…``); they are passed over. Every complaint names the file, variable or flag
that the value came from.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alauda_registry.server.configuration.auth_settings import MODES
from alauda_registry.server.configuration.complaints import explain
from alauda_registry.server.configuration.documents import NotYAML, parse_yaml
from alauda_registry.server.configuration.sections import Section
from alauda_registry.server.configuration.settings import Settings
from alauda_registry.server.configuration.storage_settings import DRIVERS
from alauda_registry.server.configuration.unsupported import (
    DRIVER_UNSUPPORTED,
    MODE_UNSUPPORTED,
    UNSUPPORTED,
    Severity,
    has_effect,
)
from alauda_registry.serving.starting import CannotStart

Key = tuple[str, ...]

_CONFIGURATION_PATH = "REGISTRY_CONFIGURATION_PATH"
_SERVICE_LINK = re.compile(
    r"REGISTRY_(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?"
    r"|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_ALIASES: Mapping[Key, Key] = {
    ("loglevel",): ("log", "level"),
    ("http", "tls", "minversion"): ("http", "tls", "minimumtls"),
}
_ROOT = ("storage", "filesystem", "rootdirectory")
_S3_ALIAS = ("storage", "s3aws")
"""distribution's other name for its S3 driver."""

_OPENSHIFT_VARIABLES = {
    "OPENSHIFT_REGISTRY_HTTP_TLS_CIPHERSUITES": "REGISTRY_HTTP_TLS_CIPHERSUITES"
}


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the command line."""

    flag: str
    key: Key
    value: object


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and what their writer should know."""

    settings: Settings
    warnings: Sequence[str]


def load_settings(
    path: str | None = None,
    overrides: Sequence[Override] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read everything that can be set.

    Args:
        path: The YAML file; without one, that of ``REGISTRY_CONFIGURATION_PATH``, if any.
        overrides: From the command line; they win.
        environ: The variables of the process unless given.

    Raises:
        CannotStart: A value is wrong, or asks for what is not supported.
    """
    variables = os.environ if environ is None else environ
    reader = _Reader()
    if path := path or variables.get(_CONFIGURATION_PATH):
        reader.add_file(path)
    reader.add_environment(variables)
    reader.add_overrides(overrides)
    reader.remove_unsupported()
    return Loaded(reader.validate(), reader.warnings)


class _Kind(Enum):
    """What a key of the configuration is."""

    BRANCH = auto()
    LEAF = auto()


@dataclass(slots=True)
class _Reader:
    """Collects values in one tree, and remembers where each was found."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    layer: int = 0
    driver_layers: dict[str, int] = field(default_factory=dict)

    def add_file(self, path: str) -> None:
        try:
            content = parse_yaml(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise CannotStart(f"cannot read {path}: {error.strerror}") from error
        except (NotYAML, UnicodeDecodeError) as error:
            raise CannotStart(f"{path} is not YAML: {error}") from error
        if content is None:
            return
        if not isinstance(content, dict):
            raise CannotStart(f"{path} must hold a mapping such as `http: {{addr: ':5000'}}`")
        for name, value in content.items():
            self.put((str(name),), value, path)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Parents before children, so that ``…_READONLY`` does not undo ``…_READONLY_ENABLED``."""
        self.layer += 1
        variables = {_OPENSHIFT_VARIABLES.get(name, name): name for name in environ}
        for name in sorted(variables):
            if not name.startswith("REGISTRY_") or name == _CONFIGURATION_PATH:
                continue
            if _SERVICE_LINK.fullmatch(name):
                continue
            try:
                value = parse_yaml(environ[variables[name]])
            except NotYAML:
                # A secret may well begin with a character that means something in YAML.
                value = environ[variables[name]]
            self.put(_variable_key(name), value, variables[name])

    def add_overrides(self, overrides: Sequence[Override]) -> None:
        self.layer += 1
        for override in overrides:
            key = override.key
            if key == _ROOT and "pvc" in self.tree.get("storage", {}):
                # The flag says where, and not that a plain folder will do.
                key = ("storage", "pvc", key[-1])
            self.put(key, override.value, override.flag)

    def put(self, key: Key, value: object, origin: str) -> None:
        """Set one key, or a mapping of keys below it."""
        key = tuple(part.lower() for part in key)
        if key[:2] == _S3_ALIAS:
            key = ("storage", "s3", *key[2:])
        key = _ALIASES.get(key, key)
        if key in (("storage",), ("auth",)) and isinstance(value, str):
            value = {value: None}
        kind = _kind(key)
        if kind is None:
            self._complain_of_unknown(key, origin)
            return
        if key[0] == "storage" and len(key) > 1 and key[1] in _DRIVERS:
            self._choose_driver(key[1])
        if kind is _Kind.BRANCH and isinstance(value, dict) and value:
            for name, child in value.items():
                self.put((*key, str(name)), child, origin)
            return
        self.origins[key] = origin
        parent = self.tree
        for part in key[:-1]:
            if not isinstance(parent.get(part), dict):
                parent[part] = {}
            parent = parent[part]
        if kind is _Kind.BRANCH and not value:
            # An empty driver or mode is chosen all the same; other empty sections are the default.
            is_choice = (key[0] == "storage" and key[-1] in _DRIVERS) or key in _MODES
            if value is not None or is_choice:
                parent.setdefault(key[-1], {})
        elif value is None and _is_setting(key):
            # An empty value means the default, as in distribution.
            parent.pop(key[-1], None)
        else:
            parent[key[-1]] = value

    def remove_unsupported(self) -> None:
        """Take known keys without effect out of the tree, complaining where it matters."""
        for dotted, known in UNSUPPORTED.items():
            *parents, last = dotted.split(".")
            parent: Any = self.tree
            for part in parents:
                parent = parent.get(part) if isinstance(parent, dict) else None
            if not isinstance(parent, dict) or last not in parent:
                continue
            value = parent.pop(last)
            # To be named is enough.
            is_choice = known in (DRIVER_UNSUPPORTED, MODE_UNSUPPORTED)
            if known.severity is Severity.QUIET or not (is_choice or has_effect(value)):
                continue
            text = f"{self._origin((*parents, last))}: {dotted}: {known.why}"
            if known.severity is Severity.FATAL:
                raise CannotStart(text)
            self.warnings.append(text)
        _drop_empty(self.tree, Settings)

    def validate(self) -> Settings:
        """Make the settings of what is left.

        Raises:
            CannotStart: With every value that is wrong, and where it came from.
        """
        try:
            settings = Settings.model_validate(self.tree)
        except ValidationError as error:
            raise CannotStart("\n".join(map(self._describe, error.errors()))) from error
        if settings.storage.s3 is not None:
            for name, why in settings.storage.s3.unheeded:
                key = ("storage", "s3", name)
                self.warnings.append(f"{self._origin(key)}: {'.'.join(key)}: {why}")
        return settings

    def _describe(self, error: ErrorDetails) -> str:
        key = tuple(str(part) for part in error["loc"])
        what = explain(error)
        return ": ".join(filter(None, (self._origin(key, what), ".".join(key), what)))

    def _origin(self, key: Key, what: str = "") -> str:
        """Where the value, something above it or something below it was set.

        Args:
            key: Of the value.
            what: Is said of it; of the values below, those are meant that it names.
        """
        for length in range(len(key), 0, -1):
            if origin := self.origins.get(key[:length]):
                return origin
        below = {found: self.origins[found] for found in self.origins if found[: len(key)] == key}
        words = set(re.findall(r"\w+", what))
        named = {origin: None for found, origin in below.items() if found[-1] in words}
        return ", ".join(named) or next(iter(below.values()), "settings")

    def _complain_of_unknown(self, key: Key, origin: str) -> None:
        dotted = ".".join(key)
        if key[0] == "auth" and len(key) == 2:
            raise CannotStart(f"{origin}: there is no {dotted}: use one of {', '.join(MODES)}")
        known = [".".join(key) for key in _KINDS]
        close = difflib.get_close_matches(dotted, known, 1, cutoff=0.75)
        hint = f"; did you mean {close[0]}?" if close else ""
        if key[0] == "auth":
            # Passed over, it might let in more than was meant.
            raise CannotStart(f"{origin}: there is no {dotted}{hint}")
        self.warnings.append(f"{origin}: unknown key {dotted} is ignored{hint}")

    def _choose_driver(self, name: str) -> None:
        """A driver named by a variable or a flag takes the place of the file's."""
        storage = self.tree.get("storage", {})
        for other in [at for at, layer in self.driver_layers.items() if layer < self.layer]:
            if other != name:
                storage.pop(other, None)
                del self.driver_layers[other]
        self.driver_layers[name] = self.layer


def _variable_key(name: str) -> Key:
    """The key of a variable; what is below a free mapping keeps its underscores."""
    parts = tuple(name.removeprefix("REGISTRY_").lower().split("_"))
    for length in range(1, len(parts)):
        if _KINDS.get(parts[:length]) is _Kind.LEAF:
            return (*parts[:length], "_".join(parts[length:]))
    return parts


def _kind(key: Key) -> _Kind | None:
    """What the key is; whatever is below a leaf is a leaf; None for an unknown one."""
    for length in range(1, len(key) + 1):
        kind = _KINDS.get(key[:length])
        if kind is not _Kind.BRANCH:
            return kind
    return _Kind.BRANCH


def _is_setting(key: Key) -> bool:
    return ".".join(key) not in UNSUPPORTED


def _section(info: FieldInfo) -> type[Section] | None:
    """The model of a field that is a mapping of known keys."""
    for candidate in (info.annotation, *get_args(info.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _kinds(section: type[Section], above: Key) -> Iterator[tuple[Key, _Kind]]:
    for info in section.model_fields.values():
        key = (*above, str(info.alias))
        below = _section(info)
        yield key, _Kind.LEAF if below is None else _Kind.BRANCH
        if below is not None:
            yield from _kinds(below, key)


def _all_kinds() -> dict[Key, _Kind]:
    kinds = dict(_kinds(Settings, ()))
    for dotted in UNSUPPORTED:
        key = tuple(dotted.split("."))
        for length in range(1, len(key)):
            kinds.setdefault(key[:length], _Kind.BRANCH)
        kinds[key] = _Kind.LEAF
    return kinds


def _drop_empty(tree: dict[str, Any], section: type[Section]) -> None:
    """Drop branches that only unsupported keys had made."""
    fields = {str(info.alias): info for info in section.model_fields.values()}
    for name, value in list(tree.items()):
        if name not in fields:
            del tree[name]
        elif (below := _section(fields[name])) is not None and isinstance(value, dict):
            _drop_empty(value, below)


_KINDS = _all_kinds()
_MODES = {("auth", mode) for mode in MODES}
_DRIVERS = {*DRIVERS} | {
    dotted.removeprefix("storage.")
    for dotted, known in UNSUPPORTED.items()
    if known is DRIVER_UNSUPPORTED
}
