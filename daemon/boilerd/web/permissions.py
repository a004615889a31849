"""What somebody may do on the dashboard, and which role allows what."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self


class Permission(enum.StrEnum):
    """What a page or an action needs; each has exactly one."""

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


_ALL = frozenset(Permission)
#: What is left where nothing may be changed.
READING = frozenset({Permission.VIEW, Permission.VIEW_PAYLOAD, Permission.REVEAL, Permission.EXPORT, Permission.AUDIT})
#: What destroys, discloses or reaches beyond the queues.
_ADMINS = frozenset(
    {
        Permission.DELETE,
        Permission.PURGE,
        Permission.EDIT,
        Permission.WORKERS,
        Permission.AUDIT,
        Permission.REVEAL,
    }
)
ROLES: Mapping[str, frozenset[Permission]] = {
    "viewer": frozenset({Permission.VIEW}),
    "operator": _ALL - _ADMINS,
    "admin": _ALL,
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        name: As the audit has it.
        permissions: What they may do.
        session: The ID of the session, by which the form token is made; empty: there is none.
        is_program: Whether it is a program with a token, which no web page can send.
    """

    name: str
    permissions: frozenset[Permission]
    session: str = ""
    is_program: bool = False

    @classmethod
    def of_role(cls, name: str, role: str, *, session: str = "", is_program: bool = False) -> Self:
        """Somebody with all that a role allows."""
        return cls(name, ROLES[role], session, is_program)

    def may(self, permission: Permission | str) -> bool:
        """Whether they are allowed to."""
        return permission in self.permissions

    def reading(self) -> Self:
        """The same, without what changes something."""
        return replace(self, permissions=self.permissions & READING)
