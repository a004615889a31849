"""Check the URL of a Redis, and hide the passwords in it."""

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote_plus, urlsplit

from boilerd.errors import ConfigError, closest, shown

MASK = "********"

SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")

#: Not urlsplit, for the likeliest mistakes are a password with / ? # [ in it, unquoted, and one without its @.
_SCHEME = re.compile(r"[\w+.-]*:?//|")
#: What may stand before the first / ? # without an @: hosts, each with a port at most.
_HOSTS = re.compile(r"(?:(?:^|,)(?:\[[^\]]*\]|[^:,\[\]]+)(?::\d*)?)*")
#: redis-py knows `password` and `ssl_password`; any other name with this end may be one too.
_PASSWORD_IN_QUERY = re.compile(r"([?&][^=&#]*password=)[^&#]*", re.IGNORECASE)

_SECONDS, _COUNT, _WHOLE = r"(?=.*[1-9])\d{1,9}(\.\d+)?", r"[1-9]\d{0,8}", r"\d{1,9}"
_SWITCH, _VERSION, _TEXT = r"(?i:[01tfyn]|true|false|yes|no)", r"[23]", r".+"
_CHECKS = r"none|optional|required"
_FORMS = {
    _SECONDS: "a number of seconds above 0", _COUNT: "a whole number above 0", _WHOLE: "a whole number",
    _SWITCH: "true or false", _VERSION: "2 or 3", _TEXT: "a text",
    _CHECKS: "none, optional or required",
}  # fmt: skip
#: Options of redis-py in a URL's query that boilerd takes, and what each may hold.
_OPTIONS = {
    "db": _WHOLE, "username": _TEXT, "password": _TEXT, "client_name": _TEXT, "protocol": _VERSION,
    "socket_timeout": _SECONDS, "socket_connect_timeout": _SECONDS, "socket_keepalive": _SWITCH,
    "socket_read_size": _COUNT, "max_connections": _COUNT, "health_check_interval": _WHOLE,
    "ssl_keyfile": _TEXT, "ssl_certfile": _TEXT, "ssl_password": _TEXT, "ssl_cert_reqs": _CHECKS,
    "ssl_ca_certs": _TEXT, "ssl_ca_path": _TEXT, "ssl_ca_data": _TEXT, "ssl_check_hostname": _SWITCH,
    "ssl_min_version": _WHOLE, "ssl_ciphers": _TEXT, "ssl_include_verify_flags": _TEXT,
    "ssl_exclude_verify_flags": _TEXT,
}  # fmt: skip
#: Those that are for clients of an application: the daemon and the commands have waits and connections of their own.
CLIENT_OPTIONS = frozenset(
    {"client_name", "socket_timeout", "socket_connect_timeout", "socket_read_size", "max_connections",
     "health_check_interval"}
)  # fmt: skip
_AGAIN = "a command that failed is not sent again, for it may have been carried out"
_BYTES = "boilerd reads and writes bytes"
_ONE = "each process has the connections that it needs"
#: Why boilerd takes no other value than its own.
_REASONS = {
    "retry": _AGAIN, "retry_on_timeout": _AGAIN, "retry_on_error": _AGAIN,
    "decode_responses": _BYTES, "encoding": _BYTES, "encoding_errors": _BYTES, "legacy_responses": _BYTES,
    "single_connection_client": _ONE, "timeout": _ONE,
}  # fmt: skip


def mask_url(url: str) -> str:
    """The URL without its passwords; also hides them in a text that is no valid URL."""
    scheme, rest = _split(url)
    before, at, after = rest.rpartition("@")
    if rest.startswith("/"):  # the path of a socket
        pass
    elif at:
        rest = f"{_masked(before)}@{after}"
    elif not _HOSTS.fullmatch(re.split(r"[/?#]", rest)[0]):
        rest = _masked(rest)
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", scheme + rest)


def check_url(url: str) -> None:
    """Raise ConfigError, without the password, if it is no URL of a Redis."""
    if not url.startswith(SCHEMES):
        raise ConfigError(f"redis_url: {shown(mask_url(url))} does not begin with one of {', '.join(SCHEMES)}")
    try:
        parts = urlsplit(url)
        if parts.scheme in {"redis", "rediss"}:
            _ = parts.port
        is_cut = parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment
    except ValueError as error:
        if "@" not in url:
            # The error shows a part of the URL.
            wrong = (
                error if mask_url(url) == url else "a password needs an @ behind it, as in redis://:PASSWORD@host:6379"
            )
            raise ConfigError(f"redis_url: {shown(mask_url(url))}: {wrong}") from error
        is_cut = True
    if is_cut:
        raise ConfigError(
            f"redis_url: {shown(mask_url(url))} is no URL; in its password write / ? # [ @ as %2F %3F %23 %5B %40"
        )
    if wrong := _wrong_part(urlsplit(url)) or _wrong_option(urlsplit(url)):
        raise ConfigError(f"redis_url: {shown(mask_url(url))}: {wrong}")


def _wrong_part(parts: SplitResult) -> str:
    """Describe the part of the URL that redis-py would misread; empty if there is none."""
    if parts.scheme == "unix":
        is_path = parts.path.strip("/") and not parts.netloc.rpartition("@")[2]
        return "" if is_path else "the path of a socket stands behind three slashes, as in unix:///run/valkey.sock"
    path = parts.path.strip("/")
    number = path.partition("/")[2] if parts.scheme == "redis+sentinel" else path
    return "" if re.fullmatch(r"\d*", number) else f"{shown(number)} is not the number of a database, such as 0"


def _split(url: str) -> tuple[str, str]:
    """The scheme with its slashes, and the rest."""
    match = _SCHEME.match(url)
    end = match.end() if match else 0
    return url[:end], url[end:]


def _masked(credentials: str) -> str:
    """What stands before an @, or should: without a colon it is a password where a user should be, as often as not."""
    user, colon, _ = credentials.partition(":")
    return f"{user}:{MASK}" if colon and not re.search(r"[/?#]", user) else MASK


def _wrong_option(parts: SplitResult) -> str:
    """Describe the option in the URL's query that is not taken, or its wrong value; empty if there is none."""
    options = parse_qsl(parts.query, keep_blank_values=True)
    return next(filter(None, (_wrong(name, value, parts.scheme) for name, value in options)), "")


def _wrong(name: str, value: str, scheme: str) -> str:
    if reason := _REASONS.get(name):
        return f"{name} is not taken, because {reason}; leave it out"
    if name not in _OPTIONS:
        close = closest(name, _OPTIONS)
        cure = f"did you mean {close}?" if close else "leave it out"
        return f"{name} is no option that boilerd takes; {cure}"
    if name.startswith("ssl_") and scheme != "rediss":
        return f"{name} is for TLS, which has URLs of the form rediss://"
    if name == "socket_keepalive" and scheme == "unix":
        return f"{name} is for TCP; leave it out"
    form = _OPTIONS[name]
    return "" if re.fullmatch(form, value) else f"{name} is not {_FORMS[form]}"


def options_of(url: str) -> dict[str, str]:
    """The options in the query of a URL; where one stands there twice, the first counts, as with redis-py."""
    return dict(reversed(parse_qsl(urlsplit(url).query)))


def without_options(url: str, names: Collection[str]) -> str:
    """The URL without these options in its query."""
    address, _, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair and unquote_plus(pair.partition("=")[0]) not in names]
    return f"{address}?{'&'.join(kept)}" if kept else address


def socket_url(path: Path) -> str:
    """The URL of a Unix socket."""
    return f"unix://{quote(str(path))}"
