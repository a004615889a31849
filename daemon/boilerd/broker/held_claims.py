"""What a worker holds, a chunk at a time: a worker with several slots has thousands of claims."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.claims import Claim, batch_place
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import LEASE_OFFSET_S, LEASE_S
from boilerd.broker.job_hash import to_claim_of_hash
from boilerd.broker.refusals import is_wrong_kind
from boilerd.broker.script_calls import ScriptCalls
from boilerd.tasks.task import DEFAULT_TIMEOUT_S

#: Claims that one pipeline reads.
MOST_READ = 250
#: Whole job hashes that one pipeline reads; they may be large.
MOST_HASHES = 50
#: What of a job hash says how long it may run, and whether its workers have died.
_FIELDS = ("origin", "started_at", "timeout", "deadline", "concurrency_key", "alone", "task_type")

T = TypeVar("T")


class HeldClaim(msgspec.Struct, frozen=True):
    """A claim as the scheduler and a successor look at it: what it says of its lease, not of its task.

    Attributes:
        queue: Empty where the job is gone.
        key: Its concurrency key; empty: none.
        started_s: Redis's time of the claim.
        ends_s: Redis's time of its limit, by timeout or deadline; inf: it has none.
        deadline_s: Redis's time of the task's deadline; inf: it has none.
        deaths: How many workers have died that ran it among others, as far as that was not counted.
        task_type: As the job hash has it.
    """

    task_id: str
    execution_id: str
    queue: str = ""
    key: str = ""
    started_s: float = 0.0
    ends_s: float = math.inf
    deadline_s: float = math.inf
    deaths: int = 0
    task_type: str = ""

    @property
    def pair(self) -> str:
        """``job ID:execution ID``, as Redis's sets of claims have it."""
        return f"{self.task_id}:{self.execution_id}"

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields that each log line about its task has."""
        return {"task_id": self.task_id, "task_type": self.task_type, "queue": self.queue}


class HeldClaims(ScriptCalls):
    """The calls that read claims of workers, each a pipeline that keeps Redis from others for a moment only."""

    def note_death(self, words: str) -> None:
        """Note the last words of a worker that died, as `LastWords.encoded` has them."""
        self._run("died", [words])

    def slots_of(self, worker: str) -> int:
        """How many slots the worker's record says that it has; 1 where it says nothing."""
        return int(_number(self.recorded(worker, "slots")[0], 1))

    def recorded(self, worker: str, *fields: str) -> list[str]:
        """These fields of the worker's record; one that is not there is empty."""
        with self._translating():
            try:
                found: Any = self.connection.hmget(keys.worker(worker), *fields)
            except redis.ResponseError as error:
                if not is_wrong_kind(error):
                    raise
                found = [None] * len(fields)
        return [text(value or b"") for value in found]

    def find_held(self, pairs: Sequence[str]) -> list[HeldClaim]:
        """The claims behind these pairs, in their order; those that are no pairs are left out."""
        found: list[HeldClaim] = []
        for some in chunks([pair for pair in pairs if ":" in pair], MOST_READ):
            jobs = [raw(keys.job(pair.rpartition(":")[0])) for pair in some]
            with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
                for job in jobs:
                    pipeline.hmget(job, _FIELDS)
                answers = pipeline.execute(raise_on_error=False)  # a key may be foreign
            found += (_to_held(pair, answer) for pair, answer in zip(some, answers, strict=True))
        return found

    def seen_until(self, claims: Sequence[HeldClaim]) -> dict[str, float]:
        """Execution ID → Redis's time at which its lease was renewed the last time; none of those without a lease."""
        seen: dict[str, float] = {}
        for some in chunks([claim for claim in claims if claim.queue], MOST_READ):
            with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
                for claim in some:
                    pipeline.zscore(raw(keys.wip(claim.queue)), raw(claim.pair))
                answers = pipeline.execute(raise_on_error=False)
            for claim, score in zip(some, answers, strict=True):
                if isinstance(score, float):
                    seen[claim.execution_id] = score - (LEASE_OFFSET_S if score >= LEASE_OFFSET_S else 0) - LEASE_S
        return seen

    def read_claims(self, claims: Sequence[HeldClaim]) -> Iterator[Claim]:
        """The whole claims, to be settled; their payloads are not read."""
        for some in chunks([claim for claim in claims if claim.queue], MOST_HASHES):
            with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
                for claim in some:
                    pipeline.hgetall(raw(keys.job(claim.task_id)))
                answers = pipeline.execute(raise_on_error=False)
            for claim, answer in zip(some, answers, strict=True):
                if not isinstance(answer, redis.RedisError):
                    yield to_claim_of_hash(raw(claim.task_id), raw(claim.execution_id), raw(claim.queue), _flat(answer))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in their order, so many at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def in_order(claims: Iterable[HeldClaim]) -> list[HeldClaim]:
    """The claims, oldest first."""
    return sorted(claims, key=lambda claim: (claim.started_s, batch_place(claim.execution_id)[1]))


def _to_held(pair: str, answer: object) -> HeldClaim:
    task_id, _, execution_id = pair.rpartition(":")
    if not isinstance(answer, list) or answer[0] is None:
        return HeldClaim(task_id, execution_id)
    queue, started, timeout, deadline, key, deaths, task_type = (text(value or b"") for value in answer)
    started_s = _moment(started)
    limit_s = _number(timeout, DEFAULT_TIMEOUT_S)
    deadline_s = _number(deadline, math.inf)
    ends_s = min(started_s + limit_s if limit_s > 0 else math.inf, deadline_s)
    return HeldClaim(
        task_id, execution_id, queue, key, started_s, ends_s, deadline_s, int(_number(deaths, 0)), task_type
    )  # fmt: skip


def _moment(value: str) -> float:
    with suppress(ValueError):
        return datetime.fromisoformat(value).timestamp()
    return 0.0


def _number(value: str, otherwise: float) -> float:
    """The number that a foreign client may have written in any way."""
    with suppress(ValueError):
        number = float(value)
        return number if math.isfinite(number) else otherwise
    return otherwise


def _flat(answer: object) -> list[bytes]:
    if isinstance(answer, dict):
        return [part for entry in answer.items() for part in entry]
    return list(answer) if isinstance(answer, list) else []
