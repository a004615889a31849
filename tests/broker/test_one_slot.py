"""A worker with one slot: what Redis performs for it is what it has always been, whatever others have."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from boilerd.broker import broker as broker_module
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.tasks.retry import Verdict
from builders import WORKER, fail, store

#: What Redis performed for `live` before there were workers with several slots: one command a line, with its first key.
COMMANDS = Path(__file__).with_name("one_slot.txt")
#: What is different each time: execution IDs, and the day in the names of counters.
VARYING = re.compile(r"\b[0-9a-f]{32}\b|(?<=:)\d{5}$")


def prepare(broker: Broker) -> None:
    """Store what the worker finds."""
    broker.connection.flushdb()
    broker.set_limits({"limited:max_active": 1})
    store(broker, "a", queue="critical")
    for task_id in ("b", "c", "d", "e", "f", "g"):
        store(broker, task_id, retention=60 if task_id == "c" else 0)
    store(broker, "key", concurrency_key="one", unique=60)
    store(broker, "waits", concurrency_key="one")
    for task_id in ("l", "m"):
        store(broker, task_id, queue="limited")


def live(broker: Broker) -> None:
    """A worker's life: it claims alone and in batches, completes, fails and gives back."""
    broker.register(WORKER, ["critical", "default"], {"state": "starting", "pid": 1})
    broker.held(WORKER)
    (first,) = broker.advance(WORKER, ["critical", "default"], limit=1).claims
    batch = broker.advance(WORKER, ["critical", "default"], [Completion(first)], limit=32).claims
    broker.extend([WORKER], {})
    fail(broker, batch[0], Verdict.RETRY, delay_s=60.0)
    broker.release(WORKER, only=[batch[-1].execution_id])
    done = [Completion(claim, b"1") for claim in batch[1:-1]]
    while claims := broker.advance(WORKER, ["limited", "default"], done, limit=32).claims:
        broker.cancellation(claims[0])
        done = [Completion(claim) for claim in claims]
    broker.release(WORKER)


def commands(connection: redis.Redis, call: Callable[[], None]) -> list[str]:
    """The commands that Redis performs meanwhile, those in scripts included."""
    found: list[str] = []
    with connection.monitor() as monitor:  # type: ignore[no-untyped-call]
        call()
        connection.echo("end")
        for entry in monitor.listen():
            command = entry["command"]
            if command == "ECHO end":
                break
            if command.upper().startswith(("EVAL", "SCRIPT", "HELLO", "CLIENT")):
                command = command.split(" ", 1)[0].upper().replace("EVALSHA", "EVAL")
            found.append(VARYING.sub("…", " ".join(command.split(" ")[:2])))
    return found


def test_redis_performs_the_same_commands_for_a_worker_with_one_slot(
    broker: Broker, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "BATCH_PARTS", 1)  # so that a short queue gives a batch
    prepare(broker)
    live(broker)  # so that it knows all scripts
    prepare(broker)

    found = commands(connection, lambda: live(broker))

    assert found == COMMANDS.read_text().splitlines()
