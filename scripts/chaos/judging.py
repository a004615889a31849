"""What came out of the chaos, compared with what went in."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import redis
from daemons import MOST_ACTIVE, QUEUES, SLOTS
from producer import CONCURRENCY
from wrecker import Wrecker

from boilerd.broker import keys

Span = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """One run of a handler; `end` is None where its process was killed."""

    task_id: str
    process: str
    queue: str
    start: float
    end: float | None
    result: str
    payload: str


def read_runs(directory: Path) -> tuple[dict[str, list[Run]], set[str]]:
    """Task ID → its runs in their order; and the tasks that handlers have enqueued."""
    runs: dict[str, list[Run]] = defaultdict(list)
    children: set[str] = set()
    for path in directory.iterdir():
        for run in _runs_of(path, children):
            runs[run.task_id].append(run)
    for found in runs.values():
        found.sort(key=lambda run: run.start)
    return runs, children


def _runs_of(process: Path, children: set[str]) -> Iterator[Run]:
    """Those of one process; with slots it may run a task whose lease had ended beside its own first run."""
    begun: dict[str, list[Run]] = defaultdict(list)
    for line in process.read_text().splitlines():
        task_id, _, what, when, queue, payload = line.split(" ", 5)
        if what == "child":
            children.add(f"{task_id}-child")
        elif what == "start":
            begun[task_id].append(Run(task_id, process.name, queue, float(when), None, "killed", payload))
        elif begun[task_id]:
            yield replace(begun[task_id].pop(), end=float(when), result=what)
    yield from itertools.chain.from_iterable(begun.values())


def has_cause(before: float, after: float, faults: Iterable[Span]) -> bool:
    """Whether a fault lies, at least in part, between the two moments."""
    return any(began <= after and before <= ended for began, ended in faults)


def unexplained(runs: dict[str, list[Run]], faults: list[Span]) -> tuple[int, list[str]]:
    """How many runs followed one that had not raised, or was not over, and the tasks for which that has no cause.

    A cause is a fault that lies, at least in part, between the beginnings of the two runs.
    """
    repeated, without = 0, []
    for task_id, found in runs.items():
        for before, after in pairwise(found):
            if before.result == "raise" and before.end and before.end <= after.start:
                continue
            repeated += 1
            if not has_cause(before.start, after.start, faults):
                without.append(task_id)
    return repeated, without


def crowds(runs: Iterable[Run], most: int, excuses: Iterable[Span] = ()) -> Iterator[str]:
    """The runs that began while as many as are allowed ran, for which there is no excuse.

    Killed processes left no end of theirs; these runs are not counted.
    """
    running: list[Run] = []
    for run in sorted((run for run in runs if run.end), key=lambda run: run.start):
        running = [other for other in running if other.end and other.end > run.start]
        if len(running) >= most and not has_cause(min(other.start for other in running), run.start, excuses):
            yield run.task_id
        running.append(run)


def by(runs: Iterable[Run], *names: str) -> Iterator[tuple[tuple[str, ...], list[Run]]]:
    """The runs that have these values in common."""
    found: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        found[tuple(getattr(run, name) for name in names)].append(run)
    yield from found.items()


def too_many(runs: list[Run], kinds: dict[str, str], excuses: list[Span]) -> dict[str, list[str]]:
    """The runs that should have waited for others: for a lock, a share of a key or a queue, or a slot."""
    unique = [run for run in runs if kinds.get(run.task_id, "").endswith(":unique")]
    shared = [run for run in runs if kinds.get(run.task_id, "").endswith(":shared")]
    return {
        "unique tasks at once": [
            bad
            for name in ("plain:unique", "async:unique")
            for _, same in by((run for run in unique if kinds[run.task_id] == name), "queue", "payload")
            for bad in crowds(same, 1, excuses)
        ],
        "too many of a key": [bad for _, same in by(shared, "payload") for bad in crowds(same, CONCURRENCY, excuses)],
        "too many of a queue": [
            bad for (queue,), same in by(runs, "queue") if queue in MOST_ACTIVE
            for bad in crowds(same, MOST_ACTIVE[queue], excuses)
        ],
        "more than slots": [
            bad for (_, queue), same in by(runs, "process", "queue") for bad in crowds(same, SLOTS[queue])
        ],
    }  # fmt: skip


def judge(
    client: redis.Redis,
    accepted: dict[str, str],
    waited: dict[str, str],
    runs: dict[str, list[Run]],
    wrecker: Wrecker,
) -> dict[str, object]:
    """Compare what went in with what came out."""
    completed, archived = (members(client, kind) for kind in ("finished", "failed"))
    counted: Counter[str] = Counter()
    for key in client.scan_iter(f"{keys.OWN}:stats:*"):
        counted.update({name.decode(): int(value) for name, value in client.hgetall(key).items()})
    results = {task_id: {run.result for run in found} for task_id, found in runs.items()}
    may_be_deleted = {task_id for task_id, task_type in accepted.items() if task_type.endswith(":cancelled")}
    may_be_archived = {task_id for task_id, task_type in accepted.items() if task_type.endswith(":doomed")}
    repeated, without = unexplained(runs, wrecker.times + wrecker.lease_times)
    troubles = {
        "missing": sorted(set(accepted) - completed - archived - may_be_deleted),
        "completed and archived": sorted(completed & archived),
        "archived without a reason": sorted(archived - may_be_archived - may_be_deleted),
        "waited in vain": [
            f"{task_id}: {told}"
            for task_id, told in waited.items()
            if task_id not in {"completed": completed, "archived": archived}.get(told, ())
        ],
        "completed without a run": sorted(task_id for task_id in completed if "end" not in results.get(task_id, ())),
        "mixed contexts": sorted(task_id for task_id, found in results.items() if "mixed" in found),
        "repeated without a cause": without,
        **too_many([run for found in runs.values() for run in found], accepted, wrecker.lease_times),
        "not settled": [] if is_settled(client) else ["some task waits or runs"],
        "counters": [] if counted["processed"] - counted["failed"] == len(completed) else [dict(counted)],
    }
    return {
        "accepted": len(accepted),
        "completed": len(completed),
        "archived": len(archived),
        "waited_for": len(waited),
        "repeated_runs": repeated,
        "faults": dict(wrecker.done),
        "troubles": {name: [len(found), *found[:10]] for name, found in troubles.items() if found},
    }


def members(client: redis.Redis, kind: str) -> set[str]:
    """Tasks in RQ's registries of this kind."""
    return {member.decode() for queue in QUEUES for member in client.zrange(keys.registry(kind, queue), 0, -1)}


def is_settled(client: redis.Redis) -> bool:
    """Whether nothing waits or runs."""
    try:
        return not any(
            client.llen(keys.queue(q)) + client.zcard(keys.wip(q)) + client.zcard(keys.registry("scheduled", q))
            for q in QUEUES
        )
    except redis.RedisError:
        return False
