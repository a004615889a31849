"""What the daemon tells a service manager: the datagrams of sd_notify(3), on a real socket."""

import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from supervisor.states import ProcessStates

from boilerd import Client
from boilerd.broker import keys
from boilerd.process.scoreboard import Scoreboard
from boilerd.supervision.pool import Pool
from boilerd.supervision.sd_notify import Notifier
from support import DEADLINE_S, Failpoints, StartDaemon, StartValkey, Valkey, wait_until


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.messages: list[str] = []

    def receive(self) -> list[str]:
        while select.select([self._socket], [], [], 0)[0]:
            self.messages.append(self._socket.recv(65536).decode())
        return self.messages

    def wait_for(self, start: str, *, after: int = 0) -> int:
        """Which message, after so many, has a line that begins so."""

        def found() -> list[int]:
            received = self.receive()
            lines = [(n, line) for n in range(after, len(received)) for line in received[n].split("\n")]
            return [n + 1 for n, line in lines if line.startswith(start)]

        # A reload starts Python twice, for its check and for the new program.
        return wait_until(found, f"a message {start}: {self.messages}", deadline_s=2 * DEADLINE_S)[0]

    def close(self) -> None:
        self._socket.close()


def test_a_daemon_is_ready_when_all_its_workers_serve_but_those_that_were_given_up() -> None:
    class Process(NamedTuple):
        state: int
        has_no_room: bool = False

    class Group(NamedTuple):
        processes: dict[str, Process]

    def is_ready(*states: int, booted: tuple[int, ...] = ()) -> bool:
        scoreboard = Scoreboard()
        for row in booted:
            scoreboard.mark_booted(row)
        group = Group({str(row): Process(state) for row, state in enumerate(states)})
        return Pool(group, lambda row: None, scoreboard, lambda: None).is_ready()  # type: ignore[arg-type,return-value]

    assert is_ready(ProcessStates.RUNNING, ProcessStates.RUNNING, booted=(0, 1))
    assert is_ready(ProcessStates.RUNNING, ProcessStates.FATAL, booted=(0,))
    assert not is_ready(ProcessStates.RUNNING, ProcessStates.RUNNING, booted=(0,))
    assert not is_ready(ProcessStates.FATAL, ProcessStates.FATAL)


@pytest.fixture
def manager(directory: Path) -> Iterator[Manager]:
    made = Manager(str(directory / "notify.sock"))
    yield made
    made.close()


def test_a_message_is_lines_of_names_and_values(manager: Manager) -> None:
    Notifier(manager.environment).send(READY=1, STATUS="two\nlines  of it")

    assert manager.receive() == ["READY=1\nSTATUS=two lines of it"]


def test_an_abstract_socket_is_found() -> None:
    manager = Manager(f"@boilerd-test-{os.getpid()}")
    try:
        Notifier(manager.environment).send(WATCHDOG=1)

        assert manager.receive() == ["WATCHDOG=1"]
    finally:
        manager.close()


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify.sock"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    Notifier({} if address is None else {"NOTIFY_SOCKET": address}).send(READY=1)


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager) -> None:
    notifier = Notifier(manager.environment)

    for _ in range(5000):
        notifier.send(WATCHDOG=1)

    assert 0 < len(manager.receive()) < 5000


def test_without_a_free_descriptor_nothing_is_told_and_nothing_happens(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        notifier.send(READY=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert manager.receive() == []


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdogs_patience_comes_from_the_environment(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_s == seconds


def test_ready_is_said_when_all_workers_serve_and_the_status_follows(
    start_daemon: StartDaemon, manager: Manager, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "3", env=manager.environment)

    ready = manager.wait_for("READY=1")
    manager.wait_for("STATUS=3 workers, 0 busy, 0 pending", after=ready)
    for _ in range(5):
        client.enqueue("test:sleep", 60)
    manager.wait_for("STATUS=3 workers, 3 busy, 2 pending")
    daemon.signal(signal.SIGTERM)

    stopping = manager.wait_for("STOPPING=1")
    assert daemon.wait() == 0
    manager.wait_for("EXTEND_TIMEOUT_USEC=", after=stopping)
    manager.wait_for("STATUS=draining, ", after=stopping)


def test_ready_is_not_said_before_the_last_worker_has_reached_the_broker(
    start_daemon: StartDaemon, manager: Manager, connection: redis.Redis, failpoints: Failpoints
) -> None:
    failpoints.arm("before-birth", signal.SIGSTOP)
    start_daemon("--concurrency", "3", env=manager.environment | failpoints.env)
    late = failpoints.struck("before-birth")

    wait_until(lambda: connection.scard(keys.WORKERS) == 2, "the other two are registered")
    manager.wait_for("STATUS=starting, 3 workers")
    assert "READY=1" not in manager.receive()
    os.kill(late, signal.SIGCONT)

    manager.wait_for("READY=1")
    assert connection.scard(keys.WORKERS) == 3


def test_ready_is_not_said_while_no_worker_has_reached_the_broker(
    start_daemon: StartDaemon, manager: Manager, loading: Valkey
) -> None:
    daemon = start_daemon(
        "--concurrency", "1", redis_url=loading.url, env={**manager.environment, "WATCHDOG_USEC": "1000000"}
    )
    daemon.wait_for("broker is loading, waiting")
    fed = manager.wait_for("WATCHDOG=1")
    extended = manager.wait_for("EXTEND_TIMEOUT_USEC=", after=manager.wait_for("WATCHDOG=1", after=fed))
    assert not any("READY=1" in message for message in manager.messages[:extended])
    loading.hurry()

    manager.wait_for("READY=1")
    assert daemon.lines("daemon started")


def test_the_status_tells_that_the_broker_is_away_and_the_watchdog_is_fed_meanwhile(
    start_daemon: StartDaemon, manager: Manager, start_valkey: StartValkey
) -> None:
    server = start_valkey()
    env = {**manager.environment, "WATCHDOG_USEC": "400000"}
    start_daemon("--concurrency", "2", redis_url=server.url, env=env)
    manager.wait_for("READY=1")

    server.stop()

    away = manager.wait_for("STATUS=broker unavailable, 2 workers")
    fed = manager.wait_for("WATCHDOG=1", after=away)
    manager.wait_for("WATCHDOG=1", after=fed)
    server.start()
    manager.wait_for("STATUS=2 workers", after=fed)


def test_a_stopped_supervisor_feeds_no_watchdog(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = start_daemon("--concurrency", "1", env={**manager.environment, "WATCHDOG_USEC": "200000"})
    manager.wait_for("WATCHDOG=1", after=manager.wait_for("READY=1"))

    daemon.signal(signal.SIGSTOP)
    wait_until(lambda: "T (stopped)" in Path(f"/proc/{daemon.pid}/status").read_text(), "it is stopped")
    count = len(manager.receive())
    select.select([], [], [], 0.5)  # two and a half times the watchdog's outage_retry

    assert len(manager.receive()) == count
    daemon.signal(signal.SIGCONT)
    manager.wait_for("WATCHDOG=1", after=count)


def test_a_reload_is_told_from_its_begin_to_its_end(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = start_daemon("--concurrency", "1", env=manager.environment)
    ready = manager.wait_for("READY=1")

    daemon.signal(signal.SIGHUP)

    reloading = manager.wait_for("RELOADING=1", after=ready)
    assert "MONOTONIC_USEC=" in manager.messages[reloading - 1]
    draining = manager.wait_for("EXTEND_TIMEOUT_USEC=", after=reloading)
    manager.wait_for("READY=1", after=draining)
    assert daemon.lines("daemon reloaded")


def test_a_reload_that_is_refused_ends_with_ready_and_stays_in_the_status(
    start_daemon: StartDaemon, manager: Manager, directory: Path
) -> None:
    daemon = start_daemon("--concurrency", "1", directory=directory, env=manager.environment)
    ready = manager.wait_for("READY=1")

    (directory / "boilerd.toml").write_text("concurrency = 0\n")
    daemon.signal(signal.SIGHUP)

    reloading = manager.wait_for("RELOADING=1", after=ready)
    again = manager.wait_for("READY=1", after=reloading)
    manager.wait_for("STATUS=1 worker, 0 busy, 0 pending; reload refused: ", after=again)


def test_a_reload_that_cannot_even_be_tried_ends_with_ready(
    python: Path, start_daemon: StartDaemon, manager: Manager, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env=manager.environment)
    ready = manager.wait_for("READY=1")

    python.unlink()
    daemon.signal(signal.SIGHUP)

    reloading = manager.wait_for("RELOADING=1", after=ready)
    again = manager.wait_for("READY=1", after=reloading)
    manager.wait_for("STATUS=1 worker, 0 busy, 0 pending; reload refused: ", after=again)
    daemon.wait_for("reload refused, going on as before")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)


def test_a_reload_that_is_refused_before_the_workers_serve_makes_nobody_ready(
    start_daemon: StartDaemon, manager: Manager, directory: Path, failpoints: Failpoints
) -> None:
    failpoints.arm("before-birth", signal.SIGSTOP)
    env = manager.environment | failpoints.env
    daemon = start_daemon("--concurrency", "1", directory=directory, env=env)
    late = failpoints.struck("before-birth")

    (directory / "boilerd.toml").write_text("concurrency = 0\n")
    daemon.signal(signal.SIGHUP)

    manager.wait_for("STATUS=starting, 1 worker, 0 busy, 0 pending; reload refused: ")
    refused = daemon.cli("reload")
    assert "READY=1" not in manager.receive()
    os.kill(late, signal.SIGCONT)
    manager.wait_for("READY=1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("boilerd: error: reload refused: ")


def test_a_refusal_leaves_the_status_with_the_next_reload_that_goes_well(
    start_daemon: StartDaemon, manager: Manager, directory: Path
) -> None:
    daemon = start_daemon("--concurrency", "1", directory=directory, env=manager.environment)
    ready = manager.wait_for("READY=1")
    (directory / "boilerd.toml").write_text("concurrency = 0\n")
    daemon.signal(signal.SIGHUP)
    refused = manager.wait_for("STATUS=1 worker, 0 busy, 0 pending; reload refused: ", after=ready)

    (directory / "boilerd.toml").unlink()
    assert daemon.cli("reload").returncode == 0

    manager.wait_for("STATUS=1 worker, 0 busy, 0 pending", after=manager.wait_for("READY=1", after=refused))
    assert "refused" not in daemon.info()["status"]


def test_a_refusal_leaves_the_status_after_a_while(
    start_daemon: StartDaemon, manager: Manager, directory: Path
) -> None:
    (directory / "forgetful.py").write_text(
        "from apps import mux\nfrom boilerd.supervision import reload\nreload.TELL_ERROR_S = 1.5\n"
    )
    env = manager.environment | {"BOILERD_APP": "forgetful:mux"}
    daemon = start_daemon("--concurrency", "1", directory=directory, env=env)
    ready = manager.wait_for("READY=1")

    (directory / "boilerd.toml").write_text("concurrency = 0\n")
    daemon.signal(signal.SIGHUP)

    refused = manager.wait_for("STATUS=1 worker, 0 busy, 0 pending; reload refused: ", after=ready)
    after = manager.wait_for("STATUS=", after=refused)
    assert manager.messages[after - 1] == "STATUS=1 worker, 0 busy, 0 pending"
    assert daemon.info()["trouble"] == ""


def test_a_start_that_fails_says_why_in_the_status(
    start_daemon: StartDaemon, manager: Manager, directory: Path
) -> None:
    (directory / "broken.py").write_text("import nothing_like_it\n")
    daemon = start_daemon(
        "--concurrency", "1", directory=directory, env=manager.environment | {"BOILERD_APP": "broken:mux"}
    )

    assert daemon.wait() == 3

    found = manager.wait_for("STATUS=could not start: ")
    assert "nothing_like_it" in manager.messages[found - 1]


def test_the_manager_is_patient_while_the_application_is_imported(start_daemon: StartDaemon, manager: Manager) -> None:
    env = {**manager.environment, "WATCHDOG_USEC": "20000000"}
    daemon = start_daemon("--concurrency", "1", env=env)
    patient = manager.wait_for("EXTEND_TIMEOUT_USEC=180000000")
    ready = manager.wait_for("READY=1", after=patient)
    assert not any("WATCHDOG_USEC" in message for message in manager.messages)  # it does not run yet

    daemon.signal(signal.SIGHUP)

    extended = manager.wait_for("EXTEND_TIMEOUT_USEC=180000000", after=ready)
    patient = manager.wait_for("WATCHDOG_USEC=180000000", after=ready)
    again = manager.wait_for("WATCHDOG_USEC=20000000", after=max(extended, patient))
    manager.wait_for("READY=1", after=again)


def test_an_idle_daemon_feeds_an_impatient_watchdog_in_time(start_daemon: StartDaemon, manager: Manager) -> None:
    start_daemon("--concurrency", "1", env={**manager.environment, "WATCHDOG_USEC": "800000"})
    ready = manager.wait_for("READY=1")
    # Supervisor takes a process for running after a second; until then the loop goes fast.
    settled_s = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > settled_s, "two seconds have passed")

    count = len(manager.receive())
    fed_s = [time.monotonic()]
    while len(fed_s) < 5:
        manager.wait_for("WATCHDOG=1", after=count)
        count = len(manager.messages)
        fed_s.append(time.monotonic())

    assert ready
    # A loop that sleeps for a second, as it may otherwise, would be late each time.
    assert sorted(later - earlier for earlier, later in pairwise(fed_s))[1] < 0.8
