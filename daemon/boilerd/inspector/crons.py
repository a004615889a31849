"""Look at periodic tasks, pause them and have them run now."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from boilerd.broker.views import CronInfo
from boilerd.errors import (
    CronNotFoundError,
    InvalidTaskError,
    MisplacedKeyError,
    listed,
    shown,
)
from boilerd.inspector.part import Part

if TYPE_CHECKING:
    from boilerd.broker.ticks import TickInfo


class CronsPart(Part):
    """Look at periodic tasks, pause them and have them run now."""

    def crons(self) -> list[CronInfo]:
        """The periodic tasks of all hosts, by name, with their ticks and the daemons that have them; eight round trips.

        Two daemons may have entries of one name with other lines: each line is told then.
        """
        from boilerd.broker.crons import crons_of_all  # noqa: PLC0415 - as in `Part`
        from boilerd.broker.daemons import read_daemons  # noqa: PLC0415

        ticks, now_s, seen = self._broker.last_ticks(), self._broker.now(), []
        with suppress(MisplacedKeyError):  # the daemons tell
            seen = self._inspection.crons(ticks, now_s)
        daemons = read_daemons(self._broker.connection)
        silent = self._inspection.living(but={daemon.name for daemon in daemons})
        return crons_of_all(seen, daemons, silent, ticks, now_s)

    def paused_crons(self) -> dict[str, datetime]:
        """Name of each periodic task that is paused → since when."""
        from boilerd.broker.pauses import read_pauses  # noqa: PLC0415 - as in `Part`

        paused = self._inspection.paused_crons()
        told = read_pauses(self._broker.connection) if paused else {}
        now = datetime.fromtimestamp(self._broker.now(), UTC) if told else None
        ended = {name for (kind, name), each in told.items() if kind == "cron" and now and each.has_ended(now)}
        return {name: since for name, since in paused.items() if name not in ended}

    def pause_cron(self, name: str, *, note: str = "", until: datetime | timedelta | None = None) -> bool:
        """Have the ticks of a periodic task pass without a task, on all hosts; True if it was not paused before.

        Args:
            name: Its name.
            note: Why; as of `pause`.
            until: When its ticks have tasks again, as of `pause`.

        Raises:
            InvalidTaskError: No daemon has it, or had it; the end is past, or the note too long.
        """
        self._check_cron(name)
        return self._pause("cron", name, note, until, self._inspection.pause_cron)

    def resume_cron(self, name: str) -> bool:
        """Have the next ticks of a periodic task enqueue again; True if it was paused.

        Raises:
            InvalidTaskError: It is not paused, and no daemon has it, or had it.
        """
        if name not in self._inspection.paused_crons():
            self._check_cron(name)
        with self._audit.noting("resume", cron=name) as noted:
            noted.count = int(self._inspection.resume_cron(name))
            self._forget_pause("cron", name)
        return bool(noted.count)

    def run_cron(self, name: str) -> None:
        """Have a daemon that has this periodic task enqueue its task now, beside its ticks; it does within 5 s.

        Raises:
            InvalidTaskError: No daemon that lives has it.
        """
        self._check_cron(name, is_held=True)
        with self._audit.noting("cron run", cron=name) as noted:
            self._inspection.want_cron(name)
            noted.count = 1

    def _check_cron(self, name: str, *, is_held: bool = False) -> None:
        crons = self.crons()
        names = {cron.name for cron in crons if cron.daemons or not is_held}
        if name not in names:
            error = InvalidTaskError if any(cron.name == name for cron in crons) else CronNotFoundError
            has = "no daemon has a" if is_held else "there is no"
            raise error(f"{has} periodic task {shown(name)}; there are: {listed(sorted(names)) or 'none'}")

    def ticks(self, name: str, size: int = 100) -> "list[TickInfo]":
        """The last ticks of a periodic task that any daemon took, latest first, up to 100, with what became of each.

        Where a task is gone, that is not known any more: it may have completed, or somebody deleted it.
        """
        from boilerd.broker.ticks import read_history  # noqa: PLC0415 - as in `Part`

        return read_history(self._broker.connection, name, size)

    def histories(self, names: Sequence[str], size: int = 30) -> "dict[str, list[TickInfo]]":
        """The last ticks of each of these periodic tasks, as `ticks`; four round trips.

        It takes two commands for each: of a tick before the last it is not known whether its task waits or runs.
        """
        from boilerd.broker.ticks import read_histories  # noqa: PLC0415 - as in `Part`

        return read_histories(self._broker.connection, names, size)

    def last_ticks(self) -> dict[str, float]:
        """Name of each periodic task → its last tick, in seconds since 1970."""
        return self._broker.read_ticks()
