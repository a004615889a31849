"""All pools of the daemon together, and what people ask of one of them by its name."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from boilerd.errors import RefusedError, shown
from boilerd.process.scoreboard import SUPERVISOR_ROW, Scoreboard
from boilerd.supervision.groups import DEFAULT_POOL
from boilerd.supervision.pool import MOST_WORKERS, Pool, PoolPlan

logger = logging.getLogger("boilerd.supervisor")


class Pools:
    """The pools of workers, in the order of the settings.

    Args:
        plans: What to make; at least one.
        groups: Supervisor's groups, by their names.
        scoreboard: Where the workers note what they do.
        on_growth: Called when there are more rows than ever before.
    """

    def __init__(
        self,
        plans: Sequence[PoolPlan],
        groups: Mapping[str, Any],
        scoreboard: Scoreboard,
        on_growth: Callable[[], None],
    ) -> None:
        self._scoreboard = scoreboard
        self._pools = [
            Pool(
                groups[plan.group.name], plan.make_worker, scoreboard, on_growth,
                name=plan.name, slots=plan.slots, taken=self._rows,
            )
            for plan in plans
        ]  # fmt: skip
        for pool, plan in zip(self._pools, plans, strict=True):
            pool.set_quiet(is_quiet=plan.is_quiet)
        self._note_quiet()
        # A worker with slots may retire, and another serves beside it: the scheduler knows these rows from the start.
        scoreboard.rows += sum(pool.size for pool in self._pools if pool.slots > 1)

    def _rows(self) -> list[int]:
        return [row for pool in self._pools for row in pool.rows]

    def of(self, name: object) -> Pool:
        """The pool of this name, or of this group; raises RefusedError where there is none."""
        for pool in self._pools:
            if name in (pool.name, pool.group_name):
                return pool
        raise RefusedError(f"no pool {shown(name)}; there {self._named()}")

    def _named(self) -> str:
        names = [pool.name for pool in self._pools]
        return f"is {names[0]}" if len(names) == 1 else f"are {', '.join(names)}"

    @property
    def size(self) -> int:
        """How many workers are wanted."""
        return sum(pool.size for pool in self._pools)

    @property
    def quiet_names(self) -> list[str]:
        """The pools that are quiet."""
        return [pool.name for pool in self._pools if pool.is_quiet]

    def name_of(self, row: int) -> str:
        """The name of the worker in a row, such as ``worker:3``; of a row without one, its number."""
        return next((pool.name_of(row) for pool in self._pools if row in pool.rows), str(row))

    def infos(self) -> list[dict[str, Any]]:
        """The state of each pool, in numbers."""
        return [pool.info() for pool in self._pools]

    # --- Requests

    def scale(self, size: int, name: str = "") -> None:
        """Have `size` workers in this pool; raises RefusedError where that is not allowed."""
        pool = self.of(name or DEFAULT_POOL)
        others = self.size - pool.size
        if size > 0 and others and size + others > MOST_WORKERS:
            raise RefusedError(
                f"{size} workers: the other pools have {others}, and all together may have {MOST_WORKERS}"
            )
        pool.scale(size)

    def grow(self, change: int) -> None:
        """Have so many more workers in the pool `default`, or fewer."""
        self.scale(self.of(DEFAULT_POOL).size + change)

    def restart(self, names: Sequence[str]) -> None:
        """Replace these workers, or those of these pools, by fresh ones; all of them without names.

        Raises:
            RefusedError: There is no such worker or pool.
        """
        wanted = [self._meant(name) for name in names] if names else [(pool, None) for pool in self._pools]
        for pool, workers in wanted:
            pool.restart(workers)

    def _meant(self, name: object) -> tuple[Pool, list[str] | None]:
        """A pool, and which of its workers; None: all."""
        for pool in self._pools:
            if name in (pool.name, pool.group_name):
                return pool, None
            if isinstance(name, str) and pool.row_of(name):
                return pool, [name]
        pools = f", and the pools {', '.join(pool.name for pool in self._pools)}" if len(self._pools) > 1 else ""
        spans = ", ".join(pool.span for pool in self._pools)
        raise RefusedError(f"no worker {shown(name)}; there are {spans}{pools}")

    def set_quiet(self, name: str = "", *, is_quiet: bool) -> None:
        """Let the workers of this pool, or of all, claim nothing, or claim again."""
        chosen = [self.of(name)] if name else self._pools
        changed = [pool for pool in chosen if pool.is_quiet != is_quiet]
        for pool in chosen:
            pool.set_quiet(is_quiet=is_quiet)
        self._note_quiet()
        if changed:
            message = "worker stopped accepting new tasks" if is_quiet else "worker accepts new tasks again"
            logger.info(message, extra=changed[0].log_fields if name else {})

    def _note_quiet(self) -> None:
        are_quiet = all(pool.is_quiet for pool in self._pools)
        self._scoreboard.set_quiet([SUPERVISOR_ROW], is_quiet=are_quiet)

    # --- The daemon's loop

    def reconcile(self) -> None:
        """Take the next step towards the workers that are wanted."""
        for pool in self._pools:
            pool.reconcile()

    def is_ready(self) -> bool:
        """True if each pool is."""
        return all(pool.is_ready() for pool in self._pools)

    def missing(self) -> list[str]:
        """The workers that have not served for a while."""
        return [name for pool in self._pools for name in pool.missing()]

    def failed_starts(self) -> dict[str, str]:
        """Why those workers do not serve whose lifespans, or whose hook before the fork, failed."""
        return {name: why for pool in self._pools for name, why in pool.failed_starts().items()}

    def entering(self) -> list[str]:
        """The workers that enter their lifespans."""
        return [name for pool in self._pools for name in pool.entering()]

    def why_none_starts(self, limit_s: float) -> str:
        """Why no worker of a pool has ever served; empty: one has, or there is hope."""
        return next(filter(None, (pool.why_none_starts(limit_s) for pool in self._pools)), "")

    def is_lost(self) -> bool:
        """True if all workers crashed too often."""
        return all(pool.is_lost() for pool in self._pools)

    def is_done(self) -> bool:
        """True if, in a burst, each worker has found the queues empty or will not come back."""
        if not all(pool.is_done() for pool in self._pools):
            return False
        if len(self._pools) == 1 or self.is_lost() or not any(pool.has_claimed() for pool in self._pools):
            return True
        # The last task of one pool may have enqueued others for a pool that was done by then: they all look once more.
        for pool in self._pools:
            pool.start_again()
        return False
