"""The ``[web]`` table: where the web dashboard listens, who may see it, and what it hides."""

import enum
import re
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import msgspec

from boilerd.settings.problems import EXPECTED, allowing, convert
from boilerd.settings.urls import MASK


class Permission(enum.StrEnum):
    """What a page or an action of the dashboard needs; each has exactly one."""

    VIEW = "view"
    VIEW_PAYLOAD = "view_payload"
    REVEAL = "reveal"
    EXPORT = "export"
    AUDIT = "audit"
    RUN = "run"
    ARCHIVE = "archive"
    DELETE = "delete"
    PURGE = "purge"
    CANCEL = "cancel"
    ENQUEUE = "enqueue"
    EDIT = "edit"
    PAUSE = "pause"
    CRON = "cron"
    WORKERS = "workers"
    FAILURES = "failures"
    KEEP = "keep"


#: The name of a role, or a list of what somebody may do.
Role = Annotated[
    Literal["viewer", "operator", "admin"] | list[Permission],
    allowing(f"viewer, operator, admin, or a list of {', '.join(Permission)}"),
]
#: Names of queues, or what they begin with.
Queues = (
    Annotated[
        list[Annotated[str, msgspec.Meta(pattern=r"^[^*]+\*?$|^\*$")]],
        allowing(
            'a list of names of queues, or of what they begin with and *, such as ["mail-*", "low"]', min_length=1
        ),
    ]
    | None
)
#: An address of another tool; ``{id}``, ``{type}`` and ``{queue}`` stand for those of what is shown, behind the host:
#: whoever enqueues chooses them, and no other host is to be.
Outside = Annotated[
    str,
    allowing(
        "an address that begins with http:// or https:// and a host, then may have {id}, {type} and {queue}",
        pattern=r"^https?://[^{}\s/?#\\]+([/?#]([^{}\s]|\{(id|type|queue)\})*)?$",
    ),
]


def _doc(text: str, expected: str = "", **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={EXPECTED: expected} if expected else None, **limits)


class PasswordHash:
    """The scrypt hash of a password, as ``boilerd web password`` prints it; people see a mask.

    Attributes:
        text: The hash with its parameters.
    """  # no dataclass: msgspec would want a table

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def parse(cls, given: Any) -> Self:
        """The hash in a file; raises ValueError."""
        if not isinstance(given, str) or not re.fullmatch(r"scrypt\$\d+\$\d+\$\d+\$[\w+/=-]+\$[\w+/=-]+", given):
            raise ValueError("not a hash as `boilerd web password` prints it")
        return cls(given)

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"PasswordHash({MASK})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PasswordHash) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody may do, and with which queues; also a table of ``[web.roles]``."""

    role: Role = "viewer"
    queues: Queues = None


class WebUser(Grant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``[web.users]``: somebody who logs in with a password."""

    password: Annotated[PasswordHash, allowing("a hash as `boilerd web password` prints it", is_secret=True)]


class WebToken(Grant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``[web.tokens]``: a program that sends ``Authorization: Bearer``."""

    sha256: Annotated[
        str, allowing("64 digits as `boilerd web token` prints them", is_secret=True, pattern="^[0-9a-f]{64}$")
    ]
    ends: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


#: Somebody may write a password where its table should be.
_User = Annotated[WebUser, allowing("a table with password, role and queues", is_secret=True)]
_Token = Annotated[WebToken, allowing("a table with sha256, role and queues", is_secret=True)]
_TABLES = allowing("a table of tables", is_secret=True)


class Web(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[web]`` table; what a mounted dashboard has no use for, is for ``boilerd web`` alone."""

    enabled: Annotated[bool, _doc("true: the daemon serves it as well, as with `web = true`")] = False
    host: Annotated[str, _doc("the address that `boilerd web` listens on")] = "127.0.0.1"
    port: Annotated[int, _doc("and its port", ge=0, le=65535)] = 8383
    socket: Annotated[str, _doc("the path of a Unix socket, instead of both")] = ""
    prefix: Annotated[
        str,
        _doc(
            "what all its paths begin with",
            "a path such as /jobs, of letters, digits and . _ ~ -, without / at its end",
            pattern="^(/[A-Za-z0-9._~-]+)*$",
        ),
    ] = ""
    read_only: Annotated[bool, _doc("show everything and change nothing")] = False
    hosts: Annotated[
        list[Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:/@*\s]+)$")]],
        _doc("names by which browsers may call it", 'a list of names such as "jobs.example", without scheme and port'),
    ] = msgspec.field(default_factory=list)
    trusted_proxies: Annotated[list[str], _doc('whose X-Forwarded headers count: addresses, networks, "unix"')] = (
        msgspec.field(default_factory=list)
    )
    trusted_header: Annotated[
        str,
        _doc(
            "the header by which they name the user",
            "the name of a header, such as X-Forwarded-User",
            pattern="^[A-Za-z0-9-]*$",
        ),
    ] = ""
    redact: Annotated[
        list[Annotated[str, msgspec.Meta(pattern=r"^[^.]+(\.[^.]+)*$")]],
        _doc(
            "hidden parts of payloads, such as user.*.email, beside passwords",
            'a list of paths such as "user.*.email", of names with a dot between',
        ),
    ] = msgspec.field(default_factory=list)
    environment: Annotated[str, _doc("what its head and titles say, such as production", max_length=40)] = ""
    links: dict[str, Outside] = msgspec.field(default_factory=dict)
    roles: dict[str, Role | Grant] = msgspec.field(default_factory=dict)
    users: Annotated[dict[str, _User], _TABLES] = msgspec.field(default_factory=dict)
    tokens: Annotated[dict[str, _Token], _TABLES] = msgspec.field(default_factory=dict)

    @property
    def has_users(self) -> bool:
        """Whether somebody has to say who they are, so that it may listen for others than this host."""
        return bool(self.users or self.tokens or (self.trusted_header and self.trusted_proxies))


def read_web(given: Any, *, strict: bool = True) -> Web:
    """The table of what the file holds; ``true`` is the table that has the daemon serve the dashboard."""
    if isinstance(given, bool):
        return Web(enabled=given)
    return convert(given, Web, strict=strict)  # type: ignore[no-any-return] # it is of that type


WEB_EXAMPLE = """\
#[web.users.anna]              # `boilerd web password` makes the hash
#password = "scrypt$32768$8$1$bm8gc2FsdCBhdCBhbGwuLg==$bm8gcGFzc3dvcmQgZml0cyB0aGlzIGhhc2gsIGV2ZXI="
#role = "operator"             # viewer, operator or admin; or a list, such as ["view", "run"]
#queues = ["mail-*", "low"]    # all others neither shown nor changed
#[web.tokens.nagios]           # `boilerd web token` makes both
#sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
#role = "viewer"
#ends = 2027-12-31T00:00:00Z
#[web.links]                   # to other tools; {id}, {type} and {queue} are those of what is shown
#Logs = "https://logs.example/search?q={id}"
#[web.roles]                   # of those whom the proxy names in trusted_header
#anna = "admin"
#"*" = "viewer"                # everybody else
"""
