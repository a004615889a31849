"""What the exporter reads at one moment: its findings are those of the command."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import redis

from boilerd import ServeMux
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, mark_of
from boilerd.broker.metrics import Metrics
from boilerd.broker.sudden_failures import SuddenFailure
from boilerd.cli.facts import read_facts
from boilerd.exporter import snapshot
from boilerd.exporter.snapshot import Reader
from boilerd.settings.definitions import Settings
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.metric_record import OUTCOME_KEYS, encode, pack_pair
from boilerd.verdict.facts import Silence
from boilerd.verdict.table import judge
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.left_outcomes import KEPT_S
from support import Valkey


class Quiet:
    """A daemon of which nothing is known."""

    info: Mapping[str, Any] = MappingProxyType({})
    processes: Sequence[Mapping[str, Any]] = ()
    silence = "not asked"
    cause = Silence.ABSENT


@pytest.fixture
def settings(valkey: Valkey, directory: Path) -> Settings:
    return Settings(redis_url=valkey.url, state_dir=str(directory))


def count(connection: redis.Redis, period: str, number: int, outcome: str, times: int) -> None:
    """Have counted so many attempts of a type that ended like this."""
    record = encode({OUTCOME_KEYS[outcome]: times})
    connection.hset(keys.metrics(period, number), pack_pair("default", "email:send"), record)


def test_what_it_finds_is_what_the_command_finds(settings: Settings, connection: redis.Redis, directory: Path) -> None:
    now_s = int(connection.time()[0])
    count(connection, "minute", now_s // 60 - 1, "archived", 30)
    count(connection, "hour", now_s // 3600 - 5, "completed", 200)
    KeptOutcomes(directory / "outcomes", mark_of(settings)).keep("host.run.0", [], [])
    for kept in (directory / "outcomes").iterdir():
        os.utime(kept, (now_s - 2 * KEPT_S,) * 2)

    found = Reader(settings, connection, Quiet).read().findings

    told = judge(read_facts(settings, Quiet(), is_storing=False)).findings  # type: ignore[arg-type]
    assert [finding.kind for finding in found] == [finding.kind for finding in told]
    assert {"failing", "kept"} <= {finding.kind for finding in found}


def test_what_fails_suddenly_is_not_looked_at_for_each_who_asks(
    settings: Settings, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Metrics] = []

    def look(metrics: Metrics) -> list[SuddenFailure]:
        looks.append(metrics)
        return [SuddenFailure("email:send", 30, 30, 0.0)]

    monkeypatch.setattr(snapshot, "sudden_failures", look)
    reader = Reader(settings, connection, Quiet)

    found = [reader.read().findings for _ in range(3)]
    monkeypatch.setattr(snapshot, "LOOK_EVERY_S", 0.0)
    reader = Reader(settings, connection, Quiet)
    reader.read()
    reader.read()

    assert all("failing" in {finding.kind for finding in findings} for findings in found)
    assert len(looks) == 1 + 2


@pytest.fixture
def crons() -> Sequence[CronEntry]:
    mux = ServeMux()
    mux.cron("@every 1h", "report", name="hourly")
    mux.cron("@every 1h", "report", name="changed")
    mux.cron("@every 1h", "report", name="never")
    return mux.crons


def test_it_tells_of_this_daemons_periodic_tasks_by_their_own_lines(
    settings: Settings, connection: redis.Redis, crons: Sequence[CronEntry]
) -> None:
    now_s = connection.time()[0]
    connection.hset(keys.CRON, mapping={"hourly": now_s - 5000, "of another": now_s})
    for name, line in {"changed": "@every 5m", "never": "@every 1h"}.items():
        connection.hset(keys.SCHEDULES, name, f"{now_s - 9000} UTC {line}")

    ticks = {tick.name: tick for tick in Reader(settings, connection, Quiet, crons).read().ticks}

    assert {name: tick.last_s for name, tick in ticks.items()} == {
        "hourly": now_s - 5000, "changed": None, "never": None,
    }  # fmt: skip
    assert [ticks[name].missed > 0 for name in ("hourly", "changed", "never")] == [True, False, True]


def test_it_does_not_read_what_all_daemons_tell_of_themselves(
    settings: Settings, connection: redis.Redis, crons: Sequence[CronEntry]
) -> None:
    broker = Broker(connection)
    broker.publish("host.run", 2, "{}")
    connection.config_resetstat()

    Reader(settings, connection, Quiet, crons).read()

    asked = connection.info("commandstats")
    assert "cmdstat_hgetall" in asked
    assert "cmdstat_getrange" not in asked


def test_a_user_who_may_not_read_metrics_is_told_all_else(
    settings: Settings, valkey: Valkey, connection: redis.Redis
) -> None:
    connection.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "no-totals", "on", ">secret", "~rq:*", "~boilerd:[^m]*", "+@all"
    )
    with connect(f"{valkey.url}?username=no-totals", password="secret") as confined:
        found = Reader(settings, confined, Quiet).read()

    connection.acl_deluser("no-totals")
    assert found.overview is not None
    assert (found.broker_error, found.totals) == ("", {})
