"""Properties of the broker, over random sequences of everything that it can be told.

A model in Python knows what became of each task. After every step all keys of a real Valkey
are read and compared with it. Redis's clock cannot be set: time moves by moving all scores and
expiries back.

`HYPOTHESIS_PROFILE=long` looks for minutes instead of seconds.
"""

import enum
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import structs

from boilerd.broker import broker as broker_module
from boilerd.broker import keys, scheduler_calls
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Advance, Claim, Completion, Failure
from boilerd.broker.constants import LEASE_OFFSET_S, LEASE_S
from boilerd.broker.job_hash import NewTask
from boilerd.errors import DuplicateTaskError, QueueFullError, TaskIdConflictError
from boilerd.tasks.headers import NO_HEADERS, Headers
from boilerd.tasks.options import TaskOptions, UniqueUntil
from boilerd.tasks.retry import Decision, Verdict
from boilerd.tasks.task import ARCHIVE_TTL_S, TaskState

DAY_S = 86_400.0
#: Small, so that few tasks reach them.
ARCHIVE_LIMIT, CHUNK = 3, 4
#: What Redis rounds a TTL to, and what a score loses on its way through a script.
EXACT_S = 0.005
#: Not a whole number of seconds, so that no sum of moves meets a TTL within a few milliseconds.
MOVES_S = (1.013, 8.013, 8.013, 31.013, 31.013, 61.013, 95.013, 700.013, 91 * DAY_S + 0.013)
MAX_RETRIES = 3

IDS = [f"t{number}" for number in range(8)]
QUEUES = ("critical", "default", "low")
WORKERS = ("host.run.0", "host.run.1", "host.run.2")
#: Concurrency keys, each with the limit that all its tasks have.
SHARES = {"one": 1, "two": 2}

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SETTINGS = settings(
    max_examples=2_000 if IS_LONG else 150,
    stateful_step_count=80 if IS_LONG else 50,
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.timeout(3600 if IS_LONG else 300)  # a failure is made small first

#: Everything that the server holds, as it stands at one moment: time, and for each key its name, type, TTL, contents.
_DUMP = """
local t = redis.call('TIME')
local read = {
  string = {'GET'}, list = {'LRANGE', 0, -1}, set = {'SMEMBERS'}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'},
  hash = {'HGETALL'}, stream = {'XLEN'},
}
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local how = read[kind]
  found[#found + 1] = {key, kind, redis.call('PTTL', key), redis.call(how[1], key, unpack(how, 2))}
end
return {t[1], t[2], found}
"""
#: Let ARGV[1] seconds pass: for expiries, for times in scores, and for the starts of attempts.
_MOVE = """
local by = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, left = redis.call('TYPE', key).ok, redis.call('PTTL', key)
  if left >= 0 and left <= by * 1000 then
    redis.call('DEL', key)
  else
    if left >= 0 then redis.call('PEXPIRE', key, string.format('%d', left - by * 1000)) end
    if kind == 'zset' then
      local pairs_ = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
      for i = 1, #pairs_, 2 do
        if pairs_[i + 1] ~= 'inf' then
          redis.call('ZADD', key, 'XX', string.format('%.6f', tonumber(pairs_[i + 1]) - by), pairs_[i])
        end
      end
    elseif key:find(':execution:', 1, true) then
      local started = tonumber(redis.call('HGET', key, 'created_at'))
      if started then redis.call('HSET', key, 'created_at', string.format('%.6f', started - by)) end
    end
  end
end
"""


class Place(enum.Enum):
    """Where a task can be; PENDING is its queue, or the line for its concurrency key."""

    PENDING = "queued"
    ACTIVE = "started"
    SCHEDULED = "scheduled"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(slots=True)
class Known:
    """What the model knows of a task.

    Attributes:
        lock: The key of its unique lock, whether it still has it or not.
        attempts: How many ended, with success or not, and were recorded.
        at: When it is due, when its lease ends, or when it expires: Redis's score.
        ends: When its record expires.
        has_share: Whether it is listed as running under its concurrency key; a day without heartbeats ends that.
        is_renewed: Whether a heartbeat found its claim: from then on RQ's list of its executions has it.
    """

    id: str
    options: TaskOptions
    lock: str | None
    place: Place = Place.PENDING
    retried: int = 0
    attempts: int = 0
    at: float = 0.0
    ends: float = math.inf
    worker: str = ""
    claim: Claim | None = None
    started: float = 0.0
    is_cancelled: bool = False
    has_share: bool = False
    is_renewed: bool = False

    @property
    def queue(self) -> str:
        return self.options.queue

    @property
    def pair(self) -> str:
        return f"{self.id}:{self.claim.execution_id if self.claim else None}"


@dataclass(slots=True)
class Lock:
    holder: str
    until: UniqueUntil
    ends: float


@dataclass(slots=True)
class Snapshot:
    """All keys of the server at a moment; times are the model's, which never go back."""

    at: float
    shift: float
    ends: dict[str, float] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    zsets: dict[str, dict[str, float]] = field(default_factory=dict)
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    streams: dict[str, int] = field(default_factory=dict)

    def contents(self) -> tuple[Any, ...]:
        """What an operation that is refused must leave alone."""
        workers = {keys.worker(name) for name in WORKERS}
        hashes = {key: value for key, value in self.hashes.items() if key not in workers}
        zsets = {
            key: {member: round(score, 3) for member, score in members.items()} for key, members in self.zsets.items()
        }
        return self.strings, self.lists, self.sets, zsets, hashes, self.streams

    def pending(self) -> Counter[str]:
        """How many tasks of each queue wait, in it or for a share of their key."""
        names = {queue: (keys.queue(queue), keys.aside(queue)) for queue in QUEUES}
        return Counter(
            {q: len(self.lists.get(line, ())) + len(self.zsets.get(aside, ())) for q, (line, aside) in names.items()}
        )

    def score(self, key: str, member: str) -> float:
        return self.zsets[key][member]


def text(value: object) -> Any:
    """Bytes at any depth as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return [text(item) for item in value] if isinstance(value, list) else value


def close(actual: float, low: float, high: float) -> bool:
    return low - EXACT_S <= actual <= high + EXACT_S


def under(prefix: str, found: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The keys below a prefix, and what follows it in each."""
    return ((key, key.removeprefix(prefix)) for key in found if key.startswith(prefix))


@st.composite
def new_tasks(draw: st.DrawFn) -> NewTask:
    key = draw(st.sampled_from([None, *SHARES]))
    options = TaskOptions(
        queue=draw(st.sampled_from(QUEUES)),
        timeout_s=draw(st.sampled_from([1800, 5])),
        max_retries=draw(st.sampled_from([None, 2])),
        retention_s=draw(st.sampled_from([0, 0, 60, 1000, -1])),
        process_in_s=draw(st.sampled_from([0.0, 0.0, 0.0, 2.0, 40.0, 3600.0])),
        unique_s=draw(st.sampled_from([0.0, 20.5, 300.0, 100 * DAY_S])),
        unique_until=draw(st.sampled_from(UniqueUntil)),
        concurrency_key=key,
        concurrency_limit=SHARES.get(key or "", 1),
        once_s=draw(st.sampled_from([0.0, 20.5, 300.0])),
        headers=draw(st.sampled_from([NO_HEADERS, Headers({"tenant-id": "7"})])),
    )
    return NewTask(draw(st.sampled_from(IDS)), "test:echo", draw(st.sampled_from([b"1", b"2"])), options)


decisions = st.one_of(
    st.builds(Decision, st.just(Verdict.RETRY), st.sampled_from([0.0, 2.5, 50.0, 4000.0]), st.booleans()),
    st.builds(Decision, st.sampled_from([Verdict.ARCHIVE, Verdict.DROP]), st.just(0.0), st.booleans()),
)
workers = st.sampled_from(WORKERS)
queues = st.sampled_from(QUEUES)
orders = st.permutations(QUEUES).flatmap(lambda order: st.sampled_from([order, order, order[:1]]))
picks = st.integers(0, 7)
limits = st.sampled_from([1, 1, 2, 16])


class BrokerMachine(RuleBasedStateMachine):
    """Drives a Broker, and says after every step what the server must hold."""

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__()
        connection.flushall()
        self.connection = connection
        self.broker = Broker(connection, archive_limit=ARCHIVE_LIMIT)
        self._dump = connection.register_script(_DUMP)
        self._move = connection.register_script(_MOVE)
        self.known: dict[str, Known] = {}
        self.locks: dict[str, Lock] = {}
        #: Task ID → until when it is remembered, also when its task is gone.
        self.remembered: dict[str, float] = {}
        #: Entries of tasks whose records expired, until the janitor comes: kind, queue, ID.
        self.stale: set[tuple[str, str, str]] = set()
        self.paused: set[str] = set()
        self.limits: dict[str, int] = {}
        self.processed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.stats_end: dict[str, float] = {}
        self.well: Counter[str] = Counter()
        self.badly: Counter[str] = Counter()
        self.completed: dict[str, list[str]] = defaultdict(list)
        self.over: list[tuple[str, Claim]] = []
        self.ticks = 0
        self.shift = 0.0
        for worker in WORKERS:
            self.broker.register(worker, QUEUES, {"state": "idle"})
        self.seen = self._read()

    # What can happen.

    @rule(batch=st.lists(new_tasks(), min_size=1, max_size=3))
    def enqueue(self, batch: list[NewTask]) -> None:
        self._enqueue(batch)

    @rule(key=st.sampled_from([*SHARES]), places=st.lists(queues, min_size=2, max_size=3))
    def enqueue_tasks_that_share_a_key(self, key: str, places: list[str]) -> None:
        free = [task_id for task_id in IDS if task_id not in self.known]
        options = [TaskOptions(queue=queue, concurrency_key=key, concurrency_limit=SHARES[key]) for queue in places]
        self._enqueue([NewTask(task_id, "test:echo", b"1", each) for task_id, each in zip(free, options, strict=False)])

    @precondition(lambda self: self._remembered_alone())
    @rule(task=new_tasks(), pick=picks)
    def enqueue_again_what_is_remembered_alone(self, task: NewTask, pick: int) -> None:
        gone = self._remembered_alone()
        self._enqueue([structs.replace(task, id=gone[pick % len(gone)])])

    def _remembered_alone(self) -> list[str]:
        """The IDs of which nothing else is left."""
        return sorted(self.remembered.keys() - self.known.keys())

    def _enqueue(self, batch: list[NewTask]) -> None:
        before = self.seen
        answers = self.broker.enqueue(batch)
        self._look()
        waiting = before.pending()
        for task, answer in zip(batch, answers, strict=True):
            expected = self._store(task, before, waiting)
            if isinstance(expected, TaskState):
                assert answer is expected
            else:
                assert type(answer) is type(expected)
                assert str(answer) == str(expected)

    @rule(task=new_tasks(), is_late=st.booleans())
    def tick(self, task: NewTask, is_late: bool) -> None:
        before = self.seen
        self.ticks += not is_late
        assert self.broker.tick("entry", float(self.ticks), task)[0] is not is_late
        self._look()
        if not is_late:
            waiting = before.pending()
            self._store(task, before, waiting)

    @rule(worker=workers, order=orders, result=st.sampled_from([b"", b"1"]), limit=limits)
    def acknowledge_and_claim(self, worker: str, order: Sequence[str], result: bytes, limit: int) -> None:
        self._advance(worker, order, acknowledges=True, result=result, limit=limit)

    @rule(worker=workers, order=orders, limit=limits)
    def claim(self, worker: str, order: Sequence[str], limit: int) -> None:
        self._advance(worker, order, acknowledges=False, limit=limit)

    @rule()
    def claim_all_that_can_be(self) -> None:
        for worker in WORKERS:
            self._advance(worker, QUEUES, acknowledges=False)

    def _advance(
        self, worker: str, order: Sequence[str], *, acknowledges: bool, result: bytes = b"", limit: int = 1
    ) -> None:
        before = self.seen
        mine = self._held(worker) if acknowledges else []
        done = [Completion(known.claim, result) for known in mine if known.claim]
        answer = self.broker.advance(worker, order, done, limit=limit)
        self._look()
        assert len(answer.claims) <= limit
        assert answer.lost == []
        for known in mine:
            self._complete(known, before)
        left = before.sets.get(keys.worker_executions(worker), set()) - {
            f"{one.claim.task_id}:{one.claim.execution_id}" for one in done
        }
        assert answer.holds_more is bool(left)
        if left:
            assert answer.claims == []
        else:
            self._check_claim(worker, order, answer, before)

    @precondition(lambda self: self._active())
    @rule(worker=workers, result=st.sampled_from([b"", b"1"]))
    def acknowledge(self, worker: str, result: bytes) -> None:
        before, mine = self.seen, self._held(worker)
        answer = self.broker.advance(worker, (), [Completion(known.claim, result) for known in mine if known.claim])
        self._look()
        assert (answer.lost, answer.claims) == ([], [])
        for known in mine:
            self._complete(known, before)

    @precondition(lambda self: self._active())
    @rule(pick=picks, decision=decisions)
    def fail(self, pick: int, decision: Decision) -> None:
        active = self._active()
        self._fail(active[pick % len(active)], decision)

    @precondition(lambda self: self._active())
    @rule(outcomes=st.lists(st.one_of(st.none(), decisions), min_size=1, max_size=3))
    def end_what_runs_and_claim_more(self, outcomes: list[Decision | None]) -> None:
        for known, outcome in zip(self._active(), outcomes, strict=False):
            if outcome:
                self._fail(known, outcome)
        self.claim_all_that_can_be()

    @rule(task=new_tasks(), outcomes=st.lists(decisions, min_size=1, max_size=3))
    def enqueue_claim_and_fail(self, task: NewTask, outcomes: list[Decision]) -> None:
        self._enqueue([task])
        self.claim_all_that_can_be()
        for known, outcome in zip(self._active(), outcomes, strict=False):
            self._fail(known, outcome)

    @rule(seconds=st.sampled_from([8.013, 61.013]))
    def forward_and_claim_what_comes_due(self, seconds: float) -> None:
        self.let_time_pass(seconds)
        self.forward()
        self.claim_all_that_can_be()

    @precondition(lambda self: self._in(Place.PENDING))
    @rule(pick=picks)
    def cancel_one_that_waits(self, pick: int) -> None:
        pending = self._in(Place.PENDING)
        self.cancel(pending[pick % len(pending)].id)

    @precondition(lambda self: self._active())
    @rule(pick=picks)
    def write_result(self, pick: int) -> None:
        active = self._active()
        known = active[pick % len(active)]
        assert known.claim
        assert self.broker.write_result(known.claim, b"1")
        self._look()

    @precondition(lambda self: self._active())
    @rule(worker=workers, keeps=st.booleans())
    def release(self, worker: str, keeps: bool) -> None:
        before = self.seen
        held = [known for known in self._held(worker) if known.pair in self._pairs(worker)]
        keep = {known.claim.execution_id for known in held[:1] if known.claim} if keeps else set()
        released = self.broker.release(worker, keep=keep)
        after = self._look()
        back = [known for known in held if known.claim and known.claim.execution_id not in keep]
        assert sorted(released) == sorted(known.id for known in back if not known.is_cancelled)
        for known in back:
            self._end_claim(known, Place.PENDING)
            if known.is_cancelled:
                self._forget(known)
        for queue in {known.queue for known in back}:
            old = before.lists.get(keys.queue(queue), [])
            assert not old or after.lists[keys.queue(queue)][-len(old) :] == old

    @rule()
    def forward(self) -> None:
        before = self.seen
        moved, left_s = self.broker.forward()
        after = self._look()
        due = [known for known in self._in(Place.SCHEDULED) if known.at <= before.at]
        gone = [known for known in self._in(Place.SCHEDULED) if known.id not in after.zsets.get(_scheduled(known), {})]
        assert len(gone) == moved
        assert moved >= min(len(due), CHUNK)
        for queue in QUEUES:
            left = after.zsets.get(keys.registry("scheduled", queue), {})
            ids = [
                task_id for task_id in before.zsets.get(keys.registry("scheduled", queue), {}) if task_id not in left
            ]
            assert after.lists.get(keys.queue(queue), []) == before.lists.get(keys.queue(queue), []) + ids
        for known in gone:
            assert known.at <= after.at
            known.place = Place.PENDING
        rest = [known.at for known in self._in(Place.SCHEDULED)]
        assert (left_s is None) is not bool(rest)
        if left_s is not None:
            assert close(left_s, max(0.0, min(rest) - after.at), max(0.0, min(rest) - before.at))

    @precondition(lambda self: self._active() or self.seen.sets.get(f"{keys.OWN}:keys"))
    @rule(decision=decisions)
    def recover(self, decision: Decision) -> None:
        before = self.seen
        found = self.broker.expired()
        after = self._look()
        for key, limit in SHARES.items():  # whoever was called earlier may be in a queue that is closed
            left = after.zsets.get(f"{keys.OWN}:waiting:{key}", {})
            called = after.zsets.get(f"{keys.OWN}:called:{key}", {})
            coming = [task_id for task_id in called if self.known[task_id].queue not in self.paused]
            assert not left or len(after.zsets.get(f"{keys.OWN}:running:{key}", {})) + len(coming) >= limit
        assert {claim.task_id for _, claim in found} >= {k.id for k in self._active() if k.at <= before.at}
        assert {claim.task_id for _, claim in found} <= {k.id for k in self._active() if k.at <= after.at}
        for worker, claim in found:
            known = self.known[claim.task_id]
            assert (known.worker, known.pair) == (worker, f"{claim.task_id}:{claim.execution_id}")
            assert claim.task is not None
            assert claim.task.attempt == known.retried + 1
            self._fail(known, decision, claim)

    @rule(worker=workers)
    def respawn(self, worker: str) -> None:
        """A worker dies; its successor counts what it held."""
        self.broker.register(worker, QUEUES, {"state": "starting"})
        self.well[worker] = self.badly[worker] = 0
        self._look()
        held = self.broker.held(worker)
        assert {f"{claim.task_id}:{claim.execution_id}" for claim in held} == self._pairs(worker)
        for claim in held:
            self._fail(self.known[claim.task_id], Decision(Verdict.RETRY, 1.0), claim)

    @precondition(lambda self: self._active())
    @rule(names=st.sets(workers, min_size=1))
    def extend(self, names: set[str]) -> None:
        before = self.seen
        renewed = [
            known for known in self._active() if known.worker in names and known.pair in self._pairs(known.worker)
        ]
        late = {
            known.id
            for known in renewed
            if known.started + (known.options.timeout_s or math.inf) < before.at
            and keys.execution(known.pair) in before.hashes
        }
        told = {known.worker for known in renewed if known.is_cancelled}
        overdue, cancelled = self.broker.extend(sorted(names))
        after = self._look()
        assert set(cancelled) == told
        assert {found.task_id for found in overdue} == late
        for known in renewed:
            known.at = after.score(keys.wip(known.queue), known.pair)
            assert close(known.at, before.at + LEASE_S, after.at + LEASE_S)
            known.is_renewed = True
            known.has_share = known.options.concurrency_key is not None
            if keys.execution(known.pair) not in before.hashes:  # written anew
                known.started = float(after.hashes[keys.execution(known.pair)]["created_at"]) + self.shift
                assert close(known.started, before.at, after.at)

    @precondition(lambda self: self._active())
    @rule()
    def live_through_an_outage(self) -> None:
        """The leases' records expire, and then heartbeats come before the recoverer does."""
        self.extend(set(WORKERS))
        self.let_time_pass(95.013)
        self.extend(set(WORKERS))

    @rule(paused=st.sampled_from([(), (), *((queue,) for queue in QUEUES), QUEUES[1:]]))
    def pause(self, paused: Sequence[str]) -> None:
        self.paused = set(paused)
        self.connection.delete(keys.PAUSED)
        for queue in paused:
            self.connection.sadd(keys.PAUSED, queue)
        self._look()

    @rule(worker=workers)
    def suspend(self, worker: str) -> None:
        """`rq suspend` holds all claims, `rq resume` ends it."""
        self.connection.set(keys.SUSPENDED, 1)
        before = self._look()
        assert self.broker.advance(worker, QUEUES).claims == []
        assert self._look().contents() == before.contents()
        self.connection.delete(keys.SUSPENDED)
        self._look()

    @rule(
        active=st.dictionaries(queues, st.integers(1, 2), max_size=1),
        length=st.dictionaries(queues, st.integers(1, 3), max_size=2),
    )
    def set_limits(self, active: dict[str, int], length: dict[str, int]) -> None:
        self.limits = {f"{queue}:max_active": limit for queue, limit in active.items()}
        self.limits |= {f"{queue}:max_length": limit for queue, limit in length.items()}
        self.broker.set_limits(self.limits, QUEUES)
        self._look()

    @rule(task_id=st.sampled_from(IDS))
    def cancel(self, task_id: str) -> None:
        answer = self.broker.cancel(task_id)
        self._look()
        known = self.known.get(task_id)
        if known is None:
            assert answer == "unknown"
        elif known.place is Place.ACTIVE:
            assert answer == "told"
            known.is_cancelled = True
        elif known.place in {Place.FINISHED, Place.FAILED}:
            assert answer == "ended"
        else:
            assert answer == "deleted"
            self._forget(known)

    @rule(task_id=st.sampled_from(IDS))
    def mark_cancelled(self, task_id: str) -> None:
        """RQ's stop-job says nothing of tasks that do not run."""
        known = self.known.get(task_id)
        is_active = known is not None and known.place is Place.ACTIVE
        assert self.broker.mark_cancelled(task_id) is is_active
        self._look()
        if known and is_active:
            known.is_cancelled = True

    @precondition(lambda self: self.stale or self.known)
    @rule()
    def clean(self) -> None:
        removed = self.broker.clean()
        after = self._look()
        left = {entry for entry in self.stale if entry[2] in after.zsets.get(keys.registry(*entry[:2]), {})}
        assert removed == min(len(self.stale), CHUNK)
        assert removed == len(self.stale) - len(left)
        self.stale = left

    @precondition(lambda self: self.over)
    @rule(pick=picks, order=st.sampled_from([(), QUEUES]))
    def acknowledge_again(self, pick: int, order: Sequence[str]) -> None:
        """What ended, or was taken over, cannot end once more."""
        worker, claim = self.over[-1 - pick % len(self.over)]
        before = self.seen
        answer = self.broker.advance(worker, (), [Completion(claim, b"2")])
        assert (answer.lost, answer.claims) == ([claim.task_id], [])
        for verdict in Verdict:
            assert not self.broker.fail(worker, claim, Failure("late", "", Decision(verdict), MAX_RETRIES))
        assert not self.broker.write_result(claim, b"2")
        assert self._look().contents() == before.contents()

    @rule(seconds=st.sampled_from(MOVES_S))
    def let_time_pass(self, seconds: float) -> None:
        self._move(args=[repr(seconds)])
        self.shift += seconds
        self.seen = self._read()
        self._expire()

    # What must be so after each of them.

    @invariant()
    def every_task_is_in_exactly_one_place(self) -> None:
        places = self._places()
        kinds = {Place.ACTIVE: "wip", Place.SCHEDULED: "scheduled", Place.FINISHED: "finished", Place.FAILED: "failed"}
        expected = {}
        for known in self.known.values():
            if known.place is Place.PENDING:
                line = ("waiting", known.options.concurrency_key)
                expected[known.id] = [line if line in places[known.id] else ("queue", known.queue)]
            else:
                member = known.pair if known.place is Place.ACTIVE else known.id
                expected[member] = [(kinds[known.place], known.queue)]
        assert places == expected

    @invariant()
    def every_record_says_where_its_task_is(self) -> None:
        records = {task_id: self.seen.hashes[key] for key, task_id in under(f"{keys.RQ}:job:", self.seen.hashes)}
        assert records.keys() == self.known.keys()
        for known in self.known.values():
            record = records[known.id]
            assert record["status"] == known.place.value
            assert record["origin"] == known.queue
            assert "cancel_requested" in record if known.is_cancelled else "cancel_requested" not in record
            assert int(record.get("number_of_retries", 0)) == known.retried
            assert ("ended_at" in record) is (known.place in {Place.FINISHED, Place.FAILED})
            ends = self.seen.ends[keys.job(known.id)]
            assert ends == known.ends or close(ends, known.ends, known.ends)

    @invariant()
    def every_score_stays_as_it_was_given(self) -> None:
        for known in self.known.values():
            if known.place is Place.ACTIVE:
                score = self.seen.score(keys.wip(known.queue), known.pair)
            elif known.place is not Place.PENDING:
                score = self.seen.score(keys.registry(known.place.value, known.queue), known.id)
            else:
                continue
            assert score == known.at or close(score, known.at, known.at)

    @invariant()
    def the_archive_lists_what_is_in_it(self) -> None:
        for queue in QUEUES:
            listed = {task_id for task_id in self.seen.zsets.get(keys.archived(queue), {}) if task_id in self.known}
            assert listed >= {known.id for known in self._in(Place.FAILED) if known.queue == queue}
            assert len(listed) <= ARCHIVE_LIMIT

    @invariant()
    def the_results_are_those_of_the_attempts(self) -> None:
        found = {task_id: self.seen.streams[key] for key, task_id in under(f"{keys.RQ}:results:", self.seen.streams)}
        assert found == {known.id: min(known.attempts, 30) for known in self.known.values() if known.attempts}
        for task_id in found:
            ends = self.known[task_id].ends
            actual = self.seen.ends[keys.results(task_id)]
            assert actual == ends or close(actual, ends, ends)

    @invariant()
    def leases_executions_and_workers_agree(self) -> None:
        seen = self.seen
        pairs = {known.pair: known for known in self._active()}
        executions = {pair for _, pair in under(f"{keys.RQ}:execution:", seen.hashes)}
        by_task = {
            f"{task_id}:{member}"
            for key, task_id in under(f"{keys.RQ}:executions:", seen.zsets)
            for member in seen.zsets[key]
        }
        by_worker = {pair: worker for worker in WORKERS for pair in self._pairs(worker)}
        assert executions <= pairs.keys()
        assert by_task <= pairs.keys()
        assert by_worker.keys() <= pairs.keys()
        for pair, known in pairs.items():
            assert by_worker.get(pair, known.worker) == known.worker
            record = seen.hashes.get(keys.execution(pair))
            assert record is None or (record["id"], record["job_id"]) == (pair.rpartition(":")[2], known.id)
            if known.at > seen.at:  # these records outlive the lease by a minute, and no more
                assert pair in executions
                assert pair in by_task or not known.is_renewed
                assert pair in by_worker

    @invariant()
    def a_concurrency_key_is_held_by_its_active_tasks_and_by_no_more_than_its_limit(self) -> None:
        for key, limit in SHARES.items():
            running = set(self.seen.zsets.get(f"{keys.OWN}:running:{key}", {}))
            active = [known for known in self._active() if known.options.concurrency_key == key]
            assert running == {known.id for known in active if known.has_share}
            assert len(running) <= limit

    @invariant()
    def no_task_waits_for_a_share_that_nobody_has_or_is_about_to_take(self) -> None:
        for key, limit in SHARES.items():
            waiting = self.seen.zsets.get(f"{keys.OWN}:waiting:{key}", {})
            pending = [known for known in self._in(Place.PENDING) if known.options.concurrency_key == key]
            called = [known for known in pending if known.id not in waiting]
            running = [known for known in self._active() if known.options.concurrency_key == key]
            assert not waiting or len(running) + len(called) >= limit
            assert bool(waiting) is (key in self.seen.sets.get(f"{keys.OWN}:keys", ()))

    @invariant()
    def each_queue_knows_its_tasks_that_wait_for_a_share(self) -> None:
        aside = {task_id: score for queue in QUEUES for task_id, score in self._aside(queue).items()}
        waiting = [self.seen.zsets[key] for key, _ in under(f"{keys.OWN}:waiting:", self.seen.zsets)]
        assert aside == {task_id: score for line in waiting for task_id, score in line.items()}
        for queue in QUEUES:
            assert all(self.known[task_id].queue == queue for task_id in self._aside(queue))

    @invariant()
    def unique_locks_are_those_of_the_model(self) -> None:
        found = {key: self.seen.strings[key] for key, _ in under(f"{keys.OWN}:unique:", self.seen.strings)}
        assert found == {
            key: f"ttl:{lock.holder}" if lock.until is UniqueUntil.TTL else lock.holder
            for key, lock in self.locks.items()
        }
        for key, lock in self.locks.items():
            assert close(self.seen.ends[key], lock.ends, lock.ends)
            assert lock.until is UniqueUntil.TTL or self.known[lock.holder].lock == key

    @invariant()
    def the_ids_that_are_remembered_are_those_of_the_model(self) -> None:
        found = {task_id: self.seen.ends[key] for key, task_id in under(f"{keys.OWN}:once:", self.seen.strings)}
        assert found.keys() == self.remembered.keys()
        assert all(close(found[task_id], ends, ends) for task_id, ends in self.remembered.items())

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        processed, failed = Counter[str](), Counter[str]()
        for key, name in under(f"{keys.OWN}:stats:", self.seen.hashes):
            queue = name.rpartition(":")[0]
            processed[queue] += int(self.seen.hashes[key].get("processed", 0))
            failed[queue] += int(self.seen.hashes[key].get("failed", 0))
        assert (processed, failed) == (self.processed, self.failed)
        for queue in QUEUES:
            entries = self.seen.lists.get(f"{keys.OWN}:completed:{queue}", [])
            assert [json.loads(entry)["id"] for entry in entries] == self.completed[queue][::-1]
        for worker in WORKERS:
            if record := self.seen.hashes.get(keys.worker(worker)):
                counts = (int(record.get("successful_job_count", 0)), int(record.get("failed_job_count", 0)))
                assert counts == (self.well[worker], self.badly[worker])

    @invariant()
    def only_what_lasts_has_no_ttl(self) -> None:
        lasting = {keys.QUEUES, keys.SERVED, keys.WORKERS, keys.LIMITS, keys.PAUSED, keys.SUSPENDED, f"{keys.OWN}:keys"}
        lasting |= {f"{keys.RQ}:workers:{queue}" for queue in QUEUES}
        lasting |= {f"{keys.OWN}:waiting:{key}" for key in SHARES}
        lasting |= {keys.aside(queue) for queue in QUEUES}
        kinds = ("queue", "wip", "scheduled", "finished", "failed")
        lasting |= {f"{keys.RQ}:{kind}:{queue}" for kind in kinds for queue in QUEUES}
        lasting |= {f"{keys.OWN}:completed:{queue}" for queue in QUEUES}
        living = {name(known.id) for known in self.known.values() for name in (keys.job, keys.results)}
        passing = {keys.worker(worker) for worker in WORKERS} | {keys.worker_executions(worker) for worker in WORKERS}
        passing |= (
            {name(queue) for queue in QUEUES for name in (keys.bell, keys.archived)}
            | {f"{keys.OWN}:looked:{queue}" for queue in QUEUES}
            | {keys.ALARM, keys.CRON, keys.METRICS_ENQUEUED, keys.ticks("entry")}
            | self.locks.keys()
        )
        passing |= {keys.once(task_id) for task_id in self.remembered}
        passing |= {f"{keys.OWN}:{kind}:{key}" for kind in ("running", "called") for key in SHARES}
        passing |= {keys.execution(known.pair) for known in self._active()}
        passing |= {f"{keys.RQ}:executions:{known.id}" for known in self._active()}
        for key, ends in self.seen.ends.items():
            if key not in lasting | living:  # those of living tasks: every_record_says_where_its_task_is
                assert key in passing or key.startswith((f"{keys.OWN}:stats:", f"{keys.OWN}:refused:"))
                assert ends < math.inf, f"{key} has no TTL"

    # The model.

    def _store(self, task: NewTask, before: Snapshot, waiting: Counter[str]) -> TaskState | Exception:
        """Take a new task into the model, or say why not."""
        options = task.options
        after, lock = self.seen, task.unique_key if options.unique_s else None
        limit = self.limits.get(f"{options.queue}:max_length", math.inf)
        if task.id in self.known:
            return TaskIdConflictError(task.id)
        if not options.process_in_s and waiting[options.queue] >= limit:
            return QueueFullError(options.queue)
        if lock and lock in self.locks:
            return DuplicateTaskError(self.locks[lock].holder)
        if options.once_s:
            if task.id in self.remembered:
                return TaskIdConflictError(task.id, is_remembered=True)
            self.remembered[task.id] = after.ends[keys.once(task.id)]
            assert close(after.ends[keys.once(task.id)], before.at + options.once_s, after.at + options.once_s)
        known = self.known[task.id] = Known(task.id, options, lock)
        if lock:
            ttl_s = options.process_in_s + options.unique_s
            self.locks[lock] = Lock(task.id, options.unique_until, after.ends[lock])
            assert close(after.ends[lock], before.at + ttl_s, after.at + ttl_s)
        if options.process_in_s:
            self._schedule(known, options.process_in_s, before)
            return TaskState.SCHEDULED
        waiting[options.queue] += 1
        return TaskState.PENDING

    def _schedule(self, known: Known, delay_s: float, before: Snapshot) -> None:
        known.place = Place.SCHEDULED
        known.at = self.seen.score(_scheduled(known), known.id)
        assert close(known.at, before.at + delay_s, self.seen.at + delay_s)
        assert delay_s >= 5 or keys.ALARM in self.seen.lists

    def _check_claim(self, worker: str, order: Sequence[str], answer: Advance, before: Snapshot) -> None:
        """The first queue that is open and has a task which may run gives its first such task."""
        for queue in order:
            limit = self.limits.get(f"{queue}:max_active", math.inf)
            is_open = queue not in self.paused and sum(known.queue == queue for known in self._active()) < limit
            if answer.claims and answer.claims[0].queue == queue:
                assert is_open
                for claim in answer.claims:
                    assert len(answer.claims) == 1 or self._may_be_in_a_batch(self.known[claim.task_id])
                    self._claim(worker, claim, before)
                return
            assert not is_open or not self.seen.lists.get(keys.queue(queue))
        assert answer.claims == []

    def _may_be_in_a_batch(self, known: Known) -> bool:
        return not known.options.concurrency_key and f"{known.queue}:max_active" not in self.limits

    def _claim(self, worker: str, claim: Claim, before: Snapshot) -> None:
        known = self.known[claim.task_id]
        assert known.place is Place.PENDING
        assert known.queue == claim.queue
        passed, is_there, _ = _partition(before.lists.get(keys.queue(claim.queue), []), claim.task_id)
        if is_there:  # else it was called by one that was acknowledged
            assert not set(passed) & set(self.seen.lists.get(keys.queue(claim.queue), []))
        assert claim.task is not None
        assert claim.task.attempt == known.retried + 1
        assert claim.task.headers == known.options.headers
        assert claim.max_retries == known.options.max_retries
        known.place, known.worker, known.claim, known.is_renewed = Place.ACTIVE, worker, claim, False
        known.has_share = True
        known.at = self.seen.score(keys.wip(known.queue), known.pair)
        assert close(known.at, before.at + LEASE_S, self.seen.at + LEASE_S)
        known.started = float(claim.started) + self.shift
        assert close(known.started, before.at, self.seen.at)

    def _complete(self, known: Known, before: Snapshot) -> None:
        retention_s = known.options.retention_s
        self._count(known, "well")
        self.completed[known.queue].append(known.id)
        self._end_claim(known, Place.FINISHED)
        if retention_s == 0:
            self._forget(known)
            return
        known.attempts += 1
        self._unlock(known, is_success=True)
        self._enter("finished", known, math.inf if retention_s < 0 else retention_s, before)

    def _fail(self, known: Known, decision: Decision, claim: Claim | None = None) -> None:
        before, claim = self.seen, claim or known.claim
        assert claim
        failure = Failure("ValueError: bad", "Traceback …", decision, MAX_RETRIES)
        if known.is_cancelled and decision.verdict is Verdict.RETRY:
            decision = Decision(Verdict.ARCHIVE)
        verdict = decision.verdict
        assert self.broker.fail(known.worker, claim, failure) is verdict
        after = self._look()
        known.retried += decision.counts and verdict is Verdict.RETRY
        known.attempts += 1
        if decision.counts or verdict is not Verdict.RETRY:
            self._count(known, "badly" if decision.counts else "well")
        else:
            self.well[known.worker] += keys.worker(known.worker) in after.hashes
        self._end_claim(known, Place.FAILED)
        if verdict is Verdict.DROP:
            self._forget(known)
            return
        record = after.hashes[keys.job(known.id)]
        assert record["last_error"] == "ValueError: bad"
        if verdict is Verdict.RETRY:
            assert int(record["retries_left"]) == max(MAX_RETRIES - known.retried, 0)
            self._schedule(known, decision.delay_s, before)
        else:
            self._unlock(known, is_success=False)
            self._enter("failed", known, ARCHIVE_TTL_S, before)
            lock = self.locks.get(known.lock or "")
            if lock and lock.holder == known.id and lock.until is UniqueUntil.SUCCESS:
                lock.ends = min(lock.ends, known.ends)  # it goes with the record
            self._trim(known.queue, before)

    def _enter(self, kind: str, known: Known, ttl_s: float, before: Snapshot) -> None:
        """Put the task into a registry that it leaves by expiring."""
        self.stale.discard((kind, known.queue, known.id))
        known.at = self.seen.score(keys.registry(kind, known.queue), known.id)
        known.ends = self.seen.ends[keys.job(known.id)]
        for ends in (known.at, known.ends):
            assert ends == ttl_s or close(ends, before.at + ttl_s, self.seen.at + ttl_s)

    def _trim(self, queue: str, before: Snapshot) -> None:
        """A full archive forgets those that expire first."""
        entries = before.zsets.get(keys.archived(queue), {})
        excess = len(self.seen.zsets[keys.archived(queue)].keys() | entries.keys()) - ARCHIVE_LIMIT
        for task_id in sorted(entries, key=lambda task_id: entries[task_id])[: max(excess, 0)]:
            if ("failed", queue, task_id) in self.stale:
                self.stale.remove(("failed", queue, task_id))
            else:
                self._forget(self.known[task_id])

    def _count(self, known: Known, how: str) -> None:
        queue, counts = known.queue, {"well": self.well, "badly": self.badly}[how]
        self.processed[queue] += 1
        self.failed[queue] += how == "badly"
        counts[known.worker] += keys.worker(known.worker) in self.seen.hashes
        if queue not in self.stats_end:
            ends = [self.seen.ends[key] for key, _ in under(f"{keys.OWN}:stats:{queue}:", self.seen.ends)]
            self.stats_end[queue] = max(ends)

    def _end_claim(self, known: Known, place: Place) -> None:
        assert known.claim
        self.over.append((known.worker, known.claim))
        known.place, known.claim = place, None
        known.is_cancelled = known.is_cancelled and place is Place.PENDING

    def _forget(self, known: Known) -> None:
        self._unlock(known, is_success=True)
        del self.known[known.id]

    def _unlock(self, known: Known, *, is_success: bool) -> None:
        until = known.options.unique_until
        is_released = until is UniqueUntil.END or (until is UniqueUntil.SUCCESS and is_success)
        if known.lock in self.locks and self.locks[known.lock].holder == known.id and is_released:
            del self.locks[known.lock]

    def _expire(self) -> None:
        """Forget what time took."""
        now = self.seen.at
        for known in [known for known in self.known.values() if known.ends <= now]:
            self.stale.add((known.place.value, known.queue, known.id))
            del self.known[known.id]
        self.locks = {key: lock for key, lock in self.locks.items() if lock.ends > now}
        self.remembered = {task_id: ends for task_id, ends in self.remembered.items() if ends > now}
        for known in self._active():
            known.has_share &= f"{keys.OWN}:running:{known.options.concurrency_key}" in self.seen.zsets
        for queue in [queue for queue, ends in self.stats_end.items() if ends <= now]:
            del self.stats_end[queue], self.processed[queue], self.failed[queue]
        for worker in WORKERS:
            if keys.worker(worker) not in self.seen.hashes:
                self.well[worker] = self.badly[worker] = 0

    def _look(self) -> Snapshot:
        """Read everything again after an operation.

        What expired while it ran may have been there for it, or not: such a run says nothing.
        """
        before, self.seen = self.seen, self._read()
        ends = [known.ends for known in self.known.values()]
        ends += [lock.ends for lock in self.locks.values()] + [*self.stats_end.values(), *self.remembered.values()]
        ends += [before.ends[key] for key, _ in under(f"{keys.RQ}:worker:", before.ends)]
        assume(not any(close(end, before.at, self.seen.at) for end in ends))
        return self.seen

    def _read(self) -> Snapshot:
        seconds, micros, found = self._dump()
        seen = Snapshot(int(seconds) + int(micros) / 1e6 + self.shift, self.shift)
        for name, kind, left, contents in found:
            key, held = text(name), text(contents)
            seen.ends[key] = math.inf if left < 0 else seen.at + left / 1000
            match text(kind):
                case "string":
                    seen.strings[key] = held
                case "list":
                    seen.lists[key] = held
                case "set":
                    seen.sets[key] = set(held)
                case "zset":
                    offset = LEASE_OFFSET_S if key.startswith(f"{keys.RQ}:wip:") else 0
                    scores = (float(score) - offset + self.shift for score in held[1::2])
                    seen.zsets[key] = dict(zip(held[::2], scores, strict=True))
                case "hash":
                    seen.hashes[key] = dict(zip(held[::2], held[1::2], strict=True))
                case "stream":
                    seen.streams[key] = held
        return seen

    def _places(self) -> dict[str, list[tuple[str, str | None]]]:
        """Where each task ID, or for a claim its pair of IDs, stands."""
        places: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        for kind, queue in itertools.product(("queue", "wip", "scheduled", "finished", "failed"), QUEUES):
            key = f"{keys.RQ}:{kind}:{queue}"
            for member in (*self.seen.lists.get(key, ()), *self.seen.zsets.get(key, ())):
                if (kind, queue, member) not in self.stale:
                    places[member].append((kind, queue))
        for line, key in under(f"{keys.OWN}:waiting:", self.seen.zsets):
            for member in self.seen.zsets[line]:
                places[member].append(("waiting", key))
        return places

    def _aside(self, queue: str) -> dict[str, float]:
        return self.seen.zsets.get(keys.aside(queue), {})

    def _in(self, place: Place) -> list[Known]:
        return [known for known in self.known.values() if known.place is place]

    def _active(self) -> list[Known]:
        return self._in(Place.ACTIVE)

    def _held(self, worker: str) -> list[Known]:
        return [known for known in self._active() if known.worker == worker]

    def _pairs(self, worker: str) -> set[str]:
        return self.seen.sets.get(keys.worker_executions(worker), set())


def _scheduled(known: Known) -> str:
    return keys.registry("scheduled", known.queue)


def _partition(members: list[str], member: str) -> tuple[list[str], bool, list[str]]:
    if member not in members:
        return members, False, []
    place = members.index(member)
    return members[:place], True, members[place + 1 :]


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "CHUNK", CHUNK)
    monkeypatch.setattr(scheduler_calls, "CHUNK", CHUNK)
    monkeypatch.setattr(broker_module, "BATCH_PARTS", 1)


@pytest.mark.long(11)
def test_whatever_happens_every_task_is_in_one_place_and_nothing_leaks(connection: redis.Redis) -> None:
    class Machine(BrokerMachine):
        def __init__(self) -> None:
            super().__init__(connection)

    run_state_machine_as_test(Machine, settings=SETTINGS)
