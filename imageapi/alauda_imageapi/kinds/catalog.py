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
from alauda_imageapi.kinds.pull_secrets import ImageStreamsWithSecrets, PullSecrets
from alauda_imageapi.kinds.registry import RegistryAccess
from alauda_imageapi.machinery.resources import Resource
from alauda_imageapi.machinery.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Kinds:
    """The resources of the group."""

    images: Images
    streams: ImageStreams
    resources: tuple[Resource, ...]


def build_kinds(
    store: ObjectStore,
    *,
    registry: str,
    public_registry: str = "",
    content: Content | None = None,
    in_cluster: bool = False,
    secrets: PullSecrets | None = None,
) -> Kinds:
    """Make the resources of the group.

    Args:
        store: Keeps their objects.
        registry: Where the registry is: HOST:PORT.
        public_registry: Where others than pods reach it, if they do: HOST or HOST:PORT.
        content: Keeps what tags point to.
        in_cluster: There are roles, and a garbage collector that acts on owner references.
        secrets: Reads those that images are pulled with; None where there are none to read.
    """
    images = Images(GROUP, store, collects_garbage=in_cluster)
    if secrets is None:
        streams = ImageStreams(
            GROUP,
            store,
            images,
            registry,
            content,
            public_registry=public_registry,
            collects_garbage=in_cluster,
        )
    else:
        streams = ImageStreamsWithSecrets(
            secrets, store, images, registry, content, public_registry=public_registry
        )
    resources: tuple[Resource, ...] = (
        images,
        ImageSignatures(GROUP, images),
        ImageStreamImages(GROUP, streams),
        ImageStreamMappings(GROUP, streams, content),
        streams,
        ImageStreamTags(GROUP, streams, content),
        ImageTags(GROUP, streams, content),
        *((RegistryAccess(GROUP),) if in_cluster else ()),
    )
    return Kinds(images, streams, resources)
