"""The recoverer: ends the claims of workers that are gone, each in one of these ways.

- A worker of this host died, and has a successor: that settles its claims when it starts (`Worker`).
- The daemon stopped it, and it has no successor: its claims are released.
- It died together with its daemon, on this machine: its attempts are recorded as lost.
- A lease ended, on whatever host: the attempt is recorded as lost, unless leases could not be renewed for a while.
- It had to stop while the broker was away: its outcomes are written, and the rest is released.
- It was killed in a drain: its claims are released when all workers have ended.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.broker.outage import LONGEST_PAUSE_S
from boilerd.broker.scheduler_calls import MOST_EXPIRED
from boilerd.errors import LeaseExpiredError, WorkerDiedError
from boilerd.process.exit_status import STOPPED_BY_DAEMON
from boilerd.process.identity import is_alive, is_dead, is_stopped
from boilerd.process.scoreboard import SCHEDULER_ROW, Scoreboard
from boilerd.scheduler.heartbeat import HEARTBEAT_S
from boilerd.worker.blame import SUSPECT_AFTER, find_blame
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.settlement import Rules, release_held
from boilerd.worker.succession import Held, tell_of_lost

logger = logging.getLogger("boilerd.scheduler")

#: A look at Redis that is longer ago than this was kept from it, by an outage or because this process was stopped.
LONGEST_GAP_S = 2 * HEARTBEAT_S
#: After an outage, or a step of Redis's clock, schedulers have so long to renew leases before they count as lost.
GRACE_S = HEARTBEAT_S + LONGEST_PAUSE_S
#: After so long the other duties have their turn, although tasks of dead workers are left.
LONGEST_STEP_S = 1.0


class Recoverer:
    """Settles claims for workers that cannot.

    Args:
        broker: Of this process alone.
        scoreboard: Tells how the host's workers ended.
        worker_names: RQ's name of the worker in each row.
        queues: Where to look for ended leases, beside all queues that hold tasks of boilerd's.
        rules: Decide about lost attempts.
        kept: The outcomes that workers could not write before they had to stop.
        child_of: Of a row, what log lines call its worker.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        scoreboard: Scoreboard,
        worker_names: Sequence[str],
        queues: Sequence[str],
        rules: Rules,
        kept: KeptOutcomes,
        child_of: Callable[[int], str] = "worker:{}".format,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._scoreboard = scoreboard
        self._worker_names = worker_names
        self._queues = queues
        self._rules = rules.without_hooks() if scoreboard.died_in_hooks(SCHEDULER_ROW) else rules
        self._kept = kept
        self._child_of = child_of
        self._clock = clock
        self._grace_since_s = -math.inf
        self._looked_s = -math.inf
        self._lead_s = -math.inf
        self._are_more_expired = False

    def recover(self) -> float:
        """Settle what workers left behind, for about a second; seconds until the next look is due."""
        began_s = self._clock()
        self._write_kept()
        self._are_more_expired = False
        for _ in self._release_stopped():
            if self._clock() - began_s > LONGEST_STEP_S:
                return 0.0
        with self._scoreboard.running_hooks(SCHEDULER_ROW):
            for _ in itertools.chain(self._record_attempts_of_dead_daemons(), self._record_attempts_of_ended_leases()):
                if self._clock() - began_s > LONGEST_STEP_S:
                    return 0.0
        if self._are_more_expired:
            return 0.0
        left_s = self._grace_since_s + GRACE_S - began_s
        return min(left_s, HEARTBEAT_S) if left_s > 0 else HEARTBEAT_S

    def start_grace(self) -> None:
        """Take no ended leases for `GRACE_S`: their schedulers may have been cut off, and get this time to renew."""
        self._grace_since_s = self._clock()

    def release_killed(self) -> None:
        """Release what killed workers held; in a drain all workers have ended before the scheduler is told to stop."""
        self._write_kept()
        for row, name in enumerate(self._worker_names):
            if is_alive(self._scoreboard.pid(row)):
                continue
            if self._scoreboard.slots(row) > 1:
                self._rules.settle_dead_slots(self._broker, name, cut=True, died=None)
            else:
                release_held(self._broker, name, child=self._child_of(row))

    def _write_kept(self) -> None:
        """Write what workers kept that have ended; a successor writes what its predecessor did."""
        live = {self._worker_names[row] for row in self._scoreboard.live() if row < len(self._worker_names)}
        for worker in self._kept.workers():
            if worker not in live:
                self._kept.write(self._broker, worker)

    def _release_stopped(self) -> Iterator[None]:
        """Release what workers held that the daemon stopped, and that have no successor, as in a smaller pool."""
        for row, name in enumerate(self._worker_names):
            if self._scoreboard.pid(row) or self._scoreboard.last_exit(row) != STOPPED_BY_DAEMON:
                continue
            if self._scoreboard.slots(row) > 1:
                yield from self._rules.settling_slots(self._broker, name, None, is_cut=True)
            else:
                self._rules.settle_dead_worker(self._broker, name, self._scoreboard.batch(row), None)
                self._scoreboard.shorten_batch(row)

    def _record_attempts_of_dead_daemons(self) -> Iterator[None]:
        """Record as lost what workers held that died with their supervisor; a living one starts successors."""
        for name, (worker, supervisor) in self._broker.registered().items():
            if is_dead(worker) and is_dead(supervisor):
                if self._broker.slots_of(name) > 1:
                    held: Held = yield from self._rules.settling_slots(self._broker, name, None)
                else:
                    held = yield from self._record_attempts_of(name)
                if held:
                    tell_of_lost(self._broker, name, held)
                self._broker.forget_worker(name)

    def _record_attempts_of(self, name: str) -> Generator[None, None, list[Claim]]:
        held = self._broker.held(name)
        for claim in held:
            error = WorkerDiedError("worker died together with its daemon")
            self._rules.record_lost_attempt(self._broker, name, claim, error, is_doubtful=not claim.is_alone)
            yield
        return held

    def _record_attempts_of_ended_leases(self) -> Iterator[None]:
        """Record as lost, of whatever host, the claims whose lease ended although it could have been renewed."""
        expired = self._broker.expired(self._queues)
        self._look_for_gap()  # behind the answer: whatever ended these leases too early came before it
        if self._clock() - self._grace_since_s < GRACE_S:
            return  # the broker may have been away, and its other daemons not be back yet
        self._are_more_expired = len(expired) >= MOST_EXPIRED
        late = self._late([claim for _, claim in expired if not claim.is_alone])
        for worker, claim in expired:
            error = late.get(claim.execution_id) or LeaseExpiredError(
                f"lease expired: worker {worker or 'unknown'} is gone or cut off"
            )
            is_doubtful = not claim.is_alone and claim.execution_id not in late and claim.deaths < SUSPECT_AFTER
            self._rules.record_lost_attempt(self._broker, worker, claim, error, is_taken=True, is_doubtful=is_doubtful)
            yield

    def _late(self, claims: Sequence[Claim]) -> dict[str, BaseException]:
        """Execution ID → why that attempt failed, of those that were past their limits at their last heartbeat.

        Of a claim that was one of many nobody knows else whether it was the cause.
        """
        if not claims:
            return {}
        held = self._broker.find_held([f"{claim.task_id}:{claim.execution_id}" for claim in claims])
        return {claim.execution_id: error for claim, error in find_blame(self._broker, held, None).counted}

    def _look_for_gap(self) -> None:
        """Start a grace where nobody may have renewed leases, or Redis's clock was put forward: they ended too early.

        A clock put forward by a day also took what Redis had kept for a day, as which claims our workers hold.
        """
        now_s = self._clock()
        lead_s = self._broker.now() - now_s
        if now_s - self._looked_s > LONGEST_GAP_S or lead_s - self._lead_s > HEARTBEAT_S:
            self.start_grace()
            if live := self._live_workers():
                self._broker.adopt(live, self._queues)
        self._looked_s, self._lead_s = now_s, lead_s

    def _live_workers(self) -> list[str]:
        """Names of the host's workers that live, and are not stopped."""
        pids = {name: self._scoreboard.pid(row) for row, name in enumerate(self._worker_names)}
        return [name for name, pid in pids.items() if pid and not is_stopped(pid)]
