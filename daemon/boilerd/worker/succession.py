"""What a worker does for its predecessor in its row, which died, and what it asks of its parent."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim
from boilerd.broker.held_claims import HeldClaim
from boilerd.broker.last_words import LastWords
from boilerd.errors import BrokerError, WorkerDiedError
from boilerd.process.exit_status import DONE, RECYCLED, STOPPED_BY_DAEMON, describe_exit
from boilerd.process.out_of_memory import oom_kills
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.process.signals import StopRequest
from boilerd.tasks.queues import DEFAULT_POOL

if TYPE_CHECKING:
    from boilerd.worker.rq_worker import RQWorker

logger = logging.getLogger("boilerd.worker")

#: Why a process was killed that nobody here has killed, as far as that can be known.
OUT_OF_MEMORY = "the kernel killed a process for want of memory at that time"
#: Claims of a worker.
Held = Sequence[Claim | HeldClaim]

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


def tell_last_words(broker: Broker, scoreboard: Scoreboard, row: int, entry: "RQWorker", held: Held) -> None:
    """Note how the last process of a row ended, if it died.

    Args:
        broker: Where that is noted; one try.
        scoreboard: Tells it.
        row: Of both.
        entry: That of its successor in RQ's registry, of the same name.
        held: The claims that it had, those first that may have ended it.
    """
    status, last = scoreboard.last_exit(row), scoreboard.last_life(row)
    if not last.pid or status in {STOPPED_BY_DAEMON, RECYCLED, DONE}:
        return
    words = LastWords(
        entry.name, entry.pool, pid=last.pid, exit=describe_exit(status), because=_because(scoreboard, row, status),
        tasks=len(held), rss_bytes=last.resident_bytes, lived_s=last.lived_s, **task_of(held),
    )  # fmt: skip
    note_last_words(broker, words)


def tell_of_lost(broker: Broker, worker: str, held: Held) -> None:
    """Note that a worker died together with its daemon; what its record tells is the state at its last heartbeat."""
    pool, pid, rss = broker.recorded(worker, "pool", "pid", "rss")
    numbers = [int(value) if value.isdecimal() and len(value) < 19 else 0 for value in (pid, rss)]
    words = LastWords(
        worker, pool or DEFAULT_POOL, pid=numbers[0], because="it died together with its daemon", tasks=len(held),
        rss_bytes=numbers[1], **task_of(held),
    )  # fmt: skip
    note_last_words(broker, words)


def note_last_words(broker: Broker, words: LastWords) -> None:
    """Note them, if that can be done: they are worth no failure of anything else."""
    try:
        broker.note_death(words.encoded())
    except BrokerError as error:
        logger.debug("last words of a worker are not noted", extra={"worker": words.worker, "error": str(error)})


def task_of(held: Held) -> dict[str, Any]:
    """The first of the claims, as last words have it."""
    if not held:
        return {}
    fields = held[0].log_fields
    return {"task_id": fields.get("task_id", ""), "task_type": fields.get("task_type", "")}


def _because(scoreboard: Scoreboard, row: int, status: int) -> str:
    """Why it was killed; empty: nobody knows."""
    reason, limit_s = scoreboard.last_kill(row)
    if status != -signal.SIGKILL:
        return ""
    if reason is not KillReason.NONE:
        return _why(reason, limit_s)
    count = oom_kills()
    return OUT_OF_MEMORY if count is not None and scoreboard.has_oom_killed(count) else ""
