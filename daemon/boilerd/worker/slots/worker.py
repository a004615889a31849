"""The worker with slots: runs many tasks at once in its own process.

All of it that can be is made in the supervisor, before the fork; `SlottedWorker.run` is the part of the forked child.
The main thread enters the lifespans, runs the event loop, and leaves them; a thread, the keeper, does the rest.
"""

import gc
import logging
import math
import os
import resource
import select
import signal
import threading
from contextlib import suppress

import redis
from setproctitle import setproctitle

from boilerd.broker.bell import Bell
from boilerd.broker.broker import Broker
from boilerd.errors import BrokerError
from boilerd.process.exit_status import FAILED, OK
from boilerd.process.forks import leave_to_parent
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import StopRequest, install_handler
from boilerd.process.surroundings import Surroundings
from boilerd.tasks.coroutines import use_loop
from boilerd.tasks.life import NO_LIFE, Life, WorkerContext
from boilerd.tasks.queues import DEFAULT_POOL, ClaimOrder
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT
from boilerd.worker.guarded_life import GuardedLife
from boilerd.worker.kept_outcomes import KeptOutcomes, OwnOutcomes
from boilerd.worker.limits import Limits, SlotLimits
from boilerd.worker.resilient_broker import OutagePause, ResilientBroker
from boilerd.worker.rq_worker import RQWorker
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.ahead import Ahead
from boilerd.worker.slots.closing import Closing
from boilerd.worker.slots.desk import Desk
from boilerd.worker.slots.hand import SlotHand
from boilerd.worker.slots.inbox import Inbox
from boilerd.worker.slots.intake import Intake
from boilerd.worker.slots.judge import Judge
from boilerd.worker.slots.keeper import Keeper
from boilerd.worker.slots.outcomes import Outcomes
from boilerd.worker.slots.runner import SlotRunner
from boilerd.worker.succession import death_of_last, tell_last_words
from boilerd.worker.worker import LEAST_END_S

logger = logging.getLogger("boilerd.worker")

#: Open files that a slot needs: its own connection, and those of the clients that it shares with others.
FILES_PER_SLOT = 4
#: Objects that a task has while it waits, about, as the garbage collector counts them.
OBJECTS_PER_SLOT = 20
#: What handlers have left on the loop has so long to end.
LEFTOVERS_S = 2.0


class SlottedWorker:
    """A worker with several slots, as the supervisor makes it, before the fork.

    Args:
        slot_limits: How many tasks it runs at once, and what they may do.
        parts: Among how many processes the queues are shared, this one included.
        pool: Name of its pool.
        connection, name, title, order, rules, limits, scoreboard, row, address, kept, archive_limit, life: See
            `Worker`.
        surroundings: Not put back after each task, as others run.
    """

    def __init__(
        self,
        connection: redis.Redis,
        *,
        name: str,
        title: str,
        order: ClaimOrder,
        rules: Rules,
        limits: Limits,
        slot_limits: SlotLimits,
        parts: int,
        scoreboard: Scoreboard,
        row: int,
        address: str,
        kept: KeptOutcomes,
        pool: str = DEFAULT_POOL,
        archive_limit: int = DEFAULT_ARCHIVE_LIMIT,
        surroundings: Surroundings | None = None,
        life: Life = NO_LIFE,
    ) -> None:
        self.title = title
        self._connection = connection
        self._name = name
        self._order = order
        self._rules = rules
        self._limits = limits
        self._slot_limits = slot_limits
        self._parts = parts
        self._scoreboard = scoreboard
        self._row = row
        self._parent = os.getpid()
        self._kept = OwnOutcomes(kept, name)
        self._bell = Bell(connection)
        self._broker = Broker(connection, archive_limit=archive_limit)
        self._broker.rider = rules.tally
        self._rq_worker = RQWorker(
            self._broker,
            name=name,
            order=order,
            address=address,
            declared=rules.declared,
            pool=pool,
        )
        self._stop = StopRequest(self._on_stop, listens=False)
        context = WorkerContext(name, row, tuple(order.names), pool, slot_limits.slots)
        self._life = GuardedLife(life, context, limits, self._stop, scoreboard)
        self._is_orderly = True

    def run(self) -> int:
        """In the forked child: work until told to stop, recycled, or without work in a burst; the exit status."""
        use_loop(self._slot_limits.loop)
        self._inbox = Inbox()
        self._inbox.take_signals()
        self._stop.listen()
        install_handler(signal.SIGUSR1, lambda *_: None)  # its number comes to the inbox
        self._scoreboard.tell_stacks(self._row)
        leave_to_parent(self._leave)
        self._raise_file_limit()
        self._collect_seldom()
        status = FAILED
        try:
            status = self._live()
        except BrokerError as error:
            self._is_orderly = False
            logger.warning("stopped while the broker is unavailable", extra={"error": str(error)})
        finally:
            self._rules.refusals.tell(is_last=True)
            status = self._life.leave(status)
        if self._is_orderly:
            with suppress(BrokerError):  # the record ends by itself
                self._broker.send_metrics()
                self._rq_worker.register_death()
        return status

    def time_left_s(self) -> float:
        """Seconds until the daemon kills this worker for not having ended, of a drain with a little to spare."""
        return max(LEAST_END_S, self._limits.drain_s - self._stop.age_s()) if self._stop else math.inf

    def _live(self) -> int:
        """Register, settle what the predecessor held, enter the lifespans, and serve; the exit status."""
        has_died_in_hooks = self._scoreboard.died_in_hooks(self._row)
        pause = OutagePause(
            self._stop, parent=self._parent, drain_s=self._limits.drain_s, has_outcome=lambda: False,
            scoreboard=self._scoreboard, row=self._row,
        )  # fmt: skip
        broker = ResilientBroker(self._broker, pause)
        hand = SlotHand(
            self._broker, name=self._name, parts=self._parts, slots=self._slot_limits.slots, register=self._register,
            tally=self._rules.tally,
        )  # fmt: skip
        broker.together(hand.register)
        if not self._life.has_lifespans:
            self._scoreboard.mark_booted(self._row)
        rules = self._rules.without_hooks() if has_died_in_hooks else self._rules
        broker.together(lambda: self._settle_predecessor(rules))
        if not self._life.enter():
            return OK if self._stop else FAILED
        self._scoreboard.mark_booted(self._row)
        return self._serve(hand)

    def _serve(self, hand: SlotHand) -> int:
        """Run the loop while the keeper works; the exit status."""
        keeper = self._make_keeper(hand)
        keeper.state = self._life.state
        runner = SlotRunner(
            self._rules,
            self._slot_limits,
            self._scoreboard,
            self._row,
            keeper.on_end,
            as_job=self._rq_worker.as_current_job,
        )
        thread = threading.Thread(target=keeper.run, args=(runner,), name="boilerd-keeper", daemon=True)
        thread.start()
        runner.run()
        thread.join()
        runner.drain_leftovers(min(LEFTOVERS_S, self.time_left_s()))
        self._is_orderly = keeper.status != FAILED
        return keeper.status

    def _make_keeper(self, hand: SlotHand) -> Keeper:
        poll = select.poll()
        poll.register(self._inbox.read_fd, select.POLLIN)
        slots, scoreboard, row = self._slot_limits.slots, self._scoreboard, self._row
        ahead = Ahead(slots, is_on=self._slot_limits.claims_ahead)
        intake = Intake(hand, self._bell, poll, order=self._order, slots=slots, ahead=ahead, idle_s=self._limits.idle_s)
        desk = Desk(self._broker, self._name, self._rules)
        return Keeper(
            self._broker,
            self._inbox,
            poll,
            intake=intake,
            ahead=ahead,
            desk=desk,
            outcomes=Outcomes(intake, desk, Judge(self._rules, scoreboard, row, self._inbox.wake)),
            closing=Closing(self._stop.age_s, self._limits, self._slot_limits, scoreboard, row),
            name=self._name,
            title=self.title,
            rules=self._rules,
            limits=self._slot_limits,
            scoreboard=scoreboard,
            row=row,
            kept=self._kept,
            parent=self._parent,
        )

    def _register(self, life: str) -> None:
        self._rq_worker.register_birth(life=life, slots=self._slot_limits.slots)

    def _settle_predecessor(self, rules: Rules) -> None:
        """Settle what the predecessor held when it died; one try, as `WorkLoop` does it."""
        self._kept.write(self._broker)
        died = death_of_last(self._scoreboard, self._row)
        with self._scoreboard.running_hooks(self._row):
            unbegun = self._scoreboard.held_marks(self._row)
            held = rules.settle_dead_slots(self._broker, self._name, died is None, died, unbegun)
            unbegun.clear()
        tell_last_words(self._broker, self._scoreboard, self._row, self._rq_worker, held)
        self._scoreboard.open_batch(self._row, 0, 0)
        self._scoreboard.note_kill(self._row, KillReason.NONE)

    def _on_stop(self) -> None:
        """In the signal handler."""
        self._inbox.wake()
        self._life.on_stop()

    def _leave(self) -> None:
        """In a child that a task forked: leave the connections, which Redis would take for those of a live worker."""
        self._connection.connection_pool.disconnect()
        self._bell.close()
        setproctitle(f"boilerd: {self.title} child")

    def _raise_file_limit(self) -> None:
        """Let it open as many files as it may: each slot has connections of its own."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # where the system has a limit below the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        if soft != resource.RLIM_INFINITY and soft < FILES_PER_SLOT * self._slot_limits.slots:
            logger.warning(
                "few open files for so many slots, raise LimitNOFILE of the service",
                extra={"open_files": soft, "slots": self._slot_limits.slots},
            )

    def _collect_seldom(self) -> None:
        """Search for garbage when there is as much new as what waits in all slots: most of that is none yet.

        Python's own 700 objects are those of thirty tasks. A lifespan may set it otherwise.
        """
        youngest, *others = gc.get_threshold()
        if youngest:  # or the application has turned it off
            gc.set_threshold(max(youngest, OBJECTS_PER_SLOT * self._slot_limits.slots), *others)
