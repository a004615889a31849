"""Middleware around attempts in slots: what interrupts an attempt arrives in it, on the loop and in threads."""

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from boilerd import Handler, ServeMux, Task, TaskTimeoutError
from boilerd.broker.claims import Claim
from boilerd.errors import ShutdownTimeoutError, TaskInterrupt
from boilerd.process.scoreboard import Scoreboard
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.attempt_log import log_attempts
from boilerd.worker.limits import SlotLimits
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.runner import SlotRunner
from support import DEADLINE_S

LATE = TaskTimeoutError("late")
#: Set in the process of an attempt when it has come to where it waits.
waits = threading.Event()


def in_child(drive: Callable[[], object]) -> Any:
    """What `drive` answers in a process of its own, whose loop and signals are its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(drive()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def outcome(mux: ServeMux, reason: TaskInterrupt = LATE) -> str:
    """How an attempt of `test:it` ends in a worker with slots, in one line; it is interrupted when it waits."""
    task = Task(id="some", type="test:it", payload=7)
    attempt = SlotAttempt(Claim("some", "0123456789-0", "default", "1", 0, task), task)
    ended = threading.Event()

    def on_end(_: SlotAttempt) -> None:
        ended.set()
        runner.close()

    def keep() -> None:
        runner.begin([attempt])
        while not ended.wait(min(runner.look(), 0.02)):
            if waits.is_set():
                waits.clear()
                runner.interrupt([attempt], reason)

    runner = SlotRunner(Rules.of(mux, RetryPolicy(), log_attempts), SlotLimits(slots=10), Scoreboard(), 0, on_end)
    keeper = threading.Thread(target=keep)
    keeper.start()
    runner.run()
    keeper.join(DEADLINE_S)
    found = attempt.outcome
    return getattr(found, "line", None) or repr(found)


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


def steps_of(mux: ServeMux) -> list[str]:
    """What middleware of each form sees, from the outermost on."""
    seen: list[str] = []

    @mux.use
    def generator(task: Task) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            seen.append(f"generator: {type(error).__name__}")
            raise

    @mux.use
    async def async_generator(task: Task) -> AsyncIterator[None]:
        try:
            await asyncio.sleep(0)
            yield
        finally:
            await asyncio.sleep(0)
            seen.append("async generator")

    return seen


async def fetch(task: Task) -> str:
    await asyncio.sleep(0)
    return f"fetched {task.payload}"


async def wait(task: Task) -> None:
    waits.set()
    await asyncio.sleep(60)


def hiding(handler: Any) -> Any:
    """A plain function, whose answer is awaited on the loop."""

    def hidden(task: Task) -> Any:
        return handler(task)

    return hidden


def wait_plain(task: Task) -> None:
    waits.set()
    while True:
        time.sleep(0.01)


def around(next_handler: Handler) -> Handler:
    return lambda task: f"around {next_handler(task)}"


@pytest.mark.parametrize("handler", [fetch, lambda task: f"fetched {task.payload}", hiding(fetch)])
def test_all_forms_of_middleware_go_around_handlers_of_both_kinds(mux: ServeMux, handler: Any) -> None:
    def drive() -> object:
        seen = steps_of(mux)
        mux.use(around)
        mux.handle("test:it", handler)
        return [outcome(mux), seen]

    assert in_child(drive) == ["Completed(result='around fetched 7')", ["async generator"]]


@pytest.mark.parametrize("nests", [False, True])
def test_the_timeout_of_a_handler_on_the_loop_arrives_in_all_forms_of_middleware(mux: ServeMux, *, nests: bool) -> None:
    def drive() -> object:
        seen = steps_of(mux)
        if nests:
            mux.use(around)
        mux.handle("test:it", wait)
        return [outcome(mux), seen]

    assert in_child(drive) == ["TaskTimeoutError: late", ["async generator", "generator: CancelledError"]]


def test_the_timeout_of_a_handler_in_a_thread_arrives_in_all_forms_of_middleware(mux: ServeMux) -> None:
    def drive() -> object:
        seen = steps_of(mux)
        mux.use(around)
        mux.handle("test:it", wait_plain)
        return [outcome(mux), seen]

    assert in_child(drive) == ["TaskTimeoutError: late", ["async generator", "generator: TaskTimeoutError"]]


def test_a_timeout_ends_middleware_that_awaits_around_a_plain_handler(mux: ServeMux) -> None:
    seen: list[str] = []

    @mux.use
    async def slow(task: Task) -> AsyncIterator[None]:
        try:
            yield
            waits.set()
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    def drive() -> object:
        mux.handle("test:it", lambda task: seen.append("handler"))
        return [outcome(mux), seen]

    assert in_child(drive) == ["TaskTimeoutError: late", ["handler", "cleaned up"]]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_timeout_ends_plain_middleware_that_blocks_the_loop(mux: ServeMux, moment: str) -> None:
    seen: list[str] = []

    @mux.use
    def blocking(next_handler: Handler) -> Handler:
        def handle(task: Task) -> Any:
            try:
                if moment == "before":
                    wait_plain(task)
                next_handler(task)
                wait_plain(task)
            except TaskInterrupt as error:
                seen.append(str(error))
                raise

        return handle

    def drive() -> object:
        mux.handle("test:it", fetch)
        return [outcome(mux), seen]

    assert in_child(drive) == ["TaskTimeoutError: late", ["late"]]


@pytest.mark.parametrize(
    ("limit", "told"),
    [(LATE, ["TaskTimeoutError: late"]), (ShutdownTimeoutError("the drain has ended"), [])],
)
@pytest.mark.parametrize("handler", [wait, wait_plain, hiding(wait)])
def test_the_lines_of_an_interrupted_attempt_say_why_and_those_of_a_released_one_nothing(
    mux: ServeMux, caplog: pytest.LogCaptureFixture, handler: Any, limit: TaskInterrupt, told: list[str]
) -> None:
    def drive() -> object:
        mux.handle("test:it", handler)
        with caplog.at_level(logging.INFO, "boilerd.task"):
            outcome(mux, limit)
        return [record.error for record in caplog.records if record.getMessage() == "task failed"]  # type: ignore[attr-defined]

    assert in_child(drive) == told
