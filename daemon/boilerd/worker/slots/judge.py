"""Decide what becomes of failed attempts in a thread of its own: the application's hooks may block.

A hook that does not return within its limit gets the thread for itself: it may go on there for ever. What it was asked
about is decided without hooks, and the next failure has a new thread.
"""

import contextvars
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from msgspec import structs

from boilerd.broker.claims import Failure
from boilerd.process.forks import end_child
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
        self._rules = rules
        self._without_hooks = structs.replace(rules, hooks=Hooks(), limit_hook=nullcontext)
        self._scoreboard = scoreboard
        self._row = row
        self._on_decided = on_decided
        self._context = contextvars.copy_context()
        #: Asked about, in their order; the first is what the thread is at.
        self._asked: dict[SlotAttempt, Failed] = {}
        self._thread: _Thread | None = None

    def __len__(self) -> int:
        """How many attempts wait for their decision."""
        return len(self._asked)

    def ask(self, attempt: SlotAttempt, outcome: Failed) -> Failure | None:
        """Decide about an attempt: at once where there are no hooks; None: `decided` has it later."""
        if not self._asks_hooks:
            return self._decide(self._without_hooks, attempt, outcome)
        if self._thread is None:
            self._thread = self._start()
        self._asked[attempt] = outcome
        self._thread.inbox.put((attempt, outcome))
        return None

    def decided(self) -> Iterator[tuple[SlotAttempt, Failure]]:
        """The decisions since the last call, each once; those of hooks that do not return are made here."""
        thread = self._thread
        if thread is None:
            return
        while not thread.decided.empty():
            attempt, failure = thread.decided.get_nowait()
            del self._asked[attempt]
            yield attempt, failure
        if time.monotonic() - thread.hook_since_s > settlement.HOOK_LIMIT_S:
            yield self._give_up(thread)

    def decide_all(self) -> Iterator[tuple[SlotAttempt, Failure]]:
        """Decide about all that is left, without hooks; the thread is left to what it is at."""
        yield from self.decided()
        asked, self._asked, self._thread = self._asked, {}, None
        for attempt, outcome in asked.items():
            yield attempt, self._decide(self._without_hooks, attempt, outcome)

    def _start(self) -> "_Thread":
        thread = _Thread(self._rules, self._decide, self._on_decided)
        threading.Thread(
            target=thread.run, args=(self._scoreboard, self._row), name="boilerd-judge", daemon=True
        ).start()
        return thread

    def _give_up(self, thread: "_Thread") -> tuple[SlotAttempt, Failure]:
        """Leave the thread to its hook."""
        attempt, outcome = next(iter(self._asked.items()))
        del self._asked[attempt]
        logger.error(
            "a hook does not return, going on without asking it",
            extra={**attempt.task.log_fields, "limit_s": settlement.HOOK_LIMIT_S},
        )
        thread.is_left = True
        with self._scoreboard.running_hooks(self._row):
            pass  # none runs from now on that anybody waits for
        self._thread = self._start()
        for pair in self._asked.items():
            self._thread.inbox.put(pair)
        return attempt, self._decide(self._without_hooks, attempt, outcome)

    def _decide(self, rules: Rules, attempt: SlotAttempt, outcome: Failed) -> Failure:
        context = self._context.copy()
        context.run(CURRENT.set, attempt.task)  # what a hook enqueues inherits from the task
        return context.run(rules.decide_failure, attempt.task, outcome.error, outcome.traceback)


class _Thread:
    """A thread that asks hooks.

    Attributes:
        inbox: What it is asked.
        decided: Its answers.
        hook_since_s: When the hook began that it is in, on the monotonic clock; infinite: in none.
        is_left: True if nobody waits for it any more; its hook may return, and the next one hang again.
    """

    def __init__(
        self,
        rules: Rules,
        decide: Callable[[Rules, SlotAttempt, Failed], Failure],
        on_decided: Callable[[], None],
    ) -> None:
        self._rules = structs.replace(rules, limit_hook=self._watch_hook)
        self._decide = decide
        self._on_decided = on_decided
        self.inbox: queue.SimpleQueue[tuple[SlotAttempt, Failed]] = queue.SimpleQueue()
        self.decided: queue.SimpleQueue[tuple[SlotAttempt, Failure]] = queue.SimpleQueue()
        self.hook_since_s = math.inf
        self.is_left = False

    def run(self, scoreboard: Scoreboard, row: int) -> None:
        """Decide until another thread has taken its place."""
        while not self.is_left:
            attempt, outcome = self.inbox.get()
            with scoreboard.running_hooks(row):
                failure = self._decide(self._rules, attempt, outcome)
            self.decided.put((attempt, failure))
            self._on_decided()

    @contextmanager
    def _watch_hook(self) -> Iterator[None]:
        """No signal ends a hook in a thread: the keeper looks how long it takes. A child that it forks ends with it."""
        pid = os.getpid()
        self.hook_since_s = time.monotonic()
        try:
            yield
        finally:
            if os.getpid() != pid:
                end_child()
            self.hook_since_s = math.inf
