"""``boilerd enqueue``."""

import json
import re
import sys
from typing import Any, NoReturn

import click
import msgspec

from boilerd.cli.known_names import complete_queues, complete_types
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.options import BROKER, DurationType, Loaded, MomentType, json_option, to_headers, with_settings
from boilerd.cli.output import echo, json_text
from boilerd.client import Client
from boilerd.errors import (
    BoilerdError,
    InvalidPayloadError,
    InvalidTaskError,
    TaskFailedError,
    closest,
    listed,
    shown,
)
from boilerd.inspector import Inspector
from boilerd.tasks.options import UniqueUntil
from boilerd.tasks.queues import DEFAULT_QUEUE, check_queue
from boilerd.tasks.task import TaskInfo, TaskState, check_type

#: A text in JSON, in which brackets stay what they are, or a bracket.
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[<>]')
#: A task for whose end one waits is kept for so long, if nothing else is said.
WAITED_RETENTION_S = 60
_BRACES = {"<": "{", ">": "}"}


def _no_option(ctx: click.Context, _: click.Parameter, word: str) -> str:
    """Refuse a misspelt option: click takes what it does not know for an argument, so that -9 is a payload."""
    if not word.startswith("-") or word == "-" or re.match(r"-[\d.]", word):
        return word
    known = [name for option in ctx.command.params for name in option.opts]
    close = closest(word.partition("=")[0], known)
    raise click.NoSuchOption(word, possibilities=[close] if close else None, ctx=ctx)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("task_type", metavar="TYPE", callback=_no_option, shell_complete=complete_types)
@click.argument("payload", metavar="[PAYLOAD]", default="null", callback=_no_option)
@click.option(
    "-q",
    "--queue",
    default=DEFAULT_QUEUE,
    show_default=True,
    shell_complete=complete_queues,
    help="Queue to put it on.",
)
@click.option("--max-retries", type=int, help="Further attempts after a first one that failed.")
@click.option(
    "--timeout", type=DurationType(), help="How long one attempt may take; without it 30m, or until --deadline."
)
@click.option("--retention", type=DurationType(), help="How long to keep it after success; without it not at all.")
@click.option("--in", "process_in", type=DurationType(), help="Run it so much later.")
@click.option("--at", "process_at", type=MomentType(), help="Run it then: 2027-01-31T08:00+01:00.")
@click.option("--deadline", type=MomentType(), help="It may not run after that moment.")
@click.option("--unique", type=DurationType(), help="For so long, refuse another with this queue, type and payload.")
@click.option(
    "--unique-until",
    type=click.Choice([moment.value for moment in UniqueUntil]),
    help="What ends that before; success without it.",
)
@click.option("--concurrency-key", help="Tasks with one key run one at a time.")
@click.option("--concurrency-limit", type=int, help="Or so many at a time.")
@click.option(
    "--header", "headers", metavar="NAME=VALUE", multiple=True, callback=to_headers,
    help="A header that goes with it; may be given again.",
)  # fmt: skip
@click.option("--id", "task_id", help="Task ID; refused when it is taken. Random without it.")
@click.option("--once", type=DurationType(), help="For so long, refuse this --id again, also after the task's end.")
@click.option(
    "--wait",
    type=DurationType(),
    help="Wait for its end, at most for so long, and print its result; keeps it for 1m then, or for --retention.",
)
@json_option("Print what was stored as a JSON object; with --wait, its result too.")
@with_settings(BROKER)
def enqueue(loaded: Loaded, *, task_type: str, payload: str, as_json: bool, wait: float | None, **options: Any) -> None:
    """Store a task for a worker to run, and print its ID.

    PAYLOAD is JSON; '-' reads it from stdin. '<"message":"hi">' is the same as
    '{"message":"hi"}', for places where a template engine eats braces.

    \b
    boilerd enqueue worker:ping '{"message": "hi"}'
    boilerd enqueue email:deliver --queue critical --timeout 5m - < mail.json
    boilerd enqueue report:send --in 1h30m --unique 24h --deadline 2027-01-31T08:00Z
    boilerd enqueue report:mean '{"amounts": [1, 2, 6]}' --wait 30s
    """  # noqa: D301 - click looks for the character \b
    if wait is not None and options["retention"] == 0:
        raise click.UsageError("with --retention 0 no result is left to wait for; leave it out, or give --retention 1m")
    value = parse_payload(_read_stdin() if payload == "-" else payload)
    with naming_missing_broker(loaded.settings), Client.from_settings(loaded.settings) as client:
        _check_queue(client, options["queue"], loaded)
        _check_type(client, options["queue"], task_type)
        given = {name: option for name, option in options.items() if option is not None}
        if wait is not None:
            given.setdefault("retention", WAITED_RETENTION_S)
        info = client.enqueue(task_type, value, **given)
        fields: dict[str, Any] = {"id": info.id, "type": info.type, "queue": info.queue, "state": info.state}
        if wait is not None:
            fields |= {"state": TaskState.COMPLETED, "result": _wait(info, wait)}
    if as_json:
        echo(json_text(fields))
    else:
        echo(info.id if wait is None else json_text(fields["result"]))


def _wait(info: TaskInfo, wait_s: float) -> Any:
    """Wait for the task's end, and return its result; its ID is there even if that never comes."""
    echo(f"task {info.id}, waiting", err=True)
    try:
        return info.wait(wait_s)
    except TaskFailedError as error:
        echo(*error.traceback.splitlines(), err=True)
        raise
    except TimeoutError as error:
        raise BoilerdError(str(error)) from error


def _read_stdin() -> str:
    """Read it as UTF-8 whatever the locale; bytes that are no UTF-8 stay, so that an error can point at them."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def parse_payload(text: str) -> Any:
    """Parse a payload of the command line.

    Raises:
        InvalidPayloadError: It is not JSON; the message points at the place.
    """
    stripped = text.strip()
    if stripped.startswith("<") and stripped.endswith(">"):
        stripped = _BRACKET.sub(lambda found: _BRACES.get(found[0], found[0]), stripped)
    try:
        encoded = stripped.encode()
        json.loads(stripped, parse_constant=_refuse_constant)
        msgspec.json.decode(encoded)  # as a worker will; stricter on numbers and \\ud800
        return msgspec.Raw(encoded)
    except InvalidPayloadError:
        raise
    except UnicodeEncodeError as error:
        message = f"payload is not JSON: a byte that is no UTF-8 at character {error.start + 1}"
    except json.JSONDecodeError as error:
        where = f"before {stripped[error.pos : error.pos + 20]!r}" if error.pos < len(stripped) else "at its end"
        message = f"payload is not JSON: {error.msg} at character {error.pos + 1}, {where}"
    except RecursionError:
        message = "payload is nested too deep"
    except ValueError as error:
        message = f"payload holds what no worker could read: {error}"
    raise InvalidPayloadError(message)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidPayloadError(f"payload is not JSON: it has no {name}")


def _check_queue(client: Client, queue: str, loaded: Loaded) -> None:
    """Refuse a queue that no worker claims from and no setting names: a misspelt one would keep the task for ever."""
    known = loaded.settings.served_queues()
    if check_queue(queue) not in known and not Inspector(client.connection).has_workers(queue):
        raise InvalidTaskError(
            f"queue {shown(queue)}: no worker works on it and the settings do not name it ({', '.join(known)})"
        )


def _check_type(client: Client, queue: str, task_type: str) -> None:
    """Warn of a type that no living worker of the queue has a handler for; others, with newer code, may come."""
    known = Inspector(client.connection).handled_types(queue)
    if known is not None and not any(map(check_type(task_type).startswith, known)):
        echo(
            f"boilerd: warning: no worker of queue {queue} has a handler for {task_type!r}; they have: {listed(known)}",
            err=True,
        )
