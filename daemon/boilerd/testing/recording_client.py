"""A Client without a broker, which runs what it recorded."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypeVar

from boilerd.broker.connection import connect
from boilerd.client import Client
from boilerd.enqueuing.stores import OVERRIDES
from boilerd.settings.definitions import Settings
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.task import TaskState
from boilerd.testing.drain import Drain, Runner, async_attempts, attempts
from boilerd.testing.expectations import Seen, epoch, seconds
from boilerd.testing.memory_broker import Job, MemoryBroker
from boilerd.testing.records import Attempt, RecordedTask, moment

#: Up to when a drain runs: what is due now, up to a moment, for a span, or until no task waits.
Until = datetime | timedelta | float | Literal["end"] | None
AnyClient = TypeVar("AnyClient", bound=Client)


class RecordingClient(Client, Seen):
    """A Client that keeps its tasks in this process, for tests to look at and to run.

    A taken task ID and a held unique lock refuse a task as they do in Redis. A queue is never full.
    Its clock stands still; only `travel` and `drain` move it.

    Args:
        mux: Runs the tasks, and payloads are checked against the types that its handlers declared.
        max_payload: Bytes of JSON that a payload may have; a larger one is refused.
        inherit_headers: As `Client` has them.
        settings: Whose ``[retry]``, ``[queues]`` and ``[[cron]]`` count; without them the defaults.
        now: Where its clock stands at first; without it, at this moment.

    Attributes:
        connection: None.
    """

    def __init__(
        self,
        *,
        mux: ServeMux | None = None,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        inherit_headers: Sequence[str] = (),
        settings: Settings | None = None,
        now: datetime | None = None,
    ) -> None:
        self._mux = mux
        self._settings = settings or Settings()
        broker = MemoryBroker(epoch(now or datetime.now(UTC)))
        self._since_s = time.monotonic()
        Seen.__init__(self, broker, broker.waiting, self._tolerance_s, mux)
        no_connection: Any = None
        Client.__init__(
            self, no_connection, mux=mux, max_payload=max_payload, inherit_headers=inherit_headers, store=broker
        )

    @classmethod
    def from_url(
        cls, url: str, *, mux: ServeMux | None = None, inherit_headers: Sequence[str] = (), **options: Any
    ) -> Self:
        """As `Client.from_url`, but nothing is at the URL; raises ConfigError where that does."""
        connect(url, **options).close()
        return cls(mux=mux, inherit_headers=inherit_headers)

    @classmethod
    def from_settings(cls, settings: Settings | None = None, *, mux: ServeMux | None = None) -> Self:
        """As `Client.from_settings`; without settings, the defaults are used."""
        settings = settings or Settings()
        return cls(
            mux=mux, max_payload=settings.max_payload, inherit_headers=settings.inherit_headers, settings=settings
        )

    # What was enqueued, beside what `Seen` says of it.

    @property
    def completed(self) -> list[RecordedTask]:
        """Those that completed and are kept, for as long as their ``retention``, with their results."""
        return self._in_state(TaskState.COMPLETED)

    @property
    def archived(self) -> list[RecordedTask]:
        """Those that failed for good."""
        return self._in_state(TaskState.ARCHIVED)

    @contextmanager
    def capture(self) -> Iterator[Seen]:
        """See only what is enqueued in the block, whatever becomes of it there; it has the same assertions."""
        jobs: list[Job] = []
        self._broker.watchers.append(jobs.append)
        try:
            yield Seen(self._broker, lambda: jobs, self._tolerance_s, self._mux)
        finally:
            self._broker.watchers.remove(jobs.append)

    # The clock.

    @property
    def now(self) -> datetime:
        """Where the clock stands."""
        return moment(self._broker.now_s)

    def travel(self, span: timedelta | float) -> None:
        """Put the clock forward, by a timedelta or seconds; nothing runs."""
        self._broker.move_to(self._broker.now_s + seconds(span))

    def due(self, start: datetime, end: datetime) -> list[tuple[datetime, CronEntry]]:
        """The periodic tasks from `start` on and before `end`, each with its moment in UTC."""
        found: list[tuple[float, CronEntry]] = []
        for entry in self._crons():
            tick_s = epoch(start) - 1  # whole seconds are searched
            while (tick_s := entry.schedule.next_after(tick_s)) < epoch(end):
                found += [(tick_s, entry)] if tick_s >= epoch(start) else []
        return [(moment(tick_s), entry) for tick_s, entry in sorted(found, key=lambda pair: pair[0])]

    # Run it.

    def drain(
        self,
        *,
        until: Until = None,
        queues: Sequence[str] | None = None,
        cron: bool = False,
        raise_errors: bool = True,
        limit: int = 1000,
    ) -> list[Attempt]:
        """Run the tasks that are due, and those that they enqueue, in this thread and without waiting.

        Retries, hooks, middleware, locks, deadlines and results are those of a worker; but no timeout interrupts.
        The lifespans of the mux are entered before the first attempt of each drain, and left after the last one.

        Args:
            until: Without it, what is due now. A datetime, a timedelta or seconds: the clock goes on to each moment at
                which a task or a retry is due, up to that one. ``"end"``: until no task waits.
            queues: Only tasks of these, in this order; without it all, the queue of the greatest weight first.
            cron: True to run the periodic tasks of that time as well.
            raise_errors: False to go on where a task is archived; else its last error is raised.
            limit: So many attempts are run at most.

        Returns:
            The attempts, in the order in which they ran.

        Raises:
            Exception: A task is archived because of it; or a hook raised it.
            AssertionError: The limit was reached, and there is more to run.
        """
        drain = self._drain(until, queues, limit, self._crons() if cron else ())
        runner = self._runner(self._the_mux("drain"))
        # In a copy, so that what lifespans set in ContextVars is not set in the test.
        return copy_context().run(lambda: list(attempts(drain, runner, raise_errors=raise_errors)))

    async def adrain(
        self,
        *,
        until: Until = None,
        queues: Sequence[str] | None = None,
        cron: bool = False,
        raise_errors: bool = True,
        limit: int = 1000,
    ) -> list[Attempt]:
        """The same in an async test: ``async def`` handlers run on its loop.

        Any other handler runs in this thread, and keeps the loop waiting. The middleware of an ``async def`` handler
        runs in another thread.
        """
        drain = self._drain(until, queues, limit, self._crons() if cron else ())
        runner = self._runner(self._the_mux("adrain"))
        return await asyncio.create_task(async_attempts(drain, runner, raise_errors=raise_errors))

    def run_all(self, handler: Handler | None = None) -> Iterator[Any]:
        """Run all tasks, also those that are due later, their retries and what they enqueue; yields what they return.

        The short form of ``drain(until="end")``, with all queues alike. They run while one iterates:
        ``list(client.run_all())``.

        Args:
            handler: Runs them in place of the client's mux.
        """
        runner = self._runner(handler or self._the_mux("run_all"))
        drain = Drain(broker=self._broker, enqueue_tick=self._enqueue_tick, until_s=math.inf)
        for attempt in attempts(drain, runner, raise_errors=True):
            if attempt.state is TaskState.COMPLETED:
                yield attempt.result

    def close(self) -> None:
        """Do nothing: no connection is open."""

    def _drain(self, until: Until, queues: Sequence[str] | None, limit: int, crons: Sequence[CronEntry]) -> Drain:
        if isinstance(queues, str):
            raise TypeError(f"queues={queues!r} is a text; give a list, as in queues=[{queues!r}]")
        return Drain(
            broker=self._broker, enqueue_tick=self._enqueue_tick, until_s=self._until_s(until), queues=queues,
            limit=limit, crons=crons, weights=self._settings.served_queues(),
        )  # fmt: skip

    def _until_s(self, until: Until) -> float:
        if until == "end":
            return math.inf
        if isinstance(until, datetime):
            return epoch(until)
        return self._broker.now_s + (0.0 if until is None else seconds(until))

    def _enqueue_tick(self, entry: CronEntry, tick_s: float) -> None:
        scheduler = Client(self.connection, mux=self._mux, store=self._broker)  # inside the middleware of the mux alone
        scheduler.enqueue_message(entry.message, task_id=entry.tick_id(tick_s), **entry.options)

    def _runner(self, handler: Handler) -> Runner:
        return Runner(self._broker, handler, self._settings.retry.policy())

    def _crons(self) -> list[CronEntry]:
        return [*self._the_mux("periodic tasks").crons, *self._settings.cron_entries()]

    def _the_mux(self, what: str) -> ServeMux:
        if self._mux is None:
            raise ValueError(f"{what}: this client has no mux; make it as RecordingClient(mux=mux)")
        return self._mux

    def _in_state(self, state: TaskState) -> list[RecordedTask]:
        return [job.snapshot(self._broker.now_s) for job in self._broker.jobs.values() if job.state is state]

    def _tolerance_s(self) -> float:
        """By how much the application's clock may be ahead of this one, which stands still; and a second."""
        return 1.0 + max(0.0, time.monotonic() - self._since_s)


@contextmanager
def override(client: AnyClient) -> Iterator[AnyClient]:
    """Have all that clients made by `Client.from_settings` enqueue, cancel or wait for go to this one, in the block.

    Also clients that were made before, as a module makes one when it is imported, and those of `AsyncClient`.
    """
    with OVERRIDES.to(client._store):  # noqa: SLF001 - a Client's own is the store
        yield client
