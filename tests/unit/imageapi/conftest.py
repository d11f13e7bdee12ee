from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.imageapi.apis import Api, open_records, open_sqlite, opened


@pytest.fixture(params=[open_sqlite, open_records], ids=["sqlite", "records"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    """The same API over each of the stores."""
    async with opened(tmp_path, open_store=request.param) as found:
        yield found
