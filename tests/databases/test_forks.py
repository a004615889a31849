"""An application's connections to a database, behind a daemon that forks: each worker must get its own answers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from boilerd import Client
from postgres import Postgres
from support import DEADLINE_S, QUICK_RETRY, RunningDaemon, StartDaemon, wait_until

#: More of them find no more; a run with 600 takes some seconds.
QUERIES = int(os.environ.get("QUERIES", "40"))
WARNING = "connections that the import opened are shared by all workers"

#: In all of them a task asks the database for its own payload, and for the backend that answers.
SYNC = """
import os
from contextlib import contextmanager
from sqlalchemy import create_engine, text
from boilerd import ServeMux

mux = ServeMux()
url = os.environ["DATABASE_URL"]
question = text("select cast(:n as int), pg_backend_pid() from pg_sleep(:s)")

@mux.handle("ask")
def ask(task):
    with engine_of(task).connect() as connection:
        asked = task.payload if task.attempt == 1 else task.payload | {"s": 0}
        n, backend = connection.execute(question, asked).one()
    return {"n": n, "backend": backend, "worker": os.getpid()}

def engine_of(task):
    return engine

def used():
    engine = create_engine(url)  # without pool_pre_ping, which sees some of the confusion and hides it
    with engine.connect() as connection:
        connection.execute(text("select 1"))
    return engine
"""
NOTHING = "engine = used()\n"
BEFORE_FORK = """
engine = used()

@mux.before_fork
def close_connections():
    engine.dispose()
"""
OWN_POOL = """
engine = used()

@mux.lifespan
@contextmanager
def own_connections(worker):
    engine.dispose(close=False)
    yield
    engine.dispose()
"""
OWN_ENGINE = """
@mux.lifespan
@contextmanager
def database(worker):
    engine = create_engine(url, pool_pre_ping=True)
    yield {"engine": engine}
    engine.dispose()

def engine_of(task):
    return task.state["engine"]
"""
ASYNC = """
import asyncio, os
from contextlib import asynccontextmanager
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from boilerd import ServeMux

mux = ServeMux()
question = text("select cast(:n as int), pg_backend_pid() from pg_sleep(:s)")

@mux.lifespan
@asynccontextmanager
async def database(worker):
    engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=1, pool_pre_ping=True)
    yield {"engine": engine, "loop": asyncio.get_running_loop()}
    await engine.dispose()

@mux.handle("ask")
async def ask(task):
    assert asyncio.get_running_loop() is task.state["loop"]
    async with task.state["engine"].connect() as connection:
        asked = task.payload if task.attempt == 1 else task.payload | {"s": 0}
        n, backend = (await connection.execute(question, asked)).one()
    return {"n": n, "backend": backend, "worker": os.getpid()}
"""


class Answers(NamedTuple):
    """What tasks were told: the numbers in the order of the tasks, and which worker was told by which backend."""

    numbers: list[int]
    pairs: set[tuple[int, int]]

    @property
    def is_apart(self) -> bool:
        """Whether no backend has answered two workers."""
        return len({backend for _, backend in self.pairs}) == len(self.pairs)


@pytest.fixture
def start(start_daemon: StartDaemon, directory: Path, postgres: Postgres) -> Callable[[str], RunningDaemon]:
    """Start a daemon with four workers and an application that is given as text."""

    def start_with(application: str) -> RunningDaemon:
        (directory / "shop.py").write_text(application)
        env = {"BOILERD_APP": "shop:mux", "DATABASE_URL": postgres.url, **QUICK_RETRY}
        return start_daemon("--concurrency", "4", directory=directory, env=env).ready()

    return start_with


def enqueue(client: Client, count: int, seconds: float, timeout_s: int = 600) -> list[str]:
    """Enqueue tasks that ask the database for 0, 1, 2 …, and keep it busy for so long each, at the first attempt."""
    tasks = ({"n": n, "s": seconds} for n in range(count))
    return [client.enqueue("ask", payload, retention=600, timeout=timeout_s).id for payload in tasks]


def answers(client: Client, task_ids: list[str]) -> Answers:
    """Wait until all of them have completed."""
    results = [client.wait(task_id, DEADLINE_S) for task_id in task_ids]
    return Answers([each["n"] for each in results], {(each["worker"], each["backend"]) for each in results})


@pytest.mark.parametrize("application", [SYNC + BEFORE_FORK, SYNC + OWN_POOL], ids=["before_fork", "lifespan"])
def test_each_task_gets_its_own_row_although_the_import_used_the_engine(
    application: str, start: Callable[[str], RunningDaemon], client: Client
) -> None:
    start(application)

    told = answers(client, enqueue(client, QUERIES, 0.01))

    assert told.numbers == list(range(QUERIES))
    assert told.is_apart


def test_an_engine_that_the_import_used_is_told_of_with_its_peer_and_the_hooks_that_help(
    start: Callable[[str], RunningDaemon], postgres: Postgres
) -> None:
    daemon = start(SYNC + NOTHING)

    (told,) = daemon.lines(WARNING)

    assert told["peers"] == [str(postgres.socket)]
    assert "mux.before_fork" in told["hint"]
    assert "mux.lifespan" in told["hint"]


def sleeping(postgres: Postgres) -> int:
    """How many backends sleep in a question."""
    with postgres.connect() as connection:
        found = connection.execute("select count(*) from pg_stat_activity where wait_event = 'PgSleep'").fetchone()
    return int(found[0]) if found else 0


def test_a_restart_of_the_database_fails_only_the_attempts_that_it_cut(
    start: Callable[[str], RunningDaemon], postgres: Postgres, client: Client
) -> None:
    daemon = start(SYNC + OWN_ENGINE)
    answers(client, enqueue(client, QUERIES, 0.01))
    cut = enqueue(client, 2, 60)
    wait_until(lambda: sleeping(postgres) == 2, "two tasks wait for the database")

    postgres.stop()
    postgres.start()
    later = enqueue(client, QUERIES, 0.01)

    assert answers(client, cut + later).numbers == [0, 1, *range(QUERIES)]
    assert {line["task_id"] for line in daemon.lines("task failed")} == set(cut)


@pytest.mark.parametrize("application", [SYNC + OWN_ENGINE, ASYNC], ids=["sync", "async"])
def test_each_task_gets_its_own_row_before_and_after_timeouts_within_queries_of_its_workers_engine(
    application: str, start: Callable[[str], RunningDaemon], client: Client
) -> None:
    daemon = start(application)
    first = enqueue(client, QUERIES, 0.01)
    cut = enqueue(client, 4, 60, timeout_s=1)
    daemon.wait_for("task failed", count=4)

    told = answers(client, first + cut + enqueue(client, QUERIES, 0.01))

    assert told.numbers == [*range(QUERIES), *range(4), *range(QUERIES)]
    assert told.is_apart
