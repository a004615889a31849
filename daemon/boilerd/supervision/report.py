"""The daemon's reports to the service manager; the main loop sends them."""

import time

from boilerd.process.scoreboard import LATE_HEARTBEAT_S, Scoreboard
from boilerd.supervision.pools import Pools
from boilerd.supervision.sd_notify import Notifier

#: How often the status line may change.
STATUS_EVERY_S = 1.0
#: By how much a start, reload or stop that goes on extends the manager's timeout, counted from each report.
EXTENSION_S = 15.0


class Report:
    """Reports readiness, the status line and signs of life.

    Args:
        notifier: Sends the reports.
        scoreboard: Where the processes note what they do.

    Attributes:
        is_ready: True once every worker served at the same moment, since the start or the last reload.
    """

    def __init__(self, notifier: Notifier, scoreboard: Scoreboard) -> None:
        self._notifier = notifier
        self._scoreboard = scoreboard
        self._status = ""
        self._next_status_s = self._next_feed_s = self._next_extension_s = 0.0
        self.is_ready = False

    @property
    def watchdog_every_s(self) -> float:
        """How often `feed_watchdog` must be called, in seconds; 0: there is no watchdog."""
        return self._notifier.watchdog_s / 4

    def feed_watchdog(self) -> None:
        """Tell the watchdog that the loop lives; called from the loop alone, so a loop that hangs starves it."""
        now_s = time.monotonic()
        if self._notifier.watchdog_s and now_s >= self._next_feed_s:
            self._next_feed_s = now_s + self.watchdog_every_s / 2
            self._notifier.send(WATCHDOG=1)

    def update(self, pools: Pools, *, activity: str, last_error: str) -> None:
        """Report that the daemon is ready, once all workers are; keep the status line current.

        Args:
            pools: The workers.
            activity: What else the daemon is doing, such as ``draining``; may be empty.
            last_error: Why the last reload failed; may be empty.
        """
        if not self.is_ready and not activity and pools.is_ready():
            self.is_ready = True
            self._next_status_s = 0.0
            self._notifier.send(READY=1)
        if (now_s := time.monotonic()) >= self._next_status_s:
            self._next_status_s = now_s + STATUS_EVERY_S
            self._show(self.status(pools, activity, last_error))

    def status(self, pools: Pools | None, activity: str, last_error: str) -> str:
        """The line ``10 workers, 3 busy, 1,204 pending``, with all that is out of the ordinary before it."""
        scoreboard, age_s = self._scoreboard, self._scoreboard.heartbeat_age_s
        parts = [
            activity or ("" if self.is_ready else "starting"),
            "broker unavailable" if scoreboard.is_broker_away else "",
            f"no heartbeat for {age_s:.0f} s" if age_s > LATE_HEARTBEAT_S else "",
            "log lines are lost" if scoreboard.untold_lines else "",
            _quiet(pools, is_quiet=scoreboard.is_quiet),
        ]
        if pools is not None:
            missing = pools.missing() if not activity and self.is_ready else []
            parts += [
                f"{pools.size} worker{'s' if pools.size > 1 else ''}",
                f"{len(missing)} not serving" if missing else "",
                f"{len(halted)} stopped by a signal" if (halted := scoreboard.halted()) else "",
                f"{scoreboard.busy()} busy",
                f"{scoreboard.pending:,} pending",
            ]
        line = ", ".join(part for part in parts if part)
        return f"{line}; {last_error}" if last_error else line

    def reload_begins(self) -> None:
        """Report a reload; the manager shows it until the next READY."""
        self._notifier.reloading()

    def reload_refused(self) -> None:
        """End a reload that was refused or failed. Where a worker has not served yet, `update` sends READY later."""
        self._next_status_s = 0.0
        if self.is_ready:
            self._notifier.send(READY=1)

    def stopping(self) -> None:
        """Report that a drain begins."""
        self._next_status_s = self._next_extension_s = 0.0
        self._notifier.send(STOPPING=1)

    def extend_timeout(self) -> None:
        """Report that a start, reload or stop goes on as it should, however long the settings let it take."""
        if (now_s := time.monotonic()) >= self._next_extension_s:
            self._next_extension_s = now_s + STATUS_EVERY_S
            self._notifier.extend(EXTENSION_S)

    def _show(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._notifier.send(STATUS=status)


def _quiet(pools: Pools | None, *, is_quiet: bool) -> str:
    if is_quiet or pools is None:
        return "quiet" if is_quiet else ""
    return f"pool {', '.join(names)} quiet" if (names := pools.quiet_names) else ""
