"""Who is behind a connection: what a proxy tells counts only if the settings trust it."""

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from boilerd.errors import ConfigError, shown

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

#: How the settings name whoever connects to the Unix socket.
UNIX = "unix"


class Proxies:
    """Reads the headers that proxies add.

    Args:
        trusted: Addresses and networks of proxies, or ``unix``.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusts_unix = UNIX in trusted
        self._networks = [_network(each) for each in trusted if each != UNIX]

    def trusts(self, request: "HTTPConnection") -> bool:
        """Whether the connection comes from one of them."""
        return self._is_trusted(_peer(request))

    def address(self, request: "HTTPConnection") -> str:
        """The address of the person, as far as it is known: the last one that is none of a proxy of ours."""
        address = _peer(request)
        for told in reversed(request.headers.get("x-forwarded-for", "").split(",")):
            if not self._is_trusted(address):
                break
            address = told.strip() or address
        return address[:64]

    def is_secure(self, request: "HTTPConnection") -> bool:
        """Whether the browser uses TLS."""
        told = request.headers.get("x-forwarded-proto", "") if self.trusts(request) else ""
        return (told or request.scope["scheme"]) == "https"

    def host(self, request: "HTTPConnection") -> str:
        """Host and port as the browser has them in its address."""
        told = request.headers.get("x-forwarded-host", "") if self.trusts(request) else ""
        return told or request.headers.get("host", "")

    def _is_trusted(self, address: str) -> bool:
        if address == UNIX:
            return self._trusts_unix
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _peer(request: "HTTPConnection") -> str:
    return request.client.host if request.client and request.client.host else UNIX


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"web.trusted_proxies: {shown(text)} is no address or network; or write 'unix'") from error
