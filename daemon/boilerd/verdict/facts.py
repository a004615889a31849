"""What a verdict is made of; `boilerd.cli.facts` reads it."""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:  # what commands need that ask no Redis is imported without it
    from boilerd.broker.overview import Overview, QueueOverview
    from boilerd.broker.sudden_failures import SuddenFailure
    from boilerd.settings.definitions import Settings

#: States of a daemon in which it does not do its work yet, or no more, and as it should.
PASSING = frozenset({"starting", "draining", "reloading"})
#: Supervisor's names for the states of a process that runs.
UP = frozenset({"STARTING", "RUNNING"})


class Silence(enum.Enum):
    """Why a daemon does not tell how it is."""

    #: It does tell.
    NONE = enum.auto()
    #: None listens.
    ABSENT = enum.auto()
    #: One does, but this user may not ask.
    CLOSED = enum.auto()
    #: One does, but gives no answer that can be read.
    MUTE = enum.auto()


class DaemonStatus(Protocol):
    """What the daemon tells of itself at its control socket; `cli.rpc_client` asks it."""

    @property
    def info(self) -> Mapping[str, Any]:
        """The answer to ``boilerd.info``; empty where there was none."""

    @property
    def processes(self) -> Sequence[Mapping[str, Any]]:
        """Name and state of each process."""

    @property
    def silence(self) -> str:
        """Why it does not answer; empty: it does."""

    @property
    def cause(self) -> Silence:
        """The same as one of the few reasons that there are."""


AskDaemon = Callable[[], DaemonStatus]


class Facts(msgspec.Struct, frozen=True):
    """What is known at one moment.

    Attributes:
        silence: Why the daemon of this host does not tell how it is.
        told: What was found in its place then.
        info: What it tells, by name; daemons of other versions have more or fewer fields.
        processes: Name and state of each of its processes, as Supervisor calls them.
        broker_error: Why Redis does not do what is needed; empty: it does.
        overview: What Redis shows; None: nothing.
        failing: The task types that fail suddenly.
        queues: The names of the queues that the daemon of this host serves.
        archive_limit: How many tasks its archives keep; 0: any number.
        is_embedded: Whether its Redis is its own.
        state_dir: Its state directory.
        kept: How many of its workers ended with outcomes that nobody has written for a while.
        max_latency_s: The longest that a task may have waited; None: any time.
    """

    silence: Silence = Silence.NONE
    told: str = ""
    info: Mapping[str, Any] = msgspec.field(default_factory=dict)
    processes: Sequence[Mapping[str, Any]] = ()
    broker_error: str = ""
    overview: "Overview | None" = None
    failing: "Sequence[SuddenFailure]" = ()
    queues: frozenset[str] = frozenset()
    archive_limit: int = 0
    is_embedded: bool = False
    state_dir: str = ""
    kept: int = 0
    max_latency_s: float | None = None

    def of_host(self, settings: "Settings", daemon: DaemonStatus, kept: int) -> "Facts":
        """The same with what the daemon of this host tells, and these settings of it; `kept` as above."""
        return msgspec.structs.replace(
            self,
            silence=daemon.cause,
            told=daemon.silence,
            info=daemon.info,
            processes=daemon.processes,
            queues=frozenset(settings.served_queues()),
            archive_limit=settings.archive_limit,
            is_embedded=settings.redis_url is None,
            state_dir=str(settings.state_path()),
            kept=kept,
        )

    @property
    def state(self) -> str:
        """What the daemon does; empty: it does not tell."""
        return str(self.info.get("state", ""))

    @property
    def is_passing(self) -> bool:
        """Whether it starts, drains or reloads; in a reload that only tries what is new it works."""
        if self.state == "reloading":
            return any(process["state"] not in UP for process in self.processes)
        return self.state in PASSING

    @property
    def working(self) -> Mapping[str, Any]:
        """What a daemon tells that should be at work; nothing of another one."""
        return {} if self.is_passing else self.info

    @property
    def shown(self) -> "Sequence[QueueOverview]":
        """All queues that Redis shows."""
        return self.overview.queues if self.overview else ()

    @property
    def own(self) -> "Sequence[QueueOverview]":
        """The queues to be judged by this daemon's settings: those that it serves, or all where there is none."""
        return [queue for queue in self.shown if self.silence is not Silence.NONE or queue.name in self.queues]
