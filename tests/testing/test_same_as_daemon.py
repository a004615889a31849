"""What becomes of tasks in a drain is what becomes of them in a daemon: one table of scenarios, run by both."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from boilerd import Client, Inspector, TaskNotFoundError
from boilerd.testing import Attempt, RecordingClient
from scenarios import QUEUES, TASK_IDS, mux, play
from support import StartDaemon, Valkey, wait_until

#: State, used retries, last error, result, and which of its attempts succeeded.
Look = tuple[str, int, str, Any, list[bool]]


def in_daemon(start_daemon: StartDaemon, valkey: Valkey) -> tuple[dict[str, list[str]], dict[str, Look]]:
    daemon = start_daemon(env={"BOILERD_APP": "scenarios:mux", "BOILERD_CONCURRENCY": "2"}).ready()
    with Client.from_url(valkey.url) as client, Inspector.from_url(valkey.url) as inspector:

        def is_idle() -> bool:
            return not any(queue.pending or queue.active or queue.scheduled for queue in inspector.queues())

        client.enqueue_many([("ok:plain", None)], queue="low")  # what was never used cannot be paused
        client.enqueue_many([("ok:plain", None)])
        run_all(inspector, is_idle)
        notes = play(client, lambda: run_all(inspector, is_idle))
        looks = {}
        for task_id in TASK_IDS:
            try:
                task = inspector.task(task_id)
            except TaskNotFoundError:
                continue
            successes = [attempt.is_success for attempt in task.attempts]
            looks[task_id] = (str(task.state), task.retried, untimed(task.last_error), task.result, successes)
    daemon.stop()
    return notes, looks


def run_all(inspector: Inspector, is_idle: Callable[[], bool]) -> None:
    """Let the workers claim until all has run; not before, for a scenario may enqueue several tasks."""
    for queue in QUEUES:
        inspector.resume(queue)
    wait_until(is_idle, "all tasks have run")
    for queue in QUEUES:
        inspector.pause(queue)


def in_drain(*, is_async: bool) -> tuple[dict[str, list[str]], dict[str, Look]]:
    client, ran = RecordingClient(mux=mux), dict[str, list[bool]]()

    def settle() -> None:
        attempts: list[Attempt]
        if is_async:
            attempts = asyncio.run(client.adrain(until="end", raise_errors=False))
        else:
            attempts = client.drain(until="end", raise_errors=False)
        for task_id in {attempt.task.id for attempt in attempts}:
            ran[task_id] = [attempt.error is None for attempt in attempts if attempt.task.id == task_id]

    no_connection: Any = None
    # A producer that does not know the mux enqueues what does not fit.
    notes = play(Client(no_connection, store=client._store), settle)
    kept = [*client.completed, *client.archived]
    return notes, {
        task.id: (str(task.state), task.retried, untimed(task.last_error), task.result, ran[task.id]) for task in kept
    }


def untimed(error: str) -> str:
    return re.sub(r"[\d.]+ s before", "… before", error)


def test_a_drain_makes_of_tasks_what_a_daemon_makes_of_them(start_daemon: StartDaemon, valkey: Valkey) -> None:
    notes, looks = in_daemon(start_daemon, valkey)

    drained_notes, drained = in_drain(is_async=False)
    async_notes, adrained = in_drain(is_async=True)

    assert drained_notes == async_notes == notes
    assert drained == adrained == looks
    assert len(looks) > 30
