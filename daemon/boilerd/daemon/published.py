"""What the daemon tells Redis of itself, for whoever asks on whatever host; `broker.daemons` reads it.

It is made in the scheduler, when that has begun its duties, so that no start waits for it. Everybody who can read Redis
reads it: there is no secret in it, and nothing that a task carries, so a periodic task has neither payload nor headers.
"""

import functools
import importlib.metadata
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from boilerd.errors import describe
from boilerd.settings.definitions import Settings, definitions
from boilerd.supervision.groups import group_of
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.worker.rq_worker import RQ_VERSION

if TYPE_CHECKING:
    from boilerd.tasks.payload_type import PayloadType

logger = logging.getLogger("boilerd.daemon")

#: Makes a member of a part, as JSON.
Maker = Callable[[], str]

#: Characters that each part may take as JSON, 320 KiB together; what has no room is left out, and counted.
ROOM = {"settings": 32 << 10, "crons": 64 << 10, "pools": 32 << 10, "types": 128 << 10, "schemas": 64 << 10}
#: Of one setting, schema or periodic task; a larger one is left out, so that it keeps no others out.
MOST_OF_ONE = 16 << 10
#: Settings that stand elsewhere, for they hold what tasks carry, or are nobody's business: who may see the dashboard.
_APART = frozenset({"cron", "web"})
#: Options of a periodic task whose values are of the application's data.
_CARRIED = frozenset({"headers"})


class Published:
    """The facts about a daemon.

    Args:
        name: What its workers' names begin with.
        settings: Of the daemon.
        mux: Of its application.
        types: For which that has handlers; an empty one: for all.
        crons: Its periodic tasks.
        broker: Name and version of the server.
        started_s: When it started or was reloaded, by the server's clock.
        pid: Of the supervisor.
    """

    def __init__(
        self,
        name: str,
        *,
        settings: Settings,
        mux: ServeMux,
        types: Sequence[str],
        crons: Sequence[CronEntry],
        broker: str,
        started_s: float,
        pid: int = 0,
    ) -> None:
        self.name = name
        self._settings = settings
        self._mux = mux
        self._types = types
        self._crons = crons
        self._broker = broker
        self._started_s = started_s
        self._pid = pid or os.getpid()

    def encoded(self, processes: Mapping[str, int]) -> str:
        """As JSON in ASCII; `processes`: how many workers each of Supervisor's groups has."""
        pools = [
            {"name": pool.name, "queues": pool.queues, "processes": processes.get(group_of(pool.name), 0),
             "slots": pool.slots}
            for pool in self._settings.worker_pools()
        ]  # fmt: skip
        told, left_out = self._lasting
        members, missing = _fitting("pools", [functools.partial(_json, pool) for pool in pools])
        counts = _json({name: count for name, count in {**left_out, "pools": missing}.items() if count})
        return f'{{{told},"pools":[{members}],"left_out":{counts}}}'

    @functools.cached_property
    def _lasting(self) -> tuple[str, Mapping[str, int]]:
        """What stays as it is, as the inside of an object; and how many members of each part were left out."""
        settings, no_settings = _fitting("settings", self._settings_told())
        crons, no_crons = _fitting("crons", [functools.partial(_line, entry) for entry in self._crons])
        types, no_types = _fitting("types", [functools.partial(_json, pattern) for pattern in self._types])
        schemas, no_schemas = _fitting("schemas", self._schemas())
        parts = f'"settings":{{{settings}}},"crons":[{crons}],"types":[{types}],"schemas":{{{schemas}}}'
        left_out = {"settings": no_settings, "crons": no_crons, "types": no_types, "schemas": no_schemas}
        return f"{_json(self._head())[1:-1]},{parts}", left_out

    def _head(self) -> dict[str, Any]:
        started_at = datetime.fromtimestamp(self._started_s, UTC)
        return {
            "host": socket.gethostname(), "pid": self._pid, "release": self._settings.release or "",
            "started_at": started_at.isoformat(timespec="milliseconds"),
            "versions": {
                "boilerd": importlib.metadata.version("boilerd"), "python": ".".join(map(str, sys.version_info[:3])),
                "rq": RQ_VERSION, "broker": self._broker,
            },
        }  # fmt: skip

    def _settings_told(self) -> list[Maker]:
        values = structs.asdict(self._settings)
        told = {each.name: each.shown(values[each.name]) for each in definitions() if each.name not in _APART}
        return [functools.partial(_member, name, value) for name, value in told.items()]

    def _schemas(self) -> list[Maker]:
        """Each is made when it is asked for: thousands of them would keep the scheduler from its duties."""
        return [functools.partial(_schema, pattern, kind) for pattern, kind in self._mux.payload_types().items()]


def _fitting(part: str, makers: Sequence[Maker]) -> tuple[str, int]:
    """The members of a part, from the first on, as many as there is room for; and how many are left out."""
    room = ROOM[part]
    looked_at, taken = 2 * room, []
    for make in makers:
        text = make()
        looked_at -= len(text)
        if text and len(text) <= MOST_OF_ONE:
            room -= len(text) + 1
            taken += [text] if room >= 0 else []
        if min(room, looked_at) < 0:
            break
    return ",".join(taken), len(makers) - len(taken)


def _line(entry: CronEntry) -> str:
    """A periodic task, without what its tasks carry."""
    options = {name: value for name, value in entry.options.items() if name not in _CARRIED}
    return _json({
        "name": entry.name, "spec": entry.spec, "timezone": entry.timezone, "type": entry.task_type,
        "queue": options.pop("queue", DEFAULT_QUEUE), "catch_up": entry.catch_up, "options": options,
    })  # fmt: skip


def _schema(pattern: str, kind: "PayloadType") -> str:
    """The schema of a type's payloads; empty where the library of the type makes none."""
    try:
        return _member(pattern, kind.schema())
    except Exception as error:  # noqa: BLE001 - code of a library, about a type of the application's
        logger.debug("payload has no schema", extra={"task_type": pattern, "error": describe(error)})
        return ""


def _member(name: str, value: Any) -> str:
    return f"{_json(name)}:{_json(value)}"


def _json(value: Any) -> str:
    """ASCII alone: bytes that are no text, as in a path, become escapes; a timedelta is shown in seconds."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
