"""Room on the disk of the embedded broker that is kept for the end: a file that can be given up.

Where the disk is full when the daemon drains, what was accepted last is not in the broker's file, nor can the
outcomes of the drain be written. The room that this file takes is enough for them.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from boilerd import ground

logger = logging.getLogger("boilerd.valkey")

#: The largest chunk of an enqueue has 8 MiB of payloads.
RESERVE_BYTES = 16 * 1024 * 1024
#: It takes no more than this part of the room that is there.
RESERVE_PART = 4


class Reserve:
    """The file ``reserve`` in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"

    def make(self) -> None:
        """Take the room, where there is some; one that is there already stays. A disk that is full has none."""
        try:
            directory_fd = ground.open_directory(self._path.parent)
            try:
                self._take(directory_fd)
            finally:
                os.close(directory_fd)
        except OSError as error:
            logger.debug("no room is kept for a full disk", extra={"error": str(error)})

    def give_up(self) -> None:
        """Give the room to whoever writes next."""
        with suppress(OSError):
            self._path.unlink()

    def _take(self, directory_fd: int) -> None:
        disk = os.fstatvfs(directory_fd)
        size_bytes = min(RESERVE_BYTES, disk.f_bavail * disk.f_frsize // RESERVE_PART)
        fd = ground.open_in(directory_fd, self._path, os.O_RDWR | os.O_CREAT)
        try:
            if size_bytes > os.fstat(fd).st_size and hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(fd, 0, size_bytes)
        finally:
            os.close(fd)
