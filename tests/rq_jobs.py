"""Functions of plain RQ's jobs, as an application that moves to boilerd has them."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import run  # noqa: F401 - what a module imports is not its own
from typing import Any

from rq import Retry, get_current_job


def add(first: int, second: int = 0) -> int:
    return first + second


def add_all(*numbers: int) -> int:
    return sum(numbers)


def fail() -> None:
    raise RuntimeError("failed as told")


def tell(**meta: Any) -> str:
    """Leave a note at the job, as RQ's users do."""
    job = get_current_job()
    assert job is not None
    job.meta.update(meta)
    job.save_meta()
    return str(job.id)


def leave_mark(job: Any, connection: Any, *_: Any) -> None:
    """A callback."""
    Path("called").touch()


def find_job() -> bool:
    return get_current_job() is not None


async def find_own_job() -> str:
    await asyncio.sleep(0)
    job = get_current_job()
    assert job is not None
    return str(job.id)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(60)


async def wait(answer: str) -> str:
    await asyncio.sleep(0)
    return answer


def count() -> Iterator[int]:
    yield 1


def ask_again(most: int, interval: int | list[int] = 0) -> Retry:
    """Have itself called again, as RQ's users do, until it may not any more."""
    return Retry(max=most, interval=interval)


async def ask_once() -> Retry | str:
    job = get_current_job()
    assert job is not None
    return "done" if job.number_of_retries else Retry(max=3)


class Mailer:
    @staticmethod
    def send(to: str) -> str:
        return f"to {to}"
