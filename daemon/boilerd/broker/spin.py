"""Wait for an answer that comes soon without falling asleep."""

import os
import socket
import time

#: How long to look for an answer; a broker on the same machine mostly answers one short script within this time.
SPIN_S = 0.0001
#: The most calls in a row that do not look.
_LONGEST_PAUSE = 64


class Spin:
    """Looks for an answer again and again for a moment, before the caller falls asleep to wait for it.

    When the process falls asleep, so does its core, and to wake it takes about as long as a broker on the same machine
    takes to answer. Between two looks the core is offered to other processes. Looking does not help if the answer is
    there at once, or takes longer, as over a network or from a busy broker: each such call in a row doubles the number
    of calls that do not look, up to 64.
    """

    def __init__(self) -> None:
        self._paused = 0
        self._next_pause = 1

    def wait(self, sock: socket.socket) -> None:
        """Return when there is something to read, or looking does not help; takes nothing out.

        Args:
            sock: It has no timeout of Python's, with which a look would wait, and no TLS.
        """
        if self._paused:
            self._paused -= 1
        elif _has_helped(sock):
            self._next_pause = 1
        else:
            self._paused = self._next_pause
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)


def _has_helped(sock: socket.socket) -> bool:
    until_s = time.perf_counter() + SPIN_S
    has_waited = False
    while not _is_readable(sock):
        if time.perf_counter() > until_s:
            return False
        os.sched_yield()
        has_waited = True
    return has_waited


def _is_readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a broken connection: the next read raises the error
    return True
