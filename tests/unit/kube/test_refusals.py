"""Answers of an API server, or of whoever answers in its place."""

import json

import pytest

from alauda_registry.kube.errors import KubeError, NamespaceTerminating, NotServed
from alauda_registry.kube.refusals import refusal


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410, 413, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"[" * 100_000,
        b'{"kind": "Status", "details": "text"}',
        b'{"kind": "Status", "details": [1], "message": 7}',
        b'{"kind": "Status", "details": {"causes": "text"}}',
        b'{"kind": "Status", "details": {"causes": [1, null, {"reason": []}], "name": []}}',
    ],
)
def test_whatever_an_answer_is_it_means_something(status: int, content: bytes) -> None:
    assert isinstance(refusal(status, "listing things", content), KubeError)


def test_a_namespace_that_is_ending_is_known_by_its_cause() -> None:
    status = {"kind": "Status", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}

    assert isinstance(refusal(403, "creating", json.dumps(status).encode()), NamespaceTerminating)


def test_a_kind_that_is_not_served_is_no_object_that_is_not_there() -> None:
    assert isinstance(refusal(404, "listing", b"404 page not found"), NotServed)
