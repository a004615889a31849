"""The scheduler: the process that runs a host's duties towards all tasks.

* Heartbeater: extends the leases of the host's live workers, and their presence in RQ's
  registry. Attempts past their timeout, although SIGALRM should have ended them, sit in code
  that never returns to Python: their workers are killed.
* Forwarder: moves due tasks to their queues. It sleeps until the next one is due, and is
  woken when one is scheduled that is due before it looks by itself.
* Recoverer: counts attempts whose lease ran out, on whatever host, as failed ones.
* Janitor: deletes what outlived its retention.
* Periodic tasks: enqueues them at their ticks.
* Reclaimer: gives back the tasks that wait behind a slow one.
* Subscriber: passes RQ's stop-job command on to the worker that runs the job.

Any number of hosts run it against one Redis: each step is one script there.
"""

import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from setproctitle import setproctitle

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, batch_place
from boilerd.broker.constants import CHUNK, FORWARD_EVERY_S
from boilerd.broker.outage import LONGEST_PAUSE_S, OutageRetry
from boilerd.errors import BrokerError, BrokerRefusedError, BrokerUnavailableError, LeaseExpiredError, WorkerDiedError
from boilerd.process.exit_status import OK, STOPPED_BY_DAEMON
from boilerd.process.identity import is_alive, is_dead, is_stopped, send
from boilerd.process.logs import log_context
from boilerd.process.scoreboard import SCHEDULER_SLOT, VALKEY_SLOT, Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.scheduler.periodic import Periodic
from boilerd.scheduler.reclaimer import Reclaimer
from boilerd.scheduler.subscriber import Subscriber
from boilerd.worker.settlement import HOOK_LIMIT_S, Rules

logger = logging.getLogger("boilerd.scheduler")

#: A lease lasts 30 s, so it survives five missed heartbeats.
HEARTBEAT_S = 5.0
#: The worker's own SIGALRM comes first; this long after the limit it is killed.
KILL_AFTER_S = 5.0
#: One that asks the application's hooks, which end by themselves in half the time.
KILL_IN_HOOKS_AFTER_S = 4 * HOOK_LIMIT_S
#: After an outage, or a step of Redis's clock, schedulers have so long to renew leases before they count as lost.
GRACE_S = HEARTBEAT_S + LONGEST_PAUSE_S
#: After so long the other duties have their turn, although tasks of dead workers are left.
LONGEST_STEP_S = 1.0
#: How soon a duty is tried again that Redis refused.
REFUSED_PAUSE_S = 3.0
#: Retention is a matter of hours and days.
CLEAN_EVERY_S = 10.0
#: How old the number of waiting tasks in the status may be.
COUNT_EVERY_S = 2.0
#: Due tasks of a burst of retries are forwarded together; adds so much to a delay at most.
FORWARD_PAUSE_S = 0.01

#: Redis looks ten times a second (its ``hz``) for blocked clients whose time is over, so the last
#: bit before something is due is slept here.
BLOCKED_LATE_S = 0.1


class Scheduler:
    """Runs the duties until told to stop.

    Args:
        broker: Of this process alone.
        scoreboard: Tells which workers live.
        worker_names: RQ's name of the worker in each slot, in order.
        queues: Those whose waiting tasks it counts for the daemon's status. Its duties are towards these, and
            all others that tasks of boilerd's were ever in.
        rules: What becomes of tasks whose worker is gone.
        periodic: The periodic tasks.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        scoreboard: Scoreboard,
        worker_names: list[str],
        queues: Sequence[str],
        rules: Rules,
        periodic: Periodic,
    ) -> None:
        self._broker = broker
        self._queues = queues
        self._scoreboard = scoreboard
        self._worker_names = worker_names
        self._rules = rules.without_hooks() if scoreboard.died_in_hooks(SCHEDULER_SLOT) else rules
        self._beat_s = self._steady_since_s = self._lead_s = -math.inf
        self._periodic = periodic
        self._subscriber = Subscriber(broker.connection, worker_names, scoreboard)
        self._reclaimer = Reclaimer(broker, scoreboard, worker_names)
        self._stop = StopRequest()
        self._outage_retry = OutageRetry(self._pause, awaits=BrokerUnavailableError)
        self._parent = os.getppid()
        self._forwarding = Duty("forward", self._forward)
        self._duties = [
            Duty("heartbeat", self._heartbeat),
            self._forwarding,
            Duty("recover", self._recover),
            Duty("clean", self._clean),
            Duty("count", self._count),
        ]
        if periodic:
            self._duties.append(Duty("tick", self._tick))

    def run(self) -> int:
        """Work until told to stop; the exit status."""
        setproctitle("boilerd: scheduler")
        self._subscriber.start()
        self._reclaimer.start()
        try:
            while not self._stop:
                due_s = min(duty.due_s for duty in self._duties)
                self._wait(due_s - time.monotonic())
                for duty in self._duties:
                    if time.monotonic() >= duty.due_s and not self._stop:
                        duty.due_s = time.monotonic() + self._do(duty)
                self._scoreboard.is_broker_away = any(duty.is_refused for duty in self._duties)
                if os.getppid() != self._parent:
                    break
            if os.getppid() != self._parent:
                self._outlive_workers()
            self._release_leftovers()
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        finally:
            self._subscriber.stop()
        self._end_orphaned_broker()
        return OK

    def _do(self, duty: "Duty") -> float:
        """In how many seconds it is due again. What Redis refuses to one must not keep the others from theirs."""
        try:
            due_in_s = self._outage_retry.call(duty.run)
        except BrokerRefusedError as error:
            if not duty.is_refused:
                logger.error("broker refused, trying again", extra={"duty": duty.name, "error": str(error)})  # noqa: TRY400
            duty.is_refused = True
            return REFUSED_PAUSE_S
        if duty.is_refused:
            logger.info("broker accepts again", extra={"duty": duty.name})
        duty.is_refused = False
        return due_in_s

    def _heartbeat(self) -> float:
        # One that was stopped does nothing: its lease runs out, and another takes the task over.
        slots = [slot for slot in self._live_slots() if not is_stopped(self._scoreboard.pid(slot))]
        names = {self._worker_names[slot]: slot for slot in slots}
        due_s = HEARTBEAT_S
        late, unwanted = self._broker.extend(list(names))
        now_s = time.monotonic()
        if now_s - self._beat_s > 2 * HEARTBEAT_S:
            self._steady_since_s = now_s
        self._beat_s = now_s
        self._scoreboard.beat()
        for worker in unwanted:
            # Told again: the command may have been sent while nobody listened.
            if pid := self._scoreboard.pid(names[worker]):
                send(pid, signal.SIGUSR1)
        for overdue in late:
            slot = names[overdue.worker]
            batch = self._scoreboard.batch(slot)
            if not batch.is_running or batch_place(overdue.execution_id) != (batch.number, batch.finished):
                continue  # another of its batch, which has ended or not begun
            if not self._scoreboard.is_busy(slot) and self._scoreboard.in_hooks_s(slot) < KILL_IN_HOOKS_AFTER_S:
                continue  # it has ended, and its outcome is not written yet; or its worker has, and the next settles it
            left_s = KILL_AFTER_S - overdue.late_s
            if left_s <= 0:
                self._kill(slot, overdue.task_id, overdue.late_s)
            due_s = min(due_s, max(left_s, 0.1))
        return due_s

    def _forward(self) -> float:
        moved, left_s = self._broker.forward(self._queues)
        if moved >= CHUNK:
            return 0.0
        return FORWARD_EVERY_S if left_s is None else min(max(left_s, FORWARD_PAUSE_S), FORWARD_EVERY_S)

    def _recover(self) -> float:
        began_s = time.monotonic()
        self._settle_cut()
        with self._scoreboard.running_hooks(SCHEDULER_SLOT):
            for _ in self._recorded():
                if time.monotonic() - began_s > LONGEST_STEP_S:
                    return 0.0
        grace_s = self._steady_since_s + GRACE_S - began_s
        return min(grace_s, HEARTBEAT_S) if grace_s > 0 else HEARTBEAT_S

    def _settle_cut(self) -> None:
        """Put back what workers left that the daemon had cut, and that have no successor: those of a smaller pool."""
        for slot, name in enumerate(self._worker_names):
            if not self._scoreboard.pid(slot) and self._scoreboard.last_exit(slot) == STOPPED_BY_DAEMON:
                self._rules.settle_dead(self._broker, name, self._scoreboard.batch(slot), None)

    def _recorded(self) -> Iterator[Claim]:
        """Settle what dead and lost workers held, claim by claim."""
        yield from self._recorded_dead()
        yield from self._recorded_lost()

    def _recorded_dead(self) -> Iterator[Claim]:
        """Of daemons that died on this machine; a living supervisor sees to its own."""
        for name, (worker, supervisor) in self._broker.registered().items():
            if is_dead(worker) and is_dead(supervisor):
                for claim in self._broker.held(name):
                    error = WorkerDiedError("worker died together with its daemon")
                    self._rules.record_lost_attempt(self._broker, name, claim, error, is_doubtful=not claim.is_alone)
                    yield claim
                self._broker.forget_worker(name)

    def _recorded_lost(self) -> Iterator[Claim]:
        """Of whatever host: leases that ended, although they could have been renewed."""
        self._look_for_step()
        if time.monotonic() - self._steady_since_s < GRACE_S:
            return  # the broker may have been away, and its other daemons not be back yet
        for worker, claim in self._broker.expired(self._queues):
            error = LeaseExpiredError(f"lease expired: worker {worker or 'unknown'} is gone or cut off")
            self._rules.record_lost_attempt(
                self._broker, worker, claim, error, is_taken=True, is_doubtful=not claim.is_alone
            )
            yield claim

    def _look_for_step(self) -> None:
        """Where Redis's clock was put forward, as it is when its host was suspended, leases ended before their time."""
        lead_s = self._broker.now() - time.monotonic()
        if lead_s - self._lead_s > HEARTBEAT_S:
            self._steady_since_s = time.monotonic()
        self._lead_s = lead_s

    def _clean(self) -> float:
        return 0.0 if self._broker.clean(self._queues) >= CHUNK else CLEAN_EVERY_S

    def _count(self) -> float:
        self._scoreboard.pending = self._broker.count_pending(self._queues)
        return COUNT_EVERY_S

    def _tick(self) -> float:
        return self._periodic.enqueue_due(self._broker)

    def _wait(self, seconds: float) -> None:
        """Sleep until something is due, a task is scheduled that is due soon, or a TERM comes."""
        if seconds <= 0:
            return
        if seconds <= BLOCKED_LATE_S:
            self._stop.pause(seconds)
            return
        try:
            was_heard = self._stop.interruptibly(lambda: self._outage_retry.call(lambda: self._listen(seconds)))
        except BrokerRefusedError:  # the duties say so as well
            self._stop.pause(min(seconds, REFUSED_PAUSE_S))
            return
        if not was_heard:
            self._subscriber.stop()
            self._broker.connection.connection_pool.disconnect()

    def _listen(self, seconds: float) -> None:
        # Not much longer, to see whether the parent is still there where the kernel does not tell.
        if self._broker.wait_for_alarm(min(max(seconds - BLOCKED_LATE_S, 0.01), 2.0)):
            self._forwarding.due_s = time.monotonic()

    def _kill(self, slot: int, task_id: str, late_s: float) -> None:
        pid = self._scoreboard.pid(slot)
        if pid:
            with log_context(task_id=task_id):
                fields = {"child": f"worker:{slot}", "late_s": round(late_s, 3)}
                logger.error("worker killed, its task ignores the timeout", extra=fields)
            send(pid, signal.SIGKILL)

    def _outlive_workers(self) -> None:
        """The supervisor was killed, the workers drain: keep their leases until they have ended."""
        logger.warning("the supervisor is gone, waiting for the workers to end")
        next_s = time.monotonic()
        while any(is_alive(self._scoreboard.pid(slot)) for slot in self._live_slots()):
            if time.monotonic() >= next_s:
                self._broker.extend([self._worker_names[slot] for slot in self._live_slots()])
                next_s = time.monotonic() + HEARTBEAT_S
            select.select([], [], [], 0.05)

    def _release_leftovers(self) -> None:
        """Put back what killed workers held: in a drain all of them have ended before this process is told to."""
        for slot, name in enumerate(self._worker_names):
            if not is_alive(self._scoreboard.pid(slot)):
                for task_id in self._broker.release(name):
                    fields = {"task_id": task_id, "child": f"worker:{slot}"}
                    logger.warning("task released, it will run again", extra=fields)

    def _end_orphaned_broker(self) -> None:
        """The embedded broker outlives a killed supervisor for the workers' last outcomes."""
        if os.getppid() != self._parent and (pid := self._scoreboard.pid(VALKEY_SLOT)):
            send(pid, signal.SIGTERM)

    def _live_slots(self) -> set[int]:
        return {slot for slot in self._scoreboard.live() if slot < len(self._worker_names)}

    def _pause(self, seconds: float) -> bool:
        """Sleep; False when told to stop."""
        self._scoreboard.is_broker_away = True
        self._stop.pause(seconds)
        return not self._stop


@dataclass(slots=True)
class Duty:
    """Something to do again and again; `run` answers in how many seconds."""

    name: str
    run: Callable[[], float]
    due_s: float = 0.0
    is_refused: bool = False
