"""Move the tasks that wait at one broker to another one.

A task is stored there, with all that belongs to it, and only then deleted here: at each moment it is in one place at
least. Where the move was cut in between, the next one finds it there, and deletes it here. Meanwhile nothing is claimed
from its queue here, so that it does not run twice; a queue stays paused until a move has come to its end.
"""

import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.audit import Actor, Audit
from boilerd.broker.broker import Broker
from boilerd.broker.connection import raw, text
from boilerd.broker.inspection import Inspection
from boilerd.broker.refusals import translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.errors import ConfigError

#: Tasks in one step; either Redis is busy with them for a few milliseconds.
CHUNK = 100
#: Bytes of payloads in one step, unless one task alone has more.
CHUNK_BYTES = 8 * 1024 * 1024
#: How long `keys.MARK` stays.
_MARK_S = 10
#: RQ's word for the state in a job hash → where such a task stands.
_PLACES = {"queued": "queue", "scheduled": "scheduled", "failed": "failed"}
#: Why a task stays.
_REASONS = {
    "taken": "another task has its ID there", "locked": "another task holds its unique lock there",
    "active": "it has begun to run here",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a move.

    Attributes:
        moved: IDs of the tasks that are there now, and not here any more.
        left: ID → why the task stays here.
    """

    moved: list[str]
    left: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Record:
    """What belongs to a task, wherever it stands.

    Attributes:
        fields: Its job hash.
        ttl_ms: How long that is kept yet; below 0: for ever.
        entries: Its results, each an ID with its fields.
        has_dependents: Whether jobs of plain RQ's wait for its end.
    """

    fields: dict[bytes, bytes]
    ttl_ms: int
    entries: list[tuple[bytes, dict[bytes, bytes]]]
    has_dependents: int

    @property
    def place(self) -> str:
        """Where it waits; empty if it does not."""
        return _PLACES.get(text(self.fields.get(b"status", b"")), "")

    def described(
        self, task_id: str, holder: bytes | None, lock_ms: int, score: float | None, once_ms: int
    ) -> list[Any]:
        """The task as arrive.lua takes it; it keeps its unique lock only if that is its own."""
        holds = holder is not None and holder.removeprefix(b"ttl:") == raw(task_id) and lock_ms > 0
        locks = [self.fields[b"unique_key"], holder, str(lock_ms)] if holds else ["", "", "0"]
        at = repr(float(score or 0)) if self.place != "queue" else ""
        head = [raw(task_id), self.fields.get(b"origin", b""), self.place, at, str(self.ttl_ms), *locks, str(once_ms)]
        flat = [part for pair in self.fields.items() for part in pair]
        results: list[Any] = []
        for entry_id, values in self.entries:
            parts = [part for pair in values.items() for part in pair]
            results += [entry_id, str(len(parts)), *parts]
        return [*head, str(len(flat)), *flat, str(len(results)), *results]


class _Arrivals(ScriptCalls):
    """The broker to which tasks are moved."""

    def store(self, tasks: Sequence[Sequence[Any]]) -> list[str]:
        """Store tasks as arrive.lua takes them; its answer for each."""
        return [text(answer) for answer in self._run("arrive", [part for task in tasks for part in task])]


class Move:
    """Moves all waiting tasks of some queues.

    Args:
        source: The client of the broker where they are.
        target: The client of the broker to which they go.
        by: Who does it, for the audit of the source.
    """

    def __init__(self, source: redis.Redis, target: redis.Redis, by: Actor | None = None) -> None:
        self._source: Any = source  # whose answers redis-py cannot type
        self._target = target
        self._here, self._there = Broker(source), Broker(target)
        self._arrivals = _Arrivals(target)
        self._inspection = Inspection(source)
        self._audit = Audit(source, by or Actor())

    def check(self) -> None:
        """Raise ConfigError if both are one broker."""
        token = secrets.token_hex(8).encode()
        with translated():
            self._source.set(keys.MARK, token, ex=_MARK_S)
            if self._target.get(keys.MARK) == token:
                raise ConfigError("--to is the broker on which the tasks are; name another one")

    def queues(self) -> list[str]:
        """The names of all queues that were ever used."""
        return self._inspection.queue_names()[0]

    def run(self, queue: str) -> Generator[Step]:
        """Move the queue's tasks, a step at a time; those that are enqueued meanwhile are moved as well."""
        with self._audit.noting("move", queue=queue) as noted:
            noted.is_wanted = False  # of all the queues that are empty
            for step in self._steps(queue):
                noted.is_wanted = True
                noted.count += len(step.moved)
                yield step

    def _steps(self, queue: str) -> Iterator[Step]:
        self._pause(queue)
        for key, kind in (
            (keys.aside(queue), "zset"), (keys.queue(queue), "list"),
            (keys.registry("scheduled", queue), "zset"), (keys.registry("failed", queue), "zset"),
        ):  # fmt: skip
            yield from self._empty(key, kind)
        self._resume(queue)

    def _empty(self, key: str, kind: str) -> Iterator[Step]:
        staying = 0
        while ids := self._ids(key, kind, staying):
            step = self._move(ids)
            staying += len(step.left)
            yield step

    def _ids(self, key: str, kind: str, start: int) -> list[str]:
        """The next tasks, so many that a step stays small."""
        read = self._source.lrange if kind == "list" else self._source.zrange
        with translated():
            found = [text(each) for each in read(raw(key), start, start + CHUNK - 1)]
        sizes = self._pipe([("HSTRLEN", raw(keys.job(each)), "data") for each in found])
        total = 0
        for count, size in enumerate(sizes):
            total += size
            if count and total > CHUNK_BYTES:
                return found[:count]
        return found

    def _move(self, ids: list[str]) -> Step:
        described, left = self._describe(ids)
        answers = dict(zip(described, self._arrivals.store(list(described.values())), strict=True))
        left |= {each: _REASONS[answer] for each, answer in answers.items() if answer in _REASONS}
        moved = [each for each in described if each not in left]
        deleted = dict(zip(moved, self._here.act("delete", moved), strict=True)) if moved else {}
        for each, answer in deleted.items():
            if answer not in {"done", "unknown"}:
                self._there.act("delete", [each])
                left[each] = _REASONS.get(answer, f"it is {answer} here")
        return Step([each for each in moved if each not in left], left)

    def _describe(self, ids: list[str]) -> tuple[dict[str, list[Any]], dict[str, str]]:
        """The tasks as arrive.lua takes them, and those that cannot be moved, with the reason; two round trips."""
        waiting: dict[str, _Record] = {}
        left = {}
        for each, record in zip(ids, self._records(ids), strict=True):
            if record.has_dependents:
                left[each] = "jobs of RQ's wait for it"
            elif not record.place:
                left[each] = "it has no record, or does not wait"
            else:
                waiting[each] = record
        commands: list[tuple[Any, ...]] = []
        for each, record in waiting.items():
            lock = record.fields.get(b"unique_key", b"")
            queue = text(record.fields.get(b"origin", b""))
            score = keys.aside(queue) if record.place == "queue" else keys.registry(record.place, queue)
            commands += [
                ("GET", lock),
                ("PTTL", lock),
                ("ZSCORE", raw(score), raw(each)),
                ("PTTL", raw(keys.once(each))),
            ]
        found = self._pipe(commands)
        rows = zip(waiting.items(), found[::4], found[1::4], found[2::4], found[3::4], strict=True)
        return {each: record.described(each, *more) for (each, record), *more in rows}, left

    def _records(self, ids: list[str]) -> list["_Record"]:
        commands: list[tuple[Any, ...]] = []
        for each in ids:
            job, results = raw(keys.job(each)), raw(keys.results(each))
            commands += [("HGETALL", job), ("PTTL", job), ("XRANGE", results, "-", "+"),
                         ("EXISTS", job + b":dependents")]  # fmt: skip
        found = self._pipe(commands)
        return [_Record(*row) for row in zip(found[::4], found[1::4], found[2::4], found[3::4], strict=True)]

    def _pipe(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with translated(), self._source.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = pipeline.execute()
        return answers

    def _pause(self, queue: str) -> None:
        with translated():
            if not self._source.sismember(keys.PAUSED, raw(queue)):
                self._source.sadd(keys.MOVING, raw(queue))
                self._source.sadd(keys.PAUSED, raw(queue))

    def _resume(self, queue: str) -> None:
        """Let the queue be claimed from again, if a move paused it, this one or one that was cut off."""
        with translated():
            if not self._source.srem(keys.MOVING, raw(queue)):
                return
        self._inspection.resume(queue)
        self._here.ring(queue)
