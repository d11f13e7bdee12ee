"""The clients people use, pushing images of their own until they are told that it is done."""

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e import layouts
from tests.e2e.layouts import Layout
from tests.parts.processes import run
from tests.parts.tools import MissingPart, find, is_ci
from tests.torture.histories import HERE, Claim, History, Key, Thing
from tests.torture.linearizability import Kind

_TAGS = 4
_AGAIN_SECONDS = 0.1


def _skopeo(program: Path, source: Layout, target: str) -> list[str | Path]:
    # Compressing would make other bytes, and other digests, of the layers.
    flags = ["--preserve-digests", "--dest-tls-verify=false"]
    return [program, "copy", *flags, f"oci:{source.path}:1", f"docker://{target}"]


def _crane(program: Path, source: Layout, target: str) -> list[str | Path]:
    return [program, "push", source.path, target]


def _regctl(program: Path, source: Layout, target: str) -> list[str | Path]:
    plain = f"reg={target.partition('/')[0]},tls=disabled"
    return [program, "--host", plain, "image", "copy", f"ocidir://{source.path}:1", target]


_COMMANDS = {"skopeo": _skopeo, "crane": _crane, "regctl": _regctl}


def find_clients() -> dict[str, Path]:
    """Return the programs that are on this machine.

    Raises:
        MissingPart: One is not, where every one has to be.
    """
    found = {}
    for name in _COMMANDS:
        try:
            found[name] = find(name)
        except MissingPart:
            if is_ci():
                raise
    return found


@dataclass
class RealClient:
    """A person at a terminal who pushes one image after the other.

    Attributes:
        name: The program's name.
        program: Where it is.
        address: The registry.
        directory: For its images and its own files.
        history: Takes what was pushed.
        well_since: Says when the registry last came back; never while it is away.
        patience: How many seconds a push may take with all its attempts.
    """

    name: str
    program: Path
    address: str
    directory: Path
    history: History
    chance: random.Random
    well_since: Callable[[], float]
    patience: float = 90.0
    pushes: int = 0
    attempts: int = 0
    _environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir()
        (self.directory / "auth.json").write_text("{}")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
            "DOCKER_CONFIG": str(self.directory),
            "REGISTRY_AUTH_FILE": str(self.directory / "auth.json"),
            "XDG_RUNTIME_DIR": str(self.directory),
        }

    def push(self) -> None:
        """Push a new image, again and again until it is done."""
        source = self._make_image()
        repository, tag = f"real/{self.name}", f"v{self.pushes % _TAGS}"
        command = _COMMANDS[self.name](self.program, source, f"{self.address}/{repository}:{tag}")
        blobs = set(source.blobs()) - {source.digest}
        claims = [
            *(Claim(Key(Thing.BLOB, repository, digest), Kind.WRITE, HERE) for digest in blobs),
            Claim(Key(Thing.MANIFEST, repository, source.digest), Kind.WRITE, HERE),
            Claim(Key(Thing.TAG, repository, tag), Kind.WRITE, source.digest),
        ]
        self._push_until_done(command, claims)
        self.pushes += 1
        shutil.rmtree(source.path)

    def _push_until_done(self, command: Sequence[str | Path], claims: Sequence[Claim]) -> None:
        first_began = time.monotonic()
        while True:
            self.attempts += 1
            began = time.monotonic()
            done = run(command, environment=self._environment, check=False)
            ended = time.monotonic()
            request = f"{self.name} pushes"
            if done.returncode == 0:
                self.history.acknowledged(request, began, ended, claims)
                return
            self.history.attempted(request, began, ended, claims)
            if began > self.well_since() or ended > first_began + self.patience:
                self.history.surprised(f"{request} and fails: {done.stdout}{done.stderr}")
                return
            time.sleep(_AGAIN_SECONDS)

    def _make_image(self) -> Layout:
        path = self.directory / "image"
        if self.chance.random() < 0.7:
            return layouts.image(path)
        # Long enough on its way to be struck there.
        layer = self.directory / "layer.tar"
        layer.write_bytes(layouts.tarball(size=self.chance.randrange(2, 12) * 2**20))
        return layouts.image(path, layer=layer)
