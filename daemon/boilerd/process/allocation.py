"""Keep the memory of a process with threads small."""

import ctypes
from contextlib import suppress

#: Of glibc's malloc.h.
_M_ARENA_MAX = -8


def use_one_arena() -> None:
    """Have all threads share one arena, before the second one starts; does nothing where the C library has none.

    glibc gives each thread its own, and each keeps what its largest piece of work took. Python's threads take turns
    anyway.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
