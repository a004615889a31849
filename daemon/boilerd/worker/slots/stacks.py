"""Where code stands that does not get on: of an asyncio task, or of a thread."""

import asyncio
import itertools
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Frames of a chain of coroutines; nobody reads more.
_MOST = 100


def stack_of_task(task: "asyncio.Task[Any]") -> str:
    """What a suspended asyncio task waits in, outermost first; asyncio's own way shows the outermost alone."""
    return _shown(list(itertools.islice(_chain(task.get_coro()), _MOST)))


def stack_of_thread(ident: int | None) -> str:
    """Where a thread is at this moment."""
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001 - documented, see the sys module
    return _shown([found for found, _ in traceback.walk_stack(frame)][::-1]) if frame else ""


def _chain(awaited: Any) -> Iterator[FrameType]:
    while awaited is not None:
        for prefix in ("cr", "gi", "ag"):
            if isinstance(frame := getattr(awaited, f"{prefix}_frame", None), FrameType):
                yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _shown(frames: list[FrameType]) -> str:
    """The frames as in a traceback, without those of boilerd and the loop that lead to the application's."""
    names = [str(frame.f_globals.get("__name__")) for frame in frames]
    own = [place for place, name in enumerate(names) if name.startswith("boilerd.worker.")]
    first = own[-1] + 1 if own else 0
    while first < len(names) and names[first].startswith("boilerd."):
        first += 1
    chosen = frames[first:] or frames
    return "".join(line for frame in chosen for line in traceback.format_list(traceback.extract_stack(frame, 1)))
