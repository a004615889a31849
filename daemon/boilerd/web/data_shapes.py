"""The shape of what programs get of pages and actions.

A test opens every page and sends every action, and compares: the data is of the shape that stands here. A page that is
not here has an object of any fields.
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
from boilerd.web.outages import Outage
from boilerd.web.timeline import Span
from boilerd.web.tracebacks import Shown
from boilerd.web.what_if import WhatIf

Moment = Annotated[datetime, msgspec.Meta(tz=True)] | None


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
    "/queues/{queue}": {
        "queue": QueueDetail, "waits_since": Moment, "days": Sequence[Day], "has_workers": bool,
        "what_if": WhatIf | None,
    },
    "/tasks": {
        "queue": str, "queues": Sequence[str], "state": str, "counts": Mapping[str, int] | None,
        "tasks": Sequence[TaskDetail], "looked_at": int, "more": str, "is_cut": bool,
    },
    "/tasks/{id}": {
        "task": TaskDetail, "actions": Sequence[str], "timeline": Sequence[Span], "attempts": Sequence[Shown],
    },
    "/tasks/{id}/compare": {"rows": Sequence[Difference], "found": int, "is_cut": bool, "is_readable": bool},
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
    "/system": {"daemons": Sequence[DaemonRow], "workers": int, "clock_ahead_s": float, "outages": Sequence[Outage]},
    "/tasks/{id}/reveal": {"id": str, "type": str, "last_error": str, "errors": Sequence[str]},
}  # fmt: skip
