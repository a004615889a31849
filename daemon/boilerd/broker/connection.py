"""Connections to Redis, and its errors in our words."""

import _socket
import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from boilerd.broker.spin import Spin
from boilerd.errors import (
    BrokerError,
    BrokerLoadingError,
    BrokerRefusedError,
    BrokerUnableError,
    BrokerUnavailableError,
    ConfigError,
)
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import check_url, mask_url


class OwnPool(redis.ConnectionPool):
    """A pool that `connect` made: a stack of connections.

    redis-py's own notes for its metrics where each one is, which is a sixth of the CPU time of an enqueue. The first
    connection is made here, and opened when it is used: in a forked child, which shares the memory that its making
    touched.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._first: list[Any] = []
        self._spin = Spin()

    def prepare(self) -> None:
        """Make the first connection; raises TypeError or ValueError where the options make no sense."""
        self._first = [self.make_connection()]

    def reset(self) -> None:
        """Forget all connections: after a fork the parent goes on with them, but for a first one that was not used."""
        super().reset()
        self._idle: list[Any] = []

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """One that is idle, else a new one; threads that ask at once have one each."""
        connection = self._take(*args, **options)
        try:
            _wait_in_python(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def get_for_script(self) -> Any:
        """One whose timeout the kernel sees to where it is open: an enqueue takes an eighth less. Not so with TLS.

        Python's own timeout polls the socket before each read and each write. The kernel's counts from the last
        progress, and anew after each signal that has a handler.
        """
        connection = self._take()
        try:
            _wait_in_kernel(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def spin(self, connection: Any) -> None:
        """Stay awake for an answer that may come soon; not where other threads wait as well, and keep Redis awake."""
        sock = connection._sock  # noqa: SLF001 - there is no other way to it
        # None: another thread closed it. TLS without a timeout: there is nothing to look at without taking it out.
        can_look = sock is not None and sock.gettimeout() is None and not isinstance(sock, ssl.SSLSocket)
        if can_look and len(self._in_use_connections) - len(self._idle) == 1:
            self._spin.wait(sock)

    def _take(self, *args: Any, **options: Any) -> Any:
        if self.pid != os.getpid():
            self.reset()
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._new_connection(*args, **options)
        try:
            _check(connection)
        except BaseException:
            self._take_back(connection)
            raise
        return connection

    def _take_back(self, connection: Any) -> None:
        """After an error, or an interrupt by a signal handler: one that is lost counts against the limit for ever."""
        connection.disconnect()
        self.release(connection)

    def _new_connection(self, *args: Any, **options: Any) -> Any:
        with suppress(IndexError):
            first = self._first.pop()
            first.pid = self.pid
            self._in_use_connections.add(first)
            return first
        return super().get_connection(*args, **options)

    def release(self, connection: Any) -> None:
        """Take it back, open or not; `disconnect` knows it all the time as one in use."""
        self._idle.append(connection)


def check_connection(connection: object) -> None:
    """Raise TypeError for what the scripts cannot be called on."""
    if not isinstance(connection, redis.Redis):
        kind = f"{type(connection).__module__}.{type(connection).__qualname__}".removeprefix("builtins.")
        wrong = f"a {kind} is no redis.Redis"
    elif connection.get_encoder().decode_responses:
        wrong = "one with decode_responses=True gives texts in place of bytes"
    else:
        return
    raise TypeError(f"connection: {wrong}; use from_url, as in Client.from_url('redis://localhost:6379')")


def _check(connection: Any) -> None:
    """Close the connection if the server went away meanwhile: then it is opened anew when it is used."""
    try:
        is_clean = not connection.can_read()
    except (redis.ConnectionError, OSError):
        is_clean = False
    if not is_clean:
        connection.disconnect()


def _wait_in_kernel(connection: Any) -> None:
    sock = connection._sock  # noqa: SLF001 - there is no other way to it
    # Those that gevent puts in the place of Python's never wait in the kernel, and would wait for ever.
    waits_there = isinstance(sock, _socket.socket) and not isinstance(sock, ssl.SSLSocket)
    if waits_there and sock.gettimeout():
        with suppress(OSError):  # where a time has another form, Python goes on seeing to it
            _set_kernel_timeout(sock, sock.gettimeout())
            sock.settimeout(None)


def _wait_in_python(connection: Any) -> None:
    """As redis-py knows its connections; a subscriber may wait for ever."""
    sock = connection._sock  # noqa: SLF001
    if sock is not None and sock.gettimeout() is None and connection.socket_timeout:
        _set_kernel_timeout(sock, 0.0)
        sock.settimeout(connection.socket_timeout)


def _set_kernel_timeout(sock: socket.socket, timeout_s: float) -> None:
    whole_s, part_s = divmod(timeout_s, 1)
    timeval = struct.pack("@ll", int(whole_s), int(part_s * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def connect(
    url: str, *, password: str | None = None, db: int = 0, timeout_s: float = 5.0, name: str | None = None
) -> redis.Redis:
    """Make a client for one process; connects at the first command.

    Commands are not sent again by themselves after a failure: the first one may have run.

    Raises:
        ConfigError: The URL cannot be understood.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        # Fewer round trips before the first command, and less memory in each child: without the second, redis-py (8.1)
        # reads its package's metadata for each connection; nothing here needs what RESP3 adds.
        "protocol": 2,
        "driver_info": None,
        "command_packer": _Packer(),
    }
    check_url(url)
    if name:
        options["client_name"] = name
    if password:
        options["password"] = password
    try:
        if urlsplit(url).scheme == "redis+sentinel":
            return _connect_sentinel(url, options, db)
        pool = OwnPool.from_url(url, **options)
        if password or db:
            # What was set by itself wins over what stands in the URL.
            pool.connection_kwargs.update({"password": password} if password else {})
            pool.connection_kwargs.update({"db": db} if db else {})
        pool.prepare()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"redis_url: {mask_url(url)!r}: {error}") from error
    return redis.Redis.from_pool(pool)


def connect_to(settings: Settings, *, timeout_s: float = 5.0, name: str | None = None) -> redis.Redis:
    """Make a client for the broker that the settings name, as `connect` does."""
    return connect(
        settings.broker_url(),
        password=settings.redis_password,
        db=settings.redis_db,
        timeout_s=timeout_s,
        name=name,
    )


class _Packer(HiredisRespSerializer):
    """redis-py's own, but hiredis (3.5) gets no numbers: it crashes when a signal handler raises meanwhile."""

    def pack(self, *args: Any) -> Any:
        """A command as it is sent."""
        return super().pack(*(repr(part) if type(part) in _NUMBERS else part for part in args))  # type: ignore[arg-type]  # typed as lists


_NUMBERS = (int, float)
_UNKNOWN_USER = "Redis refused the password, check redis_password and redis_url"
#: What Redis may object to, and how we say it; the first that fits.
_REFUSALS: dict[Callable[[redis.RedisError], bool], str] = {
    # The last word is what it says to a command of many parts.
    lambda error: any(word in str(error) for word in ("NOAUTH", "WRONGPASS", "unauthenticated")): _UNKNOWN_USER,
    lambda error: isinstance(error, redis.exceptions.NoPermissionError): "Redis allows this user too little",
    lambda error: isinstance(error, redis.exceptions.OutOfMemoryError): "Redis is out of memory, raise its maxmemory",
    lambda error: isinstance(error, redis.exceptions.ReadOnlyError): "Redis is read-only, as a replica is",
    lambda error: "MISCONF" in str(error): "Redis cannot save to its disk, and stores nothing until it can",
    lambda error: "NOREPLICAS" in str(error): "Redis has too few replicas, and stores nothing until it has more",
}
#: What passes: redis-py has an exception for some, and others begin with these words.
_PASSING = (
    redis.exceptions.ClusterDownError,  # also MASTERDOWN
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
_PASSING_WORDS = re.compile(r"\b(MISCONF|NOREPLICAS|BUSY|UNBLOCKED)\b")


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours."""
    try:
        yield
    except (redis.RedisError, UnicodeError) as error:
        raise translate(error) from error


def translate(error: redis.RedisError | UnicodeError) -> BrokerError:
    """What redis-py raised in our words, with what would do."""
    match error:
        case redis.AuthenticationError() | redis.exceptions.AuthorizationError():
            return BrokerRefusedError(f"{_UNKNOWN_USER}: {error}")
        case UnicodeError():  # of a host name
            return BrokerError(f"redis_url: {error}")
        case redis.exceptions.MaxConnectionsError():
            return BrokerUnavailableError(f"no connection is free: {error}, raise max_connections", was_sent=False)
        case redis.BusyLoadingError():
            return BrokerLoadingError(f"Redis still reads its file: {error}", was_sent=False)
        case redis.ConnectionError() | redis.TimeoutError():
            # redis-py (8.1) has no error of its own for what went wrong before anything was sent.
            was_sent = "connecting to" not in str(error) and not isinstance(error, MasterNotFoundError)
            why = "its time is up" if was_sent and isinstance(error.__context__, BlockingIOError) else error
            return BrokerUnavailableError(f"Redis did not answer: {why}", was_sent=was_sent)
    return _refusal(error)


def _refusal(error: redis.RedisError) -> BrokerRefusedError:
    """Redis answered, but not as asked."""
    told = next((told for kind, told in _REFUSALS.items() if kind(error)), "Redis refused the command")
    is_passing = isinstance(error, _PASSING) or _PASSING_WORDS.search(str(error))
    return (BrokerUnableError if is_passing else BrokerRefusedError)(f"{told}: {error}")


def text(value: bytes | str) -> str:
    """What Redis holds as text, whatever a stranger put there; `raw` makes the same bytes of it again."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    """The bytes that `text` read; redis-py's fast path would refuse those that are no UTF-8."""
    return value.encode("utf-8", "surrogateescape")


class _Sentinels(Sentinel):
    """Redis-py's, with an error that names them as the URL does."""

    def __init__(self, addresses: list[tuple[str, int]], **options: Any) -> None:
        super().__init__(addresses, **options)  # type: ignore[no-untyped-call]
        self._told = ", ".join(f"{host}:{port}" for host, port in addresses)

    def discover_master(self, service_name: str) -> Any:
        """Where the primary is."""
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            raise MasterNotFoundError(f"no Sentinel of {self._told} knows a primary {service_name}") from error


def _connect_sentinel(url: str, options: Mapping[str, Any], db: int) -> redis.Redis:
    """``redis+sentinel://user:password@host:26379,host:26379/name/db``."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, number = parts.path.strip("/").partition("/")
    if not hosts or not name:
        raise ValueError("a sentinel URL is redis+sentinel://host:26379,host:26379/name/0")
    addresses = []
    for address in hosts.split(","):
        host, _, port = address.partition(":")
        if not (port or "0").isdecimal():
            raise ValueError("a sentinel URL is redis+sentinel://host:26379,host:26379/name/0")
        addresses.append((host, int(port or 26379)))
    arguments = {**options, "db": db or int(number or 0)}
    if password and "password" not in arguments:
        arguments["password"] = password
    if user:
        arguments["username"] = user
    timeouts = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout")}
    sentinels = _Sentinels(addresses, sentinel_kwargs=timeouts)
    client: redis.Redis = sentinels.master_for(name, **arguments)  # type: ignore[no-untyped-call]
    return client
