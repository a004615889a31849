"""How `Broker` calls Redis: its Lua scripts by name, and redis-py's errors turned into ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from boilerd.broker import key_prefix, keys
from boilerd.broker.refusals import translate
from boilerd.broker.rider import Rider
from boilerd.broker.script_connection import ScriptConnection
from boilerd.broker.scripts import scripts
from boilerd.errors import BrokerError, BrokerRefusedError
from boilerd.process.failpoints import failpoint

#: The calls that take the rider along: those that a worker, and a scheduler, makes again and again.
CARRYING = frozenset({"advance", "serve", "forward"})


class ScriptCalls:
    """Calls scripts on one connection, which it holds and nothing else.

    One instance belongs to one process.

    Attributes:
        rider: What this process has counted, which some calls take along; None: it counts nothing.

    Raises:
        TypeError: The connection is of a kind that cannot be used.
        ConfigError: The environment has two prefixes for the keys.
    """

    def __init__(self, connection: redis.Redis) -> None:
        key_prefix.fix()
        self.connection = connection
        self._script_connection = ScriptConnection(connection)
        self._scripts = scripts()
        self.rider: Rider | None = None

    def send_metrics(self) -> None:
        """Send what the process has counted and not sent, if there is any.

        A refusal is the rider's business alone, as where a call takes it along.

        Raises:
            BrokerUnavailableError: Redis did not answer.
        """
        while self.rider is not None and (args := self.rider.take()):
            try:
                self._call("metrics", args)
            except BrokerRefusedError as error:
                self.rider.note_refused(error)
                return

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Turn redis-py's errors into ours."""
        try:
            yield
        except (redis.RedisError, UnicodeError) as error:
            raise self._translate(error) from error

    def _translate(self, error: redis.RedisError | UnicodeError) -> BrokerError:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            # The primary has become a replica: its name may lead to another server by now.
            self.connection.connection_pool.disconnect()
        return translate(error)

    def _run(self, script: str, args: Sequence[str | bytes | float]) -> Any:
        """Call a script whose arguments need not be text yet."""
        return self._call(script, [part if isinstance(part, str | bytes) else repr(part) for part in args])

    def _call(
        self,
        script: str,
        args: Sequence[str | bytes],
        first: Sequence[str | bytes] = (),
        *,
        answers_soon: bool = False,
    ) -> Any:
        """Call a script; `first` and `answers_soon` as `ScriptConnection.ask` has them."""
        failpoint(f"before-{script}")
        sent = [keys.RQ, keys.OWN, *args]
        riding = None
        if self.rider is not None and script in CARRYING and self.rider.is_due():
            riding = self._scripts["metrics"], self.rider
        try:  # as `_translating`, without a generator for each task
            answer = self._script_connection.ask(
                self._scripts[script], sent, first, answers_soon=answers_soon, riding=riding
            )
        except (redis.RedisError, UnicodeError) as error:
            raise self._translate(error) from error
        failpoint(f"after-{script}")
        return answer
