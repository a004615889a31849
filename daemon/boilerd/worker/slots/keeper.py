"""The keeper: the thread of a worker with slots that does all that concerns Redis, and never runs a task.

It waits in one `poll` for signals, for attempts that have ended, and for the bell; then it goes its round: takes what
ended, looks after limits, writes outcomes, claims. The loop's thread does nothing but tasks, so a slow broker holds up
none of them, and a task that blocks the loop holds up no lease and no outcome of the others.
"""

import logging
import math
import os
import queue
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from setproctitle import setproctitle

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.broker.outage import Outage
from boilerd.errors import (
    BrokerError,
    ShutdownTimeoutError,
    TaskCancelledError,
)
from boilerd.process.exit_status import FAILED
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import NO_STATE
from boilerd.worker.attempt import too_late
from boilerd.worker.kept_outcomes import OwnOutcomes
from boilerd.worker.limits import SlotLimits
from boilerd.worker.resilient_broker import LONGEST_DRAIN_PAUSE_S
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.ahead import HOLD_S, Ahead
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.closing import Closing
from boilerd.worker.slots.desk import Desk
from boilerd.worker.slots.hand import StaleLifeError
from boilerd.worker.slots.inbox import Inbox
from boilerd.worker.slots.intake import LONGEST_PACE_S, Intake
from boilerd.worker.slots.loop_watch import BEAT_S
from boilerd.worker.slots.outcomes import Outcomes
from boilerd.worker.slots.runner import SlotRunner
from boilerd.worker.slots.runtime import new_attempt

logger = logging.getLogger("boilerd.worker")

#: How often it looks at the parent, the memory, the quiet mark; and how often a quiet worker looks.
LOOK_S, QUIET_LOOK_S = 1.0, 0.1
#: How often it looks whether a loop gets on again, or has begun what it was given.
BLOCKED_LOOK_S, UNBEGUN_LOOK_S = 0.05, 0.001
#: Claims in one call that asks whether they are wanted.
ASKED_AT_ONCE = 500


class Keeper:
    """Claims for a worker with slots, and writes its outcomes; `run` is its thread, all of it runs there.

    Other threads call `on_end`, `write_result` and `note_progress`.

    Args:
        broker: Of the process; the keeper's calls follow each other, those of threads take connections of their own.
        inbox: What wakes the keeper.
        poll: Its wait.
        intake: Claims and acknowledges.
        ahead: Says how many tasks are held.
        desk: Writes the other outcomes.
        outcomes: Says what becomes of what ended.
        closing: Decides when the worker ends.
        name: The worker's.
        title: Its name in `ps`.
        rules: How to run a task.
        limits: Of the slots.
        scoreboard: Where it notes what the worker does.
        row: The worker's cells there.
        kept: Where outcomes go that cannot be written when it has to stop.
        parent: Process ID of the supervisor.

    Attributes:
        status: How the process is to end.
        state: `task.state` of its tasks.
    """

    def __init__(
        self,
        broker: Broker,
        inbox: Inbox,
        poll: select.poll,
        *,
        intake: Intake,
        ahead: Ahead,
        desk: Desk,
        outcomes: Outcomes,
        closing: Closing,
        name: str,
        title: str,
        rules: Rules,
        limits: SlotLimits,
        scoreboard: Scoreboard,
        row: int,
        kept: OwnOutcomes,
        parent: int,
    ) -> None:
        self.state: Mapping[str, Any] = NO_STATE
        self.status = FAILED
        self._broker = broker
        self._intake = intake
        self._ahead = ahead
        self._desk = desk
        self._outcomes = outcomes
        self._closing = closing
        self._inbox = inbox
        self._poll = poll
        self._name = name
        self._title = title
        self._rules = rules
        self._limits = limits
        self._scoreboard = scoreboard
        self._row = row
        self._kept = kept
        self._parent = parent
        self._ended: queue.SimpleQueue[SlotAttempt] = queue.SimpleQueue()
        #: So many of them end its sleep; infinite while it is awake, and looks itself.
        self._wakes_at = math.inf
        #: Of the attempts that run, those whose tasks were there when workers died, and how often.
        self._suspects: dict[SlotAttempt, int] = {}
        #: On the loop, of the claim that came last.
        self._first_of_last: SlotAttempt | None = None
        self._asks_unwanted = False
        self._outage = Outage()
        # On the monotonic clock: now, and when it does what next.
        self._now_s = time.monotonic()
        self._limit_at_s = self._retry_at_s = math.inf
        self._look_at_s = 0.0
        self._held_until_s = math.inf
        self._shown = ""

    # --- From other threads

    def on_end(self, attempt: SlotAttempt) -> None:
        """Take an attempt that has its outcome; in whatever thread it ended."""
        self._ended.put(attempt)
        if self._ended.qsize() >= self._wakes_at:
            self._inbox.wake()

    @property
    def ends_s(self) -> float:
        """See `Host`."""
        return self._closing.ends_s

    def write_result(self, attempt: SlotAttempt, result: bytes, *, is_awaited: bool) -> bool:
        """See `Host`."""
        if is_awaited:
            return self._desk.show_result(attempt.claim, result)
        self._desk.tell(attempt.claim, result)
        self._inbox.wake()
        return True

    def note_progress(self, attempt: SlotAttempt, progress: TaskProgress) -> None:
        """See `Host`."""
        self._desk.tell(attempt.claim, progress)
        self._inbox.wake()

    # --- The thread

    def run(self, runner: SlotRunner) -> None:
        """Work until the worker is to end; then end the runner's loop."""
        self._runner = runner
        try:
            while self._go_round():
                self._wait()
            self.status = FAILED if self._closing.status is None else self._closing.status
            self._kept.forget()
        except BrokerError as error:
            self._keep_outcomes()
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        except StaleLifeError as error:
            logger.error("worker ends", extra={"error": str(error)})  # noqa: TRY400
        except Exception:  # its threads must not go on without it
            logger.exception("the worker fails, by a fault of boilerd's own")
            self._scoreboard.mark_booted(self._row, has_booted=False)
        finally:
            self._intake.close()
            runner.close()

    def _go_round(self) -> bool:
        """Do all that is to be done now; False: it is over."""
        self._now_s = time.monotonic()
        self._note_signals()
        self._take_ended()
        self._outcomes.collect()
        self._see_to_held()
        if self._now_s >= self._limit_at_s:
            self._limit_at_s = self._now_s + self._runner.look()
        if self._now_s >= self._look_at_s:
            self._look_around()
        self._talk()
        self._scoreboard.note_running(self._row, self._begun)
        self._see_to_end()
        return self._closing.status is None or self._outcomes.has_unwritten()

    def _wait(self) -> None:
        """Sleep until something is to be done."""
        talk_at_s = self._talk_at_s()
        until_s = min(self._limit_at_s, self._look_at_s, self._closing.next_s(), talk_at_s, self._held_until_s)
        wait_s = max(0.0, until_s - time.monotonic())
        # While a call is due in a moment, no end is worth a look for itself, if a held task begins in its place.
        is_soon, held = talk_at_s <= self._now_s + LONGEST_PACE_S, self._runner.held
        self._wakes_at = self._intake.missing(self._free(), self._room_ahead(), held) if is_soon else 1
        if held:
            self._wakes_at = min(self._wakes_at, held + 1)
        # It ended before, and did not wake; or before the first of those that are held was there.
        if self._ended.qsize() >= (1 if held else self._wakes_at):
            wait_s = 0.0
        found = self._poll.poll(wait_s * 1000)
        self._wakes_at = math.inf
        for fd, _ in found:
            if fd != self._inbox.read_fd:
                self._intake.note_ring(fd)

    def _note_signals(self) -> None:
        signals = self._inbox.read()
        if signals:
            self._runner.nudge(signals)
        self._closing.note_signals(signals, self._now_s)
        if signal.SIGUSR1 in signals:
            self._asks_unwanted = True

    def _look_around(self) -> None:
        """Once a second: what tells nobody."""
        self._look_at_s = self._now_s + (QUIET_LOOK_S if self._is_quiet() else LOOK_S)
        self._scoreboard.show_life(self._row)
        self._scoreboard.note_stuck(self._row, self._runner.stuck)
        self._rules.refusals.tell()
        if os.getppid() != self._parent and not self._closing.is_stopping:
            logger.warning("the supervisor is gone, stopping")
            os.kill(os.getpid(), signal.SIGTERM)  # the main thread has its part in it
        self._closing.look(self._now_s, self._runner.stuck)
        self._show()

    def _is_quiet(self) -> bool:
        return self._scoreboard.is_quiet_at(self._row)

    def _show(self) -> None:
        running = self._begun
        doing = "quiet" if self._is_quiet() else "waiting"
        doing = f"running {running} of {self._limits.slots}" if running else doing
        if doing != self._shown:
            self._shown = doing
            setproctitle(f"boilerd: {self._title} {doing}")

    # --- Ends of attempts

    def _take_ended(self) -> None:
        while not self._ended.empty():
            attempt = self._ended.get_nowait()
            is_first = self._runner.forget(attempt)
            self._suspects.pop(attempt, None)
            self._ahead.note(attempt, self._now_s)
            if is_first and self._closing.status is None:  # or it is given back, or settled
                failpoint("after-handler")
                self._outcomes.take(attempt)

    # --- What is held

    def _see_to_held(self) -> None:
        """Begin what no thread will begin; give back what nobody begins soon."""
        self._ahead.look(self._now_s)
        self._held_until_s = math.inf
        if not self._runner.held:
            return
        self._held_until_s = self._runner.held_since_s() + HOLD_S
        if self._now_s >= self._held_until_s or self._closing.is_stopping or self._is_quiet():
            self._give_back(self._runner.drop_held())
            return
        self._runner.trust_held(self._now_s)
        if (idle := self._idle()) > 0:
            self._runner.begin_held(idle)

    def _give_back(self, attempts: Iterable[SlotAttempt]) -> None:
        """Give attempts back that were to be held, uncounted; it was no good time to claim ahead."""
        claims = [attempt.claim for attempt in attempts]
        self._ahead.note_late(self._now_s)
        self._desk.unstarted[:0] = claims  # before those of a call that was on its way
        self._closing.uncount(len(claims))

    # --- What Redis is told and asked

    @property
    def _begun(self) -> int:
        """How many attempts run that are not held. A thread lets go of what it held before it tells what it ended."""
        held = self._runner.held
        return len(self._runner.running) - held

    def _idle(self) -> int:
        """How many slots no task takes; those that are stuck are replaced, up to a number. Below 0: failures wait."""
        taken = self._begun + self._outcomes.undecided - min(self._runner.stuck, self._limits.max_stuck)
        return self._limits.slots - taken

    def _may_claim(self) -> bool:
        return self._closing.may_claim and not self._is_quiet() and not self._runner.is_blocked

    def _room(self) -> int:
        """How many tasks could begin now."""
        return 0 if self._has_unbegun() else self._free()

    def _free(self) -> int:
        """How many tasks there may be more."""
        return max(0, min(self._idle(), self._closing.tasks_left)) if self._may_claim() else 0

    def _room_ahead(self) -> int:
        """How many tasks may be held beside those that could begin now: some if there are many."""
        if not self._ahead.limit or not self._intake.has_more or not self._may_claim():
            return 0
        idle = self._idle()
        room = self._ahead.limit - self._runner.held + min(0, idle)
        return max(0, min(room, self._closing.tasks_left - max(0, idle)))

    def _has_unbegun(self) -> bool:
        """True while the loop has not come to what was claimed last: more would only wait there."""
        first = self._first_of_last
        if first and (first.has_begun or first.outcome):
            first = self._first_of_last = None
        return first is not None

    def _talk_at_s(self) -> float:
        """When the broker is to be talked to next, if nothing happens before."""
        if self._outage.error:
            return self._retry_at_s
        if self._closing.status is not None:
            return self._now_s
        free = self._free()
        due_s = self._intake.due_s(self._now_s, free, self._room_ahead())
        if self._runner.is_blocked:
            return min(self._now_s + BLOCKED_LOOK_S, due_s)
        if free and self._has_unbegun():
            look_s = self._now_s + UNBEGUN_LOOK_S
            return due_s if look_s < due_s < math.inf else look_s
        return due_s

    def _talk(self) -> None:
        if self._outage.error and self._now_s < self._retry_at_s:
            return
        try:
            self._ask_unwanted()
            self._desk.write_told()
            if self._desk.write(is_last=self._closing.status is not None):
                self._intake.look_again()
            self._intake.hear(self._room())
            self._serve()
            self._send_metrics()
            self._forward_due()
            self._intake.tend_bell(self._room())
            if self._outage.error:
                self._broker.now()  # there may have been nothing else to ask
        except BrokerError as error:
            self._note_outage(error)
        else:
            if self._outage.error:
                self._outage.end()
                self._scoreboard.mark_waiting(self._row, is_waiting=False)

    def _note_outage(self, error: BrokerError) -> None:
        """Go on with what runs; try again after a pause, or give up in a drain."""
        self._take_ended()  # the call may have taken its time
        pause_s = self._outage.next_pause_s(error)
        self._scoreboard.mark_waiting(self._row, is_waiting=True)
        self._intake.wants = True
        if self._closing.is_stopping:
            pause_s = min(pause_s, LONGEST_DRAIN_PAUSE_S)
            self._keep_outcomes()
        self._retry_at_s = time.monotonic() + pause_s
        if self._closing.gives_up(is_done=self._is_done(), has_outcome=self._outcomes.has_outcome()):
            raise error

    def _keep_outcomes(self) -> None:
        self._kept.keep(self._intake.hand.completions, [*self._desk.failures])

    def _ask_unwanted(self) -> None:
        """End the attempts that are cancelled, or whose lease is lost, if the scheduler says that there are any."""
        if not self._asks_unwanted:
            return
        attempts = {attempt.claim.execution_id: attempt for attempt in self._runner.running}
        claims = [attempt.claim for attempt in attempts.values()]
        for first in range(0, len(claims), ASKED_AT_ONCE):
            reasons = self._broker.unwanted(self._name, claims[first : first + ASKED_AT_ONCE])
            for execution_id, reason in reasons.items():
                self._runner.interrupt([attempts[execution_id]], TaskCancelledError(reason))
        self._asks_unwanted = False
        self._limit_at_s = self._now_s  # the runner sees to those that do not end

    def _serve(self) -> None:
        """Acknowledge, claim and begin, if it is time."""
        # Though nothing may be claimed now: what a lost answer brought must not wait for that.
        self._intake.hand.settle()
        claims = self._intake.serve(self._now_s, self._room(), [*self._suspects.values()], self._room_ahead())
        if claims:
            self._note_signals()
            if self._closing.is_stopping:
                self._desk.unstarted += claims
            else:
                self._begin(claims)

    def _send_metrics(self) -> None:
        """Send what was counted, where no call has taken it along for a while."""
        if self._rules.tally.is_late() and not self._outage.error:
            self._broker.send_metrics()

    def _forward_due(self) -> None:
        """Before a burst ends, move due tasks to their queues, if the scheduler has not come to it."""
        if self._closing.is_burst and self._has_found_nothing() and self._is_done():
            moved, _ = self._broker.forward(self._intake.queues)
            if moved:
                self._intake.look_again()

    def _begin(self, claims: Sequence[Claim]) -> None:
        now_s, attempts = time.monotonic(), []
        for claim in claims:
            task = self._rules.task_of(claim)
            if task is None:
                self._desk.refused.append(claim)
                continue
            attempt = new_attempt(self, claim, task, now_s)
            if attempt.ends_s > now_s:
                attempts.append(attempt)
            else:  # its deadline has passed
                self._outcomes.fail(attempt, too_late(attempt.ends_s - now_s))
        failpoint("before-handler")
        self._closing.count(len(claims))
        if attempts:
            self._suspects |= {attempt: attempt.claim.deaths for attempt in attempts if attempt.claim.deaths}
            self._limit_at_s = min(self._limit_at_s, now_s + BEAT_S, *(attempt.ends_s for attempt in attempts))
            self._take_ended()  # meanwhile
            idle = max(0, self._idle())
            self._hold(attempts[idle:])
            self._runner.begin(attempts[:idle])
            # A thread begins by itself; to wait for it would keep a small pool's slots empty.
            self._first_of_last = next((attempt for attempt in attempts[:idle] if attempt.is_on_loop), None)
        self._scoreboard.note_claimed(self._row)

    def _hold(self, attempts: Sequence[SlotAttempt]) -> None:
        on_loop = [attempt for attempt in attempts if self._runner.is_for_loop(attempt)]
        if on_loop:
            self._give_back(on_loop)
        if len(attempts) > len(on_loop):
            self._runner.hold(attempt for attempt in attempts if attempt not in on_loop)
            self._held_until_s = min(self._held_until_s, time.monotonic() + HOLD_S)

    # --- The end

    def _see_to_end(self) -> None:
        """Interrupt what runs when a drain is over; decide how the process ends when nothing runs any more."""
        if self._closing.status is not None:
            return
        self._take_ended()  # while Redis was asked: it has its outcome, and is not cut off
        if self._closing.cuts_now(self._now_s):
            error = ShutdownTimeoutError("the shutdown timeout is over")
            self._runner.interrupt([each for each in self._runner.running if not each.is_stuck], error)
            self._limit_at_s = self._now_s
        if self._closing.decide(self._now_s, is_done=self._is_done(), has_found_nothing=self._has_found_nothing()):
            self._outcomes.settle(self._runner.running, is_hurried=self._closing.is_stopping)

    def _has_found_nothing(self) -> bool:
        """True if no task waits, and all outcomes are written."""
        return self._intake.has_found_nothing and not self._outcomes.has_unwritten()

    def _is_done(self) -> bool:
        """True if nothing runs but what is stuck, and all is decided."""
        return len(self._runner.running) == self._runner.stuck and not self._outcomes.undecided and self._ended.empty()
