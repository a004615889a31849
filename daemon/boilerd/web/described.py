"""What programs are told of pages and actions beside their addresses: parameters, and fields that are sent.

A test opens every page and sends every action, and compares: what is read of a query or a form stands here, and what
stands here is read.
"""

from collections.abc import Mapping

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
    "escaped": "1: all these have escapes such as \\x00, and \\\\ for a backslash",
}  # fmt: skip
_CHOICE = {
    "queue": "the queue of the tasks", "state": "their state", **_SOUGHT,
    "fingerprint": "the failure group of their last failure", "id": "a task, up to 150 times, in place of all else",
}  # fmt: skip
_LOCK = {"queue": "its queue", "type": "its type", "digest": "of its payload, as /limits has it"}
_PAUSE = {"note": "why", "until": "when it ends by itself: 2h, or 2026-01-31T14:00 in UTC"}
_AS_OF = "the moment from which times of a search count back, in seconds since 1970"
_DAEMON = {"daemon": "its name, as `local` of /workers has it: another one that took its place is not touched"}
_BACK = "list, to lead people back to the list; with its query behind a question mark"
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
    "name": "the queue's or group's name, or `all queues`, where the answer to GET has it as to_type",
    "of": "with how many tasks at most",
}  # fmt: skip

#: Path of a page or an action → name in its query → what it means.
QUERIES: Mapping[str, Mapping[str, str]] = {
    "/tasks": {
        **_ORDER, "queue": "a queue", "state": "a state", **_SOUGHT, "looks": "how many tasks to look at, up to 50,000",
        "place": "where to go on: `more` of the answer before", "last": "1: the end of the list",
        "around": "a pending task: those around it",
    },
    "/queues/{queue}": {"more": "how many workers more: what would come of them is what_if of the answer"},
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
        "search": "1: look for unique locks", "queue": "those of a queue",
        "type": "of a type, or of what it begins with and *",
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
