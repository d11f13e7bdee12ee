"""All kinds of the group, in the order in which discovery has them."""

from dataclasses import dataclass

from alauda_imageapi.kinds.content import Content
from alauda_imageapi.kinds.images import Images
from alauda_imageapi.kinds.imagesignatures import ImageSignatures
from alauda_imageapi.kinds.imagestreamimages import ImageStreamImages
from alauda_imageapi.kinds.imagestreammappings import ImageStreamMappings
from alauda_imageapi.kinds.imagestreams import ImageStreams
from alauda_imageapi.kinds.imagestreamtags import ImageStreamTags
from alauda_imageapi.kinds.imagetags import ImageTags
from alauda_imageapi.kinds.names import GROUP
from alauda_imageapi.machinery.resources import Resource
from alauda_imageapi.machinery.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Kinds:
    """The resources of the group."""

    images: Images
    streams: ImageStreams
    resources: tuple[Resource, ...]


def build_kinds(store: ObjectStore, *, registry: str, content: Content | None = None) -> Kinds:
    """Make the resources of the group.

    Args:
        store: Keeps their objects.
        registry: Where the registry is: HOST:PORT.
        content: Keeps what tags point to.
    """
    images = Images(GROUP, store)
    streams = ImageStreams(GROUP, store, images, registry, content)
    resources: tuple[Resource, ...] = (
        images,
        ImageSignatures(GROUP, images),
        ImageStreamImages(GROUP, streams),
        ImageStreamMappings(GROUP, streams, content),
        streams,
        ImageStreamTags(GROUP, streams, content),
        ImageTags(GROUP, streams, content),
    )
    return Kinds(images, streams, resources)
