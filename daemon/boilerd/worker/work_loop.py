"""A worker's loop in the forked child: claim, run, settle, until it is to end; the lifespans around it.

It is its own, because RQ's loses a task when it is killed between taking it off the queue and registering it.
"""

import logging
import os
import random
import time
from contextlib import nullcontext, suppress
from dataclasses import replace

from setproctitle import setproctitle

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.errors import BrokerError
from boilerd.process.contexts import FreshContext
from boilerd.process.exit_status import DONE, FAILED, OK, RECYCLED, TIMED_OUT
from boilerd.process.failpoints import failpoint
from boilerd.process.logs import put_back
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.queues import ClaimOrder
from boilerd.tasks.task import Task
from boilerd.worker.attempt import AttemptRunner, Completed, Failed, Outcome, Released, encode_result
from boilerd.worker.guarded_life import GuardedLife
from boilerd.worker.hand import Hand
from boilerd.worker.kept_outcomes import KeptOutcomes, OwnOutcomes
from boilerd.worker.limits import Limits, Recycling
from boilerd.worker.prefetch import SLOW_S, Prefetch
from boilerd.worker.resilient_broker import OutagePause, ResilientBroker
from boilerd.worker.rq_worker import RQWorker
from boilerd.worker.runtime import AttemptRuntime
from boilerd.worker.settlement import Rules, record_failure
from boilerd.worker.succession import death_of_last, look_for_parent, tell_last_words
from boilerd.worker.tally import SEND_EVERY_S

logger = logging.getLogger("boilerd.worker")

#: How often a quiet worker looks whether it is resumed.
QUIET_POLL_S = 0.1
_NO_JOB = nullcontext()


class WorkLoop:
    """Takes tasks, runs them and settles their outcomes; made in the supervisor, works in the child.

    Args:
        broker: Of the child alone.
        rq_worker: The entry in RQ's registry.
        runner: Runs the attempts; listens to its signals when the work begins.
        stop: Ends the work; listens by then, too.
        life: Entered before the first claim, and left when the last outcome is written.
        title, order, rules, limits, prefetch, scoreboard, row, kept: See `Worker`.
    """

    def __init__(
        self,
        broker: Broker,
        rq_worker: RQWorker,
        runner: AttemptRunner,
        stop: StopRequest,
        *,
        title: str,
        order: ClaimOrder,
        rules: Rules,
        limits: Limits,
        prefetch: Prefetch,
        scoreboard: Scoreboard,
        row: int,
        kept: KeptOutcomes,
        life: GuardedLife,
    ) -> None:
        self._life = life
        self._rq_worker = rq_worker
        self._name = rq_worker.name
        self._runner = runner
        self._stop = stop
        self._title = title
        self._rules = rules
        self._tally = broker.rider = rules.tally
        self._limits = limits
        self._prefetch = prefetch
        self._scoreboard = scoreboard
        self._row = row
        self._parent = os.getpid()
        self._queues = order.names
        self._recycling = Recycling(limits)
        #: True while an outcome that is no completion waits to be written; what failed, if it is a failure.
        self._is_settling = False
        #: How long the last attempt ran, and how long its claim had lain here before.
        self._ran_s = self._held_s = 0.0
        self._failed: tuple[Claim, Failure] | None = None
        self._kept = OwnOutcomes(kept, self._name)
        self._has_settled_predecessor = False
        pause = OutagePause(
            stop,
            parent=self._parent,
            drain_s=limits.drain_s,
            has_outcome=lambda: self._is_settling or bool(self._hand.completions),
            scoreboard=scoreboard,
            row=row,
            keep=self._keep_outcomes,
        )
        self._broker = ResilientBroker(broker, pause)
        self._hand = Hand(
            self._broker,
            name=self._name,
            order=order,
            prefetch=prefetch,
            scoreboard=scoreboard,
            row=row,
            stop=stop,
            register=rq_worker.register_birth,
            tally=rules.tally,
        )

    def work(self) -> int:
        """Register, settle what the predecessor held, live; the exit status."""
        status = FAILED
        try:
            status = self._live()
        except BrokerError as error:
            self._keep_outcomes()
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        finally:
            self._rules.refusals.tell(is_last=True)
            status = self._life.leave(status)
        return status

    def _live(self) -> int:
        """Enter the lifespans, serve, and leave RQ's registry; the exit status."""
        # At once: the scheduler takes the mark of a predecessor for that of this process.
        has_died_in_hooks = self._scoreboard.died_in_hooks(self._row)
        self._broker.together(self._rq_worker.register_birth)
        if not self._life.has_lifespans:
            self._scoreboard.mark_booted(self._row)
        rules = self._rules.without_hooks() if has_died_in_hooks else self._rules
        self._broker.together(lambda: self._settle_predecessor(rules))
        if self._life.enter():
            if self._life.has_lifespans:
                self._runner.keep_surroundings()
            # From now on its end does not count as a failed start.
            self._scoreboard.mark_booted(self._row)
            status = self._serve()
        else:
            status = OK if self._stop else FAILED
        self._hand.give_back()
        self._hand.acknowledge()
        self._kept.forget()
        with suppress(BrokerError):
            self._broker.once.send_metrics()
        self._broker.together(self._rq_worker.register_death)
        return status

    def _serve(self) -> int:
        self._context = FreshContext()
        self._show("waiting")
        while not self._stop:
            claim = self._hand.take()
            if claim is not None:
                self._send_metrics()
                if not self._context.run(self._perform, claim):
                    return TIMED_OUT
                if self._recycling.is_due():
                    return RECYCLED
            elif self._scoreboard.is_quiet_at(self._row):
                self._rules.refusals.tell(is_last=True)
                self._keep_quiet()
            elif self._limits.is_burst:
                if not self._forward_due():
                    return DONE
            else:
                self._rules.refusals.tell()
                self._scoreboard.show_life(self._row)
                self._hand.wait(self._limits.idle_s * (0.5 + random.random()))
            look_for_parent(self._parent, self._stop)
        return OK

    def _send_metrics(self) -> None:
        """Send what was counted of a long task before the next, which may be as long: no call takes it along then."""
        if self._ran_s >= SEND_EVERY_S and self._tally.is_due():
            with suppress(BrokerError):
                self._broker.once.send_metrics()

    def _forward_due(self) -> bool:
        """Move due tasks to their queues, if the scheduler has not come to it; whether there were any."""
        moved, _ = self._broker.together(lambda: self._broker.once.forward(self._queues))
        return moved > 0

    def _keep_quiet(self) -> None:
        """Claim nothing until resumed."""
        self._hand.give_back()
        self._hand.rest()
        with suppress(BrokerError):
            self._broker.once.send_metrics()  # nothing is called for a long time, perhaps
        self._show("quiet")
        while self._scoreboard.is_quiet_at(self._row) and not self._stop:
            self._stop.pause(QUIET_POLL_S)
            self._scoreboard.show_life(self._row)
            look_for_parent(self._parent, self._stop)
        self._show("waiting")

    def _perform(self, claim: Claim) -> bool:
        """Run the task and settle its outcome; False when the end of a drain interrupted it."""
        task = self._rules.task_of(claim)
        if task is None:
            self._is_settling = True
            self._rules.archive_unrunnable(self._broker, self._name, claim)
            self._is_settling = False
            self._hand.finish()
            return True
        outcome = self._attempt(claim, task)
        if isinstance(outcome, Completed):
            # A result that nobody can look at is not sent.
            result = encode_result(outcome.result, task) if claim.retention_s else b""
            self._hand.complete(Completion(claim, result, self._ran_s, self._held_s))
            return True
        self._is_settling = True
        if isinstance(outcome, Failed):
            self._settle(claim, task, outcome)
        else:
            self._release(claim)
        self._is_settling = False
        return not isinstance(outcome, Released)

    def _attempt(self, claim: Claim, task: Task) -> Outcome:
        self._show(f"running {task.type} {task.id}")
        deadline_in_s = task.deadline.timestamp() - float(claim.started) if task.deadline else None
        failpoint("before-handler")
        runtime = AttemptRuntime(self._broker.once, claim, self._runner, self._life.state)
        began_s = time.monotonic()
        self._held_s = began_s - self._hand.claimed_s
        with self._rq_worker.as_current_job(claim.task_id) if claim.function else _NO_JOB:
            outcome = self._runner.run(
                task,
                runtime,
                deadline_in_s=deadline_in_s,
                alert_in_s=SLOW_S if self._hand.claims or self._hand.completions else None,
            )
        self._ran_s = time.monotonic() - began_s
        self._prefetch.note(self._ran_s)
        if runtime.unsent:
            runtime.send_progress()  # before the outcome: whoever waits sees it
        failpoint("after-handler")
        self._scoreboard.mark_busy(self._row, is_busy=False)  # where a signal came in between
        if not self._hand.claims:
            self._show("waiting")
        self._recycling.tasks += 1
        return outcome

    def _settle(self, claim: Claim, task: Task, outcome: Failed) -> None:
        """Decide once, however often the failure must be sent: deciding calls the application's hooks."""
        with self._scoreboard.running_hooks(self._row):
            decided = self._rules.decide_failure(task, outcome.error, outcome.traceback)
            failure = replace(decided, run_s=self._ran_s, held_s=self._held_s)
        self._runner.put_back()
        put_back()
        self._failed = claim, failure
        with self._rules.folded(failure):
            record_failure(self._broker, self._name, claim, failure, tally=self._tally)
        self._failed = None
        self._hand.finish()

    def _release(self, claim: Claim) -> None:
        if self._broker.release(self._name, [claim.execution_id]):
            self._tally.count(claim, "put_back")
            logger.warning("task released, it will run again", extra=claim.log_fields)

    def _settle_predecessor(self, rules: Rules) -> None:
        """Settle what the predecessor held when it died, by what the scoreboard tells; one try.

        The hooks are asked again in another try: the mark that they run must not last through a pause.
        """
        self._kept.write(self._broker.once)
        died = death_of_last(self._scoreboard, self._row)
        with self._scoreboard.running_hooks(self._row):
            held = rules.settle_dead_worker(self._broker.once, self._name, self._scoreboard.batch(self._row), died)
        tell_last_words(self._broker.once, self._scoreboard, self._row, self._rq_worker, held)
        self._scoreboard.open_batch(self._row, 0, 0)
        self._scoreboard.note_kill(self._row, KillReason.NONE)
        self._has_settled_predecessor = True

    def _keep_outcomes(self) -> None:
        """Keep what could not be written, in a drain: a kill, or the end of the drain, may come before the broker."""
        if not self._has_settled_predecessor:
            return  # the claims are not this process's
        failures = [self._failed] if self._failed else []
        self._kept.keep(self._hand.completions, failures)

    def _show(self, doing: str) -> None:
        setproctitle(f"boilerd: {self._title} {doing}")
