"""Runs a real client the way a person at a terminal does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parts.processes import run

SECONDS = 100.0


@dataclass(frozen=True, slots=True)
class Client:
    """A program with the arguments and the environment that every call of it has."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]

    def __call__(self, *arguments: str | Path, seconds: float = SECONDS) -> str:
        """Run it and return its standard output.

        Raises:
            PartFailed: It failed.
        """
        command = [*self.command, *arguments]
        return run(command, environment=self.environment, seconds=seconds).stdout

    def said(self, *arguments: str | Path, seconds: float = SECONDS) -> str:
        """Run it and return everything it printed, the log on standard error included.

        Raises:
            PartFailed: It failed.
        """
        command = [*self.command, *arguments]
        done = run(command, environment=self.environment, seconds=seconds)
        return done.stdout + done.stderr

    def fails(self, *arguments: str | Path, seconds: float = SECONDS) -> str:
        """Run it, expect a failure and return everything it printed."""
        command = [*self.command, *arguments]
        done = run(command, environment=self.environment, seconds=seconds, check=False)
        assert done.returncode != 0, f"this should have failed: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr
