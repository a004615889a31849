"""How much of a busy CPU a process gets beside others."""

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
