"""Periodic tasks with a real broker: each tick once, on however many hosts."""

import logging
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import (
    BrokerError,
    BrokerUnavailableError,
    Client,
    ConfigError,
    Draft,
    DuplicateTaskError,
    Inspector,
    InvalidTaskError,
    QueueFullError,
    ServeMux,
    Task,
    TaskInfo,
    TaskState,
    TickInfo,
)
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.constants import MOST_TICKS
from boilerd.broker.job_hash import NewTask
from boilerd.errors import MisplacedKeyError
from boilerd.scheduler import periodic as periodic_module
from boilerd.scheduler.periodic import LATE_S, LONGEST_SLEEP_S, Periodic, new_task
from boilerd.settings.loading import load
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.options import task_options
from boilerd.tasks.retry import Verdict
from boilerd.worker import settlement
from builders import claim, complete_next, fail_next, pending, tell_cron
from support import Valkey, rings

HOSTS = 4


class Every:
    """An entry whose last tick was so many seconds ago, or up to four more, and whose next one is far away.

    Redis's clock cannot be set, so the interval is chosen: of four seconds in a row one is
    four intervals after 1970.
    """

    def __init__(self, broker: Broker, ago_s: int, **options: Any) -> None:
        latest_s = int(broker.now()) - ago_s
        self.interval_s = latest_s // 4
        self.tick_s = float(4 * self.interval_s)
        self.entry = CronEntry(name="e", spec=f"@every {self.interval_s}s", task_type="test:echo", **options)

    def ticks(self, *back: int) -> list[str]:
        """The IDs of the ticks so many intervals before the last one."""
        return [self.entry.tick_id(self.tick_s - n * self.interval_s) for n in back]

    def seen(self, connection: redis.Redis, back: int, schedule: str = "") -> None:
        """As if it had been seen first a little before the tick so many intervals before the last one."""
        since_s = self.tick_s - back * self.interval_s - 1
        connection.hset(keys.SCHEDULES, "e", f"{since_s:.6f} {schedule or f'UTC {self.entry.spec}'}")

    def remember(self, connection: redis.Redis, back: int) -> None:
        """As if the tick so many intervals before the last one had been the last that was taken."""
        connection.hset(keys.CRON, "e", repr(self.tick_s - back * self.interval_s))


@pytest.fixture
def just_now(broker: Broker) -> Every:
    """Its last tick is in time, and stays so for some seconds more."""
    return Every(broker, 1)


@pytest.fixture
def long_ago(broker: Broker) -> Every:
    """Its last tick is too late, and the next one is not near."""
    return Every(broker, int(LATE_S) + 30)


def test_the_first_start_enqueues_no_tick_that_was_before_it(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    Periodic([just_now.entry]).enqueue_due(broker)

    assert connection.keys(f"{keys.RQ}:*") == []
    assert broker.last_ticks() == {}


def test_a_tick_that_is_due_is_enqueued_under_its_own_id(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    just_now.remember(connection, back=1)

    Periodic([just_now.entry]).enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)
    assert broker.last_ticks() == {"e": just_now.tick_s}


def test_the_first_start_remembers_since_when_there_is_an_entry(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    before_s = broker.now()
    Periodic([just_now.entry]).enqueue_due(broker)
    first = connection.hget(keys.SCHEDULES, "e")

    Periodic([just_now.entry]).enqueue_due(broker)

    assert isinstance(first, bytes)
    since, _, schedule = first.decode().partition(" ")
    assert before_s - 1 <= float(since) <= broker.now()
    assert schedule == f"UTC {just_now.entry.spec}"
    assert connection.hget(keys.SCHEDULES, "e") == first
    assert 399 * 86400 < connection.ttl(keys.SCHEDULES) <= 400 * 86400


@pytest.mark.fault(36)
def test_an_entry_s_first_tick_is_caught_up_with_although_no_daemon_ran(
    broker: Broker, connection: redis.Redis
) -> None:
    every = Every(broker, int(LATE_S) + 30, catch_up=True)
    every.seen(connection, back=0)

    Periodic([every.entry]).enqueue_due(broker)

    assert pending(connection) == every.ticks(0)


@pytest.mark.fault(36)
def test_an_entry_s_first_tick_is_logged_when_it_was_missed(
    broker: Broker, connection: redis.Redis, long_ago: Every, caplog: pytest.LogCaptureFixture
) -> None:
    long_ago.seen(connection, back=0)

    Periodic([long_ago.entry]).enqueue_due(broker)

    (record,) = caplog.records
    assert pending(connection) == []
    assert (record.message, vars(record)["missed"]) == ("periodic task missed its time", 1)


@pytest.mark.parametrize("earlier", ["UTC 0 4 * * *", "Europe/Berlin {spec}"])
def test_a_changed_schedule_counts_from_when_it_is_first_seen(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture, earlier: str
) -> None:
    every = Every(broker, int(LATE_S) + 30, catch_up=True)
    every.remember(connection, back=2)
    every.seen(connection, 3, earlier.format(spec=every.entry.spec))

    Periodic([every.entry]).enqueue_due(broker)

    assert (pending(connection), caplog.records) == ([], [])
    found = connection.hget(keys.SCHEDULES, "e")
    assert isinstance(found, bytes)
    assert abs(float(found.split()[0]) - broker.now()) < 5


def test_a_schedule_that_an_earlier_daemon_did_not_remember_counts_from_its_last_tick(
    broker: Broker, connection: redis.Redis
) -> None:
    every = Every(broker, int(LATE_S) + 30, catch_up=True)
    every.remember(connection, back=1)

    Periodic([every.entry]).enqueue_due(broker)

    assert pending(connection) == every.ticks(0)


@pytest.mark.parametrize("value", ["", "soon", "nan UTC {spec}", "-1 UTC {spec}", "1e300 UTC {spec}"])
def test_a_memory_of_a_schedule_that_cannot_be_is_none(
    broker: Broker, connection: redis.Redis, just_now: Every, value: str
) -> None:
    connection.hset(keys.SCHEDULES, "e", value.format(spec=just_now.entry.spec))

    Periodic([just_now.entry]).enqueue_due(broker)

    assert pending(connection) == []


@pytest.mark.parametrize("key", [keys.queue("default"), keys.registry("scheduled", "default")])
def test_a_tick_whose_task_could_not_be_stored_is_not_used_up(
    broker: Broker, connection: redis.Redis, just_now: Every, key: str
) -> None:
    is_later = key != keys.queue("default")
    entry = CronEntry(name="e", spec="@daily", task_type="test:echo", options={"process_in": 60} if is_later else {})
    task = new_task(entry, just_now.tick_s)
    connection.set(key, "foreign")

    with pytest.raises(BrokerError):
        broker.tick("e", just_now.tick_s, task)

    assert broker.last_ticks() == {}
    connection.delete(key)
    assert broker.tick("e", just_now.tick_s, task) == (True, None)
    assert connection.exists(keys.job(task.id))


@pytest.mark.parametrize("value", ["yesterday", "nan", "inf", "-inf", "1e300", "-1e300", "-1e12"])
def test_what_is_no_tick_is_none(broker: Broker, connection: redis.Redis, just_now: Every, value: str) -> None:
    connection.hset(keys.CRON, mapping={"e": value, "other": "60"})

    assert broker.last_ticks() == {"other": 60.0}
    Periodic([just_now.entry]).enqueue_due(broker)
    assert broker.tick("e", just_now.tick_s, None) == (True, None)


def test_a_tick_that_was_taken_while_redis_clock_was_ahead_stops_none(
    broker: Broker, connection: redis.Redis, just_now: Every, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.hset(keys.CRON, "e", just_now.tick_s + 365 * 86400)
    periodic = Periodic([just_now.entry])
    with monkeypatch.context() as earlier:
        earlier.setattr(broker, "now", lambda: just_now.tick_s - 1)
        periodic.enqueue_due(broker)
    assert pending(connection) == []

    periodic.enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)


def test_an_entry_that_redis_refuses_stops_no_other(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    spec = just_now.entry.spec
    entries = [
        CronEntry(name=queue, spec=spec, task_type="test:echo", options={"queue": queue}) for queue in ("bad", "good")
    ]
    for entry in entries:
        connection.hset(keys.CRON, entry.name, just_now.tick_s - just_now.interval_s)
    connection.set(keys.queue("bad"), "foreign")

    with pytest.raises(BrokerError, match="WRONGTYPE"):
        Periodic(entries).enqueue_due(broker)

    assert pending(connection, "good") == [entries[1].tick_id(just_now.tick_s)]


def test_the_id_of_a_tick_is_made_of_name_and_time() -> None:
    entry = CronEntry(name="report", spec="@daily", task_type="report:refresh")

    assert entry.tick_id(1_767_225_600.0) == "cron-report-20260101T000000Z"
    assert new_task(entry, 1_767_225_600.0).id == "cron-report-20260101T000000Z"


@pytest.mark.fault(36)
def test_a_tick_is_enqueued_once_by_a_scheduler_and_by_its_successor(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    just_now.remember(connection, back=1)
    periodic = Periodic([just_now.entry])

    periodic.enqueue_due(broker)
    periodic.enqueue_due(broker)
    Periodic([just_now.entry]).enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)


def test_a_tick_stays_taken_when_its_task_is_gone(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    just_now.remember(connection, back=1)
    Periodic([just_now.entry]).enqueue_due(broker)
    connection.delete(keys.queue("default"), keys.job(just_now.ticks(0)[0]))

    Periodic([just_now.entry]).enqueue_due(broker)

    assert pending(connection) == []


@pytest.mark.fault(36)
def test_each_of_many_ticks_is_enqueued_once_by_several_hosts_at_once(
    valkey: Valkey, broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    spec = just_now.entry.spec
    entries = [CronEntry(name=f"e{number}", spec=spec, task_type="test:echo") for number in range(40)]
    for entry in entries:
        connection.hset(keys.CRON, entry.name, just_now.tick_s - just_now.interval_s)
    gate = threading.Barrier(HOSTS)

    def host() -> None:
        with connect(valkey.url) as own:
            own_broker = Broker(own)
            own_broker.now()  # connected before the race
            gate.wait(10)
            Periodic(entries).enqueue_due(own_broker)

    threads = [threading.Thread(target=host) for _ in range(HOSTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert sorted(pending(connection)) == sorted(entry.tick_id(just_now.tick_s) for entry in entries)


def test_two_hosts_that_run_on_take_one_tick_once(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    just_now.remember(connection, back=1)
    first, second = Periodic([just_now.entry]), Periodic([just_now.entry])

    answers = [periodic.enqueue_due(broker) for periodic in (first, second, first, second)]

    assert pending(connection) == just_now.ticks(0)
    assert all(answer > 0 for answer in answers)


def test_a_host_that_is_behind_takes_no_tick_before_the_last_one(broker: Broker, just_now: Every) -> None:
    entry, tick_s = just_now.entry, just_now.tick_s
    older_s = tick_s - just_now.interval_s

    taken = broker.tick("e", tick_s, new_task(entry, tick_s))
    again = broker.tick("e", tick_s, new_task(entry, tick_s))
    older = broker.tick("e", older_s, new_task(entry, older_s))

    assert (taken, again, older) == ((True, None), (False, None), (False, None))


def test_a_tick_whose_queue_is_full_says_so(broker: Broker, just_now: Every) -> None:
    broker.set_limits({"default:max_length": 1})
    broker.enqueue([NewTask("first", "test:echo", b"1", task_options())])

    is_ours, refusal = broker.tick("e", just_now.tick_s, new_task(just_now.entry, just_now.tick_s))

    assert is_ours
    assert isinstance(refusal, QueueFullError)


def test_a_periodic_task_of_a_nested_mux_counts() -> None:
    inner, outer = ServeMux(), ServeMux()
    inner.cron("@daily", "inner:task")
    outer.cron("@daily", "outer:task")
    outer.handle("inner:", inner)
    outer.handle("again:", inner)

    assert [entry.task_type for entry in outer.crons] == ["outer:task", "inner:task"]


@pytest.mark.fault(36)
def test_missed_ticks_are_skipped_and_logged(
    broker: Broker, connection: redis.Redis, long_ago: Every, caplog: pytest.LogCaptureFixture
) -> None:
    long_ago.remember(connection, back=3)

    Periodic([long_ago.entry]).enqueue_due(broker)

    (record,) = caplog.records
    assert pending(connection) == []
    assert broker.last_ticks() == {"e": long_ago.tick_s}
    assert (record.levelno, record.message) == (logging.WARNING, "periodic task missed its time")
    assert {name: vars(record)[name] for name in ("cron", "missed", "caught_up")} == {
        "cron": "e", "missed": 3, "caught_up": False,
    }  # fmt: skip


def test_missed_ticks_are_logged_by_one_host_only(
    broker: Broker, connection: redis.Redis, long_ago: Every, caplog: pytest.LogCaptureFixture
) -> None:
    long_ago.remember(connection, back=3)
    hosts = [Periodic([long_ago.entry]) for _ in range(2)]
    for host in hosts:
        host._last = {"e": long_ago.tick_s - 3 * long_ago.interval_s}  # both have run since then

    for host in hosts:
        host.enqueue_due(broker)

    assert len(caplog.records) == 1


@pytest.mark.fault(36)
def test_of_missed_ticks_the_latest_is_caught_up_with_where_that_is_wanted(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    every = Every(broker, int(LATE_S) + 30, catch_up=True)
    every.remember(connection, back=3)

    Periodic([every.entry]).enqueue_due(broker)

    (record,) = caplog.records
    assert pending(connection) == every.ticks(0)
    assert (vars(record)["missed"], vars(record)["caught_up"]) == (2, True)


def test_a_tick_that_is_in_time_runs_although_others_before_it_were_missed(
    broker: Broker, connection: redis.Redis, just_now: Every, caplog: pytest.LogCaptureFixture
) -> None:
    just_now.remember(connection, back=3)

    Periodic([just_now.entry]).enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)
    assert [vars(record)["missed"] for record in caplog.records] == [2]


def test_a_tick_in_time_after_the_one_before_is_not_worth_a_warning(
    broker: Broker, connection: redis.Redis, just_now: Every, caplog: pytest.LogCaptureFixture
) -> None:
    just_now.remember(connection, back=1)

    Periodic([just_now.entry]).enqueue_due(broker)

    assert caplog.records == []


def test_a_task_has_the_options_of_its_entry(broker: Broker, connection: redis.Redis) -> None:
    every = Every(broker, 1, payload={"n": 1}, options={"queue": "low", "timeout": 7, "max_retries": 1})
    every.remember(connection, back=1)
    Periodic([every.entry]).enqueue_due(broker)

    claim = broker.advance("host.run.0", ("low",)).claims[0]

    assert claim is not None
    assert claim.task is not None
    assert (claim.task.type, claim.task.payload, claim.task.timeout_s) == ("test:echo", {"n": 1}, 7)
    assert claim.max_retries == 1


def test_a_tick_rings_for_a_worker(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    just_now.remember(connection, back=1)

    Periodic([just_now.entry]).enqueue_due(broker)

    assert rings(broker.connection, "default") is True


def test_the_sleep_lasts_until_the_next_tick_but_no_longer_than_a_minute(broker: Broker, just_now: Every) -> None:
    soon = CronEntry(name="soon", spec="@every 30s", task_type="test:echo")

    long_s = Periodic([just_now.entry]).enqueue_due(broker)
    before_s = broker.now()
    short_s = Periodic([just_now.entry, soon]).enqueue_due(broker)

    assert long_s == LONGEST_SLEEP_S
    assert 0 <= short_s <= 30
    assert abs(((before_s + short_s) % 30 + 15) % 30 - 15) < 1


def test_a_clock_of_redis_that_moved_on_makes_the_tick_due(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    periodic = Periodic([just_now.entry])
    periodic.enqueue_due(broker)
    periodic._last = {"e": just_now.tick_s - 1}  # as if it had looked before the tick

    periodic.enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)


def test_the_last_ticks_do_not_stay_in_redis_for_ever(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    just_now.remember(connection, back=1)

    Periodic([just_now.entry]).enqueue_due(broker)

    assert 399 * 86400 < connection.ttl(keys.CRON) <= 400 * 86400


def test_two_entries_of_one_name_are_refused() -> None:
    entries = [CronEntry(name="report", spec=spec, task_type="report:refresh") for spec in ("@daily", "@hourly")]

    with pytest.raises(ConfigError, match="'report' is there twice"):
        Periodic(entries)


def test_two_entries_of_one_type_need_names(directory: Path) -> None:
    mux = ServeMux()
    mux.cron("@daily", "report:refresh", "eu")
    settings = settings_of(directory, '[[cron]]\nspec = "@hourly"\ntype = "report:refresh"\n')

    with pytest.raises(ConfigError, match="'report-refresh' is there twice; give one of them another name"):
        Periodic([*mux.crons, *settings])


def settings_of(directory: Path, content: str) -> list[CronEntry]:
    path = directory / "boilerd.toml"
    path.write_text(content)
    return load(file=path, environ={}).settings.cron_entries()


def test_an_entry_of_the_settings_and_one_in_code_end_up_the_same(
    directory: Path, broker: Broker, client: Client, connection: redis.Redis
) -> None:
    mux = ServeMux()
    mux.cron(
        "*/5 * * * *", "report:refresh", {"region": "eu"}, name="report", timezone="Europe/Berlin", catch_up=True,
        queue="low", timeout=60, retention=3600, max_retries=2,
    )  # fmt: skip
    entries = settings_of(
        directory,
        """
        [[cron]]
        spec = "*/5 * * * *"
        type = "report:refresh"
        payload = { region = "eu" }
        name = "report"
        timezone = "Europe/Berlin"
        catch_up = true
        queue = "low"
        timeout = "1m"
        retention = "1h"
        max_retries = 2
        """,
    )

    assert entries == mux.crons
    assert new_task(entries[0], 0.0) == new_task(mux.crons[0], 0.0)


def test_an_entry_with_nothing_but_the_needful_is_the_same_from_both(directory: Path) -> None:
    mux = ServeMux()
    mux.cron("@every 30s", "worker:ping")

    assert settings_of(directory, '[[cron]]\nspec = "@every 30s"\ntype = "worker:ping"\n') == mux.crons
    assert mux.crons[0].name == "worker-ping"


@pytest.mark.parametrize(
    "content",
    [
        '[[cron]]\nspec = "61 * * * *"\ntype = "report:refresh"\n',
        '[[cron]]\nspec = "@daily"\ntype = "bad type"\n',
        '[[cron]]\nspec = "@daily"\ntype = "report:refresh"\ntimezone = "Europe/Berln"\n',
        '[[cron]]\nspec = "@daily"\ntype = "report:refresh"\nqueue = "a b"\n',
        '[[cron]]\ntype = "report:refresh"\n',
        '[[cron]]\nspec = "@daily"\ntype = "report:refresh"\ncatchup = true\n',
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_when_the_settings_are_read(directory: Path, content: str) -> None:
    path = directory / "boilerd.toml"
    path.write_text(content)

    with pytest.raises(ConfigError, match="cron"):
        load(file=path, environ={})


def test_without_entries_there_is_nothing_to_do() -> None:
    assert not Periodic([])


# --- Headers and client middleware


def test_a_tick_has_the_headers_of_its_entry(broker: Broker, connection: redis.Redis) -> None:
    every = Every(broker, 1, options={"headers": {"tenant-id": "7"}})
    every.remember(connection, back=1)

    Periodic([every.entry]).enqueue_due(broker)

    assert Inspector(connection).task(every.ticks(0)[0]).headers == {"tenant-id": "7"}


def test_an_entry_whose_header_is_not_allowed_or_that_would_inherit_is_refused() -> None:
    mux = ServeMux()

    with pytest.raises(ConfigError, match="cron entry 'a-b': header 'Tenant': use small letters"):
        mux.cron("@daily", "a:b", headers={"Tenant": "7"})
    with pytest.raises(ConfigError, match="option 'inherit': leave it out; no task runs from which a tick"):
        mux.cron("@daily", "a:b", inherit=True)


def test_client_middleware_goes_around_the_enqueue_of_a_tick(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    answers: list[Any] = []

    def stamp(drafts: list[Draft], push: Any) -> Any:
        drafts[0].headers["tenant-id"] = "7"
        drafts[0].options["queue"] = "low"
        answers.extend(push([*drafts, Draft("audit:note", 1)]))
        return answers[:1]

    just_now.remember(connection, back=1)
    Periodic([just_now.entry], inside(stamp)).enqueue_due(broker)

    (task_id,) = just_now.ticks(0)
    assert [type(answer) for answer in answers] == [TaskInfo, TaskInfo]
    assert (pending(connection, "low"), len(pending(connection))) == ([task_id], 1)
    assert Inspector(connection).task(task_id).headers == {"tenant-id": "7"}
    assert broker.last_ticks() == {"e": just_now.tick_s}


def test_a_tick_is_enqueued_once_by_several_hosts_with_client_middleware(
    broker: Broker, connection: redis.Redis, just_now: Every, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def look(drafts: list[Draft], push: Any) -> Any:
        seen.extend(answers := push([*drafts, Draft("audit:note")]))
        return answers[:1]

    just_now.remember(connection, back=1)
    first, second = Periodic([just_now.entry], inside(look)), Periodic([just_now.entry], inside(look))
    for host in (first, second):
        host._last = {"e": just_now.tick_s - just_now.interval_s}  # both have run since then
    for host in (first, second):
        host.enqueue_due(broker)

    assert [type(answer).__name__ for answer in seen] == ["TaskInfo"] * 2 + ["TaskIdConflictError"] * 2
    assert len(pending(connection)) == 2
    assert caplog.records == []


def inside(middleware: Any) -> ServeMux:
    """A mux with this client middleware, which runs any task."""
    mux = ServeMux()
    mux.not_found(lambda _: None)
    mux.use_client(middleware)
    return mux


def test_what_client_middleware_adds_to_a_tick_has_the_options_of_its_type(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    mux = inside(lambda drafts, push: push([*drafts, Draft("audit:note", 1)])[:1])

    @mux.task("audit:note", queue="low", retention=60)
    def note(task: Task[int]) -> None: ...

    just_now.remember(connection, back=1)
    Periodic([just_now.entry], mux).enqueue_due(broker)

    (added,) = pending(connection, "low")
    assert Inspector(connection).task(added).retention_s == 60
    assert pending(connection) == just_now.ticks(0)


def hang(*_: object) -> Any:
    while True:
        pass


def give_up(*_: object) -> Any:
    raise SystemExit(1)


def lack_another_redis(*_: object) -> Any:
    raise BrokerUnavailableError("the Redis of the middleware is away")


def test_a_tick_that_client_middleware_keeps_out_or_fails_at_is_passed_over_and_logged(
    broker: Broker,
    connection: redis.Redis,
    just_now: Every,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settlement, "HOOK_LIMIT_S", 0.2)
    just_now.remember(connection, back=1)
    told = []
    ways: list[Any] = [give_up, hang, lack_another_redis, lambda *_: [QueueFullError("default")], lambda *_: None]
    for middleware in ways:
        connection.hset(keys.CRON, "e", just_now.tick_s - just_now.interval_s)
        Periodic([just_now.entry], inside(middleware)).enqueue_due(broker)
        told.append([record.message for record in caplog.records])
        caplog.clear()
        assert (pending(connection), broker.last_ticks()) == ([], {"e": just_now.tick_s})

    raised, kept_out = ["client middleware raised"], ["periodic task was not enqueued"]
    assert told == [raised, raised, kept_out, kept_out, raised]


def test_the_other_duties_have_their_turn_after_slow_client_middleware(
    broker: Broker, connection: redis.Redis, just_now: Every, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(periodic_module, "LONGEST_STEP_S", 0.0)
    entries = [CronEntry(name=name, spec=just_now.entry.spec, task_type="test:echo") for name in ("first", "second")]
    for entry in entries:
        connection.hset(keys.CRON, entry.name, just_now.tick_s - just_now.interval_s)
    periodic = Periodic(entries, inside(lambda drafts, push: push(drafts)))

    assert periodic.enqueue_due(broker) == 0.0
    assert pending(connection) == [entries[0].tick_id(just_now.tick_s)]
    assert periodic.enqueue_due(broker) == 0.0
    assert len(pending(connection)) == 2
    assert periodic.enqueue_due(broker) > 0


def swallow_errors(drafts: list[Draft], push: Any) -> Any:
    try:
        return push(drafts)
    except BrokerError as error:
        return [error]


@pytest.mark.parametrize("middleware", [lambda drafts, push: push(drafts), swallow_errors])
def test_a_broker_that_refuses_a_tick_inside_client_middleware_leaves_it_due(
    broker: Broker, connection: redis.Redis, just_now: Every, middleware: Any
) -> None:
    just_now.remember(connection, back=1)
    connection.set(keys.queue("default"), "foreign")
    periodic = Periodic([just_now.entry], inside(middleware))
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        periodic.enqueue_due(broker)
    connection.delete(keys.queue("default"))

    periodic.enqueue_due(broker)

    assert pending(connection) == just_now.ticks(0)


# --- The history of an entry


def history(connection: redis.Redis, size: int = 100) -> list[TickInfo]:
    return Inspector(connection).ticks("e", size)


def test_a_tick_is_noted_with_its_task_and_how_many_were_missed_before_it(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    just_now.remember(connection, back=3)
    began_s = broker.now()

    Periodic([just_now.entry]).enqueue_due(broker)

    (tick,) = history(connection)
    assert (tick.task_id, tick.queue, tick.state) == (just_now.ticks(0)[0], "default", TaskState.PENDING)
    assert (tick.skipped, tick.missed) == ("", 2)
    assert tick.due_at == datetime.fromtimestamp(just_now.tick_s, UTC)
    assert tick.taken_at is not None
    assert began_s - 0.001 <= tick.taken_at.timestamp() <= broker.now()
    assert 399 * 86400 < connection.ttl(keys.ticks("e")) <= 400 * 86400


def test_a_tick_that_comes_too_late_is_noted_with_the_reason(
    broker: Broker, connection: redis.Redis, long_ago: Every
) -> None:
    long_ago.remember(connection, back=1)

    Periodic([long_ago.entry]).enqueue_due(broker)

    (tick,) = history(connection)
    assert (tick.task_id, tick.state) == ("", None)
    assert re.fullmatch(r"noticed 4\d s late, and catch_up is off", tick.skipped)


def test_why_a_tick_has_no_task_is_noted(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    def refused(task: NewTask, **options: Any) -> str:
        connection.delete(keys.CRON)
        broker.tick("e", just_now.tick_s, task)
        return history(connection)[0].skipped

    broker.enqueue([new_task(just_now.entry, just_now.tick_s)])
    taken = refused(new_task(just_now.entry, just_now.tick_s))
    broker.enqueue([NewTask("first", "a", b"1", task_options(unique=60))])
    locked = refused(NewTask("second", "a", b"1", task_options(unique=60)))
    broker.set_limits({"low:max_length": 1}, ["low"])
    broker.enqueue([NewTask("third", "a", b"1", task_options(queue="low"))])
    full = refused(NewTask("fourth", "a", b"1", task_options(queue="low")))

    assert taken == "a task of its ID was there already"
    assert locked == "task first holds its unique lock"
    assert full == "its queue was full"


@pytest.mark.parametrize(
    ("middleware", "why"),
    [
        (give_up, "client middleware raised SystemExit"),
        (lambda *_: [QueueFullError("default")], str(QueueFullError("default"))),
        (lambda *_: [DuplicateTaskError("\ud800")], str(DuplicateTaskError("?"))),
    ],
)
def test_why_client_middleware_kept_a_tick_out_is_noted(
    broker: Broker, connection: redis.Redis, just_now: Every, middleware: Any, why: str
) -> None:
    just_now.remember(connection, back=1)

    Periodic([just_now.entry], inside(middleware)).enqueue_due(broker)

    assert [tick.skipped for tick in history(connection)] == [why]


def test_what_became_of_the_task_of_a_tick_is_told_as_far_as_redis_knows(
    broker: Broker, connection: redis.Redis
) -> None:
    ends: list[tuple[str, Any]] = [
        ("kept", 60), ("short", 0), ("failed", 0), ("again", 0), ("deleted", 0), ("runs", 0), ("waits", 0),
    ]  # fmt: skip
    for second, (name, retention) in enumerate(ends, 1):
        broker.tick("e", float(second), NewTask(name, "a", b"1", task_options(retention=retention)))
    complete_next(broker)
    complete_next(broker)
    fail_next(broker, Verdict.ARCHIVE)
    fail_next(broker, Verdict.RETRY, delay_s=3600)
    Inspector(connection).delete("deleted")
    claim(broker)

    found = {tick.task_id: (tick.state, tick.ended_at is not None) for tick in history(connection)}

    assert list(found) == [name for name, _ in reversed(ends)]
    assert found == {
        "kept": (TaskState.COMPLETED, True), "short": (TaskState.COMPLETED, True), "failed": (TaskState.ARCHIVED, True),
        "again": (TaskState.RETRY, False), "deleted": (None, False), "runs": (TaskState.ACTIVE, False),
        "waits": (TaskState.PENDING, False),
    }  # fmt: skip


def test_the_history_has_the_last_hundred_ticks(broker: Broker, connection: redis.Redis) -> None:
    for second in range(1, MOST_TICKS + 6):
        broker.tick("e", float(second), None)

    assert connection.llen(keys.ticks("e")) == MOST_TICKS
    due = [tick.due_at.timestamp() for tick in history(connection, 3) if tick.due_at]
    assert due == [MOST_TICKS + 5, MOST_TICKS + 4, MOST_TICKS + 3]


def test_another_key_in_place_of_the_history_costs_no_tick(broker: Broker, connection: redis.Redis) -> None:
    connection.set(keys.ticks("e"), "x")
    with pytest.raises(MisplacedKeyError):
        history(connection)

    assert broker.tick("e", 1.0, NewTask("first", "a", b"1", task_options())) == (True, None)

    assert pending(connection) == ["first"]
    assert [tick.task_id for tick in history(connection)] == ["first"]


def test_a_tick_whose_task_has_an_id_that_is_no_text_is_in_the_history_as_the_others_are(
    broker: Broker, connection: redis.Redis
) -> None:
    broker.tick("e", 1.0, NewTask("first", "a", b"1", task_options()))
    note = connection.lindex(keys.ticks("e"), 0)
    assert isinstance(note, bytes)
    connection.lpush(keys.ticks("e"), b"\xff", note.replace(b"first", b"\xff"), note.replace(b"first", b"\\ud800"))

    found = [history(connection), Inspector(connection).histories(["e"])["e"]]

    assert [[tick.task_id for tick in ticks] for ticks in found] == [["\udcff", "first"]] * 2


def test_a_tick_that_another_host_took_is_noted_once(broker: Broker, connection: redis.Redis, just_now: Every) -> None:
    just_now.remember(connection, back=1)

    for _ in range(HOSTS):
        Periodic([just_now.entry]).enqueue_due(broker)

    assert len(history(connection)) == 1


def test_the_ticks_of_a_paused_entry_pass_without_a_task_until_it_is_resumed(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    inspector, entry = Inspector(connection), just_now.entry
    broker.ticks_since({"e": f"UTC {entry.spec}"})
    assert inspector.pause_cron("e")
    assert not inspector.pause_cron("e")

    for back in (2, 1):
        broker.tick("e", just_now.tick_s - back, new_task(entry, just_now.tick_s - back))
    paused, told = pending(connection), inspector.ticks("e")
    assert inspector.resume_cron("e")
    broker.tick("e", just_now.tick_s, new_task(entry, just_now.tick_s))

    assert paused == []
    assert [(tick.skipped, tick.task_id) for tick in told] == [("it is paused", "")] * 2
    assert pending(connection) == just_now.ticks(0)
    assert inspector.paused_crons() == {}
    assert not inspector.resume_cron("e")


def test_an_entry_that_nobody_has_is_neither_paused_nor_run(broker: Broker, connection: redis.Redis) -> None:
    inspector = Inspector(connection)
    broker.ticks_since({"had": "UTC @daily"})

    with pytest.raises(InvalidTaskError, match="there is no periodic task 'other'; there are: had"):
        inspector.pause_cron("other")
    with pytest.raises(InvalidTaskError, match="no daemon has a periodic task 'had'"):
        inspector.run_cron("had")


def test_an_entry_that_nobody_has_is_only_resumed_while_it_is_paused(broker: Broker, connection: redis.Redis) -> None:
    inspector = Inspector(connection)
    broker.ticks_since({"had": "UTC @daily"})
    connection.hset(keys.CRON_PAUSED, "gone", 1)

    resumed = inspector.resume_cron("gone"), inspector.resume_cron("had")

    assert resumed == (True, False)
    with pytest.raises(InvalidTaskError, match="there is no periodic task 'gone'; there are: had"):
        inspector.resume_cron("gone")


def test_one_of_many_hosts_runs_an_entry_that_somebody_wants_to_run_now(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tell_cron(broker, "nightly", "@daily")
    hosts = [Periodic([CronEntry(name="nightly", spec="@daily", task_type="report:build")]) for _ in range(3)]
    other = Periodic([CronEntry(name="other", spec="@daily", task_type="report:build")])

    Inspector(connection).run_cron("nightly")
    for host in (other, *hosts):
        host.run_wanted(broker)

    (task_id,) = pending(connection)
    (line,) = [each for each in caplog.records if each.message == "periodic task was run by hand"]
    assert (line.cron, line.task_id) == ("nightly", task_id)  # type: ignore[attr-defined]
    assert broker.last_ticks() == {}


def test_a_strangers_keys_for_pauses_and_wishes_keep_no_tick(
    broker: Broker, connection: redis.Redis, just_now: Every
) -> None:
    connection.set(keys.CRON_PAUSED, "foreign")
    connection.set(keys.CRON_WANTED, "foreign")

    Periodic([just_now.entry]).run_wanted(broker)
    broker.tick("e", just_now.tick_s, new_task(just_now.entry, just_now.tick_s))

    assert pending(connection) == just_now.ticks(0)
    with pytest.raises(MisplacedKeyError):
        Inspector(connection).paused_crons()
