"""Wait for an answer that is nearly there without falling asleep."""

import os
import socket
import time

#: Time in which a broker on the same machine answers one short script, as a rule.
SPIN_S = 0.0001
_MOST_PAUSED = 64


class Spin:
    """Looks for an answer again and again for a moment, before its caller waits for it asleep.

    A process that falls asleep has its core fall asleep, and to wake takes about as long as a broker on the same
    machine takes to answer. Between two looks the core is offered to whoever wants it. Answers that are there at once,
    or take longer, as over a network or from a broker with much to do, are not worth it: each one in a row doubles for
    how many calls nobody looks, up to 64.
    """

    def __init__(self) -> None:
        self._paused = 0
        self._next_pause = 1

    def wait(self, sock: socket.socket) -> None:
        """Return when there is something to read, or it is not worth looking any longer; takes nothing out.

        Args:
            sock: Without a timeout of Python's, which would wait itself, and without TLS.
        """
        if self._paused:
            self._paused -= 1
        elif _has_helped(sock):
            self._next_pause = 1
        else:
            self._paused = self._next_pause
            self._next_pause = min(2 * self._next_pause, _MOST_PAUSED)


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
        return True  # a broken connection: whoever reads from it will say so
    return True
