"""Outcomes that could not be written, because the broker was away when their worker had to stop.

Each worker has a file of its own in the state directory, a line of JSON for each outcome, without payloads. Whoever
comes next writes them: the scheduler of the next start, or the worker's successor. They count as long as nobody else
has taken the task over, which Redis decides by the lease. All else that the worker held goes back to its queue: it
ended in order, and had not begun it, or was interrupted by the end of the drain.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from boilerd import ground
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.tasks.task import Task
from boilerd.worker.settlement import record_failure

logger = logging.getLogger("boilerd.worker")

#: Bytes of a file; results are what makes them large, and what does not fit runs again.
MOST_BYTES = 64 * 1024 * 1024
#: Files in all: two for each of the workers that a host has at most.
MOST_FILES = 2000
_SUFFIX = ".jsonl"


class KeptOutcome(msgspec.Struct, frozen=True):
    """An outcome as it is kept: a completion, or a failure."""

    task_id: str
    execution_id: str
    queue: str
    started: str
    retention_s: int
    task_type: str
    needs_cleanup: bool
    result: bytes = b""
    failure: Failure | None = None

    @classmethod
    def of(cls, claim: Claim, result: bytes = b"", failure: Failure | None = None) -> "KeptOutcome":
        """The outcome of a claim."""
        task_type = claim.task.type if claim.task else ""
        return cls(
            claim.task_id, claim.execution_id, claim.queue, claim.started, claim.retention_s, task_type,
            claim.needs_cleanup, result, failure,
        )  # fmt: skip

    def claim(self) -> Claim:
        """The claim as far as its outcome needs it."""
        task = Task(self.task_id, self.task_type) if self.task_type else None
        return Claim(
            self.task_id, self.execution_id, self.queue, self.started, self.retention_s, task,
            needs_cleanup=self.needs_cleanup,
        )  # fmt: skip


class KeptOutcomes:
    """The files of a state directory.

    Args:
        directory: Where they are; it is made when the first is written.
        broker: Tells outcomes for this broker from those for another one; part of the files' names.
    """

    def __init__(self, directory: Path, broker: str) -> None:
        self._directory = directory
        self._prefix = f"{broker}-"

    def keep(
        self, worker: str, completions: Iterable[Completion], failures: Iterable[tuple[Claim, Failure]] = ()
    ) -> None:
        """Keep a worker's outcomes, in place of those that it kept before; where that fails, it is logged."""
        outcomes = [KeptOutcome.of(done.claim, done.result) for done in completions]
        outcomes += [KeptOutcome.of(claim, failure=failure) for claim, failure in failures]
        try:
            kept = self._store(worker, outcomes)
        except OSError as error:
            logger.error("outcomes could not be kept", extra={"outcomes": len(outcomes), "error": str(error)})  # noqa: TRY400
            return
        if outcomes:
            logger.warning(
                "outcomes kept until the next start", extra={"outcomes": kept, "file": str(self._path(worker))}
            )

    def forget(self, worker: str) -> None:
        """Forget a worker's outcomes: they are written."""
        with suppress(OSError):
            self._path(worker).unlink(missing_ok=True)

    def workers(self) -> list[str]:
        """The workers that ended with outcomes that are kept."""
        with suppress(OSError):
            files = list(self._directory.glob(f"{self._prefix}*{_SUFFIX}"))
            return [file.name[len(self._prefix) : -len(_SUFFIX)] for file in files]
        return []

    def write(self, broker: Broker, worker: str) -> None:
        """Write what a worker kept, if it did, and give back what else it held; raises BrokerError."""
        outcomes = self._read(worker)
        if outcomes is None:
            return
        if completions := [Completion(kept.claim(), kept.result) for kept in outcomes if kept.failure is None]:
            lost = broker.advance(worker, (), completions, limit=0).lost
            for task_id in lost:
                logger.warning("outcome dropped, the lease was lost", extra={"task_id": task_id})
        for kept in outcomes:
            if kept.failure:
                record_failure(broker, worker, kept.claim(), kept.failure)
        for task_id in broker.release(worker):
            logger.warning("task released, it will run again", extra={"task_id": task_id})
        self.forget(worker)
        if outcomes:
            logger.info("kept outcomes written", extra={"outcomes": len(outcomes)})

    def _store(self, worker: str, outcomes: Sequence[KeptOutcome]) -> int:
        """Write a worker's file, to the disk and in one go; how many outcomes are in it."""
        lines, size_bytes = [], 0
        for line in map(msgspec.json.encode, outcomes):
            size_bytes += len(line) + 1
            if size_bytes > MOST_BYTES:
                break
            lines.append(line + b"\n")
        directory_fd = ground.open_directory(self._directory, makes=True)
        try:
            if len(list(self._directory.iterdir())) > MOST_FILES:
                raise OSError(f"{self._directory} has more than {MOST_FILES} files, remove what no daemon wants")
            path = self._path(worker)
            made = path.with_suffix(".new")
            with os.fdopen(ground.open_in(directory_fd, made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.rename(made.name, path.name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)
        return len(lines)

    def _read(self, worker: str) -> list[KeptOutcome] | None:
        """What a worker kept; None: nothing. A line that is none is logged and left out."""
        path = self._path(worker)
        try:
            lines = ground.read_file(path).splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("kept outcomes cannot be read", extra={"file": str(path), "error": str(error)})  # noqa: TRY400
            return None
        outcomes = []
        for line in lines:
            try:
                outcomes.append(msgspec.json.decode(line, type=KeptOutcome))
            except msgspec.DecodeError as error:
                logger.error("kept outcomes cannot be read", extra={"file": str(path), "error": str(error)})  # noqa: TRY400
        return outcomes

    def _path(self, worker: str) -> Path:
        return self._directory / f"{self._prefix}{worker}{_SUFFIX}"
