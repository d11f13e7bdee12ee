"""Expectations about an answer; one that isn't met tells what was asked and what came instead."""

import json
import re
from urllib.parse import urljoin

import httpx

from conformance.oci.material import Json

SHOWN = 300
"""Characters of an unexpected body that a message shows."""


class Failed(Exception):
    """The registry did something else than the specification asks for."""


class NotSupported(Exception):
    """The registry left out what the specification lets it leave out."""


def describe(answer: httpx.Response) -> str:
    """Say in one line what was asked and what came."""
    request = answer.request
    line = f"{request.method} {request.url} answered {answer.status_code}"
    body = answer.text[:SHOWN].strip() if "json" in answer.headers.get("Content-Type", "") else ""
    return f"{line} {body}".rstrip()


def that(condition: bool, message: str) -> None:
    """Fail with a message unless the condition holds."""
    if not condition:
        raise Failed(message)


def status(answer: httpx.Response, *expected: int) -> None:
    """Expect one of some statuses."""
    wanted = " or ".join(str(code) for code in expected)
    that(answer.status_code in expected, f"{describe(answer)}, expected {wanted}")


def refused(answer: httpx.Response) -> None:
    """Expect an answer that puts the blame on the client."""
    that(400 <= answer.status_code < 500, f"{describe(answer)}, expected a status of 400 to 499")


def header(answer: httpx.Response, name: str, expected: str | None = None) -> str:
    """Expect a header, and a value if one is given; return what it says."""
    value: str | None = answer.headers.get(name)
    if value is None:
        raise Failed(f"{describe(answer)} without the header {name}")
    if expected is not None:
        that(value == expected, f"{describe(answer)} with {name}: {value}, expected {expected}")
    return value


def no_header(answer: httpx.Response, name: str) -> None:
    """Expect that a header is absent."""
    value = answer.headers.get(name)
    that(value is None, f"{describe(answer)} with {name}: {value}, expected none")


def body(answer: httpx.Response, expected: bytes) -> None:
    """Expect exactly these bytes."""
    that(
        answer.content == expected,
        f"{describe(answer)} with a body of {len(answer.content)} bytes, "
        f"which isn't the one of {len(expected)} bytes that was expected",
    )


def location(answer: httpx.Response) -> str:
    """Expect a location, relative or absolute; return it absolute, its query untouched."""
    return urljoin(str(answer.request.url), header(answer, "Location"))


def json_object(answer: httpx.Response) -> Json:
    """Expect a JSON object as the body."""
    try:
        value = json.loads(answer.content)
    except ValueError as error:
        raise Failed(f"{describe(answer)} with a body that isn't JSON: {error}") from error
    if not isinstance(value, dict):
        raise Failed(f"{describe(answer)} with JSON that isn't an object")
    return value


def strings(answer: httpx.Response, field: str) -> list[str]:
    """Expect a JSON object with a list of strings in a field."""
    value = json_object(answer).get(field)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise Failed(f"{describe(answer)}, expected a list of strings in {field}")
    return value


def objects(answer: httpx.Response, field: str) -> list[Json]:
    """Expect a JSON object with a list of objects in a field."""
    value = json_object(answer).get(field)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Failed(f"{describe(answer)}, expected a list of objects in {field}")
    return value


def error_codes(answer: httpx.Response) -> list[str]:
    """Expect the specification's form of an error; return the codes in it."""
    codes = [entry.get("code") for entry in objects(answer, "errors")]
    that(bool(codes), f"{describe(answer)} with an empty list of errors")
    for code in codes:
        that(
            isinstance(code, str) and re.fullmatch("[A-Z_]+", code) is not None,
            f"{describe(answer)} with the code {code!r}, expected capitals and underscores",
        )
    return [str(code) for code in codes]


def next_page(answer: httpx.Response) -> str | None:
    """Return the absolute URL of the next page, or None; a Link of another form is a failure."""
    value: str | None = answer.headers.get("Link")
    if value is None:
        return None
    match = re.fullmatch(r'\s*<([^>]*)>\s*;\s*rel="?next"?\s*', value)
    if match is None:
        raise Failed(f'{describe(answer)} with Link: {value}, expected <URL>; rel="next"')
    following: str = match[1]
    return urljoin(str(answer.request.url), following)
