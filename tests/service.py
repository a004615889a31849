"""The unit boiler-worker in a box, as the tests on a real systemd use it."""

import json
import subprocess
from typing import Any

from box import Box
from support import wait_until

#: The application of the tests.
APP = """
import os, signal, subprocess, time
from boilerd import ServeMux
mux = ServeMux()

@mux.handle("app:version")
def version(task):
    task.logger.info("version 1")

@mux.handle("app:sleep")
def sleep(task):
    time.sleep(task.payload)

@mux.handle("app:stuck")
def stuck(task):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    task.logger.info("stuck now")
    time.sleep(600)

@mux.handle("app:confined")
def confined(task):
    def tries(path):
        try:
            with open(path, "w") as file:
                file.write("x")
        except OSError as error:
            return error.strerror
        return "written"
    wanted = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Uid")
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
    task.logger.info("confined", extra={
        "paths": {path: tries(path) for path in task.payload}, "status": {name: status[name] for name in wanted},
    })
"""
DROP_IN = """[Service]
WorkingDirectory=/srv/myproject
Environment=BOILERD_APP=tasks:mux
"""


IDENTIFIERS = ("boiler-worker", "boiler-worker@a", "boiler-worker@b")


class Service:
    """The unit boiler-worker of the installed box, and what it said since the test began."""

    def __init__(self, box: Box) -> None:
        self.box = box
        # Not a cursor: with a filter, journalctl 252 leaves out the first line after one.
        self._said_before = {name: len(box.journal(name)) for name in IDENTIFIERS}

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.box.run("systemctl", "--no-pager", *words, check=check)

    def drop_in(self, text: str, unit: str = "boiler-worker") -> None:
        self.box.write(f"/etc/systemd/system/{unit}.service.d/test.conf", text)
        self.systemctl("daemon-reload")

    def start(self, unit: str = "boiler-worker") -> None:
        self.systemctl("start", unit)

    def enqueue(self, *words: str) -> str:
        return self.box.run("boilerd", "enqueue", *words).stdout.strip()

    def raw_lines(self, identifier: str = "boiler-worker") -> list[str]:
        return self.box.journal(identifier)[self._said_before[identifier] :]

    def lines(self, message: str, identifier: str = "boiler-worker", **fields: Any) -> list[dict[str, Any]]:
        """The log lines so far with this message and these fields; every line must be JSON."""
        lines = [json.loads(line) for line in self.raw_lines(identifier)]
        return [line for line in lines if {"message": message, **fields}.items() <= line.items()]

    def wait_for(
        self, message: str, *, count: int = 1, identifier: str = "boiler-worker", **fields: Any
    ) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            lines = self.lines(message, identifier, **fields)
            return lines if len(lines) >= count else []

        return wait_until(found, f"{count} line(s) {message!r} {fields}")[count - 1]

    def main_pid(self, unit: str = "boiler-worker") -> int:
        return int(self.box.show(unit, "MainPID")["MainPID"])

    def state(self, unit: str = "boiler-worker") -> str:
        found = self.box.show(unit, "ActiveState", "SubState")
        return f"{found['ActiveState']} {found['SubState']}"
