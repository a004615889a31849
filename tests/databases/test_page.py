"""What docs/databases.md shows is done with a real database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client, Inspector
from pages import DOCS, blocks, codes, prose
from postgres import Postgres
from support import StartDaemon, Valkey
from walkthrough import Session

PAGE = DOCS / "databases.md"
URL = "postgresql+psycopg://app@localhost/app"
#: Takes the module of an example, the type of a task and its payload; more of the module, and options of the task.
Run = Callable[..., Any]
TOLD_OF_TASKS = {"task failed", "task archived"}
#: Behind the example with a session: a task that writes, and then asks for something that takes longer than it may.
STUCK = """
@mux.handle("order:stuck")
def stuck(task: Task) -> None:
    current_session.get().execute(text("insert into done (task_id) values ('stuck')"))
    current_session.get().execute(text("select pg_sleep(60)"))
"""


@pytest.fixture
def run(
    start_daemon: StartDaemon, directory: Path, postgres: Postgres, client: Client, valkey: Valkey
) -> Iterator[Run]:
    """Have a daemon with an example of the page run one task; what that returned."""

    def run_example(module: str, task_type: str, payload: Any, more: str = "", **options: Any) -> Any:
        (text,) = (block.text for block in blocks(PAGE) if block.text.startswith(f"# {module}.py\n"))
        (directory / f"{module}.py").write_text(text.replace(URL, postgres.url) + more)
        client.enqueue(task_type, payload, task_id="task", retention=60, max_retries=0, **options)
        env = {"BOILERD_APP": f"{module}:mux"}
        daemon = start_daemon("--burst", "--concurrency", "2", directory=directory, env=env)
        assert daemon.wait() == 0
        told = {line["message"] for line in daemon.lines() if line["level"] in {"warning", "error"}}
        assert told <= {"tasks may be lost", *TOLD_OF_TASKS}  # the tests' Valkey keeps nothing on disk
        result = inspector.task("task").result
        inspector.delete("task")
        return result

    with Inspector.from_url(valkey.url) as inspector:
        yield run_example


def test_the_page_is_followed_to_its_end(directory: Path, valkey: Valkey, postgres: Postgres) -> None:
    with Session(directory, BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory / "state")) as reader:
        reader.replace(URL, postgres.url).follow(PAGE)


@pytest.mark.parametrize("module", ["catalog", "prices"])
def test_an_example_that_asks_gets_its_answer(module: str, run: Run) -> None:
    result = run(module, "order:double", {"n": 21})

    assert result == 42


def test_the_example_with_a_session_rolls_back_what_a_timeout_cuts(run: Run, postgres: Postgres) -> None:
    with postgres.connect() as connection:
        connection.execute("create table done (task_id text primary key)")
        run("orders", "order:stuck", None, STUCK, timeout=1)
        done = connection.execute("select * from done").fetchall()

    assert done == []


def test_the_example_with_a_session_pays_once_however_often_it_runs(run: Run, postgres: Postgres) -> None:
    (table,) = (code for code in codes(prose(PAGE)) if code.startswith("create table"))
    with postgres.connect() as connection:
        connection.execute(table)
        connection.execute("create table orders (id int primary key, paid int)")
        connection.execute("insert into orders values (1, 0)")
        results = [run("orders", "order:pay", {"order": 1, "amount": 5}) for _ in range(2)]
        paid = connection.execute("select paid from orders").fetchall()

    assert results == ["paid", "was paid before"]
    assert paid == [(5,)]
