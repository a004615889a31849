"""People who look at a dashboard in a process of its own, each with a connection and a session; and what that takes."""

import http.client
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from boilerd.web.passwords import hash_password
from support import DEADLINE_S, TESTS, clean_environment, python_path

PASSWORD = "correct horse"
NAMES = [f"viewer-{number}" for number in range(20)]


class Dashboard:
    """``boilerd web`` in a process of its own, where `NAMES` log in.

    Args:
        directory: For its settings.
        redis_url: Its broker.
    """

    def __init__(self, directory: Path, redis_url: str) -> None:
        hashed = hash_password(PASSWORD)
        settings = directory / "boilerd.toml"
        users = [f'[web.users.{name}]\npassword = "{hashed}"\nrole = "admin"\n' for name in NAMES]
        settings.write_text("\n".join([f'redis_url = "{redis_url}"\nstate_dir = "{directory}"\n', *users]))
        command = [sys.executable, "-m", "boilerd", "web", "--port", "0", "--config", str(settings)]
        # Without OpenTelemetry and watchfiles, which redis-py and uvicorn would import where they are: that is 3 MB and
        # 1 MB that an installation has not.
        environment = clean_environment(PYTHONPATH=python_path(TESTS / "children", TESTS / "web_alone"))
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline().rpartition(":")[2].strip().rstrip("/"))

    @property
    def cpu_ms(self) -> float:
        """CPU that it has used."""
        return cpu_ms(self.process.pid)

    @property
    def memory_bytes(self) -> int:
        """What of it is in RAM."""
        told = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(told[1]) * os.sysconf("SC_PAGESIZE")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        assert self.process.stdout
        self.process.stdout.close()


def cpu_ms(pid: int) -> float:
    """CPU that a process has used."""
    return time.clock_gettime(~pid << 3 | 2) * 1000  # as clock_getcpuclockid(3) makes it


class Viewer:
    """Somebody who has logged in.

    Args:
        port: Where the dashboard listens on 127.0.0.1.
        name: One of `NAMES`.
        cookie: Of a session that has begun; else they log in.
    """

    def __init__(self, port: int, name: str, cookie: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        self.cookie = cookie
        if not cookie:
            form = urlencode({"name": name, "password": PASSWORD})
            headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
            self._connection.request("POST", "/login", form, headers)
            answer = self._connection.getresponse()
            answer.read()
            self.cookie = (answer.headers["set-cookie"] or "").partition(";")[0]
        assert self.cookie, name

    def get(self, address: str, **headers: str) -> tuple[int, bytes, str]:
        """Open a page: status, content, and its tag."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            answer = self._send(address, named)
        except http.client.RemoteDisconnected:  # it was idle for too long; browsers send it again, too
            answer = self._send(address, named)
        return answer.status, answer.read(), answer.headers.get("etag", "")

    def _send(self, address: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        self._connection.request("GET", address, headers={"cookie": self.cookie, "accept-encoding": "gzip", **headers})
        return self._connection.getresponse()

    def poll(self, address: str, tag: str) -> tuple[int, bytes, str]:
        """Ask whether it has changed, as an open page does."""
        return self.get(address, boilerd_live="1", if_none_match=tag)


class Audience:
    """Some of `NAMES` look at pages, in a process of their own, while `looking`.

    Args:
        port: Where the dashboard listens.
        addresses: The pages, one for each of them.
        every_s: How often each of them polls; 0: again and again.

    Attributes:
        every_s: The same.
    """

    def __init__(self, port: int, addresses: Sequence[str], every_s: float) -> None:
        self._viewers = [Viewer(port, name) for name, _ in zip(NAMES, addresses, strict=False)]
        self._addresses = addresses
        self.every_s = every_s
        self._port = port

    @contextmanager
    def looking(self) -> Iterator[Counter[str]]:
        """They look as long as this goes on; afterwards it has how many answers of which status there were."""
        counts: Counter[str] = Counter()
        context = multiprocessing.get_context("fork")
        end, told = context.Event(), context.SimpleQueue()
        cookies = [viewer.cookie for viewer in self._viewers]
        process = context.Process(target=self._look, args=(cookies, end, told))
        process.start()
        try:
            yield counts
        finally:
            end.set()
            counts.update(told.get())
            process.join()

    def _look(self, cookies: Sequence[str], end: Any, told: Any) -> None:
        os.nice(19)  # people's browsers are on machines of their own, and take this one no CPU
        counts = [Counter[str]() for _ in cookies]
        threads = [
            threading.Thread(target=self._one, args=(place, cookie, end, counts[place]))
            for place, cookie in enumerate(cookies)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told.put(sum(counts, Counter()))

    def _one(self, place: int, cookie: str, end: Any, counts: Counter[str]) -> None:
        viewer, tag = Viewer(self._port, NAMES[place], cookie), ""
        address = self._addresses[place]
        is_ended = end.wait(self.every_s * place / len(NAMES))
        while not is_ended:
            status, _, tag = viewer.poll(address, tag)
            counts[str(status)] += 1
            is_ended = end.wait(self.every_s) if self.every_s else end.is_set()
