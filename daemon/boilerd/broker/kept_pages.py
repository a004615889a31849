"""Pages of the web dashboard as they were at a moment, with their data: kept in Redis for a week, for who asks later.

Redis may hold anything there: what is no page that was kept is left out, and one that is too large is not read.
"""

import secrets
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis

from boilerd.broker import keys
from boilerd.broker.audit import Audit
from boilerd.broker.connection import text
from boilerd.broker.refusals import expecting, sound, translated
from boilerd.errors import InvalidTaskError

#: How long a page is kept.
KEPT_S = 7 * 86400
#: Pages that are kept at once, and bytes of one of them, packed: 25 MB of Redis's memory in all.
MOST, MOST_BYTES = 100, 256 * 1024
#: Bytes of one that is unpacked.
MOST_UNPACKED = 16 << 20


class About(msgspec.Struct, frozen=True):
    """What is known of a page that is kept.

    Attributes:
        path: Its address below the prefix, with the query.
        title: Its heading.
        user: Who kept it.
        at: When, by Redis's clock.
        version: Of boilerd, which has to be the same to show it.
        shows_payloads: Whether payloads, results and headers stand in it.
    """

    path: str
    title: str
    user: str
    at: datetime
    version: str
    shows_payloads: bool


@dataclass(frozen=True, slots=True)
class KeptPage:
    """A page that is kept; its ID and what is known of it."""

    id: str
    about: About


class KeptPages:
    """Keeps them; raises BrokerError.

    Args:
        connection: The client of Redis.
        audit: Where it is noted who keeps and deletes one.
    """

    def __init__(self, connection: redis.Redis, audit: Audit) -> None:
        self._connection = connection
        self._audit = audit

    def keep(self, content: str, **about: Any) -> str:
        """Keep a page with this content in ASCII; its ID. What is known of it is that of `About`, but for the moment.

        Raises:
            InvalidTaskError: It is too large, or there are too many.
        """
        packed, page_id = zlib.compress(content.encode("ascii")), secrets.token_hex(8)
        with self._audit.noting("keep", page=about["path"]) as noted:
            if len(packed) > MOST_BYTES or len(content) > MOST_UNPACKED:
                raise InvalidTaskError(f"this page is too large to be kept: {len(packed):,} bytes, packed")
            now_s, count = self._make_room()
            if count >= MOST:
                raise InvalidTaskError(f"there are {MOST} pages that are kept, and no more; delete one of them")
            known = About(at=datetime.fromtimestamp(now_s, UTC), **about)
            with translated(), self._connection.pipeline() as pipeline:
                pipeline.hset(keys.kept_page(page_id), mapping={"about": msgspec.json.encode(known), "content": packed})
                pipeline.expire(keys.kept_page(page_id), KEPT_S)
                pipeline.zadd(keys.KEPT_PAGES, {page_id: now_s})
                pipeline.expire(keys.KEPT_PAGES, KEPT_S)
                pipeline.execute()
            noted.count = 1
        return page_id

    def latest(self) -> list[KeptPage]:
        """All of them, latest first."""
        connection: Any = self._connection
        with expecting("sorted set", keys.KEPT_PAGES):
            ids = [text(page_id) for page_id in connection.zrevrange(keys.KEPT_PAGES, 0, MOST - 1)]
        found = ((page_id, self._about(record)) for page_id, record in zip(ids, self._read(ids, "about"), strict=True))
        return [KeptPage(page_id, about) for page_id, about in found if about]

    def one(self, page_id: str) -> tuple[KeptPage, str] | None:
        """One of them with its content; None: there is none."""
        key = keys.kept_page(page_id)
        with expecting("hash", key):
            if not 0 < self._connection.hstrlen(key, "content") <= MOST_BYTES:
                return None
            given, packed = self._connection.hmget(key, ["about", "content"])
        about, content = self._about(given), _unpack(packed)
        return (KeptPage(page_id, about), content) if about and content else None

    def delete(self, page_id: str) -> bool:
        """Delete one; False: it was not there."""
        with self._audit.noting("delete", page=page_id) as noted:
            with translated(), self._connection.pipeline() as pipeline:
                pipeline.delete(keys.kept_page(page_id))
                pipeline.zrem(keys.KEPT_PAGES, page_id)
                gone, _ = pipeline.execute()
            noted.count = int(gone)
            noted.is_wanted = bool(gone)
        return bool(gone)

    def _make_room(self) -> tuple[float, int]:
        """Redis's clock, and how many there are without those that are over."""
        with expecting("sorted set", keys.KEPT_PAGES):
            seconds, micros = self._connection.time()
            self._connection.zremrangebyscore(keys.KEPT_PAGES, 0, seconds - KEPT_S)
            return seconds + micros / 1e6, int(self._connection.zcard(keys.KEPT_PAGES))

    def _read(self, ids: list[str], field: str) -> list[Any]:
        with translated(), self._connection.pipeline(transaction=False) as pipeline:
            for page_id in ids:
                pipeline.hget(keys.kept_page(page_id), field)
            return list(sound(pipeline.execute(raise_on_error=False)))

    @staticmethod
    def _about(given: Any) -> About | None:
        with suppress(ValueError, TypeError, RecursionError):  # msgspec's errors are of these
            return msgspec.json.decode(given, type=About)
        return None


def _unpack(packed: Any) -> str:
    """The content; empty: it is none."""
    with suppress(zlib.error, UnicodeDecodeError, TypeError):
        unpacking = zlib.decompressobj()
        found = unpacking.decompress(packed, MOST_UNPACKED)
        return found.decode("ascii") if unpacking.eof else ""
    return ""
