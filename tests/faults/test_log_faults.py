"""Whoever reads the log stops reading, or its disk hangs: tasks go on, the daemon obeys, and says what was lost."""

import json
import os
import pty
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client
from support import StartDaemon, completed, wait_until

#: A drain may take so much longer than it should on a busy machine; the tasks here would go on for a minute.
LATE_S = 20
#: Both ends of a way for lines: to read from, and to write to.
Ends = tuple[int, int]


def terminal() -> Ends:
    return pty.openpty()


def sockets() -> Ends:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.fixture
def stalled(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A way for lines whose reader has stalled: it is full."""
    with ExitStack() as stack:
        ends: Ends = request.param()
        for fd in ends:
            stack.callback(os.close, fd)
        fill(ends[1])
        yield ends


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        while os.write(fd, b"\n" * 4096):
            pass
    with suppress(BlockingIOError):
        while os.write(fd, b"\n"):
            pass
    os.set_blocking(fd, True)


def drain(fd: int, so_far: bytearray) -> bytearray:
    """Read what has come."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        while data := os.read(fd, 65536):
            so_far += data
    return so_far


def lines(text: bytearray, message: str) -> list[dict[str, Any]]:
    """Those with this message, also behind a line that was cut: a terminal takes a part where it lacks room for all."""
    found = []
    for line in text.split(b"\n"):
        with suppress(ValueError):
            found.append(json.loads(line[line.rfind(b'{"time":') :]))
    return [line for line in found if line["message"] == message]


WAYS = pytest.mark.parametrize(
    "stalled", [os.pipe, terminal, sockets], ids=["pipe", "terminal", "socket"], indirect=True
)
PIPE = pytest.mark.parametrize("stalled", [os.pipe], ids=["pipe"], indirect=True)


@pytest.mark.fault(35)
@WAYS
def test_a_reader_that_stalls_stops_no_task_and_turns_health_red_until_it_reads_again(
    start_daemon: StartDaemon, client: Client, stalled: Ends
) -> None:
    reader, writer = stalled
    daemon = start_daemon("--concurrency", "2", "--log-format", "json", stdout=writer).serving()
    task_ids = [client.enqueue("test:echo").id for _ in range(20)]

    wait_until(lambda: all(completed(client.connection, task_id) for task_id in task_ids), "all are completed")
    sick = daemon.cli("health")
    seen = bytearray()
    told = wait_until(lambda: lines(drain(reader, seen), "log lines were lost, nobody took them"), "the loss is told")
    wait_until(lambda: daemon.cli("health").returncode == 0, "it is healthy again")

    assert (sick.returncode, sick.stdout[:5]) == (1, "log: ")
    assert told[0]["lines"] > 0
    last = client.enqueue("test:echo").id
    wait_until(lambda: [line for line in lines(drain(reader, seen), "task completed") if line["task_id"] == last], "")
    assert daemon.stop() == 0


@pytest.mark.fault(35)
@PIPE
def test_a_daemon_whose_reader_has_stalled_drains_in_time(
    start_daemon: StartDaemon, client: Client, stalled: Ends
) -> None:
    daemon = start_daemon("--concurrency", "2", stdout=stalled[1]).serving()
    client.enqueue_many([("test:sleep", 60), ("test:stubborn", None)])
    wait_until(lambda: daemon.info()["busy"] == 2, "both tasks run")
    began_s = time.monotonic()

    status = daemon.stop()

    assert status == 0
    assert time.monotonic() - began_s < 2 + LATE_S
    assert client.connection.llen("rq:queue:default") == 2


@pytest.mark.fault(35)
@PIPE
def test_a_daemon_whose_reader_has_stalled_obeys_a_second_term(
    start_daemon: StartDaemon, client: Client, stalled: Ends
) -> None:
    daemon = start_daemon("--concurrency", "2", stdout=stalled[1], env={"BOILERD_SHUTDOWN_TIMEOUT": "60s"}).serving()
    client.enqueue_many([("test:sleep", 60)] * 2)
    wait_until(lambda: daemon.info()["busy"] == 2, "both tasks run")
    daemon.signal(signal.SIGTERM)
    first_s = time.monotonic()
    wait_until(lambda: time.monotonic() - first_s > 1.1, "more than a second has passed")

    status = daemon.stop()

    assert status == 0
    assert time.monotonic() - first_s < 1.1 + LATE_S


@pytest.mark.fault(35)
def test_a_daemon_whose_log_file_hangs_drains_in_time(start_daemon: StartDaemon, client: Client) -> None:
    """A terminal that nobody reads stands for the disk: it is no stream that the daemon was given, so a write waits."""
    reader, writer = terminal()
    try:
        path = os.ttyname(writer)
        daemon = start_daemon("--concurrency", "2", "--log-output", "file", "--log-file", path).serving()
        task_ids = [client.enqueue("test:sleep", 0).id]
        wait_until(lambda: completed(client.connection, task_ids[0]), "it works")
        fill(writer)
        client.enqueue_many([("test:sleep", 60)] * 2)
        wait_until(lambda: daemon.info()["busy"] == 2, "both workers are at their tasks")
        began_s = time.monotonic()

        status = daemon.stop()

        assert status == 0
        assert time.monotonic() - began_s < 2 + LATE_S
        assert client.connection.llen("rq:queue:default") == 2
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.fault(35)
def test_the_supervisor_forks_with_no_thread_beside_its_main_one(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", "--log-output", "both", "--log-file", "log").serving()
    task_id = client.enqueue("test:echo").id
    wait_until(lambda: completed(client.connection, task_id), "it works")

    threads = [path.name for path in Path(f"/proc/{daemon.pid}/task").iterdir()]

    assert threads == [str(daemon.pid)]
    assert daemon.stop() == 0
    # The process that writes them outlives the daemon until all are written.
    log = daemon.directory / "log"
    wait_until(lambda: b"worker shutdown completed gracefully" in log.read_bytes().splitlines()[-1], "all is written")


@pytest.mark.fault(35)
@pytest.mark.parametrize("output", ["file", "both"])
def test_a_log_file_that_cannot_be_written_is_told_once_on_stderr_and_turns_health_red_until_it_can(
    start_daemon: StartDaemon, client: Client, directory: Path, output: str
) -> None:
    logs = directory / "logs"
    logs.mkdir()
    daemon = start_daemon("--concurrency", "1", "--log-output", output, "--log-file", str(logs / "log")).serving()
    logs.rename(directory / "away")

    ids = [client.enqueue("test:echo").id for _ in range(3)]
    wait_until(lambda: all(completed(client.connection, task_id) for task_id in ids), "tasks go on")
    wait_until(lambda: "log cannot be written" in daemon.errors(), "it is told on stderr")
    sick = daemon.cli("health")
    logs.mkdir()
    wait_until(lambda: daemon.cli("health").returncode == 0, "it is healthy again")

    assert (sick.returncode, sick.stdout[:5]) == (1, "log: ")
    (told,) = map(json.loads, daemon.errors().splitlines())
    assert (told["level"], told["error"]) == ("error", "No such file or directory")
    assert told["log"] == str(logs / "log")
    lost = lines(bytearray((logs / "log").read_bytes()), "log lines were lost, nobody took them")
    assert lost[0]["lines"] >= 3
