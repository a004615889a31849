"""The audit: who intervened, from where, in what, and how it ended; one entry for each intervention, or bulk action.

A stream of Redis's, of which the oldest entries make way. It costs no intervention: where an entry cannot be written,
what was done counts all the same, and the process says so once. Whoever may write it can write anything, so it tells
what happened among people who trust each other, and proves nothing.
"""

import functools
import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import MOST_TEXT
from boilerd.broker.refusals import expecting, translated
from boilerd.broker.script_calls import ScriptCalls
from boilerd.errors import BoilerdError, BrokerError, BrokerRefusedError, InvalidTaskError

logger = logging.getLogger("boilerd.client")

#: What people do.
What = Literal[
    "run", "archive", "delete", "cancel", "move", "reschedule", "enqueue", "copy", "export", "reveal", "keep",
    "pause", "resume", "cron run", "unlock", "quiet", "reload", "restart", "scale", "acknowledge",
    "unacknowledge", "mute", "unmute", "note",
]  # fmt: skip
KINDS: tuple[What, ...] = get_args(What)
Outcome = Literal["done", "refused", "failed", "interrupted", "begun"]
#: Entries in one answer of Redis: about 30 kB, and it takes Redis 0.1 ms.
_CHUNK = 150


@dataclass(frozen=True, slots=True)
class Actor:
    """Who intervenes.

    Attributes:
        via: From where: ``cli``, ``dash``, ``python`` or ``web``.
        user: Name of the user; empty: the one whom this process belongs to.
        host: Name of the host; empty: this one.
    """

    via: str = "python"
    user: str = ""
    host: str = ""

    def args(self, on: Mapping[str, str]) -> list[str]:
        """As audit.lua takes it, with that on which it is done."""
        shown = {name: _cut(value) for name, value in on.items() if value}
        user, host = self.user or _user(os.geteuid()), self.host or os.uname().nodename
        return [_cut(user), _cut(host), self.via, json.dumps(shown)]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One intervention.

    Attributes:
        id: Of the entry, by which they are ordered.
        at: When it ended, by Redis's clock.
        user: Who it was; ``anna as root``, where it was by sudo.
        host: Where.
        via: ``cli``, ``dash``, ``python`` or ``web``.
        what: Such as ``delete``.
        on: On what: ``task``, with its ``request_id``, and ``copied_from``, ``to`` or ``at`` where it is copied, moved
            or rescheduled; ``queue`` with ``state``, ``type``, ``fingerprint`` and, for an export, ``search``;
            ``page``, for that of another list; ``fingerprint`` alone, for a failure group; each with ``operation``,
            where it was one; ``cron``; ``note`` and ``until``, of a pause that has them; or ``daemon``
            with ``pool``, ``workers`` and ``size``.
        count: With how many it was done.
        outcome: ``done``; ``refused``, as it could not be done with that; ``failed``; ``interrupted``, in a bulk
            action; or ``begun``, of an operation with so many tasks, which has another entry at its end.
        why: The reason of a refusal, the kind of an error.
    """

    id: str
    at: datetime
    user: str
    host: str
    via: str
    what: str
    on: Mapping[str, str]
    count: int
    outcome: str
    why: str

    def fits(self, who: str | None, what: str | None, on: str | None = None) -> bool:
        """Whether it is by this user, of this kind and on a thing of this name; None fits all."""
        is_theirs = who is None or who in {self.user, *self.user.split(" as ")}
        return is_theirs and what in {None, self.what} and (on is None or on in self.on.values())


@dataclass(slots=True)
class Note:
    """What is noted at the end of an intervention.

    Attributes:
        count: With how many it was done so far.
        on: What there is to tell beside that on which it is done.
        is_wanted: False if there is nothing to tell.
    """

    count: int = 0
    on: Mapping[str, str] = field(default_factory=dict)
    is_wanted: bool = field(default=True)


class Audit(ScriptCalls):
    """Writes and reads the audit.

    Args:
        connection: The client of Redis.
        by: Who intervenes.

    Attributes:
        by: The same.
    """

    def __init__(self, connection: redis.Redis, by: Actor) -> None:
        super().__init__(connection)
        self.by = by

    @contextmanager
    def noting(self, what: What, **on: str) -> Iterator[Note]:
        """Note what is done in the block at its end, however that comes; the block sets the count."""
        noted = Note()
        try:
            yield noted
        except BaseException as error:
            self._write(what, on, noted.count, *_outcome(error))
            raise
        if noted.is_wanted:
            self._write(what, {**on, **noted.on}, noted.count, "done", "")

    def note_failure(self, what: str, error: BrokerError, **on: str) -> None:
        """Note an intervention whose script was refused."""
        self._write(what, on, 0, *_outcome(error))

    def note(self, what: str, count: int, outcome: Outcome, why: str = "", **on: str) -> None:
        """Note what was done, where that is no block of code."""
        self._write(what, on, count, outcome, why)

    def note_first(self, what: What, count: int, **on: str) -> None:
        """Note what is about to be done; raises BrokerError where that fails, so that it is left undone."""
        if problem := text(self._run("note", [*self.by.args(on), what, str(count), "done", ""])):
            raise BrokerRefusedError(f"the audit, {keys.AUDIT}, cannot be written: {problem}")

    def _write(self, what: str, on: Mapping[str, str], count: int, outcome: Outcome, why: str) -> None:
        try:
            problem = text(self._run("note", [*self.by.args(on), what, str(count), outcome, _cut(why)]))
        except BrokerError as error:
            problem = str(error)
        if problem and count:
            tell_unaudited(problem)

    def page(
        self,
        keeps: Callable[[AuditEntry], bool],
        between: tuple[str, str],
        *,
        page: int,
        size: int,
        names: Collection[str] = (),
    ) -> list[AuditEntry]:
        """A page of those that are kept, latest last; the first page has the latest.

        Args:
            keeps: Says which.
            between: Bounds, of `between`.
            page: Its number.
            size: Its entries.
            names: Of which each entry that is kept has one somewhere; empty: it may have none.
        """
        found: list[AuditEntry] = []
        for rows in self.chunks(keeps, between, page * size, names):  # as many as are wanted, if all are kept
            found += rows
            if len(found) >= page * size:
                break
        return found[(page - 1) * size : page * size][::-1]

    def chunks(
        self,
        keeps: Callable[[AuditEntry], bool],
        between: tuple[str, str],
        first: int = _CHUNK,
        names: Collection[str] = (),
    ) -> Iterator[list[AuditEntry]]:
        """All that are kept, latest first, in parts; so many are looked at for the first one."""
        least, most = between
        count, wanted = min(first, _CHUNK), [*map(raw, names)]
        while True:
            rows = self._rows("XREVRANGE", most, least, count=count)
            yield [*filter(keeps, (_to_entry(*row) for row in rows if not wanted or _may_name(row[1], wanted)))]
            if len(rows) < count:
                return
            most, count = f"({text(rows[-1][0])}", _CHUNK

    def between(self, since: datetime | timedelta | None, until: datetime | timedelta | None) -> tuple[str, str]:
        """The bounds of what was within this time."""
        return "-" if since is None else self._id_at(since), "+" if until is None else self._id_at(until)

    def after(self, entry_id: str) -> list[AuditEntry]:
        """The next entries behind this one; empty: from the first one on."""
        return [_to_entry(*row) for row in self._rows("XRANGE", f"({entry_id}" if entry_id else "-", "+")]

    def _rows(self, command: str, *bounds: str, count: int = _CHUNK) -> Sequence[Any]:
        connection: Any = self.connection  # redis-py's types know no bounds that are texts
        with expecting("stream", keys.AUDIT):
            found: Sequence[Any] = connection.execute_command(command, keys.AUDIT, *bounds, "COUNT", count)
        return found

    def _id_at(self, moment: datetime | timedelta) -> str:
        if isinstance(moment, timedelta):
            with translated():
                seconds, _ = self.connection.time()
            return str(max(0, int((seconds - moment.total_seconds()) * 1000)))
        return str(max(0, int(moment.timestamp() * 1000)))


@functools.lru_cache(10)  # a process tells it once for each reason
def tell_unaudited(problem: str) -> None:
    """Tell that something was done of which there is no entry."""
    # The values stand in the message: it is the application that formats this line.
    cure = "allow this user XADD on it, or rename what another program has put there"
    logger.warning("the audit, %s, has no entry of what was done: %s; %s", keys.AUDIT, problem, cure)


def _outcome(error: BaseException) -> tuple[Outcome, str]:
    """How an intervention ended that raised this; no message that may quote a payload."""
    if not isinstance(error, Exception):  # Ctrl-C, or nobody iterates on
        return "interrupted", ""
    if isinstance(error, BoilerdError) and not isinstance(error, BrokerError | InvalidTaskError):
        return "refused", str(error)
    return "failed", type(error).__name__


def _may_name(fields: Any, names: Collection[bytes]) -> bool:
    """Whether an entry may have one of these names: to read it takes ten times as long, and there are 10,000."""
    told = b" ".join(fields.values() if isinstance(fields, dict) else fields)
    return b"\\" in told or any(name in told for name in names)  # what is escaped may be a name


def _to_entry(entry_id: bytes, fields: Any) -> AuditEntry:
    """The entry, whoever wrote it."""
    pairs = fields.items() if isinstance(fields, dict) else zip(fields[::2], fields[1::2], strict=False)
    found = {text(name): text(value) for name, value in pairs}
    user, host, via, what, outcome, why = (
        found.get(name, "") for name in ("user", "host", "via", "what", "outcome", "why")
    )
    count = found.get("count", "")
    at = _moment(int(text(entry_id).partition("-")[0]))
    number = int(count) if count.isascii() and count.isdecimal() and len(count) < 16 else 0
    return AuditEntry(text(entry_id), at, user, host, via, what, _read_on(found.get("on", "")), number, outcome, why)


def _moment(milliseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # an ID that somebody has chosen
        return datetime.max.replace(tzinfo=UTC)


def _read_on(given: str) -> dict[str, str]:
    try:
        found = json.loads(given)
    except (ValueError, RecursionError):
        return {"": given} if given else {}
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {"": given}


@functools.lru_cache(10)
def _user(uid: int) -> str:
    """The name of this process's user, and who that is where it is root by sudo."""
    import pwd  # noqa: PLC0415 - only there

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    sudo = os.environ.get("SUDO_USER") if uid == 0 else None
    return f"{sudo} as {name}" if sudo and sudo != name else name


def _cut(value: str) -> str:
    return value if len(value) <= MOST_TEXT else f"{value[: MOST_TEXT - 1]}…"
