"""redis-py's errors in boilerd's words: what happened, and what would do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis import exceptions
from redis.sentinel import MasterNotFoundError

from boilerd.errors import (
    BrokerError,
    BrokerLoadingError,
    BrokerRefusedError,
    BrokerUnableError,
    BrokerUnavailableError,
    MisplacedKeyError,
)


class NoAnswerError(redis.TimeoutError):
    """Redis did not answer within the connection's timeout."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"no answer within {timeout_s:g} s")
        self.timeout_s = timeout_s


class KnownSilenceError(NoAnswerError):
    """It did not do so a moment ago, so that it was not asked."""


class _Refusal(NamedTuple):
    """A reason for which Redis refuses a command.

    Attributes:
        kind: redis-py's class for it.
        words: One of them is in the message; none: any message fits.
        meaning: The reason in boilerd's words.
        error: BrokerUnableError if it passes by itself.
    """

    kind: type[redis.RedisError]
    words: tuple[str, ...]
    meaning: str
    error: type[BrokerRefusedError]


_UNKNOWN_USER = "Redis refused the password, check redis_password and redis_url"
_TOO_FEW_RIGHTS = "Redis allows this user too little"
_NO_DISK = "Redis cannot save to its disk, and stores nothing until it can"
_NO_REPLICAS = "Redis has too few replicas, and stores nothing until it has more"
_CLUSTER = "Redis is a cluster and wants all keys in one slot, set RQ_KEY_PREFIX='{rq}' for all daemons and clients"
_ELSEWHERE = "Redis is a cluster and the keys are on another node, name that in redis_url"
_DOWN = "Redis is a cluster that is down, or whose slots for the keys are not all on this node"
_CLOSED = "; add this user to the daemon's group, as with `usermod -aG boilerd USER`"
_REFUSED = "Redis refused the command"
_FOREIGN_KEY = "another program's key stands where one of boilerd's should, `boilerd queue ls` names it"
#: What redis-py puts before the answer to one of many commands: the command, with what it was to store.
_QUOTED = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
#: The first that fits counts, and the last fits all; redis-py has no class for some of them.
_REFUSALS = (
    # A command of many parts is "unauthenticated".
    _Refusal(redis.RedisError, ("NOAUTH", "WRONGPASS", "unauthenticated"), _UNKNOWN_USER, BrokerRefusedError),
    _Refusal(exceptions.NoPermissionError, (), _TOO_FEW_RIGHTS, BrokerRefusedError),
    _Refusal(redis.RedisError, ("ACL",), _TOO_FEW_RIGHTS, BrokerRefusedError),  # as a script says it
    _Refusal(exceptions.OutOfMemoryError, (), "Redis is out of memory, raise its maxmemory", BrokerUnableError),
    _Refusal(exceptions.ReadOnlyError, (), "Redis is read-only, as a replica is", BrokerUnableError),
    _Refusal(redis.RedisError, ("MISCONF",), _NO_DISK, BrokerUnableError),
    _Refusal(redis.RedisError, ("NOREPLICAS",), _NO_REPLICAS, BrokerUnableError),
    _Refusal(exceptions.ClusterDownError, (), _REFUSED, BrokerUnableError),  # also MASTERDOWN
    _Refusal(exceptions.TryAgainError, (), _REFUSED, BrokerUnableError),
    _Refusal(redis.RedisError, ("WRONGTYPE",), _FOREIGN_KEY, BrokerRefusedError),
    _Refusal(exceptions.AskError, (), _ELSEWHERE, BrokerUnableError),  # also MOVED, after a failover
    _Refusal(redis.RedisError, ("slot",), _CLUSTER, BrokerRefusedError),
    _Refusal(redis.RedisError, ("cluster",), _DOWN, BrokerUnableError),  # as a script says it
    _Refusal(redis.RedisError, ("BUSY", "UNBLOCKED"), _REFUSED, BrokerUnableError),
    _Refusal(redis.RedisError, (), _REFUSED, BrokerRefusedError),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise redis-py's errors as boilerd's."""
    try:
        yield
    except (redis.RedisError, UnicodeError) as error:
        raise translate(error) from error


@contextmanager
def expecting(kind: str, key: str) -> Iterator[None]:
    """As `translated`, for one key; raises MisplacedKeyError where it is of another kind."""
    with translated():
        try:
            yield
        except redis.ResponseError as error:
            if not is_wrong_kind(error):
                raise
            raise MisplacedKeyError(key, kind) from error


def is_wrong_kind(answer: object) -> bool:
    """Whether the answer says that the key is of another kind than the command's."""
    return isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE")


def sound(answers: Sequence[Any]) -> list[Any]:
    """The answers of a pipeline, with None for a key of another kind; raises the first other error."""
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not is_wrong_kind(answer):
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def translate(error: redis.RedisError | UnicodeError) -> BrokerError:
    """The error that boilerd raises for one of redis-py's."""
    match error:
        case redis.AuthenticationError() | exceptions.AuthorizationError():
            return BrokerRefusedError(f"{_UNKNOWN_USER}: {error}")
        case UnicodeError():  # of a host name
            return BrokerError(f"redis_url: {error}")
        case exceptions.MaxConnectionsError():
            return BrokerUnavailableError(f"no connection is free: {error}, raise max_connections", was_sent=False)
        case redis.BusyLoadingError():
            return BrokerLoadingError(f"Redis still reads its file: {error}", was_sent=False)
        case redis.ConnectionError() | redis.TimeoutError():
            return BrokerUnavailableError(_silence(error), was_sent=_may_have_been_sent(error))
    return _refusal(error)


def _silence(error: redis.ConnectionError | redis.TimeoutError) -> str:
    if isinstance(error, NoAnswerError):
        known = ", a moment ago" if isinstance(error, KnownSilenceError) else ""
        return f"Redis did not answer within {error.timeout_s:g} s{known}"
    cure = _CLOSED if isinstance(error.__context__, PermissionError) else ""
    return f"Redis did not answer: {str(error).rstrip('.') if cure else error}{cure}"


def has_timed_out(error: redis.ConnectionError | redis.TimeoutError) -> bool:
    """True if no answer came in time: the kernel raises BlockingIOError for its timeout, Python TimeoutError."""
    return isinstance(error.__context__, BlockingIOError | TimeoutError) and _may_have_been_sent(error)


def _may_have_been_sent(error: redis.ConnectionError | redis.TimeoutError) -> bool:
    """False if the error came before anything was sent, for which redis-py (8.1) has no class of its own."""
    return "connecting to" not in str(error) and not isinstance(error, KnownSilenceError | MasterNotFoundError)


def _refusal(error: redis.RedisError) -> BrokerRefusedError:
    """The error for an answer of Redis that says no."""
    words = set(re.findall(r"\w+", str(error)))
    fitting = (row for row in _REFUSALS if isinstance(error, row.kind) and (not row.words or words & {*row.words}))
    found = next(fitting)
    return found.error(f"{found.meaning}: {_QUOTED.sub('', str(error))}")
