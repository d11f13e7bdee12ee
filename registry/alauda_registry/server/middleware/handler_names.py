"""The name of the endpoint a path leads to, as distribution's metrics have it.

Every request is named, also one that never reaches a handler, so this looks at the path alone.
"""

_NOUNS = {"manifests": "manifest", "blobs": "blob", "referrers": "referrers"}


def classify(path: str) -> str:
    """Name the endpoint of a path, as distribution names its handlers."""
    # The last noun decides, since repository names may contain any of them.
    parent, _, last = path.rpartition("/")
    noun = parent[parent.rfind("/") + 1 :]
    handler = _NOUNS.get(noun, "other")
    if handler == "other" or (handler == "blob" and last == "uploads"):
        return _classify_rare(path, parent, noun, last)
    return handler


def _classify_rare(path: str, parent: str, noun: str, last: str) -> str:
    if noun == "uploads" and parent.endswith("/blobs/uploads"):
        return "blob_upload_chunk" if last else "blob_upload"
    if noun == "blobs" and last == "uploads":
        return "blob_upload"
    if noun == "tags" and last == "list":
        return "tags"
    if noun == "v2" and last in ("", "_catalog"):
        return "catalog" if last else "base"
    return "other"
