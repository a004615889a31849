"""Clients of Redis, made from a URL or from the settings; and text as Redis holds it."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, HiredisRespSerializer
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from boilerd.broker import key_prefix as key_names
from boilerd.broker import keys
from boilerd.broker.connection_pool import ConnectionStack
from boilerd.broker.embedded import DAEMON_USER, read_secret, secret_path
from boilerd.errors import ConfigError, shown
from boilerd.settings.definitions import Settings
from boilerd.settings.urls import CLIENT_OPTIONS, check_url, mask_url, options_of, without_options

#: How long a command may take.
DEFAULT_TIMEOUT_S = 5.0
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")
_SENTINEL_FORM = "a sentinel URL is redis+sentinel://host:26379,host:26379/name/0"


def connect(
    url: str,
    *,
    password: str | None = None,
    db: int = 0,
    timeout_s: float | None = None,
    name: str | None = None,
    is_client: bool = True,
    key_prefix: str | None = None,
) -> redis.Redis:
    """Make a client for one process; it connects at the first command.

    A command that failed is not sent again: the first one may have run.

    Args:
        url: Where Redis is, with options in the query.
        password: Wins over the one in the URL.
        db: Number of the database; where not 0, it wins over the one in the URL.
        timeout_s: How long a command may take; without it, what the URL says, or 5 s.
        name: How Redis shows the connections, where it has names for them.
        is_client: False for boilerd's own processes, which ignore the options that are for an application's clients.
        key_prefix: What all keys begin with, one for the whole process; without it, what the environment says.

    Raises:
        ConfigError: The URL cannot be understood, or has an option that boilerd does not take; or this process uses
            another prefix already.
    """
    key_names.use(key_prefix)
    check_url(url)
    if is_client and not name:
        name = options_of(url).get("client_name")
    ignored = {"client_name", "protocol", *([] if is_client else CLIENT_OPTIONS), *(_TIMEOUTS if timeout_s else [])}
    url = without_options(url, ignored)
    options = _options(timeout_s or DEFAULT_TIMEOUT_S, name)
    if password:
        options["password"] = password
    try:
        if urlsplit(url).scheme == "redis+sentinel":
            return _connect_sentinel(url, options, db)
        pool = ConnectionStack.from_url(url, **options)
        if password or db:
            # These settings win over the same parts of the URL.
            pool.connection_kwargs.update({"password": password} if password else {})
            pool.connection_kwargs.update({"db": db} if db else {})
        pool.prepare()
    except (ValueError, TypeError) as error:
        raise ConfigError(f"redis_url: {shown(mask_url(url))}: {error}") from error
    return redis.Redis.from_pool(pool)


def connect_to(
    settings: Settings, *, timeout_s: float | None = None, name: str | None = None, is_client: bool = False
) -> redis.Redis:
    """Make a client for the broker that the settings name, as `connect` does.

    The embedded Valkey has no password that anybody sets, so that one which is left over does not matter there.
    """
    return connect_as_daemon(
        settings.broker_url(),
        password=settings.redis_password if settings.redis_url else None,
        db=settings.redis_db,
        timeout_s=timeout_s,
        name=name,
        is_client=is_client,
        key_prefix=settings.key_prefix,
    )


def connect_as_daemon(url: str, *, password: str | None = None, **options: Any) -> redis.Redis:
    """As `connect`; as the user who may do all, where its secret stands beside the socket and there is no password."""
    if not password and (password := _secret_for(url)):
        url += f"?username={DAEMON_USER}"
    return connect(url, password=password, **options)


def count_commands(client: redis.Redis) -> Callable[[], int] | None:
    """Tells how many commands the client has sent from now on; None: it is one that `connect` has not made."""
    pool = client.connection_pool
    if not isinstance(pool, ConnectionStack):
        return None
    count = pool.count_commands()
    return lambda: count.commands


def mark_of(settings: Settings) -> str:
    """Tells the data of this broker, database and prefix from others, in the name of a file; holds no password."""
    place = f"{mask_url(settings.broker_url())} {settings.redis_db} {keys.OWN}"
    return hashlib.sha256(raw(place)).hexdigest()[:12]


def _secret_for(url: str) -> str | None:
    """The secret that stands beside the socket of a URL without options or a user; None where there is none for us."""
    parts = urlsplit(url)
    if parts.scheme != "unix" or parts.netloc or parts.query:
        return None
    return read_secret(secret_path(Path(unquote(parts.path)))) or None


def _options(timeout_s: float, name: str | None) -> dict[str, Any]:
    """What redis-py is told of each connection; the URL may have other timeouts."""
    options: dict[str, Any] = {
        **dict.fromkeys(_TIMEOUTS, timeout_s),
        "retry": Retry(NoBackoff(), 0),
        # Fewer round trips before the first command, and less memory in each child: without the second, redis-py (8.1)
        # reads its package's metadata for each connection; nothing here needs what RESP3 adds.
        "protocol": 2,
        "driver_info": None,
        "command_packer": _Packer(),
    }
    return {**options, "redis_connect_func": functools.partial(_introduce, name)} if name else options


def _introduce(name: str, connection: Any) -> None:
    """Begin with a connection that is open; redis-py's own way fails where Redis has no names for connections."""
    connection.on_connect()
    connection.send_command("CLIENT", "SETNAME", name)
    with suppress(redis.ResponseError):
        connection.read_response()


class _Packer(HiredisRespSerializer):
    """redis-py's packer, but hiredis (3.5) gets no numbers: it crashes when a signal handler raises meanwhile.

    Foreign names that are no text, as `text` read them, are sent as the bytes that they are.
    """

    def pack(self, *args: Any) -> Any:
        """The command as it is sent."""
        parts = [repr(part) if type(part) in _NUMBERS else part for part in args]
        try:
            return super().pack(*parts)  # type: ignore[arg-type]  # typed as lists
        except UnicodeEncodeError:  # a foreign name in bytes that are no text
            return super().pack(*(raw(part) if isinstance(part, str) else part for part in parts))  # type: ignore[arg-type]


_NUMBERS = (int, float)


def _connect_sentinel(url: str, options: Mapping[str, Any], db: int) -> redis.Redis:
    """Make a client for ``redis+sentinel://user:password@host:26379,host:26379/name/db``."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, number = parts.path.strip("/").partition("/")
    if not hosts or not name:
        raise ValueError(_SENTINEL_FORM)
    addresses = [_address(host) for host in hosts.split(",")]
    parsers: Mapping[str, Any] = URL_QUERY_ARGUMENT_PARSERS
    given = {name: parsers.get(name, str)(value) for name, value in options_of(url).items()}
    arguments = {"db": int(number or 0), **options, **given}
    if db:
        arguments["db"] = db
    if "password" in options:
        arguments["password"] = options["password"]
    elif password and "password" not in arguments:
        arguments["password"] = password
    if user:
        arguments["username"] = user
    timeouts = {key: arguments[key] for key in _TIMEOUTS}
    sentinels = _Sentinels(addresses, sentinel_kwargs=timeouts)
    client: redis.Redis = sentinels.master_for(name, **arguments)  # type: ignore[no-untyped-call]
    return client


def _address(place: str) -> tuple[str, int]:
    """Host and port of a Sentinel."""
    host, _, port = place.partition(":")
    if not (port or "0").isdecimal():
        raise ValueError(_SENTINEL_FORM)
    return host, int(port or 26379)


class _Sentinels(Sentinel):
    """redis-py's Sentinels, with an error that names them as the URL does."""

    def __init__(self, addresses: list[tuple[str, int]], **options: Any) -> None:
        super().__init__(addresses, **options)  # type: ignore[no-untyped-call]
        self._addresses = ", ".join(f"{host}:{port}" for host, port in addresses)

    def discover_master(self, service_name: str) -> Any:
        """The address of the primary."""
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:
            raise MasterNotFoundError(f"no Sentinel of {self._addresses} knows a primary {service_name}") from error


def text(value: bytes | str) -> str:
    """The text that Redis holds, whatever a foreign client wrote; `raw` makes the same bytes of it again."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def raw(value: str) -> bytes:
    """The bytes that `text` read; redis-py's fast path would refuse those that are no UTF-8."""
    return value.encode("utf-8", "surrogateescape")
