"""What a page or an action gets: who asks for what, and what they need to answer."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from boilerd.errors import BoilerdError, BrokerUnavailableError
from boilerd.inspector import Inspector
from boilerd.web.costs import Costs
from boilerd.web.links import Links
from boilerd.web.local_daemon import LocalDaemon
from boilerd.web.operators import Operators
from boilerd.web.permissions import Permission, Principal
from boilerd.web.shared import PICTURE, Shared, marked

if TYPE_CHECKING:
    from boilerd.web.sampler import Snapshot

#: The number of a page beyond this is refused: deep pages go by cursor.
MOST_PAGES = 1000

T = TypeVar("T")


class QueryError(BoilerdError):
    """A value in an address or a form that is not allowed; its name and what would do."""


class NotThereError(BoilerdError):
    """What an address names is not there; its name, and where there are some."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request to a page or an action.

    Attributes:
        inspector: Reads, and does what the person asks; the audit has their name.
        who: The person or program.
        path: The parts of the address that the page has named.
        query: The rest of it, one value for each name.
        queries: The same, all values of each name.
        form: What was sent, all values of each name.
        links: Makes addresses.
        read_snapshot: See `snapshot`.
        seen: Makes of any data what the person may see of it, as a page does with all of its data.
        seen_by_all: The same, of what also those see who may not see payloads.
        shared: See `sharing`.
        daemon: The daemon of this host; None: nobody has said where it is.
        costs: What the dashboard costs.
        operators: Work on operations in this process.
        is_export: Whether it is for a file of rows, which has as many as there may be where the query does not say.
        is_poll: Whether an open page asks if it has changed.
        reads: What of `shared` it has read, and whether the picture: key → the mark of the reading.
    """

    inspector: Inspector
    who: Principal
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    read_snapshot: "Callable[[], Snapshot] | None" = None
    seen: Callable[[Any], Any] = lambda data: data
    seen_by_all: Callable[[Any], Any] = lambda data: data
    shared: Shared = field(default_factory=Shared)
    operators: Operators = field(default_factory=Operators)
    is_export: bool = False
    is_poll: bool = False
    daemon: LocalDaemon | None = None
    costs: Costs = field(default_factory=Costs)
    reads: dict[Hashable, object] = field(default_factory=dict)

    def snapshot(self) -> "Snapshot":
        """The picture of all queues that everybody sees who looks at this moment."""
        if self.read_snapshot is None:
            raise TypeError("this visit has no sampler")
        found = self.read_snapshot()
        self.reads[PICTURE] = found.mark
        return found

    def sharing(
        self, key: Hashable, fresh_s: float, read: Callable[[], T], times: float = 0.0, *, with_polls: bool = False
    ) -> T:
        """What `read` returns for whoever asks for this key within so many seconds; it may not depend on the person.

        With `times`, that is so for so many times as long as `read` has used the CPU, too; `with_polls`, for polls
        alone, and whoever opens the page has it read anew.
        """
        self.reads[key] = None  # which no reading has: one that fails is tried again
        found = self.shared.get(key, fresh_s, lambda: marked(read), times, anew=with_polls and not self.is_poll)
        self.reads[key] = found.mark
        return found.value  # type: ignore[no-any-return] # it is what `read` returned

    def may(self, permission: Permission | str) -> bool:
        """Whether the person is allowed to."""
        return self.who.may(permission)

    def word(self, name: str, default: str = "", *, of: Sequence[str] = ()) -> str:
        """A word of the query; raises QueryError if it is none of these."""
        found = self.query.get(name, default)
        if of and found not in of:
            raise QueryError(f"{name}: not known; use one of {', '.join(filter(None, of))}")
        return found

    def number(self, name: str, default: int, *, most: int = MOST_PAGES, least: int = 1) -> int:
        """A whole number of the query; raises QueryError."""
        if self.is_export and name in {"page", "size"} and not self.query.get("size"):
            return most if name == "size" else 1
        given = self.query.get(name, "")
        if not given:
            return default
        if not (given.isascii() and given.isdecimal() and len(given) < 10 and least <= int(given) <= most):
            raise QueryError(f"{name}: not a whole number from {least:,} to {most:,}")
        return int(given)

    def given(self, name: str) -> str:
        """The value of a form's field; empty: it has none."""
        return next(iter(self.form.get(name, ())), "")

    def part(self, read: Callable[[], T], problems: list[str]) -> T | None:
        """What a part of a page reads; None: it could not, and why is one more of the problems.

        Where Redis does not answer, that is raised: it may answer the next time, and what is shared is kept.
        """
        try:
            return read()
        except BrokerUnavailableError:
            raise
        except BoilerdError as error:
            problems += [] if str(error) in problems else [str(error)]
            return None

    def trying(self, read: Callable[[], Any]) -> Any:
        """What a part of a page reads, or ``{"problem": …}``: the other parts are shown all the same."""
        try:
            return read()
        except BoilerdError as error:
            return {"problem": str(error)}
