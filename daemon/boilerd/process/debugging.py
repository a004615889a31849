"""Debugging a handler on the terminal: in `boilerd run --debug`, and nowhere else.

Elsewhere a worker has no terminal: the debugger would read an error, or the end of a file, and say nothing of why.
"""

import os
import sys
from typing import NoReturn

_is_on = False


def turn_on() -> None:
    """Let workers have the terminal and all the time they want; call it before they are forked."""
    global _is_on  # noqa: PLW0603 - as the processes' signal handlers are
    _is_on = True


def is_on() -> bool:
    """True if there are no time limits, because somebody may sit in the debugger."""
    return _is_on


def refuse_breakpoints() -> None:
    """Have `breakpoint()` raise an error, unless somebody has chosen another debugger than Python's own."""
    is_chosen = os.environ.get("PYTHONBREAKPOINT") not in {None, "", "pdb.set_trace"}
    if sys.breakpointhook is sys.__breakpointhook__ and not is_chosen:
        sys.breakpointhook = _refuse


def _refuse(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("breakpoint(): a worker has no terminal; stop the daemon and start it with boilerd run --debug")
