"""The daemon of this host, where its control socket is within reach of the dashboard's user: quiet, restart and scale.

What it does is what the commands of the same names do. It tells its name, which it has until its next start or reload,
and is the daemon of this dashboard only if the dashboard's Redis has that: another one may have its process ID, or in
another container its host's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from boilerd.broker.daemons import DaemonInfo
from boilerd.errors import RefusedError
from boilerd.settings.definitions import Settings
from boilerd.supervision.groups import group_of


class _Pool(TypedDict):
    """What is read of a pool in the answer to ``boilerd.info``."""

    name: str
    workers: int
    slots: int
    running: int
    is_quiet: bool


class _Info(TypedDict):
    """What is read of the answer to ``boilerd.info``; a daemon that tells less cannot be controlled."""

    name: NotRequired[str]
    state: str
    pools: list[_Pool]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is at the control socket.

    Attributes:
        name: Of the daemon, as the names of its workers begin; empty: there is none that can be controlled.
        state: Such as ``ready``.
        pools: Its pools: ``name workers slots running is_quiet``.
        why: Why it cannot be controlled from here.
    """

    name: str = ""
    state: str = ""
    pools: Sequence[_Pool] = field(default_factory=list)
    why: str = ""

    def owns(self, worker: str) -> bool:
        """Whether a worker of this name is one of its own."""
        return bool(self.name) and worker.rpartition(".")[0] == self.name


class LocalDaemon:
    """Asks the daemon.

    Args:
        settings: Say where it is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def place(self) -> str:
        """Its runtime directory, by which the audit knows it."""
        return str(self._settings.runtime_path())

    def find(self, daemons: Sequence[DaemonInfo]) -> Found:
        """Look for it among these, which work for the dashboard's Redis."""
        try:
            info: _Info = self.ask("info", kind=_Info)
        except RefusedError as error:
            return Found(why=str(error))
        name = info.get("name", "")
        if not name or name not in {each.name for each in daemons}:
            return Found(why="the daemon of this host works for another Redis, starts, or is of an earlier version")
        return Found(name, info["state"], info["pools"])

    def command(self, name: str, what: str, *args: Any) -> None:
        """Have the daemon of this name do something; raises RefusedError, also where another one has its place now."""
        self.ask("command", name, what, args)

    def ask(self, method: str, *args: Any, kind: Any = bool) -> Any:
        """Call ``boilerd.METHOD`` of it; raises RefusedError, also where it does not answer."""
        from boilerd.supervision.asking import ask  # noqa: PLC0415 - XML-RPC takes its time to import

        path = self._settings.control_socket()
        try:
            return ask(path, f"boilerd.{method}", *args, kind=kind)
        except PermissionError as error:
            raise RefusedError(f"the daemon at {path} is another user's; use the command, as that user") from error
        except TimeoutError as error:
            raise RefusedError(str(error)) from error
        except OSError as error:
            raise RefusedError(f"no daemon answers at {path}: {error.strerror or error}") from error


def member_of(worker: str, pool: str) -> str:
    """A worker as its daemon calls it, such as ``worker:3``."""
    return f"{group_of(pool)}:{worker.rpartition('.')[2]}"
