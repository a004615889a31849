"""A broker that waits for the end of an outage, for what a worker does between two attempts."""

import os
import select
from collections.abc import Callable, Sequence

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Failure
from boilerd.broker.outage import OutageRetry
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.retry import Verdict

#: A worker that drains pauses no longer: the broker may come back just before its time is over.
LONGEST_DRAIN_PAUSE_S = 0.2


class ResilientBroker:
    """Makes a call again until it gets through, or until the pause between two tries says to give up.

    Args:
        broker: Makes the calls.
        pause: See `OutageRetry`.

    Attributes:
        once: The plain broker: one try, whose error is raised at once.
        together: Runs a function that makes several calls on `once`, and all of them again where one fails.
    """

    def __init__(self, broker: Broker, pause: Callable[[float], bool]) -> None:
        self.once = broker
        # Not a method of its own: it is called for each batch, and a call more is time.
        self.together = OutageRetry(pause).call

    def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict | None:
        """As `Broker.fail`."""
        return self.together(lambda: self.once.fail(worker, claim, failure, is_taken=is_taken))

    def release(self, worker: str, only: Sequence[str]) -> list[str]:
        """As `Broker.release`."""
        return self.together(lambda: self.once.release(worker, only=only))


class OutagePause:
    """Sleeps during an outage, and decides whether the worker tries again.

    A worker that is to stop gives up at once, unless it has an outcome that nobody else could write:
    then it tries until the drain is over.

    Args:
        stop: Ends a pause; requested here as well if the supervisor is gone.
        parent: Process ID of the supervisor.
        drain_s: How long a drain may take.
        has_outcome: Whether the worker has an outcome that is not written yet.
        scoreboard: Shows that the worker waits for the broker.
        row: The worker's cells there.
        keep: Called in a drain, before each pause: keeps the outcomes where a kill does not take them.
    """

    def __init__(
        self,
        stop: StopRequest,
        *,
        parent: int,
        drain_s: float,
        has_outcome: Callable[[], bool],
        scoreboard: Scoreboard,
        row: int,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        self._stop = stop
        self._parent = parent
        self._drain_s = drain_s
        self._has_outcome = has_outcome
        self._scoreboard = scoreboard
        self._row = row
        self._keep = keep

    def __call__(self, seconds: float) -> bool:
        """Sleep, but no longer than until a stop is requested; whether to try again."""
        if os.getppid() != self._parent:
            self._stop.make()
        self._scoreboard.mark_waiting(self._row, is_waiting=True)
        if self._stop:
            self._keep()
            select.select([], [], [], min(seconds, LONGEST_DRAIN_PAUSE_S))
        else:
            self._stop.pause(seconds)
        self._scoreboard.mark_waiting(self._row, is_waiting=False)
        return not self._stop or (self._has_outcome() and self._stop.age_s() < self._drain_s)
