"""Attempts in slots: on the loop and in threads."""

import os
from collections.abc import Callable

import pytest

from boilerd import ServeMux, Task
from boilerd.broker.claims import Claim
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.attempt import Completed, Outcome
from boilerd.worker.limits import SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.runner import SlotRunner

mux = ServeMux()


@mux.handle("test:async")
async def wait(task: Task) -> str:
    return f"async {task.payload}"


@mux.handle("test:plain")
def run(task: Task) -> str:
    return f"plain {task.payload}"


def attempt(task_type: str, payload: object = None) -> SlotAttempt:
    task = Task(id="some", type=task_type, payload=payload)
    return SlotAttempt(Claim("some", "0123456789-0", "default", "1", 0, task), task)


def outcome_in_child(drive: Callable[[], bool]) -> bool:
    """What `drive` answers in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = 0 if drive() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_an_attempt_ends_with_what_its_handler_returns(kind: str) -> None:
    def drive() -> bool:
        found: list[Outcome | None] = []

        def on_end(ended: SlotAttempt) -> None:
            found.append(ended.outcome)
            runner.close()

        rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)
        runner = SlotRunner(rules, SlotLimits(slots=10), Scoreboard(), 0, on_end)
        runner.begin([attempt(f"test:{kind}", 7)])
        runner.run()
        return found == [Completed(f"{kind} 7")]

    assert outcome_in_child(drive)
