"""Supervisor embedded as a library: its process states, backoff, control socket and events.

Differences from a stock supervisord, with their reasons:

* Workers are forked without exec, from a parent that has imported the application, so that
  memory is shared copy-on-write and a worker starts in milliseconds (`children.ForkedProcess`).
* Supervisor polls once a second and Python restarts the poll after a signal (PEP 475), so a
  wakeup pipe is one more of its dispatchers: a dead child is replaced at once.
* Options are set by the program instead of read from a file (`options.Options`).
* A reload keeps the process ID and the broker: the program replaces itself (`handover`).

Written against Supervisor 4.3; the source is the documentation.
"""

import logging
import math
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ProcessGroupConfig
from supervisor.states import ProcessStates
from supervisor.supervisord import Supervisor

from boilerd.errors import RefusedError
from boilerd.process.failpoints import failpoint
from boilerd.process.scoreboard import Scoreboard
from boilerd.process.terminal import is_stop
from boilerd.supervision.children import ForkedConfig
from boilerd.supervision.drain import Drain
from boilerd.supervision.groups import SCHEDULER, WORKER
from boilerd.supervision.handover import Handover
from boilerd.supervision.hangs import HangWatch
from boilerd.supervision.lost_lines import LostLines
from boilerd.supervision.options import BUSY_POLL_S, Options, Poller
from boilerd.supervision.pool import Pool
from boilerd.supervision.reactions import SignalReactions
from boilerd.supervision.reload import Reload
from boilerd.supervision.report import Report
from boilerd.supervision.sd_notify import Notifier

logger = logging.getLogger("boilerd.supervisor")

#: SIGKILL comes this long after shutdown_timeout, for a worker that could not put its task back.
KILL_MARGIN_S = 0.5
#: States that end by the clock.
_WAITING = (ProcessStates.STARTING, ProcessStates.BACKOFF, ProcessStates.STOPPING)


class StoppedEarly(Exception):  # noqa: N818 - a request
    """A stop was asked for before the daemon had started."""


class Booted(NamedTuple):
    """The result of a boot.

    Attributes:
        groups: The groups to start now: the scheduler and the workers.
        make_worker: A row → the configuration of its process, for workers that are added later.
        start_limit_s: How long the first worker may take until it serves, where the others fail.
    """

    groups: Sequence[ProcessGroupConfig]
    make_worker: Callable[[int], ForkedConfig]
    start_limit_s: float = math.inf


class DaemonSupervisor(Supervisor):  # type: ignore[misc]
    """Supervisor's loop with a boot step, drains that end in time, and reloads.

    Supervisor forks, reaps, backs off and restarts the children, stops them in order, and serves the control socket.
    Its loop calls `handle_signal` once a round; there the daemon does all that is its own.

    Args:
        options: Supervisor's.
        first: Started first and stopped last: the embedded broker. May be empty.
        boot: Called when `first` was started; returns what to start next, or raises BootError.
        scoreboard: Where the processes note what they do.
        on_output: Gets each line that a program of `first` printed.
        hand_over: Returns what a reload leaves to the new program.
        generation: How many reloads there were.
        is_burst: True to drain once all workers are done.

    Attributes:
        start_error: Why the daemon ends, where no worker has ever served; else empty.
    """

    def __init__(
        self,
        options: Options,
        *,
        first: Sequence[ProcessGroupConfig],
        boot: Callable[["DaemonSupervisor"], Booted],
        scoreboard: Scoreboard,
        on_output: Callable[[str], None],
        hand_over: Callable[["DaemonSupervisor"], Handover],
        generation: int = 0,
        is_burst: bool = False,
    ) -> None:
        super().__init__(options)
        options.process_group_configs = list(first)
        self._boot = boot
        self._scoreboard = scoreboard
        self._on_output = on_output
        self._generation = generation
        self._is_burst = is_burst
        self._unfinished_line = b""
        self._start_limit_s = math.inf
        self.start_error = ""
        self._must_spawn_scheduler = False
        self._pool: Pool | None = None
        self._lost_lines = LostLines(scoreboard)
        self._hangs = HangWatch(scoreboard)
        self._report = Report(Notifier(), scoreboard)
        self._drain = Drain(options, lambda: self.process_groups)
        self._reload = Reload(options, lambda: self.process_groups, self._report, lambda: hand_over(self))
        self._reactions = SignalReactions(self, lambda: self.process_groups)
        options.poller = Poller(options.poller, self._is_about_to_act, self._report.watchdog_every_s)

    @property
    def is_reloaded(self) -> bool:
        """True if this program replaced another one, whose tasks and clients rely on it."""
        return self._generation > 0

    @property
    def has_lost_all_workers(self) -> bool:
        """True if each worker crashed too often, so that none is left."""
        return self._pool is not None and self._pool.is_lost()

    def serve(self) -> None:
        """Boot, serve, and drain.

        Supervisor's `main` opens the control socket and installs the signal handlers, then it calls `runforever`.

        Raises:
            BootError: The daemon could not start.
        """
        with suppress(asyncore.ExitNow):
            self.main()

    def runforever(self) -> None:
        """Supervisor's hook: boot, then let its loop serve until a drain has ended, which raises ExitNow."""
        events.subscribe(events.ProcessLogStdoutEvent, self._log_output)
        events.subscribe(events.SupervisorStoppingEvent, self._on_drain)
        events.subscribe(events.ProcessStateBackoffEvent, _log_backoff)
        try:
            self._start_groups()
            super().runforever()
        except StoppedEarly:
            self._kill_all()
            logger.info("stopped while starting")
        except BaseException:
            # Whatever it was: a broker that nobody supervises must not stay behind.
            self._kill_all()
            raise

    def serve_briefly(self, timeout_s: float) -> None:
        """Serve for at most `timeout_s` while booting; raises StoppedEarly when somebody wants the daemon to end."""
        self.options.inbox.wait(timeout_s)
        for group in self.process_groups.values():
            group.transition()
        for fd, dispatcher in {**self.options.get_socket_map(), **self.get_process_map()}.items():
            try:
                _dispatch(fd, dispatcher)
            except Exception:  # noqa: BLE001 - as Supervisor's own loop
                dispatcher.handle_error()
        self.options.close_late_connections()
        self.reap()
        self._report.feed_watchdog()
        self._report.extend_timeout()
        while signum := self.options.get_signal():
            if is_stop(signum):
                raise StoppedEarly
        if self._drain.is_under_way:  # asked for on the control socket
            raise StoppedEarly

    def handle_signal(self) -> None:
        """Supervisor's hook, once a round of its loop: act on signals, then take the next step of all under way."""
        is_told_to_stop = False
        while signum := self.options.get_signal():
            if is_stop(signum):
                is_told_to_stop = True
                self._drain.on_stop_signal(signal.Signals(signum))
            elif signum != signal.SIGCONT or not is_told_to_stop:  # systemd sends it behind each TERM
                self._reactions.react(signum)
        self._step()
        if self._is_burst and self._booted_pool().is_done():
            self._drain.request()

    # --- Requests, by a signal or on the control socket; RefusedError where the daemon cannot do that now

    def info(self) -> dict[str, Any]:
        """The daemon's state, in numbers and words; what is not known yet while it starts is 0."""
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
            "trouble": self._reload.last_error,  # the name that commands of older versions read
            "is_broker_away": scoreboard.is_broker_away,
            "heartbeat_age_s": scoreboard.heartbeat_age_s,
            "lost_lines": scoreboard.untold_lines,
            "missing": pool.missing() if pool else [],
            "entering": pool.entering() if pool else [],
            "failed_starts": pool.failed_starts() if pool else {},
            "halted": [f"{WORKER}:{row}" for row in scoreboard.halted()],
            "hanging": self._hangs.hanging,
            "status": self._report.status(pool, self._activity(), self._reload.last_error),
        }

    def quiet(self) -> None:
        """Stop claiming; running tasks go on."""
        self._changeable_pool().set_quiet(is_quiet=True)

    def resume(self) -> None:
        """Claim again."""
        self._changeable_pool().set_quiet(is_quiet=False)

    def scale(self, size: int) -> None:
        """Have so many workers, until the next start or reload."""
        self._changeable_pool().scale(size)

    def restart(self, names: list[str]) -> None:
        """Replace these workers by fresh ones; without names all of them, and start what crashed too often."""
        self._changeable_pool().restart(names)
        others = [group for name, group in self.process_groups.items() if name != WORKER and not names]
        for process in (process for group in others for process in group.processes.values()):
            if process.state == ProcessStates.FATAL:
                process.spawn()

    def reload(self) -> None:
        """Begin to replace the program by a fresh one, which happens if the new settings and code are usable."""
        self._changeable_pool()
        self._reload.begin()

    def files_changed(self) -> None:
        """As `reload`; but one that drains already checks once more before it replaces the program."""
        if self._reload.is_draining and not self._drain.is_under_way:
            self._reload.check_again()
        else:
            self.reload()

    def _changeable_pool(self) -> Pool:
        """The pool, where neither a drain nor a reload is about to end its workers, so that a change has an effect."""
        pool = self._booted_pool()
        if self._drain.is_under_way:
            raise RefusedError("the daemon is draining, and ends then")
        if self._reload.is_under_way:
            raise RefusedError("a reload is under way; try again when it has ended")
        return pool

    def _booted_pool(self) -> Pool:
        if self._pool is None:
            raise RefusedError("the daemon is starting; try again when it has started")
        return self._pool

    # --- The steps

    def _start_groups(self) -> None:
        """Start the first groups, boot, then add those that the boot returned."""
        for group in self.process_groups.values():
            group.transition()
        booted = self._boot(self)
        self._start_limit_s = booted.start_limit_s
        for config in booted.groups:
            self.add_process_group(config)
        self._pool = Pool(self.process_groups[WORKER], booted.make_worker, self._scoreboard, self._renew_scheduler)
        self.options.inbox.wake()  # or the first child would start after a second

    def _step(self) -> None:
        """Take the next step of the pool and of a reload, and report to the service manager."""
        pool = self._booted_pool()
        self._report.feed_watchdog()
        self.options.close_late_connections()
        self._lost_lines.tell()
        if self._must_spawn_scheduler and self._scheduler().state == ProcessStates.STOPPED:
            self._must_spawn_scheduler = False
            self._scheduler().spawn()  # in a drain, too: somebody has to renew the leases until that is over
        if self._drain.is_under_way:
            self._report.extend_timeout()
        else:
            self._hangs.look()  # a drain has limits of its own
            self._look_at_starts(pool)
            if self._reload.is_under_way:
                self._reload.step()
            if not self._reload.is_draining:
                pool.reconcile()
        self._report.update(pool, activity=self._activity(), last_error=self._reload.last_error)

    def _look_at_starts(self, pool: Pool) -> None:
        """Give up where no worker has ever served; but a program that replaced another one goes on trying."""
        if not self._report.is_ready and pool.entering():
            self._report.extend_timeout()
        if not self.is_reloaded and (error := pool.why_none_starts(self._start_limit_s)):
            self.start_error = error
            self._drain.request()

    def _activity(self) -> str:
        if self._drain.is_under_way:
            return "draining"
        return "reloading" if self._reload.is_under_way else ""

    def _is_about_to_act(self) -> bool:
        """True if a state will change by the clock soon, so that the loop must not sleep long."""
        if self._drain.is_under_way or self._reload.is_under_way or not self._report.is_ready:
            return True
        return any(p.state in _WAITING for group in self.process_groups.values() for p in group.processes.values())

    def _renew_scheduler(self) -> None:
        """Fork the scheduler anew: it has to know the names of more workers."""
        scheduler = self._scheduler()
        if scheduler.state in {ProcessStates.STARTING, ProcessStates.RUNNING}:
            scheduler.stop()
            self._must_spawn_scheduler = True

    def _scheduler(self) -> Any:
        return self.process_groups[SCHEDULER].processes[SCHEDULER]

    def _on_drain(self, event: object) -> None:
        """Supervisor's event: a drain begins, after a signal, `supervisorctl shutdown`, or the end of a burst."""
        self._drain.begin()
        self._reload.abandon()
        self._report.stopping()
        failpoint("supervisor-drains")
        logger.info("worker stopped accepting new tasks")

    def _log_output(self, event: events.ProcessLogStdoutEvent) -> None:
        *lines, self._unfinished_line = (self._unfinished_line + event.data).split(b"\n")
        for line in lines:
            self._on_output(line.decode("utf-8", "backslashreplace").strip())

    def _kill_all(self) -> None:
        """Leave no child behind after a failed boot."""
        for child in list(self.options.pidhistory.values()):
            child.stop()
        deadline_s = time.monotonic() + 5
        while self.options.pidhistory and time.monotonic() < deadline_s:
            self.options.inbox.wait(BUSY_POLL_S)
            self.reap()
        for pid in list(self.options.pidhistory):
            os.kill(pid, signal.SIGKILL)


def _dispatch(fd: int, dispatcher: Any) -> None:
    """Let a dispatcher of Supervisor's read and write what it can without waiting."""
    readable, writable, _ = select.select(
        [fd] if dispatcher.readable() else [], [fd] if dispatcher.writable() else [], [], 0
    )
    if readable:
        dispatcher.handle_read_event()
    if writable:
        dispatcher.handle_write_event()


def _log_backoff(event: events.ProcessStateBackoffEvent) -> None:
    process = event.process
    if process.pid and process.backoff > process.config.startretries:
        return  # `give_up` logs it
    fields = {"child": process.full_name, "tries": process.backoff, "delay_s": process.backoff}
    if process.failed_starts:
        fields["error"] = process.start_error
    if process.pid:
        logger.warning("process crashed at start, trying again", extra=fields)
    else:
        logger.warning("process could not be started, trying again", extra={**fields, "error": process.spawnerr})
