"""The command that keeps the users, from the outside."""

import getpass
import io
import os
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest

from alauda_registry.server.cli import main
from alauda_registry.server.commands import htpasswd


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "htpasswd"


class Typed(io.TextIOWrapper):
    """Standard input that is no terminal."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, typed: bytes = b"") -> int:
    monkeypatch.setattr(sys, "stdin", Typed(typed))
    try:
        return main(["htpasswd", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)


def hash_of(path: Path, name: str) -> bytes:
    lines = path.read_bytes().splitlines()
    return next(line for line in lines if line.startswith(name.encode() + b":")).partition(b":")[2]


@pytest.mark.parametrize("typed", [b"secret", b"secret\n", b"secret\r\n"])
def test_a_user_is_added(monkeypatch: pytest.MonkeyPatch, path: Path, typed: bytes) -> None:
    assert run(monkeypatch, "add", path, "alice", "--cost", "8", typed=typed) == 0

    assert bcrypt.checkpw(b"secret", hash_of(path, "alice"))
    assert hash_of(path, "alice").startswith(b"$2b$08$")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["htpasswd"]


def test_what_else_is_in_the_file_stays(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    path.write_text("# users\nbob:$2y$05$" + "a" * 53 + "\nalice:old\n")
    path.chmod(0o640)

    assert run(monkeypatch, "add", path, "alice", "--cost", "8", typed=b"new") == 0

    lines = path.read_text().splitlines()
    assert lines[:2] == ["# users", "bob:$2y$05$" + "a" * 53]
    assert bcrypt.checkpw(b"new", hash_of(path, "alice"))
    assert len(lines) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_one(monkeypatch: pytest.MonkeyPatch, path: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("")
    path.symlink_to("real")

    assert run(monkeypatch, "add", path, "alice", "--cost", "8", typed=b"x") == 0

    assert path.is_symlink()
    assert b"alice" in real.read_bytes()


def test_a_user_is_removed_and_the_others_are_listed(
    monkeypatch: pytest.MonkeyPatch, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alice", "bob", "alice2"):
        run(monkeypatch, "add", path, name, "--cost", "8", typed=b"x")

    assert run(monkeypatch, "remove", path, "alice") == 0
    assert run(monkeypatch, "list", path) == 0
    assert capsys.readouterr().out == "bob\nalice2\n"

    assert run(monkeypatch, "remove", path, "alice") == 1
    assert "there is no user 'alice'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "typed", "reason"),
    [
        (("add", "FILE", "a:b"), b"x", "no name for a user"),
        (("add", "FILE", ""), b"x", "no name for a user"),
        (("add", "FILE", "a b"), b"x", "no name for a user"),
        (("add", "FILE", "#a"), b"x", "no name for a user"),
        (("add", "FILE", "a\nb"), b"x", "no name for a user"),
        (("add", "FILE", "alice"), b"", "between 1 and 72 bytes"),
        (("add", "FILE", "alice"), b"x" * 73, "between 1 and 72 bytes"),
        (("add", "FILE", "alice"), b"\xff", "not UTF-8"),
        (("list", "FILE"), b"", "No such file"),
        (("remove", "FILE", "alice"), b"", "is not there"),
        (("add", "/nowhere/file", "alice"), b"x", "No such file"),
        (("add", "FILE", "alice", "--cost", "30"), b"x", "cost"),
        (("ad", "FILE", "alice"), b"x", "ad"),
        ((), b"", "ACTION"),
    ],
)
def test_a_mistake_is_explained_and_changes_nothing(
    arguments: tuple[str, ...],
    typed: bytes,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = [str(path) if argument == "FILE" else argument for argument in arguments]

    assert run(monkeypatch, *told, typed=typed) != 0

    assert reason in capsys.readouterr().err
    assert not path.exists()


def test_a_terminal_is_asked_twice(
    monkeypatch: pytest.MonkeyPatch, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Iterator[str] = iter(["one", "two", "same", "same"])
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: next(answers))
    monkeypatch.setattr(Typed, "isatty", lambda _self: True)

    assert run(monkeypatch, "add", path, "alice", "--cost", "8") == 1
    assert "not the same; nothing was changed" in capsys.readouterr().err
    assert not path.exists()
    assert run(monkeypatch, "add", path, "alice", "--cost", "8") == 0
    assert bcrypt.checkpw(b"same", hash_of(path, "alice"))


def test_a_terminal_that_ends_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(getpass, "getpass", end)
    monkeypatch.setattr(Typed, "isatty", lambda _self: True)

    assert run(monkeypatch, "add", path, "alice") == 1
    assert "no password was given; nothing was changed" in capsys.readouterr().err
    assert not path.exists()


def test_a_full_disk_leaves_the_file_as_it_was(
    monkeypatch: pytest.MonkeyPatch, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text("bob:x\n")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)

    assert run(monkeypatch, "add", path, "alice", "--cost", "8", typed=b"x") == 1
    assert "No space left" in capsys.readouterr().err
    assert path.read_text() == "bob:x\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["htpasswd"]


def test_of_many_at_once_none_is_lost(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: htpasswd._replace(path, f"u{number}", "x"), range(40)))

    assert len(path.read_text().splitlines()) == 40
