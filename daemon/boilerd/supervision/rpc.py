"""The interfaces on the control socket: Supervisor's own, with a few methods changed, and the daemon's."""

from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple, NoReturn, Protocol

from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.states import ProcessStates
from supervisor.xmlrpc import Faults, RPCError

from boilerd.errors import RefusedError, shown
from boilerd.supervision.groups import VALKEY, worker_groups


class Controlled(Protocol):
    """The part of the daemon that people control; each method raises RefusedError where that cannot be done now."""

    def quiet(self, pool: str = "") -> None:
        """Stop claiming."""

    def resume(self, pool: str = "") -> None:
        """Claim again."""

    def reload(self) -> None:
        """Begin a reload."""

    def files_changed(self) -> None:
        """Begin a reload, or have the one that drains check again."""

    def restart(self, names: list[str]) -> None:
        """Replace workers."""

    def scale(self, size: int, pool: str = "") -> None:
        """Have so many workers."""

    def grow(self, change: int) -> None:
        """Have so many more workers."""

    def info(self) -> dict[str, Any]:
        """The daemon's state, by name."""


class Told(NamedTuple):
    """What the daemon tells of its settings, as JSON.

    Attributes:
        settings: All of them, with secrets masked, and where each value is from.
        secrets: What is masked there; for root and the daemon's user, who could read it in the daemon's memory.
    """

    settings: str = "{}"
    secrets: str = "{}"


TOLD_NOTHING = Told()


class DaemonInterface:
    """``boilerd.*`` on the control socket: what the signals do, for people."""

    def __init__(self, daemon: Controlled, told: Told = TOLD_NOTHING) -> None:
        self._daemon = daemon
        self._told = told

    def settings(self) -> str:
        """The settings that the daemon runs with, as JSON; `daemon.told` says in which form."""
        return self._told.settings

    def secrets(self) -> str:
        """The settings that are masked in `settings`, as JSON."""
        return self._told.secrets

    def info(self) -> dict[str, Any]:
        """The daemon's state, by name.

        ``state`` is starting, ready, reloading or draining; ``status`` the line that the service manager gets;
        ``name`` what the names of its workers begin with until the next reload, empty while it starts;
        ``trouble`` why the last reload failed; ``heartbeat_age_s`` how long ago the scheduler renewed the leases;
        ``is_broker_away`` whether a process waits for the broker; ``lost_lines`` how many log lines nobody took;
        ``halted`` the workers that a signal has stopped; ``missing`` those that have not served for some seconds;
        ``entering`` the workers that enter their lifespans; ``failed_starts`` why those do not serve that could not;
        ``pools`` the size and slots of each pool, and how many tasks it runs;
        ``hanging`` the processes that are killed soon, because they neither work nor wait.
        """
        return self._daemon.info()

    def quiet(self, pool: str = "") -> bool:
        """Stop claiming in a pool, in all without a name; running tasks go on."""
        _request(self._daemon.quiet, pool)
        return True

    def resume(self, pool: str = "") -> bool:
        """Claim again in a pool, in all without a name."""
        _request(self._daemon.resume, pool)
        return True

    def reload(self) -> int:
        """Begin a reload; returns the generation that is to end. `info` tells how the reload went."""
        generation = int(self._daemon.info()["generation"])
        _request(self._daemon.reload)
        return generation

    def files_changed(self) -> bool:
        """Begin a reload, or have the one that drains already check again what it will execute; for the watcher."""
        _request(self._daemon.files_changed)
        return True

    def restart(self, names: list[str]) -> bool:
        """Replace workers by fresh ones, each when its task has ended; all without names; a pool is all of its."""
        _request(self._daemon.restart, names)
        return True

    def scale(self, size: Any, pool: str = "") -> bool:
        """Have so many workers in a pool, in `default` without a name."""
        if type(size) is not int:  # XML-RPC has other numbers, and half a worker would end the loop
            raise RPCError(Faults.FAILED, f"{shown(size)} workers: give a whole number")
        _request(self._daemon.scale, size, pool)
        return True

    def command(self, name: str, what: str, args: list[Any]) -> bool:
        """Quiet, resume, restart or scale, if this is the daemon of that name still, and none that took its place."""
        does: dict[str, Callable[..., bool]] = {
            "quiet": self.quiet,
            "resume": self.resume,
            "restart": self.restart,
            "scale": self.scale,
        }
        if what not in does:
            raise RPCError(Faults.FAILED, f"{shown(what)}: give one of {', '.join(does)}")
        if not name or name != (own := self._daemon.info()["name"]):
            raise RPCError(
                Faults.FAILED, f"this is the daemon {own or 'that starts'}, and not {shown(name)}; look again"
            )
        return does[what](*args)


class ProcessInterface(SupervisorNamespaceRPCInterface):  # type: ignore[misc]
    """``supervisor.*`` on the control socket: supervisorctl's methods, as Supervisor has them, but for these."""

    def restart(self) -> bool:
        """`supervisorctl reload`: do what SIGHUP does; Supervisor would stop all and start again."""
        _request(self.supervisord.reload)
        return True

    def getAllProcessInfo(self) -> list[dict[str, Any]]:  # noqa: N802
        """All processes; also in a drain, when people want to know most, and Supervisor would refuse to answer."""
        return [self._info(group, process) for group, process in self._getAllProcesses(lexical=True)]

    def _info(self, group: Any, process: Any) -> dict[str, Any]:
        info: dict[str, Any] = self.getProcessInfo(f"{group.config.name}:{process.config.name}")
        if info["state"] == ProcessStates.STARTING and process.config.scoreboard.has_booted(process.config.row):
            # Supervisor waits for a second to pass, but the process has noted itself that it serves.
            info |= {"state": ProcessStates.RUNNING, "statename": "RUNNING"}
            info["description"] = self._interpretProcessInfo(info)
        return info

    def _update(self, text: str) -> None:
        """Refuse all but questions while the daemon shuts down; Supervisor's refuses questions, too."""
        if text != "getProcessInfo":
            super()._update(text)

    def stopProcess(self, name: str, wait: bool = True) -> Any:  # noqa: N802
        """Stop a process, also as one of a group, unless it is a broker that workers need."""
        if name.partition(":")[0] == VALKEY and self._has_workers():
            raise RPCError(Faults.FAILED, "workers need it; stop them first, or shut the daemon down")
        return super().stopProcess(name, wait)

    def removeProcessGroup(self, name: str) -> bool:  # noqa: N802
        """Refuse: a daemon without its scheduler or its workers does nothing, and nobody could add them again."""
        raise RPCError(Faults.FAILED, f"{name} is a part of the daemon; stop it, or scale the workers")

    def _getAllProcesses(self, lexical: bool = False) -> Any:  # noqa: N802
        """All processes for `status`, which wants them lexical; all but the broker for `stop all` and `start all`."""
        pairs = super()._getAllProcesses(lexical)
        return pairs if lexical else [pair for pair in pairs if pair[0].config.name != VALKEY]

    def _has_workers(self) -> bool:
        groups = worker_groups(self.supervisord.process_groups.values())
        return any(group.get_unstopped_processes() for group in groups)


#: What members of the daemon's group may ask, by namespace.
_QUESTIONS = {
    "boilerd": ("info", "settings"),
    "supervisor": (
        "getAPIVersion", "getVersion", "getSupervisorVersion", "getIdentification", "getState", "getPID",
        "getProcessInfo", "getAllProcessInfo",
    ),
}  # fmt: skip


class Questions:
    """The part of a namespace by which one looks, and changes nothing.

    Args:
        name: The namespace.
        interface: All of it.
    """

    def __init__(self, name: str, interface: object) -> None:
        for question in _QUESTIONS.get(name, ()):
            setattr(self, question, getattr(interface, question))

    def __getattr__(self, name: str) -> MethodType:
        """Any other method: that the caller may not call it is a better answer than that there is none."""
        return MethodType(_refuse, self)


def _refuse(*_: object) -> NoReturn:
    raise RPCError(Faults.FAILED, "members of the daemon's group may only look; do it as root or as the daemon's user")


def _request(action: Any, *args: Any) -> None:
    try:
        action(*args)
    except RefusedError as error:
        raise RPCError(Faults.FAILED, str(error)) from error
