"""The daemon's forked processes: the scheduler and the workers, as Supervisor is to start them."""

import functools
import re
import secrets
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import redis
from setproctitle import setproctitle
from supervisor.options import ProcessGroupConfig

from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect_to, mark_of
from boilerd.daemon.boot import BrokerFacts, connect
from boilerd.daemon.fork_hooks import before_fork
from boilerd.daemon.published import Published
from boilerd.daemon.sharing import group_id
from boilerd.process import debugging, logs, printed
from boilerd.process.ending import EXIT_LIMIT_S, note_fork, run_exit_handlers
from boilerd.process.exit_status import OK
from boilerd.process.forks import disown_children, leave_to_parent
from boilerd.process.randomness import reseed
from boilerd.process.scoreboard import DASHBOARD_ROW, EXPORTER_ROW, SCHEDULER_ROW, WATCHER_ROW, Scoreboard
from boilerd.process.signals import install_handler, release_signals
from boilerd.process.surroundings import Surroundings
from boilerd.scheduler.periodic import Periodic
from boilerd.scheduler.scheduler import Scheduler
from boilerd.settings.definitions import Settings
from boilerd.settings.pools import PoolSettings, check_loops, slotted_pools
from boilerd.supervision.children import ForkedConfig, forked_config
from boilerd.supervision.groups import DASHBOARD, EXPORTER, SCHEDULER, WATCHER, group_of
from boilerd.supervision.options import Options
from boilerd.supervision.pool import PoolPlan
from boilerd.supervision.supervisor import KILL_MARGIN_S
from boilerd.tasks.bridge import check_async
from boilerd.tasks.cron import CronEntry, check_entries
from boilerd.tasks.life import Life
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.attempt_log import fold_attempts, log_attempts
from boilerd.worker.guarded_life import GRACE_S, LEAST_STOP_S
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.limits import Limits, SlotLimits
from boilerd.worker.prefetch import Prefetch
from boilerd.worker.settlement import Rules
from boilerd.worker.worker import Worker

if TYPE_CHECKING:
    from boilerd.verdict.facts import AskDaemon

#: Supervisor starts the lowest first and stops it last; the embedded broker is below all. The exporter tells of a drain
#: until the workers have ended.
SCHEDULER_PRIORITY, EXPORTER_PRIORITY, WORKER_PRIORITY, WATCHER_PRIORITY = 200, 250, 300, 400
SCHEDULER_STOP_S = EXPORTER_STOP_S = WATCHER_STOP_S = 1.0
#: A request that runs is answered.
DASHBOARD_STOP_S = 3.0
#: How long Redis may take for a command of the exporter's: whoever scrapes waits for 10 s.
EXPORTER_TIMEOUT_S = 2.0
#: How often the idle workers of a host look at the queues by themselves, all together, and how
#: long one of them sleeps at most: half as long again must be below the 5 s that a command may take.
LOOKS_A_SECOND = 4
LONGEST_IDLE_S = 3.0
#: SIGKILL comes later for a worker with slots, by so much: it puts many tasks back.
SLOTTED_KILL_MARGIN_S = 2.5


class Application(NamedTuple):
    """The parts of the application that the processes run, with the settings applied.

    Attributes:
        mux: All of it; the processes run what `rules` have.
        crons: Its periodic tasks, and those of the settings.
    """

    rules: Rules
    periodic: Periodic
    life: Life
    mux: ServeMux
    crons: Sequence[CronEntry]

    @classmethod
    def of(cls, mux: ServeMux, settings: Settings) -> Self:
        """Take it from the mux; raises ConfigError where it and the settings do not go together."""
        folding = fold_attempts(settings.log_tasks_per_second)
        has_handler = functools.lru_cache(1024)(mux.has_handler)
        middleware = functools.partial(
            log_attempts, folding=folding if settings.log_tasks_per_second else None, misfits=folding,
            has_handler=has_handler,
        )  # fmt: skip
        check_loops(settings.worker_pools())
        check_async(mux, slotted_pools(settings.worker_pools()))
        entries = [*mux.crons, *settings.cron_entries()]
        names = [entry.name for entry in entries]
        rules = Rules.of(mux, settings.retry.policy(), middleware, names, folding, release=settings.release or "")
        check_entries(entries, settings.served_queues(), mux.has_handler)
        return cls(rules, Periodic(entries, mux), mux.life, mux, entries)


class Runnable(Protocol):
    """A worker of either kind, as it runs in the forked child."""

    title: str

    def run(self) -> int:
        """Work until told to stop; the exit status."""

    def time_left_s(self) -> float:
        """Seconds until the daemon kills it."""


class Processes:
    """The configurations of the processes.

    Args:
        options: Supervisor's.
        settings: Of the daemon.
        application: Handlers, hooks and periodic tasks.
        scoreboard: Where the processes note what they do.
        broker: What is known of the broker.
        quiet_pools: The pools that claim nothing at first.
        is_burst: True for workers that end when the queues are empty.
        watch: Runs in a child, and asks for a reload when the application's files change; None: nobody does.
        ask_daemon: Asks the daemon how it is, in the exporter and the dashboard; None: there are none, whatever the
            settings say.

    Attributes:
        name: Of the daemon until its next start or reload, with which the names of its workers begin.
    """

    def __init__(
        self,
        options: Options,
        settings: Settings,
        application: Application,
        scoreboard: Scoreboard,
        *,
        broker: BrokerFacts,
        is_burst: bool,
        quiet_pools: Collection[str] = (),
        watch: Callable[[], None] | None = None,
        ask_daemon: "AskDaemon | None" = None,
    ) -> None:
        self._watch = watch
        self._ask_daemon = ask_daemon
        self._options = options
        self._settings = settings
        self._application = application
        self._scoreboard = scoreboard
        self._broker = broker
        self._is_burst = is_burst
        self._quiet_pools = quiet_pools
        self._surroundings = Surroundings()
        host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
        self._kept = KeptOutcomes(settings.state_path() / "outcomes", mark_of(settings))
        self.name = f"{host}.{secrets.token_hex(3)}"

    def groups(self) -> list[ProcessGroupConfig]:
        """The scheduler's group, and the exporter's, the dashboard's and the watcher's if there are such."""
        groups = [ProcessGroupConfig(self._options, SCHEDULER, SCHEDULER_PRIORITY, [self._scheduler()])]
        if self._settings.metrics_listen and self._ask_daemon:
            exporter = self._exporter(self._ask_daemon)
            groups.append(ProcessGroupConfig(self._options, EXPORTER, EXPORTER_PRIORITY, [exporter]))
        if self._settings.web.enabled and self._ask_daemon:
            dashboard = self._dashboard(self._ask_daemon)
            groups.append(ProcessGroupConfig(self._options, DASHBOARD, EXPORTER_PRIORITY, [dashboard]))
        if self._watch:
            watcher = self._watcher(self._watch)
            groups.append(ProcessGroupConfig(self._options, WATCHER, WATCHER_PRIORITY, [watcher]))
        return groups

    def pools(self) -> list[PoolPlan]:
        """The pools of workers, each with a group of its own; their workers have the rows from 0 on."""
        plans, first = [], 0
        for pool in self._settings.worker_pools():
            make_worker = functools.partial(self.worker, pool)
            workers = [make_worker(row) for row in range(first, first + pool.processes)]
            group = ProcessGroupConfig(self._options, group_of(pool.name), WORKER_PRIORITY, workers)
            is_quiet = self._scoreboard.is_quiet or pool.name in self._quiet_pools
            plans.append(PoolPlan(pool.name, group, make_worker, pool.slots, is_quiet))
            first += pool.processes
        return plans

    def worker(self, pool: PoolSettings, row: int) -> ForkedConfig:
        """The worker of a row, in this pool."""
        self._scoreboard.note_slots(row, pool.slots)
        self._scoreboard.note_group(row, group_of(pool.name))
        make = self._make_worker if pool.slots == 1 else self._make_slotted_worker
        margin_s = KILL_MARGIN_S if pool.slots == 1 else SLOTTED_KILL_MARGIN_S
        return forked_config(
            self._options, str(row), functools.partial(self._run_worker, make(pool, row), row),
            priority=WORKER_PRIORITY, scoreboard=self._scoreboard, row=row,
            stop_wait_s=pool.shutdown_timeout + self._least_stop_s() + margin_s,
            restarts_always=not self._is_burst,
            before_fork=self._before_fork,
            is_in_foreground=debugging.is_on(),
        )  # fmt: skip

    def _least_stop_s(self) -> float:
        """What lifespans get to leave where the tasks have used up the drain."""
        return min(self._settings.stop_timeout, LEAST_STOP_S) + GRACE_S if self._application.life.parts else 0.0

    def _scheduler(self) -> ForkedConfig:
        return forked_config(
            self._options, SCHEDULER, self._run_scheduler,
            priority=SCHEDULER_PRIORITY, scoreboard=self._scoreboard, row=SCHEDULER_ROW, stop_wait_s=SCHEDULER_STOP_S,
            before_fork=self._before_fork,
        )  # fmt: skip

    def _exporter(self, ask_daemon: "AskDaemon") -> ForkedConfig:
        return forked_config(
            self._options, EXPORTER, functools.partial(self._run_exporter, ask_daemon),
            priority=EXPORTER_PRIORITY, scoreboard=self._scoreboard, row=EXPORTER_ROW, stop_wait_s=EXPORTER_STOP_S,
            before_fork=self._before_fork,
        )  # fmt: skip

    def _dashboard(self, ask_daemon: "AskDaemon") -> ForkedConfig:
        return forked_config(
            self._options, DASHBOARD, functools.partial(self._run_dashboard, ask_daemon),
            priority=EXPORTER_PRIORITY, scoreboard=self._scoreboard, row=DASHBOARD_ROW, stop_wait_s=DASHBOARD_STOP_S,
            before_fork=self._before_fork,
        )  # fmt: skip

    def _watcher(self, watch: Callable[[], None]) -> ForkedConfig:
        return forked_config(
            self._options, WATCHER, functools.partial(self._run_watcher, watch),
            priority=WATCHER_PRIORITY, scoreboard=self._scoreboard, row=WATCHER_ROW, stop_wait_s=WATCHER_STOP_S,
            before_fork=self._before_fork,
        )  # fmt: skip

    def _before_fork(self) -> None:
        before_fork(self._application.life)

    def _make_worker(self, pool: PoolSettings, row: int) -> Worker:
        """Make it in the parent, so that the workers share its memory."""
        return Worker(
            self._connect_worker(pool, row), prefetch=Prefetch(is_on=pool.prefetch), **self._worker_parts(pool, row)
        )

    def _make_slotted_worker(self, pool: PoolSettings, row: int) -> Runnable:
        """Make one that runs several tasks at once."""
        # Only where a pool has slots; and here, so that the scheduler, which is forked later, has its part as well.
        from boilerd.scheduler import slot_watch, slotted_heartbeat  # noqa: F401, PLC0415
        from boilerd.worker.slots.worker import SlottedWorker  # noqa: PLC0415

        slot_limits = SlotLimits(
            pool.slots, pool.loop, pool.loop_blocked_after,
            max_stuck=pool.max_stuck, stuck_s=pool.stuck_timeout, claims_ahead=pool.prefetch,
        )  # fmt: skip
        parts = max(2, pool.processes)
        return SlottedWorker(
            self._connect_worker(pool, row), slot_limits=slot_limits, parts=parts, **self._worker_parts(pool, row)
        )

    def _connect_worker(self, pool: PoolSettings, row: int) -> redis.Redis:
        return connect(self._settings, _title(pool, row))

    def _worker_parts(self, pool: PoolSettings, row: int) -> dict[str, Any]:
        """What a worker of either kind is made of."""
        return {
            "name": self._worker_name(row),
            "title": _title(pool, row),
            "pool": pool.name,
            "order": ClaimOrder(pool.queues, is_strict=pool.strict_priority),
            "rules": self._application.rules,
            "limits": Limits(
                pool.shutdown_timeout,
                pool.max_tasks,
                pool.max_memory,
                self._is_burst,
                idle_s=min(max(1.0, pool.processes / LOOKS_A_SECOND), LONGEST_IDLE_S),
                start_s=self._settings.start_timeout,
                stop_s=self._settings.stop_timeout,
            ),
            "scoreboard": self._scoreboard,
            "row": row,
            "address": self._broker.address,
            "kept": self._kept,
            "archive_limit": self._settings.archive_limit,
            "surroundings": self._surroundings,
            "life": self._application.life,
        }

    def _run_scheduler(self) -> int:
        """Run in the forked child; returns the exit status."""
        self._set_up_child(SCHEDULER, SCHEDULER_ROW)
        debugging.refuse_breakpoints()
        with connect(self._settings, SCHEDULER) as connection:
            self._scoreboard.mark_booted(SCHEDULER_ROW)
            return Scheduler(
                Broker(connection, archive_limit=self._settings.archive_limit),
                scoreboard=self._scoreboard,
                worker_names=[self._worker_name(row) for row in range(self._scoreboard.rows)],
                queues=list(self._settings.served_queues()),
                rules=self._application.rules,
                periodic=self._application.periodic,
                limits=self._settings.queue_limits(),
                kept=self._kept,
                facts=self._facts(),
                blocked_after_s=self._blocked_after_s,
                child_of=lambda row: f"{self._scoreboard.group(row)}:{row}",
                parent=self._options.pid,
            ).serve()

    def _facts(self) -> Published:
        return Published(
            self.name,
            settings=self._settings,
            mux=self._application.mux,
            types=self._application.rules.declared.types,
            crons=self._application.crons,
            broker=self._broker.name,
            started_s=self._broker.started_s,
            pid=self._options.pid,
        )

    def _blocked_after_s(self, row: int) -> float:
        """The setting of the pool that has the row now; it may have come to it since the scheduler was forked."""
        group = self._scoreboard.group(row)
        pools = self._settings.worker_pools()
        return next((pool.loop_blocked_after for pool in pools if group_of(pool.name) == group), 1.0)

    def _run_exporter(self, ask_daemon: "AskDaemon") -> int:
        """Run in the forked child; returns the exit status."""
        from boilerd.exporter.exporter import Exporter  # noqa: PLC0415 - an extra, which imports asyncio

        self._set_up_child(EXPORTER, EXPORTER_ROW)
        debugging.refuse_breakpoints()
        with connect_to(self._settings, name=f"boilerd-{EXPORTER}", timeout_s=EXPORTER_TIMEOUT_S) as connection:
            return Exporter(
                self._settings,
                connection,
                ask_daemon,
                scoreboard=self._scoreboard,
                parent=self._options.pid,
                crons=self._application.periodic.entries,
                gid=group_id(self._settings),
            ).serve()

    def _run_dashboard(self, ask_daemon: "AskDaemon") -> int:
        """Run in the forked child; returns the exit status."""
        from boilerd.web.child import Dashboard  # noqa: PLC0415 - an extra, which imports asyncio

        self._set_up_child(DASHBOARD, DASHBOARD_ROW)
        debugging.refuse_breakpoints()
        return Dashboard(self._settings, ask_daemon, scoreboard=self._scoreboard, parent=self._options.pid).serve()

    def _run_watcher(self, watch: Callable[[], None]) -> int:
        """Run in the forked child; returns the exit status."""
        self._set_up_child(WATCHER, WATCHER_ROW)
        setproctitle(f"boilerd: {WATCHER}")
        watch()
        return OK

    def _run_worker(self, worker: Runnable, row: int) -> int:
        """Run in the forked child; returns the exit status."""
        self._set_up_child(worker.title, row)
        if not debugging.is_on():
            debugging.refuse_breakpoints()
        status = worker.run()
        run_exit_handlers(min(EXIT_LIMIT_S, worker.time_left_s()), status)
        return status

    def _worker_name(self, row: int) -> str:
        return f"{self.name}.{row}"

    def _set_up_child(self, title: str, row: int) -> None:
        """Name the child in its log lines, and install the handlers of the signals that the supervisor passes on.

        These two act in the handler, instead of noting the signal for the loop: a worker's loop waits while a task
        runs, and a stack dump is wanted just then. That is acceptable because they change no state but the log's:
        Python calls them between two steps of the main thread, and the locks of `logging` let the same thread in
        again. At worst the log misses the line that was being written, or the dump. The worker and the scheduler
        install what ends them.
        """
        self._surroundings.keep_streams()
        logs.name_process(title, functools.partial(self._scoreboard.note_lost_line, row))
        install_handler(signal.SIGQUIT, lambda *_: logs.log_stacks())
        install_handler(signal.SIGUSR2, lambda *_: logs.reopen())
        release_signals()  # which may have come before
        note_fork()
        reseed()
        disown_children()
        leave_to_parent(logs.forget_context)
        leave_to_parent(printed.leave_line_to_parent)


def _title(pool: PoolSettings, row: int) -> str:
    """What `ps` and log lines call a worker."""
    return f"{group_of(pool.name)}:{row}"
