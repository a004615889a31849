"""Sessions without Redis, for a dashboard that may write nothing there."""

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from boilerd.errors import BrokerError

#: A session ends when nobody has used it for so long.
IDLE_S = 12 * 3600
#: For so long a poll of an open page is taken for whose it was.
POLLS_S = 5.0
#: How often it is looked by what the others seal, and how long that lives.
SEAL_FRESH_S, SEAL_LIVES_S = 10.0, 7 * 86400


class Sessions(Protocol):
    """Where sessions are kept."""

    def keep(self, session: str, owner: str) -> None:
        """Begin one."""

    def owner(self, session: str) -> str:
        """Whose it is; empty: nobody's."""

    def end(self, session: str) -> None:
        """End it."""


class HeldSessions:
    """Keeps them in this process, of which a restart asks everybody to log in again.

    Args:
        most: How many; beyond, the oldest end.
    """

    def __init__(self, most: int = 1000) -> None:
        self._owners: dict[str, tuple[str, float]] = {}
        self._most = most
        self._lock = threading.Lock()

    def keep(self, session: str, owner: str) -> None:
        """Begin one."""
        with self._lock:
            self._owners[session] = owner, time.monotonic() + IDLE_S
            while len(self._owners) > self._most:
                del self._owners[next(iter(self._owners))]

    def owner(self, session: str) -> str:
        """Whose it is; empty: nobody's, or no more."""
        with self._lock:
            owner, until_s = self._owners.pop(session, ("", 0.0))
            if time.monotonic() > until_s:
                return ""
            self._owners[session] = owner, time.monotonic() + IDLE_S
            return owner

    def end(self, session: str) -> None:
        """End it."""
        with self._lock:
            self._owners.pop(session, None)


class SparedSessions:
    """Keeps them in one place, and in this process those that it does not take: who looks after a sick Redis logs in.

    Args:
        place: Where they are kept.
    """

    def __init__(self, place: Sessions) -> None:
        self._place = place
        self._held = HeldSessions()

    def keep(self, session: str, owner: str) -> None:
        """Begin one."""
        try:
            self._place.keep(session, owner)
        except BrokerError:
            self._held.keep(session, owner)

    def owner(self, session: str) -> str:
        """Whose it is; empty: nobody's."""
        return self._held.owner(session) or self._place.owner(session)

    def end(self, session: str) -> None:
        """End it, in both: what said that it did not take one may have kept it all the same."""
        is_held = bool(self._held.owner(session))
        self._held.end(session)
        try:
            self._place.end(session)
        except BrokerError:
            if not is_held:
                raise


class SeenSessions:
    """Knows whose a session was a moment ago, for polls of open pages: there are many, and they change nothing.

    Where it is ended in another process, such polls are answered for `POLLS_S` more.

    Args:
        place: Where they are kept.
        most: How many are known; beyond, the oldest are forgotten.
    """

    def __init__(self, place: Sessions, most: int = 1000) -> None:
        self._place = place
        self._seen: dict[str, tuple[str, float]] = {}
        self._most = most
        self._lock = threading.Lock()

    def keep(self, session: str, owner: str) -> None:
        """Begin one."""
        self._place.keep(session, owner)

    def seen(self, session: str) -> str:
        """Whose it was a moment ago; empty: that has to be asked. Never waits."""
        owner, until_s = self._seen.get(session, ("", 0.0))
        return owner if time.monotonic() < until_s else ""

    def owner(self, session: str) -> str:
        """Whose it is; empty: nobody's."""
        seen, until_s = self._seen, time.monotonic() + POLLS_S
        owner = self._place.owner(session)
        with self._lock:
            seen.pop(session, None)
            if owner:
                seen[session] = owner, until_s
            while len(seen) > self._most:
                del seen[next(iter(seen))]
        return owner

    def end(self, session: str) -> None:
        """End it."""
        self._place.end(session)
        self._seen = {}  # what is asked for meanwhile notes it in the one before


def new_session() -> str:
    """The ID of a new session."""
    return secrets.token_urlsafe(32)


class Seals:
    """Seals texts that a browser brings back, by a key that all dashboards of a broker with the same users share.

    Who reads Redis alone cannot make one where people log in: the settings' hashes are in the key as well.

    Args:
        share: Returns what all have; None: this process is alone.
        salt: What only those know who have the settings.
    """

    def __init__(self, share: Callable[[], str] | None = None, salt: bytes = b"") -> None:
        self._share = share
        self._salt = salt
        self._until_s = 0.0 if share else float("inf")
        self._take(secrets.token_hex(32))

    @property
    def is_stale(self) -> bool:
        """Whether `refresh` should be called; never waits."""
        return time.monotonic() >= self._until_s

    def refresh(self) -> None:
        """Read what all have; without Redis, the key stays as it is."""
        if self._share is None:
            return
        self._until_s = time.monotonic() + SEAL_FRESH_S
        with suppress(BrokerError):
            if found := self._share():
                self._take(found)

    def _take(self, secret: str) -> None:
        self._key = hmac.new(self._salt, secret.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def seal(self, *parts: str) -> str:
        """The seal of these texts."""
        told = "\0".join(parts).encode("utf-8", "surrogateescape")
        return base64.urlsafe_b64encode(hmac.digest(self._key, told, "sha256")[:18]).decode()

    def fits(self, seal: str, *parts: str) -> bool:
        """Whether it is theirs."""
        return hmac.compare_digest(seal.encode("utf-8", "surrogateescape"), self.seal(*parts).encode())
