"""helm against a registry: charts are artifacts, too."""

from pathlib import Path

import pytest

from tests.e2e.clients import Client
from tests.e2e.conftest import Target
from tests.e2e.layouts import digest_of
from tests.parts.tools import find, require


@pytest.fixture
def helm(home: dict[str, str]) -> Client:
    require("helm")
    return Client([find("helm")], home)


@pytest.mark.parametrize(
    ("version", "tag"), [("1.2.3", "1.2.3"), ("1.2.3+build.4", "1.2.3_build.4")], ids=str
)
def test_pushed_chart_is_pulled_shown_and_rendered(
    helm: Client, target: Target, repository: str, tmp_path: Path, version: str, tag: str
) -> None:
    helm("create", tmp_path / "shop")
    helm("package", tmp_path / "shop", "--version", version, "--destination", tmp_path)
    chart = tmp_path / f"shop-{version}.tgz"
    charts = f"oci://{target.address}/{repository}"

    helm("push", "--plain-http", chart, charts)
    (tmp_path / "pulled").mkdir()
    where = ("--version", version, "--plain-http")
    helm("pull", f"{charts}/shop", *where, "--destination", tmp_path / "pulled")

    assert target.tags(f"{repository}/shop") == [tag]
    assert digest_of(tmp_path / "pulled" / chart.name) == digest_of(chart)
    assert f"version: {version}" in helm("show", "chart", f"{charts}/shop", *where)
    assert "kind: Deployment" in helm("template", "my", f"{charts}/shop", *where)


def test_chart_is_pulled_by_digest(
    helm: Client, target: Target, repository: str, tmp_path: Path
) -> None:
    helm("create", tmp_path / "shop")
    helm("package", tmp_path / "shop", "--version", "1.0.0", "--destination", tmp_path)
    charts = f"oci://{target.address}/{repository}"
    helm("push", "--plain-http", tmp_path / "shop-1.0.0.tgz", charts)
    digest, _ = target.manifest(f"{repository}/shop", "1.0.0")
    (tmp_path / "pulled").mkdir()

    helm(
        *("pull", "--plain-http", f"{charts}/shop@{digest}"),
        *("--destination", tmp_path / "pulled"),
    )

    (pulled,) = (tmp_path / "pulled").iterdir()
    assert digest_of(pulled) == digest_of(tmp_path / "shop-1.0.0.tgz")
