"""The broker: Redis as boilerd uses it. The only place that knows RQ's layout in Redis.

Every change of state is one Lua script in lua/; this module gives each a name, types and
errors of ours. Whatever is read from Redis is a stranger's data until it was checked here.
"""

import base64
import functools
import importlib.resources
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from boilerd import keys
from boilerd.config import check_url, mask_url
from boilerd.errors import (
    BrokerError,
    BrokerUnavailableError,
    ConfigError,
    ForbiddenJobError,
    InvalidPayloadError,
)
from boilerd.task import ARCHIVE_TTL_S, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, Task, TaskOptions

#: The function that RQ's record of a task names. It is never imported to run a task.
ENTRY_POINT = "boilerd.execution.run"
#: A claim holds this long without a heartbeat; the scheduler extends it every 5 s.
LEASE_S = 30
#: RQ's own value: a worker that is not heard of for so long is gone from its registry.
WORKER_TTL_S = 420 + 60
#: Asynq's limit of an archive, per queue.
ARCHIVE_LIMIT = 10_000
#: Tasks in one enqueue script: bounds how long Redis serves nobody else, to about 5 ms.
BATCH = 500
#: A task's record may unpack to this much; a crafted one must not fill the memory.
MAX_DATA_BYTES = 512 * 1024 * 1024

_SCRIPTS = ("enqueue", "advance", "fail", "release", "extend")


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that this worker holds, or what stood in its place.

    Attributes:
        started: Redis's time of the claim, in seconds since 1970.
        task: None when the record cannot be run; `error` says why.
    """

    task_id: str
    execution_id: str
    queue: str
    started: str
    retention_s: int
    task: Task | None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A claim that ended well, and its result as JSON (empty: none)."""

    claim: Claim
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Overdue:
    """An attempt that is past its task's timeout by so many seconds."""

    worker: str
    task_id: str
    late_s: float


class Broker:
    """Names, types and errors for the scripts.

    One instance belongs to one process; it holds nothing but the connection.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self._scripts = {name: connection.register_script(script_source(name)) for name in _SCRIPTS}

    def enqueue(self, tasks: Iterable[tuple[str, str, bytes, TaskOptions]]) -> list[bool]:
        """Store tasks and make them pending: one round trip for up to 500.

        Args:
            tasks: Task ID, task type, payload as JSON, options.

        Returns:
            For each task whether it was stored; False: its ID is taken.

        Raises:
            BrokerUnavailableError: Redis did not answer; the tasks of the last batch may or may not be stored.
        """
        answers: list[bool] = []
        batch: list[str | bytes | int] = []
        waiting = 0
        for task_id, task_type, payload, options in tasks:
            fields = _job_fields(task_type, payload, options)
            batch += [task_id, options.queue, len(fields), *fields]
            waiting += 1
            if waiting == BATCH:
                answers += map(bool, self._run("enqueue", batch))
                batch, waiting = [], 0
        if waiting:
            answers += map(bool, self._run("enqueue", batch))
        return answers

    def advance(
        self, worker: str, queues: Sequence[str], completions: Sequence[Completion] = ()
    ) -> tuple[list[str], Claim | None]:
        """Acknowledge what ended well and claim the next task, in one call.

        Args:
            worker: Name of the worker.
            queues: In the order to try; none: claim nothing.
            completions: What ended well since the last call.

        Returns:
            IDs of the tasks whose lease was lost, so that nothing was written; and the claim,
            or None when nothing is to be had.
        """
        execution_id = uuid.uuid4().hex
        args: list[str | bytes | int] = [worker, LEASE_S, len(queues), *queues, execution_id]
        for done in completions:
            c = done.claim
            args += [c.task_id, c.execution_id, c.queue, c.retention_s, c.started, _base64(done.result)]
        lost, claimed = self._run("advance", args)
        claim = _to_claim(execution_id, claimed) if claimed else None
        return [task_id.decode() for task_id in lost], claim

    def fail(self, worker: str, claim: Claim, error: str, traceback: str) -> bool:
        """Record a failed attempt and archive the task.

        Args:
            worker: Name of the worker that holds the claim.
            claim: What failed.
            error: One line, for lists.
            traceback: The whole story.

        Returns:
            Whether the lease was still held; False: nothing was written.
        """
        packed = base64.b64encode(zlib.compress(traceback.encode("utf-8", "backslashreplace")))
        args: list[str | bytes | int] = [worker, claim.task_id, claim.execution_id, claim.queue, claim.started]
        line = error.encode("utf-8", "backslashreplace")[:2000]
        return bool(self._run("fail", [*args, line, packed, ARCHIVE_TTL_S, ARCHIVE_LIMIT]))

    def release(self, worker: str) -> list[str]:
        """Put whatever the worker holds back at the heads of the queues, uncounted; their IDs."""
        return [task_id.decode() for task_id in self._run("release", [worker])]

    def held(self, worker: str) -> list[Claim]:
        """What the worker holds, oldest first, without reading the tasks."""
        found = []
        with translated():
            for member in self.connection.smembers(keys.worker_executions(worker)):
                pair = text(member)
                task_id, _, execution_id = pair.rpartition(":")
                queue = self.connection.hget(keys.job(task_id), "origin")
                started = self.connection.hget(keys.execution(pair), "created_at")
                if queue:
                    found.append(Claim(task_id, execution_id, text(queue), text(started or "0"), 0, None))
        return sorted(found, key=lambda claim: float(claim.started))

    def extend(self, workers: Sequence[str]) -> list[Overdue]:
        """Renew the leases and the presence of live workers; the attempts past their timeout."""
        answers = self._run("extend", [LEASE_S, WORKER_TTL_S, *workers])
        return [Overdue(w.decode(), t.decode(), float(late)) for w, t, late in answers]

    def wait(self, queues: Sequence[str], timeout_s: float) -> bool:
        """Sleep until a task was enqueued, at most `timeout_s`; whether the bell rang."""
        with translated():
            return self.connection.blpop([keys.bell(name) for name in queues], timeout_s) is not None

    def check(self) -> str:
        """Make sure that Redis can be worked with; its name and version.

        Raises:
            BrokerError: Not reachable, no access, or too old.
        """
        with translated():
            info = self.connection.info("server")
        version = str(info.get("valkey_version") or info["redis_version"])
        name, least = ("Valkey", 8) if "valkey_version" in info else ("Redis", 7)
        if int(version.partition(".")[0]) < least:
            raise BrokerError(f"{name} {version} is too old; boilerd needs Redis 7 or Valkey 8, or newer")
        return f"{name} {version}"

    def _run(self, script: str, args: Sequence[str | bytes | int]) -> Any:
        with translated():
            return self._scripts[script](args=[keys.RQ, keys.OWN, *args])


def connect(
    url: str, *, password: str | None = None, db: int = 0, timeout_s: float = 5.0, name: str | None = None
) -> redis.Redis:
    """Make a client for one process; connects at the first command.

    Commands are not sent again by themselves after a failure: the first one may have run.

    Raises:
        ConfigError: The URL cannot be understood.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    check_url(url)
    if name:
        options["client_name"] = name
    if password:
        options["password"] = password
    try:
        if urlsplit(url).scheme == "redis+sentinel":
            return _connect_sentinel(url, options, db)
        client = redis.Redis.from_url(url, **options)
        if password or db:
            # What was set by itself wins over what stands in the URL.
            client.connection_pool.connection_kwargs.update({"password": password} if password else {})
            client.connection_pool.connection_kwargs.update({"db": db} if db else {})
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"redis_url: {mask_url(url)!r}: {error}") from error
    return client


#: What Redis may object to, and how we say it; the first that fits.
_REFUSALS: dict[Callable[[redis.RedisError], bool], str] = {
    lambda error: "NOAUTH" in str(error) or "WRONGPASS" in str(error): "Redis wants a password, set redis_password",
    lambda error: isinstance(error, redis.exceptions.NoPermissionError): "Redis allows this user too little",
    lambda error: isinstance(error, redis.exceptions.OutOfMemoryError): "Redis is out of memory, raise its maxmemory",
    lambda error: isinstance(error, redis.exceptions.ReadOnlyError): "Redis is read-only, as a replica is",
    lambda error: "MISCONF" in str(error): "Redis cannot save to its disk, and stores nothing until it can",
}


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours, with what would do."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        raise BrokerError(f"Redis refused the password: {error}; check redis_password and redis_url") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise BrokerUnavailableError(f"Redis did not answer: {error}") from error
    except redis.RedisError as error:
        told = next((told for kind, told in _REFUSALS.items() if kind(error)), "Redis refused the command")
        raise BrokerError(f"{told}: {error}") from error


def text(value: bytes | str) -> str:
    """What Redis holds as text; our connections answer with bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


@functools.cache
def script_source(name: str) -> str:
    """The text of a script as it is sent to Redis."""
    files = importlib.resources.files("boilerd") / "lua"
    return (files / "common.lua").read_text("utf-8") + "\n" + (files / f"{name}.lua").read_text("utf-8")


def _connect_sentinel(url: str, options: Mapping[str, Any], db: int) -> redis.Redis:
    """``redis+sentinel://user:password@host:26379,host:26379/name/db``."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, number = parts.path.strip("/").partition("/")
    if not hosts or not name:
        raise ValueError("a sentinel URL is redis+sentinel://host:26379,host:26379/name/0")
    addresses = []
    for address in hosts.split(","):
        host, _, port = address.partition(":")
        if not (port or "0").isdecimal():
            raise ValueError("a sentinel URL is redis+sentinel://host:26379,host:26379/name/0")
        addresses.append((host, int(port or 26379)))
    arguments = {**options, "db": db or int(number or 0)}
    if password and "password" not in arguments:
        arguments["password"] = password
    if user:
        arguments["username"] = user
    timeouts = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout")}
    client: redis.Redis = Sentinel(addresses, sentinel_kwargs=timeouts).master_for(name, **arguments)
    return client


def _job_fields(task_type: str, payload: bytes, options: TaskOptions) -> list[str | bytes | int]:
    """RQ's fields of the job hash, and ours, as names and values in turn.

    RQ's own tools count `retries_left` down; `max_retries` stands only where the caller gave
    it, because otherwise the handler's policy decides at the time of the failure.
    """
    fields: list[str | bytes | int] = [
        "origin", options.queue,
        "description", task_type,
        "task_type", task_type,
        "data", b'["%b",null,["%b",%b],{}]' % (ENTRY_POINT.encode(), task_type.encode(), payload),
        "timeout", options.timeout_s,
        "result_ttl", options.retention_s,
        "failure_ttl", ARCHIVE_TTL_S,
        "retries_left", DEFAULT_MAX_RETRIES if options.max_retries is None else options.max_retries,
    ]  # fmt: skip
    if options.max_retries is not None:
        fields += ["max_retries", options.max_retries]
    return fields


def _to_claim(execution_id: str, claimed: Sequence[Any]) -> Claim:
    """Check what Redis held and make a task of it."""
    task_id, queue, started, flat = claimed
    name = task_id.decode("utf-8", "backslashreplace")
    queue_name = queue.decode()
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    retention_s = 0
    task, error = None, None
    try:
        retention_s = max(0, int(fields.get(b"result_ttl") or 0))
        task = _to_task(name, queue_name, fields)
    except (ForbiddenJobError, InvalidPayloadError) as refused:
        error = refused
    except ValueError as broken:
        error = ForbiddenJobError(f"job {name!r} is damaged: {broken}")
    return Claim(name, execution_id, queue_name, started.decode(), retention_s, task, error)


def _to_task(task_id: str, queue: str, fields: Mapping[bytes, bytes]) -> Task:
    if not fields:
        raise ForbiddenJobError(f"job {task_id!r} has no record; it was deleted or overwritten while it waited")
    task_type, payload = _read_data(fields.get(b"data", b""))
    retried = int(fields.get(b"number_of_retries") or 0)
    left = int(fields.get(b"retries_left") or 0)
    request_id = payload.get("request_id") if isinstance(payload, dict) else None
    enqueued = fields.get(b"enqueued_at")
    return Task(
        id=task_id,
        type=task_type,
        payload=payload,
        queue=queue,
        attempt=retried + 1,
        max_retries=int(fields[b"max_retries"]) if b"max_retries" in fields else retried + left,
        timeout_s=float(int(fields.get(b"timeout") or DEFAULT_TIMEOUT_S)),
        enqueued_at=datetime.fromisoformat(enqueued.decode()) if enqueued else None,
        request_id=request_id if isinstance(request_id, str) else None,
    )


def _read_data(data: bytes) -> tuple[str, Any]:
    """Task type and payload from RQ's call: ``[function, instance, args, kwargs]`` as JSON.

    Only the call of our own entry point is a task; nothing else is imported, and pickle is
    never loaded.
    """
    if data[:1] == b"x":  # zlib's first byte; RQ compresses what its own clients enqueue
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(data, MAX_DATA_BYTES)
        except zlib.error as error:
            raise ForbiddenJobError(f"its data cannot be unpacked: {error}") from error
        if unpacker.unconsumed_tail:
            raise ForbiddenJobError(f"its data unpacks to more than {MAX_DATA_BYTES} bytes")
    try:
        function, _, args, _ = msgspec.json.decode(data, type=tuple[str, Any, list[Any], Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ForbiddenJobError(
            "its data is not JSON of a call; pickled jobs are never loaded, enqueue with RQ's JSONSerializer"
        ) from error
    if function != ENTRY_POINT:
        raise ForbiddenJobError(f"function {function!r} is not a registered task; it was not imported")
    if len(args) != 2 or not isinstance(args[0], str):
        raise ForbiddenJobError("its arguments are not [task type, payload]")
    return args[0], args[1]


def _base64(result: bytes) -> bytes:
    """RQ keeps return values so."""
    return base64.b64encode(result) if result else b""
