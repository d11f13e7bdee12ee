"""What is wrong with a value of the configuration, in the words of those who write one.

pydantic speaks to programmers (``valid dictionary or instance of HTTP``); whoever writes YAML wants
to know what to write instead.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda _: "must be true or false",
    "bool_type": lambda _: "must be true or false",
    "dict_type": lambda _: "must be a mapping of keys to values",
    "enum": lambda context: f"must be {context['expected']}".replace("'", ""),
    # Of lengths of time only.
    "greater_than": lambda _: "must be longer than nothing",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "int_parsing": lambda _: "must be a whole number",
    "int_type": lambda _: "must be a whole number",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "missing": lambda _: "must be given",
    "model_type": lambda _: "must be a mapping of keys to values",
    "string_pattern_mismatch": lambda _: "must be 0.1, the version of distribution's format",
    "string_too_short": lambda _: "must not be empty",
    "string_type": lambda _: "must be text",
    "tuple_type": lambda _: "must be a list",
    "value_error": lambda context: str(context["error"]),
}


_SECRET = frozenset({"secret", "accesskey", "secretkey", "sessiontoken"})


def explain(error: ErrorDetails) -> str:
    """Return what is wrong, and with which value unless it is a secret or long."""
    words = _WORDS.get(error["type"])
    message = words(error.get("ctx", {})) if words else error["msg"]
    given = error["input"]
    is_shown = isinstance(given, str | list) and not _SECRET.intersection(map(str, error["loc"]))
    return f"{message} (it is {given!r})" if is_shown else message
