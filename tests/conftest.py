"""Fixtures: every test process has a Valkey of its own, emptied before each test."""

import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from xdist.scheduler import LoadScopeScheduling

from boilerd import Client
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.process import logs
from boilerd.tasks.current import CURRENT
from support import TESTS, Failpoints, RunningDaemon, StartDaemon, StartValkey, Valkey, private_directory, wait_until
from undertaker import watch_over_this_run


def pytest_configure(config: pytest.Config) -> None:
    """Have all programs that tests start find `tests/children` first, and none of them outlive the run."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS / "children"), before]))
    if not hasattr(config, "workerinput"):  # once, in pytest-xdist's controller
        watch_over_this_run()


@pytest.fixture(autouse=True)
def _logging_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets up in this process: the next one's attempts must not put it back."""
    monkeypatch.setattr(logs, "_now", logs._Setup())
    monkeypatch.setattr(logging.Logger, "addHandler", logging.Logger.addHandler)
    for name in ("raiseExceptions", "logThreads", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))


@pytest.fixture(autouse=True)
def _no_task_of_another_test() -> None:
    """An attempt that a test ran in its own context has left its task there, and fields of its lines."""
    CURRENT.set(None)
    logs.forget_context()


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[Valkey]:
    with private_directory() as directory:
        server = Valkey(directory).start()
        yield server
        server.stop()


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """A server that answers and is empty."""
    with connect(shared_valkey.url) as client:
        client.flushall()
    return shared_valkey


@pytest.fixture
def connection(valkey: Valkey) -> Iterator[redis.Redis]:
    with connect(valkey.url) as client:
        yield client


@pytest.fixture
def on_one_day(connection: redis.Redis) -> None:
    """The test is over before the day is: one that ends within half a minute is waited for."""
    wait_until(lambda: -connection.time()[0] % 86_400 > 30, "another day has begun")


@pytest.fixture
def broker(connection: redis.Redis) -> Broker:
    return Broker(connection)


@pytest.fixture
def client(valkey: Valkey) -> Iterator[Client]:
    with Client.from_url(valkey.url) as made:
        yield made


@pytest.fixture
def directory() -> Iterator[Path]:
    with private_directory() as path:
        yield path


@pytest.fixture
def start_valkey() -> Iterator[StartValkey]:
    """Start servers whose options and life are a test's own."""
    with ExitStack() as stack:

        def start(*options: str, **keywords: Any) -> Valkey:
            server = Valkey(stack.enter_context(private_directory()), *options, **keywords).start()
            stack.callback(server.stop, signal.SIGKILL)
            return server

        yield start


@pytest.fixture
def loading(start_valkey: StartValkey) -> Valkey:
    """A server that reads its file for half a minute, unless `hurry` lets it go on."""
    server = start_valkey("--save", "3600 1")
    with Client.from_url(server.url) as client:
        client.enqueue_many([("test:echo", "x" * 1000)] * 300, queue="elsewhere")
    server.stop()  # it saves a snapshot
    server.launch("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
    wait_until(server.is_loading, "it loads")
    return server


@pytest.fixture
def start_daemon(valkey: Valkey) -> Iterator[StartDaemon]:
    """Start daemons on the tests' Valkey (or, with ``redis_url=None``, on one of their own)."""
    with ExitStack() as stack:

        def start(*flags: str, redis_url: str | None = valkey.url, **options: Any) -> RunningDaemon:
            path = options.pop("directory", None) or stack.enter_context(private_directory())
            where = {"BOILERD_REDIS_URL": redis_url} if redis_url else {}
            daemon = RunningDaemon(*flags, directory=path, env={**where, **options.pop("env", {})}, **options)
            stack.callback(daemon.close)
            return daemon

        yield start


@pytest.fixture
def python(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that daemons are started with, and that can be taken away."""
    environment = directory / "venv"
    (environment / "bin").mkdir(parents=True)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    (environment / "lib").symlink_to(Path(sys.prefix) / "lib")
    program = environment / "bin" / "python"
    program.symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(program))
    return program


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """Give the test's process its signal handlers back, and end its timer."""
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGALRM, signal.SIGUSR1)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum, handler in kept.items():
        signal.signal(signum, handler)


@pytest.fixture
def failpoints(directory: Path) -> Failpoints:
    """Where failpoints are armed; daemons get its `env`."""
    path = directory / "failpoints"
    path.mkdir()
    return Failpoints(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long tests, the longest first, so that none of them runs on alone; the rest stays shuffled."""
    seconds = {item: sum(mark.args[0] for mark in item.iter_markers("long")) for item in items}
    items.sort(key=lambda item: -seconds[item])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Search what thousands of tests consist of no more for garbage, also in the children that tests fork."""
    gc.collect()
    gc.freeze()


#: Whose tests share an installation, a daemon or a browser.
TOGETHER = (
    "tests/systemd/",
    "tests/daemon/test_attempts.py",
    "tests/daemon/test_group.py",
    "tests/faults/test_data_faults.py",
    "tests/rq_clients/test_functions.py",
    "tests/test_explain.py",
    "tests/web/chromium/",
)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Spreads all tests over the processes, but keeps those together that share something.

    pytest-xdist's own groups have no effect with pytest 9.2: it writes the group's name where that does not
    look any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)
