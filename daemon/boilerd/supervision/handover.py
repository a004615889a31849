"""What a daemon hands over to the program that replaces it in its own process.

A reload executes the daemon anew, with the same process ID. Locks and the embedded broker go
on meanwhile: clients notice nothing.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Self

import msgspec

#: Not one of the settings' variables.
VARIABLE = "_BOILERD_HANDOVER"
#: How long a broker that is not wanted any more may take to end: nobody can stop the daemon meanwhile.
STOP_S = 30.0


class RunningValkey(msgspec.Struct):
    """A broker that is a child of this process already, and where it listens and keeps its data."""

    socket: str
    pid: int
    stdout_fd: int
    state_dir: str = ""


class Handover(msgspec.Struct):
    """What the last program left to this one.

    Attributes:
        generation: How many reloads there were.
        lock_fds: Path of a lock → file descriptor that holds it.
        valkey: The embedded broker, if there was one.
        is_quiet: Whether the daemon claimed nothing.
    """

    generation: int = 0
    lock_fds: dict[str, int] = msgspec.field(default_factory=dict)
    valkey: RunningValkey | None = None
    is_quiet: bool = False

    @classmethod
    def take(cls) -> Self:
        """Take it over; an empty one where this process was started in the ordinary way."""
        found = cls.peek()
        found.set_inheritable(False)  # programs that tasks start shall not have them
        return found

    @classmethod
    def peek(cls) -> Self:
        """See what there is to take over, in a trial that gets no file descriptors."""
        text = os.environ.pop(VARIABLE, "")
        return msgspec.json.decode(text, type=cls) if text else cls()

    def environ(self) -> dict[str, str]:
        """This process's environment, with all this in it."""
        return {**os.environ, VARIABLE: msgspec.json.encode(self).decode()}

    def set_inheritable(self, inheritable: bool) -> None:
        """Whether programs that are executed get the file descriptors."""
        for fd in [*self.lock_fds.values(), *([self.valkey.stdout_fd] if self.valkey else [])]:
            os.set_inheritable(fd, inheritable)

    def execute(self) -> None:
        """Replace this program by a fresh copy of itself, with the same arguments; returns only by raising OSError.

        Signals are held back until the new program has its handlers: their default would end it.
        """
        self.set_inheritable(True)
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], self.environ())
        finally:
            self.set_inheritable(False)

    def abandon(self) -> None:
        """The new program cannot go on: leave nothing behind. What the supervisor has stopped and closed is gone."""
        if self.valkey is not None:
            with suppress(OSError):
                _end(self.valkey.pid)
            with suppress(OSError):
                os.close(self.valkey.stdout_fd)
            self.valkey = None


def _end(pid: int) -> None:
    """Have a child end, and reap it; raises OSError where it is none of ours, or not any more."""
    if os.waitpid(pid, os.WNOHANG)[0]:
        return
    os.kill(pid, signal.SIGTERM)
    kill_s = time.monotonic() + STOP_S
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > kill_s:
            os.kill(pid, signal.SIGKILL)
        select.select([], [], [], 0.02)
