"""The status of the running daemon, as it tells it at its control socket."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

from boilerd.errors import RefusedError
from boilerd.process.scoreboard import LATE_HEARTBEAT_S
from boilerd.supervision.asking import ask
from boilerd.verdict.facts import UP, Silence


class Info(TypedDict):
    """What commands read of the answer to ``boilerd.info``; daemons of other versions have more or fewer fields."""

    state: str
    status: str
    generation: int
    trouble: str
    is_broker_away: NotRequired[bool]
    heartbeat_age_s: NotRequired[float]


class _Process(TypedDict):
    """What is read of ``supervisor.getAllProcessInfo``, for each process."""

    name: str
    group: str
    statename: str
    pid: int
    start: int


@dataclass(frozen=True)
class DaemonStatus:
    """The status of a daemon, as it reports it.

    Attributes:
        info: The answer to ``boilerd.info``; empty if it does not answer.
        processes: Name, state, pid and start time of each; empty if it does not answer.
        silence: Why it does not answer; empty if it does.
        cause: The same as one of the few reasons that there are.
    """

    info: dict[str, Any]
    processes: list[dict[str, Any]]
    silence: str = ""
    cause: Silence = Silence.NONE

    @property
    def summary(self) -> str:
        """The status in one line."""
        return self.silence or str(self.info["status"])

    def with_pending(self, pending: int) -> Self:
        """The same with what waits now: the daemon counts every few seconds."""
        if self.silence:
            return self
        status = re.sub(r"[\d,]+ pending", f"{pending:,} pending", str(self.info["status"]))
        return replace(self, info={**self.info, "status": status, "pending": pending})

    def count_up(self) -> int:
        """Count the processes that run."""
        return sum(process["state"] in UP for process in self.processes)

    def failed_starts(self) -> dict[str, str]:
        """Of each worker whose start the application lets fail, the words to put behind its state."""
        return {name: f", starting failed: {why}" for name, why in self.info.get("failed_starts", {}).items()}

    def problems(self) -> list[str]:
        """List what keeps the daemon from its tasks, a line each."""
        starts = self.failed_starts()
        is_whole = self.count_up() == len(self.processes)
        if self.silence or self.info["state"] in {"starting", "draining"}:
            return [f"daemon: {self.summary}", *_not_serving(starts)]
        if self.info["state"] == "reloading" and not is_whole:
            return [f"daemon: {self.summary}"]
        problems = [
            f"{p['name']}: {p['state'].lower()}{starts.pop(p['name'], '')}"
            for p in self.processes
            if p["state"] not in UP
        ]
        # A daemon that was started before an upgrade may lack newer fields; that is no problem.
        if self.info.get("is_broker_away"):
            problems.append(
                "daemon: its processes wait for the broker, which is away or refuses them; its log says which"
            )
        if not self.info.get("is_broker_away"):  # or they wait for that
            told = {process["name"] for process in self.processes if process["state"] not in UP}
            missing = [name for name in self.info.get("missing", []) if name not in told | starts.keys()]
            entering = self.info.get("entering", [])
            problems += [
                f"{name}: does not serve, it enters its lifespans"
                if name in entering
                else f"{name}: does not serve, it crashes or hangs at its start; the log says why"
                for name in missing
            ]
        problems += _not_serving(starts)
        problems += [
            f"{name}: stopped by a signal, and does nothing until `kill -CONT`" for name in self.info.get("halted", [])
        ]
        problems += [
            f"{name}: hangs, it neither works nor waits; it is replaced in some seconds"
            for name in self.info.get("hanging", [])
        ]
        if lost := self.info.get("lost_lines"):
            problems.append(f"log: {lost} lines were lost; whoever reads stdout has stopped, or the disk is full")
        if (age_s := self.info.get("heartbeat_age_s", 0.0)) > LATE_HEARTBEAT_S:
            problems.append(f"scheduler: no heartbeat for {age_s:.0f} s, so that leases end and nothing is forwarded")
        return problems


def _not_serving(starts: Mapping[str, str]) -> list[str]:
    return [f"{name}: does not serve{why}" for name, why in starts.items()]


def read_status(control_socket: Path) -> DaemonStatus:
    """Ask a daemon for its status; one that does not answer is asked only once."""
    try:
        return DaemonStatus(ask(control_socket, "boilerd.info", kind=Info), _processes(control_socket))
    except TimeoutError as error:
        return DaemonStatus({}, [], str(error), Silence.MUTE)
    except PermissionError as error:
        silence = f"not to be seen by this user ({control_socket}: {error.strerror})"
        return DaemonStatus({}, [], silence, Silence.CLOSED)
    except OSError:
        return DaemonStatus({}, [], f"not running (nobody answers at {control_socket})", Silence.ABSENT)
    except RefusedError as error:
        return DaemonStatus({}, [], str(error), Silence.MUTE)


def _processes(control_socket: Path) -> list[dict[str, Any]]:
    return [
        {
            "name": info["name"] if info["name"] == info["group"] else f"{info['group']}:{info['name']}",
            "state": info["statename"],
            "pid": info["pid"],
            "started": info["start"],
        }
        for info in ask(control_socket, "supervisor.getAllProcessInfo", kind=list[_Process])
    ]
