"""The states of a task: how RQ stores each, and which actions are allowed. act.lua and taking.lua get a part of it."""

from typing import Literal

import msgspec

from boilerd.tasks.task import TaskState

#: The actions that a person may take on a task.
Action = Literal["run", "archive", "delete"]
_ACTIONS: tuple[Action, ...] = ("run", "archive", "delete")


class _Row(msgspec.Struct, frozen=True):
    """How RQ stores a task in a state, and what a person may do with it.

    Attributes:
        status: RQ's word for the state, in the job hash.
        registry: RQ's sorted set of the task's ID (see `keys.registry`); empty: it stands in rq:queue:Q, or its
            claim in rq:wip:Q.
    """

    state: TaskState
    status: str
    registry: str
    actions: tuple[Action, ...]


#: A retry is a scheduled task that failed before: RQ has one status and one registry for both.
_TABLE = (
    _Row(TaskState.PENDING, "queued", "", ("archive", "delete")),
    _Row(TaskState.ACTIVE, "started", "", ()),
    _Row(TaskState.SCHEDULED, "scheduled", "scheduled", ("run", "archive", "delete")),
    _Row(TaskState.RETRY, "scheduled", "scheduled", ("run", "archive", "delete")),
    _Row(TaskState.ARCHIVED, "failed", "failed", ("run", "delete")),
    _Row(TaskState.COMPLETED, "finished", "finished", ("delete",)),
)

#: RQ's status → the state; a retry counts as scheduled.
STATE_OF = {row.status: row.state for row in _TABLE if row.state is not TaskState.RETRY}
#: State → the registry that lists its tasks.
REGISTRIES = {row.state: row.registry for row in _TABLE if row.registry}
#: The states whose tasks stand in one registry.
ONE_REGISTRY = frozenset({TaskState.SCHEDULED, TaskState.RETRY})
#: Action → the states in which it is allowed.
ALLOWED: dict[Action, tuple[TaskState, ...]] = {
    action: tuple(row.state for row in _TABLE if action in row.actions) for action in _ACTIONS
}
#: RQ's status → the registry.
REGISTRY_OF = {row.status: row.registry for row in _TABLE if row.registry}
#: Action → the statuses of RQ's in which it is allowed.
ALLOWED_STATUSES = {action: {row.status: True for row in _TABLE if action in row.actions} for action in _ACTIONS}
