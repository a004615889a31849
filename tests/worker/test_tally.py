"""The tally: what a process counts of its attempts, and when it is sent."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from boilerd import Task
from boilerd.broker.claims import OWN_CALL_BYTES, Claim, Failure
from boilerd.broker.constants import MOST_PAIRS, OTHER
from boilerd.tasks.metric_record import LATER_BOUNDS, LATER_BUCKETS, Numbers, Pair, decode, unpack_pair
from boilerd.tasks.retry import Decision, Verdict
from boilerd.worker.settlement import record_failure
from boilerd.worker.tally import MOST_SENT, SEND_EVERY_S, Tally
from builders import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> Tally:
    return Tally(clock)


def taken(tally: Tally) -> dict[Pair, Numbers]:
    """What it sends."""
    args = tally.take()
    found = {
        unpack_pair(name): Numbers(decode(record) or {}) for name, record in zip(args[::2], args[1::2], strict=True)
    }
    assert None not in found
    return found  # type: ignore[return-value]


MakeClaim = Callable[..., Claim]


@pytest.fixture
def make_claim() -> MakeClaim:
    """Makes claims of a task that was enqueued 2 s before."""

    def make(*, runs: int = 1, payload_bytes: int = 100, **fields: Any) -> Claim:
        task = Task(id="a", type="email:send", payload=None, queue="default", runs=runs,
                    enqueued_at=datetime.fromtimestamp(1000, UTC))  # fmt: skip
        size_bytes = OWN_CALL_BYTES + len(task.type) + payload_bytes
        return Claim("a", "0" * 32, "default", "1002.000000", 0, task, data_bytes=size_bytes, **fields)

    return make


def test_attempts_are_added_by_queue_type_and_outcome(tally: Tally) -> None:
    for outcome in ("completed", "completed", "retried"):
        tally.add("default", "email:send", outcome)
    tally.add("low", "email:send", "lost")

    found = taken(tally)

    assert set(found) == {("default", "email:send"), ("low", "email:send")}
    attempts = found[Pair("default", "email:send")].attempts
    assert {outcome: count for outcome, count in attempts.items() if count} == {"completed": 2, "retried": 1}
    assert found[Pair("low", "email:send")].run.count == 0


def test_times_and_sizes_are_in_their_buckets(tally: Tally, make_claim: MakeClaim) -> None:
    tally.count(make_claim(payload_bytes=64, ready_s=972.0), "completed", 0.02)
    tally.count(make_claim(payload_bytes=65, ready_s=1002.0), "completed", 1e9)

    (numbers,) = taken(tally).values()

    assert (numbers.run.sum, numbers.run.most) == (1e9 + 0.02, 1e9)
    assert [count for _, count in numbers.run.cumulative([0.01, 0.025, 21600.0])] == [0, 1, 1, 2]
    assert [count for _, count in numbers.wait.cumulative([0.001, 10.0, 30.0])] == [1, 1, 2, 2]
    assert [count for _, count in numbers.payload.cumulative([64, 256])] == [1, 2, 2]


def test_the_first_attempt_alone_says_how_long_its_task_waited(tally: Tally, make_claim: MakeClaim) -> None:
    tally.count(make_claim(), "completed", 0.1, held_s=0.5)
    tally.count(make_claim(runs=2), "completed", 0.1)
    tally.count(make_claim(), "lost")

    (numbers,) = taken(tally).values()

    assert (numbers.wait.count, numbers.wait.sum) == (1, 2.5)
    assert (numbers.payload.count, numbers.payload.sum) == (1, 100)
    assert (numbers.run.count, numbers.ended) == (2, 3)


def test_a_task_is_counted_by_how_many_attempts_it_took_when_it_is_done_with(
    tally: Tally, make_claim: MakeClaim
) -> None:
    for runs in (1, 1, 2, 3, 4, 5, 6, 10, 11, 2**40):
        tally.count(make_claim(runs=runs), "completed", 0.1)
    for outcome in ("archived", "dropped"):
        tally.count(make_claim(runs=2), outcome)  # it did not run: it was too late for it
    for outcome in ("retried", "put_back", "lost", "cancelled"):
        tally.count(make_claim(runs=3), outcome, 0.1)

    (numbers,) = taken(tally).values()

    assert numbers.taken == (2, 3, 1, 2, 2, 2)


def test_of_a_task_that_takes_one_attempt_nothing_more_is_kept(tally: Tally, make_claim: MakeClaim) -> None:
    tally.count(make_claim(), "completed", 0.1)

    (numbers,) = taken(tally).values()

    assert not [key for key in numbers.record if LATER_BUCKETS <= key <= LATER_BUCKETS + len(LATER_BOUNDS)]
    assert numbers.taken == (1, 0, 0, 0, 0, 0)


def test_a_failed_attempt_says_how_long_its_task_waited_as_well(tally: Tally, make_claim: MakeClaim) -> None:
    failure = Failure("no", "no", Decision(Verdict.ARCHIVE), 0, run_s=0.1, held_s=0.5)

    class Archives:
        def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict:
            return Verdict.ARCHIVE

    record_failure(Archives(), "w", make_claim(), failure, tally=tally)

    assert taken(tally)[Pair("default", "email:send")].wait.sum == 2.5


def test_a_task_waits_from_when_it_got_its_share_of_a_key(tally: Tally, make_claim: MakeClaim) -> None:
    tally.count(make_claim(ready_s=1001.5), "completed", 0.1)

    (numbers,) = taken(tally).values()

    assert numbers.wait.sum == 0.5


def test_a_clock_that_was_put_back_makes_no_wait_negative(tally: Tally, make_claim: MakeClaim) -> None:
    tally.count(make_claim(ready_s=5000.0), "completed", 0.1)

    (numbers,) = taken(tally).values()

    assert (numbers.wait.count, numbers.wait.sum) == (1, 0)


def test_a_claim_without_a_task_is_counted_as_another_type(tally: Tally) -> None:
    tally.count(Claim("a", "0" * 32, "default", "1002.0", 0, None), "archived")

    assert set(taken(tally)) == {("default", OTHER)}


def test_what_was_counted_is_sent_at_once_then_once_a_second(tally: Tally, clock: Clock) -> None:
    is_due = [tally.is_due()]
    tally.add("default", "a", "completed")
    is_due.append(tally.is_due())
    tally.take()
    tally.add("default", "a", "completed")
    is_due.append(tally.is_due())
    clock.ahead_s += SEND_EVERY_S
    is_due.append(tally.is_due())

    assert is_due == [False, True, False, True]
    assert not tally.is_late()


def test_what_was_counted_after_a_lull_may_wait_for_a_call_that_is_made_anyway(tally: Tally, clock: Clock) -> None:
    tally.add("default", "a", "completed")
    tally.take()
    clock.ahead_s += 60
    tally.add("default", "a", "completed")

    assert tally.is_due()
    assert not tally.is_late()
    clock.ahead_s += SEND_EVERY_S
    assert tally.is_late()


def test_what_was_taken_is_not_taken_again(tally: Tally) -> None:
    tally.add("default", "a", "completed")
    tally.take()

    assert tally.take() == []


def test_of_many_pairs_some_are_sent_and_the_rest_with_the_next_call(tally: Tally) -> None:
    for number in range(MOST_SENT + 7):
        tally.add("default", f"t{number}", "completed")

    assert [len(taken(tally)) for _ in range(3)] == [MOST_SENT, 7, 0]


def test_types_without_end_take_no_memory_without_end(tally: Tally) -> None:
    for number in range(5 * MOST_PAIRS):
        tally.add(f"q{number % (3 * MOST_PAIRS)}", f"t{number}", "completed")

    found: dict[Pair, Numbers] = {}
    while some := taken(tally):
        found |= some

    assert len(found) <= 2 * MOST_PAIRS + 1
    assert sum(numbers.ended for numbers in found.values()) == 5 * MOST_PAIRS
