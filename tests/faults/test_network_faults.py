"""What lies between a process and its broker cuts, stalls, delays and halves what passes through."""

import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boilerd import BrokerUnavailableError, Client, TaskIdConflictError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.subscriber import Subscriber
from builders import complete_next
from proxy import Proxy
from support import StartDaemon, StartValkey, Valkey, completed, wait_until


@pytest.fixture
def proxy(valkey: Valkey, directory: Path) -> Iterator[Proxy]:
    with Proxy(directory, valkey.socket) as made:
        yield made


def processed(client: Client) -> int:
    """Attempts that were counted, of all days."""
    found = client.connection.scan_iter(f"{keys.OWN}:stats:default:*")
    return sum(int(client.connection.hget(key, "processed") or 0) for key in found)


def has_ended(client: Client, task_id: str) -> bool:
    return not client.connection.exists(keys.job(task_id))


@pytest.mark.fault(2)
def test_an_enqueue_whose_answer_is_lost_may_be_repeated_with_the_same_id(proxy: Proxy, client: Client) -> None:
    with Client.from_url(proxy.url) as cut_off:
        cut_off.enqueue("test:echo", task_id="first")  # the script is known to the server from now on
        proxy.cuts_reply_to = b"mine"

        with pytest.raises(BrokerUnavailableError, match="task mine may have been stored") as refusal:
            cut_off.enqueue("test:echo", task_id="mine")

        assert refusal.value.was_sent
        with pytest.raises(TaskIdConflictError):
            cut_off.enqueue("test:echo", task_id="mine")
    assert client.connection.lrange(keys.queue("default"), 0, -1) == [b"first", b"mine"]


@pytest.mark.fault(2)
def test_an_enqueue_whose_answer_is_lost_may_be_repeated_with_once_when_its_task_has_ended(
    proxy: Proxy, client: Client, broker: Broker
) -> None:
    with Client.from_url(proxy.url) as cut_off:
        cut_off.enqueue("test:echo", task_id="first")
        proxy.cuts_reply_to = b"mine"
        with pytest.raises(BrokerUnavailableError, match="with this ID and once is safe for 24h"):
            cut_off.enqueue("test:echo", task_id="mine", once=24 * 3600)
        assert [complete_next(broker), complete_next(broker)] == ["first", "mine"]
        assert has_ended(client, "mine")

        with pytest.raises(TaskIdConflictError) as refusal:
            cut_off.enqueue("test:echo", task_id="mine", once=24 * 3600)

    assert refusal.value.is_remembered
    assert completed(client.connection, "mine") == 1


@pytest.mark.fault(3)
def test_a_client_waits_for_a_stalled_broker_no_longer_than_its_timeout(proxy: Proxy) -> None:
    before = set(threading.enumerate())
    with Client.from_url(proxy.url, timeout_s=1.0) as cut_off:
        cut_off.enqueue("test:echo")
        proxy.stall()
        began_s = time.monotonic()

        with pytest.raises(BrokerUnavailableError, match=r"did not answer within 1 s; task .* may have been stored"):
            cut_off.enqueue("test:echo")

        assert 0.9 < time.monotonic() - began_s < 30
    assert set(threading.enumerate()) == before


@pytest.mark.fault(31)
@pytest.mark.parametrize("halves", [False, True], ids=["reset", "reply cut in half"])
def test_connections_that_break_all_the_time_lose_no_task_and_count_none_twice(
    start_daemon: StartDaemon, client: Client, proxy: Proxy, halves: bool
) -> None:
    daemon = start_daemon("--concurrency", "2", redis_url=proxy.url, env={"BOILERD_RETRY": '{"base": "0.1s"}'}).ready()
    proxy.delay_s, proxy.cut_probability, proxy.halves = 0.002, 0.05, halves

    ids: list[str] = []
    while len(ids) < 200 or proxy.cuts < 5:
        ids += [client.enqueue("test:echo").id for _ in range(100)]
        for task_id in ids[-100:]:
            wait_until(functools.partial(has_ended, client, task_id), "the task has ended")

    assert [completed(client.connection, task_id) for task_id in ids] == [1] * len(ids)
    assert processed(client) == len(ids)
    proxy.cut_probability = 0.0
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "nothing is claimed")
    assert not daemon.lines("process died")


@pytest.mark.fault(31)
def test_a_slow_broker_is_used_all_the_same(start_daemon: StartDaemon, client: Client, proxy: Proxy) -> None:
    proxy.delay_s = 0.02
    daemon = start_daemon("--concurrency", "1", redis_url=proxy.url).ready()

    ids = [client.enqueue("test:echo").id for _ in range(5)]

    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id, attempt=1)
    assert not daemon.lines("broker unavailable, waiting")


@pytest.mark.long(7)
@pytest.mark.fault(31)
def test_connections_that_hang_without_an_end_are_given_up(
    start_daemon: StartDaemon, client: Client, proxy: Proxy
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=proxy.url).ready()
    client.enqueue("test:echo", task_id="before")
    daemon.wait_for("task completed", task_id="before")

    proxy.half_open()

    # A command may take 5 s.
    task_id = client.enqueue("test:echo").id
    later = client.enqueue("test:echo", process_in=1).id
    daemon.wait_for("task completed", task_id=task_id)
    daemon.wait_for("task completed", task_id=later)
    for line in daemon.lines("broker unavailable, waiting"):
        daemon.wait_for("broker available again", pid=line["pid"])


@pytest.mark.fault(31)
def test_the_command_channel_notices_that_it_hangs(client: Client, proxy: Proxy) -> None:
    channel = keys.channel("host.run.0")

    def heard() -> int:
        return int(dict(client.connection.pubsub_numsub(channel))[channel.encode()])

    with connect(proxy.url) as connection:
        subscriber = Subscriber(connection, ["host.run.0"], Scoreboard(), quiet_s=0.3)
        subscriber.start()
        try:
            wait_until(lambda: heard() == 1, "it listens")

            proxy.half_open()

            wait_until(lambda: heard() == 2, "it listens again, through another connection")
        finally:
            subscriber.stop()


def test_a_command_channel_that_answers_when_it_is_asked_is_kept(start_valkey: StartValkey) -> None:
    server = start_valkey()
    with connect(server.url) as own, connect(server.url) as admin:

        def pings() -> int:
            return int(admin.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])

        def listeners() -> list[str]:
            return [client["id"] for client in admin.client_list(_type="pubsub")]

        subscriber = Subscriber(own, ["host.run.0"], Scoreboard(), quiet_s=0.3)
        subscriber.start()
        try:
            first = wait_until(listeners, "it listens")
            before = pings()
            wait_until(lambda: pings() >= before + 4, "it has asked several times")

            assert listeners() == first
        finally:
            subscriber.stop()
