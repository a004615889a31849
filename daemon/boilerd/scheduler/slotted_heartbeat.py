"""The heartbeat of workers with several slots: each may hold thousands of claims, so they are renewed piece by piece.

One call that renewed 5,000 would keep Redis from everybody else for a third of a second. So a round of heartbeats is a
row of steps, a few for each call of `SlottedHeartbeater.beat`, spread over the time until the next round.
"""

import math
import signal
import time
from collections.abc import Iterator, Sequence

from boilerd.broker.broker import Broker
from boilerd.broker.held_claims import HeldClaim, chunks
from boilerd.errors import BrokerRefusedError
from boilerd.process.identity import Load, look_at, send
from boilerd.process.scoreboard import Scoreboard

#: From the beginning of a round to the next; a lease lasts 30 s.
ROUND_S = 5.0
#: The steps of a round are spread over this much of it, and so many calls: a round may have more steps than the one
#: before. Between two calls there is time to wait for the alarm, which a pause below 0.1 s would not do.
SPREAD_S, MOST_CALLS = 4.0, 16
#: Claims that one step renews: 1 to 2 ms of Redis.
MOST_RENEWED = 250
#: RQ's records of attempts, which last for a day, are renewed so often: its tools show when a job was alive last.
RECORDS_S = 120.0
#: Claims whose records one step renews.
MOST_RECORDED = 100


class SlottedHeartbeater:
    """Renews the leases of live workers with several slots, and tells those of whose tasks one is not wanted any more.

    Args:
        broker: Of this process alone.
        scoreboard: Tells which workers live, and how many slots they have.
        worker_names: RQ's name of the worker in each row.
    """

    def __init__(self, broker: Broker, scoreboard: Scoreboard, worker_names: Sequence[str]) -> None:
        self._broker = broker
        self._scoreboard = scoreboard
        self._worker_names = worker_names
        self._held: dict[int, dict[str, HeldClaim]] = {}  # row → what its worker holds
        self._loads: dict[int, Load | None] = {}  # row → what its worker takes of the host
        self._recorded_s: dict[str, float] = {}  # claim → when its records were renewed
        self._round: Iterator[None] | None = None
        self._round_s = 0.0
        self._steps = self._calls = 0

    def beat(self) -> float:
        """Take the next steps of the round; seconds until those behind them are due.

        Raises:
            BrokerRefusedError: Redis refused it for one of the workers; the others were served.
        """
        round_, self._round = self._round or self._begin(), None  # an error ends it: the next one begins anew
        for _ in range(self._steps):
            if next(round_, self) is self:
                return max(0.0, self._round_s + ROUND_S - time.monotonic())
        self._round = round_
        self._calls += 1
        return max(0.0, self._round_s + self._calls * SPREAD_S / MOST_CALLS - time.monotonic())

    def _begin(self) -> Iterator[None]:
        rows = self._rows()
        for row in set(self._held).difference(rows):
            del self._held[row]
        expected = sum(1 + self._scoreboard.running(row) // MOST_RENEWED for row in rows)
        self._steps, self._calls, self._round_s = math.ceil(expected / MOST_CALLS) or 1, 0, time.monotonic()
        return self._beat_all(rows)

    def _rows(self) -> list[int]:
        """Those of workers with several slots, but for those that a signal has stopped: their leases end."""
        rows = []
        for row, pid in self._scoreboard.live().items():
            if row < len(self._worker_names) and self._scoreboard.slots(row) > 1:
                is_halted, self._loads[row] = look_at(pid)
                self._scoreboard.mark_halted(row, is_halted=is_halted)
                if load := self._loads[row]:
                    self._scoreboard.note_resident(row, load.rss_bytes)
                rows += [] if is_halted else [row]
        return rows

    def _beat_all(self, rows: Sequence[int]) -> Iterator[None]:
        refusal: BrokerRefusedError | None = None
        for row in rows:
            try:
                yield from self._beat_of(row)
            except BrokerRefusedError as error:
                refusal = error
        held = {pair for claims in self._held.values() for pair in claims}
        self._recorded_s = {pair: at_s for pair, at_s in self._recorded_s.items() if pair in held}
        if refusal:
            raise refusal

    def _beat_of(self, row: int) -> Iterator[None]:
        """The steps of one worker; it is told once of all that is not wanted any more."""
        pairs, was_told = self._read(row), False
        for some in [*chunks(pairs, MOST_RENEWED)] or [()]:  # of an idle worker, its presence
            is_wanted = self._renew(row, some)
            if not is_wanted and not was_told:
                was_told = True
                self._tell(row)
            yield
        for some in chunks(self._stale(row), MOST_RECORDED):
            self._broker.renew_records(self._worker_names[row], some)
            self._recorded_s |= dict.fromkeys(some, time.monotonic())
            yield

    def _tell(self, row: int) -> None:
        """Have the worker look which of its tasks are not wanted; one that starts runs none, and may not listen yet.

        At each heartbeat: the command may have been sent while nobody listened.
        """
        if self._scoreboard.has_booted(row):
            send(self._scoreboard.pid(row), signal.SIGUSR1)

    def _read(self, row: int) -> list[str]:
        """What the worker holds by now, the newest first: those have not been renewed yet."""
        pairs = self._broker.executions_of(self._worker_names[row])
        known = self._held.get(row, {})
        self._held[row] = {pair: known[pair] for pair in pairs if pair in known}
        return sorted(pairs, key=known.__contains__)

    def _renew(self, row: int, pairs: Sequence[str]) -> bool:
        """Renew some leases; False if one of these tasks is not wanted any more."""
        held = self._held[row]
        new = self._broker.find_held([pair for pair in pairs if pair not in held])
        held |= {claim.pair: claim for claim in new}
        self._recorded_s |= {claim.pair: self._recorded_s.get(claim.pair, time.monotonic()) for claim in new}
        claims = [held[pair] for pair in pairs if pair in held]
        renewal = self._broker.renew(self._worker_names[row], claims, self._loads.get(row))
        return not renewal.lost and not renewal.cancelled

    def _stale(self, row: int) -> list[str]:
        """The claims of a worker whose records are to be renewed."""
        now_s = time.monotonic()
        return [pair for pair in self._held[row] if now_s - self._recorded_s[pair] >= RECORDS_S]
