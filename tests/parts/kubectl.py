"""Runs kubectl with nobody's configuration."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.processes import inherited
from tests.parts.tools import find


def another() -> Path:
    """Return the machine's own kubectl, which is of another version; the pinned one without it."""
    found = shutil.which("kubectl")
    return Path(found) if found else find("kubectl")


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl that talks to one server.

    Args:
        program: Where it is.
        server: The server's URL.
        home: A folder for its caches.
        kubeconfig: Who it is there; nobody in particular without.
    """

    program: Path
    server: str
    home: Path
    kubeconfig: Path | None = None

    def run(
        self, *arguments: str, given: object = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever comes of it; it reads what is given: an object, or a list."""
        return subprocess.run(
            self.command(*arguments),
            input=_documents(given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment() | variables,
        )

    def __call__(self, *arguments: str, given: object = None, **variables: str) -> str:
        """Run a command that has to succeed, and return what it prints."""
        done = self.run(*arguments, given=given, **variables)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return what ``get -o json`` prints."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def fails(self, *arguments: str, given: object = None) -> str:
        """Run a command that has to fail, and return its complaint."""
        done = self.run(*arguments, given=given)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def command(self, *arguments: str) -> list[str]:
        """Return a command line."""
        return [str(self.program), f"--server={self.server}", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables it runs with."""
        kubeconfig = self.kubeconfig or self.home / "none"
        return inherited(HOME=str(self.home), KUBECONFIG=str(kubeconfig))


def _documents(given: object) -> str | None:
    """Return an object as JSON, or a list of them as the documents of a YAML file.

    Not as a ``List``: only a kube-apiserver knows it, and can tell kubectl that it is valid.
    """
    if isinstance(given, list):
        # JSON is YAML.
        return "".join(f"---\n{json.dumps(found)}\n" for found in given)
    return None if given is None else json.dumps(given)
