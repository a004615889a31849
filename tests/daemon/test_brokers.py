"""Brokers as people have them: options in the URL, servers without some commands, clusters."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from boilerd import Client
from boilerd.broker.connection import connect
from support import (
    Done,
    RunningDaemon,
    StartDaemon,
    StartValkey,
    Valkey,
    boilerd,
    clean_environment,
    free_ports,
    python_path,
    run_python,
    wait_until,
)

OPTIONS = (
    "db=0&client_name=mine&protocol=3&socket_timeout=0.3&socket_connect_timeout=0.3&socket_read_size=64"
    "&max_connections=1&health_check_interval=1"
)
PREFIXED = {"BOILERD_KEY_PREFIX": "app"}
TAGGED = {"RQ_KEY_PREFIX": "{rq}"}


def try_to_run(url: str, directory: Path, **variables: str) -> Done:
    """What a daemon says that cannot start."""
    return boilerd("run", "--redis-url", url, env=clean_environment(BOILERD_STATE_DIR=str(directory), **variables))


def test_a_daemon_waits_cancels_and_is_well_with_all_options_of_a_url_that_are_for_clients(
    start_daemon: StartDaemon, valkey: Valkey, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=f"{valkey.url}?{OPTIONS}").ready()
    running = client.enqueue("test:sleep", 60).id
    daemon.wait_for("task started", task_id=running)

    cancelled = daemon.cli("task", "cancel", running)
    daemon.wait_for("task archived", task_id=running)
    health = daemon.cli("health")

    assert (cancelled.returncode, health.stdout) == (0, "ok\n")
    assert not [line for line in daemon.lines() if line["message"].startswith(("broker", "a cancellation"))]
    assert daemon.stop() == 0


def test_an_option_that_is_not_taken_stops_a_start(directory: Path) -> None:
    done = try_to_run("redis://127.0.0.1:1?decode_responses=1", directory)

    assert done.returncode == 3
    assert done.stderr.endswith("decode_responses is not taken, because boilerd reads and writes bytes; leave it out\n")
    assert len(done.stderr.splitlines()) == 1


def without_rights(start_valkey: StartValkey) -> str:
    """A server that lets its user not use CLIENT and INFO."""
    server = start_valkey()
    with connect(server.url) as admin:
        rights = ["+@all", "-client", "-info", "-config"]
        admin.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", *rights)
    return server.url.replace("unix://", "unix://weak:pw@")


def without_commands(start_valkey: StartValkey) -> str:
    """A server that has no CLIENT, INFO and HELLO."""
    removed = [word for name in ("CLIENT", "INFO", "HELLO", "CONFIG") for word in ("--rename-command", name, "")]
    return start_valkey(*removed).url


@pytest.mark.parametrize(
    ("make", "version"), [(without_rights, r"Valkey \d+\.\d+\.\d+"), (without_commands, "Redis of an unknown version")]
)
def test_a_server_without_client_and_info_is_served_and_what_is_lost_is_told_once(
    start_daemon: StartDaemon, start_valkey: StartValkey, make: Callable[[StartValkey], str], version: str
) -> None:
    daemon = start_daemon("--concurrency", "2", redis_url=make(start_valkey)).ready()

    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1"))
    health, stats = daemon.cli("health"), daemon.cli("stats")

    told = [line["error"].partition(":")[0] for line in daemon.lines(level="warning")]
    assert told == ["CLIENT", "INFO"]
    assert (health.stdout, stats.returncode) == ("ok\n", 0)
    assert re.search(rf"^{version}( +-){{4}}$", stats.stdout, re.MULTILINE)
    assert daemon.stop() == 0


def start_node(start_valkey: StartValkey) -> Valkey:
    """A server that is to be a node of a cluster; its nodes would talk to each other on a port."""
    (port,) = free_ports()
    return start_valkey("--cluster-enabled", "yes", "--bind", "127.0.0.1", "--cluster-port", str(port))


def start_cluster(start_valkey: StartValkey) -> Valkey:
    """A cluster of one node that is up."""
    server = start_node(start_valkey)

    def is_up() -> bool:
        try:
            return bool(node.set("{rq}", "1"))
        except redis.RedisError:
            return False

    with connect(server.url) as node:
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(is_up, "the cluster is up")
    return server


def test_a_cluster_without_a_hash_tag_is_refused_with_the_words_that_help(
    start_valkey: StartValkey, directory: Path
) -> None:
    server = start_cluster(start_valkey)

    done = try_to_run(server.url, directory)

    assert done.returncode == 3
    words = "Redis is a cluster and wants all keys in one slot, set RQ_KEY_PREFIX='{rq}' for all daemons and clients"
    assert words in done.stderr


def test_a_cluster_that_is_down_for_the_moment_is_worth_another_try(start_valkey: StartValkey, directory: Path) -> None:
    server = start_node(start_valkey)

    done = try_to_run(server.url, directory, **TAGGED)

    assert (done.returncode, "Redis is a cluster that is down" in done.stderr) == (1, True)


def test_a_cluster_is_served_with_a_hash_tag_in_the_prefix(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_cluster(start_valkey)
    daemon = start_daemon("--concurrency", "1", redis_url=server.url, env=TAGGED).ready()

    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1", "--in", "0.1s"))
    running = daemon.enqueue("test:sleep", "60")
    daemon.wait_for("task started", task_id=running)
    cancelled = daemon.cli("task", "cancel", running)

    daemon.wait_for("task archived", task_id=running)
    assert (cancelled.returncode, daemon.cli("health").stdout, daemon.stop()) == (0, "ok\n", 0)


# --- The prefix of the keys


def test_a_prefix_moves_all_keys_of_daemon_commands_clients_and_rqs_tools(
    start_daemon: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey()
    (directory / "boilerd.toml").write_text('key_prefix = "app"\n')
    settings = {"BOILERD_CONFIG": str(directory / "boilerd.toml")}
    daemon = start_daemon("--concurrency", "1", redis_url=server.url, env=settings).ready()
    by_client = run_python(
        "from boilerd import Client\n"
        "import json; info = Client.from_settings().enqueue('test:echo', 7, retention=60)\n"
        "assert info.wait(20) == 7; print(json.dumps(info.id))",
        daemon.env,
    )

    by_command = daemon.enqueue("test:echo", "--retention", "60")
    for task_id in (by_client, by_command):
        daemon.wait_for("task completed", task_id=task_id)
    seen_by_rq = run_python(
        f"import redis, json; from rq.worker import Worker; c = redis.Redis.from_url({server.url!r})\n"
        "print(json.dumps([w.name for w in Worker.all(c)]))",
        clean_environment(RQ_KEY_PREFIX="app"),
    )
    reloaded = daemon.cli("reload")

    with connect(server.url) as found:
        assert [key for key in found.scan_iter("*") if not key.startswith(b"app:")] == []
    assert (len(seen_by_rq), reloaded.returncode, daemon.cli("health").stdout) == (1, 0, "ok\n")


def test_two_prefixes_stop_a_start_and_both_are_named(directory: Path) -> None:
    done = try_to_run("redis://127.0.0.1:1", directory, **PREFIXED, RQ_KEY_PREFIX="other")

    assert done.returncode == 3
    cure = "give both the same value, or leave one out"
    assert done.stderr == (
        f"boilerd: error: key_prefix is 'app' (BOILERD_KEY_PREFIX) and RQ_KEY_PREFIX is 'other'; {cure}\n"
    )


def test_a_client_of_a_url_has_the_prefix_of_its_environment_and_a_process_has_one(valkey: Valkey) -> None:
    script = f"""
import json
from boilerd import Client, errors
from boilerd.broker import keys
Client.from_url({valkey.url!r})
try:
    Client.from_url({valkey.url!r}, key_prefix="other")
except errors.ConfigError as error:
    print(json.dumps([keys.RQ, keys.SERVED, str(error)]))
"""

    found = run_python(script, clean_environment(**PREFIXED))

    told = "key_prefix: this process uses 'app' already, and 'other' needs a process of its own;"
    assert found == ["app", "app:boilerd:queues", f"{told} for the whole process set it as BOILERD_KEY_PREFIX"]


# --- Applications that share a Redis


def test_another_application_with_the_same_queues_or_periodic_tasks_is_told_at_the_start(
    start_daemon: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey()
    for name in ("shop", "blog"):
        (directory / f"{name}.py").write_text(
            "from boilerd import ServeMux\nmux = ServeMux()\n"
            f"mux.handle('{name}:send', lambda task: None)\n"
            f"mux.cron('@daily', '{name}:send', name='nightly', queue='{name}')\n"
        )

    def start(name: str, queues: str) -> RunningDaemon:
        place = directory / f"{name}-{queues.count(',')}"
        place.mkdir(exist_ok=True)
        env = {"BOILERD_APP": f"{name}:mux", "PYTHONPATH": python_path(directory)}
        words = ("--concurrency", "1", "--queues", queues)
        return start_daemon(*words, redis_url=server.url, directory=place, env=env).ready()

    shop = start("shop", "shop,mail")
    same = start("shop", "shop,mail,more")
    blog = start("blog", "blog,mail")

    message = "another application shares the broker"
    assert shop.lines(message) + same.lines(message) == []
    told = [line["error"] for line in blog.lines(message)]
    assert len(told) == 1
    assert "belongs to another application, with handlers for shop:send, and has the same queues (mail), so" in told[0]
    assert "and periodic tasks of the same names (nightly), so that" in told[0]
    assert told[0].endswith("; give each application a key_prefix of its own")
