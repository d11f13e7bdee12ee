"""ImageSignature: added to and taken from an Image (facts/image-api.md 2.9 and 3.20)."""

from typing import ClassVar

from typing_extensions import override

from alauda_imageapi.kinds import schemas, signatures
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.machinery.errors import BadRequest
from alauda_imageapi.machinery.managed_fields import Manager
from alauda_imageapi.machinery.objects import Object
from alauda_imageapi.machinery.resources import (
    Context,
    DeleteOptions,
    Deletion,
    Group,
    Resource,
)
from alauda_imageapi.machinery.schema import Schema
from alauda_imageapi.machinery.store import Changed, Missing, ObjectTooLarge, Stored
from alauda_imageapi.machinery.stored import Attempts, require_size, too_large


class ImageSignatures(Resource):
    """``imagesignatures``; they are read as part of their Image."""

    name = "imagesignatures"
    singular = "imagesignature"
    kind = "ImageSignature"
    namespaced = False
    verbs = ("create", "delete")
    schema: ClassVar[Schema] = schemas.IMAGE_SIGNATURE

    def __init__(self, group: Group, images: Images) -> None:
        super().__init__(group)
        self._images = images

    @override
    async def create(self, context: Context, document: Object, manager: Manager) -> Object:
        name = document["metadata"].get("name", "")
        causes = list(signatures.check_signature(document, ""))
        if causes:
            raise self.invalid(name, causes)
        signature = {
            **document,
            "metadata": {
                "name": name,
                "uid": context.surroundings.make_uid(),
                "creationTimestamp": context.surroundings.timestamp(),
            },
        }
        async for _ in Attempts():
            stored, image = await self._require_image(context, name)
            known = image.get("signatures") or []
            if any(_is_same(found, signature) for found in known):
                raise self.already_exists(context, name)
            image["signatures"] = [*known, signature]
            require_size(image, stored.object())
            if await self._put(context, stored, image):
                return signature
        raise self.modified(context, name)

    @override
    async def delete(self, context: Context, name: str, options: DeleteOptions) -> Deletion:
        async for _ in Attempts():
            stored, image = await self._require_image(context, name)
            known = image.get("signatures") or []
            named = [found for found in known if found["metadata"].get("name") == name]
            if not named:
                raise self.not_found(context, name)
            metadata = named[0]["metadata"]
            self.check_preconditions(context, name, metadata, options)
            image["signatures"] = [found for found in known if found not in named]
            if not image["signatures"]:
                del image["signatures"]
            if await self._put(context, stored, image):
                return Deletion(metadata.get("uid", ""))
        raise self.modified(context, name)

    async def _require_image(self, context: Context, name: str) -> tuple[Stored, Object]:
        parts = signatures.split_name(name)
        if parts is None:
            raise BadRequest("imagesignature must be of the form <image name>@<signature name>")
        stored = await self._images.find(context, parts[0])
        if stored is None:
            raise self.not_found(context, parts[0])
        return stored, stored.object()

    async def _put(self, context: Context, stored: Stored, image: Object) -> bool:
        if context.dry_run:
            return True
        try:
            await self._images.store.update(stored.key, image, expected=stored.revision)
        except (Changed, Missing):
            return False
        except ObjectTooLarge as error:
            raise too_large(error) from error
        return True


def _is_same(one: Object, other: Object) -> bool:
    if one["metadata"].get("name") == other["metadata"].get("name"):
        return True
    return (one.get("type"), one.get("content")) == (other.get("type"), other.get("content"))
