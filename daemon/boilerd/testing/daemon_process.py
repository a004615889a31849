"""A daemon of a test's own: a real one with its embedded Valkey, in a directory of its own, without a port."""

import functools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from boilerd.broker.connection import connect_to
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.client import Client
from boilerd.errors import BrokerError
from boilerd.inspector import Inspector
from boilerd.process.identity import end_with_parent
from boilerd.settings.definitions import Settings, definitions
from boilerd.settings.loading import load
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.task import TaskState
from boilerd.testing.expectations import type_name

#: How long a start may take, and an end, before the daemon is killed.
START_S, END_S = 20.0, 10.0
#: How often a wait looks.
LOOK_S = 0.01
#: The length of a path that leaves room for a socket's name in its 108 bytes, or 104.
LONGEST_TEMP = 50


class DaemonProcess:
    """``boilerd run`` in a process of its own, with one worker where the settings say nothing.

    No settings file and no variable of the environment reaches its settings, but for the prefix of its keys.

    Args:
        app: ``module:name`` of the mux.
        settings: Its settings, named as in a settings file.
        mux: Of its client.
        directory: Where it runs; the application's modules are found from there.

    Attributes:
        client: A Client of its broker, in the test's process.
        inspector: An Inspector of it.
    """

    def __init__(
        self, app: str, settings: Mapping[str, Any] | None = None, *, mux: ServeMux | None = None, directory: Path
    ) -> None:
        self._home = _short_directory()
        self._cwd = directory
        self._log = self._home / "log"
        self._file = self._home / "boilerd.toml"
        own = {"app": app, "concurrency": 1, "shutdown_timeout": 2, "log_format": "json"}
        # The second too: where a service runs the tests, its unit's variables would name another to the client.
        places = {"state_dir": str(self._home), "runtime_dir": str(self._home / "run")}
        self._file.write_text(_toml({**own, **(settings or {}), **places, "log_output": "stdout"}))
        self.settings: Settings = load(file=self._file, environ={}).settings
        connection = connect_to(self.settings, is_client=True)
        # Not by from_settings: a test may override what such clients use.
        self.client = Client(connection, mux=mux, max_payload=self.settings.max_payload)
        self.inspector = Inspector(connect_to(self.settings))
        self._process: subprocess.Popen[bytes] | None = None
        self._server_pid = 0

    def start(self) -> Self:
        """Start it, and wait until its workers have registered."""
        # In a variable, so that clients of its handlers find its broker too.
        env = _environment() | {"BOILERD_CONFIG": str(self._file)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "boilerd", "run"],
                cwd=self._cwd, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=functools.partial(end_with_parent, os.getpid()),  # noqa: PLW1509
            )  # fmt: skip
        self._wait(self._is_serving, "its workers registered", START_S)
        self._server_pid = int(self.client.connection.info("server")["process_id"])
        return self

    @property
    def pid(self) -> int:
        """The process ID of the daemon."""
        return self._process.pid if self._process else 0

    @property
    def text(self) -> str:
        """All that it has written."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Its log lines so far, each with ``message``, ``level`` and the fields of the line."""
        return [_parsed(line) for line in self.text.splitlines()]

    def wait_idle(self, timeout: float = 10) -> None:
        """Wait until no task runs, waits for a worker, or is due; what is due later does not count.

        Raises:
            AssertionError: That takes longer than `timeout` seconds, or the daemon has ended.
        """
        __tracebackhide__ = True
        self._wait(lambda: not self._busy(), "it was idle", timeout, self._busy)

    def wait_for(
        self, task_type: Any, state: TaskState | str | None = None, *, timeout: float = 10
    ) -> TaskDetail | CompletedTask:
        """Wait for a task of the type that anybody enqueued; returns it.

        Args:
            task_type: Name of the type, or what `ServeMux.task` made of a handler.
            state: In which it must be; without it, any. One that completed and was not kept counts as completed.
            timeout: In seconds.

        Raises:
            AssertionError: There is none in time, or the daemon has ended.
        """
        __tracebackhide__ = True
        name, states = type_name(task_type), [TaskState(state)] if state else list(TaskState)
        what = f"a task {name!r} was {f'in state {TaskState(state)}' if state else 'enqueued'}"
        found: TaskDetail | CompletedTask = self._wait(
            lambda: self._find(name, states), what, timeout, lambda: self._told(name) or self._busy()
        )
        return found

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it again with the same data."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Kill the daemon and its workers; `restart` starts it again, with what was written until then."""
        workers = [worker.pid for worker in self.inspector.workers()] if self._answers() else []
        for pid in (self.pid, *workers):  # the daemon first, or it would replace its workers
            _kill(pid)
        self._end()

    def stop(self) -> None:
        """Drain it, and wait until it has ended; one that has not in time is killed, and it is an error."""
        __tracebackhide__ = True
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        if self._process.poll() is None:
            self.kill()
            raise AssertionError(f"the daemon had not ended {END_S:g} s after a TERM, and was killed")
        self._end()

    def close(self) -> None:
        """Stop it, and remove all that it has written."""
        try:
            self.stop()
        finally:
            self.client.close()
            self.inspector.close()
            shutil.rmtree(self._home, ignore_errors=True)

    def _end(self) -> None:
        """Wait until daemon and server have ended; the server of a daemon that was killed is ended by its scheduler."""
        if self._process:
            self._process.wait(END_S)
        self._process = None
        end_s = time.monotonic() + END_S
        while self._answers() and time.monotonic() < end_s:
            select.select([], [], [], LOOK_S)
        if self._answers():
            _kill(self._server_pid)

    def _answers(self) -> bool:
        try:
            self.inspector.queues()
        except BrokerError:
            return False
        return True

    def _is_serving(self) -> bool:
        return self._answers() and len(self.inspector.workers()) >= sum(
            pool.processes for pool in self.settings.worker_pools()
        )

    def _busy(self) -> str:
        """What there is to do; empty: nothing."""
        told = []
        for queue in self.inspector.queues():
            due = self._count_due(queue.name) if queue.scheduled else 0
            if queue.pending or queue.active or due:
                told.append(f"{queue.name} has {queue.pending} pending, {queue.active} active and {due} due tasks")
        return "; ".join(told)

    def _count_due(self, queue: str) -> int:
        now_s = time.time()
        waiting = [*self.inspector.tasks(queue, TaskState.SCHEDULED), *self.inspector.tasks(queue, TaskState.RETRY)]
        return sum(1 for task in waiting if task.next_run_at and task.next_run_at.timestamp() <= now_s)

    def _told(self, name: str) -> str:
        """In which state a task of the type is; empty: there is none."""
        found = self._find(name, list(TaskState))
        if not isinstance(found, TaskDetail):
            return ""
        return f"task {found.id} is {found.state}" + (f", {found.last_error}" if found.last_error else "")

    def _find(self, name: str, states: list[TaskState]) -> TaskDetail | CompletedTask | None:
        for queue in self.inspector.queues():
            found: list[TaskDetail | CompletedTask] = [
                task for state in states for task in self.inspector.tasks(queue.name, state)
            ]
            if TaskState.COMPLETED in states:
                found += self.inspector.recent(queue.name)
            for task in found:
                if task.type == name:
                    return task
        return None

    def _wait(
        self, condition: Callable[[], Any], what: str, timeout_s: float, left: Callable[[], str] = lambda: ""
    ) -> Any:
        """The first true answer of the condition."""
        __tracebackhide__ = True
        end_s = time.monotonic() + timeout_s
        while True:
            with suppress(BrokerError):
                if answer := condition():
                    return answer
            if self._process is None or self._process.poll() is not None:
                how = f"with status {self._process.returncode}" if self._process else "as it was killed or stopped"
                raise AssertionError(f"the daemon has ended {how} before {what}\n{self.text}")
            if time.monotonic() > end_s:
                told = left()
                raise AssertionError(f"waited {timeout_s:g} s in vain until {what}" + (f": {told}" if told else ""))
            select.select([], [], [], LOOK_S)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _short_directory() -> Path:
    """A directory whose path leaves room for the name of a socket."""
    place = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="boilerd-", dir=place if len(place) <= LONGEST_TEMP else "/tmp"))  # noqa: S108


def _environment() -> dict[str, str]:
    """This process's environment and import path, without what would reach the settings."""
    prefixes = {"BOILERD_KEY_PREFIX", "RQ_KEY_PREFIX"}
    ours = {name for setting in definitions() for name in setting.variables} - prefixes
    ours |= {f"{name}_FILE" for name in ours} | {"BOILERD_CONFIG", "NOTIFY_SOCKET"}
    ours |= {"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _toml(value: Mapping[str, Any]) -> str:
    """The settings as a file has them; tables in one line."""
    return "".join(f"{json.dumps(name)} = {_inline(each)}\n" for name, each in value.items() if each is not None)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _parsed(line: str) -> dict[str, Any]:
    """A log line; what is none is the message of one."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return {"message": line}
