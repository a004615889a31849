"""The setting ``group``: its members pass through the runtime directory to the sockets."""

import grp
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

from boilerd import ground
from boilerd.errors import BootError
from boilerd.settings.definitions import Settings

logger = logging.getLogger("boilerd.daemon")


def group_id(settings: Settings) -> int | None:
    """The number of the group that the settings name, if they do; raises BootError where there is none."""
    if settings.group is None:
        return None
    try:
        return grp.getgrnam(settings.group).gr_gid
    except KeyError:
        raise BootError(f"group: there is no group {settings.group!r}; create it, or leave the setting out") from None


def share_runtime_directory(settings: Settings, gid: int) -> None:
    """Let the group reach the sockets; raises BootError."""
    directory = settings.runtime_path()
    try:
        ground.share_directory(directory, gid)
    except OSError as error:
        raise BootError(
            f"group: cannot open {directory} to {settings.group!r}: {error.strerror};"
            f" start as a member of {settings.group!r}"
        ) from error
    for parent in _closed(directory, gid):
        fields = {"path": str(parent), "group": settings.group}
        logger.warning("members of the group cannot reach the sockets, set another runtime_dir", extra=fields)


def _closed(directory: Path, gid: int) -> Iterator[Path]:
    """The first directory on the way that the group cannot pass."""
    for parent in reversed(directory.parents):
        info = parent.stat()
        if not info.st_mode & stat.S_IXOTH and not (info.st_gid == gid and info.st_mode & stat.S_IXGRP):
            yield parent
            return
