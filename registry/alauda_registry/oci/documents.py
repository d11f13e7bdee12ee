"""JSON documents that somebody else wrote: decoding them, and taking fields out of them.

Whatever a client sends, the only exception that leaves this module is ``ManifestInvalid``,
with a message that names the field and says what is expected. A field that is ``null``, or
an optional text that is empty, counts as absent: programs whose JSON library knows no
absent values write it so.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from alauda_registry.oci.errors import ManifestInvalid

Fields = Mapping[str, object]
"""A JSON object, of whose values nothing is known yet."""


def decode_object(content: bytes) -> Fields:
    """Decode a document whose outermost value is an object.

    As most parsers do, it takes the last of several fields with the same name.

    Raises:
        ManifestInvalid: The content is not UTF-8, not JSON, too deep, holds a number or a
            text that other programs could not read, or is not an object.
    """
    try:
        text = content.decode()
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        if _SURROGATE_ESCAPE.search(text):
            _refuse_lone_surrogates(value)
    except UnicodeDecodeError as error:
        raise ManifestInvalid(
            f"manifest invalid: byte {error.start} is not UTF-8; send UTF-8 encoded JSON"
        ) from error
    except json.JSONDecodeError as error:
        raise ManifestInvalid(
            f"manifest invalid: not JSON at line {error.lineno}, column {error.colno} "
            f"({error.msg}); send a JSON object"
        ) from error
    except RecursionError:
        # The traceback is as deep as the document and says nothing.
        raise ManifestInvalid(
            "manifest invalid: its values are nested too deep; flatten them"
        ) from None
    except ValueError as error:
        raise ManifestInvalid(
            "manifest invalid: it holds a number with too many digits; write it as text"
        ) from error
    return require_object(value, "manifest")


def require_object(value: object, where: str) -> Fields:
    """Return the value, which must be an object.

    Raises:
        ManifestInvalid: It is not.
    """
    if not isinstance(value, dict):
        refuse(where, "an object", value)
    # The decoder makes no other keys.
    return cast("dict[str, object]", value)


def require_array(value: object, where: str) -> list[object]:
    """Return the value, which must be an array.

    Raises:
        ManifestInvalid: It is not.
    """
    if not isinstance(value, list):
        refuse(where, "an array", value)
    return cast("list[object]", value)


def require_text(fields: Fields, key: str, where: str) -> str:
    """Return a text field that must be there and say something.

    Raises:
        ManifestInvalid: It is missing, empty or not a text.
    """
    text = optional_text(fields, key, where)
    if text is None:
        raise ManifestInvalid(f"manifest invalid: {where}.{key} is missing; add it")
    return text


def optional_text(fields: Fields, key: str, where: str) -> str | None:
    """Return a text field, or ``None`` if it says nothing.

    Raises:
        ManifestInvalid: It is not a text.
    """
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        refuse(f"{where}.{key}", "a string", value)
    return value or None


def optional_texts(fields: Fields, key: str, where: str) -> tuple[str, ...]:
    """Return the texts of an array field, none if it is absent.

    Raises:
        ManifestInvalid: It is not an array, or something in it is not a text.
    """
    value = fields.get(key)
    if value is None:
        return ()
    texts: list[str] = []
    for index, text in enumerate(require_array(value, f"{where}.{key}")):
        if not isinstance(text, str):
            refuse(f"{where}.{key}[{index}]", "a string", text)
        texts.append(text)
    return tuple(texts)


def optional_annotations(fields: Fields, where: str) -> dict[str, str]:
    """Return the ``annotations`` field, empty if it is absent.

    Raises:
        ManifestInvalid: It is not an object, or something in it is not a text.
    """
    value = fields.get("annotations")
    if value is None:
        return {}
    annotations: dict[str, str] = {}
    for key, text in require_object(value, f"{where}.annotations").items():
        if not isinstance(text, str):
            refuse(f"{where}.annotations[{key!r:.80}]", "a string", text)
        annotations[key] = text
    return annotations


def refuse(where: str, expected: str, value: object) -> NoReturn:
    """Say that a field is not what it should be.

    Raises:
        ManifestInvalid: Always.
    """
    found = _KINDS.get(type(value), "something else")
    raise ManifestInvalid(f"manifest invalid: {where} must be {expected}, not {found}")


_KINDS: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    type(None): "null",
}

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_number(text: str) -> NoReturn:
    raise ManifestInvalid(f"manifest invalid: {text} is not a JSON number; leave it out")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ManifestInvalid("manifest invalid: it holds a number too large to read back")
    return number


def _refuse_lone_surrogates(value: Any) -> None:
    # Half a character cannot be encoded, and so could never be shown to anybody again.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ManifestInvalid(
            "manifest invalid: it holds an escaped surrogate without its other half; "
            "write the whole character"
        ) from error
