"""Workers with slots in children of a test, and a gate that holds their tasks."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from boilerd import Task
from boilerd.worker.slots.worker import SlottedWorker
from support import wait_until


class ForkedWorker:
    """A worker with slots that works in a child."""

    def __init__(self, worker: SlottedWorker, log: Path) -> None:
        self._log = log
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 99
            try:
                _log_to(log)
                status = worker.run()
            finally:
                os._exit(status)

    def signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def wait(self) -> int:
        """Its exit status."""
        wait_until(self.has_ended, "the worker has ended", deadline_s=60)
        assert self._status is not None
        return self._status

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def lines(self) -> list[str]:
        """What it has logged."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def close(self) -> None:
        if not self.has_ended():
            with suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.wait()


def _log_to(path: Path) -> None:
    """Log to a file, in the child."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s task_id=%(task_id)s", defaults={"task_id": ""}))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.INFO)


#: Starts workers with slots; takes the mux, and what `SlottedWorker` takes.
StartWorker = Callable[..., ForkedWorker]


class Gate:
    """Holds tasks of a child until this process opens it, and counts those that have come to it."""

    def __init__(self, directory: Path) -> None:
        self._open = directory / "open"
        self._place = directory / "at-gate"
        self._place.mkdir()

    async def passed(self, task: Task) -> None:
        (self._place / task.id).touch()
        while not self._open.exists():  # noqa: ASYNC110 - another process opens it
            await asyncio.sleep(0.005)

    def open(self) -> None:
        self._open.touch()

    def pass_of(self, task_id: str) -> Path:
        """What lets this task alone through, once it is there."""
        return self._open.with_name(f"pass-{task_id}")

    def count(self) -> int:
        return len(self.ids())

    def ids(self) -> list[str]:
        return [path.name for path in self._place.iterdir()]
