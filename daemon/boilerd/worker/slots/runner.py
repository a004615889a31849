"""The runner: runs the attempts of a worker with slots, on the process's event loop and in threads."""

import asyncio
import contextvars
import math
import threading
from collections.abc import Callable, Iterable, Sequence

from boilerd.errors import ShutdownTimeoutError, TaskInterrupt
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.coroutines import kept_loop
from boilerd.tasks.current import CURRENT
from boilerd.worker.attempt import Completed, Outcome, Released, failed
from boilerd.worker.limits import SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import SlotAttempt


class SlotRunner:
    """Runs attempts: those of `async def` handlers as tasks of the loop, those of plain ones in threads.

    The main thread calls `run`; the keeper calls all other methods.

    Args:
        rules: How to run a task.
        limits: Of the slots.
        scoreboard: Where it shows that the loop lives, and the next limit.
        row: The worker's cells there.
        on_end: Called with each attempt that has its outcome, in whatever thread it ended; must not block.

    Attributes:
        running: The attempts without an outcome, in the order in which they began; stuck ones, too.
    """

    def __init__(
        self,
        rules: Rules,
        limits: SlotLimits,
        scoreboard: Scoreboard,
        row: int,
        on_end: Callable[[SlotAttempt], None],
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._scoreboard = scoreboard
        self._row = row
        self._on_end = on_end
        self.running: dict[SlotAttempt, None] = {}
        self._loop: asyncio.AbstractEventLoop = kept_loop()
        self._context = contextvars.copy_context()

    def run(self) -> None:
        """Run the loop until `close`; in the main thread."""
        self._loop.run_forever()

    def close(self) -> None:
        """Have `run` return."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def stuck(self) -> int:
        """Number of attempts that go on although they were interrupted several times."""
        return sum(attempt.is_stuck for attempt in self.running)

    @property
    def is_blocked(self) -> bool:
        """True while something keeps the loop from getting on: what is given to it would wait."""
        return False

    def begin(self, attempts: Sequence[SlotAttempt]) -> None:
        """Begin these attempts now."""
        self.running |= dict.fromkeys(attempts)
        on_loop = [attempt for attempt in attempts if self._rules.is_async(attempt.task.type)]
        if on_loop:
            self._loop.call_soon_threadsafe(self._begin_on_loop, on_loop)
        for attempt in attempts:
            if not self._rules.is_async(attempt.task.type):
                run = self._context.copy().run
                threading.Thread(target=run, args=(self._run_plain, attempt), daemon=True).start()

    def interrupt(self, attempts: Iterable[SlotAttempt], error: TaskInterrupt) -> None:
        """Have these attempts end with `error`; the end of a drain replaces no other reason."""
        for attempt in attempts:
            attempt.reason = attempt.reason or error
            if isinstance(attempt.place, asyncio.Task):
                self._loop.call_soon_threadsafe(attempt.place.cancel)

    def look(self) -> float:
        """Interrupt the attempts whose limits are over, see to those that do not end; seconds until the next look."""
        return math.inf

    def forget(self, attempt: SlotAttempt) -> None:
        """Take an attempt out that has ended; the keeper has its outcome."""
        self.running.pop(attempt, None)

    def _begin_on_loop(self, attempts: Sequence[SlotAttempt]) -> None:
        for attempt in attempts:
            attempt.place = self._loop.create_task(self._run_async(attempt), context=self._context.copy())

    async def _run_async(self, attempt: SlotAttempt) -> None:
        try:
            attempt.task.attach(attempt.runtime)
            CURRENT.set(attempt.task)
            outcome: Outcome = Completed(await self._rules.arun(attempt.task))
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must not end the worker
            outcome = _outcome_of(attempt, error)
        self._end(attempt, outcome)

    def _run_plain(self, attempt: SlotAttempt) -> None:
        try:
            attempt.task.attach(attempt.runtime)
            CURRENT.set(attempt.task)
            outcome: Outcome = Completed(self._rules.middleware(self._rules.handler)(attempt.task))
        except BaseException as error:  # noqa: BLE001 - as above
            outcome = _outcome_of(attempt, error)
        self._end(attempt, outcome)

    def _end(self, attempt: SlotAttempt, outcome: Outcome) -> None:
        attempt.outcome = outcome
        self._on_end(attempt)


def _outcome_of(attempt: SlotAttempt, error: BaseException) -> Outcome:
    """The outcome of an attempt that raised; what interrupted it is the cause, whatever the handler made of it."""
    if isinstance(attempt.reason, ShutdownTimeoutError):
        return Released()
    return failed(error, attempt.reason)
