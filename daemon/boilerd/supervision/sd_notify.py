"""Send the daemon's state to the service manager: systemd's protocol, sd_notify(3).

One datagram a message, ``NAME=value`` lines. Without a manager that listens nothing is sent.
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

#: How long the import of the application may take, at a start, in a reload's check and after it.
IMPORT_LIMIT_S = 180.0


class Notifier:
    """Sends to the socket that the manager named in the environment.

    Attributes:
        watchdog_s: Seconds that the manager waits for a sign of life; 0: it does not wait for any.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # systemd writes an abstract address with an @ in place of its zero byte.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environ)

    def send(self, **fields: str | int) -> None:
        """Send ``READY=1``, ``STATUS=…``; lost where the manager is away for a moment, or no descriptor is left."""
        if not self._address:
            return
        lines = (f"{name}={' '.join(str(value).split())}" for name, value in fields.items())
        message = "\n".join(lines).encode("utf-8", "backslashreplace")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message, socket.MSG_DONTWAIT, self._address)

    def reloading(self) -> None:
        """Report that a reload begins; READY ends it."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def import_begins(self, *, is_reloaded: bool) -> None:
        """Ask for patience: nothing else is sent while the application is imported.

        Args:
            is_reloaded: True if the watchdog runs, because the former program had started.
        """
        self.extend(IMPORT_LIMIT_S)
        if is_reloaded and self.watchdog_s:
            self._set_watchdog(IMPORT_LIMIT_S)

    def import_ends(self, *, is_reloaded: bool) -> None:
        """Have the watchdog be as impatient again as the manager's settings want it."""
        if is_reloaded and self.watchdog_s:
            self._set_watchdog(self.watchdog_s)

    def _set_watchdog(self, seconds: float) -> None:
        self.send(WATCHDOG=1, WATCHDOG_USEC=int(seconds * 1_000_000))

    def extend(self, seconds: float) -> None:
        """Ask for so many seconds more, from now on, for the start, reload or stop that is under way."""
        self.send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000))


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """The watchdog's timeout, as sd_watchdog_enabled(3) reads it; 0 if there is none for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    except ValueError:
        return 0.0
