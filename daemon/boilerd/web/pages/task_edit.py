"""Enqueue a task by hand: a new one, or a copy of another with something changed."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from boilerd.broker.daemons import DaemonInfo
from boilerd.broker.views import TaskDetail
from boilerd.errors import BoilerdError, BrokerError, BrokerUnavailableError, InvalidTaskError, closest
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.tasks.task import TaskState
from boilerd.web.kept_hidden import Place, blurred, disclosed, places_in, restored
from boilerd.web.links import Links
from boilerd.web.moments import moment
from boilerd.web.page import Data, Done, action
from boilerd.web.payload_shapes import shapes_of
from boilerd.web.permissions import Permission
from boilerd.web.refusal import Refusal
from boilerd.web.schema_check import example, problems, schema_of
from boilerd.web.visit import QueryError, Visit

#: A payload of more characters stays as it is: a form is no place for it.
MOST_EDITED = 24 * 1024
#: Fields of the form that are texts, with what they have where nothing was said.
_TEXTS = ("type", "queue", "when", "timeout", "max_retries", "retention", "concurrency_key", "concurrency_limit")
#: And those that are JSON, with what they are called.
_JSON = {"head": "headers", "body": "payload"}
#: What stands before a piece of a diff: at which line of the new text it begins.
_HEAD = re.compile(r"@@ -\S+ \+(\d+)")
_NUMBERS = ("timeout", "max_retries", "retention", "concurrency_limit")
#: What becomes of the old task: word → what is said, and in which states it can be.
AFTERWARDS: Mapping[str, tuple[str, frozenset[TaskState]]] = {
    "keep": ("leave it", frozenset(TaskState)),
    "archive": ("archive it", frozenset({TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY})),
    "delete": ("delete it", frozenset(TaskState) - {TaskState.ACTIVE}),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """The task that is copied.

    Attributes:
        seen: What the person may see of it.
        is_editable: Whether its payload is small enough for a form, and shown to the person.
    """

    task: TaskDetail
    seen: Mapping[str, Any]
    is_editable: bool


def _origin(visit: Visit) -> Origin:
    found = visit.inspector.task(visit.path["id"])
    if not found.is_readable:
        raise Refusal(
            409, f"task {found.id} cannot be copied: its payload cannot be read; enqueue it again with whatever made it"
        )
    seen = visit.seen(found)
    return Origin(found, seen, visit.may(Permission.VIEW_PAYLOAD) and len(_as_json(seen["payload"])) <= MOST_EDITED)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


# --- The form


def _form_of(origin: Origin) -> dict[str, str]:
    """The values of the form for a copy that changes nothing."""
    task = origin.task
    limit = task.concurrency_limit if task.concurrency_key else None
    numbers = {
        "timeout": task.timeout_s, "max_retries": task.max_retries, "retention": max(task.retention_s, 0),
        "concurrency_limit": limit,
    }  # fmt: skip
    texts = {name: "" if value is None else str(value) for name, value in numbers.items()}
    edited = {}
    if origin.is_editable:
        edited = {"body": _as_json(origin.seen["payload"]), "head": _as_json(origin.seen["headers"])}
    return {
        "type": task.type, "queue": task.queue, "when": "", "concurrency_key": task.concurrency_key, "old": "keep",
        **texts, **edited,
    }  # fmt: skip


def _given(visit: Visit, blank: Mapping[str, str]) -> dict[str, str]:
    """The values that were sent; what was not sent is as it was."""
    return {
        name: visit.given(name).replace("\r\n", "\n") if name in visit.form else text for name, text in blank.items()
    }


def _page(
    visit: Visit, form: Mapping[str, str], origin: Origin | None, found: list[str], **more: Any
) -> dict[str, Any]:
    state = origin.task.state if origin else None
    return {
        "form": form,
        "problems": found,
        "origin": {"id": origin.task.id, "state": state or ""} if origin else None,
        "is_editable": origin is None or origin.is_editable,
        "afterwards": [
            [word, says] for word, (says, states) in AFTERWARDS.items() if state in states and _may(visit, word)
        ] if origin else [],
        "queues": [queue.name for queue in visit.snapshot().overview.queues],
        "types": _types(visit),
        "back": Links().to("tasks", origin.task.id) if origin else "/tasks",
        "templates": 0,
        "diff": [],
        "warnings": [],
        "is_same": False,
        "checked": "",
        **more,
    }  # fmt: skip


def _may(visit: Visit, word: str) -> bool:
    return word == "keep" or visit.may(word)


def _types(visit: Visit) -> list[str]:
    """The types that living daemons have handlers for."""
    try:
        return sorted({each for daemon in visit.inspector.daemons() for each in daemon.types if each})
    except BrokerError:
        return []


def _about_edit(visit: Visit) -> Data:
    origin = _origin(visit)
    return _page(visit, _form_of(origin), origin, [])


def _about_new(visit: Visit) -> Data:
    form = _blank(visit)
    return _page(visit, form, None, [], templates=len(_templates(visit, form["type"], form["queue"])))


def _blank(visit: Visit) -> dict[str, str]:
    given = {"type": visit.word("type"), "queue": visit.word("queue", DEFAULT_QUEUE)}
    templates = _templates(visit, given["type"], given["queue"])
    number = visit.number("template", 1, most=len(templates) or 1)
    body = templates[number - 1] if templates else None
    return {**dict.fromkeys(_TEXTS, ""), **given, "body": _as_json(body), "head": "{}"}


def _templates(visit: Visit, task_type: str, queue: str) -> list[Any]:
    """Payloads of the type to begin with: as a living daemon has declared it, and as the last ones were."""
    if not task_type:
        return []
    schemas = [schema_of(daemon.schemas, task_type) for daemon in visit.inspector.daemons()]
    declared = [example(schema) for schema in schemas if schema is not None][:1]
    return declared + [shape for shape in shapes_of(visit, task_type, queue) if shape not in declared]


# --- What is sent


@action("/tasks/{id}/edit", needs=Permission.EDIT, title="Copy and edit", about=_about_edit, template="task_edit.html")
def edit(visit: Visit) -> Done | Data:
    """Enqueue a copy with something changed, once it was looked at; the old one stays, unless it is to go."""
    origin = _origin(visit)
    return _send(visit, _given(visit, _form_of(origin)), origin)


@action("/tasks/new", needs=Permission.ENQUEUE, title="New task", about=_about_new, template="task_edit.html")
def new(visit: Visit) -> Done | Data:
    """Enqueue a task, once it was looked at."""
    return _send(visit, _given(visit, _blank(visit)), None)


def _send(visit: Visit, form: Mapping[str, str], origin: Origin | None) -> Done | Data:
    try:
        payload, options, places = _read(form, origin)
    except (QueryError, InvalidTaskError) as error:
        return _page(visit, form, origin, [str(error)])
    options["copied_from"] = origin.task.id if origin else ""
    found = _refused(visit, form["type"], payload, options)
    copy = {"type": form["type"], "payload": payload, "headers": options["headers"]}
    found += _disclosed(visit, copy, origin, places)
    daemons = visit.inspector.daemons()
    found += blurred(_misfits(daemons, form["type"], payload), places)
    checked = hashlib.sha256(json.dumps(form, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    is_confirmed = visit.given("step") == "send" and (visit.who.is_program or visit.given("checked") == checked)
    if found or not is_confirmed:
        diff, warnings = _diff(origin, form), [] if found else _unhandled(daemons, form["type"])
        about: Data = {"diff": diff, "is_same": not diff, "warnings": warnings}
        return _page(visit, form, origin, found, checked="" if found else checked, **about)
    try:
        info = visit.inspector.enqueue(form["type"], payload, **options)
    except BrokerError:
        raise
    except BoilerdError as error:
        return _page(visit, form, origin, [str(error)])
    said = f"task {info.id} was enqueued"
    if origin:
        said += f", a copy of {origin.task.id}{_afterwards(visit, origin.task.id, form['old'])}"
    return Done(said, to=Links().to("tasks", info.id), data={"task": {"id": info.id}})


def _refused(visit: Visit, task_type: str, payload: Any, options: Mapping[str, Any]) -> list[str]:
    """Why it would not be enqueued, as far as that is known before Redis is asked."""
    try:
        visit.inspector.check_enqueue(task_type, payload, **options)
    except BrokerError:
        raise
    except BoilerdError as error:
        return [str(error)]
    return []


def _afterwards(visit: Visit, task_id: str, word: str) -> str:
    """Do with the old task what was asked for; how that ended."""
    if word not in {"archive", "delete"} or not visit.may(word):
        return ""
    try:
        (visit.inspector.archive if word == "archive" else visit.inspector.delete)(task_id)
    except BoilerdError as error:
        is_known = not (isinstance(error, BrokerUnavailableError) and error.was_sent)
        return f", which {'stays' if is_known else 'may be gone'}: {error}"
    return f", which is {word}d"


def _read(form: Mapping[str, str], origin: Origin | None) -> tuple[Any, dict[str, Any], list[Place]]:
    """Payload and options of a form, and where the payload and the headers are hidden; raises QueryError."""
    old = origin.task if origin else None
    payload, headers = old.payload if old else None, dict(old.headers) if old else {}
    places: list[Place] = [("payload",), ("headers",)]
    if "body" in form:
        seen = origin.seen if origin else {"payload": None, "headers": {}}
        body, head = _parsed("payload", form["body"]), _parsed("headers", form["head"])
        payload = restored("payload", body, seen["payload"], payload)
        headers = restored("headers", head, seen["headers"], headers)
        places = [*places_in(body, ("payload",)), *places_in(head, ("headers",))]
    if not isinstance(headers, dict):
        raise QueryError('headers: no object; give one, as in {"tenant": "7"}')
    options: dict[str, Any] = {"queue": form["queue"] or DEFAULT_QUEUE, "headers": headers, "inherit": False}
    options |= {name: _number(name, form[name]) for name in _NUMBERS if form[name].strip()}
    if form["concurrency_key"]:
        options["concurrency_key"] = form["concurrency_key"]
    if form["when"].strip():
        at = moment("when", form["when"])
        options["process_in" if isinstance(at, timedelta) else "process_at"] = at
    return payload, options, places


def _disclosed(visit: Visit, copy: Mapping[str, Any], origin: Origin | None, places: Sequence[Place]) -> list[str]:
    """What of the copy would not be hidden any more."""
    if origin is None or origin.is_editable:
        return disclosed(visit.seen(copy), places)
    is_same = copy["type"] == origin.task.type
    return [] if is_same else ["type: leave it as it is; what you do not see of the payload may be hidden by it"]


def _number(name: str, given: str) -> int:
    given = given.strip()
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise QueryError(f"{name}: no whole number; leave it empty, or give one such as 60")
    return int(given)


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text or "null", parse_constant=_refuse)
    except RecursionError:
        raise QueryError(f"{name}: it is nested too deep") from None
    except json.JSONDecodeError as error:
        raise QueryError(f"{name}: no JSON in line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise QueryError(f"{name}: no JSON: {error}") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is none of its numbers")


def _misfits(daemons: Sequence[DaemonInfo], task_type: str, payload: Any) -> list[str]:
    """What of the payload does not fit the type, as the daemons that live have declared it."""
    found: list[str] = []
    for daemon in daemons:
        for problem in problems(payload, schema_of(daemon.schemas, task_type)):
            if problem not in found:
                found.append(problem)
    return found


def _unhandled(daemons: Sequence[DaemonInfo], task_type: str) -> list[str]:
    """That none of the daemons that live and tell of their handlers has one for the type; it may be sent all the same:
    another may come.
    """  # noqa: D205 - one sentence
    known = {pattern for daemon in daemons for pattern in daemon.types}
    if not known or task_type.startswith(tuple(known)):
        return []
    near = closest(task_type, known)
    hint = f"; did you mean {near}?" if near else ""
    return [
        f"type: no living daemon tells of a handler for {task_type}; without one the task is archived at once{hint}"
    ]


def _diff(origin: Origin | None, form: Mapping[str, str]) -> list[list[str]]:
    """What differs from the old task, line by line: ``-``, ``+`` or nothing, and the line.

    A part that does not differ is left out, and one that does begins with its name.
    """
    before, now = _parts(_form_of(origin)) if origin else {}, _parts(form)
    found: list[list[str]] = []
    for part in (*_TEXTS, *_JSON.values()):
        old, new = before.get(part, []), now.get(part, [])
        reached = 0
        for line in [*difflib.unified_diff(old, new, n=3, lineterm="")][2:]:
            if not (head := _HEAD.match(line)):
                found.append([line[:1].strip(), line[1:]])
                reached += line[0] != "-"
                continue
            begins = int(head[1]) - 1
            if not reached and begins > 0:
                found.append(["", new[0]])
                reached = 1
            if begins > reached:
                found.append(["", "…"])
            reached = max(begins, 0)
    return found


def _parts(form: Mapping[str, str]) -> dict[str, list[str]]:
    """The lines of each part, the first one with its name."""
    texts = {name: [f"{name}: {form[name]}"] for name in _TEXTS if form[name]}
    return texts | {part: [f"{part}:", *_tidy(form[name]).splitlines()] for name, part in _JSON.items() if name in form}


def _tidy(text: str) -> str:
    """JSON as all JSON is shown, so that only what differs differs."""
    try:
        return _as_json(json.loads(text or "null"))
    except (ValueError, RecursionError):
        return text
