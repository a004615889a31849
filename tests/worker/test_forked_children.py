"""Children that a task forks: programs of their own, without what their worker has set up for itself."""

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client
from boilerd.broker import keys
from support import QUICK_RETRY, RunningDaemon, StartDaemon, is_running, wait_until

APP = """
import logging, multiprocessing, os, signal, subprocess, sys, time
from boilerd import ServeMux

mux = ServeMux()
fork = multiprocessing.get_context("fork")
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)

def status_of(code):
    pid = os.fork()
    if pid == 0:
        os._exit(code())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@mux.handle("fork:terminate")
def terminate(task):
    process = fork.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode

@mux.handle("fork:pool")
def pool(task):
    with fork.Pool(2) as started:
        try:
            started.apply_async(time.sleep, (60,)).get(timeout=0.1)
        except multiprocessing.TimeoutError:
            return "late"

@mux.handle("fork:signals")
def signals(task):
    def look():
        handlers = [signal.getsignal(signum) for signum in OURS]
        defaults = {signal.SIG_DFL, signal.default_int_handler}
        return 2 * (not set(handlers) <= defaults) + 4 * bool(signal.pthread_sigmask(signal.SIG_BLOCK, [])) \\
            + 8 * (signal.set_wakeup_fd(-1) != -1) + 16 * (signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0))
    return [status_of(look), bool(signal.getitimer(signal.ITIMER_REAL)[0]),
            len(signal.pthread_sigmask(signal.SIG_BLOCK, []))]

@mux.handle("fork:own")
def own(task):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    def look():
        if signal.pthread_sigmask(signal.SIG_BLOCK, []) != {signal.SIGUSR2}:
            return 1
        os.kill(os.getpid(), signal.SIGTERM)
        return 2
    return status_of(look)

@mux.handle("fork:preexec")
def preexec(task):
    seen = "import signal; print(int(signal.getsignal(signal.SIGTERM)), signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    return subprocess.run([sys.executable, "-c", seen], preexec_fn=lambda: None, capture_output=True).stdout.decode()

@mux.handle("fork:forkserver")
def forkserver(task):
    process = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode

@mux.handle("fork:outlive")
def outlive(task):
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        logging.getLogger("child").info("child of a task")
        os.write(is_ready, b"1")
        time.sleep(600)
    os.read(ready, 1)
    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    with open(f"/proc/{pid}/cmdline") as file:
        return [pid, [fd for fd in fds if fd.startswith("socket:")], file.read()]

@mux.handle("fork:hook")
def fail(task):
    raise ValueError

@mux.error_handler
def hook(task, error):
    if os.fork() == 0:
        return
    os.wait()
"""


@pytest.fixture
def daemon(start_daemon: StartDaemon, directory: Path) -> RunningDaemon:
    (directory / "forking.py").write_text(APP)
    env = {"BOILERD_APP": "forking:mux", **QUICK_RETRY}
    return start_daemon("--concurrency", "1", directory=directory, env=env)


def result(daemon: RunningDaemon, client: Client, task_type: str) -> Any:
    """The result of a task of this type."""
    task_id = client.enqueue(task_type, max_retries=0, retention=60, timeout=30).id
    daemon.wait_for("task completed", task_id=task_id)
    done: Any = wait_until(lambda: client.connection.xrange(f"{keys.RQ}:results:{task_id}"), "it is acknowledged")
    return json.loads(base64.b64decode(done[0][1][b"return_value"]))


@pytest.mark.fault(13)
def test_a_child_of_a_task_obeys_the_signals_that_are_sent_to_it(daemon: RunningDaemon, client: Client) -> None:
    terminated = [result(daemon, client, task_type) for task_type in ("fork:terminate", "fork:forkserver")]
    pool = result(daemon, client, "fork:pool")

    assert terminated == [-15, -15]
    assert pool == "late"


def test_a_child_of_a_task_has_no_handler_mask_timer_or_wakeup_pipe_of_its_worker(
    daemon: RunningDaemon, client: Client
) -> None:
    child = result(daemon, client, "fork:signals")
    program = result(daemon, client, "fork:preexec")

    assert child == [0, True, 0]
    assert program == "0 set()\n"


def test_a_child_of_a_task_keeps_the_handlers_and_the_mask_that_the_task_has_set(
    daemon: RunningDaemon, client: Client
) -> None:
    assert result(daemon, client, "fork:own") == 7


def test_a_child_that_outlives_its_task_has_no_connection_of_its_worker_nor_the_task_in_its_lines(
    daemon: RunningDaemon, client: Client
) -> None:
    pid, sockets, title = result(daemon, client, "fork:outlive")
    try:
        line = daemon.wait_for("child of a task")

        assert sockets == []
        assert title.startswith("boilerd: worker:0 child")
        assert (line["pid"], line["worker"]) == (pid, "worker:0")
        assert "task_id" not in line
        assert result(daemon, client, "fork:terminate") == -15
        assert daemon.stop() == 0
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_that_a_hook_forks_and_that_returns_from_it_does_not_go_on_as_a_worker(
    daemon: RunningDaemon, client: Client
) -> None:
    failing = client.enqueue("fork:hook", max_retries=0).id

    daemon.wait_for("task archived", task_id=failing)

    assert result(daemon, client, "fork:terminate") == -15
    assert len(daemon.lines("task archived", task_id=failing)) == 1
    assert not daemon.lines("outcome dropped, the lease was lost")
    assert daemon.stop() == 0
