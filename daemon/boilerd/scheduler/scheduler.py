"""The scheduler: the process that performs a host's duties towards all tasks.

* Heartbeater: renews the leases of the host's live workers, and kills those whose task ignores its timeout.
* Slot watch: kills a worker with several slots whose task ignores its timeout, and tells of a loop that is blocked.
* Forwarder: moves due tasks to their queues. It sleeps until the next one is due, and is
  woken when one is scheduled that is due before it looks by itself.
* Recoverer: ends the claims of workers that are gone, on whatever host.
* Janitor: deletes what outlived its retention, and forgets queues that hold nothing.
* Periodic tasks: enqueues them at their ticks.
* Roller: rolls up metrics.
* Pauses' watch: resumes what was paused until a moment that has come.
* Archive's watch: tells how many tasks the limit of an archive has cost.
* Limit keeper: sets the settings' limits again where they are gone.
* Reclaimer: gives back the tasks that wait behind a slow one.
* Publisher: tells Redis what this daemon is.
* Subscriber: passes RQ's stop-job command on to the worker that runs the job.

Any number of hosts can have one for the same Redis: each step is one script there.
"""

import functools
import logging
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

import msgspec
from setproctitle import setproctitle

from boilerd.broker import append_file
from boilerd.broker.broker import Broker
from boilerd.broker.constants import CHUNK, FORWARD_EVERY_S
from boilerd.broker.outage import OutageRetry
from boilerd.errors import BrokerError, BrokerRefusedError, BrokerUnavailableError
from boilerd.process.exit_status import OK
from boilerd.process.identity import is_alive, send
from boilerd.process.scoreboard import SCHEDULER_ROW, VALKEY_ROW, Scoreboard
from boilerd.process.signals import ENDS_BROKER, StopRequest
from boilerd.scheduler.archive_watch import ArchiveWatch
from boilerd.scheduler.heartbeat import Heartbeater
from boilerd.scheduler.limits import LimitKeeper
from boilerd.scheduler.pause_watch import PauseWatch
from boilerd.scheduler.periodic import Periodic
from boilerd.scheduler.publisher import Publisher, TellsFacts
from boilerd.scheduler.reclaimer import Reclaimer
from boilerd.scheduler.recovery import Recoverer
from boilerd.scheduler.roller import Roller
from boilerd.scheduler.subscriber import Subscriber
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.settlement import Rules

logger = logging.getLogger("boilerd.scheduler")

#: A duty that Redis refused is tried again after so long.
REFUSED_PAUSE_S = 3.0
#: Retention is a matter of hours and days.
CLEAN_EVERY_S = 10.0
#: The number of waiting tasks in the status is at most so old.
COUNT_EVERY_S = 2.0
#: Queues that hold nothing are looked for so often; and the next of very many after so long.
TIDY_EVERY_S, TIDY_PAUSE_S = 60.0, 0.5
#: Due tasks of a burst of retries are forwarded together; adds so much to a delay at most.
FORWARD_PAUSE_S = 0.01

#: An orphan looks so often whether the embedded broker, whose disk is full, could write what was accepted.
UNWRITTEN_PAUSE_S = 0.2
#: Redis looks ten times a second (its ``hz``) for blocked clients whose time is over, so the last
#: bit before something is due is slept here.
BLOCKED_LATE_S = 0.1


class Scheduler:
    """Performs the duties until told to stop.

    Args:
        broker: Of this process alone.
        scoreboard: Tells which workers live.
        worker_names: RQ's name of the worker in each row, in order.
        queues: Queues whose waiting tasks it counts for the daemon's status. Its duties are towards these, and
            all others that hold tasks of boilerd's.
        rules: Decide about the attempts of workers that are gone.
        periodic: The periodic tasks.
        limits: Those of the settings.
        kept: The outcomes that workers could not write before they had to stop.
        facts: What Redis is told of the daemon; None: nothing.
        blocked_after_s: Of a row, after how long a blocked loop is told of.
        child_of: Of a row, what log lines call its worker.
        parent: Process ID of the supervisor.
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
        limits: Mapping[str, int],
        kept: KeptOutcomes,
        facts: TellsFacts | None = None,
        blocked_after_s: Callable[[int], float] = lambda _: 1.0,
        child_of: Callable[[int], str] = "worker:{}".format,
        parent: int | None = None,
    ) -> None:
        self._parent = parent or os.getppid()
        # First: a supervisor that is killed has the kernel send a TERM.
        self._stop = StopRequest(accepts=self._may_end)
        self._broker = broker
        broker.rider = rules.tally
        self._queues = queues
        self._scoreboard = scoreboard
        self._worker_names = worker_names
        self._periodic = periodic
        self._rules = rules
        self._recoverer = Recoverer(
            broker, scoreboard=scoreboard, worker_names=worker_names, queues=queues, rules=rules, kept=kept,
            child_of=child_of,
        )  # fmt: skip
        self._heartbeater = Heartbeater(broker, scoreboard, worker_names, self._recoverer.start_grace, child_of)
        self._subscriber = Subscriber(broker.connection, worker_names, scoreboard)
        self._reclaimer = Reclaimer(broker, scoreboard, worker_names, child_of)
        self._outage_retry = OutageRetry(self._pause, awaits=BrokerUnavailableError)
        self._tidy_cursor = "0"
        self._forwarder = Duty("forward", self._forward)
        self._duties = [
            Duty("heartbeat", self._heartbeater.beat),
            *(self._slotted_duties(blocked_after_s, child_of) if self._heartbeater.has_slotted() else ()),
            self._forwarder,
            Duty("recover", self._recoverer.recover),
            Duty("clean", self._clean),  # the janitor
            Duty("tidy", self._tidy),
            Duty("count", self._count),
            Duty("archive", ArchiveWatch(broker, queues).look),
            Duty("roll", Roller(broker).roll),
            Duty("pauses", PauseWatch(broker).look),
        ]
        if periodic:
            self._duties += Duty("tick", self._tick), Duty("run", functools.partial(periodic.run_wanted, broker))
        self._publisher = Publisher(broker, scoreboard, len(worker_names), facts) if facts else None
        if self._publisher:
            self._duties.append(Duty("publish", self._publisher.publish))
        if limits:
            self._duties.append(Duty("limits", LimitKeeper(broker, limits).keep))

    def serve(self) -> int:
        """Perform the duties until told to stop; the exit status."""
        setproctitle("boilerd: scheduler")
        self._subscriber.start()
        self._reclaimer.start()
        with ExitStack() as ending:  # each of them, whatever fails
            ending.callback(self._see_off_orphans)
            ending.callback(self._rules.refusals.tell, is_last=True)
            ending.callback(self._subscriber.stop)
            try:
                self._perform_duties()
                self._end_duties()
            except BrokerError as error:
                logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        return OK

    def _slotted_duties(self, blocked_after_s: Callable[[int], float], child_of: Callable[[int], str]) -> list["Duty"]:
        """Those towards workers with several slots."""
        from boilerd.scheduler.slot_watch import SlotWatch  # noqa: PLC0415 - only where a pool has slots

        watch = SlotWatch(self._scoreboard, len(self._worker_names), blocked_after_s, child_of)
        return [Duty("renew", self._heartbeater.slotted.beat), Duty("watch", watch.look)]

    def _perform_duties(self) -> None:
        while not self._stop and not self._is_orphaned():
            self._wait(min(duty.due_s for duty in self._duties) - time.monotonic())
            self._perform_due()

    def _end_duties(self) -> None:
        self._recoverer.release_killed()
        self._broker.send_metrics()
        if self._publisher:
            self._publisher.withdraw()

    def _perform_due(self) -> None:
        for duty in self._duties:
            if time.monotonic() >= duty.due_s and not self._stop:
                duty.due_s = time.monotonic() + self._perform(duty)
        self._rules.refusals.tell()
        self._scoreboard.is_broker_away = any(duty.is_refused or duty.is_failing for duty in self._duties)

    def _perform(self, duty: "Duty") -> float:
        """Do it, through an outage if there is one; seconds until it is due again.

        A refusal of Redis, and any other error, is logged, and keeps the scheduler from no other duty.
        """
        self._scoreboard.show_life(SCHEDULER_ROW)
        try:
            due_in_s = self._outage_retry.call(duty.perform)
        except BrokerRefusedError as error:
            if not duty.is_refused:
                logger.error("broker refused, trying again", extra={"duty": duty.name, "error": str(error)})  # noqa: TRY400
            duty.is_refused = True
            return REFUSED_PAUSE_S
        except BrokerError:
            raise
        except Exception:
            # Whatever it came upon, it will come upon again: without this the scheduler ends, and its successor too.
            if not duty.is_failing:
                logger.exception("duty failed, trying again", extra={"duty": duty.name})
            duty.is_failing = True
            return REFUSED_PAUSE_S
        if duty.is_refused:
            logger.info("broker accepts again", extra={"duty": duty.name})
        if duty.is_failing:
            logger.info("duty succeeds again", extra={"duty": duty.name})
        duty.is_refused = duty.is_failing = False
        return due_in_s

    # --- Small duties; each returns in how many seconds it is due again

    def _forward(self) -> float:
        moved, left_s = self._broker.forward(self._queues)
        if moved >= CHUNK:
            return 0.0
        return FORWARD_EVERY_S if left_s is None else min(max(left_s, FORWARD_PAUSE_S), FORWARD_EVERY_S)

    def _clean(self) -> float:
        return 0.0 if self._broker.clean(self._queues) >= CHUNK else CLEAN_EVERY_S

    def _tidy(self) -> float:
        """Keep what the other duties cost from growing with queues that hold nothing any more."""
        self._tidy_cursor = self._broker.forget_idle_queues(self._tidy_cursor)
        return TIDY_EVERY_S if self._tidy_cursor == "0" else TIDY_PAUSE_S

    def _count(self) -> float:
        self._scoreboard.pending = self._broker.count_pending(self._queues)
        return COUNT_EVERY_S

    def _tick(self) -> float:
        return self._periodic.enqueue_due(self._broker)

    # --- Between the duties

    def _wait(self, seconds: float) -> None:
        """Sleep until a duty is due, a task is scheduled that is due soon, or a TERM comes."""
        if seconds <= 0:
            return
        if seconds <= BLOCKED_LATE_S:
            self._stop.pause(seconds)
            return
        try:
            was_heard = self._stop.interruptibly(lambda: self._outage_retry.call(lambda: self._await_alarm(seconds)))
        except BrokerRefusedError:  # the duties log it
            self._stop.pause(min(seconds, REFUSED_PAUSE_S))
            return
        if not was_heard:
            self._subscriber.stop()
            self._broker.connection.connection_pool.disconnect()

    def _await_alarm(self, seconds: float) -> None:
        """Sleep, but at most 2 s: where the kernel does not tell that the parent ended, the loop has to look."""
        if self._broker.wait_for_alarm(min(max(seconds - BLOCKED_LATE_S, 0.01), 2.0)):
            self._forwarder.due_s = time.monotonic()

    def _pause(self, seconds: float) -> bool:
        """Sleep in an outage; False when told to stop."""
        self._scoreboard.show_life(SCHEDULER_ROW)
        self._scoreboard.is_broker_away = True
        self._stop.pause(seconds)
        return not self._stop and not self._is_orphaned()

    def _may_end(self) -> bool:
        """True if a TERM is the supervisor's, or tells that it is gone: the workers need this process to their end.

        The kernel sends it a moment before `getppid` tells, where threads of the supervisor live on; the loop looks.
        """
        return self._scoreboard.is_dismissed(SCHEDULER_ROW) or self._is_orphaned()

    def _is_orphaned(self) -> bool:
        return os.getppid() != self._parent

    def _see_off_orphans(self) -> None:
        """Where the supervisor was killed: wait for the workers, then end the embedded broker.

        That outlives the supervisor for the workers' last outcomes.
        """
        if not self._is_orphaned():
            return
        try:
            self._heartbeater.keep_leases_of_orphans()
            self._end_duties()
        except BrokerError as error:
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        finally:
            self._end_valkey()

    def _end_valkey(self) -> None:
        """End the embedded broker when it has written all."""
        if not (pid := self._scoreboard.pid(VALKEY_ROW)):
            return
        with suppress(BrokerError):  # it is gone, or hangs
            # Only asked, not closed: a new daemon may have replaced it behind its socket.
            while is_alive(pid) and append_file.unwritten_bytes(self._broker.connection):
                select.select([], [], [], UNWRITTEN_PAUSE_S)
        send(pid, ENDS_BROKER)


class Duty(msgspec.Struct):
    """Something that the scheduler does again and again.

    Attributes:
        name: How log lines call it.
        perform: Does it; returns in how many seconds it is due again.
        due_s: When it is due, on the monotonic clock.
        is_refused: True if Redis refused it the last time.
        is_failing: True if it ended in another error the last time.
    """

    name: str
    perform: Callable[[], float]
    due_s: float = 0.0
    is_refused: bool = False
    is_failing: bool = False
