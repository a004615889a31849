"""Periodic tasks: enqueue each at its ticks, once on however many hosts."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from boilerd.broker.broker import Broker
from boilerd.broker.job_hash import NewTask
from boilerd.client import Client
from boilerd.errors import BoilerdError, BrokerError, BrokerRefusedError, TaskIdConflictError
from boilerd.tasks.cron import CronEntry, check_unique_names
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import TaskState
from boilerd.worker.settlement import hook_limit

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor

logger = logging.getLogger("boilerd.periodic")

#: A tick that is older when it is noticed was missed: no scheduler ran, or the broker was away.
LATE_S = 10.0
#: The longest sleep, so that a change of Redis's clock is noticed.
LONGEST_SLEEP_S = 60.0
#: How often it looks whether somebody wants one to run now.
LOOK_EVERY_S = 5.0
#: After so long the scheduler's other duties have their turn: client middleware is the application's, and may be slow.
LONGEST_STEP_S = 1.0


class Periodic:
    """The cron entries of the settings and the mux.

    Redis remembers the last tick of each entry, and since when it has its schedule: the host that moves the tick on
    takes it, and stores the task in the same step. All moments are Redis's.

    Args:
        entries: All of them.
        mux: Its client middleware goes around each enqueue, and may enqueue tasks of its types.

    Attributes:
        entries: As they were given.

    Raises:
        ConfigError: Two entries have one name.
    """

    def __init__(self, entries: Sequence[CronEntry], mux: ServeMux | None = None) -> None:
        self.entries = entries
        self._mux = mux or ServeMux()
        self._last: dict[str, float] = {}
        check_unique_names(entries)

    def __bool__(self) -> bool:
        """True if there is an entry."""
        return bool(self.entries)

    def enqueue_due(self, broker: Broker) -> float:
        """Enqueue the tasks of all entries that are due; seconds until the next tick.

        Raises:
            BrokerRefusedError: Redis refused the task of an entry; all other entries had their turn.
        """
        began_s, now_s = time.monotonic(), broker.now()
        if not self._last:
            self._last = broker.ticks_since({entry.name: f"{entry.timezone} {entry.spec}" for entry in self.entries})
        refusal: BrokerRefusedError | None = None
        for entry in self.entries:
            # A tick in the future was taken while Redis's clock was ahead; the script knows whether to take it again.
            last_s = self._last[entry.name] = min(self._last[entry.name], now_s)
            tick_s = entry.schedule.latest_at_or_before(now_s, last_s)
            if tick_s is None:
                continue
            try:
                self._take(broker, entry, tick_s, now_s)
            except BrokerRefusedError as error:  # the other entries may be enqueued
                refusal = error
            if self._mux.client_middleware and time.monotonic() - began_s > LONGEST_STEP_S:
                return 0.0
        if refusal:
            raise refusal
        next_s = min(entry.schedule.next_after(now_s) for entry in self.entries)
        return min(max(next_s - broker.now(), 0.0), LONGEST_SLEEP_S)

    def run_wanted(self, broker: Broker) -> float:
        """Enqueue the tasks of entries that somebody wants to run now; seconds until it shall look again."""
        wanted = broker.take_wanted([entry.name for entry in self.entries])
        for entry in self.entries:
            if entry.name in wanted:
                self._run(broker, entry)
        return LOOK_EVERY_S

    def _run(self, broker: Broker, entry: CronEntry) -> None:
        """Enqueue the task of an entry beside its ticks."""
        try:
            with hook_limit():
                info = Client(broker.connection, mux=self._mux).enqueue_message(entry.message, **entry.options)
        except Exception as error:  # noqa: BLE001 - the ticks go on
            told = str(error) if isinstance(error, BoilerdError) else type(error).__name__
            logger.error("periodic task was not enqueued", extra={"cron": entry.name, "error": told})  # noqa: TRY400
        else:
            logger.info("periodic task was run by hand", extra={"cron": entry.name, "task_id": info.id})

    def _take(self, broker: Broker, entry: CronEntry, tick_s: float, now_s: float) -> None:
        """Enqueue the task of a tick, unless it is too late or another host has done so."""
        is_late = now_s - tick_s > LATE_S and not entry.catch_up
        before = entry.schedule.missed(self._last[entry.name], now_s)
        missed = before + is_late
        if is_late:
            why = f"noticed {now_s - tick_s:.0f} s late, and catch_up is off"
            is_ours, refusal = broker.tick(entry.name, tick_s, None, missed=before, why=why)
        else:
            is_ours, refusal = self._store(broker, entry, tick_s, before)
        self._last[entry.name] = tick_s
        if refusal:
            logger.error("periodic task was not enqueued", extra={"cron": entry.name, "error": str(refusal)})
        if is_ours and missed:
            fields = {"cron": entry.name, "missed": missed, "caught_up": not is_late}
            logger.warning("periodic task missed its time", extra=fields)

    def _store(self, broker: Broker, entry: CronEntry, tick_s: float, missed: int) -> tuple[bool, BoilerdError | None]:
        """Enqueue the task of a tick inside the client middleware; answers as `Broker.tick`.

        Where the middleware keeps the task out, or raises, or takes 5 s, the tick is passed over: it would do so again.

        Raises:
            BrokerError: The broker did not answer, or refused; one of the middleware's own is an error like any other.
        """
        if not self._mux.client_middleware:
            return broker.tick(entry.name, tick_s, new_task(entry, tick_s), missed=missed)
        store, refusal = _TickStore(broker, entry.name, tick_s, missed), None
        why = "client middleware kept its task out"
        client = Client(broker.connection, mux=self._mux, store=store)
        try:
            with hook_limit():
                client.enqueue_message(entry.message, task_id=entry.tick_id(tick_s), **entry.options)
        except BoilerdError as error:
            refusal, why = error, str(error)
        except BaseException as error:  # sys.exit() in it must not end the process
            why = f"client middleware raised {type(error).__name__}"
            logger.exception("client middleware raised", extra={"cron": entry.name})
        if store.failure is not None:
            raise store.failure
        if store.is_ours is None:
            store.is_ours, _ = broker.tick(entry.name, tick_s, None, missed=missed, why=why)
        return store.is_ours, refusal if store.is_ours else None


class _TickStore:
    """Takes the tasks that a tick enqueues: the first one with the tick, others that middleware has added after it.

    Attributes:
        is_ours: Whether the tick was ours, or another host had it; None: nothing was enqueued.
        failure: Why the broker took nothing the last time; None: it did.
    """

    def __init__(self, broker: Broker, name: str, tick_s: float, missed: int) -> None:
        self._broker = broker
        self._name = name
        self._tick_s = tick_s
        self._missed = missed
        self.is_ours: bool | None = None
        self.failure: BrokerError | None = None

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        self.failure = None
        try:
            return [self._store(task) for task in tasks]
        except BrokerError as error:
            self.failure = error
            raise

    def cancel(self, task_id: str, by: "Actor | None" = None) -> str:
        return self._broker.cancel(task_id, by)

    def _store(self, task: NewTask) -> TaskState | BoilerdError:
        if self.is_ours:
            return self._broker.enqueue([task])[0]
        self.is_ours, refusal = self._broker.tick(self._name, self._tick_s, task, missed=self._missed)
        if not self.is_ours:
            return TaskIdConflictError(task.id)
        options = task.options
        return refusal or (TaskState.SCHEDULED if options.process_in_s or options.process_at else TaskState.PENDING)


def new_task(entry: CronEntry, tick_s: float) -> NewTask:
    """Make the task of a tick."""
    options = task_options(task_id=entry.tick_id(tick_s), **entry.options)
    return NewTask(entry.tick_id(tick_s), entry.task_type, encode_payload(entry.payload), options)
