"""What is counted, and how processes add it up.

Counting must cost next to nothing: each request adds to plain integers of this process, once. Every
second, and when this process is asked for its metrics, it writes its sums down where the other
workers can read them, and whoever is asked adds up what all have written. So a number of another
worker is at most a second old. A worker that takes the place of a dead one goes on from its sums.
"""

import asyncio
import json
import logging
import os

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from alauda_registry.server.metrics.families import Families
from alauda_registry.server.metrics.shared_records import SharedRecords
from alauda_registry.server.metrics.sums import Requests, Storage, Sums
from alauda_registry.storage.driver import Capacity

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0

_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Counts for this process, and shows the sum of all of them.

    Args:
        driver: The name of the storage driver, a label of distribution's metrics.
        shared: The sums of all workers; None for the only one.
        index: Which of them are ours.
        workers: How many there are.
    """

    def __init__(
        self,
        driver: str = "filesystem",
        shared: SharedRecords | None = None,
        index: int = 0,
        workers: int = 1,
    ) -> None:
        self.in_flight = 0
        self._driver = driver
        self._shared = shared
        self._index = index
        self._workers = workers
        self._is_shown = True
        self._sums = Sums()
        if shared is not None and (record := shared.read(index)):
            self._sums.merge(json.loads(record), is_alive=False)
        self._latest = self._sums.dump()

    def observe_request(
        self, handler: str, method: str, status: int, seconds: float, received: int, sent: int
    ) -> None:
        """Count a request that has been answered."""
        requests = self._sums.requests.get((handler, method, status))
        if requests is None:
            method = method if method in _METHODS else "OTHER"
            requests = self._sums.requests.setdefault((handler, method, status), Requests())
        requests.add(seconds, received, sent)

    def observe_storage(self, operation: str, seconds: float, error_code: str | None) -> None:
        """Count a call of the storage driver.

        Args:
            operation: Such as ``StorageDriver.Stat``.
            seconds: How long it took.
            error_code: ``PATH_NOT_FOUND``, ``READ_ONLY_FILESYSTEM``, … or None.
        """
        storage = self._sums.storage.get(operation)
        if storage is None:
            storage = self._sums.storage[operation] = Storage()
        storage.seconds.add(seconds)
        if error_code is not None:
            storage.errors[error_code] = storage.errors.get(error_code, 0) + 1

    def observe_queue(self, kind: str, running: int, waiting: int) -> None:
        """Note how many requests of a kind (read, write) run and wait in this process."""
        self._sums.queues[kind] = (running, waiting)

    def observe_rejected(self, kind: str) -> None:
        """Count a request that was answered with 429."""
        self._sums.rejected[kind] = self._sums.rejected.get(kind, 0) + 1

    async def flush_regularly(self, interval: float = FLUSH_SECONDS) -> None:
        """Write the sums down until cancelled; the last ones as well."""
        try:
            while True:
                await asyncio.sleep(interval)
                self.flush()
        finally:
            self.flush()

    def flush(self) -> None:
        """Write down what has been counted until now."""
        self._sums.in_flight = self.in_flight
        self._latest = self._sums.dump(pid=os.getpid())
        if self._shared is None:
            return
        try:
            self._shared.write(self._index, self._latest)
        except OSError as error:
            if self._is_shown:
                logger.warning("other workers cannot see the counts of this one: %s", error)
            self._is_shown = False
        else:
            self._is_shown = True

    def render(self, capacity: Capacity | None = None) -> bytes:
        """The sum over all processes, as Prometheus reads it; `flush` first.

        Args:
            capacity: Of the storage, which all processes share: it is not added up.
        """
        sums = Sums()
        sums.merge(json.loads(self._latest), is_alive=True)
        registry = CollectorRegistry()
        if self._shared is None:
            ProcessCollector(registry=registry)
        else:
            for index in range(self._workers):
                if index != self._index and (content := self._shared.read(index)):
                    record = json.loads(content)
                    sums.merge(record, is_alive=_is_alive(record["pid"]))
        registry.register(Families(sums, self._driver, capacity))
        return generate_latest(registry)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
