"""Sessions of people who logged in to the dashboard, of whose IDs Redis has hashes alone; and what seals its forms."""

import hashlib
import secrets

import redis

from boilerd.broker import keys
from boilerd.broker.connection import text
from boilerd.broker.refusals import translated


class WebSessions:
    """Keeps who a session belongs to, for as long as it is used; raises BrokerError.

    Args:
        connection: The client of Redis.
        idle_s: For how long one lives that nobody uses.
    """

    def __init__(self, connection: redis.Redis, idle_s: int) -> None:
        self._connection = connection
        self._idle_s = idle_s

    def keep(self, session: str, owner: str) -> None:
        """Begin a session."""
        with translated():
            self._connection.set(_key(session), owner, ex=self._idle_s)

    def owner(self, session: str) -> str:
        """Whose it is; empty: nobody's, or no more."""
        with translated():
            found = self._get(_key(session))
        return text(found) if isinstance(found, bytes | str) else ""

    def _get(self, key: str) -> object:
        try:
            return self._connection.getex(key, ex=self._idle_s)
        except redis.ResponseError:  # a replica, one whose disk is full, or one that we may not write to: not renewed
            return self._connection.get(key)

    def end(self, session: str) -> None:
        """End it everywhere."""
        with translated():
            self._connection.delete(_key(session))


class WebSecret:
    """What all dashboards of a broker have in common; raises BrokerError.

    Args:
        connection: The client of Redis.
        lives_s: After so long another one takes its place; 0: this one only reads.
    """

    def __init__(self, connection: redis.Redis, lives_s: int) -> None:
        self._connection = connection
        self._lives_s = lives_s

    def get(self) -> str:
        """The secret; empty: there is none."""
        with translated():
            found = self._connection.get(keys.WEB_SECRET)
            if found is None and self._lives_s:
                self._connection.set(keys.WEB_SECRET, secrets.token_hex(32), ex=self._lives_s, nx=True)
                found = self._connection.get(keys.WEB_SECRET)
        return text(found) if isinstance(found, bytes | str) else ""


def _key(session: str) -> str:
    return keys.web_session(hashlib.sha256(session.encode("utf-8", "surrogateescape")).hexdigest())
