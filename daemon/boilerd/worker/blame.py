"""Which of the tasks that a worker with several slots ran is to blame for its death.

Nobody can see it. One that was past its limit is: its worker was killed for that, or would have been. All others are
marked, and run again uncounted: their jobs' `alone` counts in how many deaths they were. A worker takes only one at a
time of those that were in two or more. So if it dies as well, and no limit explains that, this one is to blame.
"""

from collections.abc import Sequence

import msgspec

from boilerd.broker.broker import Broker
from boilerd.broker.held_claims import HeldClaim
from boilerd.errors import DeadlineExceededError, TaskTimeoutError, WorkerDiedError

#: A task that was in so many deaths is to blame for the next, where it is the only one of these.
SUSPECT_AFTER = 2
#: So long after its last heartbeat a worker may have been killed for a limit that has passed 5 s before.
UNSEEN_S = 5.0


class Blame(msgspec.Struct):
    """What becomes of a dead worker's claims.

    Attributes:
        counted: Those that count as failed attempts, with the cause.
        rest: All others, in their order.
    """

    counted: list[tuple[HeldClaim, BaseException]]
    rest: list[HeldClaim]


def find_blame(broker: Broker, held: Sequence[HeldClaim], died: WorkerDiedError | None) -> Blame:
    """Find out who is to blame.

    Args:
        broker: Tells until when the claims were renewed: a host may have been off for hours, in which nothing ran.
        held: The claims, oldest first.
        died: How the worker ended, a moment ago; None: nobody knows when that was.
    """
    seen_s = broker.seen_until(held)
    longest_s = broker.now()
    ran_until_s = {name: min(longest_s, at_s + (UNSEEN_S if died else 0.0)) for name, at_s in seen_s.items()}
    late = [claim for claim in held if claim.ends_s <= ran_until_s.get(claim.execution_id, 0.0)]
    counted = [(claim, limit_error(claim, ran_until_s[claim.execution_id])) for claim in late]
    late_ids = {claim.execution_id for claim in late}
    rest = [claim for claim in held if claim.execution_id not in late_ids]
    suspects = [claim for claim in rest if claim.deaths >= SUSPECT_AFTER and claim.execution_id in seen_s]
    if not late and len(suspects) == 1:
        counted += [(suspects[0], died or WorkerDiedError("worker died together with its daemon"))]
        rest.remove(suspects[0])
    return Blame(counted, rest)


def limit_error(claim: HeldClaim, at_s: float) -> BaseException:
    """Why an attempt failed that was past its limit at this moment when its worker died."""
    if claim.deadline_s <= at_s:
        return DeadlineExceededError("the task's deadline passed while it ran, and its worker had to be killed")
    return TaskTimeoutError("the task took longer than its timeout, and its worker had to be killed")
