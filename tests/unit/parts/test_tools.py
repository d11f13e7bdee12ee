"""A real program that isn't here: never silently, and an error where all have to be."""

from pathlib import Path

import pytest

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
