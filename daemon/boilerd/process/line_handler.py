"""The handler of `logging` that writes the daemon's lines."""

import contextlib
import logging
import os
from collections.abc import Callable

from boilerd.process.detached_outlet import DetachedOutlet
from boilerd.process.outlets import FileOutlet, Outlet, StreamOutlet, is_file


class LineHandler(logging.Handler):
    """Writes each record as a line, or gives it up: never makes its caller wait for long.

    Args:
        where: A file descriptor, or the path of a file.

    Attributes:
        outlet: Writes the lines.
        on_loss: Called for each line that is lost.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, where: int | str) -> None:
        super().__init__()
        self.outlet: Outlet = StreamOutlet(where) if isinstance(where, int) else FileOutlet(where)
        self.on_loss: Callable[[], None] = _ignore
        self._where = where
        self._is_file = isinstance(where, str) or is_file(where)

    def handle(self, record: logging.LogRecord) -> bool:
        """Write it, one thread after the other.

        As in Python 3.13: before, an exception that another thread raises in this one, or a signal's handler, may come
        when `logging` has locked and does not know yet that it must unlock. Then nobody would ever log again.
        """
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            with self.lock or contextlib.nullcontext():
                self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; if that fails, only this line is lost."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if not self.outlet.write(line):
                self.on_loss()
        except Exception:  # noqa: BLE001 - logging never raises into tasks
            self.handleError(record)

    def detach(self) -> None:
        """Have a process write, if it goes to a file; `on_loss` stays as it is from now on."""
        if self._is_file and not isinstance(self.outlet, DetachedOutlet):
            with contextlib.suppress(OSError):  # elsewhere than on Linux; or nothing is to spare, which others will say
                self.outlet = DetachedOutlet(self.outlet, self.on_loss)

    def attach(self) -> None:
        """Write without that process, which is the parent's."""
        if isinstance(self.outlet, DetachedOutlet):
            self.outlet.close()
            self.outlet = self.outlet.outlet

    def flush(self) -> None:
        """Wait a little for lines that are still to be written."""
        self.outlet.flush()

    @property
    def name_of_log(self) -> str:
        """What it writes to, for people."""
        return self._where if isinstance(self._where, str) else "stdout"

    def writes_to(self, found: os.stat_result) -> bool:
        """True if this is the file that the lines go to."""
        with contextlib.suppress(OSError):
            own = os.fstat(self._where) if isinstance(self._where, int) else os.stat(self._where)  # noqa: PTH116
            return os.path.samestat(own, found)
        return False

    def close(self) -> None:
        """Stay open: `logging` closes all handlers that there are when an application sets it up."""

    def shut(self) -> None:
        """Close what was opened for this handler."""
        super().close()
        self.outlet.close()


def _ignore() -> None:
    """Nobody counts."""
