"""JSON patches as large as they may be, and who else is served meanwhile."""

import asyncio
from typing import Any

import pytest

from alauda_imageapi.machinery import patches

pytestmark = pytest.mark.anyio

DEPTH = 19
LARGEST = [
    {"op": "add", "path": f"/metadata/annotations/a{number}", "value": "x"}
    for number in range(patches.MOST_OPERATIONS)
]
DEEPEST = [{"op": "test", "path": "/a" * DEPTH, "value": 1}] * patches.MOST_OPERATIONS


@pytest.mark.parametrize("patch", [LARGEST, DEEPEST], ids=["operations", "parts of paths"])
async def test_others_have_their_turn_while_a_large_patch_is_applied(patch: Any) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    document: Any = 1
    for _ in range(DEPTH):
        document = {"a": document}
    document["metadata"] = {"annotations": {}}
    others = asyncio.ensure_future(take_turns())

    patched = await patches.apply_json_patch(document, patch)

    others.cancel()
    assert turns > 50
    assert len(patched["metadata"]["annotations"]) in (0, patches.MOST_OPERATIONS)
    # Somebody else may be reading it.
    assert document["metadata"]["annotations"] == {}
