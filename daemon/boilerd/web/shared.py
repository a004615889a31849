"""What several people look at is read once for all of them, and again when it is so many seconds old."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

#: Things that are kept; of more, those are forgotten that nobody has asked for the longest.
MOST_KEPT = 64
#: What is shown for so long does not follow an action at once.
LASTING_S = 10.0
#: What takes long to read is shown for so long at most.
LONGEST_S = 300.0

T = TypeVar("T")


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    until_s: float = 0.0
    fresh_s: float = 0.0


class Shared:
    """Keeps what was read; whoever comes while it is read waits for that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def get(self, key: Hashable, fresh_s: float, read: Callable[[], T], times: float = 0.0) -> T:
        """What `read` returned, at most so many seconds ago; what it raises is not kept.

        Args:
            key: Whose readers share it.
            fresh_s: For how long.
            read: Reads it.
            times: And for how many times as long as it used the CPU, up to `LONGEST_S`.
        """
        kept = self._place(key)
        with kept.lock:
            if time.monotonic() >= kept.until_s:
                began_s = time.thread_time()
                kept.value = read()
                used_s = time.thread_time() - began_s
                kept.fresh_s = fresh_s
                kept.until_s = time.monotonic() + max(fresh_s, min(used_s * times, LONGEST_S))
            return kept.value  # type: ignore[no-any-return] # it is what `read` returned

    def forget(self, key: Hashable) -> None:
        """Have it read again for the next one who asks."""
        self._place(key).until_s = 0.0

    def renew(self) -> None:
        """Have all read again, but for what does not follow actions at once: something was changed."""
        with self._lock:
            for kept in self._kept.values():
                if kept.fresh_s < LASTING_S:
                    kept.until_s = 0.0

    def _place(self, key: Hashable) -> _Kept:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept())
            self._kept.move_to_end(key)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return kept
