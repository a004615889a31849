"""Tracebacks as people read them: the application's frames open, those of libraries folded.

They are cut and parted by the template, when what they quote of hidden values is out of them: a part of a value is not
known for one any more.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from boilerd.broker.views import Attempt

_FRAME = re.compile(r'^\s*File "([^"\n]*)", line \d+, in ')
#: What a path of a library has in it.
_FOREIGN = re.compile(r"[/\\](site-packages|dist-packages|boilerd|lib[/\\]python[\d.]*)[/\\]|^<frozen")
#: Characters of one attempt's traceback that are shown, its last ones.
MOST_SHOWN = 64 * 1024


@dataclass(slots=True)
class Piece:
    """Some lines of a traceback.

    Attributes:
        is_own: Whether they are the application's, or say what went wrong; else a library's.
        frames: How many frames they are of.
        traceback: The lines.
    """

    is_own: bool
    frames: int
    traceback: str


@dataclass(slots=True)
class Shown:
    """An attempt.

    Attributes:
        number: From 1, of those that are kept.
        attempt: The attempt, without its traceback, which stands in the task.
        like: The number of an earlier attempt with the same traceback; 0: there is none.
    """

    number: int
    attempt: Attempt
    like: int = 0


def shown_attempts(attempts: Sequence[Attempt]) -> list[Shown]:
    """Each attempt, and which earlier one has the same traceback."""
    seen: dict[str, int] = {}
    found = []
    for number, attempt in enumerate(attempts, 1):
        error = attempt.error
        like = seen.get(error, 0) if error else 0
        seen.setdefault(error, number)
        found.append(Shown(number, replace(attempt, error=""), like))
    return found


def pieces(traceback: str) -> list[Piece]:
    """The end of a traceback, where the error stands, in pieces of one kind each."""
    found: list[Piece] = []
    is_own = True
    for line in traceback[-MOST_SHOWN:].removesuffix("\n").split("\n") if traceback else ():
        frame = _FRAME.match(line)
        if frame:
            is_own = not _FOREIGN.search(frame[1])
        elif not line.startswith("  "):
            is_own = True
        if not found or found[-1].is_own is not is_own:
            found.append(Piece(is_own, 0, ""))
        piece = found[-1]
        piece.frames += frame is not None
        piece.traceback += f"{line}\n"
    return found
