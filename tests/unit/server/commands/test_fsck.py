"""The command ``fsck``: what it prints, how it ends, and how it goes on."""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import Tag
from alauda_registry.server.cli import main
from alauda_registry.storage import paths
from alauda_registry.storage.drivers.filesystem import FilesystemDriver
from tests.parts.processes import children_of, state_of, wait_until
from tests.parts.tools import is_ci
from tests.torture.replicas import can_mount
from tests.unit.storage.fsck.checking import APP, LAYERS, fill

DATA = paths.blob_data(Digest.of(LAYERS[1]))


def run(*arguments: str | Path) -> int:
    """Run the command; argparse ends by itself where it can."""
    try:
        return main(["fsck", *map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    asyncio.run(_fill(root))
    return root


async def _fill(root: Path) -> None:
    driver = FilesystemDriver(root)
    await fill(driver)
    await driver.aclose()


def write(root: Path, path: str, content: bytes) -> Path:
    file = root / path[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_sound_tree_is_said_to_be_sound(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--root", root) == 0

    printed = capsys.readouterr()
    assert printed.out.endswith("nothing is broken, 0 garbage\n")
    assert "3 repositories, 9 manifests, 13 blobs" in printed.out
    assert printed.err == ""


def test_what_is_broken_is_told_with_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, DATA, b"rot")
    write(root, paths.tag_current(APP, Tag("v9")), f"sha256:{'0' * 64}".encode())

    assert run("--root", root) == 1

    out = capsys.readouterr().out
    assert "broken  tag-to-nothing" in out
    assert "team/app:v9: the tag points to sha256:0000" in out
    assert f"\n        {DATA}\n" in out
    assert "add --repair" in out
    assert out.endswith("2 broken, 0 garbage\n")


def test_json_is_an_object_on_each_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = paths.tag_current(APP, Tag("v9"))
    write(root, link, f"sha256:{'0' * 64}".encode())
    write(root, f"{paths.ROOT}/stray", b"stray")

    assert run("--root", root, "--format", "json", "--no-hash", "--age", "0s") == 1

    *findings, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert findings == [
        {
            "severity": "garbage",
            "kind": "stray",
            "path": f"{paths.ROOT}/stray",
            "message": "no registry put this file here",
            "repairable": False,
            "size": 5,
        },
        {
            "severity": "broken",
            "kind": "tag-to-nothing",
            "path": link,
            "message": f"the tag points to sha256:{'0' * 64}, which is not here",
            "repairable": True,
            "repository": APP,
            "tag": "v9",
            "digest": f"sha256:{'0' * 64}",
        },
    ]
    assert summary["summary"] | {"bytes": 0} == {
        "result": "broken",
        "hashed": False,
        "hashed_after": None,
        "repositories": 3,
        "manifests": 9,
        "blobs": 13,
        "bytes": 0,
        "quarantined": 0,
        "given_back": [],
        "findings": {
            "broken": {"tag-to-nothing": {"count": 1, "bytes": 0, "repaired": 0}},
            "garbage": {"stray": {"count": 1, "bytes": 5, "repaired": 0}},
            "note": {},
        },
    }


def test_a_repair_is_told_and_then_there_is_nothing_left(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, paths.tag_current(APP, Tag("v9")), f"sha256:{'0' * 64}".encode())

    assert run("--root", root, "--repair") == 0
    repaired = capsys.readouterr().out
    assert run("--root", root) == 0
    again = capsys.readouterr().out

    assert "repaired: moved to /_fsck/quarantine/" in repaired
    assert "nothing is broken" in again
    assert "1 files lie in _fsck/quarantine" in again


def test_what_a_killed_repair_had_taken_is_told_when_it_is_back(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of_then = f"{paths.QUARANTINE}/20260101T000000Z-1"
    link = paths.blob_link(APP, Digest.of(LAYERS[1]))
    write(root, f"{run_of_then}/unfinished/one", link.encode())
    moved = write(root, f"{run_of_then}{link}", b"")
    (root / link[1:]).rename(moved)

    assert run("--root", root, "--repair") == 0

    told = capsys.readouterr().out
    assert f"put back, as a repair that was killed had just taken it: {link}\n" in told
    assert (root / link[1:]).exists()


def test_garbage_is_summed_up_unless_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, f"{paths.ROOT}/stray", b"stray")

    assert run("--root", root, "--age", "0s") == 0
    short = capsys.readouterr().out
    assert run("--root", root, "--age", "0s", "--verbose") == 0
    long = capsys.readouterr().out

    assert f"{paths.ROOT}/stray" not in short
    assert "garbage stray                1 (5 B)" in short
    assert f"{paths.ROOT}/stray" in long


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent", "cannot read {root}/absent: No such file or directory"),
        ("root/docker", "is inside of a registry's folder: say --root {root}/root"),
        (".", "there is no registry in {root}: did you mean {root}/root?"),
        ("other", "there is no registry in {root}/other: it has no folder docker/registry/v2"),
    ],
)
def test_a_wrong_root_is_answered_with_the_right_one(
    root: Path, place: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root.parent / "other").mkdir()

    assert run("--root", root.parent / place) == 3

    printed = capsys.readouterr()
    assert message.format(root=root.parent) in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--rot", "x"], "did you mean --root?"),
        (["--quick"], "is not understood"),
        (["--format", "xml"], "invalid choice"),
        (["--age", "1 day"], "write a number with its unit"),
        (["--after", "sha256:12"], "sha256 has 64 hexadecimal digits"),
        (["--jobs", "0"], "from 1 to 999"),
        (["--no-hash", "--state", "x"], "--state: not allowed with argument --no-hash"),
        (["--state", "x", "--after", f"sha256:{'0' * 64}"], "--after: not allowed with argument"),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_what_was_meant(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert hint in capsys.readouterr().err


def test_a_flag_before_the_command_is_put_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--repair", "fsck"])
    assert "image-registry fsck --repair" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--no-hash"])
    assert "image-registry fsck --no-hash" in capsys.readouterr().err


def test_the_configuration_says_where_and_how(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        json.dumps(
            {
                "storage": {
                    "filesystem": {"rootdirectory": str(root)},
                    "maintenance": {"uploadpurging": {"age": "1ns"}},
                }
            }
        )
    )

    assert run("--config", config) == 0
    assert "upload-left          1" in capsys.readouterr().out

    config.write_text("{storage: inmemory}")
    assert run("--config", config) == 3
    assert "there is nothing to check" in capsys.readouterr().err

    assert run("--config", "/absent.yml") == 3
    assert "cannot read /absent.yml" in capsys.readouterr().err


def test_without_repair_nothing_is_written(root: Path) -> None:
    write(root, DATA, b"rot")
    (root / "_driver").rename(root.parent / "away")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    assert run("--root", root) == 1

    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_full_folder_for_notes_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("alauda_registry.storage.fsck.ledger.Ledger.write", fail)

    assert run("--root", root) == 3
    assert "database or disk is full; set TMPDIR" in capsys.readouterr().err


def test_the_state_is_kept_for_the_same_tree_only(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    state.write_text('{"fsck": "/elsewhere"}\n')
    assert run("--root", root, "--state", state) == 3
    assert "is about /elsewhere" in capsys.readouterr().err

    state.write_text("my diary\n")
    assert run("--root", root, "--state", state) == 3
    assert "was not written by fsck" in capsys.readouterr().err
    assert state.read_text() == "my diary\n"

    state.unlink()
    assert run("--root", root, "--state", state) == 0
    assert not state.exists()


def test_a_state_that_is_no_file_is_refused_and_not_waited_for(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert run("--root", root, "--state", tmp_path / "pipe") == 3

    assert f"{tmp_path / 'pipe'} is no file: name another one" in capsys.readouterr().err
    assert (tmp_path / "pipe").exists()


def test_what_a_repair_leaves_broken_is_said_by_the_exit_code(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bytes are in quarantine, and the manifest that needs them is still served."""
    write(root, DATA, b"rot")

    assert run("--root", root, "--repair") == 1
    assert capsys.readouterr().out.endswith("1 broken, 0 garbage\n")
    assert run("--root", root) == 1


def test_what_was_found_before_the_end_is_looked_at_again(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state has a line that was cut short, and says that nearly everything is hashed."""
    write(root, DATA, b"rot")
    suspect = str(Digest.of(LAYERS[1]))
    state = tmp_path / "state"
    lines = [
        {"fsck": f"{root}, volume {(root / '_driver/volume').read_text().strip()}"},
        {"after": "sha256:" + "0" * 64, "suspects": [suspect, str(Digest.of(LAYERS[0]))]},
        {"after": "sha512:" + "f" * 128, "suspects": []},
    ]
    state.write_text("\n".join(map(json.dumps, lines)) + '\n{"after": "sha256:0')

    assert run("--root", root, "--state", state, "--format", "json") == 1

    *findings, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [finding["digest"] for finding in findings] == [suspect]
    assert (last["summary"]["hashed"], last["summary"]["hashed_after"]) == (True, None)


def test_what_lies_before_the_beginning_is_not_said_to_be_hashed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, DATA, b"rot")
    after = f"sha512:{'0' * 128}"

    assert run("--root", root, "--after", after, "--format", "json") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert (summary["hashed"], summary["hashed_after"]) == (False, after)

    assert run("--root", root, "--after", after) == 0
    assert f"in all, of which those behind {after} are hashed\n" in capsys.readouterr().out


def started(root: Path, *arguments: str | Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "alauda_registry", "fsck", "--root", root, *arguments]
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def large(root: Path) -> None:
    """Leave a blob that takes seconds to hash, with holes for bytes."""
    path = root / paths.blob_data(Digest.parse(f"sha256:{'f' * 64}"))[1:]
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(64 * 2**30)


def hashing(root: Path, *arguments: str | Path) -> "tuple[subprocess.Popen[str], list[int]]":
    """Start a check, wait until all but the large blob is hashed, and return who hashes that."""
    process = started(root, "--jobs", "1", "--progress", *arguments)
    assert process.stderr is not None
    seen = ""
    while re.search(r"[1-9][MG]/68.7G", seen) is None:
        seen += process.stderr.read(1)
    return process, children_of(process.pid, b"fsck.hasher")


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def wait_until_gone(pids: list[int]) -> None:
    """Give the kernel the moment it takes; what they were told to do would take them longer."""
    wait_until(lambda: not any(map(is_alive, pids)), "their end", 20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(
    root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    large(root)
    state = tmp_path / "state"
    cases: list[tuple[list[str | Path], str]] = [
        ([], "--after sha256:"),
        (["--state", state], "the same command goes on there"),
    ]
    for arguments, advice in cases:
        process, hashers = hashing(root, *arguments)
        process.send_signal(number)
        out, err = process.communicate(timeout=50)

        assert process.returncode == 130
        assert "image-registry: stopped" in err
        assert advice in err
        assert "Traceback" not in err
        assert out == ""
        wait_until_gone(hashers)
    assert state.exists()


def test_progress_is_shown_only_where_somebody_looks(root: Path) -> None:
    silent = started(root)
    out, err = silent.communicate(timeout=60)
    assert (silent.returncode, err) == (0, "")
    assert "nothing is broken" in out

    shown = started(root, "--progress")
    _, err = shown.communicate(timeout=60)
    assert "hashing" in err

    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    command = [sys.executable, "-m", "alauda_registry", "fsck", "--root", str(root)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, check=True, timeout=60)
    seen = os.read(master, 100_000)
    os.close(slave)
    os.close(master)
    assert b"hashing" in seen


def test_a_reader_that_has_seen_enough_is_not_told_that_all_is_well(root: Path) -> None:
    process = started(root, "--format", "json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 3
    process.stderr.close()


def test_a_reader_that_goes_away_is_not_worked_for(root: Path) -> None:
    """There is a blob to be hashed yet that takes minutes."""
    large(root)
    for number in range(1000):
        write(root, f"{paths.ROOT}/stray-{number}", b"told before that")
    process = started(root, "--jobs", "1", "--age", "0s", "--format", "json")
    assert process.stdout is not None
    process.stdout.close()

    _, err = process.communicate(timeout=50)

    assert (process.returncode, err) == (3, "")


@pytest.mark.timeout(240)
def test_ctrl_c_does_not_wait_for_the_walk(root: Path) -> None:
    """It is in a folder with a million names, or on a slow network."""

    def stopped_walker(process: subprocess.Popen[str]) -> int | None:
        walkers: list[int] = []
        while not walkers and process.poll() is None:
            walkers = children_of(process.pid, b"fsck.walker")
        with suppress(ProcessLookupError, IndexError):
            os.kill(walkers[0], signal.SIGSTOP)
            wait_until(lambda: state_of(walkers[0]) in {"", "T", "Z"}, "its stop")
            if state_of(walkers[0]) == "T":
                return walkers[0]
        return None

    process = started(root)
    # This small tree may be done with before its walk could be stopped.
    while (walker := stopped_walker(process)) is None:
        process.communicate(timeout=50)
        process = started(root)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)

    assert (process.returncode, err) == (130, "image-registry: stopped\n")
    wait_until(lambda: not is_alive(walker), "its end")


@pytest.mark.parametrize(
    ("closed", "code", "told"), [(">&-", 3, "the standard output is closed"), ("2>&-", 0, "")]
)
def test_what_is_closed_from_the_start_is_not_written_to(
    root: Path, closed: str, code: int, told: str
) -> None:
    command = [sys.executable, "-m", "alauda_registry", "fsck", "--root", root]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *map(str, command)]

    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("keeping", [False, True])
def test_a_pipe_in_place_of_the_name_of_the_volume_is_not_waited_for(
    root: Path, tmp_path: Path, keeping: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "_driver/volume").unlink()
    os.mkfifo(root / "_driver/volume")

    arguments: list[str | Path] = ["--state", tmp_path / "state"] if keeping else []
    assert run("--root", root, *arguments) == 3

    assert "no file: look what is in its place: '/_driver/volume'" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["docker", paths.REPOSITORIES[1:], f"{paths.ROOT[1:]}/blobs"])
def test_a_tree_that_is_led_elsewhere_is_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (root / folder).rename(tmp_path / "elsewhere")
    (root / folder).symlink_to(tmp_path / "elsewhere")

    assert run("--root", root, "--repair") == 3

    assert f"{folder} is a symbolic link, and none is followed" in capsys.readouterr().err


def test_help_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "image-registry fsck --root ./data" in out
    assert "exit codes" in out


def test_a_check_says_so_when_a_process_that_hashes_is_killed(root: Path) -> None:
    large(root)
    process, hashers = hashing(root)
    for hasher in hashers:
        os.kill(hasher, signal.SIGKILL)
    out, err = process.communicate(timeout=50)

    assert process.returncode == 3
    assert "cannot go on: directory: hashing was cut short" in err
    assert out == ""
    wait_until_gone(hashers)


def test_no_process_outlives_a_check_that_is_killed(root: Path) -> None:
    large(root)
    process, hashers = hashing(root)
    process.kill()
    process.communicate(timeout=50)

    wait_until(lambda: not any(is_alive(pid) for pid in hashers), "the end of all")


def test_nothing_that_is_mounted_below_the_root_is_hashed(root: Path, tmp_path: Path) -> None:
    """The registry does not serve it either: its bytes are right, and it is somebody else's."""
    if not can_mount():
        assert not (is_ci() and os.geteuid() == 0)
        pytest.skip("only root can mount something")
    folder, elsewhere = (root / DATA[1:]).parent, tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    mounting = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    mounting += ['mount --bind "$0" "$1" && shift && exec "$@"', str(elsewhere), str(folder)]
    command = [sys.executable, "-m", "alauda_registry", "fsck", "--root", str(root)]

    done = subprocess.run(
        [*mounting, *command, "--format", "json"], capture_output=True, timeout=60, check=False
    )

    *findings, _ = map(json.loads, done.stdout.splitlines())
    assert {(finding["kind"], finding["path"]) for finding in findings} >= {("unreadable", DATA)}
    assert done.returncode == 1
