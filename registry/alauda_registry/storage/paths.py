"""Every path in storage, spelled once.

The tree is distribution's (its ``registry/storage/paths.go``), so that a volume can be handed
over in both directions. What distribution does not know lies in folders that begin with
an underscore, where it never looks::

    /docker/registry/v2
    ├── blobs/<algorithm>/<2 hex>/<hex>/data                 layers, configs and manifests
    ├── repositories/<name>
    │   ├── _layers/<algorithm>/<hex>/link                   the repository may serve this blob
    │   ├── _manifests
    │   │   ├── revisions/<algorithm>/<hex>/link             the repository has this manifest
    │   │   └── tags/<tag>
    │   │       ├── current/link                             what the tag points to
    │   │       └── index/<algorithm>/<hex>/link             what it pointed to before
    │   ├── _referrers                                       ours: who points at a subject
    │   │   ├── scanned                                      what the revisions looked like then
    │   │   ├── seen                                         which of them the index covers
    │   │   └── by-subject/<algorithm>/<hex>/<entry>         a whole descriptor
    │   └── _uploads/<id>
    │       ├── data                                         the bytes so far
    │       ├── startedat
    │       └── digests                                      ours: digests of the bytes so far
    └── _registry
        └── secret                                           ours: signs upload locations

A ``link`` holds a digest, without a newline. Beside ``/docker`` lie ``/_fsck``, where the check
puts what it takes out of the tree, and ``/_driver``, which belongs to the driver.
"""

from alauda_registry.oci.digest import Digest
from alauda_registry.oci.reference import RepositoryName, Tag

ROOT = "/docker/registry/v2"
REPOSITORIES = f"{ROOT}/repositories"
SECRET = f"{ROOT}/_registry/secret"
QUARANTINE = "/_fsck/quarantine"
"""A folder for each run of ``fsck --repair``, with what it took out of the tree, paths kept."""


def blob_data(digest: Digest) -> str:
    """Return where the bytes of a blob or manifest lie."""
    return f"{ROOT}/blobs/{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}/data"


def repository(name: str) -> str:
    """Return the folder of a repository, or of a prefix of repository names."""
    return f"{REPOSITORIES}/{name}"


def blob_link(name: RepositoryName, digest: Digest) -> str:
    """Return the link that lets a repository serve a blob."""
    return f"{REPOSITORIES}/{name}/_layers/{digest.algorithm}/{digest.encoded}/link"


def layers(name: RepositoryName) -> str:
    """Return the folder of all links to blobs of a repository."""
    return f"{REPOSITORIES}/{name}/_layers"


def manifests(name: str) -> str:
    """Return the folder whose existence makes a name a repository."""
    return f"{REPOSITORIES}/{name}/_manifests"


def revisions(name: RepositoryName) -> str:
    """Return the folder of all manifests of a repository."""
    return f"{REPOSITORIES}/{name}/_manifests/revisions"


def revision(name: RepositoryName, digest: Digest) -> str:
    """Return the folder of one manifest of a repository."""
    return f"{REPOSITORIES}/{name}/_manifests/revisions/{digest.algorithm}/{digest.encoded}"


def revision_link(name: RepositoryName, digest: Digest) -> str:
    """Return the link that says that a repository has a manifest."""
    return f"{revision(name, digest)}/link"


def tags(name: RepositoryName) -> str:
    """Return the folder of all tags of a repository."""
    return f"{REPOSITORIES}/{name}/_manifests/tags"


def tag(name: RepositoryName, tag: Tag) -> str:
    """Return the folder of one tag."""
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}"


def tag_current(name: RepositoryName, tag: Tag) -> str:
    """Return the link that says what a tag points to."""
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/current/link"


def tag_history(name: RepositoryName, tag: Tag, digest: Digest) -> str:
    """Return the link that says that a tag once pointed to a digest."""
    return (
        f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/index"
        f"/{digest.algorithm}/{digest.encoded}/link"
    )


def referrers_scanned(name: RepositoryName) -> str:
    """Return the file that says which revisions the referrers index covers."""
    return f"{REPOSITORIES}/{name}/_referrers/scanned"


def referrers_seen(name: RepositoryName) -> str:
    """Return the file that lists revisions which the referrers index covers."""
    return f"{REPOSITORIES}/{name}/_referrers/seen"


def referrers_index(name: str) -> str:
    """Return the folder of all entries of the referrers index."""
    return f"{REPOSITORIES}/{name}/_referrers/by-subject"


def referrers(name: RepositoryName, subject: Digest) -> str:
    """Return the folder of the referrers of one subject."""
    return f"{REPOSITORIES}/{name}/_referrers/by-subject/{subject.algorithm}/{subject.encoded}"


def uploads(name: str) -> str:
    """Return the folder of all upload sessions of a repository."""
    return f"{REPOSITORIES}/{name}/_uploads"


def upload(name: str, upload_id: str) -> str:
    """Return the folder of one upload session."""
    return f"{REPOSITORIES}/{name}/_uploads/{upload_id}"


def upload_data(name: str, upload_id: str) -> str:
    """Return where the bytes of an upload session lie."""
    return f"{upload(name, upload_id)}/data"


def upload_started_at(name: str, upload_id: str) -> str:
    """Return the file that says when an upload session began."""
    return f"{upload(name, upload_id)}/startedat"


def upload_digests(name: str, upload_id: str) -> str:
    """Return the file that keeps the digests of an upload session's bytes so far."""
    return f"{upload(name, upload_id)}/digests"
