"""The application of the chaos: what its handlers do, and how they note each run in files outside of Redis.

Every kind of task has a plain handler and an async one; each pool runs both.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from boilerd import AsyncClient, Client, ServeMux, SkipRetry, Task, TaskIdConflictError

mux = ServeMux()
runs = Path(__file__).parent / "runs"
#: Whose context it is.
WHO: ContextVar[str] = ContextVar("who")
#: Kinds whose first attempt lasts longer than their timeout, and that raise until their third.
LATE, FLAKY = "late", "flaky"
#: What a handler sleeps that is to be overtaken by a timeout or a cancel; longer than the drain.
LONG_S = 5.0


@mux.lifespan
@asynccontextmanager
async def clients(_: Any) -> AsyncIterator[dict[str, Any]]:
    """Make one client for all tasks of a worker."""
    async with AsyncClient(client := Client.from_settings()) as awaited:
        yield {"client": client, "awaited": awaited}


def note(task: Task, what: str) -> None:
    """Write a line to the file of this process."""
    line = f"{task.id} {task.attempt} {what} {time.monotonic():.6f} {task.queue} {task.payload}\n"
    fd = os.open(runs / str(os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


@contextmanager
def noted(task: Task) -> Iterator[str]:
    """Note how the run inside begins and ends; yields its kind."""
    kind = task.type.partition(":")[2]
    WHO.set(task.id)
    # Where the headers are not the task's, it counts as completed without a run.
    note(task, "start" if task.headers == {"id": task.id} else "damaged")
    try:
        yield kind
    except Exception:
        note(task, "raise")
        raise
    except BaseException:
        note(task, "raise" if kind == LATE else "cut")
        raise
    note(task, "end" if WHO.get() == task.id else "mixed")


def raise_if_it_must(task: Task, kind: str) -> None:
    """Fail, where it is of a kind that does."""
    if kind == "doomed":
        raise SkipRetry("doomed")
    if kind == FLAKY and task.attempt < 3:
        raise OSError("flaky")


def length_s(task: Task, kind: str) -> float:
    """How long the handler is to sleep."""
    if kind in {"cancelled", LATE} and task.attempt == 1:
        return LONG_S
    return hash(task.id) % 300 / 1000 if kind in {"slow", "unique", "shared"} else 0.0


def child_of(task: Task) -> tuple[str, dict[str, Any]]:
    """The type and the options of the task that a parent enqueues: with the same ID when it runs again."""
    child = f"{task.id}-child"
    options = {"task_id": child, "queue": task.queue, "retention": 7200, "headers": {"id": child}}
    return task.type.replace("parent", "quick"), options


@mux.handle("plain:")
def plain(task: Task) -> str:
    """Run in a thread, or in a worker with one slot."""
    with noted(task) as kind:
        raise_if_it_must(task, kind)
        if sleeps_s := length_s(task, kind):
            task.progress(0, 1)
            time.sleep(sleeps_s)  # noqa: TID251 - the application knows no inbox
        if kind == "parent":
            task_type, options = child_of(task)
            with suppress(TaskIdConflictError):
                task.state["client"].enqueue(task_type, **options)
            note(task, "child")
    return task.id


@mux.handle("async:")
async def awaits(task: Task) -> str:
    """Run on a loop."""
    with noted(task) as kind:
        raise_if_it_must(task, kind)
        if sleeps_s := length_s(task, kind):
            task.progress(0, 1)
            await asyncio.sleep(sleeps_s)
        if kind == "parent":
            task_type, options = child_of(task)
            with suppress(TaskIdConflictError):
                await task.state["awaited"].enqueue(task_type, **options)
            note(task, "child")
        if kind == "blocking":
            time.sleep(0.03)  # noqa: ASYNC251, TID251 - it is what may happen
    return task.id
