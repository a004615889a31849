"""The daemon put together: settings → broker, scheduler and workers under one supervisor."""

import fcntl
import functools
import gc
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import redis
from setproctitle import setproctitle
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates

from boilerd import logs
from boilerd.app import load_app
from boilerd.board import SCHEDULER_SLOT, VALKEY_SLOT, Board
from boilerd.broker import Broker
from boilerd.children import forked_group, program_group
from boilerd.connection import connect
from boilerd.embedded import START_TIMEOUT_S, EmbeddedValkey
from boilerd.errors import BootError, BrokerError, BrokerLoadingError
from boilerd.middleware import log_attempts
from boilerd.mux import ServeMux
from boilerd.periodic import Periodic
from boilerd.privileges import become
from boilerd.queues import ClaimOrder
from boilerd.rules import Rules
from boilerd.scheduler import Scheduler
from boilerd.settings import Settings
from boilerd.supervision import KILL_MARGIN_S, Daemon, Options, run
from boilerd.urls import mask_url
from boilerd.worker import Limits, Worker

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
#: 108 bytes fit in a socket's address; Supervisor first binds to a name with its pid appended.
LONGEST_SOCKET_PATH = 96


class Boilerd:
    """One daemon: what its processes run, and the steps from settings to a running tree."""

    def __init__(self, settings: Settings, mux: ServeMux, *, is_burst: bool = False) -> None:
        self._settings = settings
        self._rules = Rules.of(mux, settings.retry.policy(), log_attempts)
        self._periodic = Periodic([*mux.crons, *settings.cron_entries()])
        self._is_burst = is_burst
        self._board = Board()
        host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
        run_id = secrets.token_hex(3)
        self._worker_names = [f"{host}.{run_id}.{slot}" for slot in range(settings.concurrency)]
        self._valkey: EmbeddedValkey | None = None

    def run(self) -> None:
        """Run until a drain has ended.

        Raises:
            BootError: It could not start; nothing was claimed and nothing is left running.
        """
        settings = self._settings
        setproctitle("boilerd: supervisor")
        locks = [_lock(settings.runtime_path(), "runtime_dir")]
        options = Options(_checked_socket(settings.control_socket()))
        first: list[ProcessGroupConfig] = []
        if settings.redis_url is None:
            locks.append(_lock(settings.state_path(), "state_dir"))
            self._valkey = EmbeddedValkey(settings.state_path(), _checked_socket(settings.valkey_socket()))
            command = self._valkey.command()
            first = [
                program_group(
                    options, "valkey", command,
                    priority=BROKER, board=self._board, slot=VALKEY_SLOT, stop_wait_s=BROKER_STOP_S,
                )
            ]  # fmt: skip
        daemon = Daemon(
            options,
            first=first,
            boot=self._boot,
            on_output=self._valkey.log if self._valkey else logger.debug,
            on_drain=self._begin_drain,
            is_burst=self._is_burst,
        )
        run(daemon)
        if options.timed_out:
            logger.warning("worker shutdown timed out, forcing exit", extra={"children": options.timed_out})
        else:
            logger.info("worker shutdown completed gracefully")
        for lock in locks:
            os.close(lock)

    def _boot(self, daemon: Daemon) -> Sequence[ProcessGroupConfig]:
        """Make sure of the broker, then say what else to start."""
        if self._valkey:
            _wait_for_valkey(self._valkey, daemon)
        try:
            with self._connect("supervisor") as connection:
                broker = Broker(connection)
                server = _wait_for_loading(broker, daemon)
                for hazard in broker.hazards():
                    logger.warning("tasks may be lost", extra={"error": hazard})
                broker.set_limits(self._settings.queue_limits())
        except BrokerError as error:
            raise BootError(f"{error} ({mask_url(self._settings.broker_url())})") from error
        settings = self._settings
        fields = {"workers": settings.concurrency, "queues": dict(settings.queues), "broker": server}
        logger.info("daemon started", extra=fields)
        # What is alive now is never freed: keep the collector from touching pages that children share.
        gc.collect()
        gc.freeze()
        return self._groups(daemon.options)

    def _begin_drain(self) -> None:
        if self._valkey:
            self._valkey.is_stopping = True

    def _groups(self, options: Options) -> list[ProcessGroupConfig]:
        scheduler = forked_group(
            options,
            "scheduler",
            {"scheduler": self._run_scheduler},
            priority=SCHEDULER,
            board=self._board,
            first_slot=SCHEDULER_SLOT,
            stop_wait_s=SCHEDULER_STOP_S,
        )
        targets: dict[str, Callable[[], int]] = {
            str(slot): functools.partial(self._run_worker, slot) for slot in range(self._settings.concurrency)
        }
        workers = forked_group(
            options,
            "worker",
            targets,
            priority=WORKERS,
            board=self._board,
            first_slot=0,
            stop_wait_s=self._settings.shutdown_timeout + KILL_MARGIN_S,
            restarts_always=not self._is_burst,
        )
        return [scheduler, workers]

    def _run_worker(self, slot: int) -> int:
        settings = self._settings
        title = f"worker:{slot}"
        configure_logs(settings, title)
        with self._connect(title) as connection:
            worker = Worker(
                connection,
                name=self._worker_names[slot],
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
                last_exit=self._board.last_exit(slot),
                on_boot=lambda: self._board.mark_booted(slot),
            )
            return worker.run()

    def _run_scheduler(self) -> int:
        configure_logs(self._settings, "scheduler")
        with self._connect("scheduler") as connection:
            self._board.mark_booted(SCHEDULER_SLOT)
            return Scheduler(
                Broker(connection),
                board=self._board,
                worker_names=self._worker_names,
                rules=self._rules,
                periodic=self._periodic,
            ).run()

    def _connect(self, name: str) -> redis.Redis:
        settings = self._settings
        url = settings.broker_url()
        return connect(url, password=settings.redis_password, db=settings.redis_db, name=f"boilerd-{name}")


def start(settings: Settings, *, is_burst: bool = False) -> None:
    """Import the application and run the daemon until a drain has ended.

    Raises:
        BootError: It could not start.
    """
    if settings.user:
        directories = settings.state_path(), settings.runtime_path()
        become(settings.user, directories)
        # Their defaults differ between root and others.
        state_dir, runtime_dir = map(str, directories)
        settings = msgspec.structs.replace(settings, state_dir=state_dir, runtime_dir=runtime_dir)
    try:
        configure_logs(settings)
    except OSError as error:
        raise BootError(f"log_file {settings.log_file}: {error.strerror}") from error
    Boilerd(settings, load_app(settings.app), is_burst=is_burst).run()


def _wait_for_loading(broker: Broker, daemon: Daemon) -> str:
    """Wait while Redis reads its file, as after a reboot of its host; its name and version."""
    is_told = False
    while True:
        try:
            return broker.check()
        except BrokerLoadingError as error:
            if not is_told:
                logger.warning("broker is loading, waiting", extra={"error": str(error)})
            is_told = True
            daemon.serve_briefly(0.2)


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
            raise BootError(f"the embedded Valkey ended at once: {valkey.why()}")
        if time.monotonic() > deadline_s:
            raise BootError(f"the embedded Valkey did not answer in {START_TIMEOUT_S:g} s: {valkey.why()}")


def configure_logs(settings: Settings, process: str | None = None) -> None:
    """Set up this process's logging; ``process`` stands in its lines as the worker's name."""
    logs.configure(
        level=settings.log_level,
        output=settings.log_output,
        file=settings.log_file,
        style=settings.log_format,
        worker=process,
    )


def _lock(directory: Path, setting: str) -> int:
    """Make the directory ours, until this process ends in whatever way.

    A lock of the POSIX kind is not inherited by forked children, so orphans do not hold it.
    """
    path = directory / "boilerd.lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & stat.S_IWOTH:
            raise BootError(f"{setting} {directory}: everybody may write to it; chmod 700 {directory}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BootError(f"{setting} {directory}: {error.strerror}; set {setting} to a directory of your own") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        raise BootError(
            f"{setting} {directory}: in use by another daemon (pid {owner}); stop it, or set another {setting}"
        ) from error
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _checked_socket(path: Path) -> Path:
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise BootError(f"{path}: {size} bytes are too long for a socket; set runtime_dir to a shorter path")
    return path
