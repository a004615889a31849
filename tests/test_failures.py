"""Failure groups in Redis: what is counted and kept, what is new, rising or has returned, and actions."""

import json
import re
import time
from pathlib import Path

import pytest
import redis
from rq.job import JobStatus

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import FAILURE_DAYS, FAILURE_HOURS, FAILURE_RELEASES, FAILURE_SAMPLES, MOST_FAILURES
from boilerd.broker.failure_groups import FailureState
from boilerd.broker.states import Action
from boilerd.errors import FailureNotFoundError, InvalidTaskError, MisplacedKeyError, WorkerDiedError
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.retry import RetryPolicy, Verdict
from boilerd.worker.settlement import Rules
from builders import WORKER, claim, fail_as, failure_kind, rq_queue, store
from support import StartDaemon, Valkey, shown_by, wait_until

HOUR_S, DAY_S = 3600, 86400
GROUP = "a" * 12


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def test_failures_of_one_kind_are_counted_in_one_group(inspector: Inspector, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(release="1.0"))
    fail_as(broker, "b", failure_kind(release="1.1"))
    fail_as(broker, "c", failure_kind("b" * 12))

    other, group = inspector.failures()

    assert (other.count, group.count, group.last_hour, group.hours[-1], group.days[-1]) == (1, 2, 2, 2, 2)
    assert (group.type, group.error, group.message, group.frames) == (
        "test:echo", "shop.OwnError", "card N", ("shop.charge", "shop.pay"),
    )  # fmt: skip
    assert (group.first_release, group.last_release, group.state) == ("1.0", "1.1", FailureState.NEW)
    assert group.first_seen is not None
    assert group.first_seen <= group.last_seen
    assert inspector.failure(group.fingerprint).task_ids == ["b", "a"]
    assert inspector.task("a").fingerprint == group.fingerprint


def test_an_attempt_that_did_not_fail_leaves_its_group(inspector: Inspector, broker: Broker) -> None:
    fail_as(broker, "a", None)

    assert inspector.failures() == []
    assert inspector.task("a").fingerprint == ""
    with pytest.raises(FailureNotFoundError):
        inspector.failure("a" * 12)


def test_a_group_keeps_the_last_hours_days_and_tasks(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind())
    key, now_s = keys.failure("a" * 12), int(broker.now())
    connection.hset(key, mapping={f"h{now_s // HOUR_S - hours}": 1 for hours in range(100)})
    connection.hset(key, mapping={f"d{now_s // DAY_S - days}": 1 for days in range(100)})
    connection.hdel(key, f"h{now_s // HOUR_S}")  # as in the first failure of an hour
    connection.rpush(keys.failure_tasks("a" * 12), *["x"] * 2 * FAILURE_SAMPLES)

    fail_as(broker, "b", failure_kind())

    fields = [field[:1] for field in connection.hkeys(key)]
    assert (fields.count(b"h"), fields.count(b"d")) == (FAILURE_HOURS, FAILURE_DAYS)
    assert connection.llen(keys.failure_tasks("a" * 12)) == FAILURE_SAMPLES
    assert sum(inspector.failure("a" * 12).hours) == FAILURE_HOURS


def test_the_group_that_was_seen_the_longest_time_ago_makes_room(broker: Broker, connection: redis.Redis) -> None:
    connection.zadd(keys.FAILURES, {f"{number:012x}": broker.now() - number for number in range(1, MOST_FAILURES + 1)})
    last = f"{MOST_FAILURES:012x}"
    connection.hset(keys.failure(last), "count", 1)

    fail_as(broker, "a", failure_kind())

    assert connection.zcard(keys.FAILURES) == MOST_FAILURES
    assert connection.zscore(keys.FAILURES, last) is None
    assert not connection.exists(keys.failure(last))


def test_no_key_of_a_group_is_kept_for_ever(broker: Broker, connection: redis.Redis) -> None:
    fail_as(broker, "a", failure_kind())

    for key in (keys.FAILURES, keys.failure("a" * 12), keys.failure_tasks("a" * 12)):
        assert 29 * DAY_S < connection.ttl(key) <= 30 * DAY_S


def test_a_group_that_was_silent_for_long_has_returned(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind())
    long_ago_s = broker.now() - 8 * DAY_S
    connection.zadd(keys.FAILURES, {"a" * 12: long_ago_s})
    key, hour = keys.failure("a" * 12), int(broker.now()) // HOUR_S
    connection.hset(key, "first_seen", long_ago_s)
    connection.hdel(key, f"h{hour}", f"h{hour + 1}")

    fail_as(broker, "b", failure_kind())

    assert inspector.failure("a" * 12).state is FailureState.RETURNED


@pytest.mark.parametrize(("before", "state"), [(3, FailureState.RISING), (30, FailureState.STEADY)])
def test_a_group_rises_that_fails_far_more_often_than_before(
    inspector: Inspector, broker: Broker, connection: redis.Redis, before: int, state: FailureState
) -> None:
    fail_as(broker, "a", failure_kind())
    now_s = int(broker.now())
    key, hour = keys.failure("a" * 12), now_s // HOUR_S
    connection.hset(key, "first_seen", now_s - 20 * DAY_S)
    connection.hset(key, mapping={f"h{hour - hours}": before for hours in range(2, 30)})
    connection.hset(key, mapping={f"h{hour}": 40, f"h{hour - 1}": 40, f"h{hour + 1}": 40})

    assert inspector.failure("a" * 12).state is state


@pytest.mark.parametrize(
    ("action", "left"),
    [("run", {"other"}), ("delete", {"other"}), ("archive", {"archived", "elsewhere", "other", "retried"})],
)
def test_an_action_is_done_with_the_tasks_of_a_group_in_all_queues(
    inspector: Inspector, broker: Broker, connection: redis.Redis, action: Action, left: set[str]
) -> None:
    fail_as(broker, "retried", failure_kind(), Verdict.RETRY)
    fail_as(broker, "archived", failure_kind())
    fail_as(broker, "elsewhere", failure_kind(), queue="low")
    fail_as(broker, "other", failure_kind("b" * 12))
    foreign = rq_queue(connection).enqueue("shop.charge")
    foreign.set_status(JobStatus.FAILED)
    connection.zadd(keys.registry("failed", "default"), {foreign.id: time.time() + DAY_S})

    *_, last = inspector.bulk_failure(action, "a" * 12)

    archived = {task.id for name in ("default", "low") for task in inspector.tasks(name, TaskState.ARCHIVED)}
    assert archived - {foreign.id} == left
    assert foreign.id in archived
    assert inspector.tasks("default", TaskState.RETRY) == []
    assert last.done == (1 if action == "archive" else 3)


def test_foreign_values_where_a_group_should_be_do_not_keep_a_failure_from_being_recorded(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    connection.set(keys.FAILURES, "x")
    connection.set(keys.failure("a" * 12), "x")
    connection.set(keys.failure_tasks("a" * 12), "x")

    fail_as(broker, "a", failure_kind())
    connection.hset(keys.failure("a" * 12), "count", "many")
    fail_as(broker, "b", failure_kind())
    connection.hset(keys.failure("b" * 12), "about", "no JSON")
    connection.zadd(keys.FAILURES, {"b" * 12: 1})
    connection.hset(keys.failure("c" * 12), "about", b'{"fingerprint": "\xff"}')
    connection.zadd(keys.FAILURES, {b"\xff": 2, b"c" * 12: 3})

    assert [group.fingerprint for group in inspector.failures()] == ["a" * 12]
    assert inspector.task("b").state is TaskState.ARCHIVED


def test_another_programs_key_in_the_place_of_a_group_is_named(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind())
    connection.delete(keys.failure("a" * 12))
    connection.set(keys.failure("a" * 12), "x")

    with pytest.raises(MisplacedKeyError) as looked:
        inspector.failure("a" * 12)
    with pytest.raises(MisplacedKeyError) as marked:
        inspector.mark_failure("a" * 12, "mute")

    told = "key boilerd:failure:aaaaaaaaaaaa is no hash, rename it or delete it"
    assert [str(each.value) for each in (looked, marked)] == [told] * 2


def test_groups_that_cannot_be_read_are_left_out_with_a_word_in_lists(
    inspector: Inspector, broker: Broker, connection: redis.Redis, valkey: Valkey
) -> None:
    for mark in "abcd":
        fail_as(broker, mark, failure_kind(mark * 12))
    connection.delete(*(keys.failure(mark * 12) for mark in "abc"))
    connection.set(keys.failure("a" * 12), "x")
    connection.hset(keys.failure("b" * 12), "about", "no JSON")
    skipped: list[str] = []

    found = inspector.failures(skipped=skipped)
    listed = shown_by("failures", "--redis-url", valkey.url)

    assert [group.fingerprint for group in found] == ["d" * 12]
    told = [
        "key boilerd:failure:bbbbbbbbbbbb is no record of a failure group, rename it or delete it",
        "key boilerd:failure:aaaaaaaaaaaa is no hash, rename it or delete it",
    ]
    assert skipped == told
    assert [line for line in listed.splitlines() if "left out" in line] == [f"left out: {each}" for each in told]
    assert "dddddddddddd" in listed


def test_a_lost_attempt_and_a_doubtful_one(inspector: Inspector, broker: Broker) -> None:
    rules = Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)
    died = WorkerDiedError("worker died: signal 9 (SIGKILL)")
    for task_id, is_doubtful in (("a", True), ("b", False)):
        store(broker, task_id, queue=task_id)
        rules.record_lost_attempt(broker, WORKER, claim(broker, task_id), died, is_doubtful=is_doubtful)

    (group,) = inspector.failures()

    assert (group.error, group.count) == ("boilerd.errors.WorkerDiedError", 1)
    assert inspector.failure(group.fingerprint).task_ids == ["b"]


def test_the_hook_sees_the_payload_of_a_lost_attempt(inspector: Inspector, broker: Broker) -> None:
    mux = ServeMux()
    mux.fingerprint(lambda task, error: str(task.payload))
    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)
    for payload in (1, 2, 1):
        store(broker, f"{payload} {len(inspector.failures())} {broker.now()}", payload)
        claim(broker)
        (held,) = broker.held(WORKER)
        rules.record_lost_attempt(broker, WORKER, held, WorkerDiedError("worker died"))

    assert sorted(group.count for group in inspector.failures()) == [1, 2]


def test_the_commands_list_show_and_act(valkey: Valkey, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(release="1.0"))
    url = ("--redis-url", valkey.url)

    row = shown_by("failures", *url).splitlines()[1].split()
    one = json.loads(shown_by("failures", "show", "a" * 12, "--json", *url))
    text = shown_by("failures", "show", "a" * 12, *url)

    assert row[:4] == ["a" * 12, "new", "1", "1"]
    assert json.loads(shown_by("failures", "--json", *url))["fingerprint"] == one["fingerprint"] == "a" * 12
    assert one["task_ids"] == ["a"]
    assert "innermost first\n  shop.charge\n  shop.pay\n" in text
    assert "release 1.0" in text
    assert shown_by("failures", "run", "a" * 12, *url) == "1\n"
    assert shown_by("failures", "delete", "a" * 12, "--yes", *url) == "0\n"


def test_a_group_that_fails_after_it_was_acknowledged_came_back(inspector: Inspector, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(release="1.0"))

    assert inspector.mark_failure(GROUP, "acknowledge")
    assert not inspector.mark_failure(GROUP, "acknowledge")
    known = inspector.failure(GROUP)
    fail_as(broker, "b", failure_kind(release="1.1"))
    back = inspector.failure(GROUP)
    assert inspector.mark_failure(GROUP, "acknowledge")
    known_again = inspector.failure(GROUP)
    assert inspector.mark_failure(GROUP, "unacknowledge")

    assert (known.state, known.since_acknowledged) == (FailureState.ACKNOWLEDGED, 0)
    assert known.acknowledged_by
    assert known.first_seen is not None
    assert known.acknowledged_at is not None
    assert known.acknowledged_at >= known.first_seen
    assert (back.state, back.since_acknowledged, back.acknowledged_release) == (FailureState.CAME_BACK, 1, "1.0")
    assert known_again.state is FailureState.ACKNOWLEDGED
    assert inspector.failure(GROUP).state is FailureState.NEW


def test_marks_say_who_and_when_are_taken_back_and_go_with_their_group(
    inspector: Inspector, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind())
    text = "ask anna \udcff\x1b"

    assert inspector.mark_failure(GROUP, "mute")
    assert not inspector.mark_failure(GROUP, "mute")
    assert inspector.mark_failure(GROUP, "note", text)
    (marked,) = inspector.failures()
    assert inspector.mark_failure(GROUP, "unmute")
    assert inspector.mark_failure(GROUP, "note")
    (bare,) = inspector.failures()

    assert (marked.note, marked.noted_by) == (text, marked.muted_by)
    assert marked.muted_at
    assert marked.noted_at
    assert (bare.note, bare.noted_at, bare.muted_at, bare.muted_by) == ("", None, None, "")
    assert len(connection.keys("boilerd:failure*")) == 3
    with pytest.raises(InvalidTaskError, match="1,001 characters"):
        inspector.mark_failure(GROUP, "note", "x" * 1001)
    connection.delete(keys.failure(GROUP))
    with pytest.raises(FailureNotFoundError):
        inspector.mark_failure(GROUP, "mute")


def test_a_group_counts_by_release_and_forgets_the_one_in_which_it_failed_least(
    inspector: Inspector, broker: Broker
) -> None:
    for number, release in enumerate(["1.0", "1.0", "1.1", *(f"2.{minor}" for minor in range(FAILURE_RELEASES))]):
        fail_as(broker, f"t{number}", failure_kind(release=release))

    found = inspector.failure(GROUP).releases

    assert len(found) == FAILURE_RELEASES
    assert found["1.0"] == 2
    assert found[f"2.{FAILURE_RELEASES - 1}"] == 1


def test_where_the_tasks_of_groups_are_is_counted_exactly_or_in_a_fair_part_of_each_list(
    inspector: Inspector, broker: Broker
) -> None:
    for number in range(6):
        fail_as(broker, f"a{number}", failure_kind(), queue="low")
        fail_as(broker, f"r{number}", failure_kind("b" * 12), Verdict.RETRY)
    fail_as(broker, "once", failure_kind("c" * 12), queue="high")

    exact, part = inspector.failure_states(within_s=20), inspector.failure_states(looks=5, within_s=20)

    assert (exact.is_exact, exact.looked) == (True, 13)
    assert exact.of(GROUP) == {"archived": 6, "retry": 0}
    assert exact.of("b" * 12) == {"archived": 0, "retry": 6}
    assert (part.is_exact, part.looked) == (False, 5)
    assert [sum(part.of(letter * 12).values()) for letter in "abc"] == [2, 2, 1]


def test_the_commands_mark_a_group_and_leave_muted_ones_out(valkey: Valkey, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(release="1.0"))
    fail_as(broker, "b", failure_kind("b" * 12))
    url = ("--redis-url", valkey.url)

    shown_by("failures", "note", GROUP, "ask anna", *url)
    shown_by("failures", "mute", GROUP, *url)

    listed = shown_by("failures", *url)
    assert "b" * 12 in listed
    assert GROUP not in listed
    assert "1 muted" in listed
    assert "new, muted" in shown_by("failures", "--muted", *url)
    text = shown_by("failures", "show", GROUP, *url)
    assert re.search(r"^note +ask anna$", text, re.MULTILINE)
    assert re.search(r"^muted +\S.*, by \S+", text, re.MULTILINE)
    assert "by release\n  1.0  1\n" in text
    shown_by("failures", "mute", GROUP, "--undo", *url)
    assert GROUP in shown_by("failures", *url)


@pytest.mark.parametrize("slots", [1, 8])
def test_a_daemon_s_failures_have_groups_and_so_has_a_worker_that_was_killed(
    start_daemon: StartDaemon, client: Client, inspector: Inspector, directory: Path, slots: int
) -> None:
    settings = directory / "it.toml"
    settings.write_text(f'release = "7"\nconcurrency = 1\n[pools.default]\nslots = {slots}\n')
    start_daemon("--config", str(settings)).ready()
    for task_id in ("a", "b"):
        client.enqueue("test:fail", task_id, task_id=task_id, max_retries=0)
    client.enqueue("test:die", task_id="c", max_retries=0, timeout=1)

    wait_until(lambda: inspector.task("c").last_failed_at, "all have failed")

    found = {group.error: group for group in inspector.failures()}
    assert (found["RuntimeError"].count, found["RuntimeError"].first_release) == (2, "7")
    assert found["RuntimeError"].frames == ("apps.fail",)
    assert found["boilerd.errors.WorkerDiedError"].count == 1
