"""What the kinds of ``image.alauda.io/v1`` look like (facts/image-api.md 2)."""

from alauda_imageapi.machinery import schema as types
from alauda_imageapi.machinery.metadata import OBJECT_META
from alauda_imageapi.machinery.openapi import LIST_META
from alauda_imageapi.machinery.schema import Schema

_GROUP = "io.alauda.image.v1"


def _object(kind: str, description: str, **properties: Schema) -> Schema:
    return types.struct(
        f"{_GROUP}.{kind}",
        description,
        apiVersion=types.text("The group and version of the object."),
        kind=types.text("The kind of the object."),
        metadata=OBJECT_META,
        **properties,
    )


IMAGE_LAYER = types.struct(
    f"{_GROUP}.ImageLayer",
    "ImageLayer is one layer of an image.",
    name=types.text("The layer's digest."),
    size=types.integer("Its size in bytes."),
    mediaType=types.text("Its media type."),
)
IMAGE_MANIFEST = types.struct(
    f"{_GROUP}.ImageManifest",
    "ImageManifest is one image of an index.",
    digest=types.text("The digest of its manifest, and so the name of its Image."),
    mediaType=types.text("Of the manifest."),
    manifestSize=types.integer("Of the manifest in bytes."),
    architecture=types.text("The processor it is for, such as amd64."),
    os=types.text("The system it is for, such as linux."),
    variant=types.text("The variant of the processor, if any."),
)
_CONDITION = types.struct(
    f"{_GROUP}.SignatureCondition",
    "SignatureCondition says what is known of a signature.",
    type=types.text("Trusted or ForImage."),
    status=types.text("True, False or Unknown."),
    lastProbeTime=types.time("When it was checked."),
    lastTransitionTime=types.time("When the status changed."),
    reason=types.text("Why, in one word."),
    message=types.text("Why, for people."),
)
_SIGNER = types.struct(
    f"{_GROUP}.SignatureSubject",
    "SignatureSubject says whom a certificate or a key was issued by or to.",
    organization=types.text("The organization."),
    commonName=types.text("The common name."),
    publicKeyID=types.text("The key's identity."),
)
IMAGE_SIGNATURE = _object(
    "ImageSignature",
    "ImageSignature holds a signature of an image.",
    type=types.text("Of the signature, such as AtomicImageV1."),
    content=types.text("The signature itself.", format="byte"),
    conditions=types.listed(_CONDITION, "What is known of it.", keys=("type",)),
    imageIdentity=types.text("What the signature says which image it is of."),
    signedClaims=types.texts("What else it says."),
    created=types.time("When it says it was made."),
    issuedBy=_SIGNER,
    issuedTo=_SIGNER,
)
IMAGE = _object(
    "Image",
    "Image is one manifest, known by its digest, and what is known of it.",
    dockerImageReference=types.text("Where it can be pulled from."),
    dockerImageMetadata=types.free("What its configuration says."),
    dockerImageMetadataVersion=types.text("The version of dockerImageMetadata: 1.0."),
    dockerImageManifest=types.text("The manifest itself, where no registry of ours has it."),
    dockerImageLayers=types.listed(IMAGE_LAYER, "Its layers, the lowest first."),
    signatures=types.listed(IMAGE_SIGNATURE, "Its signatures."),
    dockerImageSignatures=types.listed(
        types.text(format="byte"), "Signatures of manifests of the first generation."
    ),
    dockerImageManifestMediaType=types.text("The manifest's media type."),
    dockerImageConfig=types.text("The configuration itself, where no registry of ours has it."),
    dockerImageManifests=types.listed(IMAGE_MANIFEST, "The images of an index."),
)
_FROM = types.struct(
    "io.k8s.api.core.v1.ObjectReference",
    "ObjectReference says where a tag comes from.",
    apiVersion=types.text("Not used."),
    fieldPath=types.text("Not used."),
    kind=types.text("DockerImage, ImageStreamTag or ImageStreamImage."),
    name=types.text("A pull spec, or a tag or image of this or another stream."),
    namespace=types.text("That of the other stream."),
    resourceVersion=types.text("Not used."),
    uid=types.text("Not used."),
)
TAG_REFERENCE = types.struct(
    f"{_GROUP}.TagReference",
    "TagReference says where a tag comes from.",
    **{"from": _FROM},
    name=types.text("The tag."),
    annotations=types.texts("Shown with the tag and its image."),
    reference=types.boolean("The tag only points at its source; nothing is imported."),
    generation=types.integer("Grows when the source changes; write 0 to have it read again."),
    importPolicy=types.struct(
        f"{_GROUP}.TagImportPolicy",
        "TagImportPolicy says how a tag is imported.",
        insecure=types.boolean("Certificates are not checked, and plain HTTP is used if need be."),
        scheduled=types.boolean("It is imported again from time to time."),
        importMode=types.text("PreserveOriginal keeps an index, Legacy takes one image of it."),
    ),
    referencePolicy=types.struct(
        f"{_GROUP}.TagReferencePolicy",
        "TagReferencePolicy says how others refer to the image.",
        type=types.text("Source: where it comes from. Local: through this registry."),
    ),
)
TAG_EVENT = types.struct(
    f"{_GROUP}.TagEvent",
    "TagEvent says what a tag pointed to, and since when.",
    created=types.time("Since when."),
    dockerImageReference=types.text("Where the image can be pulled from."),
    image=types.text("The name of the Image."),
    generation=types.integer("Of the tag or stream that led to it."),
)
TAG_CONDITION = types.struct(
    f"{_GROUP}.TagEventCondition",
    "TagEventCondition says why a tag is not what it should be.",
    type=types.text("ImportSuccess."),
    status=types.text("True, False or Unknown."),
    lastTransitionTime=types.time("Since when."),
    reason=types.text("Why, in one word."),
    message=types.text("Why, for people."),
    generation=types.integer("Of the tag that it is about."),
)
NAMED_TAG_EVENTS = types.struct(
    f"{_GROUP}.NamedTagEventList",
    "NamedTagEventList is the history of a tag.",
    tag=types.text("The tag."),
    items=types.listed(TAG_EVENT, "What it pointed to, the latest first."),
    conditions=types.listed(TAG_CONDITION, "What went wrong, if anything did."),
)
LOOKUP_POLICY = types.struct(
    f"{_GROUP}.ImageLookupPolicy",
    "ImageLookupPolicy says how pods may refer to a stream.",
    local=types.boolean("By its name alone."),
)
IMAGE_STREAM = _object(
    "ImageStream",
    "ImageStream holds the tags of a repository, what they should be and what they were.",
    spec=types.struct(
        f"{_GROUP}.ImageStreamSpec",
        "ImageStreamSpec says what tags there should be.",
        lookupPolicy=LOOKUP_POLICY,
        dockerImageRepository=types.text("A repository that all tags come from. Use tags."),
        tags=types.listed(TAG_REFERENCE, "Where tags come from.", keys=("name",)),
    ),
    status=types.struct(
        f"{_GROUP}.ImageStreamStatus",
        "ImageStreamStatus says what tags there are.",
        dockerImageRepository=types.text("Where the registry has the repository."),
        publicDockerImageRepository=types.text("Where others reach it."),
        tags=types.listed(NAMED_TAG_EVENTS, "What each tag points to.", keys=("tag",)),
    ),
)
IMAGE_STREAM_TAG = _object(
    "ImageStreamTag",
    "ImageStreamTag is one tag of a stream with the image it points to.",
    tag=TAG_REFERENCE,
    generation=types.integer("Of what led to the image."),
    lookupPolicy=LOOKUP_POLICY,
    conditions=types.listed(TAG_CONDITION, "What went wrong, if anything did."),
    image=IMAGE,
)
IMAGE_TAG = _object(
    "ImageTag",
    "ImageTag is one tag of a stream: what it should be, what it was, and its image.",
    spec=TAG_REFERENCE,
    status=NAMED_TAG_EVENTS,
    image=IMAGE,
)
IMAGE_STREAM_IMAGE = _object(
    "ImageStreamImage",
    "ImageStreamImage is an image that a stream has, or had.",
    image=IMAGE,
)
IMAGE_STREAM_MAPPING = _object(
    "ImageStreamMapping",
    "ImageStreamMapping lets a tag point to an image, both of which it makes.",
    image=IMAGE,
    tag=types.text("The tag."),
)
_LAYER_DATA = types.struct(
    f"{_GROUP}.ImageLayerData",
    "ImageLayerData describes a blob.",
    size=types.integer("Its size in bytes, where that is known."),
    mediaType=types.text("Its media type."),
)
_BLOB_REFERENCES = types.struct(
    f"{_GROUP}.ImageBlobReferences",
    "ImageBlobReferences says which blobs an image consists of.",
    layers=types.listed(types.text(), "Its layers, the lowest first."),
    config=types.text("Its configuration."),
    manifests=types.listed(types.text(), "The images of an index."),
    imageMissing=types.boolean("There is no such Image any more."),
)
IMAGE_STREAM_LAYERS = _object(
    "ImageStreamLayers",
    "ImageStreamLayers says which blobs belong to a stream.",
    blobs=Schema(type="object", values=_LAYER_DATA, description="By digest."),
    images=Schema(type="object", values=_BLOB_REFERENCES, description="By digest."),
)
SECRET_LIST = types.struct(
    f"{_GROUP}.SecretList",
    "SecretList is the secrets that images of a namespace are pulled with.",
    apiVersion=types.text("The group and version of the list."),
    kind=types.text("SecretList."),
    metadata=LIST_META,
    items=types.listed(types.free("A Secret, as it is in v1."), "By kind of secret, and name."),
)
REGISTRY = _object("Registry", "Registry is a name for roles; there are no objects of it.")
