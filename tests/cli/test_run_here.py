"""``boilerd task run-here``: one attempt in the foreground."""

import json
import os
import pty
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from builders import in_state
from support import Valkey, clean_environment, python_path, wait_until

APP = """
import os, subprocess, sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from boilerd import ServeMux, current_task

@dataclass
class Order:
    number: int

mux = ServeMux()

@mux.use
def tell(next_handler):
    def handler(task):
        print("middleware", flush=True)
        return next_handler(task)
    return handler

@mux.error_handler
def alert(task, error):
    print("alert", flush=True)

@mux.handle("test:echo")
def echo(task):
    subprocess.run(["echo", "printed by a program"])
    task.logger.info("at work")
    task.write_result("half")
    return {"id": task.id, "payload": task.payload, "attempt": task.attempt, "is": current_task() is task,
            "left": str(task.remaining())}

@mux.handle("order:send", payload=Order)
async def send(task):
    return task.payload.number

@mux.handle("test:fail")
def fail(task):
    raise ValueError("bad thing")

@mux.on_daemon_start
def prepare():
    print("daemon starts", flush=True)

@mux.lifespan
@asynccontextmanager
async def live(worker):
    print("enter", worker.name, flush=True)
    if os.environ.get("BREAK"):
        raise OSError("no database")
    yield {"greeting": "hello"}
    print("leave", flush=True)

@mux.handle("test:state")
async def state(task):
    return task.state["greeting"]

@mux.handle("test:debug")
def debug(task):
    secret = 42
    breakpoint()
    return secret
"""


@pytest.fixture
def env(directory: Path, valkey: Valkey) -> dict[str, str]:
    (directory / "shop.py").write_text(APP)
    return clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_APP="shop:mux", BOILERD_STATE_DIR=str(directory),
        PYTHONPATH=python_path(directory),
    )  # fmt: skip


def run_here(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "boilerd", "task", "run-here", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def dump(connection: Any) -> dict[bytes, bytes]:
    """All that a broker holds."""
    return {key: connection.dump(key) for key in connection.keys("*")}


STATES = [TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.COMPLETED]


@pytest.mark.parametrize("state", STATES)
def test_a_task_that_does_not_run_is_tried_and_stays_as_it_is(
    client: Client, broker: Broker, connection: redis.Redis, env: dict[str, str], state: TaskState
) -> None:
    task_id = in_state(client, broker, state)
    before = dump(connection)

    done = run_here(env, task_id)

    attempt = 2 if state is TaskState.RETRY else 1
    assert json.loads(done.stdout) == {"id": task_id, "payload": 1, "attempt": attempt, "is": True, "left": "inf"}
    assert done.returncode == 0
    assert dump(connection) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_user_of_the_settings(env: dict[str, str], directory: Path) -> None:
    directory.chmod(0o755)
    (directory / "whose.py").write_text(
        'import os\nfrom boilerd import ServeMux\nmux = ServeMux()\nmux.handle("a:b", lambda _: os.getresuid())\n'
    )

    done = run_here({**env, "BOILERD_APP": "whose:mux", "BOILERD_USER": "nobody"}, "a:b", "--payload", "1")

    assert json.loads(done.stdout) == [pwd.getpwnam("nobody").pw_uid] * 3


def test_only_the_result_goes_to_stdout_and_all_else_to_stderr(env: dict[str, str]) -> None:
    done = run_here(env, "test:echo", "--payload", '{"ä": 1}')

    assert json.loads(done.stdout)["payload"] == {"ä": 1}
    assert done.stdout.count("\n") == 1
    printed = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert printed == ["daemon starts", "enter here", "middleware", "printed by a program", "leave"]
    assert [line["message"] for line in logged] == ["task started", "at work", "task completed"]
    assert {line["task_type"] for line in logged} == {"test:echo"}


def test_an_attempt_that_fails_shows_its_traceback_and_asks_no_hook(
    client: Client, connection: redis.Redis, env: dict[str, str]
) -> None:
    task_id = client.enqueue("test:fail").id
    before = dump(connection)

    done = run_here(env, task_id)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ValueError: bad thing\n")
    assert "in fail\n    raise ValueError" in done.stderr
    assert "alert" not in done.stderr
    assert dump(connection) == before


def test_a_payload_is_decoded_as_its_handler_declared_and_a_coroutine_is_awaited(env: dict[str, str]) -> None:
    done = run_here(env, "order:send", "--payload", '{"number": 7}')
    misfit = run_here(env, "order:send", "--payload", '{"number": "x"}')

    assert done.stdout == "7\n"
    assert misfit.returncode == 1
    assert "$.number" in misfit.stderr


def test_the_handler_has_what_the_lifespans_made_and_one_that_fails_is_told(env: dict[str, str]) -> None:
    done = run_here(env, "test:state", "--payload", "1")
    broken = run_here({**env, "BREAK": "1"}, "test:state", "--payload", "1")

    assert done.stdout == '"hello"\n'
    assert (broken.returncode, broken.stdout) == (1, "")
    assert broken.stderr.endswith("OSError: no database\n")


def test_a_task_that_runs_is_left_alone(client: Client, broker: Broker, env: dict[str, str]) -> None:
    task_id = in_state(client, broker, TaskState.ACTIVE)

    done = run_here(env, task_id)

    assert done.returncode == 1
    assert f"cannot run here task {task_id}: state is active" in done.stderr


def test_an_id_that_nobody_has_and_a_payload_that_is_no_json_are_errors(env: dict[str, str]) -> None:
    unknown, broken = run_here(env, "nobody"), run_here(env, "test:echo", "--payload", "{")
    without = run_here(env, "test:echo")

    assert (unknown.returncode, broken.returncode, without.returncode) == (1, 2, 2)
    assert without.stderr == (
        "boilerd: error: 'test:echo' is a task type and no ID; give it a --payload, such as 'null'\n"
    )
    assert unknown.stderr.startswith("boilerd: error: task 'nobody' does not exist")
    assert broken.stderr.startswith("boilerd: error: payload is not JSON")


def test_a_type_without_a_handler_is_an_error_that_names_the_application(env: dict[str, str]) -> None:
    done = run_here(env, "nobody:does", "--payload", "1")

    assert done.returncode == 2
    assert done.stderr == (
        "boilerd: error: app shop:mux has no handler for task type 'nobody:does';"
        " name the application with --app, or in the settings\n"
    )


def test_a_job_that_no_worker_would_run_is_not_run_here(
    client: Client, connection: redis.Redis, env: dict[str, str]
) -> None:
    task_id = client.enqueue("test:echo").id
    connection.hset(keys.job(task_id), "data", '["os.system",null,["true"],{}]')

    done = run_here(env, task_id)

    assert done.returncode == 1
    assert "function 'os.system' is not a registered task; it was not imported" in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_breakpoint_opens_the_debugger_on_the_terminal(env: dict[str, str], directory: Path) -> None:
    ours, theirs = pty.openpty()
    result = directory / "result"
    command = [sys.executable, "-m", "boilerd", "task", "run-here", "test:debug", "--payload", "1"]
    with result.open("wb") as stdout:
        process = subprocess.Popen(command, env=env, stdin=theirs, stdout=stdout, stderr=theirs)
    shown = bytearray()

    def shows(text: bytes) -> Any:
        if text not in shown:
            shown.extend(os.read(ours, 4096))
        return text in shown

    try:
        wait_until(lambda: shows(b"(Pdb) "), "the debugger asks")
        os.write(ours, b"p secret + 58\nc\n")
        wait_until(lambda: shows(b"100"), "it answers")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)

    assert result.read_text() == "42\n"
