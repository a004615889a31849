"""Where `boilerd web` listens: nowhere that others reach, unless the settings say who they are."""

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from boilerd.errors import BootError
from boilerd.settings.web import Web

#: Of those that systemd passes; see sd_listen_fds(3).
_FIRST_FD = 3


def check_place(web: Web) -> None:
    """Raise BootError for an address of others while nobody has to say who they are."""
    if web.has_users or web.socket or is_loopback(web.host):
        return
    raise BootError(
        f"web.host: {web.host} can be reached by others, and nobody has to log in; set [web.users],"
        " or trusted_header and trusted_proxies, or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether it is an address of this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def inherited(web: Web) -> socket.socket | None:
    """The socket that systemd opened for this process (`LISTEN_FDS`), or None; raises BootError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    if (count := os.environ["LISTEN_FDS"]) != "1":
        raise BootError(f"web: systemd passed {count} sockets; leave one ListenStream= in the unit of the socket")
    try:
        found = socket.socket(fileno=_FIRST_FD)
        is_listening = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise BootError(f"web: what systemd passed is no socket: {error.strerror}") from error
    if not is_listening:
        raise BootError("web: the socket that systemd passed does not listen; it takes ListenStream= and Accept=no")
    found.set_inheritable(False)
    if found.family != socket.AF_UNIX:
        check_place(msgspec.structs.replace(web, host=found.getsockname()[0], socket=""))
    return found


def listen(web: Web) -> socket.socket:
    """The socket that requests come to; raises BootError."""
    check_place(web)
    place = web.socket or f"{web.host} port {web.port}"
    try:
        return _listen_at(Path(web.socket)) if web.socket else _listen_on(web.host, web.port)
    except OSError as error:
        raise BootError(f"web: cannot listen on {place}: {error.strerror or error}; choose another") from error


def address_of(web: Web, listener: socket.socket) -> str:
    """What to open in a browser."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(listener.getsockname())}"
    host, port = listener.getsockname()[:2]

    return f"http://{f'[{host}]' if ':' in host else host}:{port}{web.prefix}/"


def _listen_on(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_at(path: Path) -> socket.socket:
    """A Unix socket for its owner alone, in the place of one that nobody listens at any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        _clear(path)
        listener.bind(str(path))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _clear(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "another file stands there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked, suppress(ConnectionRefusedError):
            asked.connect(str(path))
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        path.unlink()
