"""Image objects as real images have them: the configuration of a program on a usual base.

No two are alike where real ones differ: digests, times and commands are each image's own, which is
also what does not compress.
"""

import hashlib
import json
import uuid
from typing import Any

from alauda_imageapi.kinds.images import prepare_image

LAYERS = 12
STEPS = 30
_NOW = "2026-01-01T00:00:00Z"
_SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"


def make_image(number: int) -> dict[str, Any]:
    """Return an Image as the image API keeps it, about 17 KiB of JSON."""
    config = json.dumps(_config(number))
    layers = [
        {
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": 1_000_003 * (layer + 1) + number,
            "digest": _digest(number, "layer", layer),
        }
        for layer in range(LAYERS)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _SCHEMA2,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": len(config),
            "digest": f"sha256:{hashlib.sha256(config.encode()).hexdigest()}",
        },
        "layers": layers,
    }
    text = json.dumps(manifest)
    name = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    image: dict[str, Any] = {
        "kind": "Image",
        "apiVersion": "image.alauda.io/v1",
        "metadata": {
            "name": name,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
            "creationTimestamp": _NOW,
            "generation": 1,
        },
        "dockerImageReference": f"registry.example:5000/team-{number % 50}/app-{number}@{name}",
        "dockerImageManifestMediaType": _SCHEMA2,
        "dockerImageManifest": text,
        "dockerImageConfig": config,
    }
    prepare_image(image, _NOW)
    return image


def _config(number: int) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": f"2026-01-01T{number % 24:02}:{number % 60:02}:00.{number:09}Z",
        "author": "The team that builds it <team@example.com>",
        "config": {
            "User": "1001",
            "ExposedPorts": {"8080/tcp": {}, "8443/tcp": {}},
            "Env": [
                "PATH=/opt/app/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                *(
                    f"APP_SETTING_{index}={_digest(number, 'env', index)[7:39]}"
                    for index in range(16)
                ),
            ],
            "Entrypoint": ["/usr/bin/container-entrypoint"],
            "Cmd": ["/opt/app/bin/server", "--listen=:8080"],
            "WorkingDir": "/opt/app",
            "Labels": {
                f"org.example.image.label-{index}": _digest(number, "label", index)[7:31]
                for index in range(14)
            },
        },
        "history": [
            {
                "created": f"2026-01-01T00:{step:02}:00.{number:09}Z",
                "created_by": f"RUN |2 VERSION=1.2.3 REVISION={_digest(number, step)[7:47]} "
                f"/bin/sh -c install --step {step} # buildkit",
                "comment": "buildkit.dockerfile.v0",
                **({"empty_layer": True} if step >= LAYERS else {}),
            }
            for step in range(STEPS)
        ],
        "rootfs": {
            "type": "layers",
            "diff_ids": [_digest(number, "diff", layer) for layer in range(LAYERS)],
        },
    }


def _digest(*parts: object) -> str:
    return f"sha256:{hashlib.sha256(repr(parts).encode()).hexdigest()}"
