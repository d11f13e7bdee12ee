"""Runs clients in threads of their own, holds them all still, and lets them go on."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.torture.talking import NotSent

_AGAIN_SECONDS = 0.02


class Crowd:
    """Some threads, each of which takes its step again and again.

    Args:
        steps: One for each thread. A step that finds no server is taken again.
    """

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._changed = threading.Condition()
        self._is_held = True
        self._is_over = False
        self._still = 0
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(step,)) for step in steps]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the threads for the length of a block; they wait to be released."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
            for thread in self._threads:
                thread.join()
        self._raise_failures()

    def release(self) -> None:
        """Let them go on."""
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def hold(self) -> None:
        """Let nobody take another step; steps under way go on."""
        with self._changed:
            self._is_held = True

    def wait_until_still(self) -> None:
        """Wait until every step has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._still == len(self._threads) or self._failures)
        self._raise_failures()

    def _raise_failures(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _run(self, step: Callable[[], None]) -> None:
        try:
            while self._may_go_on():
                try:
                    step()
                except NotSent:
                    time.sleep(_AGAIN_SECONDS)
        except BaseException as error:  # noqa: BLE001 -- raised again by whoever waits
            with self._changed:
                self._failures.append(error)
                self._changed.notify_all()

    def _may_go_on(self) -> bool:
        with self._changed:
            self._still += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_over or not self._is_held)
            self._still -= 1
            return not self._is_over
