"""What several people look at is read once for all of them, and again when it is so many seconds old."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

#: Things that are kept, and answers of which it is known what they were made of; of more, those are forgotten that
#: nobody has asked for the longest.
MOST_KEPT, MOST_ANSWERS = 256, 1024
#: Stands for the picture of all queues among what an answer was made of.
PICTURE = object()
#: What takes long to read is shown for so long at most.
LONGEST_S = 300.0

T = TypeVar("T")


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    began_s: float = 0.0
    until_s: float = 0.0


class Reading(NamedTuple):
    """What was read, and what tells it from all other readings."""

    value: Any
    mark: object


def marked(read: Callable[[], Any]) -> Reading:
    """What is read now."""
    return Reading(read(), object())


class Shared:
    """Keeps what was read; whoever comes while it is read waits for that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def get(self, key: Hashable, fresh_s: float, read: Callable[[], T], times: float = 0.0, *, anew: bool = False) -> T:
        """What `read` returned, at most so many seconds ago; what it raises is not kept.

        Args:
            key: Whose readers share it.
            fresh_s: For how long.
            read: Reads it.
            times: And for how many times as long as it used the CPU, up to `LONGEST_S`.
            anew: Whether nothing will do that was read before somebody asked for it.
        """
        kept, asked_s = self._place(key), time.monotonic()
        with kept.lock:
            now_s = time.monotonic()
            if now_s >= kept.until_s or (anew and kept.began_s < asked_s):
                # Or both stood in memory; and one that cannot be read would take the place of one that can.
                kept.value, kept.began_s, kept.until_s = None, now_s, now_s
                began_s = time.thread_time()
                kept.value = read()
                used_s = time.thread_time() - began_s
                kept.until_s = time.monotonic() + max(fresh_s, min(used_s * times, LONGEST_S))
            return kept.value  # type: ignore[no-any-return] # it is what `read` returned

    def has(self, key: Hashable, mark: object) -> bool:
        """Whether whoever asks for the key gets the reading with this mark; never waits."""
        kept = self._kept.get(key)
        found = kept.value if kept and time.monotonic() < kept.until_s else None
        return isinstance(found, Reading) and found.mark is mark

    def forget_all(self) -> None:
        """Read all anew for those who ask next: something was changed."""
        with self._lock:
            self._kept.clear()

    def _place(self, key: Hashable) -> _Kept:
        with self._lock:
            self._drop(but=key)
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return kept

    def _drop(self, but: Hashable) -> None:
        """Drop what is not fresh any more; what is being read is not yet."""
        now_s = time.monotonic()
        over = [key for key, kept in self._kept.items() if 0 < kept.until_s <= now_s and not kept.lock.locked()]
        for key in over:
            if key != but:
                del self._kept[key]


class _Known(NamedTuple):
    content: str
    reads: Mapping[Hashable, object]
    until_s: float


class Answers:
    """Knows of answers what they were made of, so that it need not make one again to see it unchanged.

    Args:
        shared: What they share.
        picture: The mark of the picture of all queues; None: the next one has to be taken.
    """

    def __init__(self, shared: Shared, picture: Callable[[], str | None]) -> None:
        self._shared = shared
        self._picture = picture
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def begin(self, fresh_s: float = 0.0) -> Callable[[str, str, Mapping[Hashable, object]], None]:
        """What notes an answer that is made from now on; what is changed meanwhile has that forgotten, too.

        Args:
            fresh_s: For how long it is known at most; 0: for as long as all that it was made of.

        Returns:
            Takes what was asked for, what tells the answer's content from others, and what shared things it was made
            of: key → the mark of the reading.
        """
        known, until_s = self._known, time.monotonic() + (fresh_s or math.inf)

        def note(asked: str, content: str, reads: Mapping[Hashable, object]) -> None:
            with self._lock:
                known[asked] = _Known(content, reads, until_s)
                known.move_to_end(asked)
                if len(known) > MOST_ANSWERS:
                    known.popitem(last=False)

        return note

    def content(self, asked: str) -> str | None:
        """The content of what is asked for; None: it has to be made."""
        found = self._known.get(asked)
        if found is None or time.monotonic() >= found.until_s:
            return None
        return found.content if all(self._is_as_read(key, mark) for key, mark in found.reads.items()) else None

    def forget_all(self) -> None:
        """Make all anew: something was changed."""
        self._known = OrderedDict()

    def _is_as_read(self, key: Hashable, mark: object) -> bool:
        return self._picture() == mark if key is PICTURE else self._shared.has(key, mark)
