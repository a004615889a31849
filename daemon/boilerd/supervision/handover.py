"""The handover: what a daemon leaves to the program that replaces it in the same process.

A reload executes the daemon anew, with the same process ID. The locks and the embedded broker
stay meanwhile, so clients notice nothing.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Self

import msgspec

from boilerd.process.signals import ENDS_BROKER

#: The environment variable that carries the handover; it is no setting.
VARIABLE = "_BOILERD_HANDOVER"
#: How long a broker that is no longer wanted may take to end; nobody can stop the daemon meanwhile.
STOP_S = 30.0


class RunningValkey(msgspec.Struct):
    """An embedded broker that is a child of this process already.

    Attributes:
        socket: Path of the socket that it listens on.
        pid: Its process ID.
        stdout_fd: This process's end of the pipe that it prints to.
        state_dir: The directory that holds its data; empty from a program of an older version.
        group: The group that may open the socket; empty: none.
    """

    socket: str
    pid: int
    stdout_fd: int
    state_dir: str = ""
    group: str = ""


class Handover(msgspec.Struct):
    """The things that the former program left to this one; empty at a first start.

    Attributes:
        generation: How many reloads there were.
        lock_fds: Path of a lock → file descriptor that holds it.
        valkey: The embedded broker, if there was one.
        is_quiet: True if the daemon claimed nothing.
        quiet_pools: The pools that claimed nothing.
    """

    generation: int = 0
    lock_fds: dict[str, int] = msgspec.field(default_factory=dict)
    valkey: RunningValkey | None = None
    is_quiet: bool = False
    quiet_pools: list[str] = msgspec.field(default_factory=list)

    @classmethod
    def take(cls) -> Self:
        """Take over what there is, with its file descriptors."""
        found = cls.peek()
        found.set_inheritable(False)  # programs that tasks start must not get them
        return found

    @classmethod
    def peek(cls) -> Self:
        """Read what there is to take over, in a check, which gets no file descriptors."""
        text = os.environ.pop(VARIABLE, "")
        return msgspec.json.decode(text, type=cls) if text else cls()

    def environ(self) -> dict[str, str]:
        """This process's environment, with the handover in it."""
        return {**os.environ, VARIABLE: msgspec.json.encode(self).decode()}

    def set_inheritable(self, inheritable: bool) -> None:
        """Pass the file descriptors on to programs that are executed, or do not."""
        for fd in [*self.lock_fds.values(), *([self.valkey.stdout_fd] if self.valkey else [])]:
            os.set_inheritable(fd, inheritable)

    def execute(self) -> None:
        """Replace this program by a fresh copy of itself, with the same arguments; comes back only with an OSError.

        The caller blocks signals, until the new program has its handlers: their default would end it.
        """
        self.set_inheritable(True)
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], self.environ())
        finally:
            self.set_inheritable(False)

    def abandon(self) -> None:
        """Give up what was taken over, because this program cannot go on; its supervisor may have done so already."""
        if self.valkey is not None:
            with suppress(OSError):
                _end(self.valkey.pid)
            with suppress(OSError):
                os.close(self.valkey.stdout_fd)
            self.valkey = None


def _end(pid: int) -> None:
    """End a child and reap it; raises OSError where this process has no such child, or no longer."""
    if os.waitpid(pid, os.WNOHANG)[0]:
        return
    os.kill(pid, ENDS_BROKER)
    kill_s = time.monotonic() + STOP_S
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > kill_s:
            os.kill(pid, signal.SIGKILL)
        select.select([], [], [], 0.02)
