"""Our reading of the specification, check by check, against our server with each of its drivers.

What another registry may leave out with "not supported" we claim to have, so it fails here.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conformance.oci import suite
from conformance.oci.check import Check, Version
from conformance.oci.registry import Registry
from conformance.oci.suite import Outcome
from tests.integration.guarded import Guarded
from tests.parts import registry

REFUSING = [
    check
    for check in suite.CHECKS
    if check.section.startswith("Deleting")
    or check.id in {"put-manifest-with-an-unknown-layer", "put-index-with-an-unknown-manifest"}
]


@pytest.fixture(scope="session")
def subject(url: str) -> Iterator[Registry]:
    subject = Registry(url, allow_sparse=True)
    yield subject
    subject.close()


@pytest.fixture(scope="session")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A server that deletes nothing and takes no manifest whose parts are missing."""
    directory = tmp_path_factory.mktemp("conformance-refusing")
    settings = {"REGISTRY_STORAGE_DELETE_ENABLED": "false"}
    with registry.running(directory, settings=settings) as running:
        subject = Registry(running.url)
        yield subject
        subject.close()


@pytest.mark.integration
@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.id)
def test_our_server_passes(check: Check, subject: Registry) -> None:
    result = suite.run(check, subject)

    assert (result.outcome, result.message) == (Outcome.OK, "")


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_our_server_passes_with_a_login(
    start_guarded: Callable[..., AbstractContextManager[Guarded]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    with start_guarded(tmp_path, arguments=("--allow-sparse",)) as place:
        subject = Registry(
            place.url,
            username="admin",
            password=place.password("admin"),
            allow_sparse=True,
            # Of an authority of its own, where there is one.
            verify=False,
        )
        results = [suite.run(check, subject) for check in suite.CHECKS]
        subject.close()

    others = {
        result.check.id: f"{result.outcome}: {result.message}"
        for result in results
        if result.outcome is not Outcome.OK
    }
    # It would tell who may not see a blob that somebody has it.
    expected = {"mount-without-from": "not supported: the registry wants to be told the source"}
    if "kubernetes" in request.node.callspec.id:
        # A repository is a name in a namespace.
        expected["name-of-every-allowed-form"] = "not supported: names are not as deep as this"
    assert others == expected


@pytest.mark.integration
@pytest.mark.parametrize("check", REFUSING, ids=lambda check: check.id)
def test_our_server_refuses_as_it_has_to(check: Check, refusing: Registry) -> None:
    result = suite.run(check, refusing)

    assert result.outcome is not Outcome.FAIL, result.message


def test_every_check_has_an_id_of_its_own() -> None:
    ids = [check.id for check in suite.CHECKS]

    assert len(ids) == len(set(ids))


def test_release_has_fewer_checks_than_the_current_main() -> None:
    released, current = suite.select(Version.V1_1), suite.select(Version.DEV)

    assert {check.id for check in released} < {check.id for check in current}
    assert [check for check in current if check.version is Version.DEV]


def test_readme_names_every_check() -> None:
    readme = Path(suite.__file__).parents[1].joinpath("README.md").read_text()

    missing = [check.id for check in suite.CHECKS if f"`{check.id}`" not in readme]

    assert missing == []
