"""Enqueue tasks."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Self

import redis

from boilerd.broker import Broker, connect
from boilerd.config import Settings, load
from boilerd.errors import BrokerUnavailableError, InvalidPayloadError, TaskIdConflictError
from boilerd.task import DEFAULT_MAX_RETRIES, TaskInfo, TaskOptions, TaskState, check_type, encode_payload, task_options

#: RQ's record holds type and payload in one value of Redis, whose limit is 512 MB.
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024


class Client:
    """Enqueues tasks; safe to share between threads, not across a fork.

    Attributes:
        connection: The ``redis.Redis`` that is used, for whatever else one needs of it.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self._broker = Broker(connection)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A client for the Redis at `url`; connects at the first enqueue.

        Args:
            url: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``.
            options: ``password``, ``db``, ``timeout_s`` (5 s), as `boilerd.broker.connect` takes them.

        Raises:
            ConfigError: The URL cannot be understood.
        """
        return cls(connect(url, **options))

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """A client for the Redis that the settings name: what the command line would use."""
        settings = settings or load().settings
        return cls(connect(settings.broker_url(), password=settings.redis_password, db=settings.redis_db))

    def enqueue(self, task_type: str, payload: Any = None, **options: Any) -> TaskInfo:
        """Store a task for a worker to run; one round trip.

        Args:
            task_type: What to do, such as ``email:deliver``.
            payload: Anything that has a JSON form.
            options: ``queue``, ``timeout``, ``max_retries``, ``retention``, ``task_id``, as `task_options` has them.

        Raises:
            InvalidTaskError: The type or an option is not allowed; nothing was sent.
            InvalidPayloadError: The payload cannot be written as JSON; nothing was sent.
            TaskIdConflictError: The given ``task_id`` is taken; nothing was stored.
            BrokerUnavailableError: Redis did not answer; the task may or may not be stored.
                Enqueuing again with the same ``task_id`` is safe.
        """
        chosen = task_options(**options)
        task_id = chosen.task_id or str(uuid.uuid4())
        encoded = _encode(payload)
        try:
            (stored,) = self._broker.enqueue([(task_id, check_type(task_type), encoded, chosen)])
        except BrokerUnavailableError as error:
            raise BrokerUnavailableError(
                f"{error}; task {task_id} may have been stored, enqueuing it again with this ID is safe"
            ) from error
        if not stored:
            raise TaskIdConflictError(task_id)
        return _info(task_id, task_type, payload, chosen)

    def enqueue_many(self, tasks: Iterable[tuple[str, Any]], **options: Any) -> list[TaskInfo | TaskIdConflictError]:
        """Store many tasks with the same options; one round trip for 500.

        Args:
            tasks: Type and payload of each.
            options: As for `enqueue`; a ``task_id`` fits one task only.

        Returns:
            An answer for each task in its place: its TaskInfo, or the error that kept it out.

        Raises:
            InvalidTaskError: A type, payload or option is not allowed; nothing was sent.
            BrokerUnavailableError: Redis did not answer; of the tasks, none, some or all may be stored.
        """
        chosen = task_options(**options)
        wanted = [(task_type, payload, _encode(payload)) for task_type, payload in tasks]
        for task_type, _, _ in wanted:
            check_type(task_type)
        ids = [chosen.task_id or str(uuid.uuid4()) for _ in wanted]
        pairs = zip(ids, wanted, strict=True)
        stored = self._broker.enqueue((task_id, kind, encoded, chosen) for task_id, (kind, _, encoded) in pairs)
        return list(_answers(ids, wanted, stored, chosen))

    def close(self) -> None:
        """Give the connections back."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _encode(payload: Any) -> bytes:
    encoded = encode_payload(payload)
    if len(encoded) > MAX_PAYLOAD_BYTES:
        raise InvalidPayloadError(
            f"payload: {len(encoded)} bytes are more than {MAX_PAYLOAD_BYTES}; store the data elsewhere, send its name"
        )
    return encoded


def _answers(
    ids: list[str], wanted: list[tuple[str, Any, bytes]], stored: list[bool], options: TaskOptions
) -> Iterator[TaskInfo | TaskIdConflictError]:
    for task_id, (task_type, payload, _), is_stored in zip(ids, wanted, stored, strict=True):
        yield _info(task_id, task_type, payload, options) if is_stored else TaskIdConflictError(task_id)


def _info(task_id: str, task_type: str, payload: Any, options: TaskOptions) -> TaskInfo:
    return TaskInfo(
        id=task_id,
        type=task_type,
        queue=options.queue,
        state=TaskState.PENDING,
        max_retries=DEFAULT_MAX_RETRIES if options.max_retries is None else options.max_retries,
        timeout_s=options.timeout_s,
        retention_s=options.retention_s,
        payload=payload,
    )
