"""Queues by weight, and the order in which one claim looks at them."""

import random
import re
from collections.abc import Callable, Mapping, Sequence

from boilerd.errors import InvalidTaskError, shown

#: boiler-go's queues. Strict: critical before default before low. Weighted: 60 %, 30 % and
#: 10 % of the claims while all are full.
DEFAULT_WEIGHTS: Mapping[str, int] = {"critical": 6, "default": 3, "low": 1}
DEFAULT_QUEUE = "default"
#: The pool of workers that the settings outside of a table describe.
DEFAULT_POOL = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def check_queue(name: object) -> str:
    """Return `name` as plain text, or raise InvalidTaskError if it is no queue name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidTaskError(
            f"queue {shown(name)}: use letters, digits, '_', '-' and '.', at most 128, a letter or digit first"
        )
    return str.__str__(name)


class ClaimOrder:
    """The order in which each claim tries the queues.

    Strict: by weight, highest first, always. Weighted: drawn anew for every claim, so that
    a queue is tried first with probability weight / sum of weights; nobody starves, and an
    empty first queue falls through to the next within the same claim.
    """

    def __init__(
        self, weights: Mapping[str, int], *, is_strict: bool, uniform: Callable[[], float] = random.random
    ) -> None:
        self.names: Sequence[str] = sorted(weights, key=lambda name: -weights[name])
        self._weights = dict(weights)
        #: Whether each claim tries the queues as `names` has them.
        self.is_strict = is_strict or len(weights) == 1
        self._uniform = uniform

    def draw(self) -> Sequence[str]:
        """Queue names for the next claim, the one to try first in front."""
        if self.is_strict:
            return self.names
        # Sorting by u^(1/w) draws without replacement in proportion to the weights.
        # Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
        return sorted(self.names, key=lambda name: -(self._uniform() ** (1 / self._weights[name])))
