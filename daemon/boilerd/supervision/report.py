"""What the daemon tells the service manager, from its main loop."""

import time

from boilerd.process.scoreboard import LATE_HEARTBEAT_S, Scoreboard
from boilerd.supervision.pool import Pool
from boilerd.supervision.sd_notify import Notifier

#: How often the status line may change.
STATUS_EVERY_S = 1.0
#: What a drain asks for beyond a step that it is about to take, again and again.
EXTENSION_S = 15.0


class Report:
    """Readiness, status line and signs of life.

    Args:
        notifier: Where they go.
        scoreboard: Tells what the processes do.

    Attributes:
        is_ready: Whether every worker served at some moment since the start or the last reload.
    """

    def __init__(self, notifier: Notifier, scoreboard: Scoreboard) -> None:
        self._notifier = notifier
        self._scoreboard = scoreboard
        self._status = ""
        self._next_status_s = self._next_life_s = self._next_extension_s = 0.0
        self.is_ready = False

    @property
    def life_every_s(self) -> float:
        """How often `live` must be called; 0: nobody waits for it."""
        return self._notifier.watchdog_s / 4

    def live(self) -> None:
        """Feed the watchdog; called from the loop alone, so it starves when that hangs."""
        now_s = time.monotonic()
        if self._notifier.watchdog_s and now_s >= self._next_life_s:
            self._next_life_s = now_s + self.life_every_s / 2
            self._notifier.send(WATCHDOG=1)

    def update(self, pool: Pool, *, activity: str, trouble: str) -> None:
        """Say that it is ready, once all workers are; keep the status line current.

        Args:
            pool: The workers.
            activity: What else the daemon is doing, such as ``draining``; may be empty.
            trouble: What a person should know; may be empty.
        """
        if not self.is_ready and not activity and pool.is_ready():
            self.is_ready = True
            self._next_status_s = 0.0
            self._notifier.send(READY=1)
        if (now_s := time.monotonic()) >= self._next_status_s:
            self._next_status_s = now_s + STATUS_EVERY_S
            self._show(self.status(pool, activity, trouble))

    def status(self, pool: Pool | None, activity: str, trouble: str) -> str:
        """``10 workers, 3 busy, 1,204 pending``, after what is out of the ordinary."""
        scoreboard, age_s = self._scoreboard, self._scoreboard.heartbeat_age_s
        parts = [
            activity or ("" if self.is_ready else "starting"),
            "broker unavailable" if scoreboard.is_broker_away else "",
            f"no heartbeat for {age_s:.0f} s" if age_s > LATE_HEARTBEAT_S else "",
            "quiet" if scoreboard.is_quiet else "",
        ]
        if pool is not None:
            parts += [
                f"{pool.size} worker{'s' if pool.size > 1 else ''}",
                f"{pool.given_up()} given up" if pool.given_up() else "",
                f"{scoreboard.busy()} busy",
                f"{scoreboard.pending:,} pending",
            ]
        line = ", ".join(part for part in parts if part)
        return f"{line}; {trouble}" if trouble else line

    def reload_begins(self) -> None:
        """The manager shows it as reloading, until it is ready or told that it goes on."""
        self._notifier.reloading()

    def goes_on(self) -> None:
        """The reload came to nothing. Where a worker has not served yet, `update` says READY."""
        self._next_status_s = 0.0
        if self.is_ready:
            self._notifier.send(READY=1)

    def stops(self) -> None:
        """A drain begins."""
        self._next_status_s = self._next_extension_s = 0.0
        self._notifier.send(STOPPING=1)

    def needs_time(self) -> None:
        """A start, reload or stop goes on in good order, however long the settings let it take."""
        if (now_s := time.monotonic()) >= self._next_extension_s:
            self._next_extension_s = now_s + STATUS_EVERY_S
            self._notifier.extend(EXTENSION_S)

    def _show(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._notifier.send(STATUS=status)
