"""The broker is stopped, killed, full, read-only, emptied, slow, and refuses connections."""

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from boilerd import BrokerError, BrokerUnavailableError, Client, TaskIdConflictError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.daemon.valkey_program import find_server
from builders import complete_next
from support import RunningDaemon, StartDaemon, StartValkey, Valkey, completed, free_ports, wait_until

#: The longest pause of an outage is 3 s; and some for a busy machine.
BACK_S = 20


@pytest.fixture
def server(start_valkey: StartValkey) -> Valkey:
    """A broker that keeps everything, whatever happens to it."""
    return start_valkey("--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes")


@pytest.fixture
def daemon(start_daemon: StartDaemon, server: Valkey) -> RunningDaemon:
    return start_daemon("--concurrency", "2", redis_url=server.url).ready()


@pytest.fixture
def client(server: Valkey) -> Iterator[Client]:
    with Client.from_url(server.url) as made:
        yield made


def outages(daemon: RunningDaemon) -> dict[str, tuple[int, int]]:
    """Name of a process → how often it said that the broker is away, and that it is back."""
    away, back = (
        [line.get("worker", "") for line in daemon.lines(message)]
        for message in ("broker unavailable, waiting", "broker available again")
    )
    return {name: (away.count(name), back.count(name)) for name in {*away, *back}}


# Clear errors for the one who enqueues.


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    ("upset", "told"),
    [
        (["CONFIG SET maxmemory 1"], "Redis is out of memory, raise its maxmemory"),
        (["REPLICAOF 127.0.0.1 1"], "Redis is read-only, as a replica is"),
        (["ACL SETUSER default -@all +ping +client +hello +info"], "Redis allows this user too little"),
        (["CONFIG SET requirepass other"], "Redis refused the password, check redis_password"),
    ],
    ids=["out of memory", "a replica", "no permission", "a password"],
)
def test_an_enqueue_that_the_broker_refuses_says_why_and_what_would_do(
    server: Valkey, upset: list[str], told: str
) -> None:
    with connect(server.url) as admin:
        for command in upset:
            admin.execute_command(command)
    with Client.from_url(server.url) as late, pytest.raises(BrokerError, match=told) as refusal:
        late.enqueue("test:echo")

    assert not isinstance(refusal.value, BrokerUnavailableError)


@pytest.mark.fault(4)
def test_a_wrong_password_is_told(server: Valkey) -> None:
    with (
        Client.from_url(server.url.replace("unix://", "unix://nobody:wrong@")) as stranger,
        pytest.raises(BrokerError, match="Redis refused the password"),
    ):
        stranger.enqueue("test:echo")


# Stopped, killed, started.


@pytest.mark.fault(26)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_an_outage_is_waited_for_and_told_once_by_each_process(
    daemon: RunningDaemon, server: Valkey, client: Client, signum: signal.Signals
) -> None:
    scheduled = client.enqueue("test:echo", process_in=2).id
    running = client.enqueue("test:sleep", 1).id
    daemon.wait_for("task started", task_id=running)
    client.connection.close()

    server.stop(signum)
    for name in ("worker:0", "worker:1", "scheduler"):
        daemon.wait_for("broker unavailable, waiting", worker=name)
    daemon.wait_for("task completed", task_id=running)  # its outcome cannot be written yet
    server.start()

    def is_done() -> bool:
        return completed(client.connection, running) == 1 and completed(client.connection, scheduled) == 1

    wait_until(is_done, "what ended and what came due meanwhile is completed", deadline_s=BACK_S)
    task_id = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=task_id)
    wait_until(lambda: set(outages(daemon).values()) == {(1, 1)}, "one line for the outage, one for its end")
    assert len(daemon.lines("task started", task_id=running)) == 1
    assert not daemon.lines("process died")


@pytest.mark.fault(26)
def test_a_failure_that_could_not_be_written_is_written_after_the_outage(
    daemon: RunningDaemon, server: Valkey, client: Client
) -> None:
    task_id = client.enqueue("test:late", 0.5, max_retries=0).id
    daemon.wait_for("task started", task_id=task_id)
    server.stop()
    daemon.wait_for("task failed", task_id=task_id)

    server.start()

    daemon.wait_for("task archived", task_id=task_id)
    assert client.connection.zscore(keys.registry("failed", "default"), task_id)
    assert len(daemon.lines("error handler", task_id=task_id)) == 1


# Upset while it runs.


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    "command", ["SCRIPT FLUSH", "CLIENT KILL TYPE normal", "CLIENT PAUSE 1500 ALL", "DEBUG SLEEP 1.5"]
)
def test_what_upsets_the_broker_for_a_moment_is_not_noticed_by_tasks(
    daemon: RunningDaemon, server: Valkey, client: Client, command: str
) -> None:
    first = [client.enqueue("test:sleep", 0.02).id for _ in range(20)]
    daemon.wait_for("task started", 3)

    with connect(server.url) as admin:
        try:
            admin.execute_command(command)
        except redis.ConnectionError:
            assert "KILL" in command  # this connection as well
    second = [client.enqueue("test:echo").id for _ in range(20)]

    for task_id in first + second:
        daemon.wait_for("task completed", task_id=task_id, attempt=1)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "all were acknowledged")
    assert [completed(client.connection, task_id) for task_id in first + second] == [1] * 40


@pytest.mark.fault(27)
def test_a_broker_that_takes_no_more_connections_is_waited_for(
    daemon: RunningDaemon, server: Valkey, client: Client
) -> None:
    client.connection.ping()
    with connect(server.url) as admin:
        admin.config_set("maxclients", 1)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for name in ("worker:0", "worker:1", "scheduler"):
            daemon.wait_for("broker unavailable, waiting", worker=name)
        admin.config_set("maxclients", 1000)

    task_id = client.enqueue("test:echo").id

    daemon.wait_for("task completed", task_id=task_id)


@pytest.mark.fault(28)
def test_a_daemon_lives_on_in_a_broker_that_was_emptied(daemon: RunningDaemon, client: Client) -> None:
    wait_until(lambda: client.connection.scard(keys.WORKERS) == 2, "both workers have registered")
    workers = client.connection.smembers(keys.WORKERS)
    task_id = client.enqueue("test:sleep", 3).id
    daemon.wait_for("task started", task_id=task_id)

    client.connection.flushall()

    daemon.wait_for("outcome dropped, the lease was lost", task_id=task_id)
    daemon.wait_for("the broker had forgotten this worker, registering again", 2)
    wait_until(lambda: client.connection.smembers(keys.WORKERS) == workers, "both workers are registered again")
    other = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=other)


@pytest.mark.fault(30)
def test_a_full_broker_takes_no_new_task_and_ends_those_it_has(
    daemon: RunningDaemon, server: Valkey, client: Client
) -> None:
    running = client.enqueue("test:sleep", 0.5).id
    waiting = [client.enqueue("test:echo").id for _ in range(5)]
    failing = client.enqueue("test:flaky", 1).id
    daemon.wait_for("task started", task_id=running)
    client.connection.config_set("maxmemory", 1)

    with pytest.raises(BrokerError, match="out of memory"):
        client.enqueue("test:echo", task_id="late")

    for task_id in [running, *waiting, failing]:
        daemon.wait_for("task completed", task_id=task_id)
    client.connection.config_set("maxmemory", 0)
    client.enqueue("test:echo", task_id="late")
    daemon.wait_for("task completed", task_id="late")


@pytest.mark.fault(29)
def test_a_primary_that_became_a_replica_is_left_for_what_its_name_leads_to_now(
    start_daemon: StartDaemon, start_valkey: StartValkey, server: Valkey, client: Client
) -> None:
    other = start_valkey()
    daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
    client.connection.replicaof("127.0.0.1", "1")
    daemon.wait_for("broker unavailable, waiting", worker="worker:0")

    # As a name of the network, or a load balancer: the same address, another server.
    server.socket.rename(server.socket.with_name("old.sock"))
    server.socket.symlink_to(other.socket)

    with Client.from_url(other.url) as fresh:
        task_id = fresh.enqueue("test:echo").id
        daemon.wait_for("task completed", task_id=task_id)


@pytest.fixture
def sentinel(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The URL of a Sentinel that watches a primary with a replica, and the primary."""
    first, second, watcher = free_ports(3)
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {watcher}\nbind 127.0.0.1\ndir {directory}\nsentinel monitor main 127.0.0.1 {first} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
    )
    server = [find_server(), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    commands = [
        [*server, "--port", str(first)],
        [*server, "--port", str(second), "--replicaof", f"127.0.0.1 {first}", "--repl-diskless-sync-delay", "0"],
        [find_server(), str(config), "--sentinel"],
    ]
    with ExitStack() as stack:
        processes = []
        for command in commands:
            processes.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL)))
            stack.callback(processes[-1].kill)

        def is_complete() -> bool:
            """The replica is in step with its primary, and the Sentinel knows it."""
            with connect(f"redis://127.0.0.1:{watcher}") as asked, connect(f"redis://127.0.0.1:{second}") as replica:
                try:
                    known = asked.info("sentinel")["master0"]["slaves"]
                    return bool(known == 1 and replica.info("replication")["master_link_status"] == "up")
                except (redis.RedisError, KeyError):
                    return False

        wait_until(is_complete, "the Sentinel knows the replica")
        yield f"redis+sentinel://127.0.0.1:{watcher}/main/0", processes[0]


@pytest.mark.fault(29)
def test_a_failover_by_sentinel_is_followed(
    start_daemon: StartDaemon, sentinel: tuple[str, subprocess.Popen[bytes]]
) -> None:
    url, primary = sentinel
    daemon = start_daemon("--concurrency", "1", redis_url=url).ready()
    with Client.from_url(url, timeout_s=20.0) as client:
        before = client.enqueue("test:echo").id
        daemon.wait_for("task completed", task_id=before)
        waiting = client.enqueue("test:echo", process_in=3).id
        assert client.connection.wait(1, 20_000) == 1  # it has reached the replica

        primary.kill()

        def is_enqueued() -> bool:
            try:
                client.enqueue("test:echo", task_id="after")
            except TaskIdConflictError:
                return True
            except BrokerError:
                return False
            return True

        wait_until(is_enqueued, "there is a new primary", deadline_s=60)
        daemon.wait_for("task completed", task_id="after")
        daemon.wait_for("task completed", task_id=waiting)


@pytest.mark.fault(29)
def test_who_waits_for_a_result_follows_a_failover(sentinel: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, primary = sentinel
    with Client.from_url(url, timeout_s=20.0) as client, ThreadPoolExecutor(1) as threads:
        info = client.enqueue("test:echo", retention=600)
        assert client.connection.wait(1, 20_000) == 1  # it has reached the replica
        waiting = threads.submit(info.wait, 60)
        wait_until(lambda: client.connection.info("stats")["tracking_total_keys"], "the record is watched")

        primary.kill()

        def is_completed() -> bool:
            try:
                complete_next(Broker(client.connection), result=b"1")
            except BrokerError:
                return False
            return True

        wait_until(is_completed, "there is a new primary", deadline_s=60)
        assert waiting.result(60) == 1
