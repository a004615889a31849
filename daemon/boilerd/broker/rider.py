"""What goes in front of the call of a script: another script's call, whose answer is nobody's business but its own."""

from collections.abc import Sequence
from typing import Any, Protocol

import redis

from boilerd.broker.scripts import Script


class Rider(Protocol):
    """Has arguments for a script now and then, which may wait for a call that is made anyway."""

    def is_due(self) -> bool:
        """True if there is something that should wait no longer."""

    def take(self) -> Sequence[str | bytes]:
        """The arguments, which are sent at once, and not again."""

    def note_refused(self, error: Exception) -> None:
        """Learn that Redis refused what was taken last."""


class Ride:
    """One call of a rider's script, on a connection that is open.

    Args:
        script: The rider's.
        head: What each script's ARGV begins with.
        rider: Has the rest.
    """

    def __init__(self, script: Script, head: Sequence[str | bytes], rider: Rider) -> None:
        self._script = script
        self._rider = rider
        self._args = ("0", *head, *rider.take())
        self.is_unknown = False

    @property
    def command(self) -> tuple[str | bytes, ...]:
        """What is sent in front."""
        return ("EVALSHA", self._script.digest, *self._args)

    @property
    def whole_command(self) -> tuple[str | bytes, ...]:
        """What is sent behind, where Redis does not know the script yet (`is_unknown`)."""
        return ("EVAL", self._script.source, *self._args)

    def hear(self, connection: Any) -> None:
        """Read the answer."""
        self.is_unknown = False
        try:
            connection.read_response()
        except redis.exceptions.NoScriptError:
            self.is_unknown = True
        except redis.ResponseError as error:
            self._rider.note_refused(error)
