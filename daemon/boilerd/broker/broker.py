"""The broker: Redis as boilerd uses it.

Every change of state is one Lua script in lua/; the methods here give each a name, types and errors of ours.
"""

import base64
import functools
import itertools
import json
import logging
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.claims import Advance, Claim, Completion, Failure, batch_place, completion_args
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import BELL_LENGTH, BELL_TTL_S, CHUNK, HOLDS_MORE, LOOK_AGAIN
from boilerd.broker.job_hash import (
    NewTask,
    claimed_fields,
    describe_task,
    request_id_in,
    to_answer,
    to_claim,
    to_claim_of_hash,
)
from boilerd.broker.slot_calls import MOST_COMPLETED, SlotCalls, why_unwanted
from boilerd.errors import BoilerdError, BrokerRefusedError
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.retry import Decision, Verdict
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT, TaskState, no_such_task

if TYPE_CHECKING:
    from boilerd.broker.audit import Actor

logger = logging.getLogger("boilerd.client")

#: Names of queues that a client remembers.
MOST_ASKED = 10_000
#: An enqueue script ends at this many bytes of payload: more keep Redis from others as well, and take its memory.
CHUNK_BYTES = 8 * 1024 * 1024
#: A worker takes at most one more than this part of a queue in one batch: the rest is for the others.
BATCH_PARTS = 16
#: Claims whose job hashes one script reads, as held.lua has it: of a worker with several slots there are thousands.
MOST_HELD = 100
#: Where in the description of a task the number of its fields stands, as store.lua has it.
_FIELDS = 8


class Broker(SlotCalls):
    """All that boilerd asks of Redis; the calls of clients and workers are here.

    Args:
        connection: Of this process alone.
        archive_limit: How many failed tasks the archive of a queue may hold; 0: any number.
    """

    def __init__(self, connection: redis.Redis, *, archive_limit: int = DEFAULT_ARCHIVE_LIMIT) -> None:
        super().__init__(connection)
        self._archive_limit = archive_limit
        #: Queues of which an enqueue has asked whether anybody works on them.
        self._asked_queues: set[str] = set()

    def enqueue(self, tasks: Iterable[NewTask]) -> list[TaskState | BoilerdError]:
        """Store tasks: one round trip for up to 500, or 8 MiB of payloads.

        Returns:
            For each task its state, or the reason why it was not stored: TaskIdConflictError,
            DuplicateTaskError, QueueFullError.

        Raises:
            BrokerUnavailableError: Redis did not answer; the tasks of the last chunk may or may not be stored.
        """
        answers: list[TaskState | BoilerdError] = []
        tasks = iter(tasks)
        while chunk := _chunk(tasks):
            args: list[str | bytes] = []
            for task in chunk:
                args += describe_task(task)
            if (queue := chunk[0].options.queue) not in self._asked_queues:
                args.append(self._asking(queue))
            found = self._call("enqueue", args, answers_soon=len(chunk) == 1)
            if len(found) > len(chunk):  # UNSERVED stands behind the answers
                found.pop()
                _tell_unserved(queue)
            answers += (to_answer(task, answer) for task, answer in zip(chunk, found, strict=True))
        return answers

    def _asking(self, queue: str) -> str:
        """Note that this enqueue asks whether anybody works on the queue; its name."""
        if len(self._asked_queues) > MOST_ASKED:
            self._asked_queues.clear()
        self._asked_queues.add(queue)
        return queue

    def advance(
        self,
        worker: str,
        queues: Sequence[str],
        completions: Sequence[Completion] = (),
        *,
        limit: int = 1,
        wait_s: float = 0.0,
    ) -> Advance:
        """Acknowledge completions and claim the next tasks, in one call.

        Args:
            worker: Name of the worker.
            queues: In the order to try; none: claim nothing.
            completions: The tasks that completed since the last call.
            limit: How many to claim at most; they come from one queue, and several from a long one only.
                0: the worker goes on with the task that it runs.
            wait_s: Sleep first until a task is enqueued, at most for so long. Redis claims when the bell
                rings, before this process hears of it.
        """
        head: list[str | bytes] = [worker, str(limit), str(BATCH_PARTS), os.urandom(16).hex(), str(len(queues))]
        head += queues
        done: list[str | bytes] = []
        for completion in completions:
            done += completion_args(completion)
        wait: list[str | bytes] = []
        if wait_s and queues:
            wait = ["BLPOP", *map(keys.bell, queues), repr(wait_s)]
        lost, claimed, is_registered, why_nothing = self._call("advance", head + done, wait)
        while why_nothing == LOOK_AGAIN:
            # All completions are written by now. A worker that has its next task soon need not know of those that
            # stepped aside.
            _, claimed, is_registered, why_nothing = self._call("advance", head)
        claims = [
            to_claim(text(execution_id), text(task_id), text(queue), text(started), claimed_fields(values))
            for task_id, execution_id, queue, started, values in claimed
        ]
        return Advance([text(task_id) for task_id in lost], claims, bool(is_registered), why_nothing == HOLDS_MORE)

    def acknowledge(self, worker: str, completions: Sequence[Completion]) -> None:
        """Write completions while the worker runs something else; a claim that lost its lease is left alone."""
        for first in range(0, len(completions), MOST_COMPLETED):
            self.advance(worker, (), completions[first : first + MOST_COMPLETED], limit=0)

    def register(self, worker: str, queues: Sequence[str], record: Mapping[str, str | int]) -> None:
        """Put the worker into RQ's registry, in place of a predecessor of the same name.

        The record of a worker with several slots has its `life` and the `turn` of its last call, see `serve`; and
        `slots` and `pool`, for people to see.
        """
        fields = itertools.chain.from_iterable(record.items())
        self._run("birth", [worker, len(queues), *queues, *fields])

    def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict | None:
        """Record a failed attempt, and do with the task as `failure` decides.

        Args:
            worker: Name of the worker that had the claim.
            claim: The claim.
            failure: The error and the decision.
            is_taken: True if the claim is taken from the worker, which may live and not know.

        Returns:
            The verdict that was carried out: archive instead of retry if the task was cancelled meanwhile, or is too
            old; None if the lease was lost and nothing was written.
        """
        packed = base64.b64encode(zlib.compress(failure.traceback.encode("utf-8", "backslashreplace")))
        decision = failure.decision
        args: list[str | bytes | float] = [worker, claim.task_id, claim.execution_id, claim.queue, claim.started]
        args += [failure.line, packed, decision.verdict, decision.delay_s, int(decision.counts), failure.max_retries]
        args += [self._archive_limit, int(is_taken), int(failure.is_doubtful), _retried_until(claim, decision)]
        if kind := failure.kind:
            args += [kind.fingerprint, msgspec.json.encode(kind), kind.release]
        done = text(self._run("fail", args))
        return Verdict(done) if done else None

    def release(self, worker: str, *, keep: Collection[str] = (), only: Collection[str] | None = None) -> list[str]:
        """Put the worker's claimed tasks back at the heads of their queues, uncounted; their IDs.

        Args:
            worker: Name of the worker.
            keep: Execution IDs that stay with it.
            only: Execution IDs that go back, all others stay.
        """
        args = ["all but", *keep] if only is None else ["only", *only]
        answer = self._run("release", [worker, *args])
        if answer is None:
            return self._release_of_many(worker, lambda eid: eid not in keep if only is None else eid in only)
        return [text(task_id) for task_id in answer]

    def _release_of_many(self, worker: str, goes_back: Callable[[str], bool]) -> list[str]:
        """As `release`, of thousands of claims: in several calls, so that Redis serves others between two."""
        found = [(claim.task_id, claim.execution_id, claim.queue) for claim in self.held(worker)]
        known = {execution_id for _, execution_id, _ in found}
        pairs = [pair.rpartition(":") for pair in self.executions_of(worker)]
        found += [(task_id, eid, "") for task_id, _, eid in pairs if eid not in known]
        return self._give_back(worker, [claim for claim in found if goes_back(claim[1])], "these")

    def held(self, worker: str) -> list[Claim]:
        """The claims of the worker whose lease holds, oldest first."""
        answer, rest = self._run("held", [worker])
        for first in range(0, len(rest), MOST_HELD):
            answer += self._run("held", [worker, *rest[first : first + MOST_HELD]])[0]
        found = [to_claim_of_hash(*claim) for claim in answer]
        return sorted(found, key=lambda claim: (float(claim.started), batch_place(claim.execution_id)[1]))

    def cancellation(self, claim: Claim) -> str:
        """Why a running task is not wanted any more; empty if it is wanted."""
        with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.hmget(keys.job(claim.task_id), "status", "cancel_requested")
            pipeline.zscore(keys.wip(claim.queue), f"{claim.task_id}:{claim.execution_id}")
            (status, is_cancelled), lease = pipeline.execute()
        return why_unwanted(status, is_cancelled, has_lease=lease is not None)

    def write_result(self, claim: Claim, result: bytes) -> bool:
        """Store a running task's result so far; False if the lease is lost."""
        return bool(self._run("result", [claim.task_id, claim.execution_id, claim.queue, result]))

    def write_progress(self, claim: Claim, progress: TaskProgress) -> bool:
        """Show how far a running task is; False if the lease is lost."""
        encoded = msgspec.json.encode(progress)
        return bool(self._run("progress", [claim.task_id, claim.execution_id, claim.queue, encoded]))

    def cancel(self, task_id: str, by: "Actor | None" = None) -> str:
        """Cancel a task; ``deleted``, ``told`` (its worker was), ``ended`` or ``unknown``.

        Args:
            task_id: Its ID.
            by: Who does it, for the audit; None: it is not noted.
        """
        command = json.dumps({"command": "stop-job", "job_id": task_id})
        answer, unaudited = self._intervene("cancel", by, "cancel", [command], [task_id])
        _tell_unaudited(unaudited)
        return text(answer)

    def mark_cancelled(self, task_id: str) -> bool:
        """Note that the running task is to be cancelled; False if it does not run."""
        return bool(self._run("mark", [task_id]))

    def act(self, action: str, task_ids: Sequence[str], place: int = 0, by: "Actor | None" = None) -> list[str]:
        """Run, archive or delete tasks.

        Args:
            action: What to do.
            task_ids: Those of one queue.
            place: Where the first of them was in the queue's list, if they were found there.
            by: Who does it with one task, for the audit; None: it is not noted here.

        Returns:
            For each ``done``, ``unknown``, the state that forbids it, or ``locked ID``; or ``blank``: it is done, and
            its place in the queue's list is kept until `remove_blanks`.
        """
        if not task_ids:
            return []
        answers = self._intervene("act", by, action, [action, place], task_ids)
        if len(answers) > len(task_ids):
            _tell_unaudited(answers.pop())
        return [text(answer) for answer in answers]

    def place(self, what: str, value: str, task_id: str, by: "Actor", **on: str) -> str:
        """Have a task that waits run at another time, or in another queue.

        Args:
            what: ``reschedule`` or ``move``.
            value: Seconds since 1970; or the queue.
            task_id: Its ID.
            by: Who does it, for the audit.
            on: What the audit says beside the task.

        Returns:
            ``done``, ``unknown``, or the state that forbids it.
        """
        answer, unaudited = self._intervene("place", by, what, [what, value, 0], [task_id], on=on)
        _tell_unaudited(unaudited)
        return text(answer)

    def place_many(self, what: str, value: str, task_ids: Sequence[str], place: int = 0) -> list[str]:
        """The same with tasks of one queue; `place` and the answers are those of `act`, and it is not noted."""
        if not task_ids:
            return []
        return [text(answer) for answer in self._intervene("place", None, what, [what, value, place], task_ids)[:-1]]

    def enqueue_copy(self, task: NewTask, copied_from: str) -> TaskState | BoilerdError:
        """Store a task that names the one of which it is a copy; its state, or the reason as of `enqueue`."""
        args = describe_task(task)
        args[_FIELDS] = str(int(args[_FIELDS]) + 2)
        (answer,) = self._call("enqueue", [*args, "copied_from", raw(copied_from)])
        return to_answer(task, answer)

    def _intervene(
        self,
        script: str,
        by: "Actor | None",
        what: str,
        head: Sequence[str | float],
        ids: Sequence[str],
        *,
        on: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """Call a script that does with a task what a person asks, and notes it; also where it is refused."""
        if by is None:
            return self._run(script, [*head, *[""] * 4, *ids])
        try:
            return self._run(script, [*head, *by.args({**self._told_of(ids[0]), **on}), *ids])
        except BrokerRefusedError as error:
            from boilerd.broker.audit import Audit  # noqa: PLC0415 - no enqueue needs it

            Audit(self.connection, by).note_failure(what, error, task=ids[0], **on)
            raise

    def _told_of(self, task_id: str) -> dict[str, str]:
        """What the audit says of a task: its ID, and which request it belongs to."""
        connection: Any = self.connection
        data = None
        with suppress(redis.RedisError):  # the script that comes next says what is wrong
            data = connection.hget(raw(keys.job(task_id)), "data")
        return {"task": task_id, "request_id": request_id_in(data or b"")}

    def remove_blanks(self, queue: str) -> None:
        """Remove the blanks that `act` left on a queue's list."""
        with self._translating():
            self.connection.lrem(keys.queue(queue), 0, "")

    def end_pauses(self) -> list[str]:
        """Resume queues and periodic tasks whose pause has come to its end; ``queue:NAME`` or ``cron:NAME`` of each."""
        resumed = [text(field) for field in self._run("over", [])]
        for field in resumed:
            kind, _, name = field.partition(":")
            if kind == "queue":
                self.ring(name)
        return resumed

    def ring(self, queue: str) -> None:
        """Wake all workers that wait for the queue: something changed that they cannot see.

        An enqueue wakes none where many tasks wait. A worker that finds nothing drops the elements that are too many.
        """
        with self._translating(), self.connection.pipeline(transaction=False) as pipeline:
            pipeline.rpush(keys.bell(queue), *["1"] * BELL_LENGTH)
            pipeline.ltrim(keys.bell(queue), 0, BELL_LENGTH - 1)
            pipeline.expire(keys.bell(queue), BELL_TTL_S)
            pipeline.execute()


def is_cancelled(task_id: str, answer: str) -> bool:
    """What the answer of `Broker.cancel` says: False if the task had ended before; raises TaskNotFoundError."""
    if answer == "unknown":
        raise no_such_task(task_id)
    return answer != "ended"


def _tell_unaudited(problem: bytes) -> None:
    if problem:
        from boilerd.broker.audit import tell_unaudited  # noqa: PLC0415 - no enqueue needs it

        tell_unaudited(text(problem))


@functools.lru_cache(1000)  # a process tells it once for each name
def _tell_unserved(queue: str) -> None:
    # The name stands in the message: it is the application that formats this line.
    logger.warning("no worker works on queue %r, its tasks wait until one does; check the name", queue)


def _retried_until(claim: Claim, decision: Decision) -> str:
    """The end of the time in which the task may be tried again, by Redis' clock; empty: there is none."""
    if decision.within_s is None:
        return ""
    came = claim.task.enqueued_at if claim.task else None
    return repr((came.timestamp() if came else float(claim.started)) + decision.within_s)


def _chunk(tasks: Iterator[NewTask]) -> list[NewTask]:
    """The next tasks that one script stores."""
    chunk: list[NewTask] = []
    size_bytes = 0
    for task in tasks:
        chunk.append(task)
        size_bytes += len(task.payload)
        if size_bytes >= CHUNK_BYTES or len(chunk) == CHUNK:
            break
    return chunk
