"""Who has set which fields, and what it costs to note it."""

from typing import Any

import pytest
from typing_extensions import override

from alauda_imageapi.kinds import schemas
from alauda_imageapi.machinery.managed_fields import MOST_SENT, Manager, note_update
from tests.unit.imageapi.apis import stream

VERSION = "image.alauda.io/v1"
NOW = "2026-01-02T03:04:05Z"
ME = Manager("me", "Update", VERSION)


class Name(str):
    """The name of a manager, which counts how often any is compared."""

    __slots__ = ()
    compared = 0

    @override
    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def entry(manager: str, field: str = "f:a", operation: str = "Update") -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": operation,
        "apiVersion": VERSION,
        "fieldsType": "FieldsV1",
        "fieldsV1": {field: {}},
    }


def owned(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a stream with these entries."""
    made = stream(lookupPolicy={"local": False})
    made["metadata"]["managedFields"] = entries
    return made


@pytest.mark.parametrize("count", [MOST_SENT, MOST_SENT + 1])
def test_more_entries_than_anybody_has_read_are_not_taken(count: int) -> None:
    old = owned([entry("they")])
    sent = owned([entry(f"m{number}", operation="Apply") for number in range(count)])

    noted = note_update(schemas.IMAGE_STREAM, old, sent, ME, NOW)

    names = [found["manager"] for found in noted]
    assert (names == ["they"]) == (count > MOST_SENT)
    assert len(names) == (1 if count > MOST_SENT else count)


def test_entries_of_one_manager_become_one() -> None:
    sent = owned([entry("they", f"f:{number}") for number in range(MOST_SENT)])

    noted = note_update(schemas.IMAGE_STREAM, owned([]), sent, ME, NOW)

    (found,) = noted
    assert found["manager"] == "they"
    assert len(found["fieldsV1"]) == MOST_SENT


def test_the_oldest_updates_are_joined_without_being_compared() -> None:
    count = 1000
    old = owned([entry(Name(f"m{number}"), f"f:{number}") for number in range(count)])
    Name.compared = 0

    noted = note_update(schemas.IMAGE_STREAM, old, old, ME, NOW)

    assert len(noted) == 10
    assert max(len(found["fieldsV1"]) for found in noted) == count - 9
    assert Name.compared < 10 * count
