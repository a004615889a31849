"""Supervisor embedded as a library: its process states, backoff, control socket and events.

What is different from a stock supervisord, and why:

* Workers are forked without exec, from a parent that has imported the application, so that
  memory is shared copy-on-write and a worker starts in milliseconds (`children.ForkedProcess`).
* Supervisor polls once a second and Python restarts the poll after a signal (PEP 475), so a
  wakeup pipe is one more of its dispatchers: a dead child is replaced at once.
* Options are set by the program instead of read from a file (`options.Options`).
* A reload keeps the process ID, and the broker: the program replaces itself (`handover`).

Written against Supervisor 4.3; the source is the documentation.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from boilerd.errors import RefusedError
from boilerd.process import logs
from boilerd.process.exit_status import DONE
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.signals import STOP_SIGNALS
from boilerd.supervision.children import ForkedConfig
from boilerd.supervision.groups import SCHEDULER, WORKER
from boilerd.supervision.handover import Handover
from boilerd.supervision.options import BUSY_POLL_S, Options
from boilerd.supervision.pool import Pool, signal_children
from boilerd.supervision.reload import Reload
from boilerd.supervision.report import Report
from boilerd.supervision.sd_notify import Notifier

logger = logging.getLogger("boilerd.supervisor")

#: After the shutdown timeout a worker puts its task back by itself; then comes SIGKILL.
KILL_MARGIN_S = 0.5
#: A second TERM or INT after this long stops at once. Ctrl-C and systemd may send two together.
SECOND_SIGNAL_S = 1.0
#: How long the scheduler and the broker get to end after a second signal.
HURRY_S = 2.0


class StoppedEarly(Exception):  # noqa: N818 - a request
    """A TERM came before the daemon had started."""


class DaemonSupervisor(Supervisor):  # type: ignore[misc]
    """Supervisor's loop with a boot step, drains that end in time, reloads, and lines that tell.

    Args:
        first: Started first and stopped last: the embedded broker. May be none.
        boot: Called when `first` was started; raises BootError, or returns the other groups:
            ``scheduler`` and ``worker``.
        make_worker: A slot → what to know of its process, for workers that are added later.
        scoreboard: What the processes tell each other.
        on_output: Gets each line that a program of `first` printed.
        hand_over: What a reload leaves to the new program.
        generation: How many reloads there were.
    """

    def __init__(
        self,
        options: Options,
        *,
        first: Sequence[ProcessGroupConfig],
        boot: Callable[["DaemonSupervisor"], Sequence[ProcessGroupConfig]],
        make_worker: Callable[[int], ForkedConfig],
        scoreboard: Scoreboard,
        on_output: Callable[[str], None],
        hand_over: Callable[["DaemonSupervisor"], Handover],
        generation: int = 0,
        is_burst: bool = False,
    ) -> None:
        super().__init__(options)
        options.process_group_configs = list(first)
        self._boot = boot
        self._make_worker = make_worker
        self._scoreboard = scoreboard
        self._on_output = on_output
        self._generation = generation
        self._is_burst = is_burst
        self._drain_since_s: float | None = None
        self._partial = b""
        self._is_scheduler_wanted = False
        self._pool: Pool | None = None
        self._report = Report(Notifier(), scoreboard)
        self._reload = Reload(options, lambda name: self.process_groups[name], self._report, lambda: hand_over(self))
        options.poller.longest_s = min(self._report.life_every_s or 1.0, 1.0)
        self._reactions: dict[int, Callable[[], None]] = {
            signal.SIGHUP: self._reload_on_signal,
            signal.SIGTSTP: lambda: self._hush_on_signal(self.quiet),
            signal.SIGCONT: lambda: self._hush_on_signal(self.resume),
            signal.SIGTTIN: lambda: self._scale_by(1),
            signal.SIGTTOU: lambda: self._scale_by(-1),
            signal.SIGUSR1: self._dump_stacks,
            signal.SIGUSR2: self._reopen_logs,
        }

    @property
    def is_reloaded(self) -> bool:
        """Whether this program replaced another one, whose tasks and clients rely on it."""
        return self._generation > 0

    def runforever(self) -> None:
        """Boot, then serve until a drain has ended."""
        events.subscribe(events.ProcessLogStdoutEvent, self._print)
        events.subscribe(events.SupervisorStoppingEvent, self._begin_drain)
        events.subscribe(events.ProcessStateBackoffEvent, _log_backoff)
        try:
            for group in self.process_groups.values():
                group.transition()
            for config in self._boot(self):
                self.add_process_group(config)
            self._pool = Pool(self.process_groups[WORKER], self._make_worker, self._scoreboard, self._renew_scheduler)
            self.options.inbox.wake()  # or the first child would start after a second
            super().runforever()
        except StoppedEarly:
            self._kill_all()
            logger.info("stopped while starting")
        except BaseException:
            # Whatever it was: a broker that nobody supervises must not stay behind.
            self._kill_all()
            raise

    def serve_briefly(self, timeout_s: float) -> None:
        """While booting: handle what comes, for at most `timeout_s`; raises StoppedEarly on a TERM."""
        self.options.inbox.wait(timeout_s)
        for group in self.process_groups.values():
            group.transition()
        for fd, dispatcher in {**self.options.get_socket_map(), **self.get_process_map()}.items():
            try:
                _serve(fd, dispatcher)
            except Exception:  # noqa: BLE001 - as Supervisor's own loop
                dispatcher.handle_error()
        self.reap()
        self._report.live()
        self._report.needs_time()
        while signum := self.options.get_signal():
            if signum in STOP_SIGNALS:
                raise StoppedEarly
        if self.options.mood < SupervisorStates.RUNNING:  # asked for on the control socket
            raise StoppedEarly

    def handle_signal(self) -> None:
        """Supervisor's hook, once a round of its loop: act on signals, then see to all that is under way."""
        while signum := self.options.get_signal():
            if signum in STOP_SIGNALS:
                self._drain_or_kill(signal.Signals(signum).name)
            elif reaction := self._reactions.get(signum):
                reaction()
        self._go_on()
        if self._is_burst and self._workers_are_done():
            self.options.mood = SupervisorStates.SHUTDOWN

    def is_about_to_act(self) -> bool:
        """Whether a state will change by the clock soon, so that the loop must not sleep long."""
        if self.options.mood < SupervisorStates.RUNNING or self._reload.is_under_way or not self._report.is_ready:
            return True
        waiting = (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING)
        return any(p.state in waiting for group in self.process_groups.values() for p in group.processes.values())

    # --- What people ask for, by a signal or on the control socket; RefusedError where that cannot be done now

    def info(self) -> dict[str, Any]:
        """How it is, in numbers and words; what cannot be known yet is 0 while it starts."""
        scoreboard, pool = self._scoreboard, self._pool
        state = self._activity() or ("ready" if self._report.is_ready else "starting")
        return {
            "state": state,
            "generation": self._generation,
            "pid": os.getpid(),
            "workers": pool.size if pool else 0,
            "busy": scoreboard.busy(),
            "pending": scoreboard.pending,
            "is_quiet": scoreboard.is_quiet,
            "trouble": self._reload.trouble,
            "is_broker_away": scoreboard.is_broker_away,
            "heartbeat_age_s": scoreboard.heartbeat_age_s,
            "status": self._report.status(pool, self._activity(), self._reload.trouble),
        }

    def quiet(self) -> None:
        """Let the workers claim nothing more; what runs goes on."""
        self._free_pool().hush(is_quiet=True)

    def resume(self) -> None:
        """Let them claim again."""
        self._free_pool().hush(is_quiet=False)

    def scale(self, size: int) -> None:
        """Have so many workers, until the next start or reload; raises RefusedError."""
        self._free_pool().scale(size)

    def restart(self, names: list[str]) -> None:
        """Replace these workers, or all, by fresh ones, and start whatever was given up; raises RefusedError."""
        self._free_pool().restart(names)
        others = [group for name, group in self.process_groups.items() if name != WORKER and not names]
        for process in (process for group in others for process in group.processes.values()):
            if process.state == ProcessStates.FATAL:
                process.spawn()

    def reload(self) -> None:
        """Begin to replace the program, if the new settings and code would do; raises RefusedError."""
        self._free_pool()
        self._reload.begin()

    def _reload_on_signal(self) -> None:
        try:
            self.reload()
        except RefusedError as error:
            logger.info("reload ignored", extra={"error": str(error)})

    def _hush_on_signal(self, hush: Callable[[], None]) -> None:
        try:
            hush()
        except RefusedError as error:
            logger.info("signal ignored", extra={"error": str(error)})

    def _scale_by(self, change: int) -> None:
        try:
            self.scale(self._booted_pool().size + change)
        except RefusedError as error:
            logger.warning("scaling refused", extra={"error": str(error)})

    def _dump_stacks(self) -> None:
        logs.log_stacks()
        signal_children(self.process_groups.values(), signal.SIGQUIT)

    def _reopen_logs(self) -> None:
        logs.reopen()
        signal_children(self.process_groups.values(), signal.SIGUSR2)

    def _free_pool(self) -> Pool:
        """The workers, where they are not about to be given up, so that what is asked for has an effect."""
        pool = self._booted_pool()
        if self.options.mood < SupervisorStates.RUNNING:
            raise RefusedError("the daemon is draining, and ends then")
        if self._reload.is_under_way:
            raise RefusedError("a reload is under way; try again when it has ended")
        return pool

    def _booted_pool(self) -> Pool:
        if self._pool is None:
            raise RefusedError("the daemon is starting; try again when it has started")
        return self._pool

    # --- What is under way

    def _go_on(self) -> None:
        """See to the pool, the reload, and what the service manager is told."""
        pool = self._booted_pool()
        self._report.live()
        if self._is_scheduler_wanted and self._scheduler().state == ProcessStates.STOPPED:
            self._is_scheduler_wanted = False
            self._scheduler().spawn()  # in a drain, too: somebody has to renew the leases until that is over
        if self.options.mood < SupervisorStates.RUNNING:
            self._report.needs_time()
        else:
            if self._reload.is_under_way:
                self._reload.step()
            if not self._reload.is_draining:
                pool.reconcile()
        self._report.update(pool, activity=self._activity(), trouble=self._reload.trouble)

    def _activity(self) -> str:
        if self.options.mood < SupervisorStates.RUNNING:
            return "draining"
        return "reloading" if self._reload.is_under_way else ""

    def _renew_scheduler(self) -> None:
        """It has to know the names of more workers: fork it again."""
        scheduler = self._scheduler()
        if scheduler.state in {ProcessStates.STARTING, ProcessStates.RUNNING}:
            scheduler.stop()
            self._is_scheduler_wanted = True

    def _scheduler(self) -> Any:
        return self.process_groups[SCHEDULER].processes[SCHEDULER]

    def _drain_or_kill(self, name: str) -> None:
        now_s = time.monotonic()
        if self._drain_since_s is None:
            self._drain_since_s = now_s
            self.options.mood = SupervisorStates.SHUTDOWN
        elif now_s - self._drain_since_s >= SECOND_SIGNAL_S:
            logger.warning("stopping now, running tasks go back to their queues", extra={"signal": name})
            self._hurry()

    def _hurry(self) -> None:
        """Kill the workers; the scheduler puts their tasks back, the broker gets little time to end."""
        for name, group in self.process_groups.items():
            for process in group.processes.values():
                # Of one that stops already, too: Supervisor takes its longer wait for a clock set back, and cuts it.
                process.config.stopwaitsecs = min(process.config.stopwaitsecs, HURRY_S)
                if name == WORKER and process.pid:
                    process.kill(signal.SIGKILL)

    def _begin_drain(self, event: object) -> None:
        """Whoever asked for it: a signal, supervisorctl, or the end of a burst."""
        if self._drain_since_s is None:
            self._drain_since_s = time.monotonic()
        # What an administrator cut short long ago is no part of this drain.
        self.options.timed_out.clear()
        self._reload.abandon()
        self._report.stops()
        failpoint("supervisor-drains")
        logger.info("worker stopped accepting new tasks")

    def has_lost_all_workers(self) -> bool:
        """Whether none is left, because each crashed too often."""
        processes = self._workers()
        return bool(processes) and all(process.state == ProcessStates.FATAL for process in processes)

    def _workers_are_done(self) -> bool:
        """In a burst: each has said so, or will not come back."""
        processes = self._workers()
        return bool(processes) and all(_is_over(process) for process in processes)

    def _workers(self) -> Collection[Any]:
        return self.process_groups[WORKER].processes.values() if WORKER in self.process_groups else ()

    def _print(self, event: events.ProcessLogStdoutEvent) -> None:
        *lines, self._partial = (self._partial + event.data).split(b"\n")
        for line in lines:
            self._on_output(line.decode("utf-8", "backslashreplace").strip())

    def _kill_all(self) -> None:
        """After a failed boot: leave nothing behind."""
        for pid in list(self.options.pidhistory):
            os.kill(pid, signal.SIGTERM)
        deadline_s = time.monotonic() + 5
        while self.options.pidhistory and time.monotonic() < deadline_s:
            self.options.inbox.wait(BUSY_POLL_S)
            self.reap()
        for pid in list(self.options.pidhistory):
            os.kill(pid, signal.SIGKILL)


def run(daemon: DaemonSupervisor) -> None:
    """Run until a drain has ended.

    Raises:
        BootError: The daemon could not start.
    """
    daemon.options.poller.is_about_to_act = daemon.is_about_to_act
    with suppress(asyncore.ExitNow):
        daemon.main()


def _serve(fd: int, dispatcher: Any) -> None:
    readable, writable, _ = select.select(
        [fd] if dispatcher.readable() else [], [fd] if dispatcher.writable() else [], [], 0
    )
    if readable:
        dispatcher.handle_read_event()
    if writable:
        dispatcher.handle_write_event()


def _log_backoff(event: events.ProcessStateBackoffEvent) -> None:
    process = event.process
    fields = {"child": process.full_name, "tries": process.backoff, "delay_s": process.backoff}
    if process.pid:
        logger.warning("process crashed at start, trying again", extra=fields)
    else:
        logger.warning("process could not be started, trying again", extra={**fields, "error": process.spawnerr})


def _is_over(process: Any) -> bool:
    if process.state == ProcessStates.EXITED:
        return bool(process.exitstatus == DONE)
    return process.state == ProcessStates.FATAL or bool(process.state == ProcessStates.STOPPED and process.laststart)
