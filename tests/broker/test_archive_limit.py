"""The limit of an archive: what it drops is counted and told, and what a person has set aside it does not touch."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, text
from boilerd.scheduler.archive_watch import ArchiveWatch
from boilerd.settings.definitions import Settings
from boilerd.tasks.retry import Verdict
from builders import enqueue, fail_next, store
from support import StartDaemon, Valkey, boilerd, clean_environment, wait_until

Limited = Callable[[int], Broker]


@pytest.fixture
def limited(valkey: Valkey) -> Limited:
    """A broker of a worker with such an `archive_limit`."""
    return lambda limit: Broker(connect(valkey.url), archive_limit=limit)


def archive_by_failure(broker: Broker, count: int) -> list[str]:
    for number in range(count):
        store(broker, f"failed-{number}")
    return [fail_next(broker, Verdict.ARCHIVE) for _ in range(count)]


def kept(connection: redis.Redis) -> set[str]:
    found: Any = connection.zrange(keys.registry("failed", "default"), 0, -1)
    return set(map(text, found))


def test_what_a_person_set_aside_is_never_dropped(
    broker: Broker, limited: Limited, client: Client, connection: redis.Redis
) -> None:
    ids = [f"aside-{number}" for number in range(20)]
    enqueue(client, *ids)

    assert broker.act("archive", ids) == ["done"] * 20
    failed = archive_by_failure(limited(3), 5)

    assert kept(connection) == {*ids, *failed[2:]}
    assert all(connection.exists(keys.job(task_id)) for task_id in ids)


def test_more_than_ten_thousand_waiting_tasks_can_be_set_aside(
    client: Client, connection: redis.Redis, valkey: Valkey
) -> None:
    client.enqueue_many([("test:echo", None)] * 10_050)

    done = boilerd(
        "task", "archive", "--all", "--queue", "default", "--state", "pending", "--yes",
        env=clean_environment(BOILERD_REDIS_URL=valkey.url),
    )  # fmt: skip

    assert done.stdout.strip() == "10050", done.stderr
    assert connection.zcard(keys.registry("failed", "default")) == 10_050


@pytest.mark.usefixtures("on_one_day")
@pytest.mark.parametrize(("limit", "dropped"), [(3, 2), (5, 0), (0, 0)])
def test_what_the_limit_drops_is_counted(limited: Limited, connection: redis.Redis, limit: int, dropped: int) -> None:
    archive_by_failure(limited(limit), 5)

    (found,) = Inspector(connection).queue_details(["default"])
    assert (found.today.dropped, found.counts.archived) == (dropped, 5 - dropped)
    (key,) = connection.keys(f"{keys.OWN}:stats:default:*")
    assert connection.ttl(key) > 89 * 86400


@pytest.mark.usefixtures("on_one_day")
def test_stats_and_health_show_what_was_dropped(limited: Limited, start_daemon: StartDaemon, client: Client) -> None:
    archive_by_failure(limited(3), 5)
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_ARCHIVE_LIMIT": "3"}).ready()

    stats = daemon.cli("stats", "--json")
    full = daemon.cli("health")
    daemon.cli("task", "delete", "--all", "--state", "archived", "--queue", "default", "--yes")
    empty = daemon.cli("health")

    assert '"dropped": 2' in stats.stdout or '"dropped":2' in stats.stdout
    assert (full.returncode, "queue default: its archive is full, 2 tasks were dropped today" in full.stdout) == (
        1,
        True,
    )
    assert (empty.returncode, empty.stdout) == (0, "ok\n")


def test_a_daemon_drops_by_its_setting_and_tells_it(start_daemon: StartDaemon, client: Client) -> None:
    env = {"BOILERD_ARCHIVE_LIMIT": "2"}
    daemon = start_daemon("--concurrency", "1", env=env).ready()

    client.enqueue_many([("test:fail", number) for number in range(6)], max_retries=0)
    daemon.wait_for("task archived", count=6)

    wait_until(lambda: sum(line["dropped"] for line in daemon.lines("archive is full, tasks were dropped")) == 4,
               "all that were dropped are told")  # fmt: skip


def test_a_new_day_begins_with_none_dropped(
    limited: Limited, broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    watch = ArchiveWatch(broker, ["default"])
    archive_by_failure(limited(1), 5)
    watch.look()
    (key,) = connection.keys(f"{keys.OWN}:stats:default:*")
    connection.delete(key)
    connection.hset(key, "dropped", 3)

    watch.look()
    watch.look()

    assert [record.__dict__["dropped"] for record in caplog.records] == [4, 3]


def test_the_limit_is_ten_thousand_unless_somebody_says_otherwise() -> None:
    assert Settings().archive_limit == 10_000
