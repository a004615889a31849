"""What docs/databases.md shows is done with a real database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client, Inspector
from pages import DOCS, blocks, codes, prose
from postgres import Postgres
from support import QUICK_RETRY, StartDaemon, Valkey
from walkthrough import Session

PAGE = DOCS / "databases.md"
URL = "postgresql+psycopg://app@localhost/app"
#: Takes the module of an example, the type of a task and its payload; more of the module, what the log tells of the
#: task's end, and options of the task.
Run = Callable[..., Any]
WARNING = "connections that the import opened are shared by all workers"
#: Behind the example with a session: a task that writes, and then asks for what takes longer than it may.
STUCK = """
@mux.handle("order:stuck")
def stuck(task: Task) -> None:
    current_session.get().execute(text("insert into done (task_id) values ('stuck')"))
    current_session.get().execute(text("select pg_sleep(60)"))
"""
#: Around the example with a session: it has committed, and its worker is killed, once.
KILLED = """
import os
inner, mux = mux, ServeMux()
mux.handle("order:", inner)

@mux.use
def kill_first(next_handler):
    def handle(task):
        result = next_handler(task)
        if task.runs == 1:
            os.kill(os.getpid(), 9)
        return result
    return handle
"""


@pytest.fixture
def run(
    start_daemon: StartDaemon, directory: Path, postgres: Postgres, client: Client, valkey: Valkey
) -> Iterator[Run]:
    """Have a daemon with an example of the page run one task; what that returned."""

    def run_example(
        module: str, task_type: str, payload: Any, more: str = "", told: str = "task completed", **options: Any
    ) -> Any:
        (text,) = (block.text for block in blocks(PAGE) if block.text.startswith(f"# {module}.py\n"))
        (directory / f"{module}.py").write_text(text.replace(URL, postgres.url) + more)
        info = client.enqueue(task_type, payload, retention=60, **options)
        env = {"BOILERD_APP": f"{module}:mux", **QUICK_RETRY}
        # Not a burst, which does not wait for the retry of a task whose worker was killed.
        daemon = start_daemon("--concurrency", "2", directory=directory, env=env).ready()
        daemon.wait_for(told, task_id=info.id)
        assert daemon.stop() == 0
        assert not daemon.lines(WARNING)
        return inspector.task(info.id).result

    with Inspector.from_url(valkey.url) as inspector:
        yield run_example


def test_the_page_is_followed_to_its_end(directory: Path, valkey: Valkey, postgres: Postgres) -> None:
    with Session(directory, BOILERD_REDIS_URL=valkey.url) as reader:
        reader.replace(URL, postgres.url).follow(PAGE)


@pytest.mark.parametrize("module", ["catalog", "prices"])
def test_an_example_that_asks_gets_its_answer(module: str, run: Run) -> None:
    result = run(module, "order:double", {"n": 21})

    assert result == 42


def test_the_example_with_a_session_rolls_back_what_a_timeout_cuts(run: Run, postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute("create table done (task_id text primary key)")
        run("orders", "order:stuck", None, STUCK, told="task archived", timeout=1, max_retries=0)
        done = connection.execute("select * from done").fetchall()

    assert done == []


def test_the_example_with_a_session_pays_once_although_its_worker_is_killed_behind_the_commit(
    run: Run, postgres: Postgres
) -> None:
    (table,) = (code for code in codes(prose(PAGE)) if code.startswith("create table"))
    with postgres.connect() as connection:
        connection.execute(table)
        connection.execute("create table orders (id int primary key, paid int)")
        connection.execute("insert into orders values (1, 0)")
        result = run("orders", "order:pay", {"order": 1, "amount": 5}, KILLED)
        paid = connection.execute("select paid from orders").fetchall()

    assert result == "was paid before"
    assert paid == [(5,)]
