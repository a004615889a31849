"""The end of a worker: its exit handlers, its streams, and what its tasks have started."""

import time
from pathlib import Path

import pytest

from boilerd import Client
from support import RunningDaemon, StartDaemon, is_running, wait_until

APP = """
import atexit, os, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from boilerd import ServeMux

mux = ServeMux()
shared = tempfile.TemporaryDirectory(dir=".")
Path("shared").write_text(shared.name)
executors = []
atexit.register(lambda: Path(f"import-{os.getpid()}").touch())

@mux.handle("end:handlers")
def handlers(task):
    atexit.register(lambda: Path("task-handler").touch())
    atexit.register(int, "an exit handler that raises")
    print('{"printed": true}')
    own = tempfile.TemporaryDirectory(dir=".")
    executors.append(own)
    Path("own").write_text(own.name)

@mux.handle("end:executors")
def pool(task):
    processes, threads = ProcessPoolExecutor(2), ThreadPoolExecutor(1)
    executors.extend([processes, threads])
    list(processes.map(pow, range(4), range(4)))
    threads.submit(lambda: time.sleep(0.2) or Path("thread-done").touch())
    program = subprocess.Popen(["sleep", "600"])
    task.logger.info("started", extra={"pids": [*processes._processes, program.pid]})

@mux.handle("end:stuck")
def stuck(task):
    atexit.register(time.sleep, 600)

@mux.handle("end:echo")
def echo(task):
    pass
"""


@pytest.fixture
def daemon(start_daemon: StartDaemon, directory: Path) -> RunningDaemon:
    """Of one worker, which is recycled after each task."""
    (directory / "ending.py").write_text(APP)
    env = {"BOILERD_APP": "ending:mux", "BOILERD_MAX_TASKS": "1", "BOILERD_SHUTDOWN_TIMEOUT": "20"}
    return start_daemon("--concurrency", "1", directory=directory, env=env)


def recycled(daemon: RunningDaemon, client: Client, task_type: str) -> int:
    """The worker that ran a task of this type, and has ended."""
    task_id = client.enqueue(task_type).id
    pid = int(daemon.wait_for("task completed", task_id=task_id)["pid"])
    wait_until(lambda: daemon.pid_of("worker:0") not in {0, pid}, "it was replaced")
    return pid


def test_a_worker_that_ends_runs_the_exit_handlers_and_flushes_its_streams(
    daemon: RunningDaemon, client: Client, directory: Path
) -> None:
    pid = recycled(daemon, client, "end:handlers")

    assert (directory / "task-handler").exists()
    assert (directory / f"import-{pid}").exists()
    assert not (directory / Path((directory / "own").read_text()).name).exists()
    assert any("an exit handler that raises" in line["message"] for line in daemon.lines())
    assert b"printed" in (directory / "stdout").read_bytes()


def test_what_was_made_at_import_is_cleaned_up_by_the_daemon_not_by_a_worker_that_ends(
    daemon: RunningDaemon, client: Client, directory: Path
) -> None:
    shared = directory / Path((directory / "shared").read_text() if recycled(daemon, client, "end:echo") else "").name
    was_there = shared.is_dir()

    assert was_there
    assert daemon.stop() == 0
    assert not shared.exists()
    assert (directory / f"import-{daemon.pid}").exists()


@pytest.mark.fault(13)
def test_processes_that_tasks_have_started_end_with_their_worker(
    daemon: RunningDaemon, client: Client, directory: Path
) -> None:
    recycled(daemon, client, "end:executors")

    pids = daemon.wait_for("started")["pids"]
    assert len(pids) == 3
    wait_until(lambda: not any(map(is_running, pids)), "all have ended")
    assert (directory / "thread-done").exists()
    assert not daemon.lines("exit handlers take too long, ending without them")


@pytest.mark.fault(13)
def test_a_worker_whose_exit_handler_hangs_ends_all_the_same_also_in_a_drain(
    daemon: RunningDaemon, client: Client
) -> None:
    recycled(daemon, client, "end:stuck")
    last = client.enqueue("end:stuck").id
    daemon.wait_for("task completed", task_id=last)
    began_s = time.monotonic()

    stopped = daemon.stop()

    assert stopped == 0
    assert time.monotonic() - began_s < 15
    assert len(daemon.lines("exit handlers take too long, ending without them")) == 2
    assert not daemon.lines("process died")
