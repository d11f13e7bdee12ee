"""Signals that end a server: when one is the same as the last, and how long the end may take.

Imported by the parent of several workers, too, so there is nothing of the application here.
"""

import logging
import os
import threading

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 0.5
"""A signal that comes again within this was sent once, to the process and to its group."""

GRACE_SECONDS = 5.0
"""Beyond what running requests may take to finish, until the process is ended by force."""


def end_within(seconds: float) -> None:
    """Let this process end by itself until then; end it by force if it has not.

    A thread that waits for a disk which hangs cannot be stopped, and Python does not end before
    its threads have. So the clock is kept by a thread that nobody waits for.
    """
    timer = threading.Timer(seconds, _end_by_force, [seconds])
    timer.name = "end"
    timer.daemon = True
    timer.start()


def _end_by_force(seconds: float) -> None:
    logger.error("not stopped after %.0f s, as storage hangs perhaps; ending by force", seconds)
    os._exit(1)
