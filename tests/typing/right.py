"""Right uses of typed tasks: no type checker has a word to say."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypedDict, TypeVar, assert_type

import attrs
import msgspec
import pydantic
from msgspec.structs import replace

from boilerd import (
    AsyncClient,
    BoilerdError,
    CallType,
    Client,
    Handler,
    Message,
    ServeMux,
    Task,
    TaskInfo,
    TaskType,
    current_task,
    retry,
)
from boilerd.testing import RecordingClient

As = ParamSpec("As")
R = TypeVar("R")
mux = ServeMux()


@dataclass
class Email:
    to: str


class V1(msgspec.Struct, tag=True):
    name: str


class V2(msgspec.Struct, tag=True):
    first: str
    last: str


class Row(TypedDict):
    number: int


@attrs.define
class Point:
    x: int


class Model(pydantic.BaseModel):
    size: int


# --- Handlers of one task


@mux.task("email:given", payload=Email)
def given(task: Task[Email]) -> int:
    assert_type(task.payload, Email)
    return len(task.payload.to)


@mux.task("email:inferred")
def inferred(task: Task[Email]) -> str:
    return task.payload.to


@mux.task("email:async")
async def fetched(task: Task[Email]) -> str:
    return task.payload.to


@mux.task("email:options", queue="mail", timeout=60, unique=3600, unique_until="end")
@retry(max_retries=5)
def with_options(task: Task[Email]) -> None:
    note(task)


@retry(max_retries=5)
@mux.task("email:retried")
def retried(task: Task[Email]) -> None: ...


@mux.task("union:given", payload=V1 | V2)
def either(task: Task[V1 | V2]) -> str:
    return task.payload.name if isinstance(task.payload, V1) else task.payload.last


@mux.task("row:inferred")
def row(task: Task[Row]) -> int:
    return task.payload["number"]


@mux.task("point:given", payload=Point)
def point(task: Task[Point]) -> int:
    return task.payload.x


@mux.task("model:inferred")
def model(task: Task[Model]) -> int:
    return task.payload.size


@mux.task("many:given", payload=list[Email])
def many(task: Task[list[Email]]) -> int:
    return len(task.payload)


@mux.task("bare:task")
def bare(task: Task) -> None:
    assert_type(task.payload, Any)


@mux.task("any:object")
def anything(task: Task[object]) -> None:
    note(task)


def logged(function: Callable[As, R]) -> Callable[As, R]:
    @wraps(function)
    def wrapped(*args: As.args, **kwargs: As.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapped


@mux.task("email:decorated")
@logged
def decorated(task: Task[Email]) -> int:
    return 1


# --- Functions with declared parameters


@mux.function("ping", queue="low")
def ping(to: str, *, count: int = 1) -> float:
    assert_type(current_task().payload, Any)
    return float(count)


@mux.function("ping:async")
async def ping_async(to: str) -> bool:
    return bool(to)


@mux.task("email:two")
@mux.task("email:one")
def two_types(task: Task[Email]) -> int:
    return 2


@retry(max_retries=1)
@mux.function("tick")
def tick() -> None: ...


# --- Handlers as they were before


@mux.handle("old:bare")
def old(task: Task) -> None: ...


@mux.handle("old:payload", payload=Email)
def old_typed(task: Task[Email]) -> str:
    return task.payload.to


@mux.handle("old:async")
async def old_async(task: Task) -> None: ...


@mux.use
def timed(next_handler: Handler) -> Handler:
    def handler(task: Task) -> Any:
        return next_handler(task)

    return handler


@mux.use
def measured(task: Task) -> Iterator[None]:
    task.logger.info("begins")
    yield


@mux.use
def louder(task: Task) -> Generator[None, str, str]:
    result = yield
    return result.upper()


@mux.use
def unless_done(task: Task[Any]) -> Generator[Task | None, Any, Any]:
    if task.runs > 1:
        return "done before"
    result = yield replace(task, payload=None)
    return result


@mux.use
async def within_session(task: Task) -> AsyncIterator[None]:
    yield


@mux.use
async def with_another(task: Task) -> AsyncGenerator[Task | None, Any]:
    result = yield task
    task.logger.info("returned %s", result)


class Around:
    def __call__(self, task: Task) -> Iterator[None]:
        yield

    async def method(self, task: Task) -> AsyncIterator[None]:
        yield


mux.use(timed, measured, within_session, Around(), Around().method)
kept: Callable[[Task], Generator[None, str, str]] = louder


@mux.error_handler
def told(task: Task, error: BaseException) -> None:
    note(task)


# --- Uses


def note(task: Task[object]) -> None:
    task.logger.info("noted", extra=task.log_fields)


def takes_any_type(kind: TaskType) -> str:
    return kind.type


def enqueue(client: Client, recording: RecordingClient) -> None:
    assert_type(given.enqueue(client, Email("a")), TaskInfo[int])
    assert_type(inferred.enqueue(client, Email("a"), queue="critical", process_in=10), TaskInfo[str])
    assert_type(fetched.enqueue(client, Email("a")), TaskInfo[str])
    with_options.enqueue(recording, Email("a"), queue="other", unique=None)
    retried.enqueue(client, Email("a"))
    either.enqueue(client, V2("Ada", "Lovelace"))
    row.enqueue(client, {"number": 1})
    point.enqueue(client, Point(1))
    assert_type(model.enqueue(client, Model(size=1)), TaskInfo[int])
    many.enqueue(client, [Email("a"), Email("b")])
    bare.enqueue(client, {"any": "thing"})
    anything.enqueue(client, None)
    decorated.enqueue(client, Email("a"))
    assert_type(two_types.enqueue(client, Email("a")), TaskInfo[int])
    assert_type(ping.task("a", count=2), Message[float])
    assert_type(ping.task(to="a").enqueue(client, queue="critical"), TaskInfo[float])
    tick.task().enqueue(client)
    takes_any_type(given)
    assert_type(given.enqueue(client, Email("a"), retention=60).wait(timeout=10), int)


def enqueue_by_the_client(client: Client) -> None:
    assert_type(client.enqueue_message(given.task(Email("a")), queue="low"), TaskInfo[int])
    assert_type(client.enqueue("email:given", {"to": "a"}, queue="low"), TaskInfo[Any])
    answers = client.enqueue_many([given.task(Email("a")), ("email:given", {"to": "b"}), ping.task("c")], queue="low")
    assert_type(answers, list[TaskInfo[Any] | BoilerdError])
    mux.cron("@daily", given.task(Email("a")), timezone="Europe/Berlin")
    mux.cron("@daily", "email:given", {"to": "a"})


async def enqueue_from_asyncio(client: AsyncClient) -> None:
    assert_type(await given.aenqueue(client, Email("a"), queue="critical"), TaskInfo[int])
    assert_type(await fetched.aenqueue(client, Email("a")), TaskInfo[str])
    assert_type(await ping.task("a").aenqueue(client), TaskInfo[float])
    assert_type(await client.enqueue_message(ping_async.task("a")), TaskInfo[bool])


async def call() -> None:
    task = Task(id="t", type="email:given", payload=Email("a"))
    assert_type(task, Task[Email])
    assert_type(given(task), int)
    assert_type(await fetched(task), str)
    assert_type(ping("a", count=3), float)
    assert_type(await ping_async("a"), bool)
    coroutine: Coroutine[Any, Any, str] = fetched(task)
    waiting: Awaitable[str] = coroutine
    assert_type(await waiting, str)


def annotate(handler: TaskType[Email, int, int], function: CallType[[str], None, None], info: TaskInfo) -> None:
    handler.task(Email("a"))
    function("a")
    assert_type(info.payload, Any)
