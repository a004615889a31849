"""People who look at a dashboard in a process of its own, each with a connection and a session; and what that takes."""

import http.client
import multiprocessing
import os
import statistics
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
#: By so much of their interval people begin later in each turn: these moments lie as evenly as they can.
GOLDEN = 0.618


class Dashboard:
    """``boilerd web`` in a process of its own, where `NAMES` log in.

    Args:
        directory: For its settings.
        redis_url: Its broker.
        keeps_rows: False: it writes all rows each time.
    """

    def __init__(self, directory: Path, redis_url: str, *, keeps_rows: bool = True) -> None:
        hashed = hash_password(PASSWORD)
        settings = directory / "boilerd.toml"
        users = [f'[web.users.{name}]\npassword = "{hashed}"\nrole = "admin"\n' for name in NAMES]
        settings.write_text("\n".join([f'redis_url = "{redis_url}"\nstate_dir = "{directory}"\n', *users]))
        program = "boilerd" if keeps_rows else "all_rows"
        command = [sys.executable, "-m", program, "web", "--port", "0", "--config", str(settings)]
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

    Attributes:
        told_s: How long to wait before the next poll, as was told last.
    """

    def __init__(self, port: int, name: str, cookie: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        self.cookie = cookie
        self.told_s = 0.0
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
        except ConnectionResetError:  # it was idle for too long; browsers send it again, too
            answer = self._send(address, named)
        self.told_s = float(answer.headers.get("boilerd-wait", 0))
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
        every_s: The same, or what they were told while they were `obeying`.
    """

    def __init__(self, port: int, addresses: Sequence[str], every_s: float) -> None:
        self._viewers = [Viewer(port, name) for name, _ in zip(NAMES, addresses, strict=False)]
        self._addresses = addresses
        self._tags = [""] * len(self._viewers)
        self._turn = 0
        self.every_s = every_s
        self._port = port

    def __len__(self) -> int:
        return len(self._viewers)

    @contextmanager
    def looking(self, *, obeying: bool = False) -> Iterator[Counter[str]]:
        """They look as long as this goes on; afterwards it has how many answers of which status there were.

        Who comes back polls as before, and begins at another moment; so that in several short times all polls come.

        Args:
            obeying: Whether they poll as seldom as they are told, and go on so when they come back.
        """
        counts: Counter[str] = Counter()
        context = multiprocessing.get_context("fork")
        end, told = context.Event(), context.SimpleQueue()
        cookies = [viewer.cookie for viewer in self._viewers]
        process = context.Process(target=self._look, args=(cookies, obeying, end, told))
        process.start()
        try:
            yield counts
        finally:
            end.set()
            found, self._tags, self.every_s = told.get()
            counts.update(found)
            process.join()
            self._turn += 1

    def _look(self, cookies: Sequence[str], obeying: bool, end: Any, told: Any) -> None:
        os.nice(19)  # people's browsers are on machines of their own, and take this one no CPU
        self._viewers = [Viewer(self._port, NAMES[place], cookie) for place, cookie in enumerate(cookies)]
        counts = [Counter[str]() for _ in cookies]
        threads = [
            threading.Thread(target=self._one, args=(place, viewer, obeying, end, counts[place]))
            for place, viewer in enumerate(self._viewers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told_s = statistics.median(viewer.told_s for viewer in self._viewers) if obeying else 0.0
        told.put((sum(counts, Counter()), self._tags, max(self.every_s, told_s)))

    def _one(self, place: int, viewer: Viewer, obeying: bool, end: Any, counts: Counter[str]) -> None:
        is_ended = end.wait(self.every_s * ((place / len(NAMES) + GOLDEN * self._turn) % 1))
        while not is_ended:
            status, _, self._tags[place] = viewer.poll(self._addresses[place], self._tags[place])
            counts[str(status)] += 1
            every_s = max(self.every_s, viewer.told_s) if obeying else self.every_s
            is_ended = end.wait(every_s) if every_s else end.is_set()
