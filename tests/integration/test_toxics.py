"""Each toxic does to requests and answers what its name says, and the proxy counts right."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from conformance.s3proxy import proxy
from conformance.s3proxy.proxy import Proxy, Toxic
from tests.parts import s3, toxics
from tests.parts.tools import require

pytestmark = pytest.mark.integration

CONTENT = bytes(range(256)) * 400

BROKEN_OFF = (ConnectionClosedError, ResponseStreamingError, ConnectionError)


@pytest.fixture
def direct(start_s3: Callable[[s3.Kind], s3.S3Server]) -> Iterator[s3.Bucket]:
    """A bucket, with no proxy before it."""
    require("versitygw")
    bucket = start_s3("versitygw").create_bucket()
    bucket.write("there", CONTENT)
    yield bucket
    bucket.remove()


@pytest.fixture
def spoiled(direct: s3.Bucket) -> Iterator[Proxy]:
    with proxy.before(direct.server.address) as running:
        yield running


@pytest.fixture
def through(direct: s3.Bucket, spoiled: Proxy) -> s3.Bucket:
    """The same bucket through the proxy, by a client that never tries again."""
    client = direct.server.client(spoiled.endpoint)
    return s3.Bucket(direct.name, direct.server, client)


def test_without_a_toxic_everything_passes_and_is_counted(
    through: s3.Bucket, spoiled: Proxy
) -> None:
    through.write("big", CONTENT * 100)
    assert through.read("big") == CONTENT * 100
    assert through.keys() == ["big", "there"]
    through.abort(through.start_upload("left"))
    through.delete("big")

    assert spoiled.counts() == {
        "PutObject": 1,
        "GetObject": 1,
        "ListObjectsV2": 1,
        "CreateMultipartUpload": 1,
        "AbortMultipartUpload": 1,
        "DeleteObjects": 1,
    }
    assert {seen.status for seen in spoiled.seen} == {200, 204}


def test_a_rule_takes_only_its_operation_its_key_and_its_turn(
    through: s3.Bucket, spoiled: Proxy
) -> None:
    rule = spoiled.add(toxics.Refusal(403, "AccessDenied"), "GetObject", key="^b", skip=1, times=1)
    for key in ("a", "b"):
        through.write(key, b"content")

    outcomes = [refusal_of(partial(through.read, key)) for key in ("a", "b", "b", "b", "a")]

    assert outcomes == ["", "", "AccessDenied", "", ""]
    assert rule.hits == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (500, "InternalError"), (403, "RequestTimeTooSkewed")],
)
def test_a_refusal_comes_with_its_code_and_the_server_hears_nothing(
    direct: s3.Bucket, through: s3.Bucket, spoiled: Proxy, status: int, code: str
) -> None:
    spoiled.add(toxics.Refusal(status, code))

    assert refusal_of(lambda: through.write("new", CONTENT)) == code
    assert spoiled.seen[0].status == status
    assert direct.keys() == ["there"]


def test_a_refusal_may_come_after_the_effect(
    direct: s3.Bucket, through: s3.Bucket, spoiled: Proxy
) -> None:
    spoiled.add(toxics.Refusal(500, "InternalError", after_effect=True))

    assert refusal_of(lambda: through.write("new", CONTENT)) == "InternalError"
    assert direct.read("new") == CONTENT


def test_an_answer_is_lost_after_the_effect(
    direct: s3.Bucket, through: s3.Bucket, spoiled: Proxy
) -> None:
    spoiled.add(toxics.Lost(), "PutObject")

    with pytest.raises(BROKEN_OFF):
        through.write("new", CONTENT)

    assert direct.read("new") == CONTENT


@pytest.mark.parametrize("toxic", [toxics.Reset(), toxics.CutRequest(1000)], ids=repr)
def test_a_request_breaks_off_before_it_is_whole(
    direct: s3.Bucket, through: s3.Bucket, spoiled: Proxy, toxic: Toxic
) -> None:
    spoiled.add(toxic, "PutObject")

    with pytest.raises(BROKEN_OFF):
        through.write("new", CONTENT)

    assert direct.keys() == ["there"]


@pytest.mark.parametrize("toxic", [toxics.CutAnswer(1000), toxics.CutAnswer(1000, resets=True)])
def test_an_answer_ends_in_the_middle(through: s3.Bucket, spoiled: Proxy, toxic: Toxic) -> None:
    spoiled.add(toxic, "GetObject")

    with pytest.raises((IncompleteReadError, *BROKEN_OFF)):
        through.read("there")


def test_the_bytes_of_an_answer_are_others(through: s3.Bucket, spoiled: Proxy) -> None:
    spoiled.add(toxics.GarbledBody(), "GetObject")
    # Or botocore would compare checksums: the garbage has to reach us.
    answer = through.client.get_object(Bucket=through.name, Key="there", Range="bytes=0-99")

    assert answer["Body"].read() == bytes(255 - byte for byte in CONTENT[:100])


def test_what_comes_is_no_answer_at_all(through: s3.Bucket, spoiled: Proxy) -> None:
    spoiled.add(toxics.GarbledHead())

    with pytest.raises((BotoCoreError, ConnectionError)):
        through.read("there")


def test_the_entity_tag_is_another(through: s3.Bucket, spoiled: Proxy) -> None:
    spoiled.add(toxics.WrongETag(), "HeadObject")

    answer = through.client.head_object(Bucket=through.name, Key="there")

    assert answer["ETag"] == f'"{"0" * 32}"'
    assert answer["ContentLength"] == len(CONTENT)


@pytest.mark.parametrize(
    ("toxic", "least"), [(toxics.Latency(0.3), 0.3), (toxics.Bandwidth(len(CONTENT) * 3), 0.25)]
)
def test_an_answer_takes_its_time(
    through: s3.Bucket, spoiled: Proxy, toxic: Toxic, least: float
) -> None:
    spoiled.add(toxic, "GetObject")
    began = time.monotonic()

    assert through.read("there") == CONTENT
    assert time.monotonic() - began > least


def test_nobody_answers(direct: s3.Bucket, spoiled: Proxy) -> None:
    spoiled.add(toxics.Silence())
    client: Any = s3.make_client(spoiled.endpoint, read_timeout=0.3)

    with pytest.raises(ReadTimeoutError):
        client.get_object(Bucket=direct.name, Key="there")


def test_the_server_is_away_and_comes_back(through: s3.Bucket, spoiled: Proxy) -> None:
    assert through.read("there") == CONTENT
    with spoiled.away(), pytest.raises((EndpointConnectionError, *BROKEN_OFF)):
        through.read("there")

    assert through.read("there") == CONTENT


def refusal_of(ask: Callable[[], object]) -> str:
    """Return the code of the error that comes back; empty where none does."""
    try:
        ask()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""
