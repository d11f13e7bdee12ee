"""Finds the real programs that the tests start, and installs the ones that are missing.

``pins.toml`` is the only list of them and of their versions. Debian packages are
installed with apt; Go programs are built into the user's cache, which outlives the
checkout, under a name that carries the version: a new pin never meets an old program.
"""

import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("pins.toml")

# Where Debian puts daemons and where Go is unpacked to, which an ordinary PATH leaves out.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin"

# An older one fetches the version that a program asks for from the module proxy by itself.
GO = "Go 1.21 or newer"


class MissingPart(Exception):
    """A real program is not on this machine; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program that is built from the Go module proxy."""

    name: str
    package: str
    version: str

    @property
    def path(self) -> Path:
        """Where the built program is."""
        return cache() / f"{self.name}-{self.version}" / self.name


@dataclass(frozen=True, slots=True)
class Pins:
    """What ``pins.toml`` says."""

    debian: dict[str, list[str]]
    go: dict[str, GoProgram]


def pins() -> Pins:
    """Read ``pins.toml``."""
    content = tomllib.loads(PINS.read_text())
    programs = {
        name: GoProgram(name, pin["package"], pin["version"]) for name, pin in content["go"].items()
    }
    return Pins(debian=content["debian"], go=programs)


def cache() -> Path:
    """Return the folder that holds what was built."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "alauda-image-registry" / "tools"


def is_ci() -> bool:
    """Whether a missing program is a failure rather than a reason to skip."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def find(command: str) -> Path:
    """Return the path of a program.

    Raises:
        MissingPart: It is not on this machine.
    """
    listed = pins()
    if command in listed.go:
        program = listed.go[command]
        if program.path.exists():
            return program.path
        raise MissingPart(f"{command} {program.version} is not built: run `make tools`{_no_go()}")
    path = _on_this_machine(command)
    if path is not None:
        return Path(path)
    for package, commands in listed.debian.items():
        if command in commands:
            raise MissingPart(f"{command} is missing: install the Debian package {package}")
    raise MissingPart(f"{command} is missing, and tests/parts/pins.toml does not know it")


def require(*commands: str) -> None:
    """Skip the test that needs a program which is not here, but fail under ``CI=true``.

    Raises:
        MissingPart: A program is not on this machine, where every one has to be.
    """
    try:
        for command in commands:
            find(command)
    except MissingPart as missing:
        if is_ci():
            raise
        pytest.skip(str(missing))


def install(say: Callable[[str], None]) -> list[str]:
    """Install every missing program.

    Args:
        say: Takes one line about each thing that is done.

    Returns:
        One sentence for each thing that is still missing.
    """
    listed = pins()
    missing = _install_debian_packages(listed, say)
    if all(program.path.exists() for program in listed.go.values()):
        return missing
    go = _on_this_machine("go")
    if go is None:
        names = ", ".join(name for name, program in listed.go.items() if not program.path.exists())
        return [*missing, f"{names}: go is missing, install {GO}"]
    for program in listed.go.values():
        if not program.path.exists():
            missing += _build(program, go, say)
    return missing


def _install_debian_packages(listed: Pins, say: Callable[[str], None]) -> list[str]:
    packages = [
        package
        for package, commands in listed.debian.items()
        if not all(_on_this_machine(command) for command in commands)
    ]
    if not packages:
        return []
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return [f"Debian packages are missing, and only root can install them: {names}"]
    say(f"installing Debian packages: {names}")
    # A package must not start its daemon: the tests start their own, in their own folders.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install_packages = ["install", "--yes", "--quiet", "--no-install-recommends", *packages]
    for arguments in (["update", "--quiet"], install_packages):
        done = subprocess.run(
            ["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return [f"apt-get {arguments[0]} failed for {names}:\n{done.stdout}{done.stderr}"]
    return []


def _build(program: GoProgram, go: str, say: Callable[[str], None]) -> list[str]:
    say(f"building {program.name} {program.version} from {program.package}")
    folder = program.path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and then renamed: whoever looks there finds all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=f".{program.name}-", dir=folder.parent) as scratch:
        built = Path(scratch, "bin")
        environment = os.environ | {
            "GOBIN": str(built),
            "GOFLAGS": "-trimpath",
            "GOTOOLCHAIN": "auto",
            "CGO_ENABLED": "0",
        }
        command = [go, "install", "-ldflags=-s -w", f"{program.package}@{program.version}"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=scratch
        )
        if done.returncode != 0:
            return [f"{program.name}: go install failed:\n{done.stdout}{done.stderr}"]
        next(built.iterdir()).rename(built / program.name)
        try:
            built.rename(folder)
        except OSError:
            # Somebody else built the same version meanwhile, which is as good.
            if not program.path.exists():
                raise
    return []


def _on_this_machine(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def _no_go() -> str:
    return "" if _on_this_machine("go") else f" (which needs {GO}, missing here)"
