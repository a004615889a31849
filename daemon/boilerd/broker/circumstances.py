"""All that decides when one task runs; `circumstance_reader` reads it, `reasons` makes sentences of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from boilerd.broker.neighbours import Declared
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.tasks.task import TaskState

#: The states in which a task waits to run; so does one that depends on others, which has a status of RQ's alone.
WAITING = frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY})
DEFERRED = "deferred"


@dataclass(frozen=True, slots=True)
class Server:
    """A worker that lives, of whatever host.

    Attributes:
        queues: Its queues; of a strict one in the order in which each claim tries them.
        is_busy: True if it has no time for another task.
        is_starting: True if it has not come to its first claim, as in the lifespans of its application.
        is_quiet: True if it claims nothing: somebody told it so, or it ends.
        is_ours: False for one of plain RQ.
        declared: What its application has handlers for; None: it does not tell.
        pool: The pool of its daemon that it belongs to.
        is_strict: True if it claims from a queue only while those before it are empty.
        slots: How many tasks it runs at once.
    """

    name: str
    queues: Sequence[str]
    is_busy: bool
    is_starting: bool
    is_quiet: bool
    is_ours: bool
    declared: Declared | None
    pool: str
    is_strict: bool
    slots: int

    def tried_before(self, queue: str) -> Sequence[str]:
        """The queues of which it takes all tasks before it takes one of this queue."""
        return self.queues[: self.queues.index(queue)] if self.is_strict and queue in self.queues else ()


@dataclass(frozen=True, slots=True)
class Holder:
    """A task that runs, and with which worker; empty: that is not known."""

    task_id: str
    worker: str = ""

    def __str__(self) -> str:
        return f"{self.task_id} on {self.worker}" if self.worker else self.task_id


@dataclass(frozen=True, slots=True)
class HeavierQueue:
    """A queue that all workers which claim from a task's queue empty first.

    Attributes:
        pending: How many tasks wait there.
        rate: How many of its tasks complete in a second, lately; 0: that is not known.
    """

    name: str
    pending: int
    rate: float


@dataclass(frozen=True, slots=True)
class Longest:
    """The task that runs longest on the workers of a queue.

    Attributes:
        since: Since when; None: that is not known.
        is_of_all: False if there are others, at which was not looked.
    """

    task_id: str
    task_type: str
    worker: str
    since: datetime | None
    is_of_all: bool


@dataclass(frozen=True, slots=True)
class Share:
    """How a task stands with its concurrency key.

    Attributes:
        limit: How many may run.
        running: How many run.
        rank: How many of those that wait for a share come before it; None: it does not wait for one yet.
        waiting: How many wait for a share.
    """

    limit: int
    running: int
    holders: Sequence[Holder]
    rank: int | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """How a task stands that runs.

    Attributes:
        lease_ends_s: Until when the claim holds; None: nobody holds one.
        is_alive: Whether its worker gives signs of life.
    """

    lease_ends_s: float | None
    is_alive: bool
    host: str


UNCLAIMED = Claimed(None, is_alive=False, host="")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that decides when a task runs; a key of another kind counts as empty.

    Attributes:
        now_s: Redis's time.
        refusal: Why a worker of boilerd's would refuse the job; empty: it would not.
        misplaced: The key of its queue that is of another kind, so that nothing is claimed from it, and which kind.
        servers: The workers that live.
        last_done: The task of the queue that completed last, if that is known.
        heavier: Those of the queues that come first which have tasks to claim.
        longest: What the workers that claim from the queue are busy with; None: some have time, or nothing is known.
        active: How many of the queue's tasks run; `max_active`: how many may, 0: any number.
        length: How many IDs stand in the queue; `ahead`: how many before this one's, None: it was not found.
        is_listed: False if the record names a place where the task is not.
        completions: Tasks of the queue that completed lately; `since_s`: since when these are counted.
        lock: The ID of the task that has its unique lock; empty: nobody has, or it has none.
        lock_ends_s: When the lock ends by itself; None: never, or there is none.
        dependencies: State, as RQ writes it, of each task that it depends on; empty: that is gone.
    """

    now_s: float
    task: TaskDetail
    refusal: str = ""
    is_cancelled: bool = False
    allows_failures: bool = False
    is_suspended: bool = False
    is_paused: bool = False
    misplaced: tuple[str, str] | None = None
    servers: Sequence[Server] = ()
    last_done: CompletedTask | None = None
    heavier: Sequence[HeavierQueue] = ()
    longest: Longest | None = None
    active: int = 0
    max_active: int = 0
    holders: Sequence[Holder] = ()
    length: int = 0
    ahead: int | None = None
    is_listed: bool = True
    completions: int = 0
    since_s: float = 0.0
    share: Share | None = None
    claimed: Claimed | None = None
    lock: str = ""
    lock_ends_s: float | None = None
    dependencies: Mapping[str, str] = field(default_factory=dict)

    @property
    def serving(self) -> list[Server]:
        """The living workers that work on the task's queue."""
        return serving(self.servers, self.task.queue)

    @property
    def are_quiet(self) -> bool:
        """Whether there are such, and all of them claim nothing."""
        return bool(self.serving) and all(server.is_quiet for server in self.serving)


def serving(servers: Sequence[Server], queue: str) -> list[Server]:
    """Those of the workers that work on a queue."""
    return [server for server in servers if queue in server.queues]


def claiming(servers: Sequence[Server], queue: str) -> list[Server]:
    """Those of them that claim from it."""
    return [server for server in serving(servers, queue) if not server.is_quiet]
