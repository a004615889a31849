"""What a running task tells of its progress: how often it is sent, and what an outage does to it."""

import math
import signal
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector, Task, TaskProgress
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.worker import runtime as runtime_module
from boilerd.worker.attempt import AttemptRunner
from boilerd.worker.runtime import PROGRESS_BURST, AttemptRuntime
from builders import claim
from support import StartValkey


@pytest.fixture
def runner() -> AttemptRunner:
    return AttemptRunner(lambda task: None, listens=False)


def notes(connection: redis.Redis) -> int:
    """How many notes of progress the server has taken."""
    return int(connection.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


def test_much_progress_is_sent_seldom_and_the_last_one_at_the_end(
    client: Client, broker: Broker, runner: AttemptRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "PROGRESS_EVERY_S", 1000)
    info = client.enqueue("test:echo", retention=60)
    runtime = AttemptRuntime(broker, claim(broker), runner)
    task, shown = Task("a", "test:echo", runtime=runtime), Inspector(client.connection)
    broker.write_progress(runtime.claim, TaskProgress(0))  # the server knows the script
    before = notes(client.connection)

    for done in range(1, 1001):
        task.progress(done, 1000)
    sent, meanwhile = notes(client.connection) - before, shown.task(info.id).progress
    runtime.send_progress()

    assert sent == PROGRESS_BURST
    assert meanwhile == TaskProgress(PROGRESS_BURST, 1000)
    assert shown.task(info.id).progress == TaskProgress(1000, 1000)
    assert runtime.unsent is None


def test_an_outage_costs_one_timeout_and_no_error(start_valkey: StartValkey, runner: AttemptRunner) -> None:
    server = start_valkey()
    with connect(server.url) as connection:
        broker = Broker(connection)
        Client(connection).enqueue("test:echo")
        task = Task("a", "test:echo", runtime=AttemptRuntime(broker, claim(broker), runner))
        server.stop(signal.SIGKILL)

        for done in range(3):
            task.progress(done)

        assert isinstance(task.runtime, AttemptRuntime)
        assert task.runtime.unsent == TaskProgress(2)  # kept back, as the first one failed
        task.runtime.send_progress()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((1,), "1"), ((2, 3), "2 of 3 (67 %)"), ((0.5, None, "half"), "0.5, half"), ((0, 0), "0 of 0"),
        ((1, 2, "\udcff" * 600), f"1 of 2 (50 %), {chr(92) + 'udcff'}"),
    ],
)  # fmt: skip
def test_progress_is_told_as_people_read_it(words: Any, told: str) -> None:
    assert str(TaskProgress.of(*words, *(None, "")[len(words) - 1 :])).startswith(told)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (("1",), TypeError, "progress: done='1' is no number"),
        ((True,), TypeError, "progress: done=True is no number"),
        ((1, "2"), TypeError, "progress: total='2' is no number"),
        ((math.nan,), ValueError, "progress: done=nan is not a finite number"),
        ((1, math.inf), ValueError, "progress: total=inf is not a finite number"),
        ((2**63,), ValueError, "progress: done=9223372036854775808 is not a finite number"),
    ],
)
def test_progress_that_is_no_number_is_refused_also_where_nobody_sees_it(words: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        Task("a", "test:echo").progress(*words)
