"""Check the URL of a Redis, and hide the passwords in it."""

import re
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from boilerd.errors import ConfigError

MASK = "********"

SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")

#: Not urlsplit, for the likeliest mistake is a password with / ? # [ in it, unquoted.
_CREDENTIALS = re.compile(
    r"(?P<scheme>[\w+.-]*:?//|(?![\w+.-]*:?//))(?P<user>[^:/@]*)(:.*)?@(?P<rest>[^@]*)", re.DOTALL
)
#: redis-py knows `password` and `ssl_password`; any other name with this end may be one too.
_PASSWORD_IN_QUERY = re.compile(r"([?&][^=&#]*password=)[^&#]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """The URL without its passwords; also hides them in a text that is no valid URL."""
    if match := _CREDENTIALS.fullmatch(url):
        url = f"{match['scheme']}{match['user']}:{MASK}@{match['rest']}"
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", url)


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
            raise ConfigError(f"redis_url: {mask_url(url)!r}: {error}") from error
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


def socket_url(path: Path) -> str:
    """The URL of a Unix socket."""
    return f"unix://{quote(str(path))}"
