"""What makes a signature acceptable (facts/image-api.md 2.9)."""

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from alauda_imageapi.machinery import errors
from alauda_imageapi.machinery.errors import Cause
from alauda_imageapi.machinery.objects import Object

_CLAIMS = ("imageIdentity", "signedClaims", "issuedBy", "issuedTo")


def split_name(name: str) -> tuple[str, str] | None:
    """Return image and signature that a name is made of; None if it is not."""
    image, at, signature = name.partition("@")
    return (image, signature) if image and at and signature and "@" not in signature else None


def check_signature(signature: Object, path: str) -> Iterable[Cause]:
    """Yield what breaks the rules.

    Args:
        signature: The ImageSignature.
        path: Of the field it is in, or empty.
    """
    prefix = f"{path}." if path else ""
    metadata = signature.get("metadata") or {}
    if split_name(metadata.get("name", "")) is None:
        detail = "must be <image name>@<signature name>"
        yield errors.invalid(f"{prefix}metadata.name", metadata.get("name", ""), detail)
    for name in ("labels", "annotations"):
        if metadata.get(name):
            yield errors.forbidden(f"{prefix}metadata.{name}", "signatures have none")
    if not signature.get("type"):
        yield errors.required(f"{prefix}type")
    content = signature.get("content", "")
    if not content:
        yield errors.required(f"{prefix}content")
    elif not is_base64(content):
        yield errors.invalid(f"{prefix}content", "", "is not base64")
    yield from _check_conditions(signature, prefix)


def _check_conditions(signature: Object, prefix: str) -> Iterable[Cause]:
    conditions = {
        condition.get("type", ""): condition.get("status", "")
        for condition in signature.get("conditions") or []
    }
    if ("Trusted" in conditions) != ("ForImage" in conditions):
        detail = "Trusted and ForImage must be given together"
        yield errors.invalid(f"{prefix}conditions", "", detail)
    if conditions.get("Trusted", "Unknown") == "Unknown":
        for name in _CLAIMS:
            if signature.get(name):
                detail = "must be unset as long as the signature is not verified"
                yield errors.invalid(f"{prefix}{name}", "", detail)


def is_base64(text: Any) -> bool:
    """Tell whether Go reads this as bytes."""
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
