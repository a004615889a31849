"""Where a server of the daemon's listens: at a path, or at a port of an address."""

import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from boilerd.errors import ConfigError

#: `HOST:PORT`, with an address of IPv6 in brackets.
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})")
#: A shorter token could be found by trying.
LEAST_TOKEN = 16

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(NamedTuple):
    """A port of an address or of a host's name; port 0 is any that is free."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # another name, which may lead anywhere
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Path | Address:
    """The path or the address that a text names; raises ValueError where it names none."""
    if text.startswith("/"):
        text.encode()
        return Path(text)
    found = _PLACE.fullmatch(text)
    if not found or int(found[3]) > 65535:
        raise ValueError(text)
    if found[1]:
        ipaddress.IPv6Address(found[1])
    return Address(found[1] or found[2], int(found[3]))


def read_networks(texts: Iterable[str]) -> list[Network]:
    """The networks, of which a single address is one; raises ValueError."""
    return [ipaddress.ip_network(text, strict=False) for text in texts]


def check_token(token: str) -> None:
    """Raise ValueError for a token that no client could send, or that is soon found."""
    if len(token) < LEAST_TOKEN or not all("!" <= char <= "~" for char in token):
        raise ValueError


def check_exposure(setting: str, listen: str | None, *, is_guarded: bool, guards: str) -> None:
    """Raise ConfigError where anybody of other hosts could ask.

    Args:
        setting: Names the address.
        listen: It; None: nothing listens.
        is_guarded: True if a setting says who may ask.
        guards: Names those that could.
    """
    place = read_address(listen) if listen else None
    if isinstance(place, Address) and not place.is_loopback and not is_guarded:
        raise ConfigError(
            f"{setting}: other hosts can reach {place}, and nothing says which may ask; set {guards}, or listen at"
            f" 127.0.0.1:{place.port} or at a path"
        )
