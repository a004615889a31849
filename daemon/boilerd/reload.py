"""A reload: try the new settings and the new code first, then drain, then become the new program."""

import logging
import os
import signal
import sys
import tempfile
import time
from typing import Any

from boilerd.exitcodes import describe_exit

logger = logging.getLogger("boilerd.supervisor")

#: How long the trial may take: it imports the application.
CHECK_TIMEOUT_S = 60.0


class Check:
    """``boilerd run --check`` with this daemon's arguments, as a child that Supervisor reaps.

    Attributes:
        error: What was wrong, when it is over; empty: nothing.
    """

    def __init__(self, pids: dict[int, Any]) -> None:
        self.error = ""
        self.is_over = False
        self._is_wanted = True
        self._since_s = time.monotonic()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is over
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:], "--check"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._said.fileno(), 2),
            ],
            setpgroup=0,
        )
        pids[self._pid] = self

    def hurry(self) -> None:
        """End it when it takes too long."""
        if time.monotonic() - self._since_s > CHECK_TIMEOUT_S:
            self._kill()

    def abandon(self) -> None:
        """Nobody wants to know any more."""
        self._is_wanted = False
        self._kill()

    def _kill(self) -> None:
        if not self.is_over:
            os.kill(self._pid, signal.SIGKILL)

    def finish(self, pid: int, sts: int) -> None:
        """Supervisor's hook: it ended."""
        status = os.waitstatus_to_exitcode(sts)
        self._said.seek(0)
        *before, last = self._said.read().decode("utf-8", "replace").strip().split("\n")
        self._said.close()
        self.is_over = True
        if status == 0 or not self._is_wanted:
            return
        self.error = last.removeprefix("boilerd: error: ") or f"the check ended with {describe_exit(status)}"
        traceback = "\n".join(before) or None
        logger.error("reload refused, going on as before", extra={"error": self.error, "traceback": traceback})
