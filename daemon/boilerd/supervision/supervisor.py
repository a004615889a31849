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
from boilerd.supervision.drain import Drain
from boilerd.supervision.groups import SCHEDULER, are_workers, worker_groups
from boilerd.supervision.handover import Handover
from boilerd.supervision.hangs import HangWatch
from boilerd.supervision.lost_lines import LostLines
from boilerd.supervision.options import BUSY_POLL_S, Options, Poller
from boilerd.supervision.pool import PoolPlan
from boilerd.supervision.pools import Pools
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
        groups: The groups to start now, beside those of the workers: the scheduler, and the watcher if there is one.
        pools: The pools of workers to start now.
        start_limit_s: How long the first worker may take until it serves, where the others fail.
        name: Of the daemon until its next start or reload.
    """

    groups: Sequence[ProcessGroupConfig]
    pools: Sequence[PoolPlan]
    start_limit_s: float = math.inf
    name: str = ""


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
        self._name = ""
        self.start_error = ""
        self._must_spawn_scheduler = False
        self._pools: Pools | None = None
        self._lost_lines = LostLines(scoreboard)
        self._hangs = HangWatch(scoreboard, name_of=self._name_of)
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
        return self._pools is not None and self._pools.is_lost()

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
        if self._is_burst and not self._drain.is_under_way and self._booted_pools().is_done():
            self._drain.request()

    # --- Requests, by a signal or on the control socket; RefusedError where the daemon cannot do that now

    def info(self) -> dict[str, Any]:
        """The daemon's state, in numbers and words; what is not known yet while it starts is 0."""
        scoreboard, pools = self._scoreboard, self._pools
        state = self._activity() or ("ready" if self._report.is_ready else "starting")
        return {
            "state": state,
            "generation": self._generation,
            "pid": os.getpid(),
            "name": self._name,
            "workers": pools.size if pools else 0,
            "pools": pools.infos() if pools else [],
            "busy": scoreboard.busy(),
            "pending": scoreboard.pending,
            "is_quiet": scoreboard.is_quiet,
            "trouble": self._reload.last_error,  # the name that commands of older versions read
            "is_broker_away": scoreboard.is_broker_away,
            "heartbeat_age_s": scoreboard.heartbeat_age_s,
            "lost_lines": scoreboard.untold_lines,
            "missing": pools.missing() if pools else [],
            "entering": pools.entering() if pools else [],
            "failed_starts": pools.failed_starts() if pools else {},
            "halted": [self._name_of(row) for row in scoreboard.halted()],
            "hanging": self._hangs.hanging,
            "status": self._report.status(pools, self._activity(), self._reload.last_error),
        }

    def quiet(self, pool: str = "") -> None:
        """Stop claiming, in this pool or in all; running tasks go on."""
        self._changeable_pools().set_quiet(pool, is_quiet=True)

    def resume(self, pool: str = "") -> None:
        """Claim again."""
        self._changeable_pools().set_quiet(pool, is_quiet=False)

    def scale(self, size: int, pool: str = "") -> None:
        """Have so many workers in this pool, or in `default`, until the next start or reload."""
        self._changeable_pools().scale(size, pool)

    def grow(self, change: int) -> None:
        """Have so many more workers in the pool `default`, until the next start or reload."""
        self._changeable_pools().grow(change)

    def restart(self, names: list[str]) -> None:
        """Replace these workers by fresh ones; without names all of them, and start what crashed too often."""
        self._changeable_pools().restart(names)
        others = [group for name, group in self.process_groups.items() if not are_workers(name) and not names]
        for process in (process for group in others for process in group.processes.values()):
            if process.state == ProcessStates.FATAL:
                process.spawn()

    def reload(self) -> None:
        """Begin to replace the program by a fresh one, which happens if the new settings and code are usable."""
        self._changeable_pools()
        self._reload.begin()

    def files_changed(self) -> None:
        """As `reload`; but one that drains already checks once more before it replaces the program."""
        if self._reload.is_draining and not self._drain.is_under_way:
            self._reload.check_again()
        else:
            self.reload()

    def _changeable_pools(self) -> Pools:
        """The pools, where neither a drain nor a reload is about to end its workers, so that a change has an effect."""
        pools = self._booted_pools()
        if self._drain.is_under_way:
            raise RefusedError("the daemon is draining, and ends then")
        if self._reload.is_under_way:
            raise RefusedError("a reload is under way; try again when it has ended")
        return pools

    def _booted_pools(self) -> Pools:
        if self._pools is None:
            raise RefusedError("the daemon is starting; try again when it has started")
        return self._pools

    @property
    def quiet_pools(self) -> list[str]:
        """The names of the pools that are quiet."""
        return self._pools.quiet_names if self._pools else []

    def _name_of(self, row: int) -> str:
        return self._pools.name_of(row) if self._pools else str(row)

    # --- The steps

    def ordered_stop_groups_phase_1(self) -> None:
        """Supervisor's hook in each round of a drain: the last group stops, and with one of workers all others."""
        super().ordered_stop_groups_phase_1()
        if self.stop_groups and are_workers(self.stop_groups[-1].config.name):
            for group in worker_groups(self.stop_groups):
                group.stop_all()

    def _start_groups(self) -> None:
        """Start the first groups, boot, then add those that the boot returned."""
        for group in self.process_groups.values():
            group.transition()
        booted = self._boot(self)
        self._start_limit_s, self._name = booted.start_limit_s, booted.name
        for config in (*booted.groups, *(plan.group for plan in booted.pools)):
            self.add_process_group(config)
        self._pools = Pools(booted.pools, self.process_groups, self._scoreboard, self._renew_scheduler)
        self.options.inbox.wake()  # or the first child would start after a second

    def _step(self) -> None:
        """Take the next step of the pools and of a reload, and report to the service manager."""
        pools = self._booted_pools()
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
            self._look_at_starts(pools)
            if self._reload.is_under_way:
                self._reload.step()
            if not self._reload.is_draining:
                pools.reconcile()
        self._report.update(pools, activity=self._activity(), last_error=self._reload.last_error)

    def _look_at_starts(self, pools: Pools) -> None:
        """Give up where no worker has ever served; but a program that replaced another one goes on trying."""
        if not self._report.is_ready and pools.entering():
            self._report.extend_timeout()
        if not self.is_reloaded and (error := pools.why_none_starts(self._start_limit_s)):
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
