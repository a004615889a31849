"""The daemon's directories: fit for use, and locked against a second daemon."""

import fcntl
import os
import socket
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from boilerd import ground
from boilerd.errors import BootError
from boilerd.settings.definitions import Settings

#: 108 bytes fit in a socket's address; Supervisor first binds to a name with its pid appended.
LONGEST_SOCKET_PATH = 96


def own_directories(settings: Settings) -> dict[Path, str]:
    """The directories that no other daemon may use → the settings that name them."""
    directories = {settings.runtime_path(): "runtime_dir"}
    if settings.redis_url is None:
        directories[settings.state_path()] = "state_dir"
    return directories


def prepare_directory(directory: Path, setting: str) -> int:
    """Make the directory, and check that it is root's or ours alone; returns a descriptor of it.

    Raises:
        BootError: It cannot be used; names the setting.
    """
    try:
        return ground.open_directory(directory, makes=True)
    except OSError as error:
        raise _unusable(directory, setting, error) from error


def lock_directories(directories: Mapping[Path, str], held: dict[str, int]) -> dict[str, int]:
    """Lock the directories for this daemon; returns path of each lock → file descriptor that holds it.

    Args:
        directories: Directory → setting that names it.
        held: Locks that this process holds already, from before a reload; those no longer needed are given up.

    Raises:
        BootError: A directory cannot be used, or another daemon has it.
    """
    locks = {}
    for directory, setting in directories.items():
        path = str(directory / "boilerd.lock")
        if path not in locks:
            # Not a second descriptor for the same file: closing it would give up the lock.
            locks[path] = held.pop(path) if path in held else _lock(directory, setting)
    for fd in held.values():
        os.close(fd)
    held.clear()
    return locks


def try_directories(directories: Mapping[Path, str], held: Collection[str]) -> None:
    """Check that a daemon could lock the directories; raises BootError.

    Args:
        directories: Directory → setting that names it.
        held: Paths of the locks that this daemon holds already.
    """
    for directory, setting in directories.items():
        if str(directory / "boilerd.lock") in held:
            os.close(prepare_directory(directory, setting))
        else:
            os.close(_lock(directory, setting))


def usable_socket(path: Path) -> Path:
    """Return the path if a socket can have it; raises BootError."""
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise BootError(f"{path}: {size} bytes are too long for a socket; set runtime_dir to a shorter path")
    with suppress(OSError):  # there is nothing, or nothing that can be seen
        if not stat.S_ISSOCK(mode := path.lstat().st_mode):
            # A socket that was left is removed; anything else is somebody's.
            kind = "directory" if stat.S_ISDIR(mode) else "file"
            raise BootError(
                f"{path.stem} socket {path}: Is a {kind}, not a socket; move it away, or set another runtime_dir"
            )
    return path


def free_socket(path: Path) -> Path:
    """Return the path if a socket can have it and nobody listens there; raises BootError.

    The locks exclude a second daemon, but people delete lock files that look stale. A second daemon would take the
    sockets of the first one, and end its broker as an orphan.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(usable_socket(path)))
        except BlockingIOError:  # the listener's queue is full
            pass
        except OSError:
            return path
    raise BootError(f"{path}: another daemon listens there, although its boilerd.lock is gone; stop it first")


def _lock(directory: Path, setting: str) -> int:
    """Lock the directory, until this process ends in whatever way.

    Forked children do not inherit a POSIX lock, so orphans do not hold it.
    """
    directory_fd = prepare_directory(directory, setting)
    path = directory / "boilerd.lock"
    try:
        fd = ground.open_in(directory_fd, path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unusable(path, setting, error) from error
    finally:
        os.close(directory_fd)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        raise BootError(
            f"{setting} {directory}: in use by another daemon (pid {owner}); stop it, or set another {setting}"
        ) from error
    with suppress(OSError):  # for people only; the disk may be full
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _unusable(path: Path, setting: str, error: OSError) -> BootError:
    joint = ", or" if isinstance(error, ground.UnsafeError) and error.cure else ";"
    return BootError(f"{setting} {path}: {error.strerror}{joint} set {setting} to a directory of your own")
