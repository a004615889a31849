"""The daemon put together: settings → broker, scheduler and workers under one supervisor."""

import functools
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs
from setproctitle import setproctitle
from supervisor import events

from boilerd.daemon import servers
from boilerd.daemon.boot import wait_for_broker
from boilerd.daemon.directories import free_socket, lock_directories, own_directories
from boilerd.daemon.fork_hooks import before_fork, start_daemon
from boilerd.daemon.privileges import become, secure_umask
from boilerd.daemon.processes import Application, Processes
from boilerd.daemon.shared_connections import open_sockets, warn_of_shared
from boilerd.daemon.sharing import group_id, share_runtime_directory
from boilerd.daemon.told import told
from boilerd.daemon.valkey import EmbeddedValkey
from boilerd.daemon.watching import Sources, watch
from boilerd.errors import BoilerdError, BootError, NoWorkerError
from boilerd.process import debugging, logs
from boilerd.process.gc_pause import gc_paused
from boilerd.process.scoreboard import SUPERVISOR_ROW, Scoreboard
from boilerd.process.warning_filters import spare_own_modules
from boilerd.settings.definitions import Settings
from boilerd.settings.loading import Loaded, tell_ignored
from boilerd.settings.pools import memory_warning, shared_queues, slots_of
from boilerd.settings.urls import mask_url
from boilerd.supervision.handover import Handover
from boilerd.supervision.options import Options
from boilerd.supervision.sd_notify import Notifier
from boilerd.supervision.supervisor import Booted, DaemonSupervisor
from boilerd.tasks.loading import load_app
from boilerd.units import Duration

if TYPE_CHECKING:
    from boilerd.verdict.facts import AskDaemon

logger = logging.getLogger("boilerd.daemon")


class Daemon:
    """One daemon: the steps from the settings and an application to a tree of processes that runs."""

    def __init__(
        self,
        loaded: Loaded,
        application: Application,
        valkey: EmbeddedValkey | None,
        *,
        is_burst: bool = False,
        watch: Callable[[], None] | None = None,
        ask_daemon: "AskDaemon | None" = None,
    ) -> None:
        self._watch = watch
        self._ask_daemon = ask_daemon
        self._settings = loaded.settings
        self._told = told(loaded)
        self._application = application
        self._is_burst = is_burst
        self._scoreboard = Scoreboard()
        self._quiet_pools: list[str] = []
        self._valkey = valkey

    def start(self, handover: Handover) -> None:
        """Boot, serve, and drain; returns when the drain has ended.

        Args:
            handover: Left by the program that this one replaces.

        Raises:
            BootError: It could not start; nothing was claimed and nothing is left running.
            BoilerdError: A burst ended for want of workers.
        """
        logs.count_losses(functools.partial(self._scoreboard.note_lost_line, SUPERVISOR_ROW))
        logs.detach_files()
        supervisor = self._make_supervisor(handover)
        try:
            supervisor.serve()  # calls _boot as its first step
        except BootError:
            if self._valkey:
                self._valkey.remove_socket()
            raise
        _log_drain(supervisor.options.timed_out)
        if supervisor.start_error:
            if self._valkey:
                self._valkey.remove_socket()
            raise NoWorkerError(supervisor.start_error)
        if self._is_burst and supervisor.has_lost_all_workers:
            raise BoilerdError("the burst ended before the queues were empty: all workers crashed too often")

    def _make_supervisor(self, handover: Handover) -> DaemonSupervisor:
        """Take the locks and the sockets, then make the supervisor, which has started nothing yet."""
        settings, valkey = self._settings, self._valkey
        running = valkey.find_running(handover) if valkey else None
        if running is None:
            if handover.valkey:
                EmbeddedValkey(Path(handover.valkey.state_dir), Path(handover.valkey.socket)).finish_writing()
            handover.abandon()  # ends a Valkey that is no longer wanted while its data is still locked
        locks = lock_directories(own_directories(settings), handover.lock_fds)
        self._scoreboard.is_quiet = handover.is_quiet
        self._quiet_pools = handover.quiet_pools
        if (gid := group_id(settings)) is not None:
            share_runtime_directory(settings, gid)
        servers.prepare(settings, gid, is_reload=handover.generation > 0)
        options = Options(free_socket(settings.control_socket()), self._told, is_for_group=gid is not None)
        return DaemonSupervisor(
            options,
            first=[valkey.group(options, self._scoreboard, running)] if valkey else [],
            boot=self._boot,
            scoreboard=self._scoreboard,
            on_output=valkey.log if valkey else logger.debug,
            hand_over=lambda supervisor: self._hand_over(supervisor, handover.generation + 1, locks),
            generation=handover.generation,
            is_burst=self._is_burst,
        )

    def _boot(self, supervisor: DaemonSupervisor) -> Booted:
        """Wait for the broker, then make the processes that need it."""
        settings = self._settings
        if self._valkey:
            self._valkey.wait_until_ready(supervisor)
            events.subscribe(events.SupervisorStoppingEvent, self._valkey.make_room)
        broker = wait_for_broker(settings, self._application.rules.declared, self._scoreboard, supervisor)
        for hazard in broker.hazards:
            logger.warning("tasks may be lost", extra={"error": hazard})
        for lack in broker.lacking:
            logger.warning("broker lacks a command", extra={"error": lack})
        for stranger in broker.strangers:
            logger.warning("another application shares the broker", extra={"error": stranger})
        _tell_pools(settings, broker.unserved)
        pools = settings.worker_pools()
        fields: dict[str, Any] = {"workers": sum(pool.processes for pool in pools)}
        fields |= {"queues": settings.served_queues(), "broker": broker.name}
        if settings.pools:
            fields["pools"] = {pool.name: f"{pool.processes} x {pool.slots}" for pool in pools}
        logger.info("daemon reloaded" if supervisor.is_reloaded else "daemon started", extra=fields)
        processes = Processes(
            supervisor.options, settings, self._application, self._scoreboard,
            broker=broker, is_burst=self._is_burst, quiet_pools=self._quiet_pools, watch=self._watch,
            ask_daemon=self._ask_daemon,
        )  # fmt: skip
        booted = Booted(processes.groups(), processes.pools(), settings.start_timeout, processes.name)
        # Objects that live now are never freed: keep the collector from touching pages that children share.
        gc.collect()
        gc.freeze()
        return booted

    def _hand_over(self, supervisor: DaemonSupervisor, generation: int, locks: Mapping[str, int]) -> Handover:
        """Make the handover to the program that a reload executes."""
        valkey = self._valkey.hand_over(supervisor) if self._valkey else None
        return Handover(generation, dict(locks), valkey, self._scoreboard.is_quiet, supervisor.quiet_pools)


def start(
    loaded: Loaded,
    *,
    is_burst: bool = False,
    is_debug: bool = False,
    request_reload: Callable[[], object] | None = None,
    ask_daemon: "AskDaemon | None" = None,
) -> None:
    """Import the application and run the daemon until a drain has ended.

    Args:
        loaded: The settings of the daemon.
        is_burst: True if it ends when the queues are empty.
        is_debug: True for one worker that has the terminal, and no time limits.
        request_reload: Called in a child, when a file of the application's changed, as `watching.watch` takes it.
        ask_daemon: Called in the exporter and the dashboard, which tell of what it returns; None: there are none.

    Raises:
        BootError: It could not start.
    """
    settings = loaded.settings
    setproctitle("boilerd: supervisor")
    if is_debug:
        debugging.turn_on()
        settings = structs.replace(
            settings, concurrency=1, prefetch=False, shutdown_timeout=Duration(0), pools={},
            queues=settings.served_queues(),
        )  # fmt: skip
        loaded = structs.replace(loaded, settings=settings)
    _hide_password(settings)
    secure_umask()
    handover = Handover.take()
    try:
        if settings.user:
            _become_user(settings, settings.user)
        open_logs(settings)
        tell_ignored(os.environ)
        # They are found before any module of the application's can be.
        servers.check_extras(settings)
        valkey = EmbeddedValkey.of(settings) if settings.redis_url is None else None
        notifier, is_reloaded = Notifier(), handover.generation > 0
        notifier.import_begins(is_reloaded=is_reloaded)
        with logs.printed_wrapped():
            sources = Sources.of(settings.app) if request_reload else None
            application = _load(settings)
            notifier.import_ends(is_reloaded=is_reloaded)
            watcher = functools.partial(watch, sources, request_reload) if sources and request_reload else None
            Daemon(loaded, application, valkey, is_burst=is_burst, watch=watcher, ask_daemon=ask_daemon).start(handover)
    except BaseException:
        handover.abandon()
        raise


def open_logs(settings: Settings) -> None:
    """Send log lines where the settings say; raises BootError where the log file cannot be opened."""
    try:
        logs.configure(
            level=settings.log_level, output=settings.log_output, file=settings.log_file, style=settings.log_format,
            printed=settings.log_stdout,
        )  # fmt: skip
    except OSError as error:
        raise BootError(f"log_file {settings.log_file}: {error.strerror}") from error


def _hide_password(settings: Settings) -> None:
    """Move a URL with a password from the arguments, which everybody can read, to the environment.

    A reload's check and the new program get both from this process.
    """
    url = settings.redis_url
    if url is None or url == mask_url(url):
        return
    kept, words = [], iter(sys.orig_argv)
    for word in words:
        if word == "--redis-url":
            os.environ["BOILERD_REDIS_URL"] = next(words, url)
        elif word.startswith("--redis-url="):
            os.environ["BOILERD_REDIS_URL"] = word.partition("=")[2]
        else:
            kept.append(word)
    sys.orig_argv[:] = kept


def _become_user(settings: Settings, user: str) -> None:
    directories = settings.state_path(), settings.runtime_path()
    become(user, directories, group_id(settings))
    # Their defaults differ between root and others; after a reload this process is not root.
    os.environ |= dict(zip(("STATE_DIRECTORY", "RUNTIME_DIRECTORY"), map(str, directories), strict=True))


def _load(settings: Settings) -> Application:
    """Import the application."""
    before = open_sockets()
    with gc_paused():
        mux = load_app(settings.app, settings.rq_functions)
        # Again: the application may have set up logging and warnings in its own way, and silenced the daemon.
        open_logs(settings)
        spare_own_modules()
        application = Application.of(mux, settings)
        start_daemon(application.life)
        before_fork(application.life)  # the first process that is forked may be the one that writes the log
        warn_of_shared(before)
        logs.put_back()  # ends the line that it may have begun to print, which children would end again
    return application


def _tell_pools(settings: Settings, unserved: Sequence[str]) -> None:
    """Log what is likely not meant so."""
    pools = settings.worker_pools()
    if unserved:
        hint = "no worker takes their tasks; add them to the queues of a pool"
        logger.warning("queues without a pool", extra={"queues": unserved, "hint": hint})
    if shared := shared_queues(pools):
        logger.info("several pools serve the same queues", extra={"queues": shared})
    if warning := memory_warning(pools):
        logger.warning("pools may need much memory", extra={"error": warning})
    for queue, slots in slots_of(pools).items():
        if (limit := settings.limits.get(queue)) and 0 < limit.max_active < slots:
            logger.info(
                "a limit keeps slots empty", extra={"queue": queue, "slots": slots, "max_active": limit.max_active}
            )


def _log_drain(timed_out: Sequence[str]) -> None:
    if timed_out:
        logger.warning("worker shutdown timed out, forcing exit", extra={"children": timed_out})
    else:
        logger.info("worker shutdown completed gracefully")
