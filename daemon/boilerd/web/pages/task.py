"""One task: why it does not run, or what became of it, and what can be done with it."""

import functools
from collections.abc import Callable

from boilerd.broker.states import ALLOWED
from boilerd.broker.views import TaskDetail
from boilerd.inspector import Inspector
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action, page
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

#: Action → what is asked, and what is said when it is done.
_WORDS = {
    Permission.RUN: ("Run this task now?", "will run as soon as a worker is free"),
    Permission.ARCHIVE: ("Archive this task? It can be run later.", "is archived"),
    Permission.CANCEL: ("Cancel this task? One that waits is deleted, one that runs is interrupted.", "is cancelled"),
    Permission.DELETE: ("Delete this task for ever?", "is deleted"),
}
_DOES: dict[Permission, Callable[[Inspector, str], object]] = {
    Permission.RUN: Inspector.run,
    Permission.ARCHIVE: Inspector.archive,
    Permission.CANCEL: Inspector.cancel,
    Permission.DELETE: Inspector.delete,
}


@page("/tasks/{id}", needs=Permission.VIEW, title="Task")
def task(visit: Visit) -> Data:
    """The task as a whole."""
    task_id = visit.path["id"]
    found = visit.inspector.task(task_id)
    return {
        "task": found,
        "why": visit.trying(lambda: {"reasons": visit.inspector.explain(task_id).reasons}),
        "actions": [what for what in _WORDS if visit.may(what) and _is_allowed(what, found)],
    }


def _is_allowed(what: Permission, found: TaskDetail) -> bool:
    if what is Permission.CANCEL:
        return found.state not in {TaskState.COMPLETED, TaskState.ARCHIVED, None}
    return any(found.state in states for name, states in ALLOWED.items() if name == what.value)


def _about(visit: Visit, what: Permission) -> Data:
    """What the page says that asks before it."""
    found = visit.inspector.task(visit.path["id"])
    question, _ = _WORDS[what]
    return {
        "question": question,
        "facts": [["Task", found.id], ["Type", found.type], ["Queue", found.queue], ["State", found.state or ""]],
        "is_allowed": _is_allowed(what, found),
        "back": _path(found.id),
    }


def _act(visit: Visit, what: Permission) -> Done:
    task_id = visit.path["id"]
    found = visit.inspector.task(task_id)
    if _DOES[what](visit.inspector, task_id) is False:
        return Done(f"task {task_id} had ended before", to=_path(task_id))
    is_gone = what is Permission.DELETE or (what is Permission.CANCEL and found.state is not TaskState.ACTIVE)
    says = f"task {task_id} {_WORDS[what][1]}"
    if is_gone:
        return Done(says, to="/tasks", query={"queue": found.queue, "state": found.state or ""})
    return Done(says, to=_path(task_id))


def _path(task_id: str) -> str:
    return Links().to("tasks", task_id)


for _what in _WORDS:
    action(
        f"/tasks/{{id}}/{_what}",
        needs=_what,
        title=_what.capitalize(),
        about=functools.partial(_about, what=_what),
    )(functools.partial(_act, what=_what))
