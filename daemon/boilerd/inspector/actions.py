"""Do with tasks what a person asks: one, all of a state, all of a failure group."""

import functools
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Unpack

from boilerd.broker.broker import is_cancelled
from boilerd.broker.bulk_actions import BulkProgress, Choice, check_allowed
from boilerd.broker.constants import MOST_NOTE
from boilerd.broker.states import ALLOWED, Action
from boilerd.errors import (
    BoilerdError,
    BrokerRefusedError,
    DuplicateTaskError,
    FailureNotFoundError,
    InvalidTaskError,
    TaskStateError,
    shown,
)
from boilerd.inspector.part import Part
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.queues import check_queue
from boilerd.tasks.task import TaskState, no_such_task
from boilerd.units import in_utc

if TYPE_CHECKING:
    from boilerd.broker.failure_groups import FailureGroup, Mark
    from boilerd.broker.group_states import GroupStates
    from boilerd.broker.job_hash import NewTask
    from boilerd.broker.operations import Operations
    from boilerd.broker.task_filter import TaskFilter
    from boilerd.enqueuing.composer import Composer
    from boilerd.tasks.options import EnqueueOptions
    from boilerd.tasks.task import TaskInfo
    from boilerd.tasks.typed import Message

#: The states in which a task may be rescheduled or moved.
_WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY)


class ActionsPart(Part):
    """Do with tasks what a person asks: one, all of a state, all of a failure group."""

    def run(self, task_id: str) -> None:
        """Make a scheduled, retried or archived task pending now.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            DuplicateTaskError: It is archived, and another task holds its unique lock by now.
        """
        self._act("run", task_id)

    def archive(self, task_id: str) -> None:
        """Set a waiting task aside; raises TaskNotFoundError, TaskStateError."""
        self._act("archive", task_id)

    def delete(self, task_id: str) -> None:
        """Delete a task that does not run; raises TaskNotFoundError, TaskStateError."""
        self._act("delete", task_id)

    def cancel(self, task_id: str) -> bool:
        """Cancel a task, as `Client.cancel`: a waiting one is deleted, a running one is interrupted and archived.

        Returns:
            True if it is cancelled; False if it had ended before.

        Raises:
            TaskNotFoundError: There is no such task; it may have been completed and deleted.
        """
        return is_cancelled(task_id, self._broker.cancel(task_id, self._audit.by))

    def reschedule(self, task_id: str, at: datetime | timedelta) -> None:
        """Have a pending, scheduled or retried task run at another moment; one that is past means now.

        Args:
            task_id: Its ID.
            at: When, with a time zone; or after which time, by Redis's clock.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            InvalidTaskError: The moment has no time zone, or is too far away to be kept.
        """
        if isinstance(at, datetime) and at.tzinfo is None:
            raise InvalidTaskError("at: it has no time zone; give one, as in datetime.now(UTC) + timedelta(hours=1)")
        try:
            moment = in_utc(datetime.fromtimestamp(self._broker.now(), UTC) + at if isinstance(at, timedelta) else at)
        except (ValueError, OverflowError) as error:
            raise InvalidTaskError(
                f"at: {at} is too far away to be kept; choose a moment before the year 9999"
            ) from error
        self._place("reschedule", repr(moment.timestamp()), task_id, at=moment.isoformat(timespec="seconds"))

    def move(self, task_id: str, queue: str) -> None:
        """Have a pending, scheduled or retried task wait in another queue, whatever its limit of tasks is.

        A pending one stands at its end then. A unique lock stays that of the queue in which it was enqueued.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is in another state.
            InvalidTaskError: No queue may have that name.
        """
        self._place("move", check_queue(queue), task_id, to=queue)

    def enqueue(
        self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Unpack["EnqueueOptions"]
    ) -> "TaskInfo":
        """Store a task by hand, as `Client.enqueue` does, with an entry in the audit.

        Args:
            task_type: Its type.
            payload: Any value that has a JSON form.
            copied_from: The ID of the task of which it is a copy, which it names then; empty: of none.
            options: As `Client.enqueue` has them; errors are the same, too.
        """
        composer, message, new = _composed(task_type, payload, options)
        on = {"task": new.id, "type": new.type, "queue": new.options.queue, "copied_from": copied_from}
        with self._audit.noting("copy" if copied_from else "enqueue", **on) as noted:
            if copied_from:
                answer = self._broker.enqueue_copy(new, copied_from)
            else:
                (answer,) = self._broker.enqueue([new])
            if isinstance(answer, BoilerdError):
                raise answer
            noted.count = 1
        return composer.info(new, message, answer)

    def check_enqueue(
        self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Unpack["EnqueueOptions"]
    ) -> None:
        """Raise what `enqueue` would raise of the same values before it asks Redis; stores nothing."""
        _composed(task_type, payload, options)

    def bulk(
        self,
        action: Action,
        queue: str,
        state: TaskState,
        task_type: str | None = None,
        *,
        fingerprint: str | None = None,
        wanted: str = "",
    ) -> Generator[BulkProgress]:
        """Do the action with all tasks of the queue that are in the state now, and of the type if one is given.

        With a fingerprint, only with those whose last failure belongs to that group; with `wanted`, only with those
        that a search for it finds, whose own queue and state have to be these.

        Works while one iterates, chunk by chunk; tasks that come meanwhile are left alone. The audit has one entry of
        it, written at the end, also where one stops to iterate.

        Raises:
            TaskStateError: The action cannot be done in that state.
            QueueNotFoundError: The queue was never used.
            InvalidTaskError: The search means nothing.
        """
        state = TaskState(state)
        on = {"queue": queue, "state": state.value, "type": task_type or "", "fingerprint": fingerprint or ""}
        with self._audit.noting(action, **on, search=wanted) as noted:
            check_allowed(action, state)
            self._check_used(queue)
            sought = self._sought(wanted, queue, state) if wanted else None
            for progress in self._bulk.each_chunk(action, Choice(queue, state, task_type, fingerprint, sought)):
                noted.count = progress.done
                yield progress

    def failures(self, size: int = 100, skipped: list[str] | None = None) -> "list[FailureGroup]":
        """What fails: the failure groups that were seen last, latest first; 1,000 are kept, for 30 days each.

        Args:
            size: How many at most.
            skipped: Gets a sentence for each that cannot be read, as another program's key stands in its place.
        """
        return self._bulk.groups.latest(size, skipped)

    def failure(self, fingerprint: str) -> "FailureGroup":
        """One failure group with the IDs of its last tasks.

        Raises:
            FailureNotFoundError: There is none of this fingerprint.
            MisplacedKeyError: Another program's key stands in its place.
        """
        found = self._bulk.groups.one(fingerprint)
        if found is None:
            raise FailureNotFoundError(fingerprint)
        return found

    def failure_states(self, looks: int = 2000, within_s: float = 0.1) -> "GroupStates":
        """Where the tasks of all failure groups are now: archived, or waiting for a retry.

        Args:
            looks: How many of them to look at at most.
            within_s: For how long, in seconds.
        """
        from boilerd.broker.group_states import count_states  # noqa: PLC0415 - as in `Part`

        return count_states(self._inspection, self._bulk, looks, within_s)

    def mark_failure(self, fingerprint: str, mark: "Mark", note: str = "") -> bool:
        """Mark a failure group for everybody, or take the mark back; the mark goes with the group.

        Args:
            fingerprint: Of the group.
            mark: ``acknowledge``: it is known, so that it has come back if it fails from now on; ``mute``: nobody wants
                to hear of it, and it makes no finding; ``unacknowledge`` and ``unmute`` take that back; ``note`` writes
                what is known of it.
            note: Of a ``note``, up to 1,000 characters; empty removes it.

        Returns:
            True if that changed something.

        Raises:
            FailureNotFoundError: There is no such group.
            InvalidTaskError: The note is too long.
            ValueError: There is no such mark.
        """
        from boilerd.broker.audit import tell_unaudited  # noqa: PLC0415 - as in `Part`
        from boilerd.broker.failure_groups import MARKS  # noqa: PLC0415 - as in `Part`

        if mark not in MARKS:
            raise ValueError(f"mark {mark!r}: there are {', '.join(MARKS)}")
        if len(note) > MOST_NOTE:
            raise InvalidTaskError(f"a note of {len(note):,} characters is too long; write up to {MOST_NOTE:,}")
        try:
            answer, unaudited = self._bulk.groups.mark(fingerprint, mark, note, self._audit.by)
        except BrokerRefusedError as error:
            self._audit.note_failure(mark, error, fingerprint=fingerprint)
            raise
        if unaudited and answer == "done":
            tell_unaudited(unaudited)
        if answer == "unknown":
            self.failure(fingerprint)  # which names another program's key in its place
            raise FailureNotFoundError(fingerprint)
        return answer == "done"

    def bulk_failure(self, action: Action, fingerprint: str) -> Generator[BulkProgress]:
        """Do the action with the tasks of all queues that wait for a retry or are archived, and whose last failure
        belongs to the group; where the action is not allowed in one of the states, with those in the other.

        Works while one iterates, as `bulk`. The audit has one entry of it, with the fingerprint.

        Raises:
            FailureNotFoundError: There is no such group.
        """  # noqa: D205 - one sentence
        with self._audit.noting(action, fingerprint=fingerprint) as noted:
            self.failure(fingerprint)
            for progress in self._bulk.each_chunk_of_group(action, fingerprint):
                noted.count = progress.done
                yield progress

    @functools.cached_property
    def operations(self) -> "Operations":
        """Bulk actions of which Redis knows how far they are, so that anybody sees, stops and continues them."""
        from boilerd.broker.operations import Operations  # noqa: PLC0415 - as in `Part`

        return Operations(self._broker, self._inspection, self._bulk, self._audit)

    def _sought(self, wanted: str, queue: str, state: TaskState) -> "TaskFilter":
        from boilerd.broker.task_filter import parse_filter  # noqa: PLC0415 - as in `explain`

        found = parse_filter(wanted, datetime.fromtimestamp(self._broker.now(), UTC))
        if found.queue not in {"", queue} or found.state not in {None, state}:
            raise InvalidTaskError(f"search {shown(wanted)}: it is of another queue or state; leave these out")
        return found

    def _place(self, what: str, value: str, task_id: str, **on: str) -> None:
        answer = self._broker.place(what, value, task_id, self._audit.by, **on)
        if answer == "unknown":
            raise no_such_task(task_id)
        if answer != "done":
            raise TaskStateError(f"task {task_id}", answer, what, _WAITING)

    def _act(self, action: Action, task_id: str) -> None:
        try:
            (answer,) = self._broker.act(action, [task_id], by=self._audit.by)
        except BrokerRefusedError:
            found = self._inspection.task(task_id)
            with self._inspection.naming_keys(found.queue if found else ""):
                raise
        if answer == "unknown":
            raise no_such_task(task_id)
        if answer.startswith("locked "):
            raise DuplicateTaskError(answer.removeprefix("locked "))
        if answer != "done":
            raise TaskStateError(f"task {task_id}", answer, action, ALLOWED[action])


def _composed(task_type: str, payload: Any, options: "EnqueueOptions") -> "tuple[Composer, Message, NewTask]":
    """A task to store by hand, and what it was made by and of."""
    from boilerd.enqueuing.composer import Composer  # noqa: PLC0415 - as in `Part`

    composer = Composer(None, DEFAULT_MAX_PAYLOAD, ())
    order = composer.order(composer.message(task_type, payload), options)
    (message,), (new,) = composer.tasks([order], names_place=False)
    return composer, message, new
