"""Connections that the application opened when it was imported: all processes would use the same ones.

Two workers that write to one connection of a database get each other's answers. So the start tells of them.
"""

import gc
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

from redis.connection import AbstractConnection

logger = logging.getLogger("boilerd.daemon")

_HINT = (
    "open them in mux.lifespan, or in a task; or close them in mux.before_fork, or close them at the end of the import:"
    " see a-workers-life.md"
)


def open_sockets() -> dict[int, int]:
    """Descriptor → inode, of the sockets of this process; none where /proc is missing."""
    found = {}
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers
            with suppress(OSError):  # the one of the listing itself
                target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
                if target.startswith("socket:["):
                    found[int(name)] = int(target[8:-1])
    return found


def warn_of_shared(before: dict[int, int]) -> None:
    """Warn of connections that were opened since; call it before the collector is told to pass over all objects."""
    known = set(before.values())  # by inode: the log has a second descriptor of a socket that was there
    new = [fd for fd, inode in open_sockets().items() if inode not in known]
    peers = {fd: peer for fd in new if (peer := _peer(fd))}
    if peers:
        for fd in _of_redis():
            peers.pop(fd, None)
    if peers:
        fields = {"peers": sorted(peers.values()), "hint": _HINT}
        logger.warning("connections that the import opened are shared by all workers", extra=fields)


def _peer(fd: int) -> str:
    """Whom the socket is connected to; empty for those that do no harm: listening, of datagrams, or to ourselves."""
    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
        if sock.type == socket.SOCK_STREAM:
            address = sock.getpeername()
            return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else _path(address)
    return ""


def _path(address: str | bytes) -> str:
    """The path of a Unix socket; empty for one of a pair, such as an event loop has."""
    return os.fsdecode(address).replace("\0", "@")


def _of_redis() -> Iterator[int]:
    """The descriptors of redis-py's connections: their pools leave them to the parent after a fork, as ours do."""
    for known in gc.get_objects():
        # Not isinstance: that runs code of objects that stand for others.
        if issubclass(type(known), AbstractConnection) and (sock := getattr(known, "_sock", None)):
            with suppress(OSError):
                yield sock.fileno()
