"""Who may ask: by address, by token, and by the name under which a browser reached this host."""

import hmac
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from boilerd.exporter.http import Request
from boilerd.settings.addresses import Address, Network, read_address, read_networks
from boilerd.settings.definitions import Settings


class Access:
    """The rules.

    Args:
        token: What a client must send; None: nothing.
        networks: Whose clients may ask; none: all.
        place: Where they ask; the mode of a path says who may.
    """

    def __init__(self, token: str | None, networks: Sequence[Network], place: Path | Address) -> None:
        self._token = token
        self._networks = networks
        self._is_path = isinstance(place, Path)
        self._is_loopback = isinstance(place, Address) and place.is_loopback

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The rules of these settings."""
        place = read_address(settings.metrics_listen or "/")
        return cls(settings.metrics_token, read_networks(settings.metrics_allow), place)

    def admits(self, request: Request) -> bool:
        """True if the client may ask at all."""
        return not self.refusal(request)

    def refusal(self, request: Request) -> str:
        """Why the client may not ask at all; empty: it may."""
        if self._is_path:
            return ""
        if self._is_rebound(request):
            return "no name but localhost may be asked for here without metrics_token; ask for localhost or an address"
        return "" if not self._networks or self._is_known(request.peer) else "metrics_allow does not name this client"

    def has_token(self, request: Request) -> bool:
        """True if it sends the token, or needs none; takes the same time for each that is wrong."""
        if self._token is None:
            return True
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        is_same = hmac.compare_digest(sent.strip().encode("latin-1", "replace"), self._token.encode())
        return is_same and scheme.lower() == "bearer"

    def _is_known(self, peer: str) -> bool:
        if not peer:  # it has gone
            return False
        address = ipaddress.ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._networks)

    def _is_rebound(self, request: Request) -> bool:
        """True if a browser on this machine may have been led here by a name of somebody's, to read for him."""
        host = request.headers.get("host", "")
        if not (self._is_loopback and self._token is None and host):
            return False
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return False
        return name.lower() != "localhost"
