"""The intake of a worker with slots: when it acknowledges and claims, from which queues, how much; and the bell."""

import math
import random
import select
import time
from collections.abc import Sequence

from boilerd.broker.bell import Bell
from boilerd.broker.claims import Claim, Completion
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.slots.ahead import Ahead
from boilerd.worker.slots.hand import SlotHand

#: Tasks in one claim at most; large claims put the slots in step, and then server and worker idle in turns.
MOST = 64
#: The same while there is more than one call brings.
MOST_OF_MANY = 32
#: A call costs as much as some tasks do, so that two begin this far apart for each slot, from 1 to 5 ms.
PACE_S, SHORTEST_PACE_S, LONGEST_PACE_S = 0.00001, 0.001, 0.005
#: No call waits for that with so many completions, nor with one in so many slots free, from 2 to 32.
ENOUGH_DONE, SLOTS_PER_FREE, LEAST_FREE = 32, 16, 2
#: After a claim got several tasks and not all that it asked for, its queue is left to others for so long.
SHARE_S = 0.010
#: The bell's answer may come so late; a connection that hangs never brings it.
BELL_LATE_S = 5.0


class Intake:
    """Decides about each call of the hand.

    *Room* is always how many tasks could begin now, 0 if none may; *ahead*, how many may be held beside them.

    Args:
        hand: Makes the calls.
        bell: Tells of new tasks.
        poll: The keeper's wait.
        order: Which queues to try for each claim.
        slots: Of the worker.
        ahead: Says how many tasks may be held.
        idle_s: About how long the bell is waited for before the queues are looked at all the same.

    Attributes:
        queues: All of them.
        wants: False if the queues were empty, and no bell has rung since.
        has_found_nothing: True if the last claim found all queues empty.
    """

    def __init__(
        self,
        hand: SlotHand,
        bell: Bell,
        poll: select.poll,
        *,
        order: ClaimOrder,
        slots: int,
        ahead: Ahead,
        idle_s: float,
    ) -> None:
        self.hand = hand
        self._bell = bell
        self._poll = poll
        self._order = order
        self.queues = order.names
        self._enough = max(LEAST_FREE, min(MOST_OF_MANY, slots // SLOTS_PER_FREE))
        self._pace_s = max(SHORTEST_PACE_S, min(LONGEST_PACE_S, slots * PACE_S))
        self._idle_s = idle_s
        self._most = MOST
        #: Queue → until when it is left to others.
        self._resting: dict[str, float] = {}
        self._ahead = ahead
        #: When the last call was.
        self._called_s = -math.inf
        self._is_urgent = False
        self._has_rung = False
        self._bell_until_s = math.inf
        self.wants = True
        self.has_found_nothing = False

    def complete(self, completion: Completion) -> None:
        """Take a completion; it is acknowledged with the next call."""
        self.hand.completions.append(completion)
        # If this process died, nobody else would have the result.
        self._is_urgent |= completion.claim.retention_s != 0

    def look_again(self) -> None:
        """Look at the queues although the bell has not rung: what has ended may have made room in them for others."""
        self.wants, self.has_found_nothing = True, False

    @property
    def has_more(self) -> bool:
        """True if the last claim got all that it asked for."""
        return self._most == MOST_OF_MANY

    def due_s(self, now_s: float, room: int, ahead: int = 0) -> float:
        """When the next call is due, if nothing happens before."""
        if self._is_urgent:
            return now_s
        paced_s = self._paced_s(room)
        done_s = paced_s if self.hand.completions else math.inf
        if not (room or ahead) or not self.wants:
            return min(done_s, self._bell_until_s)
        if len(self._resting) == len(self._order.names):
            return min(done_s, *self._resting.values())
        return now_s if self._is_enough(room, ahead) else paced_s

    def _paced_s(self, room: int) -> float:
        """When the next call may begin, if there is not enough for one before; no slot stands empty with some held."""
        return self._called_s + (LONGEST_PACE_S if self._ahead.limit and not room else self._pace_s)

    def _is_enough(self, room: int, ahead: int) -> bool:
        return room >= self._enough or ahead >= self._ahead.enough

    def missing(self, free: int, ahead: int = 0, held: int = 0) -> float:
        """How many more tasks have to end for a call at once, where some are held; infinity: there are enough."""
        missing: float = ENOUGH_DONE - len(self.hand.completions)
        if self.wants:
            missing = min(missing, self._enough - free + held, self._ahead.enough - ahead)
        return missing if missing > 0 else math.inf

    def serve(self, now_s: float, room: int, suspects: Sequence[int], ahead: int = 0) -> list[Claim] | None:
        """Acknowledge and claim, if it is time; what was claimed, or None: Redis was not asked. Raises BrokerError."""
        done = len(self.hand.completions)
        queues = self._awake_queues(now_s) if (room or ahead) and (self.wants or done) else []
        if not done and not queues:
            return None
        is_much = done >= ENOUGH_DONE or (self.wants and bool(queues) and self._is_enough(room, ahead))
        if not is_much and not self._is_urgent and now_s < self._paced_s(room):
            return None
        limit = min(room + ahead, self._most)
        claims = self.hand.serve(queues, limit, suspects, ahead=max(0, limit - room))
        self._is_urgent, self._called_s = False, now_s
        if not queues:
            self.look_again()
        elif room or claims:
            self._learn(claims, limit, now_s, is_whole=len(queues) == len(self._order.names))
        else:
            self._ahead.rest(now_s)
        return claims

    def _awake_queues(self, now_s: float) -> Sequence[str]:
        """The queues to claim from, without those that are left to others for a moment."""
        queues = self._order.draw()
        if not self._resting:
            return queues
        self._resting = {name: until_s for name, until_s in self._resting.items() if until_s > now_s}
        return [name for name in queues if name not in self._resting]

    def _learn(self, claims: Sequence[Claim], limit: int, now_s: float, *, is_whole: bool) -> None:
        """Learn when to claim again, and how much."""
        self._most = MOST_OF_MANY if claims and len(claims) >= limit else MOST
        if 1 < len(claims) < limit:
            self._resting[claims[0].queue] = now_s + SHARE_S
        self.has_found_nothing = is_whole and not claims
        self.wants = not self.has_found_nothing

    # --- The bell

    def note_ring(self, fd: int) -> None:
        """Take that the keeper's wait ended at this descriptor."""
        self._poll.unregister(fd)
        self._has_rung = True

    def hear(self, room: int) -> None:
        """Learn that a task came, or that it is time to look; raises BrokerError."""
        if not self._has_rung:
            self._look_for_bell()
            return
        self._has_rung, self._bell_until_s = False, math.inf
        self.wants = True
        name = self._bell.hear() if self._bell.is_listening else None
        if name is not None and not room:
            self._bell.ring_again(name)

    def _look_for_bell(self) -> None:
        """Leave a bell that is silent for too long; the queues are looked at, and then another one is waited for."""
        if time.monotonic() >= self._bell_until_s:
            self._bell_until_s, self.wants = math.inf, True
            if self._bell.is_listening:
                self._poll.unregister(self._bell.fileno())
                self._bell.close()

    def tend_bell(self, room: int) -> None:
        """Wait for tasks only while they could begin: a token is for a worker that can take one. Raises BrokerError."""
        if not room:
            self._bell.stop()
        elif not self.wants and not self._bell.is_listening:
            wait_s = self._idle_s * (0.5 + random.random())
            self._bell.listen(self._order.names, wait_s)
            self._poll.register(self._bell.fileno(), select.POLLIN)
            self._bell_until_s = time.monotonic() + wait_s + BELL_LATE_S

    def close(self) -> None:
        """Close the bell's connection."""
        self._bell.close()
