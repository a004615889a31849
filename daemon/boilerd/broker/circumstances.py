"""All that decides when one task runs; `circumstance_reader` reads it, `reasons` makes sentences of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from boilerd.broker.neighbours import Declared
from boilerd.broker.views import TaskDetail
from boilerd.tasks.task import TaskState

#: IDs at each end of a queue among which the task is looked for; Redis takes 0.6 to 0.9 ms for each end.
LOOKS = 50_000
#: The states in which a task waits to run; so does one that depends on others, which has a status of RQ's alone.
WAITING = frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY})
DEFERRED = "deferred"


@dataclass(frozen=True, slots=True)
class Server:
    """A worker that lives, of whatever host.

    Attributes:
        is_starting: True if it has not come to its first claim, as in the lifespans of its application.
        is_ours: False for one of plain RQ.
        declared: What its application has handlers for; None: it does not tell.
        pool: The pool of its daemon that it belongs to.
    """

    name: str
    queues: frozenset[str]
    is_busy: bool
    is_starting: bool
    is_ours: bool
    declared: Declared | None
    pool: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A task that runs, and with which worker; empty: that is not known."""

    task_id: str
    worker: str = ""

    def __str__(self) -> str:
        return f"{self.task_id} on {self.worker}" if self.worker else self.task_id


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
        return [server for server in self.servers if self.task.queue in server.queues]
