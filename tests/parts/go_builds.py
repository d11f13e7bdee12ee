"""Builds Go programs from the module proxy into the user's cache.

Most are one ``go install``. Kubernetes' are not: its module names its siblings by folders
beside it, which only its own repository has, so they are built in a module of ours that names
the same siblings by their published versions.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BuildFailed(Exception):
    """A Go program could not be built; the message is what Go said."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One program that is built from the Go module proxy.

    Args:
        name: The command.
        package: Its import path.
        version: Of its module.
        folder: Where the built program is kept.
        staging: Its module, if that has to be built with its siblings (``k8s.io/kubernetes``).
    """

    name: str
    package: str
    version: str
    folder: Path
    staging: str | None = None

    @property
    def path(self) -> Path:
        """Where the built program is."""
        return self.folder / self.name


def build(programs: Sequence[GoProgram], go: str) -> None:
    """Build programs of one module and version, and put them into their places.

    Args:
        programs: What is missing.
        go: The Go command.

    Raises:
        BuildFailed: Go could not.
    """
    folder = programs[0].folder
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and then renamed: whoever looks there finds all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder.parent) as scratch:
        built = Path(scratch, "bin")
        built.mkdir()
        if programs[0].staging is None:
            (program,) = programs
            _run(
                [go, "install", "-ldflags=-s -w", f"{program.package}@{program.version}"],
                Path(scratch),
                GOBIN=str(built),
            )
            next(built.iterdir()).rename(program.path)
            return
        _build_with_siblings(programs, programs[0].staging, go, Path(scratch), built)
        for program in programs:
            (built / program.name).rename(program.path)


def _build_with_siblings(
    programs: Sequence[GoProgram], module: str, go: str, scratch: Path, built: Path
) -> None:
    version = programs[0].version
    (scratch / "go.mod").write_text(module_file(_published(module, version, go, scratch), version))
    # Without a version of their own they say v0.0.0, and kubectl warns of the skew.
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version}"
    packages = [program.package for program in programs]
    _run([go, "build", "-mod=mod", f"-ldflags={flags}", "-o", f"{built}/", *packages], scratch)


def module_file(published: Mapping[str, Any], version: str) -> str:
    """Return a go.mod in which every sibling of a module is the one that was published with it.

    Args:
        published: The module's own go.mod, in the form of ``go help mod edit``.
        version: Of the module. Its siblings have the same with 0 for the major version.
    """
    siblings = [
        entry["Old"]["Path"] for entry in published["Replace"] if "Version" not in entry["New"]
    ]
    of_sibling = f"v0.{version.split('.', 1)[1]}"
    return "\n".join(
        [
            "module parts",
            f"go {published['Go']}",
            f"require {published['Module']['Path']} {version}",
            *(f"replace {sibling} => {sibling} {of_sibling}" for sibling in siblings),
            "",
        ]
    )


def _published(module: str, version: str, go: str, scratch: Path) -> Mapping[str, Any]:
    downloaded = json.loads(_run([go, "mod", "download", "-json", f"{module}@{version}"], scratch))
    published: Mapping[str, Any] = json.loads(
        _run([go, "mod", "edit", "-json", downloaded["GoMod"]], scratch)
    )
    return published


def _run(command: Sequence[str], directory: Path, **variables: str) -> str:
    environment = os.environ | {
        "GOFLAGS": "-trimpath",
        "GOTOOLCHAIN": "auto",
        "CGO_ENABLED": "0",
        **variables,
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=directory
    )
    if done.returncode != 0:
        raise BuildFailed(f"{' '.join(command[:2])} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
