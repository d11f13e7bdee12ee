"""Ten thousand images in a cluster, before anything is measured."""

import asyncio
import base64
import json
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from alauda_imageapi.cluster.records import encoding
from alauda_imageapi.cluster.records.encoding import KINDS
from alauda_imageapi.machinery.store import Key
from alauda_registry.kube.apiserver import ApiServerClient
from alauda_registry.kube.resources import GroupVersionResource
from alauda_registry.kube.rest import ApiServerResources
from conformance.benchmarks.image_objects import make_image
from tests.parts.control_plane import ControlPlane

_AT_ONCE = 4


def fill(plane: ControlPlane, account: Path, of: GroupVersionResource, count: int) -> None:
    """Write images into the records of the image API, and the same as objects of another kind.

    The first of each through kube-apiserver, and the others into etcd, as it has written that one:
    twenty thousand requests that make something would take most of a run.

    Args:
        plane: Where.
        account: The kubeconfig of the image API's account.
        of: What the others are called.
        count: How many.
    """
    kind, first = KINDS["images"], make_image(0)
    asyncio.run(_create(first, of, account, plane.admin))
    with (
        httpx.Client(base_url=plane.etcd, timeout=30) as etcd,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        ours = Kept.read(etcd, kind.of, kind.name(first["metadata"]["name"]))
        theirs = Kept.read(etcd, of, _custom_name(first))

        def write(number: int) -> None:
            image = make_image(number)
            name = image["metadata"]["name"]
            ours.write(kind.name(name), _record(image))
            theirs.write(_custom_name(image), image)

        for _ in pool.map(write, range(1, count)):
            pass


@dataclass(frozen=True, slots=True)
class Kept:
    """Objects of one kind, as kube-apiserver keeps them in etcd.

    Attributes:
        etcd: Asked over its JSON gateway.
        folder: What their keys begin with.
        example: One of them.
    """

    etcd: httpx.Client
    folder: str
    example: dict[str, Any]

    @classmethod
    def read(cls, etcd: httpx.Client, of: GroupVersionResource, name: str) -> "Kept":
        """Read the example, which is of no namespace.

        Raises:
            httpx.HTTPError: etcd does not answer.
            KeyError: It is not there.
        """
        folder = f"/registry/{of.group}/{of.resource}/"
        answer = etcd.post("/v3/kv/range", json={"key": _base64(folder + name)})
        (found,) = answer.raise_for_status().json()["kvs"]
        return cls(etcd, folder, json.loads(base64.b64decode(found["value"])))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write another one, with whatever kube-apiserver adds.

        Raises:
            httpx.HTTPError: etcd does not take it.
        """
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, self.folder + name))
        metadata = {**self.example["metadata"], "name": name, "uid": uid}
        # Its group and version are those of the example.
        version = self.example["apiVersion"]
        made = {**self.example, **content, "apiVersion": version, "metadata": metadata}
        key, value = _base64(self.folder + name), _base64(json.dumps(made, separators=(",", ":")))
        self.etcd.post("/v3/kv/put", json={"key": key, "value": value}).raise_for_status()


async def _create(
    image: dict[str, Any], of: GroupVersionResource, account: Path, administrator: Path
) -> None:
    async with ApiServerClient(account) as ours, ApiServerClient(administrator) as theirs:
        await ApiServerResources(ours).create(KINDS["images"].of, _record(image))
        version = f"{of.group}/{of.version}"
        made = {**image, "apiVersion": version, "metadata": {"name": _custom_name(image)}}
        await ApiServerResources(theirs).create(of, made)


def _record(image: dict[str, Any]) -> dict[str, Any]:
    payload = encoding.pack(encoding.text(image))
    key = Key("images", "", image["metadata"]["name"])
    return encoding.write(KINDS["images"], key, image, payload)


def _custom_name(image: dict[str, Any]) -> str:
    name: str = image["metadata"]["name"]
    return name.replace(":", "-")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
