"""Who may be let in where."""

import pytest

from alauda_registry.server.configuration.auth_settings import Auth
from alauda_registry.server.configuration.settings import HTTP
from alauda_registry.server.opening.exposure import check_exposure
from alauda_registry.serving.starting import CannotStart

NOBODY_IS_ASKED = Auth.model_validate({})
PAIR = {"certificate": "c", "key": "k"}


@pytest.mark.parametrize(
    "values",
    [
        {"addr": "127.0.0.1:5000"},
        {"addr": "localhost:5000"},
        {"addr": "[::1]:5000"},
        {"addr": ":5000", "allowplainhttp": True, "allowanonymous": True},
        {"addr": ":5000", "tls": PAIR, "allowanonymous": True},
    ],
)
def test_this_is_allowed(values: dict[str, object]) -> None:
    check_exposure(HTTP.model_validate(values), NOBODY_IS_ASKED)


def test_whoever_asks_who_is_there_needs_no_flag_for_it() -> None:
    auth = Auth.model_validate({"htpasswd": {"path": "/etc/registry/htpasswd"}})

    check_exposure(HTTP.model_validate({"addr": ":5000", "tls": PAIR}), auth)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"addr": ":5000"}, "--allow-plain-http"),
        ({"addr": "0.0.0.0:5000", "allowanonymous": True}, "--allow-plain-http"),
        ({"addr": "registry.example:5000", "allowplainhttp": True}, "--allow-anonymous"),
        ({"addr": "[::]:5000", "tls": PAIR}, "--allow-anonymous"),
    ],
)
def test_others_are_let_in_only_by_the_flag_that_is_named(
    values: dict[str, object], flag: str
) -> None:
    with pytest.raises(CannotStart, match=flag):
        check_exposure(HTTP.model_validate(values), NOBODY_IS_ASKED)
