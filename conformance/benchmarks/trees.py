"""Storage trees with very many names, written straight to the disk.

Pushing a hundred thousand tags would take minutes. The layout is distribution's, so
both registries read the same tree: ``docker/registry/v2/repositories/<name>/…``.
"""

import os
from pathlib import Path

from conformance.benchmarks.content import Blob

_BASE = Path("docker/registry/v2")


def build_tags(root: Path, repository: str, manifest: Blob, count: int) -> list[str]:
    """Give a repository a manifest and that many tags of it; tell the tags in order."""
    digest = manifest.digest.partition(":")[2]
    home = root / _BASE / "repositories" / repository
    (home / "_layers").mkdir(parents=True)
    revision = home / "_manifests/revisions/sha256" / digest
    data = root / _BASE / "blobs/sha256" / digest[:2] / digest
    for folder in (revision, data):
        folder.mkdir(parents=True, exist_ok=True)
    (revision / "link").write_text(manifest.digest)
    (data / "data").write_bytes(manifest.content.read())
    tags = [f"v{number // 1000:03d}.{number % 1000:03d}" for number in range(count)]
    place = f"{home}/_manifests/tags"
    os.mkdir(place)
    link = manifest.digest.encode()
    for tag in tags:
        os.mkdir(f"{place}/{tag}")
        os.mkdir(f"{place}/{tag}/current")
        _write(f"{place}/{tag}/current/link", link)
    return tags


def build_repositories(root: Path, count: int) -> list[str]:
    """Make that many empty repositories, a hundred to a team; tell their names in order."""
    names = [f"team-{number // 100:04d}/app-{number % 100:02d}" for number in range(count)]
    place = f"{root / _BASE}/repositories"
    os.makedirs(place)
    for number, name in enumerate(names):
        if number % 100 == 0:
            os.mkdir(f"{place}/{name.partition('/')[0]}")
        os.mkdir(f"{place}/{name}")
        os.mkdir(f"{place}/{name}/_manifests")
        os.mkdir(f"{place}/{name}/_layers")
    return names


def build_tagged_repositories(root: Path, manifest: Blob, count: int) -> None:
    """Make that many repositories with a tag each, a hundred to a team, of a blob that is there."""
    digest = manifest.digest.partition(":")[2]
    for number in range(count):
        name = f"team-{number // 100:04d}/app-{number % 100:02d}"
        home = root / _BASE / "repositories" / name / "_manifests"
        for folder in (f"revisions/sha256/{digest}", "tags/latest/current"):
            (home / folder).mkdir(parents=True)
            (home / folder / "link").write_text(manifest.digest)


def _write(path: str, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(file, content)
    os.close(file)
