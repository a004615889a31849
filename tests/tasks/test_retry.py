"""What becomes of a task whose attempt failed: the policy, the decision, the application's hooks."""

import logging
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from rq import Retry

from boilerd import FailedAttempt, RetryLater, RevokeTask, ServeMux, SkipRetry, Task, retry
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Failure
from boilerd.broker.job_hash import NewTask
from boilerd.entry_point import ENTRY_POINT
from boilerd.errors import (
    DeadlineExceededError,
    InvalidPayloadError,
    LeaseExpiredError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerDiedError,
)
from boilerd.settings.definitions import Settings
from boilerd.tasks.options import task_options
from boilerd.tasks.retry import DAY_S, Decision, Hooks, RetryPolicy, Verdict, decide
from boilerd.testing import RecordingClient
from boilerd.worker.settlement import Rules
from builders import WORKER, claim, make_due, rq_job, rq_queue, store, task_in

ARCHIVE = Decision(Verdict.ARCHIVE)


def task_of(retried: int = 0, max_retries: int = 3) -> Task:
    return Task("a", "test:echo", attempt=retried + 1, max_retries=max_retries)


def rules_of(mux: ServeMux, default: RetryPolicy | None = None) -> Rules:
    return Rules.of(mux, default or RetryPolicy(), lambda handler: handler)


def prepared(rules: Rules, found: Claim) -> Task:
    task = rules.task_of(found)
    assert task is not None
    return task


def test_the_delays_double_from_one_second() -> None:
    policy = RetryPolicy()

    assert [policy.delay_s(retried) for retried in range(7)] == [1, 2, 4, 8, 16, 32, 64]


def test_base_and_factor_shape_the_delays() -> None:
    policy = RetryPolicy(base=0.5, factor=3)

    assert [policy.delay_s(retried) for retried in range(4)] == [0.5, 1.5, 4.5, 13.5]


def test_no_delay_is_longer_than_the_longest_allowed() -> None:
    policy = RetryPolicy(max_delay=10)

    assert [policy.delay_s(retried) for retried in range(2, 6)] == [4, 8, 10, 10]


def test_the_longest_delay_is_a_day_unless_told_otherwise() -> None:
    assert RetryPolicy().delay_s(16) == 65536
    assert RetryPolicy().delay_s(17) == DAY_S


@pytest.mark.parametrize(
    ("policy", "delay_s"),
    [
        (RetryPolicy(), DAY_S),
        (RetryPolicy(factor=2, base=1), DAY_S),
        (RetryPolicy(max_delay=1e308), 1e308),
        (RetryPolicy(factor=1), 1.0),
        (RetryPolicy(base=0), 0.0),
    ],
)
def test_the_ten_thousandth_delay_is_as_sound_as_the_first(policy: RetryPolicy, delay_s: float) -> None:
    assert policy.delay_s(10_000) == delay_s


def test_a_foreign_number_of_retries_takes_no_time_to_compute_with() -> None:
    assert RetryPolicy(base=1, factor=3).delay_s(10**9) == DAY_S
    assert RetryPolicy(base=1, factor=2).delay_s(10**4000) == DAY_S


def test_jitter_adds_up_to_its_share_and_never_shortens() -> None:
    policy = RetryPolicy(jitter=0.25)

    assert policy.delay_s(3, lambda: 0.0) == 8
    assert policy.delay_s(3, lambda: 0.5) == 9
    assert policy.delay_s(3, lambda: 1.0) == 10


def test_no_delay_is_longer_than_the_longest_whatever_the_jitter() -> None:
    assert RetryPolicy(max_delay=10, jitter=0.5).delay_s(10, lambda: 0.9) == 10


def test_jitter_spreads_what_failed_together() -> None:
    delays = {RetryPolicy(jitter=0.1).delay_s(5) for _ in range(50)}

    assert len(delays) > 25
    assert all(32 <= delay <= 35.2 for delay in delays)


def test_without_jitter_delays_are_exact() -> None:
    assert {RetryPolicy().delay_s(5) for _ in range(50)} == {32.0}


@pytest.mark.parametrize(
    "argument",
    [
        {"max_retries": -1},
        {"max_retries": True},
        {"max_retries": "3"},
        {"max_retries": 1.5},
        {"base": -0.1},
        {"base": math.nan},
        {"factor": 0.5},
        {"max_delay": -1},
        {"max_delay": math.inf},
        {"jitter": -0.1},
        {"retry_on": (ValueError, "OSError")},
        {"retry_on": OSError},
        {"retry_on": [OSError]},
        {"retry_on": (OSError("full"),)},
        {"discard_on": (int,)},
        {"discard_on": [OSError]},
    ],
)
def test_an_argument_that_could_never_work_is_refused_where_it_stands(argument: dict[str, Any]) -> None:
    (name,) = argument

    with pytest.raises(ValueError, match=f"retry: {name}="):
        retry(**argument)


def test_the_policy_of_a_handler_is_found_through_the_mux() -> None:
    mux = ServeMux()

    @mux.handle("email:deliver")
    @retry(max_retries=5, base=2.0, retry_on=(OSError,))
    def deliver(task: Task) -> None: ...

    assert mux.policy("email:deliver") == RetryPolicy(max_retries=5, base=2.0, retry_on=(OSError,))


def test_a_prefix_pattern_lends_its_policy_to_every_type_below() -> None:
    mux = ServeMux()
    mux.handle("email:", retry(max_retries=1)(lambda task: None))
    mux.handle("email:digest:", retry(max_retries=2)(lambda task: None))

    assert mux.policy("email:deliver") == RetryPolicy(max_retries=1)
    assert mux.policy("email:digest:weekly") == RetryPolicy(max_retries=2)


def test_the_policy_is_found_in_a_nested_mux() -> None:
    inner, outer = ServeMux(), ServeMux()
    inner.handle("email:deliver", retry(max_retries=7)(lambda task: None))
    outer.handle("email:", inner)

    assert outer.policy("email:deliver") == RetryPolicy(max_retries=7)
    assert outer.policy("email:unknown") is None


def test_a_handler_without_a_policy_and_an_unknown_type_have_none() -> None:
    mux = ServeMux()
    mux.handle("email:deliver", lambda task: None)

    assert mux.policy("email:deliver") is None
    assert mux.policy("sms:send") is None


def test_an_async_handler_has_its_policy() -> None:
    mux = ServeMux()

    @mux.handle("email:deliver")
    @retry(max_retries=4)
    async def deliver(task: Task) -> None: ...

    assert mux.policy("email:deliver") == RetryPolicy(max_retries=4)


def test_a_failure_is_tried_again_until_its_retries_are_used_up() -> None:
    decisions = [decide(ValueError(), task_of(retried), RetryPolicy(), Hooks()) for retried in range(4)]

    assert decisions == [
        Decision(Verdict.RETRY, 1.0),
        Decision(Verdict.RETRY, 2.0),
        Decision(Verdict.RETRY, 4.0),
        ARCHIVE,
    ]


def test_a_task_without_retries_is_archived_at_its_first_failure() -> None:
    assert decide(ValueError(), task_of(0, max_retries=0), RetryPolicy(), Hooks()) == ARCHIVE


@pytest.mark.parametrize(
    "error",
    [SkipRetry("bounced"), InvalidPayloadError("no"), DeadlineExceededError("late"), TaskCancelledError("no more")],
)
def test_what_another_attempt_would_only_repeat_is_archived_at_once(error: BaseException) -> None:
    assert decide(error, task_of(), RetryPolicy(retry_on=(BaseException,)), Hooks()) == ARCHIVE


def test_skip_retry_is_recognised_as_the_base_of_an_error_of_the_application() -> None:
    class Bounced(SkipRetry):
        pass

    assert decide(Bounced(), task_of(), RetryPolicy(), Hooks()) == ARCHIVE


@pytest.mark.parametrize("retried", [0, 3])
def test_a_revoked_task_is_dropped_and_not_counted_as_a_failure(retried: int) -> None:
    policy = RetryPolicy(discard_on=(RevokeTask,))

    assert decide(RevokeTask(), task_of(retried), policy, Hooks()) == Decision(Verdict.DROP, counts=False)


@pytest.mark.parametrize("retried", [0, 3])
def test_retry_later_is_granted_uncounted_even_without_retries_left(retried: int) -> None:
    policy = RetryPolicy(retry_on=(OSError,))

    assert decide(RetryLater(7.5), task_of(retried), policy, Hooks()) == Decision(Verdict.RETRY, 7.5, counts=False)


def test_retry_on_archives_every_other_error() -> None:
    policy = RetryPolicy(retry_on=(OSError,))

    assert decide(ConnectionError(), task_of(), policy, Hooks()).verdict is Verdict.RETRY
    assert decide(ValueError(), task_of(), policy, Hooks()) == ARCHIVE


def test_discard_on_wins_over_retry_on() -> None:
    policy = RetryPolicy(retry_on=(OSError,), discard_on=(FileNotFoundError,))

    assert decide(PermissionError(), task_of(), policy, Hooks()).verdict is Verdict.RETRY
    assert decide(FileNotFoundError(), task_of(), policy, Hooks()) == ARCHIVE


@pytest.mark.parametrize("error", [TaskTimeoutError("slow"), WorkerDiedError("killed"), LeaseExpiredError("gone")])
def test_accidents_are_tried_again_whatever_retry_on_says(error: BaseException) -> None:
    policy = RetryPolicy(retry_on=(OSError,))

    assert decide(error, task_of(), policy, Hooks()) == Decision(Verdict.RETRY, 1.0)
    assert decide(error, task_of(3), policy, Hooks()) == ARCHIVE


def test_an_error_that_is_no_failure_is_tried_again_uncounted() -> None:
    hooks = Hooks(is_failure=lambda error: not isinstance(error, BlockingIOError))

    assert decide(BlockingIOError(), task_of(2), RetryPolicy(), hooks) == Decision(Verdict.RETRY, 4.0, counts=False)
    assert decide(ValueError(), task_of(2), RetryPolicy(), hooks) == Decision(Verdict.RETRY, 4.0)


@pytest.mark.parametrize(("answer", "counts"), [(None, False), ("", False), ("yes", True), (1, True)])
def test_whatever_is_failure_answers_counts_as_true_or_false(answer: Any, counts: bool) -> None:
    assert decide(ValueError(), task_of(), RetryPolicy(), Hooks(is_failure=lambda error: answer)).counts is counts


def group_of(*errors: BaseException) -> BaseException:
    """What ``asyncio.TaskGroup`` raises, with a group inside of it."""
    return BaseExceptionGroup("unhandled errors", [BaseExceptionGroup("inner", errors[:1]), *errors])


ON_OSERROR = RetryPolicy(retry_on=(OSError,), discard_on=(FileNotFoundError,))


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (OSError("away"), Decision(Verdict.RETRY, 1.0)),
        (ValueError("bad"), ARCHIVE),
        (FileNotFoundError(), ARCHIVE),
        (SkipRetry("bounced"), ARCHIVE),
        (RetryLater(7.5), Decision(Verdict.RETRY, 7.5, counts=False)),
        (RevokeTask(), Decision(Verdict.DROP, counts=False)),
        (TaskTimeoutError("slow"), Decision(Verdict.RETRY, 1.0)),
    ],
)
def test_a_group_of_errors_counts_as_what_it_holds(error: BaseException, decision: Decision) -> None:
    assert decide(group_of(error), task_of(), ON_OSERROR, Hooks()) == decision


@pytest.mark.parametrize(
    ("stronger", "weaker", "decision"),
    [
        (RevokeTask(), SkipRetry("bounced"), Decision(Verdict.DROP, counts=False)),
        (SkipRetry("bounced"), OSError("away"), ARCHIVE),
        (FileNotFoundError(), OSError("away"), ARCHIVE),
        (ValueError("not in retry_on"), OSError("away"), ARCHIVE),
        (OSError("away"), RetryLater(7.5), Decision(Verdict.RETRY, 1.0)),
        (RetryLater(60), RetryLater(7.5), Decision(Verdict.RETRY, 60.0, counts=False)),
    ],
)
def test_the_strongest_of_a_group_counts_wherever_it_stands(
    stronger: BaseException, weaker: BaseException, decision: Decision
) -> None:
    for error in (group_of(stronger, weaker), group_of(weaker, stronger)):
        assert decide(error, task_of(), ON_OSERROR, Hooks()) == decision


def test_a_group_is_no_failure_if_nothing_in_it_is_one() -> None:
    hooks = Hooks(is_failure=lambda error: not isinstance(error, BlockingIOError))

    assert decide(group_of(BlockingIOError(), BlockingIOError()), task_of(), RetryPolicy(), hooks).counts is False
    assert decide(group_of(BlockingIOError(), ValueError()), task_of(), RetryPolicy(), hooks).counts is True


def test_a_policy_may_name_the_class_of_a_group() -> None:
    group = ExceptionGroup("unhandled errors", [ValueError()])

    assert decide(group, task_of(), RetryPolicy(retry_on=(ExceptionGroup,)), Hooks()).verdict is Verdict.RETRY
    assert decide(group, task_of(), RetryPolicy(discard_on=(ExceptionGroup,)), Hooks()) == ARCHIVE


def test_what_an_error_was_raised_from_does_not_count() -> None:
    error = ValueError("bad")
    error.__cause__ = SkipRetry("bounced")

    assert decide(error, task_of(), RetryPolicy(), Hooks()) == Decision(Verdict.RETRY, 1.0)


class Handlers:
    def deliver(self, task: Task) -> None:
        """A handler that needs an object."""


@pytest.mark.parametrize("handler", [Handlers().deliver, len])
def test_a_policy_for_what_takes_no_attributes_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match="takes no attributes"):
        retry(max_retries=5)(handler)


def test_an_error_that_is_no_failure_is_archived_when_no_retries_are_left_as_in_asynq() -> None:
    assert decide(ValueError(), task_of(3), RetryPolicy(), Hooks(is_failure=lambda error: False)) == ARCHIVE


def test_the_hook_for_the_delay_gets_retries_error_and_task() -> None:
    seen: list[tuple[int, BaseException, Task]] = []

    def delay(retried: int, error: BaseException, task: Task) -> float:
        seen.append((retried, error, task))
        return 0.25

    error, task = ValueError(), task_of(2)
    decision = decide(error, task, RetryPolicy(), Hooks(retry_delay=delay))

    assert decision == Decision(Verdict.RETRY, 0.25)
    assert seen == [(2, error, task)]


def test_a_delay_in_the_past_means_now() -> None:
    assert decide(ValueError(), task_of(), RetryPolicy(), Hooks(retry_delay=lambda *_: -5)).delay_s == 0


@pytest.mark.parametrize("delay_s", [math.nan, math.inf])
def test_a_delay_that_is_no_moment_gives_way_to_the_one_of_the_policy(delay_s: float) -> None:
    hooked = decide(ValueError(), task_of(2), RetryPolicy(), Hooks(retry_delay=lambda *_: delay_s))

    assert hooked == Decision(Verdict.RETRY, 4.0)


def test_no_delay_is_longer_than_can_be_stored() -> None:
    hooks, policy = Hooks(retry_delay=lambda *_: 1e300), RetryPolicy(max_delay=1e308)

    assert decide(ValueError(), task_of(), RetryPolicy(), hooks).delay_s == 2**31 - 1
    assert decide(RetryLater(1e300), task_of(), RetryPolicy(), Hooks()).delay_s == 2**31 - 1
    assert decide(ValueError(), task_of(5000, 9999), policy, Hooks()).delay_s == 2**31 - 1


@pytest.mark.parametrize(("delay", "delay_s"), [(0, 0), (2, 2), (0.5, 0.5), (timedelta(minutes=2), 120)])
def test_retry_later_takes_seconds_and_timedeltas(delay: Any, delay_s: float) -> None:
    request = RetryLater(delay)

    assert request.delay_s == delay_s
    assert str(request) == f"again in {delay_s:g} s"


@pytest.mark.parametrize("delay", [None, "5", True, 5j, [5]])
def test_retry_later_with_what_is_no_time_is_a_type_error(delay: Any) -> None:
    with pytest.raises(TypeError, match="delay_s="):
        RetryLater(delay)


@pytest.mark.parametrize("delay", [-1, -0.5, timedelta(seconds=-1), math.nan, math.inf, 10**400])
def test_retry_later_with_a_time_that_never_comes_is_a_value_error(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay_s="):
        RetryLater(delay)


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SkipRetry("no"), RevokeTask(), RetryLater(1), TaskTimeoutError("slow")]
)
def test_the_error_handler_is_told_of_every_error_before_the_decision(error: BaseException) -> None:
    told: list[object] = []
    mux = ServeMux()
    mux.error_handler(lambda task, error: told.append((task.id, error)))

    @mux.is_failure
    def is_failure(error: BaseException) -> bool:
        told.append("is_failure")
        return True

    rules_of(mux).decide_failure(task_of(), error, "")

    assert told[0] == ("a", error)


def test_an_error_handler_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    mux = ServeMux()

    @mux.error_handler
    def report(task: Task, error: BaseException) -> None:
        raise RuntimeError("pager is down")

    failure = rules_of(mux).decide_failure(task_of(1), ValueError("bad"), "Traceback …")

    assert failure == Failure("ValueError: bad", "Traceback …", Decision(Verdict.RETRY, 2.0), 3)
    assert [record.message for record in caplog.records] == ["error_handler raised"]


@pytest.mark.parametrize(
    ("error", "retried", "verdict", "counts"),
    [
        (ValueError("bad"), 0, "retry", True),
        (ValueError("bad"), 3, "archive", True),
        (SkipRetry("no"), 0, "archive", True),
        (RevokeTask(), 0, "drop", False),
        (RetryLater(7), 0, "retry", False),
    ],
)
def test_what_was_decided_is_told_in_the_end(error: BaseException, retried: int, verdict: str, counts: bool) -> None:
    mux, told = ServeMux(), list[FailedAttempt]()
    mux.on_failure(told.append)

    failure = rules_of(mux).decide_failure(task_of(retried), error, "")

    (failed,) = told
    assert (failed.task.id, failed.error, failed.verdict, failed.counts) == ("a", error, verdict, counts)
    assert failed.delay_s == failure.decision.delay_s
    assert failed.fingerprint == (failure.kind.fingerprint if failure.kind else "")
    assert bool(failed.fingerprint) is counts


def test_all_who_want_to_be_told_are_in_their_order_though_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    mux, told = ServeMux(), list[str]()

    @mux.on_failure
    def first(failed: FailedAttempt) -> None:
        told.append("first")
        raise RuntimeError("pager is down")

    mux.on_failure(lambda failed: told.append("second"))
    mux.on_failure(lambda failed: told.append("third"))

    failure = rules_of(mux).decide_failure(task_of(1), ValueError("bad"), "")

    assert told == ["first", "second", "third"]
    assert failure.decision == Decision(Verdict.RETRY, 2.0)
    assert [record.message for record in caplog.records] == ["on_failure raised"]


def raise_always(*_: object) -> Any:
    raise RuntimeError("hook is broken")


@pytest.mark.parametrize("set_hook", [lambda mux: mux.is_failure, lambda mux: mux.retry_delay])
def test_a_hook_that_raises_is_logged_and_the_policy_decides(
    caplog: pytest.LogCaptureFixture, set_hook: Callable[[ServeMux], Callable[..., object]]
) -> None:
    mux = ServeMux()
    set_hook(mux)(raise_always)

    failure = rules_of(mux).decide_failure(task_of(1), ValueError("bad"), "")

    assert failure.decision == Decision(Verdict.RETRY, 2.0)
    assert [record.message for record in caplog.records] == ["is_failure or retry_delay raised"]
    assert caplog.records[0].exc_info is not None


def test_a_hook_that_answers_with_no_number_is_one_that_raises() -> None:
    mux = ServeMux()
    mux.retry_delay(lambda retried, error, task: None)  # type: ignore[arg-type, return-value]

    assert rules_of(mux).decide_failure(task_of(1), ValueError("bad"), "").decision == Decision(Verdict.RETRY, 2.0)


def test_the_settings_are_the_policy_of_handlers_that_have_none(broker: Broker) -> None:
    settings = Settings()
    mux = ServeMux()
    mux.handle("test:echo", lambda task: None)
    store(broker, "a")
    found = claim(broker)
    rules = rules_of(mux, RetryPolicy(max_retries=2, base=3.0))

    task = prepared(rules, found)

    assert settings.retry.policy() == RetryPolicy()
    assert task.max_retries == 2
    assert rules.decide_failure(task, ValueError(), "").decision == Decision(Verdict.RETRY, 3.0)


def test_the_handlers_retries_beat_the_settings_and_the_tasks_own_beat_both(broker: Broker) -> None:
    mux = ServeMux()
    mux.handle("test:echo", retry(max_retries=5)(lambda task: None))
    rules = rules_of(mux, RetryPolicy(max_retries=2))
    store(broker, "a")
    broker.enqueue([NewTask("b", "test:echo", b"null", task_options(max_retries=0))])

    first = claim(broker)
    second = broker.advance("host.run.1", ("default",)).claims[0]

    assert second is not None
    assert prepared(rules, first).max_retries == 5
    assert prepared(rules, second).max_retries == 0


def test_attempts_are_counted_through_the_broker_until_the_archive(broker: Broker, connection: redis.Redis) -> None:
    rules = rules_of(ServeMux(), RetryPolicy(max_retries=2))
    store(broker, "a")
    attempts, delays = [], []

    for _ in range(3):
        found = claim(broker)
        task = prepared(rules, found)
        failure = rules.decide_failure(task, ValueError(f"attempt {task.attempt}"), "Traceback …")
        assert broker.fail(WORKER, found, failure)
        attempts.append(task.attempt)
        delays.append(failure.decision.delay_s)
        make_due(connection)

    job = rq_job(connection, "a")
    assert (attempts, delays) == ([1, 2, 3], [1, 2, 0])
    assert connection.zrange(keys.registry("failed", "default"), 0, -1) == [b"a"]
    assert connection.hget(keys.job("a"), "last_error") == b"ValueError: attempt 3"
    assert len(job.results()) == 3


def test_an_uncounted_retry_leaves_the_attempt_as_it_was(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a", max_retries=0)
    rules = rules_of(ServeMux())
    found = claim(broker)

    broker.fail(WORKER, found, rules.decide_failure(prepared(rules, found), RetryLater(60, "not yet"), ""))
    make_due(connection)
    again = claim(broker)

    assert task_in(again).attempt == 1
    assert connection.hget(keys.job("a"), "last_error") == b"RetryLater: not yet"
    assert connection.keys(f"{keys.OWN}:stats:*") == []


@pytest.mark.parametrize(
    "error", [RetryLater(60), ValueError("bad"), KeyError("no failure"), WorkerDiedError("worker died: SIGKILL")]
)
def test_each_run_counts_whatever_became_of_the_last(broker: Broker, connection: redis.Redis, error: Exception) -> None:
    mux = ServeMux()
    mux.is_failure(lambda error: not isinstance(error, KeyError))
    rules = rules_of(mux)
    store(broker, "a")
    runs = []

    for _ in range(3):
        found = claim(broker)
        runs.append(prepared(rules, found).runs)
        broker.fail(WORKER, found, rules.decide_failure(task_in(found), error, ""))
        make_due(connection)

    assert runs == [1, 2, 3]


def test_a_run_from_the_archive_counts_and_one_that_was_cut_by_a_drain_does_not(broker: Broker) -> None:
    store(broker, "a", max_retries=0)
    rules = rules_of(ServeMux())
    found = claim(broker)
    broker.fail(WORKER, found, rules.decide_failure(prepared(rules, found), ValueError("bad"), ""))
    broker.act("run", ["a"])
    cut = claim(broker)
    broker.release(WORKER)

    again = claim(broker)

    assert [task_in(held).runs for held in (found, cut, again)] == [1, 2, 2]
    assert [task_in(held).attempt for held in (found, cut, again)] == [1, 1, 1]


@pytest.mark.parametrize(("stored", "runs"), [(None, 3), (b"1", 3), (b"7", 8)])
def test_runs_are_no_fewer_than_attempts_where_a_worker_of_an_earlier_version_counted_none(
    broker: Broker, connection: redis.Redis, stored: bytes | None, runs: int
) -> None:
    store(broker, "a")
    connection.hset(keys.job("a"), "number_of_retries", 2)
    if stored:
        connection.hset(keys.job("a"), "runs", stored)

    found = task_in(claim(broker))

    assert (found.attempt, found.runs) == (3, runs)


def test_a_revoked_task_is_gone_and_counted_as_processed_only(broker: Broker, connection: redis.Redis) -> None:
    store(broker, "a")
    found = claim(broker)

    broker.fail(WORKER, found, rules_of(ServeMux()).decide_failure(task_in(found), RevokeTask("not wanted"), ""))

    (stats,) = connection.keys(f"{keys.OWN}:stats:default:*")
    assert connection.hgetall(stats) == {b"processed": b"1"}
    assert not connection.exists(keys.job("a"), keys.results("a"), keys.registry("failed", "default"))


def test_a_task_whose_worker_died_is_buried_as_a_failed_attempt(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    mux = ServeMux()
    mux.handle("test:echo", retry(retry_on=(OSError,))(lambda task: None))
    store(broker, "a")
    found = claim(broker)

    with caplog.at_level(logging.INFO, "boilerd"):
        rules_of(mux).record_lost_attempt(broker, WORKER, found, WorkerDiedError("worker died: SIGKILL"))

    assert connection.hget(keys.job("a"), "number_of_retries") == b"1"
    assert connection.hget(keys.job("a"), "last_error") == b"WorkerDiedError: worker died: SIGKILL"
    assert [record.message for record in caplog.records] == ["task failed", "task will be retried"]


@pytest.mark.parametrize("payload", [{"a": 1}, [1, 2], None])
def test_a_hook_sees_the_payload_of_a_task_whose_worker_died(broker: Broker, payload: Any) -> None:
    mux = ServeMux()
    seen = []
    mux.error_handler(lambda task, error: seen.append(task.payload))
    store(broker, "a", payload)
    claim(broker)
    (lost,) = broker.held(WORKER)

    rules_of(mux).record_lost_attempt(broker, WORKER, lost, WorkerDiedError("worker died: SIGKILL"))

    assert lost.unread
    assert seen == [payload]


def test_what_a_hook_enqueues_inherits_from_the_task_whose_worker_died(broker: Broker) -> None:
    mux, recorder = ServeMux(), RecordingClient()
    mux.error_handler(lambda task, error: recorder.enqueue("alert:send"))
    store(broker, "a", {"request_id": "r-1"}, headers={"traceparent": "00-1"})
    claim(broker)
    (lost,) = broker.held(WORKER)

    rules_of(mux).record_lost_attempt(broker, WORKER, lost, WorkerDiedError("worker died: SIGKILL"))
    recorder.enqueue("of:nobody")

    assert [dict(task.options.headers) for task in recorder.tasks] == [{"request_id": "r-1", "traceparent": "00-1"}, {}]


def test_no_hook_is_asked_of_a_lost_task_whose_payload_cannot_be_read(broker: Broker, connection: redis.Redis) -> None:
    mux = ServeMux()
    seen = []
    mux.error_handler(lambda task, error: seen.append(task))
    store(broker, "a")
    claim(broker)
    connection.hset(keys.job("a"), "data", b'["boilerd.entry_point.run",null,["test:echo",1e999],{}]')
    (lost,) = broker.held(WORKER)

    rules_of(mux).record_lost_attempt(broker, WORKER, lost, WorkerDiedError("worker died: SIGKILL"))

    assert seen == []
    assert connection.hget(keys.job("a"), "number_of_retries") == b"1"


def test_what_is_no_task_of_ours_is_archived_and_not_tried_again(broker: Broker, connection: redis.Redis) -> None:
    connection.hset(keys.job("x"), mapping={"data": b"pickled", "origin": "default"})
    connection.rpush(keys.queue("default"), "x")

    rules_of(ServeMux()).archive_unrunnable(broker, WORKER, claim(broker))

    assert connection.zrange(keys.registry("failed", "default"), 0, -1) == [b"x"]
    assert connection.zcard(keys.registry("scheduled", "default")) == 0


def rq_delays(broker: Broker, connection: redis.Redis, wanted: Retry) -> tuple[list[float], list[float]]:
    """The delays of a plain RQ job that always fails: ours, and what RQ itself would have waited."""
    queue = rq_queue(connection)
    job = queue.enqueue(ENTRY_POINT, "test:echo", None, retry=wanted)
    rules = rules_of(ServeMux())
    ours: list[float] = []
    theirs: list[float] = []
    while True:
        found = claim(broker)
        fetched = rq_job(connection, job.id)
        task = prepared(rules, found)
        failure = rules.decide_failure(task, ValueError("bad"), "")
        broker.fail(WORKER, found, failure)
        if failure.decision.verdict is Verdict.ARCHIVE:
            assert fetched.retries_left == 0
            return ours, theirs
        ours.append(failure.decision.delay_s)
        theirs.append(float(fetched.get_retry_interval()))
        make_due(connection)


@pytest.mark.parametrize(
    ("wanted", "delays"),
    [
        (Retry(max=3, interval=[10, 30, 60]), [10, 30, 60]),
        (Retry(max=2, interval=5), [5, 5]),
        (Retry(max=1), [0]),
    ],
)
def test_plain_rqs_retry_is_honoured(
    broker: Broker, connection: redis.Redis, wanted: Retry, delays: list[float]
) -> None:
    assert rq_delays(broker, connection, wanted) == (delays, delays)


def test_plain_rqs_retry_with_fewer_intervals_than_retries_is_rqs_own(broker: Broker, connection: redis.Redis) -> None:
    ours, theirs = rq_delays(broker, connection, Retry(max=4, interval=[10, 30]))

    assert ours == theirs
