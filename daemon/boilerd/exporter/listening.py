"""The sockets at which the exporter listens."""

import errno
import importlib.util
import os
import select
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from boilerd import ground
from boilerd.errors import BootError
from boilerd.settings.addresses import Address, read_address
from boilerd.settings.definitions import Settings

#: Clients that wait until they are taken.
_BACKLOG = 100
#: Bytes of a path; 108 fit in a socket's address, and it has a longer name at first.
LONGEST_PATH = 96
#: For so long a start waits for the exporter of a daemon that was killed, which ends within a second.
WAIT_S, LOOK_EVERY_S = 3.0, 0.05


class Listener:
    """Listens.

    Args:
        place: Where; a path is for the owner alone, and nobody else may be able to replace it.
        gid: The group that may open the path as well; None: none.

    Attributes:
        sockets: Of a name of several addresses, one for each.

    Raises:
        OSError: It cannot.
    """

    def __init__(self, place: Path | Address, gid: int | None = None) -> None:
        self._path: Path | None = None
        self.sockets: Sequence[socket.socket] = []
        if isinstance(place, Address):
            self.sockets = _open_ports(place)
            return
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        self.sockets = [_open_path(fresh, gid)]
        fresh.rename(place)  # what a daemon that was killed left there is gone at once
        self._path, self._info = place, place.lstat()

    def close(self) -> None:
        """Listen no more; what another one has put at the path meanwhile stays."""
        for each in self.sockets:
            each.close()
        if self._path:
            with suppress(OSError):
                if os.path.samestat(self._path.lstat(), self._info):
                    self._path.unlink()

    @property
    def told(self) -> str:
        """Where it listens."""
        if self._path:
            return str(self._path)
        return ", ".join(str(Address(*each.getsockname()[:2])) for each in self.sockets)


def listen(settings: Settings, gid: int | None) -> Listener:
    """Listen where the settings say; raises OSError."""
    return Listener(read_address(settings.metrics_listen or "/"), gid)


def prepare(settings: Settings, gid: int | None, *, is_reload: bool = False) -> None:
    """Make sure, before anything is forked, that somebody can listen; does nothing where metrics are not wanted.

    Args:
        settings: Those of the daemon.
        gid: The group that may ask at a path; None: none.
        is_reload: True where the daemon runs already, and may listen there itself.

    Raises:
        BootError: Nobody can.
    """
    if settings.metrics_listen is None:
        return
    place = read_address(settings.metrics_listen)
    try:
        if isinstance(place, Path):
            _check_path(place, gid, is_reload=is_reload)
        elif not is_reload:
            _wait_for_port(place)
    except OSError as error:
        raise BootError(
            f"metrics_listen {place}: {error.strerror or error}; set metrics_listen to another address or path"
        ) from error


def check_extra(settings: Settings) -> None:
    """Raise BootError if metrics are wanted and the library is missing that writes them."""
    if settings.metrics_listen and importlib.util.find_spec("prometheus_client") is None:
        raise BootError(
            "metrics_listen needs prometheus-client, which is not installed; install it with"
            " `pip install 'boilerd[metrics]'`"
        )


def _check_path(path: Path, gid: int | None, *, is_reload: bool) -> None:
    """Raise OSError if a socket cannot be there, or if somebody listens at it."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise OSError(errno.ENAMETOOLONG, f"its name is too long for a socket, of at most {LONGEST_PATH} bytes")
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "something that is no socket is there")
    if not is_reload and _is_served(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    tried = path.with_name(f"{path.name}.{os.getpid()}")
    _open_path(tried, gid).close()
    tried.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # the listener's queue is full
            return True
        except OSError:
            return False
    return True


def _wait_for_port(place: Address) -> None:
    """Raise OSError if nobody can listen at the port; one in use is waited for a moment."""
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            Listener(place).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end_s:
                raise
            select.select([], [], [], LOOK_EVERY_S)
        else:
            return


def _open_path(path: Path, gid: int | None) -> socket.socket:
    """A socket at a path where nothing is; nobody reaches it before its mode is as it shall be."""
    directory_fd = ground.open_directory(path.parent)
    os.close(directory_fd)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o600 if gid is None else 0o660)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        path.unlink(missing_ok=True)
        raise
    return listener


def _open_ports(place: Address) -> list[socket.socket]:
    """A socket for each address of the host's name that this machine has; raises OSError where it has none."""
    opened: list[socket.socket] = []
    error: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM):
        try:
            opened.append(_open_port(family, address))
        except OSError as found:
            error = found
    if error and (not opened or error.errno == errno.EADDRINUSE):
        for each in opened:
            each.close()
        raise error
    return opened


def _open_port(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
