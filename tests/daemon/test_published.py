"""What a daemon tells Redis of itself: all that concerns others, nothing secret, and no more than there is room for."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boilerd import Client, DaemonInfo, Inspector, ServeMux
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.daemons import MOST_BYTES
from boilerd.daemon.published import MOST_OF_ONE, ROOM, Published
from boilerd.settings.definitions import Settings
from boilerd.settings.loading import load
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.payload_type import PayloadType
from support import RunningDaemon, StartDaemon, Valkey, boilerd, clean_environment, wait_until

SECRET = "hunter2-s3cret"


@dataclass
class Mail:
    to: list[str]


def published(mux: ServeMux | None = None, settings: Settings | None = None, **parts: Any) -> str:
    mux = mux or ServeMux()
    whole: dict[str, Any] = {
        "types": mux.patterns(),
        "crons": mux.crons,
        "broker": "Valkey 8.1",
        "started_s": 1.7e9,
    } | parts
    return Published("host.run", settings=settings or Settings(), mux=mux, **whole).encoded({"worker": 3})


def facts(mux: ServeMux | None = None, settings: Settings | None = None, **parts: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(published(mux, settings, **parts))
    return found


def test_types_come_with_the_schemas_of_their_payloads() -> None:
    inner, mux = ServeMux(), ServeMux()
    inner.handle("mail:send", lambda task: None, payload=Mail)
    mux.handle("mail:", inner)
    mux.handle("bare", lambda task: None)

    found = facts(mux)

    assert found["types"] == ["bare", "mail:"]
    assert found["schemas"] == {"mail:send": mux.schema()["mail:send"]}
    assert found["left_out"] == {}


def test_no_secret_of_the_settings_is_told() -> None:
    env = {
        "BOILERD_REDIS_URL": f"rediss://anna:{SECRET}@db:6379/1?ssl_password={SECRET}",
        "BOILERD_REDIS_PASSWORD": SECRET,
        "BOILERD_RELEASE": "2.4.1", "BOILERD_CRON": json.dumps(
            [{"spec": "@daily", "type": "a", "payload": {"token": SECRET}, "headers": {"tenant-id": SECRET}}]
        ),
    }  # fmt: skip
    settings = load(environ=env, file=None).settings

    text = published(settings=settings, crons=settings.cron_entries())

    assert SECRET not in text
    found = json.loads(text)
    assert found["settings"]["redis_url"].startswith("rediss://anna:********@db:6379/1")
    assert found["settings"]["redis_password"] == "********"
    assert found["settings"].keys() == {*Settings.__struct_fields__} - {"cron", "web"}
    assert found["release"] == "2.4.1"
    assert found["crons"][0] == {
        "name": "a", "spec": "@daily", "timezone": "UTC", "type": "a", "queue": "default", "catch_up": False,
        "options": {},
    }  # fmt: skip


def test_five_thousand_types_are_told_by_name_and_schemas_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mux = ServeMux()
    for number in range(5_000):
        mux.handle(f"shop:type-{number:04}", lambda task: None, payload=Mail)
    made: list[PayloadType] = []
    make = PayloadType.schema

    def counted(kind: PayloadType) -> dict[str, Any]:
        made.append(kind)
        return make(kind)

    monkeypatch.setattr(PayloadType, "schema", counted)

    text = published(mux)

    found = json.loads(text)
    assert len(found["types"]) == 5_000
    assert 100 < len(found["schemas"]) < 1_000
    assert found["left_out"] == {"schemas": 5_000 - len(found["schemas"])}
    assert len(made) <= len(found["schemas"]) + 1
    assert len(text) <= sum(ROOM.values()) + 4096 < MOST_BYTES


def test_what_is_too_large_keeps_no_others_out() -> None:
    mux = ServeMux()
    mux.handle("a", lambda task: None, payload=msgspec.defstruct("Large", [("x" * MOST_OF_ONE, int)]))
    mux.handle("b", lambda task: None, payload=Mail)
    crons = [CronEntry(name=f"entry-{number}", spec="@daily", task_type="t" * 200) for number in range(1_000)]

    found = facts(mux, crons=crons)

    assert found["schemas"].keys() == {"b"}
    assert found["left_out"] == {"schemas": 1, "crons": 1_000 - len(found["crons"])}
    assert 100 < len(found["crons"]) < 1_000


def test_a_schema_that_cannot_be_made_is_left_out_and_bytes_that_are_no_text_are_told() -> None:
    mux = ServeMux()
    mux.handle("a", lambda task: None, payload=Mail)
    (kind,) = mux.payload_types().values()
    kind.schema = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    settings = msgspec.structs.replace(Settings(), log_file="/var/log/\udcff")

    found = facts(mux, settings)

    assert (found["schemas"], found["left_out"]) == ({}, {"schemas": 1})
    assert found["settings"]["log_file"] == "/var/log/\udcff"


# --- A daemon

APP = """
from dataclasses import dataclass
from boilerd import ServeMux

@dataclass
class Mail:
    to: str

mux = ServeMux()
mux.handle("mail:send", lambda task: None, payload=Mail)
mux.cron("{spec}", "mail:send", {"to": "hunter2-s3cret"}, name="nightly", queue="low")
"""


@pytest.fixture
def start(start_daemon: StartDaemon, directory: Path) -> Callable[..., RunningDaemon]:
    def started(*flags: str) -> RunningDaemon:
        (directory / "myapp.py").write_text(APP.replace("{spec}", "@daily"))
        env = {"BOILERD_APP": "myapp:mux", "BOILERD_RELEASE": "1.0"}
        return start_daemon("--concurrency", "1", *flags, directory=directory, env=env).ready()

    return started


def the_daemon(client: Client, fits: Callable[[DaemonInfo], object] = bool) -> DaemonInfo:
    """The only daemon that tells, once it tells what fits."""

    def found() -> DaemonInfo | None:
        told = Inspector(client.connection).daemons()
        return told[0] if len(told) == 1 and fits(told[0]) else None

    return wait_until(found, "a daemon tells what is expected")  # type: ignore[return-value]


@pytest.mark.long(8)
def test_a_daemon_tells_what_it_is_as_long_as_it_lives(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    daemon = start()
    first = the_daemon(client, lambda told: told.processes == 1)
    client.connection.flushall()
    again = the_daemon(client)
    assert daemon.cli("scale", "3").returncode == 0
    scaled = the_daemon(client, lambda told: told.processes == 3)
    (directory / "myapp.py").write_text(APP.replace("{spec}", "@hourly") + "#")
    assert daemon.cli("reload").returncode == 0
    reloaded = the_daemon(client, lambda told: told.name != first.name and told.processes == 1)
    workers = [worker.name for worker in Inspector(client.connection).workers()]
    assert daemon.stop() == 0

    assert (first.pid, first.release, first.types, list(first.schemas)) == (
        daemon.pid, "1.0", ["mail:send"], ["mail:send"],
    )  # fmt: skip
    assert first.versions["broker"].startswith("Valkey ")
    assert again.name == scaled.name == first.name
    assert (first.crons[0].spec, reloaded.crons[0].spec) == ("@daily", "@hourly")
    assert [worker.rpartition(".")[0] for worker in workers] == [reloaded.name]
    assert client.connection.exists(keys.DAEMONS, keys.daemon(reloaded.name)) == 0


@pytest.mark.long(8)
def test_periodic_tasks_daemons_and_loads_of_workers_are_shown_where_no_settings_tell_of_them(
    start: Callable[..., RunningDaemon], client: Client, valkey: Valkey, redis_elsewhere: dict[str, str]
) -> None:
    start()
    told = the_daemon(client, lambda told: told.processes == 1)

    crons = [json.loads(line) for line in boilerd("cron", "ls", "--json", env=redis_elsewhere).stdout.splitlines()]
    table = boilerd("cron", "ls", env=redis_elsewhere).stdout
    daemons = boilerd("daemon", "ls", env=redis_elsewhere).stdout
    shown = boilerd("daemon", "show", told.host, env=redis_elsewhere).stdout
    (worker,) = wait_until(
        lambda: [w for w in Inspector(client.connection).workers() if w.rss_bytes], "a heartbeat told the worker's load"
    )
    workers = boilerd("worker", "ls", env=redis_elsewhere).stdout

    assert [(row["name"], row["spec"], row["daemons"]) for row in crons] == [("nightly", "@daily", [told.name])]
    assert told.name.rpartition(".")[0] in table
    assert told.name in daemons
    assert "nightly" in shown
    assert "hunter2" not in crons[0].values().__repr__() + daemons + shown
    assert worker.rss_bytes is not None
    assert 1_000_000 < worker.rss_bytes < 1_000_000_000
    assert worker.cpu_ms is not None
    assert 0 <= worker.cpu_ms < 60_000
    assert " MB " in workers


@pytest.fixture
def redis_elsewhere(valkey: Valkey, directory: Path) -> dict[str, str]:
    """The environment of somebody who knows the Redis alone."""
    place = directory / "elsewhere"
    place.mkdir()
    return clean_environment(BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(place))


def test_daemons_of_other_settings_are_told_apart(broker: Broker, redis_elsewhere: dict[str, str]) -> None:
    for name, level in (("web1.a", "info"), ("web2.b", "info"), ("web3.c", "debug")):
        settings = load(environ={"BOILERD_LOG_LEVEL": level}).settings
        text = Published(
            name, settings=settings, mux=ServeMux(), types=[], crons=[], broker="Valkey 8", started_s=1.7e9
        ).encoded({})
        broker.publish(name, len(text), text)

    done = boilerd("daemon", "ls", env=redis_elsewhere)

    assert done.returncode == 0
    table, _, differences = done.stdout.partition("\n\nThey differ in:\n")
    assert len(table.splitlines()) == 4
    assert [line.split() for line in differences.splitlines()] == [
        ["SETTING", "VALUE", "DAEMONS"], ["log_level", "info", "web1.a,", "web2.b"], ["log_level", "debug", "web3.c"],
    ]  # fmt: skip
    several = boilerd("daemon", "show", "web", env=redis_elsewhere)
    assert several.stderr == "boilerd: error: daemon 'web': there are several, name one: web1.a, web2.b, web3.c\n"
    missing = boilerd("daemon", "show", "db", env=redis_elsewhere)
    assert missing.stderr == "boilerd: error: no daemon 'db' lives; there are: web1.a, web2.b, web3.c\n"


def test_a_daemon_that_tells_nothing_is_named_by_its_workers(broker: Broker, redis_elsewhere: dict[str, str]) -> None:
    broker.register("old.run.0", ["default"], {"queues": "default"})

    done = boilerd("daemon", "ls", env=redis_elsewhere)

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert done.stderr == ("note: of a version that does not tell: old.run; `boilerd worker ls` has their workers\n")
