"""Finds the real programs that the tests start, and installs the ones that are missing.

``pins.toml`` is the only list of them and of their versions. Debian packages are
installed with apt; Go programs are built into the user's cache, which outlives the
checkout, under a name that carries the version: a new pin never meets an old program.
"""

import itertools
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts.go_builds import BuildFailed, GoProgram, build

PINS = Path(__file__).with_name("pins.toml")

# Where Debian puts daemons and where Go is unpacked to, which an ordinary PATH leaves out.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin"

# An older one fetches the version that a program asks for from the module proxy by itself.
GO = "Go 1.21 or newer"


class MissingPart(Exception):
    """A real program is not on this machine; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Pins:
    """What ``pins.toml`` says."""

    debian: dict[str, list[str]]
    go: dict[str, GoProgram]


def pins() -> Pins:
    """Read ``pins.toml``."""
    content = tomllib.loads(PINS.read_text())
    programs = {
        name: GoProgram(name, pin["package"], pin["version"], cache() / f"{name}-{pin['version']}")
        for name, pin in content["go"].items()
    }
    for name, pin in content["go-staging"].items():
        module, version = pin["module"], pin["version"]
        folder = cache() / f"{name}-{version}"
        for command in pin["commands"]:
            package = f"{module}/cmd/{command}"
            programs[command] = GoProgram(command, package, version, folder, module)
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
    for folder, programs in itertools.groupby(listed.go.values(), lambda program: program.folder):
        wanted = [program for program in programs if not program.path.exists()]
        if wanted:
            names = ", ".join(program.name for program in wanted)
            say(f"building {names} {wanted[0].version}")
            try:
                build(wanted, go)
            except BuildFailed as failed:
                missing.append(f"{folder.name}: {failed}")
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


def _on_this_machine(command: str) -> str | None:
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def _no_go() -> str:
    return "" if _on_this_machine("go") else f" (which needs {GO}, missing here)"
