"""Scopes: what clients ask for, and what a token allows."""

import itertools

import pytest
from hypothesis import given, strategies as st

from alauda_registry.auth.scopes import (
    CATALOG,
    MOST_SCOPES,
    Access,
    Grants,
    Scope,
    of_repository,
    parse_scopes,
    scope_text,
)


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], []),
        (["repository:team/app:pull"], ["repository:team/app:pull"]),
        (["repository:a:pull repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull", "repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull", "repository:a:push,pull"], ["repository:a:pull,push"]),
        (["repository(plugin):a:pull"], ["repository(plugin):a:pull"]),
        (["registry:catalog:*"], ["registry:catalog:*"]),
        (["repository:host.example:5000/app:pull"], ["repository:host.example:5000/app:pull"]),
        (["repository:a:*"], ["repository:a:*"]),
        (["  repository:a:pull  "], ["repository:a:pull"]),
        # A name that is none asks for nothing that exists, but it is one name.
        (["repository:a,b:pull"], ["repository:a,b:pull"]),
        # What does not follow the grammar.
        (["", "repository", "repository:a", ":a:pull", "repository::pull", "repository:a:"], []),
        (["repository:a:PULL", "repository:a:pull;push", "Repository:a:pull", "a b:c"], []),
        (["repository:a:pull,,push", "repository():a:pull", "repository(x:a:pull"], []),
        (["repository:a\nb:pull", "repository:a\x00:pull", "repository:a\tb:pull"], []),
    ],
)  # fmt: skip
def test_scopes_are_read(texts: list[str], found: list[str]) -> None:
    assert [str(scope) for scope in parse_scopes(texts)] == found


def test_everything_is_asked_for_by_a_star() -> None:
    (scope,) = parse_scopes(["repository:a:*"])

    assert scope.accesses() == of_repository("a", "pull", "push", "delete")
    assert parse_scopes(["registry:catalog:*"])[0].accesses() == (CATALOG,)


def test_only_so_many_scopes_are_looked_at() -> None:
    assert (
        len(parse_scopes([f"repository:r{number}:pull" for number in range(1000)])) == MOST_SCOPES
    )


def test_no_scope_is_as_long_as_a_request_may_be() -> None:
    """Each action would be asked about."""
    actions = ",".join("".join(letters) for letters in itertools.product("abcdefghij", repeat=4))

    assert parse_scopes([f"repository:team/app:{actions}", "repository:team/app:pull"]) == (
        Scope("repository", "team/app", ("pull",)),
    )


words = st.text(alphabet="abz019/-._:", min_size=1, max_size=20)


@given(
    name=words,
    actions=st.lists(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1, unique=True),
)
def test_a_scope_that_is_written_is_read_again(name: str, actions: list[str]) -> None:
    scope = Scope("repository", name, tuple(actions))

    assert parse_scopes([str(scope)]) == (scope,)


@given(st.lists(st.text(max_size=60), max_size=5))
def test_no_text_is_too_strange(texts: list[str]) -> None:
    for scope in parse_scopes(texts):
        assert " " not in str(scope)
        assert "\n" not in str(scope)


def test_a_challenge_names_everything_that_is_needed() -> None:
    needed = [*of_repository("a", "pull", "push"), *of_repository("b", "pull"), CATALOG]

    assert scope_text(needed) == "repository:a:pull,push repository:b:pull registry:catalog:*"
    assert scope_text([]) == ""


def test_a_token_without_access_allows_nothing() -> None:
    assert not Grants(None).cover(CATALOG)
    assert not Grants([]).cover(CATALOG)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_claim_is_too_strange(claim: object) -> None:
    try:
        grants = Grants(claim)
    except ValueError:
        return
    assert not grants.cover(Access("repository", "team/app", "pull"))
