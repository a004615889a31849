"""Who is behind a connection: what a proxy tells counts only if the settings trust it."""

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from boilerd.errors import ConfigError, shown
from boilerd.settings.web import Web

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

#: How the settings name whoever connects to the Unix socket.
UNIX = "unix"
#: What proxies add to what they pass on; Envoy has only the second, as it is.
_ADDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via", b"x-real-ip"})


def check_header(web: Web) -> None:
    """Raise ConfigError where a header is to name people, and nobody may send it."""
    if web.trusted_header and not web.trusted_proxies:
        raise ConfigError("web.trusted_header: nobody may send it; name the proxy in trusted_proxies, or take it away")


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

    def is_by_stranger(self, request: "HTTPConnection") -> bool:
        """Whether a proxy passed it on that is none of ours, as far as one can see.

        Most add a header; nginx adds none and speaks HTTP/1.0, unless it is told otherwise; and where a page of ours
        has another name than the host that it asks, somebody between the two has changed that.
        """
        headers = request.headers
        page = headers.get("origin") or headers.get("referer", "")
        named = page.partition("://")[2].partition("/")[0]  # empty: the page has been told to say nothing of itself
        is_renamed = headers.get("sec-fetch-site") == "same-origin" and named not in {"", headers.get("host")}
        is_old = request.scope.get("http_version") == "1.0"
        is_passed = is_renamed or is_old or not _ADDED.isdisjoint(name for name, _ in headers.raw)
        return is_passed and not self.trusts(request)

    def address(self, request: "HTTPConnection") -> str:
        """The address of the person, as far as it is known: the last one that is none of a proxy of ours."""
        address = _peer(request)
        told = ",".join(request.headers.getlist("x-forwarded-for"))  # a proxy may add a line of its own
        for each in reversed(told.split(",")):
            if not self._is_trusted(address):
                break
            address = each.strip() or address
        return address[:64]

    def is_secure(self, request: "HTTPConnection") -> bool:
        """Whether the browser uses TLS."""
        return (self._told(request, "x-forwarded-proto") or request.scope["scheme"]) == "https"

    def host(self, request: "HTTPConnection") -> str:
        """Host and port as the browser has them in its address."""
        return self._told(request, "x-forwarded-host") or request.headers.get("host", "")

    def _told(self, request: "HTTPConnection", header: str) -> str:
        """What a proxy of ours says, in the last line of this name; empty: nothing."""
        lines = request.headers.getlist(header) if self.trusts(request) else []
        return lines[-1] if lines else ""

    def _is_trusted(self, address: str) -> bool:
        if address == UNIX:
            return self._trusts_unix
        if not self._networks:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None  # of a socket for both
        return any((mapped or found) in network for network in self._networks)


def _peer(request: "HTTPConnection") -> str:
    """Its address; empty: it is not known, as of a peer that has gone by now."""
    if request.client and request.client.host:
        return request.client.host
    _, port = request.scope.get("server") or ("", None)
    return UNIX if port is None else ""


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigError(f"web.trusted_proxies: {shown(text)} is no address or network; or write 'unix'") from error
