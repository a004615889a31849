"""For the tests of applications: run a task at once, and record enqueued tasks, without a broker or a worker.

A task is checked as at every enqueue, and its payload goes through JSON as on its way through Redis.
A handler sees the limits of its task; but leases, retries, and that a limit ends an attempt, belong to the daemon and
are not here.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from boilerd.broker.connection import connect
from boilerd.broker.job_hash import NewTask, request_id_of
from boilerd.client import Client
from boilerd.errors import BoilerdError, DuplicateTaskError, TaskIdConflictError
from boilerd.settings.definitions import Settings
from boilerd.tasks.current import CURRENT
from boilerd.tasks.headers import NO_HEADERS, check_headers
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.options import TaskOptions
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD, encode_payload
from boilerd.tasks.task import Task, TaskState, check_type


class RecordedTask(msgspec.Struct, frozen=True):
    """A task that was enqueued; its payload is the one that a handler without a declared type gets."""

    id: str
    type: str
    payload: Any
    options: TaskOptions


class RecordingClient(Client):
    """A Client that stores nothing, but remembers the tasks.

    A taken task ID and a held unique lock refuse a task as they do in Redis; a lock lasts until
    its task is run or cancelled, and an ID with ``once`` is remembered for ever. A queue is never full.

    Args:
        mux: If given, payloads are checked against the types that handlers declared.
        max_payload: Bytes of JSON that a payload may have; a larger one is refused.
        inherit_headers: As `Client` has them.

    Attributes:
        connection: None.
        tasks: Those enqueued and neither run nor cancelled, in the order in which they came.
    """

    def __init__(
        self,
        *,
        mux: ServeMux | None = None,
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        inherit_headers: Sequence[str] = (),
    ) -> None:
        self.tasks: list[RecordedTask] = []
        no_connection: Any = None
        super().__init__(
            no_connection,
            mux=mux,
            max_payload=max_payload,
            inherit_headers=inherit_headers,
            store=_Recorder(self.tasks),
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
        return cls(mux=mux, max_payload=settings.max_payload, inherit_headers=settings.inherit_headers)

    def run_all(self, handler: Handler) -> Iterator[Any]:
        """Run the tasks, also those that they enqueue and those that are due later; yields the result of each.

        They run one after the other, while one iterates: ``list(client.run_all(mux))``. A handler's error is raised.
        """
        while self.tasks:
            task = self.tasks.pop(0)
            yield run(handler, task.type, task.payload, id=task.id, **_fields(task.options))

    def close(self) -> None:
        """Do nothing: no connection is open."""


def run(handler: Handler, task_type: str, payload: Any = None, **fields: Any) -> Any:
    """Run one attempt in this thread, middleware included; returns the handler's result.

    Args:
        handler: A mux.
        task_type: Chooses the handler.
        payload: Anything that has a JSON form.
        fields: Of the Task, such as ``attempt``; without ``max_retries``, those of the handler's ``@retry``.

    Raises:
        InvalidTaskError: The type or a header is not allowed.
        InvalidPayloadError: The payload has no JSON form, or does not fit the type that the handler declared.
        Exception: The handler raised it, and the mux's ``error_handler`` was told; or that raised it.
    """
    sent = msgspec.json.decode(encode_payload(payload))
    headers = check_headers(fields.pop("headers", NO_HEADERS))
    told = {"id": "test", "request_id": request_id_of(sent, headers), **fields}
    task = Task(type=check_type(task_type), payload=sent, headers=headers, **told)
    mux = handler if isinstance(handler, ServeMux) else ServeMux()
    if "max_retries" not in fields and (policy := mux.policy(task.type)):
        task.complete(policy.max_retries)
    token = CURRENT.set(task)
    try:
        return handler(task)
    except Exception as error:
        if mux.hooks.error_handler:
            mux.hooks.error_handler(task, error)
        raise
    finally:
        CURRENT.reset(token)


def _fields(options: TaskOptions) -> dict[str, Any]:
    """The fields of a Task that its options decide."""
    fields: dict[str, Any] = {"queue": options.queue, "timeout_s": options.timeout_s, "headers": options.headers}
    if options.max_retries is not None:
        fields["max_retries"] = options.max_retries
    if options.deadline is not None:
        fields["deadline"] = datetime.fromtimestamp(options.deadline, UTC)
    return fields


class _Recorder:
    """The store of a RecordingClient: a list."""

    def __init__(self, tasks: list[RecordedTask]) -> None:
        self._tasks = tasks
        self._locks: dict[str, str] = {}
        self._once: set[str] = set()

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        return [self._store(task) for task in tasks]

    def cancel(self, task_id: str) -> str:
        for task in self._tasks:
            if task.id == task_id:
                self._tasks.remove(task)
                return "deleted"
        return "unknown"

    def _store(self, task: NewTask) -> TaskState | BoilerdError:
        waiting = {known.id for known in self._tasks}
        if task.id in waiting:
            return TaskIdConflictError(task.id)
        options = task.options
        if options.once_s and task.id in self._once:
            return TaskIdConflictError(task.id, is_remembered=True)
        if options.unique_s:
            if (holder := self._locks.get(task.unique_key)) in waiting and holder is not None:
                return DuplicateTaskError(holder)
            self._locks[task.unique_key] = task.id
        if options.once_s:
            self._once.add(task.id)
        self._tasks.append(RecordedTask(task.id, task.type, msgspec.json.decode(task.payload), options))
        return TaskState.SCHEDULED if options.process_in_s or options.process_at else TaskState.PENDING
