"""The clients log in, push and pull over TLS, in every mode that asks who is there.

``writer`` may push, ``reader`` may not. In the mode ``kubernetes`` they are service accounts, and
their passwords are tokens of the cluster. What a client says when it is refused has to make sense
to whoever reads it. docker believes any server at a loopback address, so it is given another one
that Linux takes there.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.integration.guarded import Guarded, by_cluster, by_password, by_token
from tests.parts.certificates import Authority, CertificatePair
from tests.parts.containerd import Containerd
from tests.parts.control_plane import ControlPlane
from tests.parts.dockerd import Dockerd
from tests.parts.tools import find, require

pytestmark = pytest.mark.skipif(
    "E2E_REGISTRY" in os.environ, reason="needs a server with the users of the tests"
)

ACCESS = """\
rules:
  - {users: [reader], repositories: ["**"], actions: [pull]}
  - {users: [writer], repositories: ["**"], actions: [pull, push]}
  - {anonymous: true, repositories: ["public/**"], actions: [pull]}
"""
UNTRUSTED = "certificate signed by unknown authority"
REFUSED = re.compile(
    r"incorrect username or password|invalid username/password|unauthorized|401", re.IGNORECASE
)
"""What clients make of a wrong password. Those that show our message show the first."""

DENIED = re.compile(
    r"denied|forbidden|403|unauthorized|authentication required|insufficient_scope|401",
    re.IGNORECASE,
)
"""And of a user who may not: a token server's user has no token for it."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> CertificatePair:
    return Authority().issue(tmp_path_factory.mktemp("certificates"))


@dataclass(frozen=True, slots=True)
class Logins:
    """The options with which most clients log in."""

    wrong: tuple[str, ...]
    reader: tuple[str, ...]
    writer: tuple[str, ...]


@pytest.fixture(scope="module", params=["htpasswd", "token", "kubernetes"])
def place(
    request: pytest.FixtureRequest,
    pair: CertificatePair,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("registry")
    if request.param == "kubernetes":
        plane: ControlPlane = request.getfixturevalue("control_plane")
        with by_cluster(plane, directory, tls=pair) as found:
            yield found
        return
    start = by_password if request.param == "htpasswd" else by_token
    with start(directory, tls=pair, access=ACCESS) as found:
        yield found


@pytest.fixture
def logins(place: Guarded) -> Logins:
    def options(name: str, password: str) -> tuple[str, ...]:
        return ("--username", name, "--password", password)

    return Logins(
        wrong=options("writer", "a guess"),
        reader=options("reader", place.password("reader")),
        writer=options("writer", place.password("writer")),
    )


@pytest.fixture
def address(place: Guarded) -> str:
    return place.server.address


@pytest.fixture
def trusted(pair: CertificatePair, tmp_path: Path) -> Path:
    """The authority in a folder, as the clients of the containers project want it."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    shutil.copy(pair.authority, folder / "ca.crt")
    return folder


@pytest.fixture
def trusting(home: dict[str, str], trusted: Path) -> dict[str, str]:
    """The environment of clients that ask the system whom to trust."""
    return home | {"SSL_CERT_FILE": str(trusted / "ca.crt")}


@pytest.fixture
def source(tmp_path: Path) -> layouts.Layout:
    return layouts.image(tmp_path / "image")


def name_of(repository: str) -> str:
    return repository.rpartition("/")[2]


def test_skopeo(
    logins: Logins,
    address: str,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    require("skopeo")
    skopeo = Client([find("skopeo")], home)
    remote = f"docker://{address}/{repository}:1"
    push = ("copy", "--dest-cert-dir", trusted, f"oci:{source.path}:1", remote)
    login = ("login", "--cert-dir", trusted, address)

    assert REFUSED.search(skopeo.fails(*login, *logins.wrong))
    assert DENIED.search(skopeo.fails(*push))
    skopeo(*login, *logins.reader)
    assert DENIED.search(skopeo.fails(*push))
    skopeo(*login, *logins.writer)
    skopeo(*push)
    assert source.digest in skopeo("inspect", "--cert-dir", trusted, remote)
    skopeo("copy", "--src-cert-dir", trusted, remote, f"oci:{tmp_path / 'pulled'}:1")
    skopeo("logout", address)
    assert DENIED.search(skopeo.fails("inspect", "--cert-dir", trusted, remote))


def test_podman(
    logins: Logins,
    address: str,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    require("podman")
    with tempfile.TemporaryDirectory(prefix="podman-") as run:
        podman = Client(
            [
                find("podman"),
                *("--root", tmp_path / "storage", "--runroot", run),
                *("--tmpdir", tmp_path / "scratch", "--storage-driver", "vfs"),
                *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            ],
            home,
        )
        image = podman("pull", "--quiet", f"oci:{source.path}:1").strip()
        name = f"{address}/{repository}:1"
        login = ("login", "--cert-dir", trusted, address)

        assert REFUSED.search(podman.fails(*login, *logins.wrong))
        podman(*login, *logins.reader)
        assert DENIED.search(podman.fails("push", "--cert-dir", trusted, image, name))
        podman(*login, *logins.writer)
        podman("push", "--cert-dir", trusted, image, name)
        podman("rmi", "--all", "--force")
        assert podman("pull", "--quiet", "--cert-dir", trusted, name).strip() == image


def test_buildah(
    logins: Logins,
    address: str,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    require("buildah")
    storage = ("--root", tmp_path / "storage", "--runroot", tmp_path / "run")
    buildah = Client([find("buildah"), *storage, "--storage-driver", "vfs"], home)
    image = buildah("pull", "--quiet", f"oci:{source.path}:1").strip()
    name = f"{address}/{repository}:1"
    login = ("login", "--cert-dir", trusted)

    assert REFUSED.search(buildah.fails(*login, *logins.wrong, address))
    buildah(*login, *logins.reader, address)
    assert DENIED.search(buildah.fails("push", "--cert-dir", trusted, image, name))
    buildah(*login, *logins.writer, address)
    buildah("push", "--cert-dir", trusted, image, name)
    buildah("rmi", "--all", "--force")
    assert buildah("pull", "--quiet", "--cert-dir", trusted, name).strip() == image


def test_crane(
    logins: Logins,
    address: str,
    trusting: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    require("crane")
    crane = Client([find("crane")], trusting)
    name = f"{address}/{repository}:1"

    # It keeps what it is told and finds out when it is needed.
    crane("auth", "login", address, *logins.wrong)
    assert REFUSED.search(crane.fails("push", source.path, name))
    crane("auth", "login", address, *logins.reader)
    assert DENIED.search(crane.fails("push", source.path, name))
    crane("auth", "login", address, *logins.writer)
    crane("push", source.path, name)
    assert crane("digest", name).strip() == source.digest
    crane("pull", "--format", "oci", name, tmp_path / "pulled")
    crane("copy", name, f"{address}/public/{name_of(repository)}:1")
    crane("auth", "logout", address)
    assert DENIED.search(crane.fails("digest", name))


def test_regctl(
    logins: Logins,
    address: str,
    trusting: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    require("regctl")
    regctl = Client([find("regctl")], trusting)
    name = f"{address}/{repository}:1"
    login = ("registry", "login", address)

    def given(options: tuple[str, ...]) -> tuple[str, ...]:
        return ("--user", options[1], "--pass", options[3])

    assert REFUSED.search(regctl.fails(*login, *given(logins.wrong)))
    regctl(*login, *given(logins.reader))
    assert DENIED.search(regctl.fails("image", "copy", f"ocidir://{source.path}:1", name))
    regctl(*login, *given(logins.writer))
    regctl("image", "copy", f"ocidir://{source.path}:1", name)
    assert regctl("image", "digest", name).strip() == source.digest
    regctl("image", "copy", name, f"ocidir://{tmp_path / 'pulled'}:1")


def packaged(helm: Client, chart: str, folder: Path) -> Path:
    """Make a chart, and return its archive."""
    helm("create", folder / chart)
    helm("package", folder / chart, "--version", "1.0.0", "--destination", folder)
    return folder / f"{chart}-1.0.0.tgz"


def test_helm(
    logins: Logins,
    address: str,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    tmp_path: Path,
) -> None:
    require("helm")
    helm = Client([find("helm")], home)
    # A chart is a repository below this one.
    team, chart = repository.split("/")
    charts = f"oci://{address}/{team}"
    authority = ("--ca-file", trusted / "ca.crt")
    push = ("push", *authority, packaged(helm, chart, tmp_path), charts)
    login = ("registry", "login", address, *authority)

    assert REFUSED.search(helm.fails(*login, *logins.wrong))
    assert DENIED.search(helm.fails(*push))
    helm(*login, *logins.reader)
    assert DENIED.search(helm.fails(*push))
    helm(*login, *logins.writer)
    helm(*push)
    assert "version: 1.0.0" in helm("show", "chart", *authority, f"{charts}/{chart}")
    helm("pull", *authority, f"{charts}/{chart}", "--destination", home["HOME"])
    assert Path(home["HOME"], f"{chart}-1.0.0.tgz").stat().st_size > 0


def test_containerd(
    logins: Logins,
    place: Guarded,
    containerd_part: Containerd,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    address = place.server.address
    where = ("--address", containerd_part.socket, "--namespace", repository.replace("/", "-"))
    ctr = Client([find("ctr"), *where, "images"], home)
    image = f"{address}/{repository}"
    ctr("import", "--no-unpack", "--base-name", image, source.archive())
    hosts = tmp_path / "hosts" / address / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'[host."{place.url}"]\nca = "{trusted / "ca.crt"}"\n')
    authority = ("--hosts-dir", tmp_path / "hosts")

    def as_user(options: tuple[str, ...]) -> tuple[str, ...]:
        return ("--user", f"{options[1]}:{options[3]}")

    assert REFUSED.search(ctr.fails("push", *authority, *as_user(logins.wrong), f"{image}:1"))
    assert DENIED.search(ctr.fails("push", *authority, *as_user(logins.reader), f"{image}:1"))
    ctr("push", *authority, *as_user(logins.writer), f"{image}:1")
    ctr("rm", "--sync", f"{image}:1")
    snapshotter = ("--snapshotter", "native")
    assert DENIED.search(ctr.fails("pull", *authority, *snapshotter, f"{image}:1"))
    ctr("pull", *authority, *as_user(logins.reader), *snapshotter, f"{image}:1")
    assert source.digest in ctr("ls", f"name=={image}:1")
    ctr("rm", "--sync", f"{image}:1")


def test_docker(
    logins: Logins,
    place: Guarded,
    pair: CertificatePair,
    dockerd_part: Dockerd,
    home: dict[str, str],
    repository: str,
    tmp_path: Path,
) -> None:
    address = place.server.address.replace("127.0.0.1", "0.0.0.0")
    docker = Client([find("docker"), "--host", f"unix://{dockerd_part.socket}"], home)
    archive = tmp_path / "layer.tar"
    archive.write_bytes(layouts.tarball())
    image = docker("import", "--change", "CMD /content", archive).strip()
    name = f"{address}/{repository}:1"
    docker("tag", image, name)
    login = ("login", address)
    assert UNTRUSTED in docker.fails(*login, *logins.writer)
    dockerd_part.trust(address, pair.authority)

    assert REFUSED.search(docker.fails(*login, *logins.wrong))
    assert DENIED.search(docker.fails("push", name))
    docker(*login, *logins.reader)
    assert DENIED.search(docker.fails("push", name))
    docker(*login, *logins.writer)
    docker("push", name)
    # A second repository, whose layer comes from the first one.
    public = f"{address}/public/{name_of(repository)}:1"
    docker("tag", image, public)
    assert f"Mounted from {repository}" in docker("push", public)
    docker("logout", address)
    docker("rmi", "--force", image)
    assert DENIED.search(docker.fails("pull", name))
    docker("pull", public)
    docker(*login, *logins.reader)
    docker("pull", name)
    assert docker("image", "inspect", "--format", "{{.Id}}", name).strip() == image


def test_nobody_in_particular_pulls_what_is_public(
    place: Guarded,
    containerd_part: Containerd,
    trusted: Path,
    home: dict[str, str],
    trusting: dict[str, str],
    repository: str,
    source: layouts.Layout,
    tmp_path: Path,
) -> None:
    """By a rule for ``anonymous``, or by a RoleBinding for ``system:unauthenticated``."""
    require("skopeo", "podman", "buildah", "crane", "regctl")
    address, name = place.server.address, name_of(repository)
    image, hidden = f"{address}/public/{name}:1", f"{address}/{repository}:1"
    skopeo = Client([find("skopeo")], trusting)
    for target in (image, hidden):
        credentials = ("--dest-creds", f"writer:{place.password('writer')}")
        skopeo("copy", *credentials, f"oci:{source.path}:1", f"docker://{target}")

    assert source.digest in skopeo("inspect", f"docker://{image}")
    assert DENIED.search(skopeo.fails("inspect", f"docker://{hidden}"))
    crane = Client([find("crane")], trusting)
    crane("pull", image, tmp_path / "pulled.tar")
    assert DENIED.search(crane.fails("pull", hidden, tmp_path / "pulled.tar"))
    regctl = Client([find("regctl")], trusting)
    regctl("image", "copy", image, f"ocidir://{tmp_path / 'copied'}:1")
    assert DENIED.search(regctl.fails("image", "digest", hidden))
    for program in ("podman", "buildah"):
        with tempfile.TemporaryDirectory(prefix=f"{program}-") as run:
            storage = ("--root", tmp_path / program, "--runroot", run, "--storage-driver", "vfs")
            pull = Client([find(program), *storage, "pull", "--quiet"], trusting)
            assert pull(image).strip()
            assert DENIED.search(pull.fails(hidden))
    where = ("--address", containerd_part.socket, "--namespace", f"public-{name}")
    ctr = Client([find("ctr"), *where, "images"], home)
    hosts = tmp_path / "hosts" / address / "hosts.toml"
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f'[host."{place.url}"]\nca = "{trusted / "ca.crt"}"\n')
    command = ("pull", "--hosts-dir", tmp_path / "hosts", "--snapshotter", "native")
    ctr(*command, image)
    assert source.digest in ctr("ls", f"name=={image}")
    assert DENIED.search(ctr.fails(*command, hidden))
    ctr("rm", "--sync", image)


def test_helm_shows_a_public_chart_without_a_login(
    logins: Logins,
    address: str,
    trusted: Path,
    home: dict[str, str],
    repository: str,
    tmp_path: Path,
) -> None:
    require("helm")
    helm = Client([find("helm")], home)
    chart = name_of(repository)
    authority = ("--ca-file", trusted / "ca.crt")
    package = packaged(helm, chart, tmp_path)
    helm("registry", "login", address, *authority, *logins.writer)
    public, hidden = (f"oci://{address}/{team}" for team in ("public", repository.split("/")[0]))
    for team in (public, hidden):
        helm("push", *authority, package, team)
    helm("registry", "logout", address)

    assert "version: 1.0.0" in helm("show", "chart", *authority, f"{public}/{chart}")
    assert DENIED.search(helm.fails("show", "chart", *authority, f"{hidden}/{chart}"))
