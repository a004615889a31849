"""The runner: runs the attempts of a worker with slots, on the process's event loop and in threads."""

import asyncio
import collections
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from boilerd.errors import ShutdownTimeoutError, TaskInterrupt, describe
from boilerd.process import debugging, printed
from boilerd.process.contexts import FreshContext
from boilerd.process.forks import end_child, leave_to_parent
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import install_handler, reinstall_handlers
from boilerd.process.surroundings import Surroundings
from boilerd.tasks.coroutines import ELSEWHERE, kept_loop
from boilerd.tasks.current import CURRENT
from boilerd.worker.attempt import Completed, Outcome, Released, failed
from boilerd.worker.limits import SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import RUNNING, SlotAttempt
from boilerd.worker.slots.escalation import LOOK_S, Escalation
from boilerd.worker.slots.leftovers import end_leftovers
from boilerd.worker.slots.loop_watch import BEAT_S, LoopWatch
from boilerd.worker.slots.strikes import Strikable, struck_with
from boilerd.worker.slots.threads import Threads
from boilerd.worker.slots.waits import wait_on_loop
from boilerd.worker.slots.wakeups import Wakeups

logger = logging.getLogger("boilerd.worker")

#: Threads of the loop's own executor, where `asyncio.to_thread` and the resolver of host names work.
MOST_HELPERS = 64
#: Code that is struck, because it keeps the loop from the interrupt, has so long to clean up until it is again.
CLEAN_UP_S = 1.0
#: The timeout of an attempt that begins later than this counts from there.
LATE_S = 0.001
#: Threads begin what is held so long after the keeper has looked how old it is, a sixth of a lease: it may be held up,
#: or the process halted until the lease is over and others have run the task.
TRUST_S = 5.0
#: The loop looks itself for what the keeper has not looked for so long.
LATE_LOOK_S = 2.0


class SlotRunner:
    """Runs attempts: those of `async def` handlers as tasks of the loop, those of plain ones in threads.

    The main thread makes it, when the lifespans are entered, and calls `run`; the keeper calls all other methods, and
    may do so before `run`. Each attempt has a context of its own, as the main thread's was when the runner was made.

    Args:
        rules: How to run a task.
        limits: Of the slots.
        scoreboard: Where it shows that the loop lives, and the next limit.
        row: The worker's cells there.
        on_end: Called with each attempt that has its outcome, in whatever thread it ended; must not block. Once, but
            where code of the application raises an exception in a thread of ours.
        as_job: Goes around a function of a plain RQ client, with the task's ID.

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
        *,
        as_job: Callable[[str], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._rules = rules
        self._handler = rules.middleware(rules.handler)
        self._limits = limits
        self._on_end = on_end
        self._as_job = as_job
        self._pid = os.getpid()
        self._is_debugging = debugging.is_on()
        self._is_closed = self._is_untidy = self._looks_late = False
        self._held_marks = scoreboard.held_marks(row)
        self._looked_s = math.inf
        self._begins_held_until_s = -math.inf
        self.running: dict[SlotAttempt, None] = {}
        self._loop: asyncio.AbstractEventLoop = kept_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(min(MOST_HELPERS, limits.slots), "boilerd-helper"))
        self._contexts = FreshContext()
        self._surroundings = Surroundings()
        self._threads = Threads(self._run_plain, self._on_stray, self._tell_end)
        self._watch = LoopWatch(
            self._loop, scoreboard, row,
            running=self.running, blocked_after_s=limits.blocked_after_s, on_beat=self._on_beat,
        )  # fmt: skip
        self._escalation = Escalation(
            self.running, self._watch, loop=self._loop, scoreboard=scoreboard, row=row, cancel=self._cancel
        )
        self._wakeups: Wakeups | None = None

    # --- The main thread

    def run(self) -> None:
        """Run the loop until `close`, whatever the application does to it; in the main thread."""
        self._wakeups = Wakeups(self._wake)
        install_handler(signal.SIGALRM, self._on_strike)
        leave_to_parent(self._leave_loop)
        while not self._is_closed:
            self._loop.call_soon(self._wakeups.keep)
            try:
                self._loop.run_forever()
                why = "somebody called its stop()"
            except BaseException as error:  # noqa: BLE001 - sys.exit() in an asyncio task must not end the worker
                why = describe(error)
            if os.getpid() != self._pid:
                end_child()
            self._wakeups.keep()
            if not self._is_closed:
                logger.warning("event loop was left by a task, going on", extra={"error": why})
        self._watch.end()

    def drain_leftovers(self, limit_s: float) -> None:
        """Cancel the asyncio tasks that handlers have left on the loop, and wait for their end; after `run`."""
        end_leftovers(self._loop, limit_s, [attempt.place for attempt in self.running if attempt.is_stuck])

    # --- The keeper

    def close(self) -> None:
        """Have `run` return; what is held never begins, as nobody would take its outcome."""
        self._is_closed = True
        self.drop_held()
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def stuck(self) -> int:
        """Number of attempts that go on although they were interrupted several times."""
        return self._escalation.stuck

    @property
    def is_blocked(self) -> bool:
        """True while something keeps the loop from getting on: what is given to it would wait."""
        return self._watch.is_blocked

    def begin(self, attempts: Sequence[SlotAttempt]) -> None:
        """Begin these attempts now."""
        self._is_untidy = True
        on_loop, now_s = [], time.monotonic()
        for attempt in attempts:
            self._add(attempt, now_s)
            if attempt.is_on_loop:
                on_loop.append(attempt)
            else:
                self._threads.start(attempt)
        if not self._looks_late:
            self._looks_late = True
            self._loop.call_soon_threadsafe(self._look_late)
        if on_loop:
            self._watch.expect()
            self._loop.call_soon_threadsafe(self._begin_on_loop, on_loop)

    def hold(self, attempts: Iterable[SlotAttempt]) -> None:
        """Have each of these begin in the thread that ends another; all are plain."""
        self._is_untidy, now_s = True, time.monotonic()
        for attempt in attempts:
            self._add(attempt, now_s)
            attempt.mark = self._held_marks.add(attempt.claim.execution_id)
            self._threads.held[attempt] = None
        self.trust_held(now_s)

    def trust_held(self, now_s: float) -> None:
        """Let threads begin what is held for a while, as nothing of it was held too long at this time."""
        self._begins_held_until_s = now_s + TRUST_S

    @property
    def held(self) -> int:
        """How many of those in `running` are held."""
        return len(self._threads.held)

    def begin_held(self, count: int) -> None:
        """Begin so many of them, as no thread will."""
        for attempt in list(self._threads.held)[:count]:
            if self._threads.take_back(attempt):
                self._threads.start(attempt)

    def held_since_s(self) -> float:
        """Since when the first of them is held, on the monotonic clock; infinity: none is."""
        return min((attempt.since_s for attempt in list(self._threads.held)), default=math.inf)

    def drop_held(self) -> list[SlotAttempt]:
        """Take all of them away, but for those that begin now; they are as if they had never been there."""
        dropped = [attempt for attempt in list(self._threads.held) if self._threads.take_back(attempt)]
        for attempt in dropped:
            self.forget(attempt)
        return dropped

    def _add(self, attempt: SlotAttempt, now_s: float) -> None:
        if self._is_debugging:
            attempt.ends_s = attempt.due_s = math.inf
        self.running[attempt] = None
        attempt.since_s = now_s
        if attempt.ends_s <= now_s:
            attempt.reason = attempt.reason or attempt.limit
        attempt.is_on_loop = self.is_for_loop(attempt)
        self._escalation.add(attempt)

    def is_for_loop(self, attempt: SlotAttempt) -> bool:
        """True if its handler runs on the loop."""
        return self._rules.is_async(attempt.task.type)

    def interrupt(self, attempts: Iterable[SlotAttempt], error: TaskInterrupt) -> None:
        """Have these attempts end with `error`; the end of a drain replaces no other reason."""
        for attempt in attempts:
            self._escalation.interrupt(attempt, error)

    def look(self) -> float:
        """Interrupt the attempts whose limits are over, see to those that do not end; seconds until the next look.

        Call it in an outage, too, and not later than it says.
        """
        self._looked_s = now_s = time.monotonic()
        self._watch.look()
        if not self.running:
            if self._is_untidy:
                self._is_untidy = False
                self._loop.call_soon_threadsafe(self._tidy)
            return math.inf
        if now_s >= self._escalation.due_s or self._watch.is_blocked:
            self._threads.look()
            self._escalation.look()
        longest_s = BEAT_S if self._watch.is_busy else LOOK_S
        return min(longest_s, max(0.0, self._escalation.due_s - now_s))

    def nudge(self, signals: bytes = b"\0") -> None:
        """Let Python and the loop handle these signals, whose numbers came through the keeper's wakeup fd."""
        if self._wakeups:
            self._wakeups.hand_on(signals)

    def forget(self, attempt: SlotAttempt) -> bool:
        """Take an attempt out that has ended; False: it was taken out before, and its outcome has been seen to."""
        if attempt not in self.running:
            return False
        del self.running[attempt]
        self._escalation.remove(attempt)
        return True

    # --- On the loop

    def _wake(self) -> None:
        self._loop.call_soon_threadsafe(_nothing)

    def _begin_on_loop(self, attempts: Sequence[SlotAttempt]) -> None:
        self._watch.enter(len(attempts))
        for attempt in attempts:
            # Not the loop's own way, where an application may have put a factory of its own.
            attempt.place = asyncio.Task(
                self._run_async(attempt), loop=self._loop, name=attempt.task.id, context=self._contexts.copy()
            )

    async def _run_async(self, attempt: SlotAttempt) -> None:
        try:
            try:
                self._enter(attempt)
                result = await self._rules.arun(attempt.task)
            finally:
                if os.getpid() != self._pid:
                    end_child()
                attempt.is_running = False
            outcome: Outcome = Completed(result)
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a handler must not end the worker
            attempt.is_running = False
            outcome = _outcome_of(attempt, error)
        self._watch.leave()
        self._end(attempt, outcome)

    def _cancel(self, attempt: SlotAttempt) -> None:
        """Cancel its task; one that has not begun would not even come to see it, and looks itself."""
        attempt.is_told = True
        if attempt.is_running and isinstance(attempt.place, asyncio.Task):
            attempt.place.cancel(str(attempt.reason))

    def _on_beat(self) -> None:
        """What handlers may have done to the process's signals."""
        if os.getpid() != self._pid:
            end_child()
        reinstall_handlers()
        if self._wakeups:
            self._wakeups.keep()
        self._end_lost()

    def _look_late(self) -> None:
        """Look for limits where the keeper does not, as it waits for a broker that hangs; while any attempt runs."""
        if os.getpid() != self._pid:
            end_child()
        self._looks_late = False  # before the look at what runs: see `begin`
        if self.running:
            self._looks_late = True
            if time.monotonic() - self._looked_s > LATE_LOOK_S:
                self._escalation.look()
            self._loop.call_later(BEAT_S, self._look_late)

    def _end_lost(self) -> None:
        """End the attempts that somebody cancelled before they had begun: their code never ran."""
        for attempt in list(self.running):
            if isinstance(attempt.place, asyncio.Task) and attempt.place.done() and attempt.outcome is None:
                self._watch.leave()
                self._end(attempt, _outcome_of(attempt, asyncio.CancelledError("cancelled before it began")))

    def _tidy(self) -> None:
        """Put back what handlers changed of the process, while none runs."""
        if not self.running and os.getpid() == self._pid:
            reinstall_handlers()
            self._surroundings.put_back()

    def _leave_loop(self) -> None:
        """In a child that was forked on the loop: when its code has come to the end, it must not run what others left.

        uvloop shows no way to what is ready to run; there the child ends behind it.
        """
        ready = getattr(self._loop, "_ready", None)
        if isinstance(ready, collections.deque):
            ready.clear()
        self._loop.call_soon(end_child)

    def _on_strike(self, signum: int, frame: object) -> None:
        """In the main thread, wherever it is: end the code of an attempt that is interrupted.

        The keeper sends this signal when the loop does not come to cancel that attempt. Where the code is
        another's, it does nothing.
        """
        attempt, now_s = RUNNING.get(), time.monotonic()
        if not attempt or not attempt.reason or not attempt.is_running or not asyncio.current_task(self._loop):
            return
        if now_s >= attempt.struck_s + CLEAN_UP_S:  # kept here: whoever was met last says nothing of who is met now
            attempt.struck_s = now_s
            raise struck_with(attempt.reason)

    # --- In threads

    def _run_plain(self, attempt: SlotAttempt) -> bool:
        if attempt.mark is not None:
            self._held_marks.remove(attempt.mark)
        self._contexts.copy().run(self._perform, attempt)
        if attempt.is_stuck:  # another runs in its place already
            return False
        return time.monotonic() < self._begins_held_until_s

    def _perform(self, attempt: SlotAttempt) -> None:
        place = attempt.place = Strikable()
        try:
            try:
                self._enter(attempt)
                ELSEWHERE.set(self._wait_on_loop)
                result = self._call(attempt)
            finally:
                if os.getpid() != self._pid:
                    end_child()
                place.close()
                attempt.is_running = False
            outcome: Outcome = Completed(result)
        except BaseException as error:  # noqa: BLE001 - as above
            place.close()
            attempt.is_running = False
            outcome = _outcome_of(attempt, error)
        self._note_end(attempt, outcome)

    def _call(self, attempt: SlotAttempt) -> Any:
        if not attempt.claim.function or not self._as_job:
            return self._handler(attempt.task)
        with self._as_job(attempt.task.id):
            return self._handler(attempt.task)

    def _wait_on_loop(self, awaitable: Awaitable[Any]) -> Any:
        """Await on the loop what a plain handler returned, or code that it calls."""
        return wait_on_loop(self._loop, self._watch, awaitable)

    def _on_stray(self, attempt: SlotAttempt, error: BaseException) -> None:
        """An exception of nobody knows whom came to the thread between the handler's end and the outcome's."""
        if isinstance(attempt.place, Strikable):
            attempt.place.close()
        self._end(attempt, attempt.outcome or _outcome_of(attempt, error))

    # --- Both

    def _enter(self, attempt: SlotAttempt) -> None:
        RUNNING.set(attempt)
        printed.write_as(attempt)
        CURRENT.set(attempt.task)
        attempt.task.attach(attempt.runtime)
        attempt.is_running = attempt.has_begun = True
        attempt.began_s = time.monotonic()
        attempt.held_s = attempt.began_s - attempt.since_s
        if attempt.held_s > LATE_S:
            self._escalation.put_off(attempt, attempt.held_s)
        if attempt.reason:
            raise struck_with(attempt.reason)

    def _end(self, attempt: SlotAttempt, outcome: Outcome) -> None:
        self._note_end(attempt, outcome)
        self._tell_end(attempt)

    def _tell_end(self, attempt: SlotAttempt) -> None:
        self._on_end(attempt)

    def _note_end(self, attempt: SlotAttempt, outcome: Outcome) -> None:
        if attempt.began_s:
            attempt.ran_s = time.monotonic() - attempt.began_s
        attempt.outcome = outcome
        attempt.place = None


def _outcome_of(attempt: SlotAttempt, error: BaseException) -> Outcome:
    """The outcome of an attempt that raised; what interrupted it is the cause, whatever the handler made of it."""
    # The frames of the runner would hold the attempt, which holds the error.
    frames = error.__traceback__
    while frames and frames.tb_frame.f_globals.get("__name__") == __name__:
        frames = frames.tb_next
    error = error.with_traceback(frames)
    if isinstance(attempt.reason, ShutdownTimeoutError):
        return Released()
    if attempt.reason and isinstance(error, asyncio.CancelledError):
        cause, error = error, struck_with(attempt.reason)()
        error.__cause__ = cause
    return failed(error, attempt.reason)


def _nothing() -> None:
    """Wake the loop."""
