"""The keeper: the thread of a worker with slots that does all that concerns Redis, and never runs a task.

It waits in one `poll` for signals, for attempts that have ended, and for the bell; then it goes its round: takes what
ended, looks after limits, writes outcomes, claims. The loop's thread does nothing but tasks, so a slow broker holds up
none of them, and a task that blocks the loop holds up no lease and no outcome of the others.
"""

import logging
import math
import os
import queue
import random
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from setproctitle import setproctitle

from boilerd.broker.bell import Bell
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure, batch_place
from boilerd.broker.outage import Outage
from boilerd.errors import (
    BrokerError,
    DeadlineInterrupt,
    ShutdownTimeoutError,
    TaskCancelledError,
    TaskInterrupt,
    TaskTimeoutError,
)
from boilerd.process import debugging
from boilerd.process.exit_status import DONE, FAILED, OK, RECYCLED, TIMED_OUT
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.task import NO_STATE, Task
from boilerd.worker.attempt import Completed, Failed, encode_result, failed, too_late
from boilerd.worker.kept_outcomes import OwnOutcomes
from boilerd.worker.limits import Limits, Recycling, SlotLimits
from boilerd.worker.resilient_broker import LONGEST_DRAIN_PAUSE_S
from boilerd.worker.settlement import Rules, record_failure
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.hand import SlotHand
from boilerd.worker.slots.inbox import Inbox, Stopping
from boilerd.worker.slots.judge import Judge
from boilerd.worker.slots.runner import SlotRunner
from boilerd.worker.slots.runtime import SlotRuntime

logger = logging.getLogger("boilerd.worker")

#: Tasks in one claim at most; large claims put the slots in step, and then server and worker idle in turns.
MOST = 64
#: The same while there is more than one call brings.
MOST_OF_MANY = 32
#: So many free slots begin a claim, and so many completions a call; fewer wait for a moment.
ENOUGH_FREE, ENOUGH_DONE = 8, 32
MOMENT_S = 0.002
#: After a claim got several tasks and not all that it asked for, its queue is left to others for so long.
SHARE_S = 0.010
#: How often it looks at the parent, the memory, the quiet mark; and how often a quiet worker looks.
LOOK_S, QUIET_LOOK_S = 1.0, 0.1
#: How often it looks whether a loop gets on again, or has begun what it was given.
BLOCKED_LOOK_S, UNBEGUN_LOOK_S = 0.05, 0.001
#: What the end of a drain interrupts has so long for its `finally` blocks.
GRACE_S = 0.5
#: Claims in one call that gives them back, or asks whether they are wanted.
BACK_AT_ONCE, ASKED_AT_ONCE = 100, 500
#: What is told in passing, in one round: progress, and results so far.
TOLD_AT_ONCE = 100


class Keeper:
    """Claims for a worker with slots, and writes its outcomes; `run` is its thread, all of it runs there.

    Other threads call `on_end`, `wake`, `write_result` and `note_progress`.

    Args:
        broker: Of the process; the keeper's calls follow each other, those of threads take connections of their own.
        bell: Of the queues.
        hand: Claims.
        inbox: What wakes the keeper.
        stop: The main thread's part of a stop.
        name: The worker's.
        title: Its name in `ps`.
        order: Which queues to try for each claim.
        rules: How to run a task, and what to do with one that failed.
        limits: When to end.
        slot_limits: Of the slots.
        scoreboard: Where it notes what the worker does.
        row: The worker's cells there.
        kept: Where outcomes go that cannot be written when it has to stop.
        parent: Process ID of the supervisor.
        as_current_job: See `Host`.

    Attributes:
        status: How the process is to end.
        state: `task.state` of its tasks.
        drain_ends_s: When a drain ends what runs, on the monotonic clock.
    """

    def __init__(
        self,
        broker: Broker,
        bell: Bell,
        hand: SlotHand,
        inbox: Inbox,
        stop: StopRequest,
        *,
        name: str,
        title: str,
        order: ClaimOrder,
        rules: Rules,
        limits: Limits,
        slot_limits: SlotLimits,
        scoreboard: Scoreboard,
        row: int,
        kept: OwnOutcomes,
        parent: int,
        as_current_job: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.as_current_job = as_current_job
        self.state: Mapping[str, Any] = NO_STATE
        self.drain_ends_s = math.inf
        self.status = FAILED
        self._broker = broker
        self._bell = bell
        self._hand = hand
        self._inbox = inbox
        self._stop = stop
        self._stopping = Stopping(stop.age_s, time.monotonic)
        self._name = name
        self._title = title
        self._order = order
        self._rules = rules
        self._limits = limits
        self._slots = slot_limits.slots
        self._slot_limits = slot_limits
        self._scoreboard = scoreboard
        self._row = row
        self._kept = kept
        self._parent = parent
        self._recycling = Recycling(limits)
        self._judge = Judge(rules, scoreboard, row, inbox.wake)
        self._outage = Outage()
        self._retry_at_s = 0.0
        #: What other threads hand over.
        self._ended: queue.SimpleQueue[SlotAttempt] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[tuple[Claim, TaskProgress | bytes]] = queue.SimpleQueue()
        # What is to be written beside the hand's completions.
        self._failures: deque[tuple[Claim, Failure]] = deque()
        self._refused: deque[Claim] = deque()
        self._unstarted: list[Claim] = []
        self._cut: list[Claim] = []
        self._asks_unwanted = False
        # When to claim.
        self._wants = True
        self._has_found_nothing = False
        self._most = MOST
        self._resting: dict[str, float] = {}
        self._due_s = math.inf
        self._last_begun: SlotAttempt | None = None
        self._has_rung = False
        #: Of the attempts that run, those whose tasks were there when workers died, and how often.
        self._suspects: dict[SlotAttempt, int] = {}
        # When to look.
        self._now_s = time.monotonic()
        self._limit_at_s = math.inf
        self._look_at_s = 0.0
        self._shown = ""
        # How it ends.
        self._is_retiring = False
        self._retire_ends_s = math.inf
        self._stuck_since_s = 0.0
        self._cut_at_s: float | None = None
        self._final: int | None = None

    # --- From other threads

    def on_end(self, attempt: SlotAttempt) -> None:
        """Take an attempt that has its outcome; in whatever thread it ended."""
        self._ended.put(attempt)
        self._inbox.wake()

    def write_result(self, attempt: SlotAttempt, result: bytes, *, is_awaited: bool) -> bool:
        """See `Host`."""
        if is_awaited:
            return self._broker.write_result(attempt.claim, result)
        self._told.put((attempt.claim, result))
        self._inbox.wake()
        return True

    def note_progress(self, attempt: SlotAttempt, progress: TaskProgress) -> None:
        """See `Host`."""
        self._told.put((attempt.claim, progress))
        self._inbox.wake()

    # --- The thread

    def run(self, runner: SlotRunner) -> None:
        """Work until the worker is to end; then end the runner's loop."""
        self._runner = runner
        self._poll = select.poll()
        self._poll.register(self._inbox.read_fd, select.POLLIN)
        try:
            while self._go_round():
                self._wait()
            self.status = FAILED if self._final is None else self._final
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        except Exception:  # its threads must not go on without it
            logger.exception("the worker failed, a fault of boilerd's own")
            self._scoreboard.mark_booted(self._row, has_booted=False)
        finally:
            self._bell.close()
            runner.close()

    def _go_round(self) -> bool:
        """Do all that is to be done now; False: it is over."""
        self._now_s = time.monotonic()
        self._note_signals()
        self._take_ended()
        for attempt, failure in self._judge.decided():
            self._failures.append((attempt.claim, failure))
        if self._now_s >= self._limit_at_s:
            self._limit_at_s = self._now_s + self._runner.look()
        if self._now_s >= self._look_at_s:
            self._look_around()
        self._talk()
        self._see_to_end()
        self._scoreboard.note_running(self._row, len(self._runner.running))
        if self._final is None or self._has_unwritten():
            return self._goes_on_without_broker()
        return False

    def _wait(self) -> None:
        """Sleep until something is to be done."""
        until_s = min(self._limit_at_s, self._look_at_s, self._talk_at_s())
        if self._cut_at_s is not None:
            until_s = min(until_s, self._cut_at_s + GRACE_S)
        if self._stopping:
            until_s = min(until_s, self.drain_ends_s)
        for fd, _ in self._poll.poll(max(0.0, until_s - time.monotonic()) * 1000):
            if fd != self._inbox.read_fd:
                self._poll.unregister(fd)
                self._has_rung = True

    def _talk_at_s(self) -> float:
        """When the broker is to be talked to next, if nothing happens before."""
        if self._outage.error:
            return self._retry_at_s
        if self._final is not None:
            return self._now_s
        at_s = self._due_s
        if self._wants and self._free() > 0:
            if self._runner.is_blocked:
                at_s = min(at_s, self._now_s + BLOCKED_LOOK_S)
            elif self._has_unbegun():
                at_s = min(at_s, self._now_s + UNBEGUN_LOOK_S)
            elif self._scoreboard.is_quiet:
                at_s = min(at_s, self._now_s + QUIET_LOOK_S)
            else:
                at_s = min(at_s, *self._resting.values(), math.inf)
        return at_s

    def _note_signals(self) -> None:
        signals = self._inbox.read()
        self._stopping.note(signals)
        if self._stopping and self.drain_ends_s == math.inf:
            self.drain_ends_s = self._now_s + self._limits.drain_s - self._stopping.age_s()
        if signal.SIGUSR1 in signals:
            self._asks_unwanted = True

    def _look_around(self) -> None:
        """Once a second: what tells nobody."""
        self._look_at_s = self._now_s + (QUIET_LOOK_S if self._scoreboard.is_quiet else LOOK_S)
        self._scoreboard.show_life(self._row)
        self._scoreboard.note_stuck(self._row, self._runner.stuck)
        self._rules.refusals.tell()
        if os.getppid() != self._parent and not self._stopping:
            logger.warning("the supervisor is gone, stopping")
            os.kill(os.getpid(), signal.SIGTERM)  # the main thread has its part in it
        if not self._is_retiring and self._recycling.is_due():
            self._retire()
        self._show()

    def _show(self) -> None:
        running = len(self._runner.running)
        doing = "quiet" if self._scoreboard.is_quiet else "waiting"
        doing = f"running {running} of {self._slots}" if running else doing
        if doing != self._shown:
            self._shown = doing
            setproctitle(f"boilerd: {self._title} {doing}")

    # --- Ends of attempts

    def _take_ended(self) -> None:
        while not self._ended.empty():
            attempt = self._ended.get_nowait()
            self._runner.forget(attempt)
            self._suspects.pop(attempt, None)
            if self._final is None:
                self._take_outcome(attempt)

    def _take_outcome(self, attempt: SlotAttempt) -> None:
        failpoint("after-handler")
        claim, outcome, runtime = attempt.claim, attempt.outcome, attempt.runtime
        if isinstance(runtime, SlotRuntime) and runtime.unsent:
            self._told.put((claim, runtime.unsent))  # before the outcome: whoever waits sees it
        if isinstance(outcome, Completed):
            # A result that nobody can look at is not sent.
            result = encode_result(outcome.result, attempt.task) if claim.retention_s else b""
            self._hand.completions.append(Completion(claim, result))
            # If this process died, nobody else would have the result.
            self._due_s = min(self._due_s, self._now_s + (0 if claim.retention_s else MOMENT_S))
        elif isinstance(outcome, Failed):
            self._judge_attempt(attempt, outcome)
        else:
            self._cut.append(claim)

    def _judge_attempt(self, attempt: SlotAttempt, outcome: Failed) -> None:
        failure = self._judge.ask(attempt, outcome)
        if failure:
            self._failures.append((attempt.claim, failure))

    # --- What Redis is told and asked

    def _talk(self) -> None:
        if self._outage.error and self._now_s < self._retry_at_s:
            return
        try:
            has_talked = self._write()
            has_talked |= self._hear_bell()
            has_talked |= self._serve()
            self._tend_bell()
        except BrokerError as error:
            self._note_outage(error)
        else:
            if has_talked and self._outage.error:
                self._outage.end()
                self._scoreboard.mark_waiting(self._row, is_waiting=False)

    def _note_outage(self, error: BrokerError) -> None:
        pause_s = self._outage.next_pause_s(error)
        self._scoreboard.mark_waiting(self._row, is_waiting=True)
        self._wants = True
        if self._stopping:
            pause_s = min(pause_s, LONGEST_DRAIN_PAUSE_S)
            self._kept.keep(self._hand.completions, list(self._failures))
        self._retry_at_s = time.monotonic() + pause_s

    def _write(self) -> bool:
        """Write what is no completion; each is taken out when it is written. True if there was something."""
        has_written = False
        if self._asks_unwanted:
            self._interrupt_unwanted()
            self._asks_unwanted, has_written = False, True
        for _ in range(min(TOLD_AT_ONCE, self._told.qsize())):
            self._tell(*self._told.get_nowait())
            has_written = True
        while self._refused:
            self._rules.archive_unrunnable(self._broker, self._name, self._refused[0])
            self._refused.popleft()
            has_written = True
        while self._failures:
            record_failure(self._broker, self._name, *self._failures[0])
            self._failures.popleft()
            has_written = True
        while back := self._unstarted or (self._cut if self._final is not None else []):
            self._give_back(back)
            has_written = True
        if self._final is not None and self._hand.is_unsure:
            self._hand.settle()
            has_written = True
        return has_written

    def _interrupt_unwanted(self) -> None:
        """End the attempts that are cancelled, or whose lease is lost."""
        attempts = {attempt.claim.execution_id: attempt for attempt in self._runner.running}
        claims = [attempt.claim for attempt in attempts.values()]
        for first in range(0, len(claims), ASKED_AT_ONCE):
            reasons = self._broker.unwanted(self._name, claims[first : first + ASKED_AT_ONCE])
            for execution_id, reason in reasons.items():
                if attempt := attempts.get(execution_id):
                    self._runner.interrupt([attempt], TaskCancelledError(reason))
        self._limit_at_s = self._now_s  # the runner sees to those that do not end

    def _tell(self, claim: Claim, what: TaskProgress | bytes) -> None:
        """Show a progress, or a result so far; what an outage loses, the next one makes good."""
        if isinstance(what, bytes):
            self._broker.write_result(claim, what)
        else:
            self._broker.write_progress(claim, what)

    def _give_back(self, claims: list[Claim]) -> None:
        """Give the last of them back to the heads of their queues, so that in the end the first stand in front."""
        some = claims[-BACK_AT_ONCE:]
        back = set(self._broker.give_back(self._name, some))
        del claims[-BACK_AT_ONCE:]
        for claim in some:
            if claim.task_id in back:
                logger.warning("task released, it will run again", extra=claim.log_fields)

    # --- Claims

    def _free(self) -> int:
        """How many tasks may be claimed; those that are stuck are replaced, up to a number."""
        taken = len(self._runner.running) + len(self._judge)
        return self._slots - taken + min(self._runner.stuck, self._slot_limits.max_stuck)

    def _may_claim(self) -> bool:
        return not (
            self._stopping
            or self._is_retiring
            or self._final is not None
            or self._scoreboard.is_quiet
            or self._runner.is_blocked
            or self._has_unbegun()
        )

    def _has_unbegun(self) -> bool:
        """True while the loop has not come to what was claimed last: more would only wait there."""
        last = self._last_begun
        return last is not None and last.place is None and last.outcome is None

    def _serve(self) -> bool:
        """Acknowledge and claim, if it is time; True if Redis was asked."""
        done, free = len(self._hand.completions), self._free()
        may_claim = free > 0 and self._may_claim()
        queues = self._awake_queues() if may_claim and (self._wants or done) else []
        if not done and not queues:
            self._due_s = math.inf
            return False
        if done < ENOUGH_DONE and self._final is None and not (queues and self._wants and free >= ENOUGH_FREE):
            self._due_s = min(self._due_s, self._now_s + MOMENT_S)
            if self._now_s < self._due_s and free < self._slots:
                return False
        limit = min(free, self._most, self._recycling.left) if queues else 0
        claims = self._hand.serve(queues, limit, [*self._suspects.values()])
        self._due_s = math.inf
        if queues:
            self._note_claims(claims, limit, is_whole=len(queues) == len(self._order.names))
        return True

    def _awake_queues(self) -> Sequence[str]:
        """The queues to claim from, without those that are left to others for a moment."""
        queues = self._order.draw()
        if not self._resting:
            return queues
        self._resting = {name: until_s for name, until_s in self._resting.items() if until_s > self._now_s}
        return [name for name in queues if name not in self._resting]

    def _note_claims(self, claims: Sequence[Claim], limit: int, *, is_whole: bool) -> None:
        """Begin what was claimed, and learn when to claim again."""
        self._has_found_nothing = not claims and is_whole
        self._most = MOST_OF_MANY if claims and len(claims) >= limit else MOST
        if claims:
            self._wants = True
            if 1 < len(claims) < limit:
                self._resting[claims[0].queue] = self._now_s + SHARE_S
            self._begin(claims)
        elif is_whole:
            self._wants = False

    def _begin(self, claims: Sequence[Claim]) -> None:
        self._note_signals()
        if self._stopping:
            self._unstarted += claims
            return
        now_s, attempts = time.monotonic(), []
        for claim in claims:
            task = self._rules.task_of(claim)
            if task is None:
                self._refused.append(claim)
            elif attempt := self._attempt(claim, task, now_s):
                attempts.append(attempt)
        failpoint("before-handler")
        if attempts:
            self._suspects |= {attempt: attempt.claim.deaths for attempt in attempts if attempt.claim.deaths}
            self._runner.begin(attempts)
            self._last_begun = attempts[-1]
            self._limit_at_s = min(self._limit_at_s, *(attempt.ends_s for attempt in attempts))
        self._recycling.tasks += len(claims)
        if self._recycling.is_due(looks_at_memory=False):
            self._retire()

    def _attempt(self, claim: Claim, task: Task, now_s: float) -> SlotAttempt | None:
        """An attempt with its limit; None: its deadline has passed, and it has failed."""
        ends_s, limit = math.inf, None
        if not debugging.is_on():
            ends_s, limit = _limit_of(task, float(claim.started), now_s)
        attempt = SlotAttempt(claim, task, None, ends_s=ends_s, limit=limit)
        attempt.runtime = SlotRuntime(self, attempt)
        if ends_s <= now_s:
            self._judge_attempt(attempt, too_late(ends_s - now_s))
            return None
        return attempt

    # --- The bell

    def _hear_bell(self) -> bool:
        if not self._has_rung:
            return False
        self._has_rung = False
        if not self._bell.is_listening:
            return False
        name = self._bell.hear()
        self._wants = True
        if name is not None and (self._free() <= 0 or not self._may_claim()):
            self._bell.ring_again(name)
        return True

    def _tend_bell(self) -> None:
        """Wait for new tasks only while they could begin: a token belongs to the worker that can take the task."""
        is_wanted = self._free() > 0 and self._may_claim()
        if not is_wanted:
            self._bell.stop()
        elif not self._wants and not self._bell.is_listening:
            self._bell.listen(self._order.names, self._limits.idle_s * (0.5 + random.random()))
            self._poll.register(self._bell.fileno(), select.POLLIN)

    # --- The end

    def _retire(self) -> None:
        self._is_retiring = True
        self._scoreboard.retire(self._row)

    def _see_to_end(self) -> None:
        """Interrupt what runs when a drain is over; decide how the process ends when nothing runs any more."""
        if self._final is not None:
            return
        self._look_at_stuck()
        if self._is_cut_due():
            self._cut_off()
        is_over = self._is_done() or (self._cut_at_s is not None and self._now_s >= self._cut_at_s + GRACE_S)
        if self._stopping and is_over:
            self._end_with(OK if self._cut_at_s is None else TIMED_OUT)
        elif self._is_retiring and is_over:
            self._end_with(RECYCLED)
        elif self._limits.is_burst and self._has_found_nothing and is_over and not self._has_unwritten():
            self._end_with(DONE)

    def _look_at_stuck(self) -> None:
        """Retire when too much is stuck, or for too long."""
        if not self._runner.stuck:
            self._stuck_since_s = self._now_s
        elif (
            self._runner.stuck > self._slot_limits.max_stuck
            or self._now_s - self._stuck_since_s > self._slot_limits.stuck_s
        ) and self._retire_ends_s == math.inf:
            logger.warning("worker retires, because of stuck tasks", extra={"stuck": self._runner.stuck})
            self._retire()
            self._retire_ends_s = self._now_s + self._limits.drain_s

    def _is_done(self) -> bool:
        """True if nothing runs but what is stuck, and all is decided."""
        return len(self._runner.running) == self._runner.stuck and not self._judge and self._ended.empty()

    def _is_cut_due(self) -> bool:
        if self._cut_at_s is not None:
            return False
        is_hurried = self._stopping.is_hurried
        return is_hurried or self._now_s >= min(self.drain_ends_s, self._retire_ends_s)

    def _cut_off(self) -> None:
        self._cut_at_s = self._now_s
        error = ShutdownTimeoutError("the shutdown timeout is over")
        self._runner.interrupt([each for each in self._runner.running if not each.is_stuck], error)
        self._limit_at_s = self._now_s

    def _end_with(self, status: int) -> None:
        """Give back what still runs, oldest first; what is stuck has failed by what it ignored."""
        self._take_ended()
        for attempt in self._runner.running:
            if attempt.is_stuck and attempt.reason and not isinstance(attempt.reason, ShutdownTimeoutError):
                logger.error("task failed", extra={**attempt.task.log_fields, "error": str(attempt.reason)})
                self._judge_attempt(attempt, failed(attempt.reason))
            else:
                self._cut.append(attempt.claim)
        if self._stopping:
            for attempt, failure in self._judge.decide_all():
                self._failures.append((attempt.claim, failure))
        self._cut.sort(key=lambda claim: (float(claim.started), batch_place(claim.execution_id)[1]))
        self._final = status

    def _has_unwritten(self) -> bool:
        lists = self._hand.completions, self._failures, self._refused, self._unstarted, self._cut
        return any(lists) or self._hand.is_unsure or len(self._judge) > 0

    def _goes_on_without_broker(self) -> bool:
        """Raise the error of an outage if the worker is to stop, and cannot or need not wait for its end."""
        if self._outage.error is None or not self._stopping:
            return True
        has_outcome = bool(self._hand.completions or self._failures)
        if self._now_s >= self.drain_ends_s + GRACE_S or (self._is_done() and not has_outcome):
            raise self._outage.error
        return True


def _limit_of(task: Task, started: float, now_s: float) -> tuple[float, TaskInterrupt | None]:
    """When an attempt that was claimed now is to end, on the monotonic clock, and with what."""
    ends_s = math.inf
    limit: TaskInterrupt | None = None
    if task.timeout_s is not None:
        ends_s = now_s + task.timeout_s
        limit = TaskTimeoutError("the attempt took longer than the task's timeout")
    if task.deadline is not None and now_s + (in_s := task.deadline.timestamp() - started) < ends_s:
        ends_s, limit = now_s + in_s, DeadlineInterrupt("the task's deadline has passed")
    return ends_s, limit
