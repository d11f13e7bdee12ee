"""What can be said of a bucket, and what is wrong with it."""

import pytest

from alauda_registry.server.configuration.bucket_settings import S3
from alauda_registry.server.configuration.sources import load_settings
from alauda_registry.serving.starting import CannotStart

BASIC = {"REGISTRY_STORAGE_S3_BUCKET": "images", "REGISTRY_STORAGE_S3_REGION": "eu-west-1"}


def load(**variables: str) -> S3:
    found = load_settings(
        environ={**BASIC, **{f"REGISTRY_STORAGE_S3_{key}": text for key, text in variables.items()}}
    )
    assert found.warnings == []
    assert found.settings.storage.s3 is not None
    return found.settings.storage.s3


def test_what_the_operator_of_openshift_sets_is_understood() -> None:
    found = load(
        REGIONENDPOINT="https://s3.example",
        ENCRYPT="true",
        KEYID="key",
        CHUNKSIZE="10485760",
        FORCEPATHSTYLE="true",
        CREDENTIALSCONFIGPATH="/var/run/secrets/cloud/credentials",
        USEDUALSTACK="true",
    )

    assert (found.endpoint, found.path_style, found.chunk_size) == (
        "https://s3.example",
        True,
        10 * 2**20,
    )


def test_the_other_name_of_distributions_driver_is_understood() -> None:
    environ = {"REGISTRY_STORAGE_S3AWS_BUCKET": "images", "REGISTRY_STORAGE_S3AWS_REGION": "x"}

    storage = load_settings(environ=environ).settings.storage

    assert (storage.driver, storage.where) == ("s3", "s3://images")


@pytest.mark.parametrize(
    ("endpoint", "secure", "expected"),
    [
        ("s3.example:9000", "true", "https://s3.example:9000"),
        ("s3.example:9000", "false", "http://s3.example:9000"),
        ("http://s3.example", "true", "http://s3.example"),
    ],
)
def test_an_endpoint_may_lack_its_scheme(endpoint: str, secure: str, expected: str) -> None:
    assert load(REGIONENDPOINT=endpoint, SECURE=secure).endpoint == expected


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"V4AUTH": "false"}, "v4auth"),
        ({"ACCESSKEY": "a"}, "accesskey and secretkey belong together"),
        ({"ACCESSKEYFILE": "/a"}, "accesskeyfile and secretkeyfile belong together"),
        (
            {"ACCESSKEY": "a", "SECRETKEY": "b", "ACCESSKEYFILE": "/a", "SECRETKEYFILE": "/b"},
            "keep one of them",
        ),
        ({"SESSIONTOKEN": "t"}, "sessiontoken needs"),
        ({"FORCEPATHSTYLE": "true", "VIRTUALHOSTEDSTYLE": "true"}, "contradict"),
        ({"REGIONENDPOINT": "ftp://x"}, "regionendpoint must be a URL"),
        ({"REDIRECTENDPOINT": "https://"}, "redirectendpoint must be a URL"),
        ({"BUCKET": "s3://images"}, "the name of a bucket alone"),
        ({"ROOTDIRECTORY": "a/../b"}, "must be a path"),
        ({"CHUNKSIZE": "1048576"}, "at least 5242880"),
        ({"CHUNKSIZE": "5121Mi"}, "at most 5368709120"),
    ],
    ids=str,
)
def test_what_can_not_be_meant_is_refused(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(CannotStart, match=complaint):
        load(**variables)


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({"KEYID": "k"}, "REGISTRY_STORAGE_S3_KEYID: storage.s3.keyid: it has no effect without"),
        (
            {"KEYID": "k", "ENCRYPT": "false"},
            "REGISTRY_STORAGE_S3_KEYID: storage.s3.keyid: it has no effect without",
        ),
        (
            {"CHUNKSIZE": str(5120 * 2**20)},
            "REGISTRY_STORAGE_S3_CHUNKSIZE: storage.s3.chunksize: the first parts of an upload",
        ),
    ],
    ids=str,
)
def test_what_operators_set_all_the_same_is_a_warning(
    variables: dict[str, str], warning: str
) -> None:
    environ = {f"REGISTRY_STORAGE_S3_{key}": text for key, text in variables.items()}

    found = load_settings(environ=BASIC | environ)

    assert [text[: len(warning)] for text in found.warnings] == [warning]
    assert found.settings.storage.s3 is not None
    assert found.settings.storage.s3.part_size <= 512 * 2**20


def test_a_complaint_names_the_variables_that_it_is_about() -> None:
    with pytest.raises(CannotStart) as caught:
        load(ACCESSKEY="a", SECRETKEY="b", FORCEPATHSTYLE="true", VIRTUALHOSTEDSTYLE="true")

    names = str(caught.value).partition(": ")[0]
    assert set(names.split(", ")) == {
        "REGISTRY_STORAGE_S3_FORCEPATHSTYLE",
        "REGISTRY_STORAGE_S3_VIRTUALHOSTEDSTYLE",
    }


def test_aws_needs_a_region_and_others_do_not() -> None:
    with pytest.raises(CannotStart, match="region is missing"):
        load(REGION="")

    assert load(REGION="", REGIONENDPOINT="https://s3.example").region is None


def test_keys_are_shown_nowhere() -> None:
    found = load(ACCESSKEY="an-access-key", SECRETKEY="a-secret-key")
    with pytest.raises(CannotStart) as caught:
        load(ACCESSKEY="an-access-key", SECRETKEY="[a-secret-key]")

    for text in (repr(found), str(found.model_dump_json(by_alias=True)), str(caught.value)):
        assert "an-access-key" not in text
        assert "a-secret-key" not in text


@pytest.mark.parametrize("root", ["", "/", "registry", "/registry/images/"])
def test_the_root_has_no_slashes_at_its_ends(root: str) -> None:
    assert load(ROOTDIRECTORY=root).root_directory == root.strip("/")
