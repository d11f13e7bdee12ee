"""Amounts of storage, as people write them into Kubernetes' objects."""

import pytest

from alauda_registry.server.configuration.sizes import parse_amount, parse_size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        (1024, 1024),
        ("1500", 1500),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1.5Gi", 3 << 29),
        ("10G", 10**10),
        ("2Ti", 2 << 40),
        ("1Pi", 1 << 50),
    ],
)
def test_sizes_are_those_of_kubernetes(text: object, count: int) -> None:
    assert parse_size(text).of(7) == count
    assert parse_amount(text).of(7) == count


@pytest.mark.parametrize(("text", "count"), [("5%", 50), ("0.5%", 5), ("99.9%", 999), ("0%", 0)])
def test_a_percentage_is_a_part_of_the_whole(text: str, count: int) -> None:
    assert parse_amount(text).of(1000) == count


@pytest.mark.parametrize("text", ["5%", "1Gi", "1048576"])
def test_an_amount_is_shown_as_it_was_written(text: str) -> None:
    assert str(parse_amount(text)) == text
    assert parse_amount(parse_amount(text)) == parse_amount(text)


@pytest.mark.parametrize(
    "text", ["", "Gi", "-1", "1 Gi", "1GiB", "1K", "1ki", "1e9", "5 %", "%", True, None, [], "nan"]
)
def test_what_is_no_amount_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="such as 512Mi or 10Gi, or a percentage such as 5%"):
        parse_amount(text)


def test_all_of_it_is_no_part_of_it() -> None:
    with pytest.raises(ValueError, match="less than 100%"):
        parse_amount("100%")


def test_a_percentage_is_no_size() -> None:
    with pytest.raises(ValueError, match=r"such as 512Mi or 10Gi$"):
        parse_size("5%")
