"""The daemon's reaction to each signal, except those that stop it.

Supervisor's signal handler only notes the number (`Options.setsignals`); the daemon's loop calls `react` later,
where it is safe to fork, to log and to change the pool.
"""

import logging
import signal
from collections.abc import Callable, Mapping
from typing import Any

from boilerd.errors import RefusedError
from boilerd.process import logs
from boilerd.process.terminal import is_in_foreground
from boilerd.supervision.pool import signal_children
from boilerd.supervision.rpc import Controlled

logger = logging.getLogger("boilerd.supervisor")


class SignalReactions:
    """One method for each signal; most do what the control socket's method of the same purpose does.

    Args:
        daemon: What the signals control.
        groups: Returns Supervisor's groups of processes, by their names.
    """

    def __init__(self, daemon: Controlled, groups: Callable[[], Mapping[str, Any]]) -> None:
        self._daemon = daemon
        self._groups = groups
        self._methods: dict[int, Callable[[], None]] = {
            signal.SIGHUP: self.on_hup,
            signal.SIGTSTP: self.on_tstp,
            signal.SIGCONT: self.on_cont,
            signal.SIGTTIN: self.on_ttin,
            signal.SIGTTOU: self.on_ttou,
            signal.SIGUSR1: self.on_usr1,
            signal.SIGUSR2: self.on_usr2,
        }

    def react(self, signum: int) -> None:
        """Act on a signal that was noted; does nothing for others, such as SIGCHLD."""
        if method := self._methods.get(signum):
            method()

    def on_hup(self) -> None:
        """Reload settings and code."""
        try:
            self._daemon.reload()
        except RefusedError as error:
            logger.info("reload ignored", extra={"error": str(error)})

    def on_tstp(self) -> None:
        """Stop claiming, and tell who typed Ctrl-Z: a supervisor that stops would neither replace workers nor obey."""
        _obey(self._daemon.quiet)
        if is_in_foreground():
            hint = "boilerd resume, or kill -CONT, makes it claim tasks again; Ctrl-C ends it"
            logger.warning("Ctrl-Z makes the daemon quiet and does not stop it", extra={"hint": hint})

    def on_cont(self) -> None:
        """Claim again."""
        _obey(self._daemon.resume)

    def on_ttin(self) -> None:
        """Add one worker to the pool `default`."""
        self._scale_by(1)

    def on_ttou(self) -> None:
        """Remove one worker from the pool `default`."""
        self._scale_by(-1)

    def on_usr1(self) -> None:
        """Log the stacks of all processes but the broker."""
        logs.log_stacks()
        signal_children(self._groups().values(), signal.SIGQUIT)

    def on_usr2(self) -> None:
        """Open the log files again in all processes but the broker."""
        logs.reopen()
        signal_children(self._groups().values(), signal.SIGUSR2)

    def _scale_by(self, change: int) -> None:
        try:
            self._daemon.grow(change)
        except RefusedError as error:
            logger.warning("scaling refused", extra={"error": str(error)})


def _obey(action: Callable[[], None]) -> None:
    try:
        action()
    except RefusedError as error:
        logger.info("signal ignored", extra={"error": str(error)})
