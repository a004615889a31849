"""The daemon put together: settings → broker, scheduler and workers under one supervisor."""

import errno
import functools
import gc
import logging
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from setproctitle import setproctitle
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates

from boilerd.broker import server_check
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect_to
from boilerd.daemon.directories import free_socket, lock_directories, try_directories, usable_socket
from boilerd.daemon.privileges import become
from boilerd.daemon.valkey import START_TIMEOUT_S, EmbeddedValkey, find_server
from boilerd.errors import (
    BoilerdError,
    BootError,
    BrokerError,
    BrokerLoadingError,
    BrokerUnableError,
    BrokerUnavailableError,
    NoBrokerError,
)
from boilerd.process import logs
from boilerd.process.gc_pause import importing
from boilerd.process.scoreboard import SCHEDULER_SLOT, VALKEY_SLOT, Scoreboard
from boilerd.scheduler.periodic import Periodic
from boilerd.scheduler.scheduler import Scheduler
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import mask_url
from boilerd.supervision.children import ForkedConfig, forked_config, program_group
from boilerd.supervision.handover import Handover, RunningValkey
from boilerd.supervision.options import Options
from boilerd.supervision.supervisor import KILL_MARGIN_S, Daemon, run
from boilerd.tasks.loading import load_app
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.queues import ClaimOrder
from boilerd.worker.attempt_log import log_attempts
from boilerd.worker.limits import Limits
from boilerd.worker.prefetch import Prefetch
from boilerd.worker.settlement import Rules
from boilerd.worker.worker import Worker

logger = logging.getLogger("boilerd.daemon")

#: Order of start; the stop is the reverse.
BROKER, SCHEDULER, WORKERS = 100, 200, 300
#: Valkey writes what is left of its file before it ends.
BROKER_STOP_S = 30.0
SCHEDULER_STOP_S = 1.0
#: How often the idle workers of a host look at the queues by themselves, all together, and how
#: long one of them sleeps at most: half as long again must be below the 5 s that a command may take.
LOOKS_A_SECOND = 4
LONGEST_IDLE_S = 3.0


class Boilerd:
    """One daemon: what its processes run, and the steps from settings to a running tree."""

    def __init__(self, settings: Settings, mux: ServeMux, *, is_burst: bool = False) -> None:
        self._settings = settings
        self._rules = Rules.of(mux, settings.retry.policy(), log_attempts)
        self._periodic = Periodic([*mux.crons, *settings.cron_entries()])
        self._is_burst = is_burst
        self._scoreboard = Scoreboard()
        host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
        run_id = secrets.token_hex(3)
        self._name = f"{host}.{run_id}"
        self._valkey: EmbeddedValkey | None = None
        self._address = ""

    def check(self, handover: Handover) -> None:
        """Find out whether it could take the place of a daemon that runs.

        Args:
            handover: What that would leave to it.

        Raises:
            BootError: It could not.
        """
        settings = self._settings
        try_directories(self._directories(), handover.lock_fds)
        usable_socket(settings.control_socket())
        if settings.redis_url is None:
            usable_socket(settings.valkey_socket())
            find_server()
            if self._running(handover) is None:
                return  # a new one will be started
        try:
            with self._connect("check") as connection:
                server_check.check(connection)
                if not Broker(connection).has_limits(settings.queue_limits()):
                    server_check.probe(connection, is_storing=True)
        except BrokerError as error:
            raise self._unusable(error) from error

    def run(self, handover: Handover) -> None:
        """Run until a drain has ended.

        Args:
            handover: What the program left that this one replaces.

        Raises:
            BootError: It could not start; nothing was claimed and nothing is left running.
            BoilerdError: A burst ended for want of workers.
        """
        settings = self._settings
        setproctitle("boilerd: supervisor")
        if (running := self._running(handover)) is None:
            handover.abandon()  # before the lock on its data is given up
        locks = lock_directories(self._directories(), handover.lock_fds)
        self._scoreboard.is_quiet = handover.is_quiet
        options = Options(free_socket(settings.control_socket()))
        first = [self._embedded(options, running)] if settings.redis_url is None else []
        daemon = Daemon(
            options,
            first=first,
            boot=self._boot,
            make_worker=functools.partial(self._worker, options),
            scoreboard=self._scoreboard,
            on_output=self._valkey.log if self._valkey else logger.debug,
            hand_over=lambda daemon: self._hand_over(daemon, handover.generation + 1, locks),
            generation=handover.generation,
            is_burst=self._is_burst,
        )
        try:
            run(daemon)
        except BootError:
            if self._valkey:
                self._valkey.clear_away()
            raise
        if options.timed_out:
            logger.warning("worker shutdown timed out, forcing exit", extra={"children": options.timed_out})
        else:
            logger.info("worker shutdown completed gracefully")
        if self._is_burst and daemon.has_lost_all_workers():
            raise BoilerdError("the burst ended before the queues were empty: all workers crashed too often")

    def _directories(self) -> dict[Path, str]:
        """Those that no other daemon may use, and the settings that name them."""
        kept = {self._settings.runtime_path(): "runtime_dir"}
        if self._settings.redis_url is None:
            kept[self._settings.state_path()] = "state_dir"
        return kept

    def _embedded(self, options: Options, running: RunningValkey | None) -> ProcessGroupConfig:
        """The embedded broker: a new one, or the one that runs already."""
        settings = self._settings
        socket_path = usable_socket(settings.valkey_socket())
        self._valkey = EmbeddedValkey(settings.state_path(), socket_path)
        command = self._valkey.command(is_running=running is not None)
        return program_group(
            options, "valkey", command,
            priority=BROKER, scoreboard=self._scoreboard, slot=VALKEY_SLOT, stop_wait_s=BROKER_STOP_S, running=running,
        )  # fmt: skip

    def _running(self, handover: Handover) -> RunningValkey | None:
        """The embedded broker that runs already, where these settings want the same."""
        running, settings = handover.valkey, self._settings
        if running is None or settings.redis_url is not None:
            return None
        wanted = str(settings.valkey_socket()), str(settings.state_path())
        return running if (running.socket, running.state_dir) == wanted else None

    def _hand_over(self, daemon: Daemon, generation: int, locks: Mapping[str, int]) -> Handover:
        """What a reload leaves to the new program."""
        valkey = None
        if self._valkey:
            process = daemon.process_groups["valkey"].processes["valkey"]
            if process.pid and process.pipes["stdout"] is not None:
                socket_path, state_dir = str(self._settings.valkey_socket()), str(self._settings.state_path())
                valkey = RunningValkey(socket_path, process.pid, process.pipes["stdout"], state_dir)
        return Handover(generation, dict(locks), valkey, self._scoreboard.is_quiet)

    def _boot(self, daemon: Daemon) -> Sequence[ProcessGroupConfig]:
        """Make sure of the broker, then say what else to start."""
        if self._valkey:
            _wait_for_valkey(self._valkey, daemon)
        try:
            with self._connect("supervisor") as connection:
                broker, hazards = self._wait_for_broker(connection, daemon)
        except BrokerError as error:
            raise self._unusable(error) from error
        for hazard in hazards:
            logger.warning("tasks may be lost", extra={"error": hazard})
        settings = self._settings
        fields = {"workers": settings.concurrency, "queues": dict(settings.queues), "broker": broker}
        logger.info("daemon reloaded" if daemon.is_reloaded else "daemon started", extra=fields)
        groups = self._groups(daemon.options)
        # What is alive now is never freed: keep the collector from touching pages that children share.
        gc.collect()
        gc.freeze()
        return groups

    def _wait_for_broker(self, connection: redis.Redis, daemon: Daemon) -> tuple[str, list[str]]:
        """Wait while Redis reads its file, as after a reboot of its host; its name and version, and its hazards.

        After a reload also while it is away or takes no writes: the daemon served until then, and shall again.
        """
        is_told = False
        while True:
            try:
                broker = server_check.check(connection)
                Broker(connection).set_limits(self._settings.queue_limits())
                self._address = server_check.address(connection)
                self._scoreboard.is_broker_away = False
                return broker, server_check.hazards(connection)
            except (BrokerUnavailableError, BrokerUnableError) as error:
                is_loading = isinstance(error, BrokerLoadingError)
                if not is_loading and not daemon.is_reloaded:
                    raise
                if not is_told:
                    trouble = "broker is loading, waiting" if is_loading else "broker unavailable, waiting"
                    logger.warning(trouble, extra={"error": str(error)})
                is_told = self._scoreboard.is_broker_away = True
                self._scoreboard.beat()  # there is no scheduler yet that could be late
                connection.connection_pool.disconnect()  # the primary may be another by now
                daemon.serve_briefly(0.2)

    def _unusable(self, error: BrokerError) -> BootError:
        kind = NoBrokerError if isinstance(error, BrokerUnavailableError | BrokerUnableError) else BootError
        return kind(f"{error} ({mask_url(self._settings.broker_url())})")

    def _groups(self, options: Options) -> list[ProcessGroupConfig]:
        scheduler = forked_config(
            options, "scheduler", self._run_scheduler,
            priority=SCHEDULER, scoreboard=self._scoreboard, slot=SCHEDULER_SLOT, stop_wait_s=SCHEDULER_STOP_S,
        )  # fmt: skip
        workers = [self._worker(options, slot) for slot in range(self._settings.concurrency)]
        return [
            ProcessGroupConfig(options, "scheduler", SCHEDULER, [scheduler]),
            ProcessGroupConfig(options, "worker", WORKERS, workers),
        ]

    def _worker(self, options: Options, slot: int) -> ForkedConfig:
        """The process of a slot."""
        return forked_config(
            options, str(slot), functools.partial(_run_worker, self._make_worker(slot)),
            priority=WORKERS, scoreboard=self._scoreboard, slot=slot,
            stop_wait_s=self._settings.shutdown_timeout + KILL_MARGIN_S,
            restarts_always=not self._is_burst,
        )  # fmt: skip

    def _make_worker(self, slot: int) -> Worker:
        settings = self._settings
        title = f"worker:{slot}"
        return Worker(
            self._connect(title),
            name=f"{self._name}.{slot}",
            title=title,
            order=ClaimOrder(settings.queues, is_strict=settings.strict_priority),
            rules=self._rules,
            limits=Limits(
                settings.shutdown_timeout,
                settings.max_tasks,
                settings.max_memory,
                self._is_burst,
                idle_s=min(max(1.0, settings.concurrency / LOOKS_A_SECOND), LONGEST_IDLE_S),
            ),
            prefetch=Prefetch(is_on=settings.prefetch),
            scoreboard=self._scoreboard,
            slot=slot,
            address=self._address,
        )

    def _run_scheduler(self) -> int:
        _configure_child("scheduler")
        with self._connect("scheduler") as connection:
            self._scoreboard.mark_booted(SCHEDULER_SLOT)
            return Scheduler(
                Broker(connection),
                scoreboard=self._scoreboard,
                worker_names=[f"{self._name}.{slot}" for slot in range(self._scoreboard.slots)],
                queues=list(self._settings.queues),
                rules=self._rules,
                periodic=self._periodic,
            ).run()

    def _connect(self, name: str) -> redis.Redis:
        return connect_to(self._settings, name=f"boilerd-{name}")


def start(settings: Settings, *, is_burst: bool = False) -> None:
    """Import the application and run the daemon until a drain has ended.

    Raises:
        BootError: It could not start.
    """
    handover = Handover.take()
    try:
        if settings.user:
            directories = settings.state_path(), settings.runtime_path()
            become(settings.user, directories)
            # Their defaults differ between root and others; after a reload this process is not root.
            os.environ |= dict(zip(("STATE_DIRECTORY", "RUNTIME_DIRECTORY"), map(str, directories), strict=True))
        _open_logs(settings)
        with importing():
            mux = load_app(settings.app, settings.rq_functions)
        # Again: the application may have set up logging in its own way, and silenced the daemon.
        _open_logs(settings)
        Boilerd(settings, mux, is_burst=is_burst).run(handover)
    except BaseException:
        handover.abandon()
        raise


def check(settings: Settings) -> None:
    """Find out whether a daemon with these settings could start beside one that runs; raises BootError."""
    handover = Handover.peek()
    _open_logs(settings)
    Boilerd(settings, load_app(settings.app, settings.rq_functions)).check(handover)


def _open_logs(settings: Settings) -> None:
    try:
        logs.configure(
            level=settings.log_level, output=settings.log_output, file=settings.log_file, style=settings.log_format
        )
    except OSError as error:
        raise BootError(f"log_file {settings.log_file}: {error.strerror}") from error


def _run_worker(worker: Worker) -> int:
    """In the forked child."""
    _configure_child(worker.title)
    return worker.run()


def _configure_child(title: str) -> None:
    """A child's logs, and what it does at the signals that the supervisor passes on."""
    logs.name_process(title)
    signal.signal(signal.SIGQUIT, lambda *_: logs.log_stacks())
    signal.signal(signal.SIGUSR2, lambda *_: logs.reopen())


def _wait_for_valkey(valkey: EmbeddedValkey, daemon: Daemon) -> None:
    process = daemon.process_groups["valkey"].processes["valkey"]
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if valkey.is_ready():
                return
        except redis.BusyLoadingError:
            # It reads its file, however large that is.
            deadline_s = time.monotonic() + START_TIMEOUT_S
        daemon.serve_briefly(0.01)
        if process.state not in {ProcessStates.STARTING, ProcessStates.RUNNING}:
            # A disk has room again some time; whatever else it ends for is there the next time, too.
            kind = NoBrokerError if os.strerror(errno.ENOSPC) in valkey.why() else BootError
            raise kind(f"the embedded Valkey ended at once: {valkey.why()}")
        if time.monotonic() > deadline_s:
            raise NoBrokerError(f"the embedded Valkey did not answer in {START_TIMEOUT_S:g} s: {valkey.why()}")
