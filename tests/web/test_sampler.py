"""One picture for however many look, also of a Redis that does not answer."""

import functools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import mark_of
from boilerd.broker.constants import LATELY_S
from boilerd.broker.inspection import kinds
from boilerd.broker.overview import Overview, read_overview
from boilerd.cli.facts import read_facts
from boilerd.errors import BrokerError, BrokerRefusedError, BrokerUnavailableError
from boilerd.settings.definitions import Settings
from boilerd.verdict.facts import Facts, Silence
from boilerd.verdict.table import judge
from boilerd.web import beside, outages, sampler, serving
from boilerd.web.beside import Beside
from boilerd.web.outages import Outages
from boilerd.web.own_queues.sights import cut
from boilerd.web.permissions import Principal
from boilerd.web.sampler import Sampler, Snapshot, facts_of
from boilerd.worker.kept_outcomes import KeptOutcomes
from builders import WORKER, enqueue, in_state
from support import DEADLINE_S, Valkey, wait_until

FAILED, FINISHED = "rq:failed:default", "rq:finished:default"
#: Somebody with one queue.
OF_DEFAULT = Principal.of_role("anna", "viewer", queues=["default"])


class Mute:
    """A daemon that does not answer."""

    info: Mapping[str, Any] = MappingProxyType({})
    processes: Sequence[Mapping[str, Any]] = ()
    silence = "no answer"
    cause = Silence.MUTE


def test_those_who_wait_for_a_picture_fail_with_it_and_do_not_each_try_again(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, calls = threading.Event(), []

    def stall(_connection: redis.Redis, **_: object) -> None:
        calls.append(1)
        ends.wait(DEADLINE_S)
        raise BrokerUnavailableError("no answer")

    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    monkeypatch.setattr(sampler, "read_overview", stall)
    looked = Sampler(connection)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(looked.read) for _ in range(4)]
        wait_until(lambda: bool(calls), "one of them asks")
        ends.set()
        errors = [type(each.exception(DEADLINE_S)) for each in found]

    assert errors == [BrokerUnavailableError] * 4
    assert len(calls) == 1


def test_processes_that_are_forked_from_one_do_not_take_their_pictures_for_the_same(
    connection: redis.Redis, client: Client
) -> None:
    looked = Sampler(connection)
    receiver, sender = os.pipe()

    if not (pid := os.fork()):
        with suppress(BaseException):
            os.write(sender, looked.read().mark.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    enqueue(client, "a")

    assert os.read(receiver, 100) not in {b"", looked.read().mark.encode()}


def test_pictures_differ_where_one_more_key_of_another_program_stands_in_the_way(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    looked = Sampler(connection)
    marks = []

    for key in kinds():
        connection.set(key, "no record")
        marks.append(looked.read().mark)

    assert len(marks) > 3
    assert len({*marks}) == len(marks)


def test_a_picture_without_other_queues_differs_where_the_verdict_on_those_that_are_left_does(
    connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    taken = Sampler(connection).read()
    queue = replace(taken.overview.queues[0], is_served=True)
    waits = replace(queue, detail=replace(queue.detail, latency_s=3600.0))

    now, later = (
        cut(replace(taken, overview=replace(taken.overview, workers=1, queues=[each])), OF_DEFAULT, lambda _: Beside())
        for each in (queue, waits)
    )

    assert [len(each.verdict.findings) for each in (now, later)] == [0, 1]
    assert now.mark != later.mark


def test_after_a_failure_the_next_picture_is_taken_when_something_was_done(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    looked = Sampler(connection)
    with monkeypatch.context() as away:
        away.setattr(sampler, "read_overview", lambda *_, **__: (_ for _ in ()).throw(BrokerUnavailableError("away")))
        with pytest.raises(BrokerUnavailableError):
            looked.read()

    looked.forget()

    assert looked.read().mark


def test_a_picture_tells_of_the_last_times_when_redis_was_away(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    looked = Sampler(connection)

    def fail(error: Exception) -> None:
        with monkeypatch.context() as away:
            away.setattr(sampler, "read_overview", lambda *_, **__: (_ for _ in ()).throw(error))
            with pytest.raises(BrokerError):
                looked.read()

    fail(BrokerRefusedError("no permission"))
    before = looked.read().outages
    fail(BrokerUnavailableError("refused"))
    fail(BrokerUnavailableError("no answer"))
    (once,) = looked.read().outages
    for number in range(25):
        fail(BrokerUnavailableError(f"away {number}"))
        looked.read()
    many = looked.read().outages

    assert before == ()
    assert once.why == "no answer"
    assert once.since < once.last < once.until
    assert [each.why for each in many] == [f"away {number}" for number in range(24, 4, -1)]


def test_an_outage_ends_after_it_began_though_the_hosts_clock_is_set_back_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Outages()
    found.note(BrokerUnavailableError("refused"))

    class AnHourAgo(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(outages, "datetime", AnHourAgo)
    found.note(BrokerUnavailableError("no answer"))
    (over,) = found.over()

    assert over.since <= over.last <= over.until <= AnHourAgo.now(UTC)
    assert over.until - over.since < timedelta(minutes=10)


def test_workers_are_looked_at_in_each_fifth_picture_and_those_that_come_and_go_at_once(
    connection: redis.Redis, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    broker.register("here.1", ["default"], {"queues": "default", "state": "idle"})
    looked, seen = Sampler(connection), list[Snapshot]()

    def take() -> None:
        looked._fresh_until_s = 0.0
        seen.append(looked.read())

    take()
    connection.hset(keys.worker("here.1"), "state", "busy")
    broker.register("here.2", ["own"], {"queues": "own", "state": "busy"})
    client.enqueue("test:echo", None, queue="own")
    take()
    connection.srem(keys.WORKERS, keys.worker("here.2"))
    take()
    looked.forget()
    take()

    workers = [{each.name: each.state for each in taken.overview.living} for taken in seen]
    first = {"here.1": "idle"}
    assert workers == [first, {**first, "here.2": "busy"}, first, {"here.1": "busy"}]
    assert not seen[1].verdict.findings


def test_a_picture_that_failed_half_way_leaves_nothing_old_to_the_next_one(
    connection: redis.Redis, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, "a")
    broker.register(WORKER, ["default"], {"queues": "default"})
    looked = Sampler(connection)
    first = looked.read()
    of_old = {key: msgspec.structs.replace(read, until_s=1.0) for key, read in first.overview.records.items() if read}
    looked._last = replace(first, overview=replace(first.overview, records=of_old))

    def take() -> Snapshot:
        looked._fresh_until_s = looked._failed_until_s = 0.0
        return looked.read()

    with monkeypatch.context() as away:
        away.setattr(looked._lately, "read", lambda: (_ for _ in ()).throw(BrokerUnavailableError("no answer")))
        looked._workers_until_s = 0.0
        with pytest.raises(BrokerUnavailableError):
            take()

    assert take().overview.workers == 1


def test_keys_that_another_program_made_and_mended_between_are_told_as_they_are(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    enqueue(client, "a")
    looked, found = Sampler(connection), list[str]()

    for key, is_foreign in ((FAILED, True), (FINISHED, True), (FAILED, False), (FINISHED, False)):
        connection.set(key, "foreign") if is_foreign else connection.delete(key)
        looked._fresh_until_s = 0.0
        found.append(looked.read().overview.queues[0].detail.counts.problem)

    assert [(FAILED in problem, FINISHED in problem) for problem in found] == [
        (True, False), (True, True), (False, True), (False, False),
    ]  # fmt: skip


def test_of_a_queue_that_came_since_the_last_look_at_workers_all_is_told(
    connection: redis.Redis, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    looked = Sampler(connection)
    looked.read()
    in_state(client, broker, TaskState.ARCHIVED)
    looked._fresh_until_s = 0.0

    (queue,) = looked.read().overview.queues

    assert (queue.detail.counts.archived, queue.detail.today.failed, queue.archived_lately) == (1, 1, 1)
    assert queue.detail.memory_bytes


def test_what_was_done_yesterday_is_not_told_of_today(connection: redis.Redis, client: Client, broker: Broker) -> None:
    in_state(client, broker, TaskState.ARCHIVED)
    taken = read_overview(connection)
    (queue,) = taken.queues
    today = queue.detail.today
    yesterday = replace(today, day=today.day - timedelta(days=1), failed=777)
    before = replace(taken, queues=[replace(queue, detail=replace(queue.detail, today=yesterday))])

    assert [each.detail.today for each in read_overview(connection, before=before).queues] == [today]


def test_what_was_done_today_and_what_is_wrong_with_it_are_read_with_the_workers(
    connection: redis.Redis, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    looked = Sampler(connection)
    in_state(client, broker, TaskState.ARCHIVED)
    seen = [looked.read()]
    in_state(client, broker, TaskState.ARCHIVED)
    connection.rename(keys.stats("default", int(broker.now() // 86400)), "away")
    connection.set(keys.stats("default", int(broker.now() // 86400)), "foreign")

    for workers_s in (60, -1, 60):
        looked._fresh_until_s, looked._workers_until_s = 0.0, time.monotonic() + workers_s
        seen.append(looked.read())

    queues = [taken.overview.queues[0] for taken in seen]
    assert [queue.detail.counts.archived for queue in queues] == [1, 2, 2, 2]
    assert [queue.archived_lately for queue in queues] == [1, 1, 2, 2]
    assert [queue.detail.today.failed for queue in queues] == [1, 1, 0, 0]
    assert [bool(queue.detail.counts.problem) for queue in queues] == [False, False, True, True]


@pytest.mark.parametrize(("a_picture", "pictures"), [(50, 5), (0.1, 10), (0.001, 15)])
def test_of_many_workers_pictures_read_no_more_than_a_few_each_on_average(
    connection: redis.Redis, broker: Broker, monkeypatch: pytest.MonkeyPatch, a_picture: float, pictures: int
) -> None:
    monkeypatch.setattr(sampler, "WORKERS_A_PICTURE", a_picture)
    broker.register(WORKER, ["default"], {"queues": "default"})
    looked, began_s = Sampler(connection), time.monotonic()

    assert looked.read().overview.workers == 1

    assert began_s <= looked._workers_until_s - pictures * sampler.FRESH_S <= time.monotonic()


def test_a_picture_with_the_memory_of_tasks_that_came_between_differs_from_that_without(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    looked = Sampler(connection)
    enqueue(client, "a")
    Inspector(connection).delete("a")
    looked.read()
    enqueue(client, "b")

    def take(workers_s: float) -> Snapshot:
        looked._fresh_until_s, looked._workers_until_s = 0.0, time.monotonic() + workers_s
        return looked.read()

    without, again, measured, same = take(60), take(60), take(-1), take(-1)

    assert [taken.overview.queues[0].detail.memory_bytes > 0 for taken in (without, measured)] == [False, True]
    assert (without.mark, measured.mark) == (again.mark, same.mark)
    assert without.mark != measured.mark


def test_what_stands_beside_the_queues_and_workers_are_read_in_different_pictures_where_these_are_taken_often(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "FRESH_S", 0.0)
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)
    looked = Sampler(connection)

    def take(ago_s: float, workers_s: float) -> Beside:
        now_s = time.monotonic()
        looked._fresh_until_s, looked._workers_until_s = now_s - ago_s, now_s + workers_s
        return looked.read().beside

    found = [looked.read().beside, take(1, -1), take(1, 60), take(90, -1)]
    looked.forget()
    found.append(take(1, -1))

    assert [one is other for one, other in pairwise(found)] == [True, False, False, False]


def test_what_is_changed_while_a_picture_is_taken_is_in_the_next_one(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    monkeypatch.setattr(beside, "FRESH_S", 3600.0)

    def change(overview: Overview) -> Facts:
        if not overview.queues:
            enqueue(client, "a")
            Inspector(connection).pause("default")
            looked.forget()
        return facts_of(overview)

    looked = Sampler(connection, change)
    looked.read()

    found = looked.read()

    assert [queue.detail.counts.pending for queue in found.overview.queues] == [1]
    assert [entry["what"] for entry in found.beside.audit] == ["pause"]


def test_the_daemons_dashboard_finds_what_the_command_finds(
    connection: redis.Redis, valkey: Valkey, directory: Path
) -> None:
    settings = Settings(redis_url=valkey.url, state_dir=str(directory))
    KeptOutcomes(directory / "outcomes", mark_of(settings)).keep("host.run.0", [], [])
    for kept in (directory / "outcomes").iterdir():
        os.utime(kept, (0, 0))

    found = Sampler(connection, functools.partial(serving.facts_of_host, settings, Mute)).read().verdict.findings

    told = judge(read_facts(settings, Mute(), is_storing=False)).findings  # type: ignore[arg-type]
    assert [finding.kind for finding in found] == [finding.kind for finding in told]
    assert "kept" in {finding.kind for finding in found}


def test_a_picture_changes_when_a_task_has_been_in_the_archive_for_an_hour(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    looked = Sampler(connection)
    first = looked.read()

    connection.zincrby("rq:failed:default", -LATELY_S - 1, task_id)
    looked._fresh_until_s = looked._workers_until_s = 0.0

    assert looked.read().mark != first.mark


def test_a_picture_changes_when_as_many_tasks_wait_as_before_and_the_oldest_is_another(
    connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "old")
    connection.hset("rq:job:old", "enqueued_at", "2026-01-31T14:00:00.000000Z")
    looked = Sampler(connection)
    first = looked.read().mark

    looked._fresh_until_s = 0.0
    again = looked.read().mark
    Inspector(connection).delete("old")
    enqueue(client, "new")
    looked._fresh_until_s = 0.0
    changed = looked.read().mark

    assert first == again != changed
