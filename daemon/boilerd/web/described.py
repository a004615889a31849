"""What programs are told of pages and actions beside their addresses: parameters, fields and the shape of the data.

A test opens every page and sends every action, and compares: what is read of a query or a form stands here, what
stands here is read, and the data is of that shape. A page that is not here has an object of any fields.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypedDict

import msgspec

from boilerd.broker.audit import AuditEntry
from boilerd.broker.failure_groups import FailureState
from boilerd.broker.operation_record import OperationState
from boilerd.broker.shares import ConcurrencyKey, KeyTasks, Lock
from boilerd.broker.ticks import TickInfo
from boilerd.broker.views import CompletedTask, Day, QueueDetail, TaskDetail
from boilerd.tasks.task import TaskState
from boilerd.web.timeline import Span
from boilerd.web.tracebacks import Shown

Moment = Annotated[datetime, msgspec.Meta(tz=True)] | None

_PAGE = {"page": "which page, from 1", "size": "rows of a page"}
_ORDER = {**_PAGE, "sort": "the column to sort by", "way": "up or down"}
_TIME = {
    "since": "how far back: 1h, 3h, 24h, 7d, 30d, 90d, or release, which is the last one",
    "queue": "one queue alone",
}
_SOUGHT = {
    "q": "what is sought, as in the search box", "type": "a type, or what it begins with and *",
    "error": "a part of the last error", "worker": "of the worker", "key": "a unique or concurrency key",
    "since": "not before that", "until": "not after that",
}  # fmt: skip
_CHOICE = {
    "queue": "the queue of the tasks", "state": "their state", **_SOUGHT,
    "fingerprint": "the failure group of their last failure", "id": "a task, up to 150 times, in place of all else",
}  # fmt: skip
_LOCK = {"queue": "its queue", "type": "its type", "digest": "of its payload, as /limits has it"}
_PAUSE = {"note": "why", "until": "when it ends by itself: 2h, or 2026-01-31T14:00 in UTC"}
_AS_OF = "the moment from which times of a search count back, in seconds since 1970"
_DAEMON = {"daemon": "its name, as `local` of /workers has it: another one that took its place is not touched"}
_BACK = "list, to lead people back to the list"
_DEEDS = ("run", "archive", "delete", "cancel", "reschedule", "move")
_EDIT = {
    "step": "send, to enqueue it; else it is checked alone",
    "type": "the task's type", "queue": "its queue", "body": "its payload, as JSON", "head": "its headers, as JSON",
    "when": "when it is due: 2h, or 2026-01-31T14:00 in UTC", "timeout": "seconds of an attempt",
    "max_retries": "retries at most", "retention": "seconds for which it is kept after success",
    "concurrency_key": "its concurrency key", "concurrency_limit": "tasks with this key that run at once",
    "checked": "what a page for people sends; programs need not",
}  # fmt: skip
_MANY = {
    "name": "the queue's or group's name, where the answer to GET has it as to_type",
    "of": "with how many tasks at most",
}  # fmt: skip

#: Path of a page or an action → name in its query → what it means.
QUERIES: Mapping[str, Mapping[str, str]] = {
    "/tasks": {
        **_ORDER, "queue": "a queue", "state": "a state", **_SOUGHT, "looks": "how many tasks to look at, up to 50,000",
        "place": "where to go on: `more` of the answer before", "last": "1: the end of the list",
        "around": "a pending task: those around it",
    },
    "/types": {**_ORDER, **_TIME, "only": "risen: those of which more fails than in the time before"},
    "/types/{type}": _TIME,
    "/failures": {
        "size": "groups to look at", "sort": "last, first, hour, count or rise",
        "change": "new, returned, rising or steady", "type": "one type alone", "release": "those that began in it",
        "muted": "show: muted ones too",
    },
    "/crons": _ORDER,
    "/workers": {**_ORDER, "host": "one host", "pool": "one pool", "state": "one state; dead: without a sign of life"},
    "/workers/dead": _ORDER,
    "/limits": {
        "search": "1: look for unique locks", "queue": "those of a queue", "type": "of a type",
        "key": "a concurrency key, whose tasks are told", "after": "where to go on: `after` of the answer before",
    },
    "/operations": {"size": "operations"},
    "/audit": {
        **_PAGE, "who": "a user", "what": "a kind of intervention", "on": "the name of what it was done with",
        "since": "not before that: 2h, or 2026-01-31T14:00 in UTC", "until": "not after that",
    },
    "/tasks/new": {
        "type": "whose payload the answer begins with", "queue": "its queue", "template": "which of them, from 1",
    },
    "/tasks/{id}/compare": {"with": "another task; else the last of its type that completed"},
    **{f"/bulk/{deed}": _CHOICE for deed in _DEEDS},
    **{f"/types/{{type}}/{deed}": {"state": "the state of the tasks"} for deed in ("run", "archive", "delete")},
    "/daemon/pools/{pool}/{what}": _DAEMON,
    "/daemon/pools/{pool}/restart": _DAEMON,
    "/limits/release": _LOCK,
    "/queues/{queue}/purge": {"state": "the state whose tasks are deleted"},
}  # fmt: skip

#: Path of an action → name of a field that is sent → what it means.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "/tasks/new": _EDIT,
    "/tasks/{id}/edit": {**_EDIT, "old": "what becomes of the old task: keep, archive or delete"},
    "/tasks/{id}/move": {"to": "the queue"},
    "/tasks/{id}/reschedule": {"when": "2h, or 2026-01-31T14:00 in UTC"},
    **{f"/bulk/{deed}": {**_MANY, "as_of": _AS_OF} for deed in _DEEDS},
    "/bulk/reschedule": {**_MANY, "as_of": _AS_OF, "when": "2h, or 2026-01-31T14:00 in UTC"},
    "/bulk/move": {**_MANY, "as_of": _AS_OF, "to": "the queue"},
    **{f"/failures/{{fingerprint}}/{deed}": _MANY for deed in ("run", "archive", "delete")},
    **{f"/types/{{type}}/{deed}": _MANY for deed in ("run", "archive", "delete")},
    **{
        f"/failures/{{fingerprint}}/{mark}": {"back": _BACK}
        for mark in ("acknowledge", "unacknowledge", "mute", "unmute")
    },
    "/failures/{fingerprint}/note": {"note": "what people should know of it", "back": _BACK},
    "/queues/{queue}/pause": _PAUSE,
    "/crons/{cron}/pause": _PAUSE,
    "/limits/release": {"holder": "the task that holds it", "id": "the same again, where that has not ended"},
    "/daemon/pools/{pool}/{what}": {"size": "of scale: how many workers"},
    "/snapshots/keep": {"of": "the address of the page, without the prefix"},
    "/queues/{queue}/purge": _MANY,
}


class QueueRow(TypedDict):
    """A queue in a list."""

    name: str
    pending: int
    active: int
    scheduled: int
    archived: int
    completed: int
    waits_since: Moment
    memory_bytes: int
    max_active: int
    is_paused: bool
    is_served: bool
    is_idle: bool
    problem: str
    workers: int
    ended_by_minute: Sequence[int]
    pace: str
    drained_s: float | None
    in_per_s: float | None
    out_per_s: float | None
    failed_share: float | None


class Finding(TypedDict):
    """Something that is wrong, or worth a look."""

    kind: str
    severity: str
    says: str
    command: str
    path: str


class WorkerRow(TypedDict):
    """A worker in a list."""

    name: str
    host: str
    pid: int
    state: str
    shown_state: str
    queues: Sequence[str]
    started_at: Moment
    last_seen_at: Moment
    succeeded: int
    failed: int
    task_id: str
    task_type: str
    task_started_at: Moment
    problem: str
    slots: int
    running: int
    pool: str
    rss_bytes: int | None
    cpu_ms: int | None
    cpu_share: float | None
    is_alive: bool
    release: str
    version: str


class DeathRow(TypedDict):
    """A worker that died."""

    worker: str
    at: datetime
    host: str
    pool: str
    pid: int
    exit: str
    because: str
    task_id: str
    task_type: str
    tasks: int
    rss_bytes: int | None
    lived_s: int | None
    why: str


class FailureRow(TypedDict):
    """A failure group."""

    fingerprint: str
    type: str
    queue: str
    error: str
    message: str
    state: FailureState
    rise: float | None
    count: int
    last_hour: int
    last_24_hours: int
    last_7_days: int
    first_seen: Moment
    last_seen: Moment
    first_release: str
    last_release: str
    acknowledged_at: Moment
    acknowledged_by: str
    acknowledged_release: str
    since_acknowledged: int | None
    muted_at: Moment
    muted_by: str
    note: str
    noted_at: Moment
    noted_by: str
    hours: Sequence[int]


class CronRow(TypedDict):
    """A periodic task."""

    name: str
    spec: str
    words: str
    timezone: str
    type: str
    queue: str
    previous: Moment
    next: Moment
    daemons: Sequence[str]
    hosts: Sequence[str]
    paused_since: Moment
    problem: str
    last_task: str
    last_state: TaskState | None
    last_skipped: str
    missed: int
    succeeded: int
    ended: int
    late_s: float | None
    nexts: Sequence[datetime]


class OperationRow(TypedDict):
    """An operation."""

    id: str
    what: str
    about: str
    to: str
    queue: str
    state: OperationState
    is_gone: bool
    user: str
    host: str
    via: str
    created_at: Moment
    starts_at: Moment
    began_at: Moment
    beat_at: Moment
    ended_at: Moment
    total: int
    seen: int
    done: int
    skipped: Sequence[Mapping[str, Any]]
    speed: float
    why: str


class Summary(TypedDict):
    """Percentiles; None: there is nothing to take them of."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


class TypeRow(TypedDict):
    """A task type in a list."""

    type: str
    queues: Sequence[str]
    time_share: float | None
    attempts: Mapping[str, int]
    enqueued: int
    ended_per_s: float | None
    failed_share: float | None
    failed_share_before: float | None
    failed_rise: float | None
    retries_per_success: float | None
    wait_s: Summary
    run_s: Summary
    ended_by_period: Sequence[int]


class DaemonRow(TypedDict):
    """A daemon in a list."""

    name: str
    host: str
    pid: int
    release: str
    started_at: Moment
    seen_at: Moment
    versions: Mapping[str, str]
    workers: int
    types: int
    crons: int
    pools: Sequence[str]
    trouble: str


class KeptRow(TypedDict):
    """A page that is kept."""

    id: str
    title: str
    of: str
    user: str
    at: datetime
    version: str
    shows_payloads: bool


class Difference(TypedDict):
    """A value that differs between two tasks; each as JSON, empty: it has none."""

    place: str
    this: str
    other: str


#: Path of a page or an action → name in its data → its type.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "/": {
        "word": str, "findings": Sequence[Finding], "totals": Mapping[str, int], "workers": int,
        "queues": Sequence[QueueRow], "at": datetime,
    },
    "/queues": {"queues": Sequence[QueueRow], "problems": Sequence[str]},
    "/queues/{queue}": {"queue": QueueDetail, "waits_since": Moment, "days": Sequence[Day], "has_workers": bool},
    "/tasks": {
        "queue": str, "queues": Sequence[str], "state": str, "counts": Mapping[str, int] | None,
        "tasks": Sequence[TaskDetail], "looked_at": int, "more": str, "is_cut": bool,
    },
    "/tasks/{id}": {
        "task": TaskDetail, "actions": Sequence[str], "timeline": Sequence[Span], "attempts": Sequence[Shown],
    },
    "/tasks/{id}/compare": {"rows": Sequence[Difference], "found": int, "is_cut": bool},
    "/types": {"types": Sequence[TypeRow], "since": str, "until": datetime, "has_before": bool},
    "/types/{type}": {"type": str, "queues": Sequence[Mapping[str, Any]], "periods": Sequence[Mapping[str, Any]]},
    "/failures": {"failures": Sequence[FailureRow], "looked_at": int, "has_more": bool},
    "/failures/{fingerprint}": {"failure": FailureRow, "frames": Sequence[str]},
    "/crons": {"crons": Sequence[CronRow], "left_out": int},
    "/crons/{cron}": {
        "name": str, "entries": Sequence[CronRow], "is_paused": bool, "is_held": bool, "outcomes": Mapping[str, int],
        "ticks": Sequence[TickInfo],
    },
    "/workers": {"workers": Sequence[WorkerRow], "problems": Sequence[str]},
    "/workers/dead": {"deaths": Sequence[DeathRow]},
    "/workers/{worker}": {"name": str, "worker": WorkerRow | None, "tasks": Sequence[CompletedTask]},
    "/limits": {
        "keys": Sequence[ConcurrencyKey], "locks": Sequence[Lock], "after": str, "key": KeyTasks | None,
    },
    "/snapshots": {"snapshots": Sequence[KeptRow]},
    "/snapshots/{snapshot}": {"about": KeptRow, "content": str},
    "/palette": {"queues": Sequence[str], "types": Sequence[str], "crons": Sequence[str], "left_out": int},
    "/operations": {"operations": Sequence[OperationRow]},
    "/operations/{operation}": {"operation": OperationRow, "actions": Sequence[str]},
    "/audit": {"entries": Sequence[AuditEntry], "page": int, "has_more": bool},
    "/system": {"daemons": Sequence[DaemonRow], "workers": int, "clock_ahead_s": float},
    "/tasks/{id}/reveal": {"id": str, "type": str, "last_error": str, "errors": Sequence[str]},
}  # fmt: skip
