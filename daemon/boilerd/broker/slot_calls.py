"""The part of `Broker` that is for workers with several slots.

Such a worker holds many claims when it claims more. So each of its calls that claim has a number, its *turn*, which
counts up in one *life* of the worker, a random name of its process. Redis refuses a turn that is not above the last
one, and one of another life. What a turn claimed is known by its execution IDs, even where the answer was lost.
"""

import itertools
from collections.abc import Iterator, Sequence

from boilerd.broker.claims import Advance, Claim, Completion, completion_args
from boilerd.broker.connection import text
from boilerd.broker.constants import IS_STALE, LOOK_AGAIN
from boilerd.broker.job_hash import claimed_fields, to_claim
from boilerd.broker.scheduler_calls import SchedulerCalls

#: Claims that one script gives back: about 5 ms of Redis.
MOST_GIVEN_BACK = 100
#: One in so many slots may have a suspect that ended one worker; at least one may.
SLOTS_PER_SUSPECT = 8
#: Tasks that step aside are looked at by so many calls of one turn.
MOST_LOOKS_AGAIN = 999


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
    ) -> Advance:
        """Acknowledge completions and claim the next tasks, in one call, for a worker that begins all of them at once.

        The worker's record must have its `life` (see `register`). After an error, call `take_back_turn` with the same
        turn before the next one. A claim without a task cannot run, and takes no slot.

        Args:
            worker: Name of the worker.
            life: Of this process: hex digits, at random.
            turn: Above that of the call before; from 1.
            queues: In the order to try; none: claim nothing, whatever `life` and `turn` are.
            completions: The tasks that completed since the last call; at most 500.
            limit: How many to claim at most: up to 64, and to the number of free slots. They come from one queue.
            parts: How many processes share the queues: each gets one more than such a part of a queue at most.
            slots: Of the worker; it says how many suspects may run at once.
            suspects: The `deaths` of those claims that the worker runs and that have any.
        """
        most = max(1, slots // SLOTS_PER_SUSPECT)
        room = 0 if any(deaths > 1 for deaths in suspects) else max(0, most - len(suspects))
        head = [worker, str(limit), str(parts), _execution(life, turn), str(len(queues)), *queues, life]
        rights = [str(room), str(int(not suspects))]
        done = list(itertools.chain.from_iterable(map(completion_args, completions)))
        lost, claimed, is_registered, why = self._call("serve", [*head, str(turn), *rights, *done])
        for again in range(1, MOST_LOOKS_AGAIN):  # the turn's last part is for `take_back_turn`
            if why != LOOK_AGAIN:
                break
            _, claimed, is_registered, why = self._call("serve", [*head, f"{turn}.{again:03}", *rights])
        claims = [
            to_claim(text(execution_id), text(task_id), text(queue), text(started), claimed_fields(values))
            for task_id, execution_id, queue, started, values in claimed
        ]
        return Advance([text(task_id) for task_id in lost], claims, bool(is_registered), is_stale=why == IS_STALE)

    def take_back_turn(self, worker: str, life: str, turn: int) -> list[str]:
        """Give back what a call of `serve` claimed whose answer was lost, uncounted; the IDs of the tasks.

        If Redis has not run that call yet, it will claim nothing. `turn` is that call's own. This may be sent again.
        """
        args = ["turn", life, f"{turn}.{MOST_LOOKS_AGAIN:03}", _execution(life, turn)]
        return [text(task_id) for task_id in self._run("release", [worker, *args])]

    def give_back(self, worker: str, claims: Sequence[Claim], *, is_doubtful: bool = False) -> list[str]:
        """Put claimed tasks back at the heads of their queues, uncounted; the IDs of those that went back.

        Args:
            worker: Name of the worker.
            claims: The first ends nearest to the head.
            is_doubtful: True if the worker died, and one of them may have been what ended it.
        """
        released: list[str] = []
        for some in reversed(list(_pieces(claims, MOST_GIVEN_BACK))):
            args = [part for claim in some for part in (claim.task_id, claim.execution_id, claim.queue)]
            released += map(text, self._run("release", [worker, "doubtful" if is_doubtful else "these", *args]))
        return released


def _execution(life: str, turn: int) -> str:
    """How the execution IDs of a turn begin."""
    return f"{life}{turn:08x}"


def _pieces(claims: Sequence[Claim], size: int) -> Iterator[Sequence[Claim]]:
    return (claims[first : first + size] for first in range(0, len(claims), size))
