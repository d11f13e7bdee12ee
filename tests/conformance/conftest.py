"""Our own servers that the conformance programs talk to, one for each driver."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.guarded import Guarded, by_cluster, by_password, by_token
from tests.parts import registry, s3
from tests.parts.certificates import Authority
from tests.parts.processes import free_port, inherited, listens, started
from tests.parts.tools import require

IN_BUCKETS: dict[str, tuple[s3.Kind, bool]] = {
    "s3 on versitygw": ("versitygw", True),
    "s3 on versitygw over TLS, through": ("versitygw", False),
    "s3 on minio": ("minio", True),
    "s3 on minio, through": ("minio", False),
}
"""Which server, and whether clients are redirected to it."""


@pytest.fixture(scope="session", params=["filesystem", "inmemory", *IN_BUCKETS])
def url(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_s3: Callable[[s3.Kind], s3.S3Server],
) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("conformance")
    if request.param == "inmemory":
        with in_memory(directory) as url:
            yield url
    elif request.param in IN_BUCKETS:
        kind, redirects = IN_BUCKETS[request.param]
        require(kind)
        with ExitStack() as running:
            holding = start_s3(kind)
            if "TLS" in request.param:
                pair = Authority().issue(directory / "tls")
                holding = running.enter_context(s3.running(kind, directory, tls=pair))
            yield running.enter_context(in_bucket(directory, holding, redirects=redirects))
    else:
        with registry.running(directory, arguments=["--allow-sparse"]) as server:
            yield server.url


@pytest.fixture(scope="session")
def url_of_a_good_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with in_memory(tmp_path_factory.mktemp("conformance-good")) as url:
        yield url


@pytest.fixture(params=["htpasswd", "token", "kubernetes"])
def start_guarded(
    request: pytest.FixtureRequest,
) -> Callable[..., AbstractContextManager[Guarded]]:
    """Starts a server that wants a login, in each of its modes."""
    match request.param:
        case "htpasswd":
            return by_password
        case "token":
            return by_token
        case _:
            return partial(by_cluster, request.getfixturevalue("control_plane"))


@contextmanager
def in_bucket(directory: Path, server: s3.S3Server, *, redirects: bool) -> Iterator[str]:
    bucket = server.create_bucket()
    variables = bucket.variables() | {
        "REGISTRY_STORAGE_REDIRECT_DISABLE": str(not redirects).lower()
    }
    if server.tls:
        variables["REGISTRY_STORAGE_S3_TRUSTEDCA"] = str(server.tls.authority)
    with registry.running(
        directory / "registry", storage=variables, arguments=["--allow-sparse"]
    ) as running:
        yield running.url
    # The checks leave uploads that they do not mean to finish; those are no multipart uploads.
    assert bucket.uploads() == []
    bucket.remove()


@contextmanager
def in_memory(directory: Path) -> Iterator[str]:
    port = free_port()
    with started(
        [
            *(sys.executable, "-m", "alauda_registry", "serve"),
            *("--listen", f"127.0.0.1:{port}", "--allow-sparse"),
        ],
        log=directory / "registry.log",
        ready=lambda: listens(port),
        environment=inherited(REGISTRY_STORAGE="inmemory"),
    ):
        yield f"http://127.0.0.1:{port}"
