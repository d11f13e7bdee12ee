"""Checks of a tree with very many blobs, against the tools that anybody would take for it."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from conformance.benchmarks.bench import Bench
from conformance.benchmarks.results import Row, Section
from conformance.benchmarks.samples import Samples

BLOB = 16 * 1024
LAYERS = 100
IMAGES = 10
"""In each repository."""

METHOD = (
    "Seconds for one command over a tree in the kernel's cache: images of 100 blobs of 16 KiB, ten "
    "images to a repository. `fsck` reads every link and every manifest and compares them. The "
    "other column is not distribution, which has nothing like it, but over the same tree "
    "`find -type f -printf '%s %p'`, and `find -type f -print0 | xargs -0 sha256sum`. "
    "A ratio of 0.33 is three times the time of `find`."
)


def run(bench: Bench) -> Section:
    """Measure seconds."""
    count = 10_000 if bench.quick else 100_000
    with bench.root() as root:
        build(root, count)
        fsck = [sys.executable, "-m", "alauda_registry", "fsck", "--root", str(root)]
        find = ["find", str(root), "-type", "f"]
        hashing = ["sh", "-c", f"find '{root}' -type f -print0 | xargs -0 sha256sum"]
        pairs = {
            "without hashing, against find": ([*fsck, "--no-hash"], [*find, "-printf", "%s %p\n"]),
            "with hashing, against sha256sum": (fsck, hashing),
        }
        _seconds(hashing)
        rows = []
        for (what, (ours, other)), target in zip(pairs.items(), (1 / 3, 1.5), strict=True):
            values: dict[str, list[float]] = {"ours": [], "other": []}
            for number in range(bench.rounds):
                turns = [("ours", ours), ("other", other)]
                for name, command in turns if number % 2 == 0 else reversed(turns):
                    values[name].append(_seconds(command))
            rows.append(
                Row(
                    what=f"check of {count:,} blobs of 16 KiB {what}",
                    unit="s",
                    target=round(target, 3),
                    higher_is_better=False,
                    ours=Samples.of(values["ours"]),
                    peer=Samples.of(values["other"]),
                )
            )
    return Section("Checks", METHOD, rows)


def build(root: Path, count: int) -> None:
    """Write images with that many layers in all, none of them shared."""
    base = f"{root}/docker/registry/v2"
    filling = os.urandom(BLOB - 8)
    for first in range(0, count, LAYERS):
        image = first // LAYERS
        place = f"{base}/repositories/team-{image // IMAGES % 10}/app-{image // IMAGES}"
        digests = []
        for number in range(first, first + LAYERS):
            digests.append(_put_blob(base, number.to_bytes(8, "big") + filling))
            _link(f"{place}/_layers", digests[-1])
        described = [
            {"mediaType": "application/octet-stream", "digest": f"sha256:{digest}", "size": BLOB}
            for digest in digests
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described[0],
            "layers": described[1:],
        }
        digest = _put_blob(base, json.dumps(manifest).encode())
        _link(f"{place}/_manifests/revisions", digest)
        _write(f"{place}/_manifests/tags/v{image % IMAGES}/current/link", f"sha256:{digest}")


def _put_blob(base: str, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    _write(f"{base}/blobs/sha256/{digest[:2]}/{digest}/data", content)
    return digest


def _link(folder: str, digest: str) -> None:
    _write(f"{folder}/sha256/{digest}/link", f"sha256:{digest}")


def _write(path: str, content: str | bytes) -> None:
    os.makedirs(path.rpartition("/")[0], exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
