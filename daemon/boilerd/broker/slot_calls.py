"""The part of `Broker` that is for workers with several slots.

Such a worker holds many claims when it claims more. So each of its calls that claim has a number, its *turn*, which
counts up in one *life* of the worker, a random name of its process. Redis refuses a turn that is not above the last
one, and one of another life. What a turn claimed is known by its execution IDs, even where the answer was lost.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from boilerd.broker import keys
from boilerd.broker.claims import Advance, Claim, Completion, Leased, Renewal, completion_args
from boilerd.broker.connection import text
from boilerd.broker.constants import IS_STALE, LOOK_AGAIN, MOST_GIVEN_BACK
from boilerd.broker.held_claims import HeldClaim
from boilerd.broker.job_hash import claimed_fields, to_claim
from boilerd.broker.scheduler_calls import SchedulerCalls, load_args

if TYPE_CHECKING:  # commands that know no process are spared ctypes
    from boilerd.process.identity import Load

#: Claims that one script renews or looks at, and those of which it renews RQ's records: 1 to 3 ms of Redis.
MOST_RENEWED, MOST_RECORDED = 250, 50
#: Completions that one script writes, as above.
MOST_COMPLETED = 250
#: One in so many slots may have a suspect that ended one worker; at least one may.
SLOTS_PER_SUSPECT = 8
#: Tasks that step aside are looked at by so many calls of one turn.
MOST_LOOKS_AGAIN = 999
#: Why a task is not wanted that another process has ended, or taken over.
TAKEN = "the lease was lost, the task is not this worker's any more"

T = TypeVar("T")


class SlotCalls(SchedulerCalls):
    """The calls for workers with several slots."""

    def serve(
        self,
        worker: str,
        life: str,
        turn: int,
        queues: Sequence[str],
        completions: Sequence[Completion] = (),
        *,
        limit: int,
        parts: int,
        slots: int = 1,
        suspects: Sequence[int] = (),
        ahead: int = 0,
    ) -> Advance:
        """Acknowledge completions and claim the next tasks, in one call, for a worker that begins them at once.

        The worker's record must have its `life` (see `register`). After an error, call `take_back_turn` with the same
        turn before the next one. A claim without a task cannot run, and takes no slot.

        Args:
            worker: Name of the worker.
            life: Of this process: hex digits, at random.
            turn: Above that of the call before; from 1.
            queues: In the order to try; none: claim nothing, whatever `life` and `turn` are.
            completions: The tasks that completed since the last call.
            limit: How many to claim at most: up to 64, and to the number of free slots. They come from one queue.
            parts: How many processes share the queues: each gets one more than such a part of a queue at most.
            slots: Of the worker; it says how many suspects may run at once.
            suspects: The `deaths` of those claims that the worker runs and that have any.
            ahead: How many of `limit` begin when others have ended. None of these has a concurrency key, is a suspect
                or is from a queue with `max_active`; such a task in front of them keeps all behind it from being
                claimed.
        """
        pieces = _pieces(completions, MOST_COMPLETED) or [()]
        lost = [task_id for some in pieces[:-1] for task_id in self._acknowledge(worker, some)]
        head = [worker, str(limit), str(parts), _execution(life, turn), str(len(queues)), *queues, life]
        room = *_room_for_suspects(slots, suspects), str(limit - ahead)
        answer = self._call("serve", [*head, str(turn), *room, *_args_of(pieces[-1])])
        lost, (_, claimed, is_registered, why) = lost + answer[0], answer
        for again in range(1, MOST_LOOKS_AGAIN):  # the turn's last part is for `take_back_turn`
            if why != LOOK_AGAIN:
                break
            _, claimed, is_registered, why = self._call("serve", [*head, f"{turn}.{again:03}", *room])
        claims = [
            to_claim(text(execution_id), text(task_id), text(queue), text(started), claimed_fields(values))
            for task_id, execution_id, queue, started, values in claimed
        ]
        return Advance([text(task_id) for task_id in lost], claims, bool(is_registered), is_stale=why == IS_STALE)

    def _acknowledge(self, worker: str, completions: Sequence[Completion]) -> list[bytes]:
        """Write completions; the IDs of the tasks whose leases were lost."""
        claims_nothing = [worker, "0", "1", "", "0", "", "0", "0", "0", "0"]
        lost: list[bytes] = self._call("serve", [*claims_nothing, *_args_of(completions)])[0]
        return lost

    def take_back_turn(self, worker: str, life: str, turn: int) -> list[str]:
        """Give back what a call of `serve` claimed whose answer was lost, uncounted; the IDs of the tasks.

        If Redis has not run that call yet, it will claim nothing. `turn` is that call's own. This may be sent again.
        """
        args = ["turn", life, f"{turn}.{MOST_LOOKS_AGAIN:03}", _execution(life, turn)]
        return [text(task_id) for task_id in self._run("release", [worker, *args])]

    def give_back(self, worker: str, claims: Sequence[Claim | HeldClaim], *, is_doubtful: bool = False) -> list[str]:
        """Put claimed tasks back at the heads of their queues, uncounted; the IDs of those that went back.

        Args:
            worker: Name of the worker.
            claims: The first ends nearest to the head.
            is_doubtful: True if the worker died, and one of them may have been what ended it.
        """
        triples = [(claim.task_id, claim.execution_id, claim.queue) for claim in claims]
        return self._give_back(worker, triples, "doubtful" if is_doubtful else "these")

    def _give_back(self, worker: str, claims: Sequence[tuple[str, str, str]], how: str) -> list[str]:
        """The same with task ID, execution ID and queue of each; without a queue, the claim is only taken away."""
        released: list[str] = []
        for some in reversed(_pieces(claims, MOST_GIVEN_BACK)):
            released += map(text, self._run("release", [worker, how, *itertools.chain.from_iterable(some)]))
        return released

    def executions_of(self, worker: str) -> list[str]:
        """What a worker holds, or lost and has not noticed, each as ``job ID:execution ID``; in no order."""
        with self._translating():
            return [text(pair) for pair in self.connection.smembers(keys.worker_executions(worker))]

    def renew(self, worker: str, claims: Iterable[Leased], load: "Load | None" = None) -> Renewal:
        """Renew leases of a worker, and its presence, with what it takes; each script renews 250 at most, of one queue.

        Its presence is renewed without claims, too. RQ's records of the attempts are not, see `renew_records`.
        """
        lost: list[str] = []
        cancelled: list[str] = []
        by_queue: dict[str, list[str]] = {}
        for claim in claims:
            if claim.queue:
                by_queue.setdefault(claim.queue, []).extend((claim.pair, claim.key))
            else:  # its job is gone
                lost.append(claim.pair)
        for queue, args in (by_queue or {"": []}).items():
            head: list[str | bytes | float] = [worker, queue, 1, *load_args(load)]
            for some in _pieces(args, 2 * MOST_RENEWED) or [[]]:
                for pair, has_lease, status, name, _ in self._run("renew", [*head, *some]):
                    holds = has_lease and status == b"started" and (not name or text(name) == worker)
                    (cancelled if holds else lost).append(text(pair))
        return Renewal(lost, cancelled)

    def renew_records(self, worker: str, pairs: Sequence[str]) -> None:
        """Renew what RQ's tools see of attempts, each ``job ID:execution ID``, so that they show them as alive.

        They last for a day without it.
        """
        for some in _pieces(pairs, MOST_RECORDED):
            self._run("records", [worker, *some])

    def unwanted(self, worker: str, claims: Iterable[Claim]) -> dict[str, str]:
        """Why running tasks are not wanted any more, by execution ID; as `Broker.cancellation` says it of one."""
        by_queue: dict[str, list[str]] = {}
        for claim in claims:
            by_queue.setdefault(claim.queue, []).extend((claim.pair, ""))
        reasons: dict[str, str] = {}
        for queue, args in by_queue.items():
            for some in _pieces(args, 2 * MOST_RENEWED):
                for pair, has_lease, status, _, is_cancelled in self._run("renew", [worker, queue, 0, "", "", *some]):
                    execution_id = text(pair).rpartition(":")[2]
                    reasons[execution_id] = why_unwanted(status, is_cancelled, has_lease=bool(has_lease)) or TAKEN
        return reasons


def why_unwanted(status: bytes | None, is_cancelled: bytes | None, *, has_lease: bool) -> str:
    """Why a running task is not wanted any more, by what its job says; empty if it is wanted."""
    if status is None:
        return "the task was deleted"
    if not has_lease and status != b"canceled":
        return TAKEN
    if status != b"started":
        return f"the task is {text(status)} by now"
    return "cancelled on request" if is_cancelled else ""


def _execution(life: str, turn: int) -> str:
    """How the execution IDs of a turn begin."""
    return f"{life}{turn:08x}"


def _room_for_suspects(slots: int, running: Sequence[int]) -> tuple[str, str]:
    """How many suspects may begin beside those that run, whose `deaths` these are; and whether none runs."""
    room = max(1, slots // SLOTS_PER_SUSPECT) - len(running)
    has_room = room > 0 and max(running, default=0) <= 1
    return str(room if has_room else 0), str(int(not running))


def _args_of(completions: Iterable[Completion]) -> list[str | bytes]:
    return list(itertools.chain.from_iterable(map(completion_args, completions)))


def _pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
