"""Drives the runner of a worker with slots in a process of its own, as its keeper does."""

import json
import logging
import math
import os
import queue
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from boilerd import ServeMux, Task
from boilerd.broker.claims import Claim
from boilerd.errors import DeadlineInterrupt, TaskInterrupt, TaskTimeoutError
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.coroutines import use_loop
from boilerd.tasks.mux import Handler
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.attempt import Completed, Failed
from boilerd.worker.limits import SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.runner import SlotRunner
from support import DEADLINE_S

LOOPS = ("asyncio", "uvloop")
#: How the line begins of an attempt that its timeout ended.
TIMEOUT = "failed: TaskTimeoutError: the attempt took longer than the task's timeout"


class SlotDriver:
    """A runner with what the keeper has beside it; its methods are for one thread that is not the main one.

    Attributes:
        lines: The log's records.
    """

    def __init__(self, mux: ServeMux, middleware: Callable[[Handler], Handler], limits: SlotLimits) -> None:
        self.board = Scoreboard()
        self.ended: queue.SimpleQueue[SlotAttempt] = queue.SimpleQueue()
        self.rules = Rules.of(mux, RetryPolicy(), middleware)
        self.runner = SlotRunner(self.rules, limits, self.board, 0, self.ended.put)
        self.lines: list[logging.LogRecord] = []
        self._made = 0

    def attempt(
        self, task_type: str, payload: Any = None, *, timeout_s: float = math.inf, limit: TaskInterrupt | None = None
    ) -> SlotAttempt:
        """An attempt that has not begun."""
        self._made += 1
        task = Task(id=f"task{self._made}", type=task_type, payload=payload)
        claim = Claim(task.id, f"0123456789-{self._made}", "default", "1", 0, task)
        limit = limit or TaskTimeoutError("the attempt took longer than the task's timeout")
        return SlotAttempt(claim, task, ends_s=time.monotonic() + timeout_s, limit=limit)

    def begin(self, task_type: str, payload: Any = None, **options: Any) -> SlotAttempt:
        """One that has."""
        attempt = self.attempt(task_type, payload, **options)
        self.runner.begin([attempt])
        return attempt

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Do the keeper's work until the first true answer of `condition`."""
        end_s = time.monotonic() + DEADLINE_S
        while not (answer := condition()):
            assert time.monotonic() < end_s, f"waited in vain: {what}"
            try:
                self.runner.forget(self.ended.get(timeout=max(0.0001, min(self.runner.look(), 0.02))))
            except queue.Empty:
                continue
        return answer

    def outcomes(self, *attempts: SlotAttempt) -> list[str]:
        """How they ended, in words."""
        self.wait(lambda: all(one.outcome and one not in self.runner.running for one in attempts), "all have ended")
        return [_in_words(attempt) for attempt in attempts]

    def told(self, message: str) -> list[logging.LogRecord]:
        """The log's records with this message, so far."""
        return [line for line in self.lines if line.getMessage() == message]


def late(in_s: float = -1.0) -> dict[str, Any]:
    """The options of an attempt whose deadline passed before it began."""
    return {"timeout_s": in_s, "limit": DeadlineInterrupt("the task's deadline has passed")}


def driven(
    mux: ServeMux,
    drive: Callable[[SlotDriver], Any],
    *,
    loop: str = "asyncio",
    middleware: Callable[[Handler], Handler] = lambda handler: handler,
    before: Callable[[], Any] = lambda: None,
    after: Callable[[SlotDriver], Any] | None = None,
    **limits: Any,
) -> Any:
    """What `drive` answers, as JSON has it, beside the runner in a forked process.

    Args:
        before: Called in the main thread, before the runner is made.
        after: Called in the main thread when the loop has ended; its answer is taken instead.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            use_loop(loop)
            before()
            driver = SlotDriver(mux, middleware, SlotLimits(**{"slots": 100} | limits))
            answer = _drive(driver, drive, after)
        except BaseException:  # all of it is for the parent
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    try:
        return _read(reader, pid)
    finally:
        os.close(reader)


def _drive(
    driver: SlotDriver, drive: Callable[[SlotDriver], Any], after: Callable[[SlotDriver], Any] | None
) -> dict[str, Any]:
    _take_lines(driver.lines)
    found: dict[str, Any] = {}

    def keep() -> None:
        try:
            found["answer"] = drive(driver)
        except BaseException:  # as above
            found["error"] = traceback.format_exc() + str([line.__dict__ for line in driver.lines])
        driver.runner.close()

    threading.Thread(target=keep, daemon=True).start()
    driver.runner.run()
    if after and "error" not in found:
        found["answer"] = after(driver)
    return found


def _take_lines(lines: list[logging.LogRecord]) -> None:
    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    logging.getLogger("boilerd").setLevel(logging.INFO)
    logging.getLogger("boilerd").addHandler(Lines())


def _read(reader: int, pid: int) -> Any:
    whole = b""
    while select.select([reader], [], [], 2 * DEADLINE_S)[0] and (part := os.read(reader, 65536)):
        whole += part
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert whole, f"the process ended with {status}, and said nothing"
    found = json.loads(whole)
    assert "error" not in found, found["error"]
    return found["answer"]


def _in_words(attempt: SlotAttempt) -> str:
    if isinstance(attempt.outcome, Completed):
        return f"completed: {attempt.outcome.result}"
    return f"failed: {attempt.outcome.line}" if isinstance(attempt.outcome, Failed) else "released"
