"""The plugin for pytest, in projects of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from support import DEADLINE_S, clean_environment, python_path

APP = """
from boilerd import AsyncClient, Client, ServeMux
import time

mux = ServeMux()
client, async_client = Client.from_settings(), AsyncClient.from_settings()
mux.handle("echo", lambda task: task.payload)
mux.handle("asks", lambda task: client.enqueue("echo", "asked", task_id="asked", retention=60).id)
mux.handle("fail", lambda task: 1 / 0)
mux.handle("slow", lambda task: time.sleep(task.payload))
"""


def run_tests(
    directory: Path, tests: str, *options: str, ini: str = "boilerd_app = app:mux", cwd: Path | None = None
) -> str:
    """What pytest prints of a project with these tests."""
    (directory / "app.py").write_text(APP)
    (directory / "test_project.py").write_text(tests)
    (directory / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pytest_boilerd", "-p", "no:valkey", "-p", "no:randomly",
         "-p", "no:cacheprovider", "-q", *options],
        cwd=cwd or directory, env=clean_environment(PYTHONPATH=python_path()), capture_output=True, text=True,
        timeout=6 * DEADLINE_S, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_project_does_not_import_boilerd_before_it_uses_a_fixture(directory: Path) -> None:
    printed = run_tests(
        directory,
        """
import sys

def test_nothing():
    assert [name for name in sys.modules if name.split(".")[0] in ("boilerd", "redis", "msgspec")] == []

def test_rewriting(pytestconfig):
    import boilerd
    assert not isinstance(boilerd.__spec__.loader, type(pytestconfig.pluginmanager.rewrite_hook))

def test_client(boilerd_client): ...
""",
        ini="",
    )

    assert "2 passed, 1 error" in printed, printed
    assert 'boilerd_app is not set, and the fixtures of boilerd need a mux; write boilerd_app = "tasks:mux"' in printed


def test_each_test_has_a_client_of_its_own_that_takes_what_clients_of_modules_enqueue(directory: Path) -> None:
    printed = run_tests(
        directory,
        """
import app, asyncio, pytest

def test_waits(boilerd_client):
    info = app.client.enqueue("echo", 1, retention=60)
    other = asyncio.run(app.async_client.enqueue("echo", 2, retention=60))
    with pytest.raises(RuntimeError, match="drain first"):
        app.client.wait(info.id)
    boilerd_client.drain()
    assert info.wait() == app.client.wait(info.id) == 1
    assert asyncio.run(app.async_client.wait(other.id)) == 2

@pytest.mark.parametrize("number", [1, 2])
def test_own(boilerd_client, number):
    app.client.enqueue("echo", number)
    asyncio.run(app.async_client.enqueue("echo", number))
    assert [attempt.result for attempt in boilerd_client.drain()] == [number, number]

def test_one_store(boilerd_client, boilerd_async_client):
    asyncio.run(boilerd_async_client.enqueue("echo", 1))
    boilerd_client.assert_enqueued("echo", 1)

def test_not_overridden():
    assert type(app.client._store).__name__ == "Broker"

@pytest.mark.boilerd(strict=True)
def test_leaves(boilerd_client):
    boilerd_client.enqueue("echo")

@pytest.mark.boilerd(strict=True)
def test_leaves_none(boilerd_client):
    boilerd_client.enqueue("echo")
    boilerd_client.drain()

@pytest.mark.boilerd(workers=2)
def test_marker(boilerd_client): ...
""",
    )

    assert "7 passed, 2 errors" in printed, printed
    assert "the test has left tasks that wait: echo (pending); drain or cancel them" in printed
    assert "mark boilerd takes concurrency=, settings= and strict=, and not workers" in printed


def test_the_application_is_found_from_where_the_settings_of_pytest_are(directory: Path) -> None:
    (directory / "tests").mkdir()
    (directory / "tests" / "test_below.py").write_text("""
def test_client(boilerd_client):
    boilerd_client.enqueue("echo", 1)
""")

    printed = run_tests(directory, "", "--import-mode=importlib", cwd=directory / "tests")

    assert "1 passed" in printed, printed


@pytest.mark.long(4)
def test_clients_of_modules_reach_the_daemon_of_a_test_here_and_in_its_handlers(directory: Path) -> None:
    printed = run_tests(
        directory,
        """
import app, pytest

def test_clients(boilerd_daemon):
    info = app.client.enqueue("asks", retention=60)
    assert info.wait(timeout=20) == "asked"
    assert app.client.wait("asked", timeout=20) == "asked"
    app.client.enqueue("fail", max_retries=0, task_id="failed")
    boilerd_daemon.wait_for("fail", "archived", timeout=20)
    with pytest.raises(AssertionError, match="task failed is archived, ZeroDivisionError: division by zero"):
        boilerd_daemon.wait_for("fail", "completed", timeout=0)

def test_not_overridden():
    assert app.client._store.connection is app.client.connection
""",
    )

    assert "2 passed" in printed, printed


@pytest.mark.long(8)
@pytest.mark.timeout(150)
def test_a_daemon_runs_tasks_is_killed_goes_on_and_shows_its_log_where_a_test_fails(directory: Path) -> None:
    printed = run_tests(
        directory,
        """
import os, pytest

pytestmark = pytest.mark.boilerd(settings={"prefetch": False})

@pytest.mark.boilerd(concurrency=2, settings={"log_level": "warning"})
def test_killed(boilerd_daemon):
    daemon = boilerd_daemon
    assert len(daemon.inspector.workers()) == 2
    daemon.client.enqueue("slow", 0.1, task_id="later", process_in=3600)
    daemon.client.enqueue("slow", 600, task_id="slow")
    daemon.wait_for("slow", "active", timeout=20)
    daemon.kill()
    with pytest.raises(AssertionError, match="the daemon has ended as it was killed or stopped before it was idle"):
        daemon.wait_idle()
    daemon.restart()
    assert daemon.inspector.task("later").state == "scheduled"
    daemon.wait_for("slow", "active", timeout=20)
    with pytest.raises(AssertionError, match="until it was idle: default has 0 pending, 1 active and 0 due tasks"):
        daemon.wait_idle(timeout=0.01)
    daemon.client.cancel("slow")
    daemon.wait_idle(timeout=20)

def test_fails(boilerd_daemon):
    boilerd_daemon.client.enqueue("echo", 1)
    assert boilerd_daemon.wait_for("echo", "completed", timeout=20).type == "echo"
    boilerd_daemon.wait_for("other", timeout=0)
""",
    )

    assert "waited 0 s in vain until a task 'other' was enqueued" in printed
    assert "Captured boilerd call" in printed
    assert '"message":"task completed"' in printed
    assert "1 failed, 1 passed" in printed, printed
