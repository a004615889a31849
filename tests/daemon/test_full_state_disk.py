"""A state directory whose disk is full: what was accepted is there after a stop."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from boilerd import Client, TaskInfo
from boilerd.broker import keys
from boilerd.broker.connection import connect
from boilerd.daemon.append_file_holes import fill_holes
from boilerd.daemon.valkey import EmbeddedValkey
from boilerd.errors import BrokerUnableError, NoBrokerError
from boilerd.settings.urls import socket_url
from support import DEADLINE_S, RunningDaemon, StartDaemon, Valkey, private_directory, wait_until

SIZE_MB = 24
WAITING = "the disk is full, waiting until all accepted tasks are written"
#: How many fill levels are tried.
ROUNDS = int(os.environ.get("BOILERD_TEST_ROUNDS", "2"))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    with private_directory() as path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this machine does not allow to mount a small disk")
        try:
            yield path
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)


def client_of(daemon: RunningDaemon) -> Client:
    return Client.from_url(socket_url(daemon.socket.with_name("valkey.sock")))


def fill(client: Client, *, size: int, chunk: int = 100) -> list[str]:
    """Enqueue until nothing is accepted any more; the IDs of all tasks that were accepted."""
    accepted: list[str] = []
    with suppress(BrokerUnableError):
        while True:
            answers = client.enqueue_many([("test:echo", "x" * size)] * chunk, process_in=3600)
            accepted += [task.id for task in answers if isinstance(task, TaskInfo)]
    return accepted


def missing(client: Client, task_ids: list[str]) -> list[str]:
    return [task_id for task_id in task_ids if not client.connection.exists(keys.job(task_id))]


def give_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


@pytest.mark.fault(34)
@pytest.mark.parametrize("filled_mb", [2 + n % (SIZE_MB - 4) for n in range(ROUNDS)])
def test_a_stop_on_a_full_disk_loses_no_accepted_task(
    start_daemon: StartDaemon, small_disk: Path, directory: Path, filled_mb: int
) -> None:
    (small_disk / "filler").write_bytes(bytes(filled_mb << 20))
    where = {"BOILERD_STATE_DIR": str(small_disk), "BOILERD_RUNTIME_DIR": str(directory / "run")}
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where).ready()
    with client_of(daemon) as client:
        accepted = fill(client, size=5000)
        health, explained = daemon.cli("health"), daemon.cli("health", "--explain")

    daemon.signal(signal.SIGTERM)
    wait_until(lambda: daemon.process.poll() is not None or daemon.lines(WAITING), "it has ended, or waits")
    if filled_mb > SIZE_MB * 3 / 4:  # what was kept may be too little
        give_room(small_disk)
    assert daemon.wait() == 0

    assert (health.returncode, "cannot save to its disk" in health.stdout) == (1, True)
    assert explained.stdout.startswith("unhealthy: the embedded Valkey cannot write to its disk")
    assert f"  see df -h {small_disk}" in explained.stdout.splitlines()
    give_room(small_disk)
    again = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where).serving()
    with client_of(again) as client:
        assert missing(client, accepted) == []


@pytest.mark.fault(34)
def test_a_disk_that_is_full_at_the_start_is_told_at_once(
    start_daemon: StartDaemon, small_disk: Path, directory: Path
) -> None:
    where = {"BOILERD_STATE_DIR": str(small_disk), "BOILERD_RUNTIME_DIR": str(directory / "run")}
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where).ready()
    daemon.stop()
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass

    again = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where)

    assert again.wait() == 1  # systemd tries again: there may be room later
    assert f"state directory {small_disk}/valkey: its disk is full, 0 bytes are free; make room there" in again.errors()


@pytest.mark.fault(34)
def test_a_drain_waits_until_all_accepted_tasks_are_written(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    server = daemon.pid_of("valkey")
    soft, hard = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (1_000_000, hard))  # as a disk that is full, for any user
    with client_of(daemon) as client:
        accepted = fill(client, size=9000)

        daemon.signal(signal.SIGTERM)
        told = daemon.wait_for(WAITING)

        assert "were accepted are not on the disk" in told["error"]
        assert daemon.cli("health").returncode == 1
        resource.prlimit(server, resource.RLIMIT_FSIZE, (soft, hard))
        assert daemon.wait() == 0
    again = start_daemon("--concurrency", "1", redis_url=None, directory=daemon.directory).serving()
    with client_of(again) as client:
        assert missing(client, accepted) == []


def test_a_disk_that_was_full_after_the_file_was_rewritten_keeps_no_daemon_from_starting(
    start_daemon: StartDaemon, small_disk: Path, directory: Path
) -> None:
    where = {"BOILERD_STATE_DIR": str(small_disk), "BOILERD_RUNTIME_DIR": str(directory / "run")}
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where).ready()
    with client_of(daemon) as client:
        client.connection.bgrewriteaof()
        wait_until(lambda: not client.connection.info("persistence")["aof_rewrite_in_progress"], "it is rewritten")
        accepted = fill(client, size=5001)
        give_room(small_disk)
        wait_until(lambda: daemon.cli("health").returncode == 0, "it stores again")
        accepted += [client.enqueue("test:echo", process_in=3600).id]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0

    again = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env=where).serving()

    with client_of(again) as client:
        assert missing(client, accepted) == []
    assert again.lines("mended the file of a server whose disk was full")


@pytest.mark.parametrize("size", [2, 3, 511, 513, 514, 1025, 28000])
def test_a_hole_between_two_commands_is_filled_and_bytes_of_values_are_not(directory: Path, size: int) -> None:
    value = b"x\r\n\0\0*1\r\n"
    server = Valkey(directory, "--appendonly", "yes").start()
    with connect(server.url) as client:
        client.set("before", value)
    server.stop()
    (file,) = directory.glob("appendonlydir/*.incr.aof")
    with file.open("ab") as opened:
        opened.write(bytes(size) + b"*3\r\n$3\r\nSET\r\n$6\r\nbehind\r\n$11\r\n" + value.ljust(11) + b"\r\n")

    mended = fill_holes(directory)

    assert mended == [file]
    assert fill_holes(directory) == []
    server.start()
    with connect(server.url) as client:
        assert (client.get("before"), client.get("behind")) == (value, value.ljust(11))
    server.stop(signal.SIGKILL)


def test_the_stop_of_the_brokers_own_unit_waits_until_all_accepted_tasks_are_written(small_disk: Path) -> None:
    server = Valkey(small_disk, "--appendonly", "yes").start()
    with Client.from_url(server.url) as client:
        accepted = fill(client, size=9000)
        command = [sys.executable, "-I", "-m", "boilerd.daemon.last_write", server.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stop:
            assert stop.stderr
            told = stop.stderr.readline()
            is_waiting = stop.poll() is None
            give_room(small_disk)
            assert stop.wait(DEADLINE_S) == 0
        server.stop()
        server.start()

        assert ("accepted bytes are not written: make room" in told, is_waiting) == (True, True)
        assert missing(client, accepted) == []
        server.stop(signal.SIGKILL)


def test_a_broker_that_was_left_and_cannot_write_is_not_ended_by_a_new_daemon(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.daemon.valkey.START_TIMEOUT_S", 0.1)
    server = Valkey(small_disk, "--appendonly", "yes").start()
    assert server.process
    with Client.from_url(server.url) as client:
        fill(client, size=9000)

    with pytest.raises(NoBrokerError, match=r"were accepted are not on the disk of .*: make room there"):
        EmbeddedValkey(small_disk, server.socket).command()

    assert server.process.poll() is None
    server.stop(signal.SIGKILL)
