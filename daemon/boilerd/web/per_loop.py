"""What belongs to an event loop, of which an application that mounts the dashboard may have several at once."""

from collections.abc import Callable
from typing import Generic, TypeVar

from anyio.lowlevel import RunVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One for each loop; who waits in a loop is woken by that loop alone.

    Args:
        make: Makes it, when a loop asks for the first time.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # Some versions of anyio tell them apart by their names.
        self._found: RunVar[T | None] = RunVar(f"boilerd {id(self)}", None)

    def get(self) -> T:
        """That of the running loop."""
        found = self._found.get()
        if found is None:
            found = self._make()
            self._found.set(found)
        return found
