"""What somebody may do on the dashboard, and which role allows what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from boilerd.settings.web import Grant, Permission

_ALL = frozenset(Permission)
#: What is left where nothing may be changed.
#: To reveal something takes an entry in the audit.
READING = frozenset({Permission.VIEW, Permission.VIEW_PAYLOAD, Permission.EXPORT, Permission.AUDIT})
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
#: What is of no queue, so that nobody has it who has queues of their own.
BEYOND_QUEUES = frozenset({Permission.WORKERS, Permission.CRON, Permission.FAILURES, Permission.AUDIT, Permission.KEEP})
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
        queues: The queues of which they see and change something: names, and what names begin with, as ``mail-*``;
            None: all.
    """

    name: str
    permissions: frozenset[Permission]
    session: str = ""
    is_program: bool = False
    queues: tuple[str, ...] | None = None

    @classmethod
    def of_role(
        cls,
        name: str,
        role: str,
        *,
        session: str = "",
        is_program: bool = False,
        queues: Sequence[str] | None = None,
    ) -> Self:
        """Somebody with all that a role allows, in these queues or all."""
        return cls(name, ROLES[role], session, is_program, None if queues is None else tuple(queues))

    @classmethod
    def of_grant(cls, name: str, grant: Grant, *, session: str = "", is_program: bool = False) -> Self:
        """Somebody to whom the settings grant something."""
        role = grant.role
        allowed = ROLES[role] if isinstance(role, str) else frozenset(role)
        return cls(name, allowed, session, is_program, None if grant.queues is None else tuple(grant.queues))

    def may(self, permission: Permission | str) -> bool:
        """Whether they are allowed to."""
        is_beyond = self.queues is not None and permission in BEYOND_QUEUES
        return permission in self.permissions and not is_beyond

    def owns(self, queue: str) -> bool:
        """Whether something of this queue is for them."""
        return self.queues is None or any(
            queue.startswith(each[:-1]) if each.endswith("*") else queue == each for each in self.queues
        )

    def reading(self) -> Self:
        """The same, without what changes something."""
        return replace(self, permissions=self.permissions & READING)


__all__ = ["BEYOND_QUEUES", "READING", "ROLES", "Permission", "Principal"]
