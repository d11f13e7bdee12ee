"""A pipe, by which the kernel moves bytes from one socket to another (``splice(2)``).

Nothing here blocks, as long as the sockets do not.
"""

import contextlib
import fcntl
import os

_SIZE = 1024 * 1024


class Pipe:
    """Takes bytes from one socket, and gives them to another; has to be closed.

    Raises:
        OSError: There is no descriptor left.
    """

    def __init__(self) -> None:
        self.held = 0
        """Bytes that were taken, and not given yet."""
        self._output, self._input = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Whoever has many of them may have no more large ones; small ones do as well.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _SIZE)

    def close(self) -> None:
        """Drop what is held."""
        os.close(self._output)
        os.close(self._input)

    def fill(self, socket: int, count: int) -> int:
        """Take what is there, and return how much it was: 0 when no more will come.

        Only while nothing is held: otherwise a full pipe looks like a socket without bytes.

        Raises:
            BlockingIOError: Nothing has come yet.
            OSError: The connection is broken.
        """
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        taken = os.splice(socket, self._input, count, flags=flags)
        self.held += taken
        return taken

    def empty(self, socket: int) -> int:
        """Give what the socket takes, and return how much it was.

        Raises:
            BlockingIOError: It takes nothing yet.
            OSError: The connection is broken.
        """
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        given = os.splice(self._output, socket, self.held, flags=flags)
        self.held -= given
        return given
