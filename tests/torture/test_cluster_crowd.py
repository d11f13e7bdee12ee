"""A thousand service accounts pull at once, and kube-apiserver hardly notices."""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.integration.cluster_people import (
    CONFIG_DIGEST,
    DIGEST,
    PULLER,
    PUSHER,
    Account,
    connect,
    push,
    reviews,
)
from tests.integration.guarded import basic
from tests.parts import cluster_registry
from tests.parts.control_plane import ControlPlane
from tests.parts.processes import wait_until
from tests.parts.registry import Server

PATHS = ("manifests/1", f"manifests/{DIGEST}", f"blobs/{CONFIG_DIGEST}")


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_accounts_that_pull_at_once_cost_a_pair_of_reviews_each(
    is_long: bool,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    cluster_registry.apply_cluster_roles(control_plane)
    pusher = Account(control_plane, namespace).bind(PUSHER, namespace)
    control_plane.bind(PULLER, namespace, group=f"system:serviceaccounts:{namespace}")
    accounts = [Account(control_plane, namespace) for _ in range(1000 if is_long else 100)]
    wait_until(lambda: accounts[-1].may_pull(namespace), "the role")
    with cluster_registry.running(control_plane, tmp_path) as server:
        with connect(server) as client:
            push(client, pusher, f"{namespace}/app")
        before = reviews(control_plane)

        # In short so few that a pull takes less than two seconds, and no more reviews are fine.
        at_once = len(accounts) if is_long else 8
        lasted = asyncio.run(_pull_as_all(server, f"{namespace}/app", accounts, at_once))

        tokens, accesses = reviews(control_plane)
    tokens, accesses = tokens - before[0], accesses - before[1]
    tell(
        f"{len(accounts)} accounts, {len(accounts) * len(PATHS)} requests: {tokens} TokenReviews, "
        f"{accesses} SubjectAccessReviews; the slowest took {max(lasted):.1f} s"
    )
    # One each, and one more for every two seconds that the pull of one of them took.
    most = sum(1 + int(seconds // 2) for seconds in lasted)
    assert len(accounts) <= tokens <= most
    assert len(accounts) <= accesses <= most


async def _pull_as_all(
    server: Server, repository: str, accounts: list[Account], most: int
) -> list[float]:
    """Pull an image as everybody, so many at once; how long each took in seconds."""
    assert server.tls is not None
    context = ssl.create_default_context(cafile=server.tls.authority)
    # httpx looks through all its connections for each request.
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    async with aiohttp.ClientSession(connector=connector) as client:
        places = asyncio.Semaphore(most)

        async def pull(account: Account) -> float:
            async with places:
                shown = basic("x", account.token)
                began = time.monotonic()
                for path in PATHS:
                    url = f"{server.url}/v2/{repository}/{path}"
                    async with client.get(url, headers=shown) as answer:
                        answer.raise_for_status()
                        await answer.read()
                return time.monotonic() - began

        return await asyncio.gather(*map(pull, accounts))
