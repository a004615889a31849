"""What the tests share: a private Valkey, a daemon in a directory of its own, waits with deadlines."""

import io
import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest.mock import patch

import redis

from boilerd import cli as command_line
from boilerd.broker import keys
from boilerd.broker.connection import connect
from boilerd.broker.constants import LEASE_OFFSET_S
from boilerd.cli import rpc_client
from boilerd.daemon.valkey_program import find_server
from boilerd.errors import RefusedError
from boilerd.process.failpoints import VARIABLE
from boilerd.settings.definitions import definitions
from boilerd.supervision import asking
from forked import may_fork, run_forked

TESTS = Path(__file__).parent
#: Far above what anything here takes, for machines that are busy with something else.
DEADLINE_S = 40.0
#: Makes stdin the terminal that controls a process, then executes the program in its arguments.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, *, deadline_s: float = DEADLINE_S) -> T:
    """The first true answer of `condition`; fails with `what` when none comes in time."""
    began_s = time.monotonic()
    while True:
        if answer := condition():
            return answer
        waited_s = time.monotonic() - began_s
        if waited_s > deadline_s:
            raise AssertionError(f"waited {deadline_s:g} s in vain: {what}")
        # The longer it lasts, the less the moment matters.
        select.select([], [], [], min(max(waited_s / 50, 0.01), 0.1))


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that would reach the settings."""
    boiler_go = {setting.form.boiler_go for setting in definitions()}
    names = {*boiler_go, "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "RQ_KEY_PREFIX"}
    kept = {name: value for name, value in os.environ.items() if name not in names and not name.startswith("BOILERD_")}
    return kept | variables


def python_path(*first: Path) -> str:
    """Where a daemon's Python finds the tests' applications, after what stands in `first`."""
    return os.pathsep.join([*map(str, first), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def private_directory() -> Iterator[Path]:
    """A directory with a short path: a socket's address has room for 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="boilerd-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Valkey:
    """A server of the tests' own, on a Unix socket."""

    def __init__(self, directory: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.socket = directory / "valkey.sock"
        self.url = f"unix://{self.socket}"
        command = [find_server(), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(directory)]
        self._command = [*command, "--save", "", "--loglevel", "warning", *options]
        self._env = os.environ | dict(env or {})
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *options: str) -> None:
        """Start it, and do not wait until it answers."""
        self.process = subprocess.Popen([*self._command, *options], env=self._env, stdout=subprocess.DEVNULL)

    def start(self) -> Self:
        self.launch()
        wait_until(self.answers, "Valkey answered")
        return self

    def answers(self) -> bool:
        try:
            with connect(self.url) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def is_loading(self) -> bool:
        """Whether it answers, but only that it still reads its file."""
        try:
            with connect(self.url) as client:
                client.get("anything")
        except redis.BusyLoadingError:
            return True
        except redis.RedisError:
            return False
        raise AssertionError("it has loaded already")

    def hurry(self) -> None:
        """Have it read the rest of its file at once."""
        with connect(self.url) as admin:
            admin.config_set("key-load-delay", "0")

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        if self.process:
            self.process.send_signal(signum)
            self.process.wait(DEADLINE_S)
            self.process = None


def free_ports(count: int = 1) -> list[int]:
    """Ports of the loopback that nobody listens on at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_written(connection: redis.Redis) -> None:
    """Wait until a server has written to its file all that it accepted; it may put that off while its disk is slow."""
    wait_until(lambda: not connection.info("persistence")["aof_buffer_length"], "all is in the file")


class ServerClock:
    """The wall clock of a server, which a test can put forward and back: libfaketime reads it from a file."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.put(0)
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        assert library, "libfaketime is missing: run scripts/debian-packages"
        self.env = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def put(self, ahead_s: float) -> None:
        """Have it run so many seconds ahead of the true time from now on."""
        whole = self._file.with_suffix(".new")
        whole.write_text(f"{ahead_s:+}")
        whole.rename(self._file)


class RunningDaemon:
    """``boilerd run`` in a process of its own; its log lines as they come, unless they go to what the test gives.

    Args:
        stdout: Where its lines go.
        terminal: Where its lines go, and what it is controlled by.
    """

    def __init__(
        self,
        *flags: str,
        directory: Path,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        terminal: int | None = None,
    ) -> None:
        self.directory = directory
        defaults = {
            "BOILERD_STATE_DIR": str(directory),
            "BOILERD_SHUTDOWN_TIMEOUT": "2",
            "BOILERD_APP": "apps:mux",
            "PYTHONPATH": python_path(),
        }
        self.env = clean_environment(**defaults | dict(env or {}))
        self._out = (directory / "stdout").open("ab")
        self._err = (directory / "stderr").open("ab")
        # Another daemon of this directory may have written before: its lines are not this one's.
        self._read_to = self._out.seek(0, os.SEEK_END)
        self._lines: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "boilerd", "run", *flags]
        if terminal is not None:
            command, stdout = [sys.executable, "-c", TAKE_TERMINAL, *command], terminal
        self.process = subprocess.Popen(
            command, cwd=directory, env=self.env, stderr=self._err,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=self._out if stdout is None else stdout,
        )  # fmt: skip

    @property
    def socket(self) -> Path:
        """Its control socket."""
        return self.directory / "run" / "control.sock"

    @property
    def redis_url(self) -> str:
        """That of its settings."""
        return self.env["BOILERD_REDIS_URL"]

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self, message: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The log lines so far with this message and these fields; every line must be JSON."""
        with (self.directory / "stdout").open("rb") as log:
            log.seek(self._read_to)
            whole, end, _ = log.read().rpartition(b"\n")
        self._read_to += len(whole + end)
        self._lines += [json.loads(line) for line in whole.splitlines()]
        wanted = fields if message is None else {"message": message, **fields}
        return [line for line in self._lines if wanted.items() <= line.items()]

    def errors(self) -> str:
        return (self.directory / "stderr").read_text()

    def wait_for(self, message: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The count-th line with this message and these fields."""

        def found() -> list[dict[str, Any]]:
            has_ended = self.process.poll() is not None  # before the look at what it has written
            lines = self.lines(message, **fields)
            if has_ended and len(lines) < count:
                raise AssertionError(f"daemon ended with {self.process.returncode}: {self.errors()}{self.lines()}")
            return lines if len(lines) >= count else []

        try:
            return wait_until(found, f"{count} line(s) {message!r} {fields}")[count - 1]
        except AssertionError as error:
            log = (self.directory / "stdout").read_text()
            raise AssertionError(f"{error}\n{log}{self.errors()}") from None

    def ready(self) -> Self:
        """Wait until every worker has registered itself."""
        self.wait_for("daemon started")
        return self.serving()

    def serving(self) -> Self:
        """The same, but for a daemon whose log goes elsewhere."""
        wait_until(lambda: self.info().get("state") == "ready", "it is ready")
        return self

    def info(self) -> dict[str, Any]:
        """What its control socket says about the daemon."""
        return self._answer(lambda socket: dict(asking.ask(socket, "boilerd.info"))) or {}

    def processes(self) -> list[dict[str, Any]]:
        """What its control socket says about its processes."""
        return self._answer(rpc_client._processes) or [{"pid": 0, "name": "none", "state": "none"}]

    def _answer(self, question: Callable[[Path], T]) -> T | None:
        """What its control socket says, None: nothing; who is too busy to answer in time is asked again."""
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            try:
                return question(self.socket)
            except TimeoutError:
                continue
            except (OSError, RefusedError):
                return None
        return None

    def pid_of(self, name: str) -> int:
        """The process ID of a child; 0: it does not run."""
        return int(next((process["pid"] for process in self.processes() if process["name"] == name), 0))

    def pids(self) -> list[int]:
        """Its own process ID, and those of the children that run."""
        return [self.pid, *(process["pid"] for process in self.processes() if process["pid"])]

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Send a signal to a child; its process ID. One of 0 would send it to the tests."""
        pid = wait_until(lambda: self.pid_of(name), f"{name} runs")
        os.kill(pid, signum)
        return pid

    def cli(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Another ``boilerd`` command with the same settings."""
        return boilerd(*words, env=self.env, **options)

    def enqueue(self, *words: str) -> str:
        """Enqueue as the command does, in this process, which takes a tenth of the time; the task's ID."""
        if {"BOILERD_KEY_PREFIX", "RQ_KEY_PREFIX", "BOILERD_CONFIG"} & self.env.keys():  # a process has one prefix
            said = self.cli("enqueue", *words).stdout.strip()
        else:
            with patch.dict(os.environ, self.env, clear=True):
                said = shown_by("enqueue", *words).strip()
        assert len(said.split()) == 1, said
        return said

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """Its exit status; of a burst this is its whole life."""
        return self.process.wait(2 * DEADLINE_S)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        """End what is left of it: none of its processes may work on in the next test."""
        for patience_s in (5, DEADLINE_S):  # the second TERM has it stop at once
            if self.process.poll() is None:
                self.process.terminate()
                self.process.send_signal(signal.SIGCONT)  # where a test has stopped it
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience_s)
        self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()


@contextmanager
def own_daemon(*flags: str, **env: str) -> Iterator[RunningDaemon]:
    """A daemon with a server of its own, for the tests of a module that share it; conftest.py keeps these together."""
    with private_directory() as directory:
        server = Valkey(directory).start()
        made = RunningDaemon(*flags, directory=directory, env={"BOILERD_REDIS_URL": server.url, **env})
        try:
            yield made.ready()
        finally:
            made.close()
            server.stop()


#: Starts servers of a test's own; takes their options.
StartValkey = Callable[..., Valkey]
#: Starts daemons; takes their flags, and what `RunningDaemon` takes.
StartDaemon = Callable[..., RunningDaemon]
#: Settings that retry without much waiting.
QUICK_RETRY = {"BOILERD_RETRY": '{"base": "0.1s", "max_delay": "0.1s"}'}
Done = subprocess.CompletedProcess[str]
#: Runs a `boilerd` command to its end; takes its words.
Command = Callable[..., Done]


def boilerd(
    *words: str, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path | None = None, anew: bool = False
) -> Done:
    """Run a command to its end; in a fork of this process, where it tells the same.

    With `anew` Python is started, as where the environment hides a module that this process has imported.
    """
    env = dict(env) if env is not None else clean_environment()
    if not anew and may_fork(words, env, stdin):
        return run_forked(*words, env=env, stdin=stdin, cwd=cwd, timeout=DEADLINE_S)
    return subprocess.run(
        [sys.executable, "-m", "boilerd", *words], env=env, input=stdin, cwd=cwd,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def shown_by(*words: str, screen: io.StringIO | None = None) -> str:
    """All that a command prints, run in this process; what would end in a traceback is raised."""
    screen = screen or io.StringIO()
    with (
        redirect_stdout(screen), redirect_stderr(screen), patch.object(sys, "stdin", io.StringIO()),
        patch.object(sys, "argv", ["boilerd", *words]), suppress(SystemExit),
    ):  # fmt: skip
        command_line._run()
    return screen.getvalue()


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may do what file modes forbid."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(before)


class Failpoints:
    """The directory where failpoints are armed."""

    def __init__(self, directory: Path) -> None:
        self.env = {VARIABLE: str(directory)}
        self._directory = directory

    def arm(self, name: str, signum: signal.Signals = signal.SIGKILL) -> None:
        """The next process that comes by gets the signal."""
        whole = self._directory / "new"
        whole.write_text(signum.name)
        whole.rename(self._directory / name)

    def struck(self, name: str) -> int:
        """The process that came by."""
        found = wait_until(lambda: list(self._directory.glob(f"{name}.*")), f"failpoint {name} struck")
        return int(found[0].name.rpartition(".")[2])


def completed(connection: redis.Redis, task_id: str) -> int:
    """How often it stands in the list of tasks that completed."""
    return sum(task_id.encode() in entry for entry in connection.lrange(keys.completed("default"), 0, -1))


def rings(connection: redis.Redis, *queues: str, timeout_s: float = 5.0) -> bool:
    """Whether the bell of one of the queues rings, within so many seconds."""
    return connection.blpop([keys.bell(name) for name in queues], timeout_s) is not None


def expire_leases(connection: redis.Redis, seen: Callable[[], T]) -> T:
    """End every lease there is, and once more while it is not seen: a heartbeat under way extends them again."""
    pairs = {pair: LEASE_OFFSET_S + 1.0 for pair, _ in connection.zscan_iter(keys.wip("default"))}

    def ended() -> T:
        connection.zadd(keys.wip("default"), pairs, xx=True)
        return seen()

    return wait_until(ended, "the leases have ended")


def run_python(script: str, env: Mapping[str, str] | None = None) -> Any:
    """What a Python process of its own prints, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    return json.loads(done.stdout)
