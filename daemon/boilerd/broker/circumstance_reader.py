"""Read the circumstances of one task: up to seven round trips that only read, more for hundreds of workers, or slots.

None of these keeps Redis from others for more than about a millisecond: a task's place is looked for at both ends of
its queue, and of lists and sets some members are read. What is read are several moments, so that a task which moved
meanwhile is read again. Members of the daemon's `group` may send all of it (`embedded`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import redis

from boilerd.broker import keys
from boilerd.broker.circumstances import (
    DEFERRED,
    WAITING,
    Circumstances,
    Claimed,
    HeavierQueue,
    Holder,
    Longest,
    Server,
    Share,
    claiming,
)
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import LEASE_OFFSET_S, MOST_NEAR
from boilerd.broker.job_hash import read_call
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.broker.server_reader import FIELDS, ServerReader, questions, to_server
from boilerd.broker.states import REGISTRIES
from boilerd.broker.view_reader import claimed_at, to_attempt, to_completed, to_count, to_task
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.broker.worker_records import AT_ONCE, WorkerRecords
from boilerd.errors import ForbiddenJobError, MisplacedKeyError
from boilerd.tasks.task import TaskState

#: How many tasks that hold what this one waits for are named.
MOST_HOLDERS = 5
#: Tasks that one may depend on, of which the states are read.
MOST_DEPENDENCIES = 1000
#: The last completions of the queue that its present rate is reckoned from, and how old they may be.
COMPLETIONS, RECENT_S = 200, 300.0
#: Queues in whose last completions a task without a record is looked for, and how many are read at once.
MOST_QUEUES, QUEUES_AT_ONCE = 100, 5
#: A task may have moved between two of the commands; then it is read again, so many times at most.
_MOST_READS = 3
#: Queues that come first of which it is asked whether they hold tasks, for 0.1 ms; how many that do are told, and the
#: last completions of each from which its present rate is reckoned.
MOST_LENGTHS, MOST_HEAVIER, HEAVIER_COMPLETIONS = 200, 10, 20
#: Of tasks in these states it does not matter which workers there are.
_ENDED = frozenset({TaskState.COMPLETED, TaskState.ARCHIVED})

_Name = TypeVar("_Name", str, tuple[str, str])
#: A command with its arguments.
_Command = Sequence[str | int]
_Answers = Mapping[str, Any]


class CircumstanceReader:
    """Reads the circumstances of tasks; raises BrokerError if Redis does not answer, or refuses.

    Args:
        connection: The client of Redis.
        read_servers: Has the workers of a queue, as `ServerReader.of_queue` reads them; without it they are read.
    """

    def __init__(self, connection: redis.Redis, read_servers: Callable[[str], Sequence[Server]] | None = None) -> None:
        self._connection: Any = connection  # redis-py does not type all answers
        self._read_servers = read_servers

    def read(self, task_id: str) -> Circumstances | None:
        """Those of the task; None: there is no such task."""
        found = None
        for _ in range(_MOST_READS):
            found = self._read(task_id)
            if found is None or found.is_listed:
                break
        return found

    def completed(self, task_id: str) -> tuple[str, CompletedTask] | None:
        """The queue of a task that is gone, and its completion, as far as that is still known."""
        queues: list[str] = []
        with suppress(MisplacedKeyError), expecting("set", keys.SERVED):
            queues = sorted(map(text, self._connection.smembers(keys.SERVED)))[:MOST_QUEUES]
        for first in range(0, len(queues), QUEUES_AT_ONCE):
            chunk = queues[first : first + QUEUES_AT_ONCE]
            answers = self._ask({name: ("LRANGE", keys.completed(name), 0, 999) for name in chunk})
            for queue, notes in answers.items():
                for done in map(to_completed, notes or ()):
                    if done and done.id == task_id:
                        return queue, done
        return None

    def _read(self, task_id: str) -> Circumstances | None:
        with expecting("hash", keys.job(task_id)):
            fields: dict[bytes, bytes] = self._connection.hgetall(raw(keys.job(task_id)))
        if not fields:
            return None
        task = to_task(task_id, fields, None, ())
        found = self._ask(_first_questions(task) | self._questions_of_servers(task))
        attempts = [to_attempt(entry) for _, entry in found.get("attempts") or ()]
        task = to_task(task_id, fields, found.get("score"), attempts)
        servers = self._servers(task, found)
        more = self._ask(_second_questions(task, found, servers))
        seen = _circumstances(task, fields, found, more, servers)
        if task.state is not TaskState.PENDING:
            return seen
        return replace(seen, heavier=self._heavier(more, seen.now_s), longest=self._longest(servers, task.queue))

    def _questions_of_servers(self, task: TaskDetail) -> dict[str, _Command]:
        return {} if self._read_servers or task.state in _ENDED else {**questions(task.queue)}

    def _servers(self, task: TaskDetail, found: _Answers) -> Sequence[Server]:
        if task.state in _ENDED:
            return ()
        if self._read_servers:
            return self._read_servers(task.queue)
        named = found["serving"] or (), found["workers"] or ()
        return ServerReader(self._connection).among(task.queue, *named, found["now"][0])

    def _heavier(self, more: Mapping[tuple[str, str], Any], now_s: float) -> list[HeavierQueue]:
        """Those of the queues that come first that hold tasks which may be claimed; none: one round trip less."""
        holding = [(name, length) for (kind, name), length in more.items() if kind == "heavier" and length]
        lengths = dict(holding[:MOST_HEAVIER])
        asked: dict[tuple[str, str], _Command] = {}
        for name in lengths:
            asked["paused", name] = ("SISMEMBER", keys.PAUSED, name)
            asked["limit", name] = ("HGET", keys.LIMITS, f"{name}:max_active")
            asked["active", name] = ("ZCARD", keys.wip(name))
            asked["completed", name] = ("LRANGE", keys.completed(name), 0, HEAVIER_COMPLETIONS - 1)
        found = self._ask(asked) if asked else {}
        queues = []
        for name, pending in lengths.items():
            is_full = 0 < to_count(found["limit", name]) <= (found["active", name] or 0)
            # Empty or of another kind of key, it says nothing about a rate.
            done, since_s = _rate(found["completed", name] or (), 0, now_s)
            if not found["paused", name] and not is_full:
                queues.append(HeavierQueue(name, pending, done / max(now_s - since_s, 0.001)))
        return queues

    def _longest(self, servers: Sequence[Server], queue: str) -> Longest | None:
        """What the workers of the queue are busy with; not asked where some have time."""
        asked = claiming(servers, queue)
        if not asked or not all(server.is_busy for server in asked):
            return None
        some = [server.name for server in asked[:AT_ONCE]]
        runs = zip(some, WorkerRecords(self._connection).runs([keys.worker(name) for name in some]), strict=True)
        known = [(claimed_at(run), name, run) for name, run in runs if run and run.task_id]
        if not known:
            return None
        is_of_all = len(some) == len(asked) and all(run.held == 1 for _, _, run in known)
        since, name, run = min(known, key=lambda one: one[0].timestamp() if one[0] else math.inf)
        return Longest(text(run.task_id or b""), text(run.task_type or b""), name, since, is_of_all)

    def _ask(self, commands: Mapping[_Name, _Command]) -> dict[_Name, Any]:
        """The answer to each of the reading commands; None from a key of another kind. One round trip."""
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for command, *words in commands.values():
                # redis-py's fast path would refuse names that are no UTF-8.
                pipeline.execute_command(command, *(raw(word) if isinstance(word, str) else word for word in words))
            answers = pipeline.execute(raise_on_error=False)
        return dict(zip(commands, sound(answers), strict=True))


# --- What is asked


def _first_questions(task: TaskDetail) -> dict[str, _Command]:
    """By the task alone."""
    asked: dict[str, _Command] = {"now": ("TIME",)}
    asked |= _place_of(task) | _lock_of(task)
    if task.state is TaskState.ACTIVE:
        asked |= _claims(task)
    if task.state in WAITING or task.rq_status == DEFERRED:
        asked |= _hindrances(task)
    return asked


def _second_questions(task: TaskDetail, found: _Answers, servers: Sequence[Server]) -> dict[tuple[str, str], _Command]:
    """By what the first answers name: workers, holders, the jobs that it depends on, its claim; and by the day."""
    asked: dict[tuple[str, str], _Command] = {
        ("lease", ""): ("ZSCORE", keys.wip(task.queue), _claim_in(task, found)),
        ("own", ""): ("HMGET", keys.worker(task.worker), *FIELDS),
        ("today", ""): ("HGET", keys.stats(task.queue, found["now"][0] // 86400), "processed"),
    }
    for job in (*_running(found), *_under_key(found)):
        asked["holder", job] = ("HGET", keys.job(job), "worker_name")
    for job in map(text, found.get("dependencies") or ()):
        asked["needs", job] = ("HGET", keys.job(job), "status")
    if task.state is TaskState.PENDING:
        for name in _tried_before(claiming(servers, task.queue), task.queue)[:MOST_LENGTHS]:
            asked["heavier", name] = ("LLEN", keys.queue(name))
    return asked


def _tried_before(servers: Sequence[Server], queue: str) -> Sequence[str]:
    """The queues that each of these workers empties before it takes a task of this one."""
    if not servers:
        return ()
    others = [frozenset(server.tried_before(queue)) for server in servers[1:]]
    return [name for name in servers[0].tried_before(queue) if all(name in each for each in others)]


def _place_of(task: TaskDetail) -> dict[str, _Command]:
    """When a task is due or expires, or since when it waits for its key; and why the last attempt failed."""
    if task.state is TaskState.PENDING:
        return {"score": ("ZSCORE", keys.aside(task.queue), task.id)}
    registry = REGISTRIES.get(task.state) if task.state else None
    place: dict[str, _Command] = {"score": ("ZSCORE", keys.registry(registry, task.queue), task.id)} if registry else {}
    if task.state is TaskState.ARCHIVED and not task.last_error:  # a job that plain RQ's worker failed
        place["attempts"] = ("XREVRANGE", keys.results(task.id), "+", "-", "COUNT", 1)
    return place


def _lock_of(task: TaskDetail) -> dict[str, _Command]:
    if not task.unique_key.startswith(f"{keys.OWN}:unique:"):  # it may name any key
        return {}
    return {"lock": ("GET", task.unique_key), "lock_ms": ("PTTL", task.unique_key)}


def _hindrances(task: TaskDetail) -> dict[str, _Command]:
    """What may keep a waiting task from a worker."""
    queue, key = task.queue, task.concurrency_key
    asked: dict[str, _Command] = {
        "suspended": ("EXISTS", keys.SUSPENDED),
        "paused": ("SISMEMBER", keys.PAUSED, queue),
        "limit": ("HGET", keys.LIMITS, f"{queue}:max_active"),
        "active": ("ZCARD", keys.wip(queue)),
        "holders": ("ZRANGE", keys.wip(queue), 0, MOST_HOLDERS - 1),
        "length": ("LLEN", keys.queue(queue)),
        "completed": ("LRANGE", keys.completed(queue), 0, COMPLETIONS - 1),
        "dependencies": ("SRANDMEMBER", keys.dependencies(task.id), MOST_DEPENDENCIES),
    }
    if task.state is TaskState.PENDING:
        asked["head"] = ("LPOS", keys.queue(queue), task.id, "MAXLEN", MOST_NEAR)
        asked["tail"] = ("LPOS", keys.queue(queue), task.id, "RANK", -1, "MAXLEN", MOST_NEAR)
    if key:
        asked["running"] = ("ZCARD", keys.running(key))
        asked["under_key"] = ("ZRANGE", keys.running(key), 0, MOST_HOLDERS - 1)
        asked["waiting"] = ("ZCARD", keys.waiting(key))
        asked["rank"] = ("ZRANK", keys.waiting(key), task.id)
    return asked


def _claims(task: TaskDetail) -> dict[str, _Command]:
    """Where its claim is named; the second by plain RQ's workers alone, until the first heartbeat."""
    return {
        "claims": ("SMEMBERS", keys.worker_executions(task.worker)),
        "attempt": ("ZRANGE", keys.executions(task.id), -1, -1),
    }


# --- What the answers mean


def _circumstances(
    task: TaskDetail,
    fields: Mapping[bytes, bytes],
    found: _Answers,
    more: Mapping[tuple[str, str], Any],
    servers: Sequence[Server],
) -> Circumstances:
    seconds, microseconds = found["now"]
    now_s = seconds + microseconds / 1e6
    holders = {job: Holder(job, text(worker or b"")) for (kind, job), worker in more.items() if kind == "holder"}
    completions, since_s = _rate(found.get("completed") or (), to_count(more["today", ""]), now_s)
    lock, lock_ends_s = _lock(found, now_s)
    return Circumstances(
        now_s=now_s,
        task=task,
        refusal=_refusal(fields.get(b"data", b"")),
        is_cancelled=b"cancel_requested" in fields,
        allows_failures=fields.get(b"allow_dependency_failures") == b"1",
        is_suspended=bool(found.get("suspended")),
        is_paused=bool(found.get("paused")),
        misplaced=_misplaced(task, found),
        servers=servers,
        last_done=next(filter(None, map(to_completed, (found.get("completed") or ())[:1])), None),
        active=found.get("active") or 0,
        max_active=to_count(found.get("limit")),
        holders=[holders[job] for job in _running(found)],
        length=found.get("length") or 0,
        ahead=found["head"] if found.get("head") is not None else found.get("tail"),
        is_listed=_is_listed(task, found, more["lease", ""]),
        completions=completions,
        since_s=since_s,
        share=_share(fields, found, [holders[job] for job in _under_key(found)]) if task.concurrency_key else None,
        claimed=_claimed(more["lease", ""], more["own", ""], now_s) if task.state is TaskState.ACTIVE else None,
        lock=lock,
        lock_ends_s=lock_ends_s,
        dependencies={job: text(status or b"") for (kind, job), status in sorted(more.items()) if kind == "needs"},
    )


def _claim_in(task: TaskDetail, found: _Answers) -> str:
    """The claim of a task that runs, ``job ID:execution ID``; empty: there is none."""
    held = [text(pair) for pair in found.get("claims") or ()]
    begun = [f"{task.id}:{text(execution)}" for execution in found.get("attempt") or ()]
    return next((pair for pair in (*held, *begun) if pair.rpartition(":")[0] == task.id), "")


def _running(found: _Answers) -> list[str]:
    return [text(pair).rpartition(":")[0] for pair in found.get("holders") or ()]


def _under_key(found: _Answers) -> list[str]:
    return [text(job) for job in found.get("under_key") or ()]


def _refusal(data: bytes) -> str:
    with suppress(RecursionError):
        try:
            read_call(data)
        except ForbiddenJobError as error:
            return str(error)
    return ""


def _misplaced(task: TaskDetail, found: _Answers) -> tuple[str, str] | None:
    """advance.lua passes a queue over where one of these is of another kind."""
    if "length" in found and found["length"] is None:
        return keys.queue(task.queue), "list"
    if "active" in found and found["active"] is None:
        return keys.wip(task.queue), "sorted set"
    return None


def _is_listed(task: TaskDetail, found: _Answers, lease: float | None) -> bool:
    """Whether the task stands where its record says; true where that is not known."""
    if task.state is TaskState.ACTIVE:
        return lease is not None
    if task.state in {TaskState.SCHEDULED, TaskState.RETRY}:
        return found["score"] is not None
    if task.state is not TaskState.PENDING or found["length"] is None or found["length"] > 2 * MOST_NEAR:
        return True
    return any(found[place] is not None for place in ("head", "tail", "score"))


def _rate(notes: Sequence[bytes], today: int, now_s: float) -> tuple[int, float]:
    """How many tasks completed, and since when they are counted: lately, or else today."""
    ended = [done.ended_at.timestamp() for note in notes if (done := to_completed(note))]
    recent = [moment for moment in ended if now_s - RECENT_S < moment <= now_s]
    if len(recent) > 1:
        return len(recent), min(recent)
    return today, now_s - now_s % 86400


def _share(fields: Mapping[bytes, bytes], found: _Answers, holders: Sequence[Holder]) -> Share:
    limit = to_count(fields.get(b"concurrency_limit")) or 1
    return Share(limit, found.get("running") or 0, holders, found.get("rank"), found.get("waiting") or 0)


def _lock(found: _Answers, now_s: float) -> tuple[str, float | None]:
    lock = text(found.get("lock") or b"").removeprefix("ttl:")
    left_ms = found.get("lock_ms") or 0
    return lock, now_s + left_ms / 1000 if lock and left_ms > 0 else None


def _claimed(lease: float | None, record: Sequence[bytes | None] | None, now_s: float) -> Claimed:
    ends_s = None if lease is None else lease - LEASE_OFFSET_S if lease >= LEASE_OFFSET_S else lease
    worker = to_server("", record, now_s)
    return Claimed(ends_s, worker is not None, text((record and record[-1]) or b""))
