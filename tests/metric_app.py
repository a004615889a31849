"""An application whose handlers keep a journal of their attempts, which metrics are compared with."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from boilerd import RevokeTask, ServeMux, SkipRetry, Task

mux = ServeMux()

#: Type → how long its handler takes, in seconds, and how its attempts end, the last one for all further ones.
KINDS: dict[str, tuple[float, tuple[str, ...]]] = {
    "quick:noop": (0.0, ("completed",)),
    "slow:sleep": (0.003, ("completed",)),
    "flaky:twice": (0.001, ("retried", "completed")),
    "bad:archived": (0.0, ("archived",)),
    "bad:dropped": (0.0, ("dropped",)),
}
ERRORS: dict[str, Callable[[str], Exception]] = {"retried": ValueError, "archived": SkipRetry, "dropped": RevokeTask}


def note(queue: str, kind: str, outcome: str, ran_s: float) -> None:
    """Write a line to the journal of this process."""
    line = f"{time.time():.6f} {queue} {kind} {outcome} {ran_s:.6f}\n"
    path = Path(os.environ["METRIC_JOURNAL"]) / str(os.getpid())
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def run(task: Task) -> Any:
    takes_s, outcomes = KINDS[task.type]
    began_s = time.monotonic()
    if takes_s:
        time.sleep(takes_s)
    outcome = outcomes[min(task.attempt, len(outcomes)) - 1]
    note(task.queue, task.type, outcome, time.monotonic() - began_s)
    if outcome in ERRORS:
        raise ERRORS[outcome]("as told")


for name in KINDS:
    mux.handle(name)(run)


@mux.handle("long:sleep")
def sleep(task: Task) -> None:
    time.sleep(task.payload)
