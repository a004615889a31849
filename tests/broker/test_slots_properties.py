"""Properties of the broker, over random lives of workers with several slots.

The model is that of test_properties.py, which knows what every key must hold after each step; here workers claim with
`serve`, beside what they hold, and give back, lose answers, die and are renewed in the ways of such workers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from boilerd.broker import broker as broker_module
from boilerd.broker import keys, scheduler_calls
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion
from boilerd.broker.constants import LEASE_S
from boilerd.broker.job_hash import NewTask
from boilerd.tasks.retry import Decision, Verdict
from boilerd.tasks.task import TaskState
from broker.test_properties import (
    CHUNK,
    IS_LONG,
    QUEUES,
    SETTINGS,
    WORKERS,
    BrokerMachine,
    Known,
    Place,
    Snapshot,
    close,
    limits,
    orders,
    workers,
)
from builders import failure, new_task

#: Of each worker: two suspects may run at once.
SLOTS = 16
#: They cost less than the model's own tests; what is common to both is tested there.
FEWER = settings(SETTINGS, max_examples=1_000 if IS_LONG else 60)
pytestmark = pytest.mark.timeout(3600 if IS_LONG else 300)  # a failure is made small first


class SlotsMachine(BrokerMachine):
    """Drives a Broker with workers of several slots."""

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__(connection)
        self.lives: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()
        #: Task ID → how many of its workers have died, as far as that was not counted.
        self.deaths: Counter[str] = Counter()
        for worker in WORKERS:
            self._register(worker)
        self.seen = self._read()

    def _register(self, worker: str) -> None:
        """A process of the worker begins, or its record is gone."""
        record: dict[str, str | int] = {"life": self._life(worker), "turn": self.turns[worker], "slots": SLOTS}
        self.broker.register(worker, QUEUES, record)
        self.well[worker] = self.badly[worker] = 0

    def _life(self, worker: str) -> str:
        return f"{WORKERS.index(worker):04x}{self.lives[worker]:08x}"

    # What can happen.

    def _advance(
        self, worker: str, order: Sequence[str], *, acknowledges: bool, result: bytes = b"", limit: int = 1
    ) -> None:
        before = self.seen
        mine = self._held(worker) if acknowledges else []
        running = [self.deaths[known.id] for known in self._held(worker) if known not in mine and self.deaths[known.id]]
        is_there = keys.worker(worker) in before.hashes
        done = [Completion(known.claim, result) for known in mine if known.claim]
        self.turns[worker] += 1
        answer = self.broker.serve(
            worker, self._life(worker), self.turns[worker], order, done,
            limit=limit, parts=1, slots=SLOTS, suspects=running,
        )  # fmt: skip
        self._look()
        for known in mine:
            self._complete(known, before)
        assert (answer.lost, answer.is_stale, answer.is_registered) == ([], False, is_there)
        if is_there:
            assert len(answer.claims) <= limit
            self._check_suspects(running, answer.claims)
            self._check_slots(worker, order, answer.claims, before)
        else:
            assert answer.claims == []
            self._register(worker)
            self._look()

    def _check_suspects(self, running: Sequence[int], claims: Sequence[Claim]) -> None:
        begun = [deaths for claim in claims if (deaths := self.deaths[claim.task_id])]
        if begun:
            assert len(running) + len(begun) <= (SLOTS // 8 if max(*running, *begun, 0) < 2 else 1)

    def _check_slots(self, worker: str, order: Sequence[str], claims: Sequence[Claim], before: Snapshot) -> None:
        """The first queue that is open and has tasks which may run gives some of them."""
        for queue in order:
            most = self.limits.get(f"{queue}:max_active", 10**6)
            is_open = queue not in self.paused and sum(known.queue == queue for known in self._active()) < most
            left = self.seen.lists.get(keys.queue(queue), [])
            if claims and claims[0].queue == queue:
                assert is_open
                passed = {task_id for task_id in left if self.deaths[task_id]}
                lists = {key: [name for name in names if name not in passed] for key, names in before.lists.items()}
                for claim in claims:
                    self._claim(worker, claim, replace(before, lists=lists))
                assert sum(known.queue == queue for known in self._active()) <= most
                return
            assert not is_open or all(self.deaths[task_id] for task_id in left)
        assert not claims

    @rule(worker=workers, order=orders, limit=limits)
    def lose_an_answer(self, worker: str, order: Sequence[str], limit: int) -> None:
        self.turns[worker] += 1
        turn = worker, self._life(worker), self.turns[worker]
        lost = self.broker.serve(*turn, order, limit=limit, parts=1, slots=SLOTS).claims
        released = self.broker.take_back_turn(*turn)
        assert sorted(released) == sorted(claim.task_id for claim in lost)
        assert self.broker.take_back_turn(*turn) == []
        self._look()
        self.over += [(worker, claim) for claim in lost]

    @rule(worker=workers, order=orders, is_of_this_life=st.booleans())
    def call_too_late(self, worker: str, order: Sequence[str], is_of_this_life: bool) -> None:
        before = self.seen
        life, late = (self._life(worker), 0) if is_of_this_life else ("dead", 1)
        answer = self.broker.serve(worker, life, self.turns[worker] + late, order, limit=4, parts=1)
        assert answer.claims == []
        assert answer.is_stale is answer.is_registered
        assert self._look().contents() == before.contents()

    @precondition(lambda self: self._active())
    @rule(worker=workers, number=st.integers(1, 8), is_doubtful=st.booleans())
    def give_back(self, worker: str, number: int, is_doubtful: bool) -> None:
        self._give_back(worker, self._held(worker)[:number], is_doubtful=is_doubtful)

    def _give_back(self, worker: str, held: Sequence[Known], *, is_doubtful: bool) -> None:
        before = self.seen
        given = [known.claim for known in held if known.claim]
        released = self.broker.give_back(worker, given, is_doubtful=is_doubtful)
        after = self._look()
        assert sorted(released) == sorted(known.id for known in held if not known.is_cancelled)
        for known in held:
            self._end_claim(known, Place.PENDING)
            if known.is_cancelled:
                self._forget(known)
            else:
                self.deaths[known.id] += is_doubtful
        for queue in QUEUES:
            old = before.lists.get(keys.queue(queue), [])
            now = after.lists.get(keys.queue(queue), [])
            mine = [known.id for known in held if known.queue == queue and known.id in released]
            assert [task_id for task_id in now if task_id in mine] == mine
            assert not old or [task_id for task_id in now if task_id in old] == old

    @rule(worker=workers, counts=st.booleans())
    def respawn(self, worker: str, counts: bool) -> None:
        """A worker dies; its successor counts what it held, or gives it back as suspects."""
        self.lives[worker] += 1
        self.turns[worker] = 0
        self._register(worker)
        self._look()
        held = self.broker.held(worker)
        assert {claim.pair for claim in held} == self._pairs(worker)
        assert all(claim.deaths == self.deaths[claim.task_id] for claim in held)
        if counts:
            for claim in held:
                self._fail(self.known[claim.task_id], Decision(Verdict.RETRY, 1.0), claim)
        else:
            self._give_back(worker, [self.known[claim.task_id] for claim in held], is_doubtful=True)

    @precondition(lambda self: self._active())
    @rule(names=st.sets(workers, min_size=1))
    def renew(self, names: set[str]) -> None:
        for worker in sorted(names):
            before = self.seen
            mine = [known for known in self._held(worker) if known.pair in self._pairs(worker)]
            renewal = self.broker.renew(worker, [_Lease(known) for known in mine])
            after = self._look()
            assert renewal.lost == []
            assert sorted(renewal.cancelled) == sorted(known.pair for known in mine if known.is_cancelled)
            for known in mine:
                known.at = after.score(keys.wip(known.queue), known.pair)
                assert close(known.at, before.at + LEASE_S, after.at + LEASE_S)
                known.has_share = known.options.concurrency_key is not None

    @precondition(lambda self: self._active())
    @rule(worker=workers)
    def renew_records(self, worker: str) -> None:
        before = self.seen
        mine = [known for known in self._held(worker) if known.pair in self._pairs(worker)]
        self.broker.renew_records(worker, [known.pair for known in mine])
        after = self._look()
        for known in mine:
            known.is_renewed = True
            known.has_share = known.options.concurrency_key is not None
            if keys.execution(known.pair) not in before.hashes:  # written anew
                known.started = float(after.hashes[keys.execution(known.pair)]["created_at"]) + self.shift

    @precondition(lambda self: self._active())
    @rule(worker=workers)
    def ask_what_is_not_wanted(self, worker: str) -> None:
        before, mine = self.seen, [known for known in self._held(worker) if known.claim]
        reasons = self.broker.unwanted(worker, [known.claim for known in mine if known.claim])
        cancelled = {known.claim.execution_id for known in mine if known.claim and known.is_cancelled}
        assert reasons == dict.fromkeys(cancelled, "cancelled on request")
        assert self._look().contents() == before.contents()

    # What must be so after each of them.

    @invariant()
    def every_record_says_how_many_workers_died_with_its_task(self) -> None:
        for task_id in self.known:
            assert int(self.seen.hashes[keys.job(task_id)].get("alone", 0)) == self.deaths[task_id]

    # The model.

    def _store(self, task: NewTask, before: Snapshot, waiting: Counter[str]) -> TaskState | Exception:
        if task.id not in self.known:
            del self.deaths[task.id]
        return super()._store(task, before, waiting)


class _Lease:
    """A claim as the scheduler knows it."""

    def __init__(self, known: Known) -> None:
        self.pair, self.queue, self.key = known.pair, known.queue, known.options.concurrency_key or ""


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "CHUNK", CHUNK)
    monkeypatch.setattr(scheduler_calls, "CHUNK", CHUNK)


@pytest.mark.long(11)
def test_whatever_workers_with_slots_do_every_task_is_in_one_place(connection: redis.Redis) -> None:
    class Machine(SlotsMachine):
        def __init__(self) -> None:
            super().__init__(connection)

    run_state_machine_as_test(Machine, settings=FEWER)


#: What a worker does, and with how many of its claims.
steps = st.lists(
    st.tuples(st.sampled_from(["serve", "complete", "fail", "give back", "lose an answer", "die"]), workers,
              st.integers(1, 20)),
    min_size=20, max_size=60,
)  # fmt: skip


@settings(FEWER, max_examples=300 if IS_LONG else 15)
@given(steps)
def test_limits_hold_at_every_step_with_hundreds_of_slots(
    connection: redis.Redis, life: list[tuple[str, str, int]]
) -> None:
    connection.flushall()
    broker = Broker(connection)
    broker.set_limits({"default:max_active": 7})
    names = [f"t{number:03}" for number in range(120)]
    shared: dict[str, Any] = {"concurrency_key": "one", "concurrency_limit": 3}
    broker.enqueue([new_task(name, **(shared if place % 2 else {})) for place, name in enumerate(names)])
    for worker in WORKERS:
        broker.register(worker, ["default"], {"life": worker})
    held: dict[str, list[Claim]] = {worker: [] for worker in WORKERS}
    most_active = most_shared = 0
    for turn, (step, worker, number) in enumerate(life, 1):
        some, held[worker] = held[worker][:number], held[worker][number:]
        if step in {"serve", "complete"}:
            done = some if step == "complete" else []
            held[worker] = [*held[worker], *(some if step == "serve" else [])]
            answer = broker.serve(
                worker, worker, turn, ["default"], [Completion(claim) for claim in done], limit=64, parts=1, slots=500
            )
            held[worker] += answer.claims
        elif step == "fail":
            for claim in some:
                broker.fail(worker, claim, failure(Verdict.RETRY, counts=False))
            broker.forward()
        elif step == "lose an answer":
            held[worker] = [*some, *held[worker]]
            broker.serve(worker, worker, turn, ["default"], limit=64, parts=1, slots=500)
            broker.take_back_turn(worker, worker, turn)
        else:
            broker.give_back(worker, some, is_doubtful=step == "die")
        active = connection.zcard(keys.wip("default"))
        sharing = connection.zcard(keys.running("one"))
        most_active, most_shared = max(most_active, active), max(most_shared, sharing)
        assert active == sum(map(len, held.values()))

    assert most_active <= 7
    assert most_shared <= 3
