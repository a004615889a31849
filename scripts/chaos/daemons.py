"""The parties of the chaos that are broken: daemons with a pool of each kind, and the broker that they share."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from boilerd.broker.connection import connect
from boilerd.cli.rpc_client import read_status
from boilerd.daemon.valkey_program import find_server
from boilerd.errors import RefusedError
from boilerd.supervision.asking import ask

#: The pools beside `default`: many async tasks at once, and some threads; each recycles its workers.
POOLS = {
    "waits": {"queues": {"waits": 3, "limited": 1}, "processes": 2, "slots": 50, "max_tasks": 3000},
    "threads": {"queues": {"threads": 1}, "processes": 2, "slots": 8, "max_tasks": 1000},
}
OWN_QUEUES = ("critical", "default", "low")
QUEUES = (*OWN_QUEUES, "waits", "limited", "threads")
#: How many tasks of a queue a process may run at once.
SLOTS = dict.fromkeys(OWN_QUEUES, 1) | {"waits": 50, "limited": 50, "threads": 8}
#: How many tasks of this queue may run at once, in all daemons.
MOST_ACTIVE = {"limited": 7}


@dataclass
class Daemon:
    """One `boilerd run`."""

    directory: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def _socket(self) -> Path:
        return self.directory / "run" / "control.sock"

    def start(self) -> None:
        """Start it; its log goes to a file."""
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            command = [sys.executable, "-m", "boilerd", "run"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def pids(self, name: str = "") -> list[int]:
        """Of its children whose name begins so."""
        found = read_status(self._socket).processes
        return [child["pid"] for child in found if child["name"].startswith(name) and child["pid"]]

    def workers(self) -> list[int]:
        """Those of all pools."""
        found = read_status(self._socket).processes
        return [child["pid"] for child in found if child["name"] not in {"scheduler", "valkey"} and child["pid"]]

    def ask(self, method: str, *words: Any) -> Any:
        """Call a method of its control socket; None where it is not there, or refuses."""
        with suppress(OSError, RefusedError):
            return ask(self._socket, f"boilerd.{method}", *words)
        return None

    def everybody(self) -> list[int]:
        """The supervisor and its children."""
        return [*([self.process.pid] if self.process else []), *self.pids()]

    def end(self, signum: signal.Signals) -> None:
        """End the supervisor and start another."""
        if self.process:
            self.process.send_signal(signum)
            self.process.wait()

    def is_up(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


class Server:
    """The broker that all share."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.url = f"unix://{directory}/valkey.sock"
        self._command = [
            find_server(), "--port", "0", "--unixsocket", f"{directory}/valkey.sock", "--dir", str(directory),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        while True:
            try:
                with connect(self.url) as client:
                    client.ping()
                return
            except redis.RedisError:
                pause(0.02)

    def end(self, signum: signal.Signals) -> None:
        """End it."""
        if self._process:
            self._process.send_signal(signum)
            self._process.wait()


def signal_all(pids: list[int], signum: signal.Signals) -> None:
    """Send it to all that live."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            continue


def pause(seconds: float) -> None:
    """Wait."""
    select.select([], [], [], seconds)


def environment(directory: Path, number: int, url: str, workers: int) -> dict[str, str]:
    """The settings of a daemon."""
    app_first = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "BOILERD_STATE_DIR": str(directory / f"d{number}"),
        "BOILERD_REDIS_URL": url,
        "BOILERD_APP": "chaosapp:mux",
        "BOILERD_QUEUES": "critical=6,default=3,low=1",
        "BOILERD_CONCURRENCY": str(workers),
        "BOILERD_POOLS": json.dumps(POOLS),
        "BOILERD_LIMITS": json.dumps({queue: {"max_active": most} for queue, most in MOST_ACTIVE.items()}),
        "BOILERD_SHUTDOWN_TIMEOUT": "2s",
        "BOILERD_RETRY": '{"base": "0.1s", "max_delay": "1s", "max_retries": 1000}',
        "BOILERD_LOG_LEVEL": "warning",
        "PYTHONPATH": app_first,
    }
