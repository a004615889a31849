"""Check the URL of a Redis, and hide the passwords in it."""

import re
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from boilerd.errors import ConfigError

MASK = "********"

SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")

#: Not urlsplit, for the likeliest mistakes are a password with / ? # [ in it, unquoted, and one without its @.
_SCHEME = re.compile(r"[\w+.-]*:?//|")
#: What may stand before the first / ? # without an @: hosts, each with a port at most.
_HOSTS = re.compile(r"(?:(?:^|,)(?:\[[^\]]*\]|[^:,\[\]]+)(?::\d*)?)*")
#: redis-py knows `password` and `ssl_password`; any other name with this end may be one too.
_PASSWORD_IN_QUERY = re.compile(r"([?&][^=&#]*password=)[^&#]*", re.IGNORECASE)


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
        raise ConfigError(f"redis_url: {mask_url(url)!r} does not begin with one of {', '.join(SCHEMES)}")
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
            raise ConfigError(f"redis_url: {mask_url(url)!r}: {wrong}") from error
        is_cut = True
    if is_cut:
        raise ConfigError(
            f"redis_url: {mask_url(url)!r} is no URL; in its password write / ? # [ @ as %2F %3F %23 %5B %40"
        )
    if wrong := _wrong_part(urlsplit(url)):
        raise ConfigError(f"redis_url: {mask_url(url)!r}: {wrong}")


def _wrong_part(parts: SplitResult) -> str:
    """Describe the part of the URL that redis-py would misread; empty if there is none."""
    if parts.scheme == "unix":
        is_path = parts.path.strip("/") and not parts.netloc.rpartition("@")[2]
        return "" if is_path else "the path of a socket stands behind three slashes, as in unix:///run/valkey.sock"
    path = parts.path.strip("/")
    number = path.partition("/")[2] if parts.scheme == "redis+sentinel" else path
    return "" if re.fullmatch(r"\d*", number) else f"{number!r} is not the number of a database, such as 0"


def _split(url: str) -> tuple[str, str]:
    """The scheme with its slashes, and the rest."""
    match = _SCHEME.match(url)
    end = match.end() if match else 0
    return url[:end], url[end:]


def _masked(credentials: str) -> str:
    """What stands before an @, or should: without a colon it is a password where a user should be, as often as not."""
    user, colon, _ = credentials.partition(":")
    return f"{user}:{MASK}" if colon and not re.search(r"[/?#]", user) else MASK


def socket_url(path: Path) -> str:
    """The URL of a Unix socket."""
    return f"unix://{quote(str(path))}"
