"""Read keys from the terminal, one by one, without waiting for Enter."""

import os
import re
import select
import sys
import termios
import tty
from typing import Self

#: What terminals send for keys without a character → the name of the key.
_NAMES = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[C": "right", "\x1bOC": "right",
    "\x1b[D": "left", "\x1bOD": "left", "\x1b[5~": "pageup", "\x1b[6~": "pagedown", "\r": "enter", "\n": "enter",
    "\t": "tab", "\x1b": "escape", "\x7f": "escape",
}  # fmt: skip
_SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
#: A sequence may come in pieces over a slow line; an escape that nothing follows for so long is the Escape key.
_SEQUENCE_TIMEOUT_S = 0.05


class Keyboard:
    """Put the terminal into cbreak mode while it is open; Ctrl-C still interrupts."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(self, *exc_info: object) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def read(self, timeout_s: float) -> list[str]:
        """Return the keys that were pressed, as characters or names; empty if none came in time."""
        if not self._has_input(max(timeout_s, 0.0)):
            return []
        text = self._read_text()
        while text.endswith("\x1b") and self._has_input(_SEQUENCE_TIMEOUT_S):
            text += self._read_text()
        return [_NAMES.get(key, key) for key in _SEQUENCE.findall(text)]

    def _read_text(self) -> str:
        data = os.read(self._fd, 1024)
        if not data:
            raise KeyboardInterrupt  # the terminal is gone
        return data.decode("utf-8", "replace")

    def _has_input(self, timeout_s: float) -> bool:
        return bool(select.select([self._fd], [], [], timeout_s)[0])
