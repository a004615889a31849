"""A private Valkey, and what it tells."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from boilerd.broker.connection import connect
from boilerd.daemon.valkey_program import find_server


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = 300.0, every_s: float = 0.002) -> None:
    """Return when the condition holds; end the program when it takes too long."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit(f"bench: gave up waiting until {what}")
        time.sleep(every_s)


class Server:
    """Keeps nothing on disk: what is measured is the software, not the machine's disk.

    Args:
        directory: For its socket.
        is_apart: Linux schedules it as a group of its own beside the workers (autogroup), as it does with two
            services of systemd, and not as one process among them.
    """

    def __init__(self, directory: Path, *, is_apart: bool) -> None:
        self.socket = directory / "bench.sock"
        self.url = f"unix://{self.socket}"
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(directory)]
        command = [find_server(), *options, "--loglevel", "warning"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=is_apart)
        self.connection = connect(self.url, timeout_s=60)
        wait_until(self._answers, "Valkey answers")

    def version(self) -> str:
        """Name and version."""
        info = self.connection.info("server")
        return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"

    def commands(self) -> int:
        """Commands of the clients which are connected now, those in their scripts included, this one left out."""
        own = self.connection.client_id()
        return sum(
            int(client.get("tot-cmds", 0)) for client in self.connection.client_list() if int(client["id"]) != own
        )

    def totals(self) -> tuple[int, int]:
        """How often it has read from a client, about a round trip each; and commands of all clients, as above.

        The call itself is a round trip that the next one counts.
        """
        stats = self.connection.info("stats")
        return int(stats["total_reads_processed"]), int(stats["total_commands_processed"])

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.connection.ping())
        except redis.RedisError:
            return False
