"""Read which workers live that could run a task: those of its queue, with what their applications declare."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.circumstances import Server
from boilerd.broker.connection import raw, text
from boilerd.broker.neighbours import DEAD_S, Declared, declared_by, one_of_each
from boilerd.broker.refusals import sound, translated
from boilerd.broker.view_reader import to_count
from boilerd.broker.worker_records import WorkerRecords
from boilerd.tasks.queues import DEFAULT_POOL

#: Of a worker's record what `to_server` reads.
FIELDS = ("queues", "state", "last_heartbeat", "supervisor", "birthmark", "pool", "strict", "slots", "hostname")

#: Where it tells which daemon it is of.
_MARK = FIELDS.index("supervisor")
_SLOTS = FIELDS.index("slots")

Record = Sequence[bytes | None] | None


class ServerReader:
    """Reads them in three round trips, and more for hundreds, or where some have slots; raises BrokerError.

    Args:
        connection: The client of Redis.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection: Any = connection  # redis-py does not type all answers

    def of_queue(self, queue: str) -> list[Server]:
        """As `among`, of what Redis names."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for command, *words in (("TIME",), *questions(queue).values()):
                # redis-py's fast path would refuse names that are no UTF-8.
                pipeline.execute_command(command, *map(raw, words))
            (now_s, _), serving, workers = sound(pipeline.execute(raise_on_error=False))
        return self.among(queue, serving or (), workers or (), now_s)

    def among(self, queue: str, serving: Collection[bytes], workers: Collection[bytes], now_s: float) -> list[Server]:
        """Those of the queue, by name; and all others where none of ours lives among these: then it matters who does.

        There may be hundreds of others.

        Args:
            queue: Its name.
            serving: The names of its workers' records.
            workers: Of all.
            now_s: Redis's time.
        """
        found = self._living(serving, now_s)
        if not any(server.is_ours for server, _ in found.values()):
            found |= self._living({*workers} - {*serving}, now_s)
        declared = self._declared({name: mark for name, (server, mark) in found.items() if queue in server.queues})
        return [
            replace(server, declared=declared[name]) if name in declared else server
            for name, (server, _) in sorted(found.items())
        ]

    def _living(self, names: Collection[bytes], now_s: float) -> dict[str, tuple[Server, bytes | None]]:
        """Those that live, each with what tells its daemon, by the names of their records."""
        records = WorkerRecords(self._connection).read(names, FIELDS)
        living = ((name, to_server(name, record, now_s), record) for name, record in records.items())
        found = {name: (server, record[_MARK]) for name, server, record in living if server and record}
        several = [name for name, (server, _) in found.items() if server.is_busy and server.slots > 1]
        for name, run in zip(several, WorkerRecords(self._connection).runs(several), strict=True):
            server, mark = found[name]
            found[name] = replace(server, is_busy=run is None or run.held >= server.slots), mark
        return found

    def _declared(self, marks: Mapping[str, bytes | None]) -> dict[str, Declared | None]:
        """What their applications declare."""
        asked = one_of_each(marks)
        each = [*dict.fromkeys(asked.values())]
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for name in each:
                pipeline.execute_command("HGET", raw(name), "application")
            told = sound(pipeline.execute(raise_on_error=False))
        found = {name: declared_by(text(answer or b"")) for name, answer in zip(each, told, strict=True)}
        return {name: found[one] for name, one in asked.items()}


def questions(queue: str) -> dict[str, tuple[str, str]]:
    """The commands that tell what `ServerReader.among` wants."""
    return {"serving": ("SMEMBERS", f"{keys.WORKERS}:{queue}"), "workers": ("SMEMBERS", keys.WORKERS)}


def to_server(name: str, record: Record, now_s: float) -> Server | None:
    """The worker of a record, without what its application declares; None: it is dead, or the record is none.

    One with several slots counts as busy also where some are free.
    """
    if not record or record[0] is None:
        return None
    queues, state, heartbeat, _, birthmark, pool, strict, _, _ = (text(value or b"") for value in record)
    if birthmark and now_s - _seen_at(heartbeat) > DEAD_S:
        return None  # one of plain RQ gives a sign of life every few minutes only
    return Server(
        name=name.removeprefix(keys.worker("")),
        queues=queues.split(","),
        is_busy=state == "busy",
        is_starting=state == "starting",
        is_quiet=state == "suspended",
        is_ours=bool(birthmark),
        declared=None,
        pool=pool or DEFAULT_POOL,
        is_strict=bool(strict),
        slots=to_count(record[_SLOTS]) or 1,
    )


def _seen_at(heartbeat: str) -> float:
    with suppress(ValueError, OverflowError):
        seen = datetime.fromisoformat(heartbeat)
        return (seen if seen.tzinfo else seen.replace(tzinfo=UTC)).timestamp()
    return 0.0
