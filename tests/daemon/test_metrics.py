"""Metrics of a daemon: what its handlers did, as Redis has it afterwards."""

import os
import signal
from collections import Counter
from pathlib import Path

import redis

from boilerd import Client
from boilerd.broker.broker import Broker
from boilerd.tasks.metric_record import Numbers, Pair
from metric_app import KINDS
from reckoning import counted, journal
from support import DEADLINE_S, QUICK_RETRY, StartDaemon, wait_until


def settings(directory: Path) -> dict[str, str]:
    return QUICK_RETRY | {"BOILERD_APP": "metric_app:mux", "METRIC_JOURNAL": str(directory)}


def numbers_of(connection: redis.Redis) -> dict[Pair, Numbers]:
    """What is counted, also by enqueues of the last seconds."""
    Broker(connection).roll_metrics()
    return {pair: Numbers(record) for pair, record in counted(connection).items()}


def test_the_numbers_of_a_daemon_are_those_of_its_handlers(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis, directory: Path
) -> None:
    pools = '{"slotted": {"queues": {"slotted": 1}, "slots": 4}}'
    daemon = start_daemon(env=settings(directory) | {"BOILERD_POOLS": pools}).ready()

    for number in range(200):
        for queue in ("default", "slotted"):
            client.enqueue([*KINDS][number % len(KINDS)], "x" * 10, queue=queue)
    wait_until(lambda: len([*journal(directory)]) == 480, "all attempts have ended")
    daemon.stop()

    found = numbers_of(connection)
    attempts = {(*pair, outcome): n for pair, numbers in found.items() for outcome, n in numbers.attempts.items() if n}
    assert attempts == Counter((each.queue, each.type, each.outcome) for each in journal(directory))
    for (_, kind), numbers in found.items():
        takes_s, endings = KINDS[kind]
        assert numbers.enqueued == numbers.wait.count == numbers.payload.count == 40
        assert numbers.payload.sum == 40 * 12
        assert numbers.run.count == numbers.ended
        assert numbers.run.sum >= takes_s * numbers.run.count
        assert 0 < numbers.wait.sum < 40 * 2 * DEADLINE_S
        assert numbers.taken == ((40, 0, 0, 0, 0, 0) if len(endings) == 1 else (0, 40, 0, 0, 0, 0))


def test_an_attempt_whose_worker_is_killed_is_lost_and_one_that_a_drain_ends_is_put_back(
    start_daemon: StartDaemon, client: Client, connection: redis.Redis, directory: Path
) -> None:
    daemon = start_daemon("--concurrency", "1", env=settings(directory) | {"BOILERD_SHUTDOWN_TIMEOUT": "0.2"}).ready()
    task_id = client.enqueue("long:sleep", 600).id
    # A claim is not enough: a task that is claimed, and has not started, goes back as it came.
    daemon.wait_for("task started", task_id=task_id)

    os.kill(daemon.pid_of("worker:0"), signal.SIGKILL)
    daemon.wait_for("task started", count=2, task_id=task_id)
    daemon.stop()

    (numbers,) = numbers_of(connection).values()
    assert {outcome: n for outcome, n in numbers.attempts.items() if n} == {"lost": 1, "put_back": 1}
    assert numbers.run.count == numbers.wait.count == 0
