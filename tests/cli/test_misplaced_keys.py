"""What other programs put in the place of a key is told in its row, and all other rows are shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect, raw
from boilerd.cli import boilerd as main
from boilerd.cli.dash.state import State
from boilerd.errors import BrokerRefusedError
from builders import WORKER, claim
from support import Valkey, clean_environment

Write = Callable[[redis.Redis, str], Any]
WRITERS: dict[str, Write] = {
    "string": lambda connection, key: connection.set(key, "x"),
    "list": lambda connection, key: connection.rpush(key, "x"),
    "set": lambda connection, key: connection.sadd(key, "x"),
    "sorted set": lambda connection, key: connection.zadd(key, {"x": 1}),
    "hash": lambda connection, key: connection.hset(key, "x", "1"),
    "stream": lambda connection, key: connection.xadd(key, {"x": "1"}),
}
LS, STATUS, STATS, DASH = "queue ls", "status", "stats", "dash"
WORKER_LS, CRON_LS, HEALTH = "worker ls", "cron ls", "health --max-latency 1h"
CRON = '[[cron]]\nname = "mine"\nspec = "@hourly"\ntype = "worker:ping"\n'
#: Stands for the key of the counts of this day, which another may be once the test begins.
TODAY = "today"
#: Key → the kind that it should be of, and the views that have to do with it.
PLACES = {
    keys.queue("default"): ("list", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.wip("default"): ("sorted set", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.registry("scheduled", "default"): ("sorted set", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.registry("finished", "default"): ("sorted set", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.registry("failed", "default"): ("sorted set", {LS, STATUS, STATS, DASH, HEALTH}),
    TODAY: ("hash", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.PAUSED: ("set", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.LIMITS: ("hash", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.QUEUES: ("set", {LS, STATUS, STATS, DASH, HEALTH}),
    keys.WORKERS: ("set", {STATUS, WORKER_LS, STATS, HEALTH}),
    keys.worker(WORKER): ("hash", {WORKER_LS, STATS}),
    keys.worker_executions(WORKER): ("set", {WORKER_LS, STATS}),
    keys.CRON: ("hash", {STATUS, CRON_LS, HEALTH}),
    keys.completed("default"): ("list", set()),
}


@pytest.fixture
def show(
    valkey: Valkey, directory: Path, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """What a view shows; fails where it ends with an error."""
    (directory / "boilerd.toml").write_text(CRON)
    monkeypatch.chdir(directory)
    for name, value in clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP=""
    ).items():
        monkeypatch.setenv(name, value)

    def shown(view: str, *flags: str) -> str:
        if view == DASH:
            state = State(Inspector(connection), lambda _: False)
            state.refresh()
            assert state.error == ""
            return "\n".join(f"{queue.counts.name} {queue.counts.problem}" for queue in state.queues)
        done = CliRunner().invoke(main, [*view.split(), *flags])
        # No daemon runs, as these two tell.
        assert (type(done.exception), done.exit_code) in {
            (type(None), 0), (SystemExit, 1 if view in {STATUS, HEALTH} else 0)
        }, done.exception  # fmt: skip
        return done.stdout

    return shown


def serve(client: Client, broker: Broker) -> None:
    """Two queues with tasks, and a worker that runs one of them."""
    broker.register(WORKER, ["default"], {"hostname": "here", "queues": "default"})
    client.enqueue("test:echo")
    claim(broker)
    client.enqueue("test:echo", queue="low")


@pytest.mark.parametrize("key", PLACES)
def test_a_key_of_another_kind_is_told_where_it_belongs_and_all_else_is_shown(
    show: Callable[..., str], client: Client, broker: Broker, key: str
) -> None:
    kind, telling = PLACES[key]
    if key == TODAY:
        key = keys.stats("default", int(broker.now() // 86_400))
    serve(client, broker)

    for other in WRITERS.keys() - {kind}:
        client.connection.delete(key)
        WRITERS[other](client.connection, key)
        shown = {view: show(view) for view in (LS, STATUS, STATS, DASH, WORKER_LS, CRON_LS, HEALTH)}

        assert {view for view, text in shown.items() if f"key {key} is no {kind}, rename it" in text} == telling, other
        assert all("low" in shown[view] for view in (LS, STATUS, DASH)), other


def test_queue_ls_and_worker_ls_tell_what_is_wrong_in_json_as_well(
    show: Callable[..., str], client: Client, broker: Broker
) -> None:
    serve(client, broker)
    client.connection.set(keys.queue("bad"), "x")
    client.connection.sadd(keys.QUEUES, keys.queue("bad"))
    client.connection.set(keys.worker("w"), "x")
    client.connection.sadd(keys.WORKERS, keys.worker("w"))

    queues = {row["name"]: row["problem"] for row in map(json.loads, show(LS, "--json").splitlines())}
    workers = {row["name"]: row["problem"] for row in map(json.loads, show(WORKER_LS, "--json").splitlines())}

    assert queues == {"default": "", "low": "", "bad": f"key {keys.queue('bad')} is no list, rename it or delete it"}
    assert workers == {WORKER: "", "w": f"key {keys.worker('w')} is no hash, rename it or delete it"}


@pytest.mark.parametrize("view", [LS, STATUS, STATS, DASH, WORKER_LS, CRON_LS, HEALTH])
def test_names_that_are_no_text_hide_no_others(
    show: Callable[..., str], client: Client, broker: Broker, view: str
) -> None:
    serve(client, broker)
    client.connection.sadd(keys.QUEUES, b"rq:queue:\xff\xfe", b"\xff")
    client.connection.rpush("rq:queue:\udcff\udcfe".encode(errors="surrogateescape"), "x")
    client.connection.sadd(keys.WORKERS, b"rq:worker:\xff")
    client.connection.hset(b"rq:worker:\xff", "hostname", "elsewhere")

    shown = show(view)

    assert view not in {LS, STATUS, DASH} or "low" in shown
    assert view != WORKER_LS or ("elsewhere" not in shown and WORKER in shown and r"\udcff" in shown)


def test_a_member_of_the_list_of_queues_that_is_no_queue_has_a_row_that_says_so(
    show: Callable[..., str], client: Client
) -> None:
    client.enqueue("test:echo")
    client.connection.sadd(keys.QUEUES, "stray")

    shown = show(LS)

    assert "member stray in rq:queues names no queue, as rq:queue:NAME does, remove it" in shown
    assert "default" in shown


@pytest.mark.parametrize(
    ("words", "key", "kind"),
    [
        ("queue pause default", keys.PAUSED, "set"),
        ("queue purge default --yes", keys.queue("default"), "list"),
        ("task run --all -s scheduled", keys.registry("scheduled", "default"), "sorted set"),
        ("task run --all -s scheduled", keys.queue("default"), "list"),
        ("task run waits", keys.queue("default"), "list"),
        ("task archive waits", keys.registry("failed", "default"), "sorted set"),
        ("task ls", keys.queue("default"), "list"),
        ("task ls -s retry", keys.registry("scheduled", "default"), "sorted set"),
        ("task ls -s active", keys.wip("default"), "sorted set"),
        ("task recent", keys.completed("default"), "list"),
    ],
)
def test_what_needs_a_key_of_another_kind_fails_with_one_error_that_names_it(
    show: Callable[..., str], client: Client, words: str, key: str, kind: str
) -> None:
    client.enqueue("test:echo", task_id="waits", process_in=3600)
    client.connection.delete(key)
    client.connection.set(key, "x")

    with pytest.raises(BrokerRefusedError) as raised:
        CliRunner().invoke(main, words.split(), catch_exceptions=False)

    assert str(raised.value).endswith(f"key {key} is no {kind}, rename it or delete it")
    assert client.connection.get(key) == b"x"


def test_an_enqueue_into_a_queue_whose_key_is_of_another_kind_says_where_to_look(client: Client) -> None:
    client.connection.set(keys.queue("default"), "x")

    with pytest.raises(BrokerRefusedError, match=r"another program's key .* `boilerd queue ls` names it"):
        client.enqueue("test:echo")


def test_an_inspector_of_an_applications_own_connection_reads_names_that_are_no_text(
    valkey: Valkey, client: Client
) -> None:
    client.enqueue("test:echo")
    client.connection.sadd(keys.QUEUES, raw(keys.queue("\udcff")))

    with redis.Redis.from_url(valkey.url) as connection:
        inspector = Inspector(connection)

        assert [queue.name for queue in inspector.queues()] == ["default", "\udcff"]
        assert inspector.queue("\udcff").counts.pending == 0
        assert inspector.tasks("\udcff", TaskState.PENDING) == []


def test_a_connection_sends_names_that_are_no_text_as_the_bytes_that_they_were(valkey: Valkey) -> None:
    with connect(valkey.url) as connection:
        connection.set("\udcff", 1)

        assert connection.keys() == [b"\xff"]
