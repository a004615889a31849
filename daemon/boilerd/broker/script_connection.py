"""A client's connection for the Lua scripts: they are called with as little as possible in front of the socket."""

from collections.abc import Sequence
from typing import Any

import hiredis
import redis
from redis.connection import Connection

from boilerd.broker.connection import raw
from boilerd.broker.connection_pool import script_pool
from boilerd.broker.refusals import NoAnswerError, has_timed_out
from boilerd.broker.rider import Ride, Rider
from boilerd.broker.scripts import Script


class ScriptConnection:
    """Asks Redis to run scripts, on the connections of a client.

    It does without the layers that redis-py has above a connection (retries, events, conversion of answers): they are a
    quarter of the CPU time that a call takes its client.

    Raises:
        TypeError: It is another client than ``redis.Redis``, or decodes what Redis answers.
    """

    def __init__(self, client: redis.Redis) -> None:
        _check_client(client)
        self._pool = script_pool(client.connection_pool)

    def ask(
        self,
        script: Script,
        args: Sequence[str | bytes],
        first: Sequence[str | bytes] = (),
        *,
        answers_soon: bool = False,
        riding: tuple[Script, Rider] | None = None,
    ) -> Any:
        """The answer of the script: one round trip, or two where Redis does not know it yet.

        Args:
            script: The script to run.
            args: Its ARGV; it has no KEYS.
            first: A command pipelined in front of the script, such as BLPOP: Redis runs the script when it returns,
                with no further round trip. Its answer is dropped.
            answers_soon: True if it is worth it to stay awake for the answer.
            riding: A script that goes in front of all, and who has its arguments; whatever becomes of it, this call
                does not hear of it.

        Raises:
            redis.RedisError: Redis did not answer, or refused.
        """
        connection = self._pool.take_for_script()
        is_clean = False
        try:
            ride = None
            if riding:
                connection.connect()  # where that fails, the rider keeps what it has
                ride = Ride(riding[0], args[:2], riding[1])
            answer = self._answer(connection, script, args, first, ride, answers_soon=answers_soon)
            if ride and ride.is_unknown:
                _send_whole(connection, ride)
            is_clean = True
        except redis.ResponseError:
            is_clean = True
            raise
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if has_timed_out(error) and connection.socket_timeout:
                raise NoAnswerError(connection.socket_timeout) from error
            raise
        finally:
            if not is_clean:
                # Interrupted: the answer may be under way, and would be taken for that of the next command.
                connection.disconnect()
            self._pool.release(connection)
        return answer

    def _answer(
        self,
        connection: Connection,
        script: Script,
        args: Sequence[str | bytes],
        first: Sequence[str | bytes],
        ride: Ride | None,
        *,
        answers_soon: bool,
    ) -> Any:
        try:
            sent = packed(["EVALSHA_RO" if script.is_reading else "EVALSHA", script.digest, "0", *args])
            if first:
                sent = packed(first) + sent
            if ride:
                sent = packed(ride.command) + sent
            connection.send_packed_command([sent])  # type: ignore[no-untyped-call]
            if ride:
                ride.hear(connection)
            if first:
                _read_first(connection)
            if answers_soon:
                self._pool.stay_awake(connection)
            return connection.read_response()
        except redis.exceptions.NoScriptError:
            sent = packed(["EVAL_RO" if script.is_reading else "EVAL", script.source, "0", *args])
            connection.send_packed_command([sent])  # type: ignore[no-untyped-call]
            return connection.read_response()


def _check_client(client: object) -> None:
    """Raise TypeError if no script can be called on it."""
    if not isinstance(client, redis.Redis):
        kind = f"{type(client).__module__}.{type(client).__qualname__}".removeprefix("builtins.")
        wrong = f"a {kind} is no redis.Redis"
    elif client.get_encoder().decode_responses:
        wrong = "one with decode_responses=True gives texts in place of bytes"
    else:
        return
    raise TypeError(f"connection: {wrong}; use from_url, as in Client.from_url('redis://localhost:6379')")


def _send_whole(connection: Connection, ride: Ride) -> None:
    """Send the rider's script itself, when the call has its answer, which must not be lost with it."""
    try:
        connection.send_packed_command([packed(ride.whole_command)])  # type: ignore[no-untyped-call]
        ride.hear(connection)
    except redis.RedisError:
        connection.disconnect()  # type: ignore[no-untyped-call]


def _read_first(connection: Connection) -> None:
    """Read the answer of the command in front of the script; if Redis refused it, the script has run all the same."""
    try:
        connection.read_response()
    except redis.ResponseError:
        # Or the next command would get this answer.
        connection.read_response()
        raise


def packed(command: Sequence[str | bytes]) -> bytes:
    """The command as it is sent; redis-py's own way looks at each argument several times.

    No numbers: hiredis (3.5) makes text of them as well, but crashes when a signal handler raises meanwhile.
    """
    try:
        sent: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    except UnicodeEncodeError:  # a foreign name in bytes that are no text
        sent = hiredis.pack_command(tuple(raw(part) if isinstance(part, str) else part for part in command))  # type: ignore[arg-type]
    return sent
