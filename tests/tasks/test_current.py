"""Which task runs, for code that its handler calls."""

import asyncio
import contextvars
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from boilerd import ServeMux, Task, current_task
from boilerd.testing import run


@dataclass
class Mail:
    to: str


def who() -> str:
    """What a library far from the handler would do."""
    return current_task().id


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


def test_outside_of_a_handler_there_is_none(mux: ServeMux) -> None:
    context = contextvars.Context()
    mux.handle("who", lambda task: who())

    with pytest.raises(RuntimeError, match="for code that a handler calls, and no handler runs here"):
        context.run(current_task)
    assert context.run(run, mux, "who", id="a") == "a"
    with pytest.raises(RuntimeError, match="no handler runs here"):
        context.run(current_task)


def test_code_that_a_handler_calls_finds_the_task_in_a_test_as_well(mux: ServeMux) -> None:
    mux.handle("who", lambda task: who())

    assert [run(mux, "who", id=task_id) for task_id in ("a", "b")] == ["a", "b"]


def test_an_async_handler_and_the_tasks_of_asyncio_that_it_starts_find_it(mux: ServeMux) -> None:
    @mux.handle("who")
    async def handler(task: Task) -> list[str]:
        async def later() -> str:
            await asyncio.sleep(0)
            return who()

        return [who(), *await asyncio.gather(later(), asyncio.create_task(later()), asyncio.to_thread(who))]

    assert run(mux, "who", id="a") == ["a"] * 4


def test_a_thread_finds_it_in_a_copy_of_the_handlers_context(mux: ServeMux) -> None:
    @mux.handle("who")
    def handler(task: Task) -> list[str]:
        found: list[str] = []
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: found.append(context.run(who)))
        thread.start()
        thread.join()
        return found

    assert run(mux, "who", id="a") == ["a"]


def test_it_is_the_task_as_the_handler_sees_it_with_its_payload_decoded(mux: ServeMux) -> None:
    seen: list[Task] = []

    @mux.handle("mail", payload=Mail)
    def handler(task: Task) -> None:
        seen.extend([task, current_task()])

    run(mux, "mail", {"to": "ada"})

    assert seen[0] is seen[1]
    assert seen[1].payload == Mail("ada")


def test_middleware_finds_it_before_and_after_the_handler(mux: ServeMux) -> None:
    seen: list[Any] = []

    @mux.use
    def noting(next_handler: Any) -> Any:
        def handler(task: Task) -> None:
            seen.append(current_task().id)
            next_handler(task)
            seen.append(current_task().id)

        return handler

    mux.handle("mail", lambda task: None, payload=Mail)

    run(mux, "mail", {"to": "ada"}, id="a")

    assert seen == ["a", "a"]


def test_a_task_that_a_handler_runs_for_a_test_is_the_current_one_until_it_ends(mux: ServeMux) -> None:
    mux.handle("inner", lambda task: who())
    mux.handle("outer", lambda task: [who(), run(mux, "inner", id="b"), who()])

    assert run(mux, "outer", id="a") == ["a", "b", "a"]
