"""Pull secrets, as the kubelet reads them: a service account's token in a ``.dockerconfigjson``."""

import base64
import json
import os
from pathlib import Path

import pytest

from tests.e2e import layouts
from tests.e2e.clients import Client
from tests.integration.guarded import by_cluster
from tests.parts.certificates import Authority
from tests.parts.control_plane import ControlPlane
from tests.parts.tools import find, require

pytestmark = pytest.mark.skipif(
    "E2E_REGISTRY" in os.environ, reason="needs a registry of a cluster"
)


def test_secret_of_a_service_account_pulls(
    control_plane: ControlPlane,
    namespace: str,
    home: dict[str, str],
    repository: str,
    tmp_path: Path,
) -> None:
    require("skopeo", "crane")
    pair = Authority().issue(tmp_path / "certificates")
    trusting = home | {"SSL_CERT_FILE": str(pair.authority)}
    skopeo, crane = Client([find("skopeo")], trusting), Client([find("crane")], trusting)
    source = layouts.image(tmp_path / "image")
    with by_cluster(control_plane, tmp_path / "registry", tls=pair) as place:
        address = place.server.address
        name = f"{address}/{repository}:1"
        push = ("copy", "--dest-creds", f"ci:{place.password('writer')}")
        skopeo(*push, f"oci:{source.path}:1", f"docker://{name}")
        control_plane.kubectl(
            *("create", "secret", "docker-registry", "pull", "--namespace", namespace),
            *("--docker-server", address, "--docker-username", "serviceaccount"),
            *("--docker-password", place.password("reader")),
        )
        secret = control_plane.kubectl(
            *("get", "secret", "pull", "--namespace", namespace, "--output", "json")
        )
        content = base64.b64decode(json.loads(secret)["data"][".dockerconfigjson"])
        folder = Path(home["DOCKER_CONFIG"])
        folder.mkdir()
        (folder / "config.json").write_bytes(content)
        authfile = ("--authfile", folder / "config.json")

        assert source.digest in skopeo("inspect", *authfile, f"docker://{name}")
        assert crane("digest", name).strip() == source.digest
        crane("pull", name, tmp_path / "pulled.tar")
        denied = skopeo.fails("copy", *authfile, f"oci:{source.path}:1", f"docker://{name}-again")
        assert "denied" in denied
