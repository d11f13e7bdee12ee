"""A real program that isn't here: never silently, and an error where all have to be."""

from pathlib import Path

import pytest

from tests.parts.go_builds import module_file
from tests.parts.tools import MissingPart, cache, find, pins, require


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache()


def test_missing_program_is_a_skip_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match=r"crane v\S+ is not built: run `make tools`"):
        require("crane")


def test_missing_program_is_an_error_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(MissingPart, match="crane"):
        require("crane")


def test_missing_command_names_its_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _command, path: None)

    with pytest.raises(MissingPart, match=r"install the Debian package docker\.io$"):
        find("dockerd")


def test_built_program_is_found_only_at_the_pinned_version(empty_cache: Path) -> None:
    pinned = pins().go["crane"]
    for version in ("v0.0.1", pinned.version):
        folder = empty_cache / f"crane-{version}"
        folder.mkdir(parents=True)
        (folder / "crane").touch()

    assert find("crane") == empty_cache / f"crane-{pinned.version}" / "crane"


def test_programs_of_kubernetes_share_one_version_and_folder(empty_cache: Path) -> None:
    listed = pins().go
    programs = [listed[name] for name in ("kube-apiserver", "kubectl")]

    assert {program.folder for program in programs} == {
        empty_cache / f"kubernetes-{listed['kubectl'].version}"
    }


def test_siblings_in_folders_become_those_that_were_published() -> None:
    published = {
        "Module": {"Path": "example.org/whole"},
        "Go": "1.24.0",
        "Replace": [
            {"Old": {"Path": "example.org/part"}, "New": {"Path": "./staging/part"}},
            {"Old": {"Path": "example.org/x"}, "New": {"Path": "example.org/y", "Version": "v2"}},
        ],
    }

    assert module_file(published, "v1.34.4").splitlines() == [
        "module parts",
        "go 1.24.0",
        "require example.org/whole v1.34.4",
        "replace example.org/part => example.org/part v0.34.4",
    ]
