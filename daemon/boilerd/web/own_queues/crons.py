"""Periodic tasks that enqueue in their queues, and pauses of both."""

from collections.abc import Sequence
from datetime import datetime

from boilerd.broker.pauses import Pause
from boilerd.broker.ticks import TickInfo
from boilerd.broker.views import CronInfo
from boilerd.web.own_queues.part import Part


class CronsPart(Part):
    """Look at periodic tasks."""

    _crons: set[str] | None = None

    def crons(self) -> list[CronInfo]:
        """Those that enqueue there and nowhere else, whichever daemon has one of the name."""
        found = self._all.crons()
        of_others = {each.name for each in found if not self._who.owns(each.queue)}
        own = [each for each in found if each.name not in of_others]
        self._crons = {each.name for each in own}
        return own

    def paused_crons(self) -> dict[str, datetime]:
        """Those of them that are paused."""
        names = self._cron_names()
        return {name: since for name, since in self._all.paused_crons().items() if name in names}

    def ticks(self, name: str, size: int = 100) -> list[TickInfo]:
        """The last ticks of one."""
        if name not in self._cron_names():
            raise self.refusal("this is of another one")
        return self._all.ticks(name, size)

    def histories(self, names: Sequence[str], size: int = 30) -> dict[str, list[TickInfo]]:
        """The last ticks of each of these."""
        own = self._cron_names()
        return self._all.histories([name for name in names if name in own], size)

    def last_ticks(self) -> dict[str, float]:
        """The last tick of each."""
        names = self._cron_names()
        return {name: at_s for name, at_s in self._all.last_ticks().items() if name in names}

    def _cron_names(self) -> set[str]:
        if self._crons is None:
            self.crons()
        return self._crons or set()

    def pauses(self) -> list[Pause]:
        """What was said of their pauses."""
        found = self._all.pauses()
        crons = self._cron_names() if any(each.kind == "cron" for each in found) else set()
        return [each for each in found if (self._who.owns(each.name) if each.kind == "queue" else each.name in crons)]
