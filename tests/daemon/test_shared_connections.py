"""Connections that the import of the application opened, which all workers would share."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from boilerd import Client
from support import StartDaemon, Valkey, wait_until

MESSAGE = "connections that the import opened are shared by all workers"
APP = """
import asyncio, logging.handlers, os, socket
import redis
from boilerd import Client, ServeMux

mux = ServeMux()
address = os.environ["BOILERD_REDIS_URL"].removeprefix("unix://")
kept = []

def connect(kind, address):
    kept.append(socket.socket(kind, socket.SOCK_STREAM))
    kept[-1].connect(address)

#: None of these may be told of.
client = Client.from_url(os.environ["BOILERD_REDIS_URL"])
client.connection.ping()
other = redis.Redis(unix_socket_path=address)
other.ping()
kept.append(asyncio.new_event_loop())
kept.append(socket.create_server(("127.0.0.1", 0)))
kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
kept[-1].connect(("127.0.0.1", 9))
closed = socket.socket(socket.AF_UNIX)
closed.connect(address)
closed.close()

@mux.handle("ask")
def ask(task):
    client.enqueue("answer", task_id=other.ping() and "answered")

@mux.handle("answer")
def answer(task):
    pass
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_a_start_names_the_peers_of_connections_that_the_import_left_open(
    start_daemon: StartDaemon, directory: Path, listener: socket.socket, valkey: Valkey
) -> None:
    host, port = listener.getsockname()
    leaves = f"connect(socket.AF_INET, {(host, port)})\nconnect(socket.AF_UNIX, address)\n"
    (directory / "sharing.py").write_text(APP + leaves)
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "sharing:mux"}).ready()

    (told,) = daemon.lines(MESSAGE)

    assert told["level"] == "warning"
    assert told["peers"] == sorted([str(valkey.socket), f"{host}:{port}"])
    assert "close them at the end of the import" in told["hint"]
    assert "mux.lifespan" in told["hint"]
    assert "mux.before_fork" in told["hint"]


def test_clients_of_redis_that_the_import_used_are_not_told_of_and_work_in_workers(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "sharing.py").write_text(APP)
    daemon = start_daemon("--concurrency", "2", directory=directory, env={"BOILERD_APP": "sharing:mux"}).ready()

    client.enqueue("ask")

    daemon.wait_for("task completed", task_id="answered")
    assert not daemon.lines(MESSAGE)


def test_a_socket_to_which_the_daemon_logs_is_not_taken_for_one_of_the_application(
    start_daemon: StartDaemon, directory: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as stdout:
        server.bind(str(directory / "journal"))
        server.listen()
        stdout.connect(str(directory / "journal"))
        reader, _ = server.accept()
        with reader:
            reader.setblocking(False)
            start_daemon("--concurrency", "1", stdout=stdout.fileno()).serving()

            said = wait_until(lambda: reader.recv(1 << 20), "it says something")

    assert b"daemon started" in said
    assert MESSAGE.encode() not in said
