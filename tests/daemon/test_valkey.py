"""The embedded broker's start: a server that is left from before, one that takes its time, one that hangs."""

import os
import re
import select
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from supervisor.states import ProcessStates

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.daemon.valkey import EmbeddedValkey
from boilerd.errors import NoBrokerError
from support import DEADLINE_S, StartValkey, Valkey, boilerd, clean_environment, wait_until


def supervisor() -> Any:
    """What the wait needs of the daemon: the server's state, and something to do meanwhile."""
    group = SimpleNamespace(processes={"valkey": SimpleNamespace(state=ProcessStates.RUNNING)})
    return SimpleNamespace(
        process_groups={"valkey": group}, serve_briefly=lambda timeout_s: select.select([], [], [], timeout_s)
    )


def is_loading(server: EmbeddedValkey) -> bool:
    try:
        server.is_ready()
    except redis.BusyLoadingError:
        return True
    return False


def test_a_directory_in_place_of_its_socket_is_told_in_one_line(directory: Path) -> None:
    (directory / "run" / "valkey.sock").mkdir(parents=True, mode=0o700)

    done = boilerd("run", "--burst", env=clean_environment(BOILERD_STATE_DIR=str(directory)))

    assert done.returncode == 3
    assert re.fullmatch(r"boilerd: error: valkey socket \S+: Is a directory, not a socket; [^\n]*\n", done.stderr)


def test_a_server_that_was_left_and_hangs_is_killed_before_another_gets_its_files(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.daemon.valkey.START_TIMEOUT_S", 0.1)
    server = Valkey(directory).start()
    assert server.process
    os.kill(server.process.pid, signal.SIGSTOP)

    EmbeddedValkey(directory, server.socket).command()

    assert server.process.wait(DEADLINE_S) == -signal.SIGKILL
    assert not server.socket.exists()


def test_a_large_file_may_take_longer_than_an_answer(
    start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.daemon.valkey.START_TIMEOUT_S", 0.5)
    server = start_valkey("--save", "3600 1")
    with Client.from_url(server.url) as client:
        client.enqueue_many([("test:echo", "x" * 1000)] * 300)
    server.stop()
    server.launch("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    embedded = EmbeddedValkey(server.socket.parent, server.socket)
    wait_until(lambda: is_loading(embedded), "it reads its file")

    embedded.wait_until_ready(supervisor())

    assert embedded.is_ready()


def test_a_server_that_never_answers_is_not_waited_for(
    start_valkey: StartValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boilerd.daemon.valkey.START_TIMEOUT_S", 0.1)
    server = start_valkey()
    assert server.process
    os.kill(server.process.pid, signal.SIGSTOP)

    with pytest.raises(NoBrokerError, match="the embedded Valkey did not answer in"):
        EmbeddedValkey(server.socket.parent, server.socket).wait_until_ready(supervisor())


def test_a_server_whose_disk_is_full_is_ready(start_valkey: StartValkey) -> None:
    server = start_valkey("--save", "3600 1")
    with connect(server.url) as admin:
        (server.socket.parent / "dump.rdb" / "in the way").mkdir(parents=True)
        admin.bgsave()
        wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "it could not save")
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            admin.ping()

    assert EmbeddedValkey(server.socket.parent, server.socket).is_ready()
