"""A daemon on a terminal: what closing it, Ctrl-Z and `stty tostop` do."""

import os
import pty
import signal
import termios
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Overdue
from boilerd.process import debugging
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.heartbeat import HEARTBEAT_S, Heartbeater
from builders import WORKER, pending
from support import RunningDaemon, StartDaemon, Valkey, completed, is_running, run_python, wait_until


class Terminal:
    """Both ends of a terminal, and what it has shown."""

    def __init__(self) -> None:
        self.ours, self.its_end = pty.openpty()
        os.set_blocking(self.ours, False)
        self._shown = b""

    def shows(self, text: str) -> bool:
        with suppress(BlockingIOError):
            while data := os.read(self.ours, 65536):
                self._shown += data
        return text in self._shown.decode("utf-8", "replace")

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def close(self) -> None:
        for fd in (self.ours, self.its_end):
            with suppress(OSError):
                os.close(fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def children(daemon: RunningDaemon) -> list[int]:
    return [process["pid"] for process in daemon.processes()]


def test_closing_the_terminal_drains_the_daemon(start_daemon: StartDaemon, client: Client, terminal: Terminal) -> None:
    daemon = start_daemon("--concurrency", "2", terminal=terminal.its_end).serving()
    pids = children(daemon)
    task_id = client.enqueue("test:sleep", 60).id
    wait_until(lambda: daemon.info()["busy"] == 1, "the task runs")

    terminal.close()

    assert daemon.wait() == 0
    assert [pid for pid in pids if is_running(pid)] == []
    assert client.connection.lrange("rq:queue:default", 0, -1) == [task_id.encode()]


def test_closing_the_terminal_ends_a_start_that_waits_for_its_broker(
    start_daemon: StartDaemon, loading: Valkey, terminal: Terminal
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=loading.url, terminal=terminal.its_end)
    wait_until(lambda: terminal.shows("broker is loading, waiting"), "the daemon waits")

    terminal.close()

    assert daemon.wait() == 0


def test_a_hup_while_the_terminal_is_there_is_a_reload(start_daemon: StartDaemon, terminal: Terminal) -> None:
    daemon = start_daemon("--concurrency", "1", terminal=terminal.its_end).serving()

    daemon.signal(signal.SIGHUP)

    wait_until(lambda: daemon.info().get("generation") == 1 and terminal.shows("daemon reloaded"), "it has reloaded")
    assert daemon.stop() == 0


def test_tasks_run_after_stty_tostop(start_daemon: StartDaemon, client: Client, terminal: Terminal) -> None:
    modes = termios.tcgetattr(terminal.its_end)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(terminal.its_end, termios.TCSANOW, modes)
    daemon = start_daemon("--concurrency", "1", terminal=terminal.its_end).serving()

    task_id = client.enqueue("test:echo").id

    wait_until(lambda: completed(client.connection, task_id), "the task is completed")
    assert terminal.shows(task_id)
    assert daemon.stop() == 0


def test_a_daemon_in_the_background_writes_after_stty_tostop_and_keeps_its_workers() -> None:
    """Each write would make the kernel send it a TTOU, which means one worker less."""
    found = run_python("""
import json, os, pty, signal, termios
from boilerd.process.outlets import StreamOutlet

pid, ours = pty.fork()
if pid == 0:
    modes = termios.tcgetattr(1)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(1, termios.TCSANOW, modes)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        seen = []
        signal.signal(signal.SIGTTOU, lambda *_: seen.append(1) or os._exit(9))
        is_written = StreamOutlet(1).write(b"line\\n")
        os._exit(0 if is_written and not seen else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
shown = os.read(ours, 100).decode()
print(json.dumps([shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
""")

    assert found == ["line\r\n", 0]


def test_ctrl_z_makes_the_daemon_quiet_and_says_how_to_go_on(
    start_daemon: StartDaemon, client: Client, terminal: Terminal
) -> None:
    daemon = start_daemon("--concurrency", "1", terminal=terminal.its_end).serving()

    terminal.type(b"\x1a")

    wait_until(lambda: daemon.info()["is_quiet"], "it is quiet")
    wait_until(lambda: terminal.shows("boilerd resume, or kill -CONT"), "it says how to go on")
    daemon.signal(signal.SIGCONT)
    task_id = client.enqueue("test:echo").id
    wait_until(lambda: completed(client.connection, task_id), "it claims again")
    assert daemon.stop() == 0


def in_debugger(
    start_daemon: StartDaemon, client: Client, terminal: Terminal, task_type: str
) -> tuple[RunningDaemon, str]:
    """A daemon that is debugged, and a task that has come to its breakpoint."""
    daemon = start_daemon("--debug", "--concurrency", "3", terminal=terminal.its_end).serving()
    task_id = client.enqueue(task_type, timeout=1, max_retries=0).id
    wait_until(lambda: terminal.shows("(Pdb) "), "the debugger asks")
    return daemon, task_id


@pytest.mark.parametrize("task_type", ["test:breakpoint", "test:breakpoint_in_hook"])
def test_a_daemon_that_is_debugged_has_one_worker_with_the_terminal_and_no_time_limits(
    start_daemon: StartDaemon, client: Client, terminal: Terminal, task_type: str
) -> None:
    daemon, _ = in_debugger(start_daemon, client, terminal, task_type)
    workers = [process["name"] for process in daemon.processes() if process["name"] != "scheduler"]

    terminal.type(b"p 'left:', task.remaining(), __import__('signal').getitimer(0)\n")
    wait_until(lambda: terminal.shows("('left:', inf, (0.0, 0.0))"), "it has all the time")
    terminal.type(b"\x1a")  # Ctrl-Z: the daemon acts on it, the debugger goes on
    wait_until(lambda: daemon.info()["is_quiet"], "it is quiet")
    terminal.type(b"p 6 * 7, 'is the answer'\n")
    wait_until(lambda: terminal.shows("(42, 'is the answer')"), "it answers")
    terminal.type(b"c\n")

    ended = "completed" if task_type == "test:breakpoint" else "archived"
    wait_until(lambda: terminal.shows(f"task {ended}"), "it went on")
    assert workers == ["worker:0"]
    assert daemon.stop() == 0


def test_ctrl_c_in_the_debugger_ends_the_daemon_at_once_and_puts_the_task_back(
    start_daemon: StartDaemon, client: Client, terminal: Terminal
) -> None:
    daemon, task_id = in_debugger(start_daemon, client, terminal, "test:breakpoint")

    terminal.type(b"\x03")

    assert daemon.wait() == 0
    assert pending(client.connection) == [task_id]
    assert not client.connection.hexists(keys.job(task_id), "number_of_retries")


def test_a_timeout_of_a_task_in_the_debugger_does_not_kill_its_worker(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugging, "_is_on", True)
    heartbeater = Heartbeater(Broker(connection), Scoreboard(), [WORKER], lambda: None)

    due_s = heartbeater._end_overdue(0, Overdue(WORKER, "a", "a:1", 1.0, 1000.0))

    assert due_s == HEARTBEAT_S


@pytest.mark.parametrize("is_on_terminal", [True, False], ids=["terminal", "no terminal"])
def test_a_breakpoint_where_nobody_debugs_fails_the_task_and_says_what_would_do(
    start_daemon: StartDaemon, client: Client, terminal: Terminal, *, is_on_terminal: bool
) -> None:
    end = terminal.its_end if is_on_terminal else None
    daemon = start_daemon("--concurrency", "1", terminal=end).serving()

    task_id = client.enqueue("test:breakpoint", max_retries=0).id

    wait_until(lambda: client.connection.zscore(keys.registry("failed", "default"), task_id), "it is archived")
    error = client.connection.hget(keys.job(task_id), "last_error")
    assert isinstance(error, bytes)
    assert b"stop the daemon and start it with boilerd run --debug" in error
    assert daemon.stop() == 0


def test_a_breakpoint_of_a_debugger_that_somebody_has_chosen_is_left_alone(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env={"PYTHONBREAKPOINT": "0"}).ready()

    task_id = client.enqueue("test:breakpoint").id

    daemon.wait_for("task completed", task_id=task_id)


def test_a_worker_that_a_signal_has_stopped_turns_health_red_until_it_goes_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "2").ready()

    pid = daemon.kill("worker:1", signal.SIGSTOP)
    wait_until(lambda: daemon.info()["halted"], "it is found")
    sick = daemon.cli("health")
    os.kill(pid, signal.SIGCONT)

    assert (sick.returncode, sick.stdout) == (
        1, "worker:1: stopped by a signal, and does nothing until `kill -CONT`\n"
    )  # fmt: skip
    wait_until(lambda: not daemon.info()["halted"], "it is well again")
    assert "stopped" not in daemon.info()["status"]
    assert daemon.stop() == 0


def test_the_process_after_one_that_was_stopped_is_not() -> None:
    scoreboard = Scoreboard()
    scoreboard.mark_booted(3)
    scoreboard.mark_halted(3, is_halted=True)
    before = scoreboard.halted()

    scoreboard.clear(3, -9)
    scoreboard.mark_booted(3)

    assert (before, scoreboard.halted()) == ([3], [])
