"""How much of a busy CPU a process gets beside others, and when."""

import os
from contextlib import suppress

#: Beside a process of normal priority that fills the CPU it gets the tenth part of it. More leave too little for pages;
#: with less an enqueue waits longer for what goes on here: with 5 twice as long.
BEHIND = 10


def step_back() -> None:
    """Have others go first, before another thread starts; one that is further behind stays there.

    Does nothing where that is forbidden, as by a service manager, which has means of its own.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(BEHIND, os.getpriority(os.PRIO_PROCESS, 0)))
    with suppress(OSError):
        _wait_for_turns()


def _wait_for_turns() -> None:
    """Take the CPU from nobody when it wakes up, on Linux: whoever runs comes to the end of its turn."""
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
