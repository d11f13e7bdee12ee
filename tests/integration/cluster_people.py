"""Service accounts with their tokens and roles, and what they push to a registry of a cluster."""

import hashlib
import json
import ssl
import uuid
from pathlib import Path

import httpx

from tests.parts.control_plane import ControlPlane
from tests.parts.registry import Server

GROUP = "image.alauda.io"
PULLER, PUSHER = "system:image-puller", "system:image-pusher"
CONFIG = b"{}"
CONFIG_DIGEST = "sha256:" + hashlib.sha256(CONFIG).hexdigest()
MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": CONFIG_DIGEST,
            "size": len(CONFIG),
        },
        "layers": [],
    }
).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()


def connect(server: Server, certificate: Path | None = None) -> httpx.Client:
    """A client that trusts the server, with a certificate of its own from a kubeconfig's folder."""
    assert server.tls is not None
    context = ssl.create_default_context(cafile=server.tls.authority)
    if certificate is not None:
        context.load_cert_chain(certificate.with_name("tls.crt"), certificate.with_name("tls.key"))
    return httpx.Client(base_url=server.url, verify=context, timeout=30)


class Account:
    """A service account with a token, and with the roles it is given."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        self.name = f"robot-{uuid.uuid4().hex[:12]}"
        plane.service_account(namespace, self.name)
        self.token = plane.token(namespace, self.name)

    @property
    def basic(self) -> httpx.BasicAuth:
        return httpx.BasicAuth("whoever", self.token)

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def bind(self, role: str, namespace: str | None) -> "Account":
        self.plane.bind(role, namespace, account=f"{self.namespace}:{self.name}")
        return self

    def may_pull(self, namespace: str) -> bool:
        """Whether the cluster has taken note; the registry is not asked."""
        return self.plane.allows(
            f"system:serviceaccount:{self.namespace}:{self.name}",
            groups=[f"system:serviceaccounts:{self.namespace}"],
            verb="get",
            group=GROUP,
            resource="imagestreams",
            subresource="layers",
            namespace=namespace,
        )


def push(client: httpx.Client, account: Account, repository: str) -> None:
    """Push a small image with the tag ``1``."""
    begun = client.post(f"/v2/{repository}/blobs/uploads/", auth=account.basic)
    assert begun.status_code == 202, begun.text
    location = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": CONFIG_DIGEST})
    client.put(location, content=CONFIG, auth=account.basic).raise_for_status()
    client.put(
        f"/v2/{repository}/manifests/1",
        content=MANIFEST,
        headers={"Content-Type": MEDIA_TYPE},
        auth=account.basic,
    ).raise_for_status()


def reviews(plane: ControlPlane) -> tuple[int, int]:
    """How many TokenReviews and SubjectAccessReviews kube-apiserver has answered so far."""
    return plane.requests("tokenreviews"), plane.requests("subjectaccessreviews")
