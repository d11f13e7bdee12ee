"""Which media types are manifests, and which layers may stay elsewhere."""

import pytest

from alauda_registry.oci import media_types


def test_manifests_may_be_pushed_as_exactly_these_types() -> None:
    assert {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    } == media_types.MANIFESTS


def test_no_type_is_both_an_image_and_an_index() -> None:
    assert media_types.IMAGES.isdisjoint(media_types.INDEXES)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_foreign_layers_need_not_be_distributed(media_type: str) -> None:
    assert media_types.is_non_distributable(media_type)


@pytest.mark.parametrize(
    "media_type",
    [media_types.OCI_LAYER_GZIP, media_types.DOCKER_LAYER_GZIP, media_types.OCI_EMPTY, ""],
)
def test_all_other_layers_have_to_be_distributed(media_type: str) -> None:
    assert not media_types.is_non_distributable(media_type)
