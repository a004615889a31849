"""Outcomes that could not be written, because the broker was away when their worker had to stop.

Each worker has a file of its own in the state directory, a line of JSON for each outcome, without payloads. Whoever
comes next writes them: the scheduler of the next start, or the worker's successor. They count as long as nobody else
has taken the task over, which Redis decides by the lease. All else that the worker held goes back to its queue: it
ended in order, and had not begun it, or was interrupted by the end of the drain.
"""

import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from boilerd import ground
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure
from boilerd.worker.settlement import record_failure, release_held

logger = logging.getLogger("boilerd.worker")

#: Bytes of a file; results are what makes them large, and what does not fit runs again.
MOST_BYTES = 64 * 1024 * 1024
#: Files in all: two for each of the workers that a host has at most.
MOST_FILES = 2000
#: Completions that are written in one call.
AT_ONCE = 250
_SUFFIX = ".jsonl"


class KeptOutcome(msgspec.Struct, frozen=True):
    """An outcome as it is kept: a completion with its result, or a failure; and what a log line about it has."""

    execution_id: str
    fields: dict[str, Any]
    result: bytes = b""
    failure: Failure | None = None


class KeptOutcomes:
    """The files of a state directory.

    Args:
        directory: Where they are; it is made when the first is written.
        broker: Tells outcomes for this broker from those for another one; part of the files' names.
    """

    def __init__(self, directory: Path, broker: str) -> None:
        self._directory = directory
        self._place = os.fspath(directory)
        self._prefix = f"{broker}-"

    def keep(
        self, worker: str, completions: Iterable[Completion], failures: Iterable[tuple[Claim, Failure]] = ()
    ) -> None:
        """Keep a worker's outcomes, in place of those that it kept before; where that fails, it is logged."""
        outcomes = [
            KeptOutcome(done.claim.execution_id, done.claim.log_fields, result=done.result) for done in completions
        ]
        outcomes += [KeptOutcome(claim.execution_id, claim.log_fields, failure=failure) for claim, failure in failures]
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

    def workers(self, *, min_age_s: float | None = None) -> list[str]:
        """The workers that ended with outcomes that are kept, or have been kept for so long at least."""
        latest_s = time.time() - (min_age_s or 0.0)
        with suppress(OSError):
            files = [file for file in self._directory.iterdir() if file.suffix == _SUFFIX]
            names = [file.name for file in files if min_age_s is None or file.stat().st_mtime <= latest_s]
            return [name[len(self._prefix) : -len(_SUFFIX)] for name in names if name.startswith(self._prefix)]
        return []

    def write(self, broker: Broker, worker: str) -> None:
        """Write what a worker kept, if it did, and give back what else it held; raises BrokerError."""
        outcomes = self._read(worker)
        if outcomes is None:
            return
        held = {claim.execution_id: claim for claim in broker.held(worker)}
        for kept in outcomes:
            if kept.execution_id not in held:
                logger.warning("outcome dropped, the lease was lost", extra=kept.fields)
        found = [(held[kept.execution_id], kept) for kept in outcomes if kept.execution_id in held]
        completions = [Completion(claim, kept.result) for claim, kept in found if kept.failure is None]
        for first in range(0, len(completions), AT_ONCE):  # of a worker with slots there may be thousands
            broker.acknowledge(worker, completions[first : first + AT_ONCE])
        for claim, kept in found:
            if kept.failure:
                record_failure(broker, worker, claim, kept.failure)
        release_held(broker, worker)
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
        if self._directory.exists() and len(list(self._directory.iterdir())) > MOST_FILES:
            raise OSError(f"{self._directory} has more than {MOST_FILES} files, remove what no daemon wants")
        ground.write_file(self._path(worker), lines)
        return len(lines)

    def _read(self, worker: str) -> list[KeptOutcome] | None:
        """What a worker kept; None: nothing. A line that is none is logged and left out."""
        # As a rule there is none: each worker asks, and pathlib would copy 0.4 MB of the memory that it shares.
        if not os.path.lexists(f"{self._place}/{self._prefix}{worker}{_SUFFIX}"):
            return None
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


class OwnOutcomes:
    """Those of one worker, which is to stop while the broker is away.

    Args:
        kept: The files.
        worker: Its name.
    """

    def __init__(self, kept: KeptOutcomes, worker: str) -> None:
        self._kept = kept
        self._worker = worker
        #: The execution IDs of the outcomes that are kept; None: none are.
        self._ids: list[str] | None = None

    def write(self, broker: Broker) -> None:
        """Write what the predecessor kept; raises BrokerError."""
        self._kept.write(broker, self._worker)

    def keep(self, completions: Sequence[Completion], failures: Sequence[tuple[Claim, Failure]]) -> None:
        """Keep what could not be written, unless it is kept: a kill, or a drain's end, may come before the broker."""
        ids = [claim.execution_id for claim in (*(done.claim for done in completions), *(pair[0] for pair in failures))]
        if ids != self._ids:
            self._ids = ids
            self._kept.keep(self._worker, completions, failures)

    def forget(self) -> None:
        """All that was kept is written after all."""
        if self._ids is not None:
            self._kept.forget(self._worker)
