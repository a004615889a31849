"""Decide what becomes of failed attempts in a thread of its own: the application's hooks may block.

A hook that does not return within its limit gets the thread for itself: it may go on there for ever. What it was asked
about is decided without hooks, and the next failure has a new thread.
"""

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from boilerd.broker.claims import Failure
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.current import CURRENT
from boilerd.tasks.retry import Hooks
from boilerd.worker import settlement
from boilerd.worker.attempt import Failed
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import SlotAttempt

logger = logging.getLogger("boilerd.task")


class Judge:
    """Decides about failed attempts, one after the other.

    The keeper calls all of its methods.

    Args:
        rules: Decide, with the application's hooks.
        scoreboard: Notes while hooks run.
        row: The worker's cells there.
        on_decided: Called in the judge's thread when a decision is there.
    """

    def __init__(self, rules: Rules, scoreboard: Scoreboard, row: int, on_decided: Callable[[], None]) -> None:
        self._asks_hooks = rules.hooks != Hooks()
        self._rules = replace(rules, limit_hook=self._watch_hook)
        self._without_hooks = replace(rules, hooks=Hooks(), limit_hook=nullcontext)
        self._scoreboard = scoreboard
        self._row = row
        self._on_decided = on_decided
        self._context = contextvars.copy_context()
        self._decided: queue.SimpleQueue[tuple[SlotAttempt, Failure]] = queue.SimpleQueue()
        #: Asked about, in their order; the first is what the thread is at.
        self._asked: dict[SlotAttempt, Failed] = {}
        self._inbox: queue.SimpleQueue[tuple[SlotAttempt, Failed]] | None = None
        #: When the hook began that runs now, on the monotonic clock; None: none runs.
        self._hook_since_s: float | None = None

    def __len__(self) -> int:
        """How many attempts wait for their decision."""
        return len(self._asked)

    def ask(self, attempt: SlotAttempt, outcome: Failed) -> Failure | None:
        """Decide about an attempt: at once where there are no hooks; None: `decided` has it later."""
        if not self._asks_hooks:
            return self._decide(self._without_hooks, attempt, outcome)
        if self._inbox is None:
            self._start()
        self._asked[attempt] = outcome
        if self._inbox:
            self._inbox.put((attempt, outcome))
        return None

    def decided(self) -> Iterator[tuple[SlotAttempt, Failure]]:
        """The decisions since the last call, each once; those of hooks that do not return are made here."""
        while not self._decided.empty():
            attempt, failure = self._decided.get_nowait()
            if self._asked.pop(attempt, None):
                yield attempt, failure
        since_s = self._hook_since_s
        if since_s is not None and time.monotonic() - since_s > settlement.HOOK_LIMIT_S:
            yield self._give_up()

    def decide_all(self) -> Iterator[tuple[SlotAttempt, Failure]]:
        """Decide about all that is left, without hooks; nothing may be asked after that."""
        yield from self.decided()
        asked, self._asked = self._asked, {}
        for attempt, outcome in asked.items():
            yield attempt, self._decide(self._without_hooks, attempt, outcome)

    def _start(self) -> None:
        self._inbox = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(self._inbox,), name="boilerd-judge", daemon=True).start()

    def _give_up(self) -> tuple[SlotAttempt, Failure]:
        """Leave the thread to its hook."""
        attempt, outcome = next(iter(self._asked.items()))
        del self._asked[attempt]
        logger.error(
            "a hook does not return, going on without asking it",
            extra={**attempt.task.log_fields, "limit_s": settlement.HOOK_LIMIT_S},
        )
        self._hook_since_s = None
        with self._scoreboard.running_hooks(self._row):
            pass  # none runs from now on that anybody waits for
        self._start()
        for pair in self._asked.items():
            if self._inbox:
                self._inbox.put(pair)
        return attempt, self._decide(self._without_hooks, attempt, outcome)

    def _run(self, inbox: queue.SimpleQueue[tuple[SlotAttempt, Failed]]) -> None:
        """The thread, until another one has taken its place."""
        while inbox is self._inbox:
            attempt, outcome = inbox.get()
            with self._scoreboard.running_hooks(self._row):
                failure = self._decide(self._rules, attempt, outcome)
            if inbox is self._inbox:
                self._decided.put((attempt, failure))
                self._on_decided()

    def _decide(self, rules: Rules, attempt: SlotAttempt, outcome: Failed) -> Failure:
        context = self._context.copy()
        context.run(CURRENT.set, attempt.task)  # what a hook enqueues inherits from the task
        return context.run(rules.decide_failure, attempt.task, outcome.error, outcome.traceback)

    @contextmanager
    def _watch_hook(self) -> Iterator[None]:
        """No signal ends a hook in a thread: the keeper looks how long it takes."""
        inbox = self._inbox
        self._hook_since_s = time.monotonic()
        try:
            yield
        finally:
            if inbox is self._inbox:
                self._hook_since_s = None
