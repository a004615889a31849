"""What a worker does for its predecessor in its row, which died, and what it asks of its parent."""

import logging
import os
import signal

from boilerd.errors import WorkerDiedError
from boilerd.process.exit_status import STOPPED_BY_DAEMON, describe_exit
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import StopRequest

logger = logging.getLogger("boilerd.worker")

#: How the error of an attempt tells why the daemon killed its worker.
_WHY_KILLED = {
    KillReason.LIMIT: "its task ignored its limit of {} s, from timeout or deadline",
    KillReason.TAKEN: "its task ignored that it was taken away",
    KillReason.HUNG: "it hung, and neither ran the handler nor got on",
    KillReason.STOPPED: "another signal had stopped it for too long",
}


def death_of_last(scoreboard: Scoreboard, row: int) -> WorkerDiedError | None:
    """How the last process of a row ended, and why, if the daemon killed it; None: the daemon let it end."""
    status = scoreboard.last_exit(row)
    if status == STOPPED_BY_DAEMON:
        return None
    death = f"worker died: {describe_exit(status)}"
    reason, limit_s = scoreboard.last_kill(row)
    if status == -signal.SIGKILL and reason is not KillReason.NONE:
        death += f", because {_why(reason, limit_s)}"
    return WorkerDiedError(death)


def _why(reason: KillReason, limit_s: int) -> str:
    if reason is KillReason.LIMIT and not limit_s:  # which of its tasks, and so what limit, is not known
        return "one of its tasks ignored its limit, from timeout or deadline"
    return _WHY_KILLED[reason].format(limit_s)


def look_for_parent(parent: int, stop: StopRequest) -> None:
    """Have the worker stop where its supervisor is gone."""
    if os.getppid() != parent and not stop:
        logger.warning("the supervisor is gone, stopping")
        stop.make()
