"""Wrong uses of typed tasks: type checkers report each line with a mark, and no other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from boilerd import AsyncClient, Client, Handler, ServeMux, Task, TaskInfo

mux = ServeMux()


@dataclass
class Email:
    to: str


@dataclass
class Model:
    size: int


class Row(TypedDict):
    number: int


@mux.task("email:deliver")
def deliver(task: Task[Email]) -> str:
    return task.payload.too  # wrong


@mux.task("email:async", payload=Email)
async def fetched(task: Task[Email]) -> str:
    return task.payload.to


@mux.task("row")
def row(task: Task[Row]) -> None: ...


@mux.task("many", payload=list[Email])
def many(task: Task[list[Email]]) -> None: ...


@mux.function("ping")
def ping(to: str, *, count: int = 1) -> float:
    return float(count)


def of_model(task: Task[Model]) -> None: ...


def without_parameter() -> None: ...


def with_two(task: Task[Email], session: object) -> None: ...


def of_email(email: Email) -> None: ...


def yields_text(task: Task) -> Iterator[str]:
    yield task.id


def of_a_handler(next_handler: Handler) -> Iterator[None]:
    yield


async def without_yield(task: Task) -> None: ...


def returns_nothing(next_handler: Handler) -> None: ...


mux.use(yields_text)  # wrong
mux.use(of_a_handler)  # wrong
mux.use(without_yield)  # wrong
mux.use(returns_nothing)  # wrong
mux.use()  # wrong
mux.task("email:other", payload=Email)(of_model)  # wrong
mux.task("email:none")(without_parameter)  # wrong
mux.task("email:two")(with_two)  # wrong
mux.task("email:email")(of_email)  # wrong
mux.task(deliver)  # wrong
mux.task("email:option", quue="low")  # wrong
mux.task("email:option", queue=5)  # wrong
mux.function("ping:option", retries=5)  # wrong
mux.function("ping:positional", 5)  # wrong


def enqueue(client: Client, async_client: AsyncClient) -> None:
    deliver.enqueue(client, Model(1))  # wrong
    deliver.enqueue(client, {"to": "a"})  # wrong
    deliver.enqueue(client)  # wrong
    deliver.enqueue(client, Email("a"), Email("b"))  # wrong
    deliver.enqueue(client, payload=Email("a"))  # wrong
    deliver.enqueue(client, Email("a"), quue="low")  # wrong
    deliver.enqueue(client, Email("a"), queue=5)  # wrong
    deliver.enqueue(client, Email("a"), timeout="5m")  # wrong
    deliver.enqueue(async_client, Email("a"))  # wrong
    row.enqueue(client, {"number": "one"})  # wrong
    row.enqueue(client, {"amount": 1})  # wrong
    many.enqueue(client, Email("a"))  # wrong
    deliver.task(Model(1))  # wrong
    deliver.task(Email("a")).enqueue(client, quue="low")  # wrong
    ping.task()  # wrong
    ping.task(5)  # wrong
    ping.task("a", queue="low")  # wrong
    ping.task("a", 2)  # wrong
    ping.enqueue(client, "a")  # wrong
    client.enqueue(deliver, Email("a"))  # wrong
    client.enqueue(deliver.task(Email("a")))  # wrong
    client.enqueue_message(deliver.task(Email("a")), quue="low")  # wrong
    client.enqueue("email:deliver", {"to": "a"}, quue="low")  # wrong
    client.enqueue_many([deliver])  # wrong


async def enqueue_from_asyncio(client: Client, async_client: AsyncClient) -> None:
    await deliver.aenqueue(client, Email("a"))  # wrong
    await deliver.aenqueue(async_client, Model(1))  # wrong
    await deliver.aenqueue(async_client, Email("a"), quue="low")  # wrong


async def call(task: Task[Email], other: Task[Model]) -> None:
    deliver(other)  # wrong
    deliver(Email("a"))  # wrong
    number: int = deliver(task)  # wrong
    text: str = fetched(task)  # wrong
    told: TaskInfo[int] = deliver.enqueue(Client.from_settings(), Email("a"))  # wrong
    ping(to=5)  # wrong
    anything: Any = [number, text, told]
    deliver(anything)
