"""Whatever Redis, a log, a file or an argument holds: no command lets it move the cursor, or reorder what is shown."""

import base64
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
import redis

from boilerd import TaskState
from boilerd import cli as command_line
from boilerd.broker import keys
from boilerd.broker.states import REGISTRIES
from boilerd.cli import COMMANDS
from builders import count_in_minute, counted
from support import DEADLINE_S, Valkey, boilerd, clean_environment, private_directory, shown_by

#: Clears the screen, writes to the clipboard, the same with C1, reorders what follows, ends a line; and rich's markup.
EVIL = (
    "evil\x1b[2J\x1b]52;c;aGk=\x07\x9b2J\x9d52;c;aGk=\x9c\u202e\u2066\u200f\u2028\r\n\x08\x7f\u0301"
    "[red][link=file:///etc]:smile:[/link]" + "e\u0301" * 300
)
#: The same as Redis may hold it: with NUL, and with bytes that are no text and become lone surrogates.
EVIL_BYTES = EVIL.encode() + b"\x00\x9b\xed\xa0\x80\xff"
#: In file names and arguments nothing may be NUL, and a name must not be too long.
EVIL_NAME = EVIL[:70]
TASK_FIELDS = (
    "description", "last_error", "worker_name", "unique_key", "unique_until", "concurrency_key", "exc_info", "meta",
    "dependency_ids", "group_id", "cancel_requested", "retry_intervals",
)  # fmt: skip
WORKER_FIELDS = ("hostname", "state", "queues", "current_job", "version", "birthmark", "supervisor", "ip_address")
MOMENT = b"2026-11-24T09:30:00Z"
#: All commands, with the words that have each of them show as much as it can.
WALK: dict[tuple[str, ...], list[list[str]]] = {
    ("run",): [["--redis-url", EVIL], ["--app", EVIL], ["--state-dir", f"/nowhere/{EVIL}"]],
    ("enqueue",): [
        ["a:b", EVIL], [EVIL], ["a:b", "1", "-q", EVIL], ["a:b", "--id", EVIL], ["a:b", "--in", EVIL],
        ["a:b", "--header", EVIL], ["a:b", "--header", f"tenant-id={EVIL}"], ["a:b", "--header", f"{EVIL}=1"],
        ["a:b", "--once", EVIL], ["a:b", "--wait", EVIL],
    ],
    ("status",): [[], ["--json"]],
    ("dash",): [[]],
    ("logs",): [["--file", "LOG"], ["--file", "LOG", "--json"], ["--file", f"/nowhere/{EVIL}"]],
    ("stats",): [[], ["--json"]],
    ("queue", "ls"): [[], ["--json"]],
    ("queue", "show"): [[EVIL], [EVIL, "--json"], ["default"], ["default", "--json"], ["never"]],
    ("queue", "pause"): [["default", "default"], ["never"], [EVIL]],
    ("queue", "resume"): [["default", "default"], [EVIL]],
    ("queue", "purge"): [[EVIL], [EVIL, "--yes"], ["never", "--yes"]],
    ("task", "ls"): [
        *(["-s", state.value, *flags] for state in TaskState for flags in ([], ["--json"])), ["-q", EVIL],
        ["-q", "never"],
    ],
    ("task", "recent"): [[], ["--json"], ["-q", "never"]],
    ("task", "show"): [
        ["pending"], ["pending", "--json"], ["active"], ["active", "--json"], [EVIL], [EVIL, "--json"], [f"no {EVIL}"],
    ],
    ("task", "why"): [["pending"], ["pending", "--json"], [EVIL], [EVIL, "--json"], [f"no {EVIL}"]],
    ("task", "run"): [[EVIL, f"no {EVIL}", "no"], ["--all", "-s", "archived", "-q", EVIL]],
    ("task", "run-here"): [
        ["pending"], [EVIL], [f"no {EVIL}"], [EVIL, "--payload", "1"], ["test:echo", "--payload", EVIL],
    ],
    ("task", "archive"): [[EVIL, f"no {EVIL}", "no"], ["--all", "-s", "pending", "--type", EVIL]],
    ("task", "delete"): [[EVIL, f"no {EVIL}", "no"], ["--all", "-s", "pending", "-q", EVIL, "--yes"]],
    ("task", "cancel"): [[EVIL, f"no {EVIL}", "no"]],
    ("task", "move"): [["--to", EVIL], ["--to", f"unix:///{EVIL}"], ["--to", "redis://x", "--password-file", EVIL]],
    ("failures", "ls"): [[], ["--json"], ["--muted"]],
    ("failures", "show"): [[EVIL], [EVIL, "--json"]],
    ("failures", "run"): [[EVIL], [f"no {EVIL}"]],
    ("failures", "archive"): [[EVIL], [EVIL, "--yes"]],
    ("failures", "delete"): [[EVIL], [EVIL, "--yes"]],
    ("failures", "acknowledge"): [[EVIL], [f"no {EVIL}", "--undo"]],
    ("failures", "mute"): [[f"no {EVIL}"], [EVIL, "--undo"]],
    ("failures", "note"): [[EVIL, "x" + EVIL[:900]], [f"no {EVIL}", "--undo"], [EVIL]],
    ("worker", "ls"): [[], ["--json"], ["--dead"]],
    ("worker", "restart"): [[EVIL]],
    ("worker", "scale"): [["1"], [EVIL]],
    ("cron", "ls"): [[], ["--json"]],
    ("cron", "history"): [[EVIL], [EVIL, "--json"], [f"no {EVIL}"]],
    ("cron", "run"): [[EVIL], ["mine"]],
    ("cron", "pause"): [[EVIL], [EVIL, "--note", EVIL, "--until", "1h"], [EVIL, "--until", EVIL], [f"no {EVIL}"]],
    ("cron", "resume"): [[EVIL], [f"no {EVIL}"]],
    ("lock", "ls"): [[], ["--json"], ["--queue", EVIL, "--type", EVIL]],
    ("lock", "release"): [[EVIL, EVIL, EVIL, "--yes"], [EVIL, EVIL, EVIL, "--task", EVIL]],
    ("daemon", "ls"): [[], ["--json"]],
    ("daemon", "show"): [[EVIL], [EVIL, "--json"], [f"no {EVIL}"]],
    ("audit",): [[], ["--json"], ["--who", EVIL]],
    ("types",): [[], ["--json"], [EVIL], [EVIL, "--json"], ["-q", EVIL], [f"no {EVIL}"]],
    ("web",): [["--host", EVIL], ["--prefix", EVIL], ["--socket", f"/nowhere/{EVIL}"]],
    ("schema",): [[], ["test:mail"], [EVIL], ["--app", EVIL]],
    ("quiet",): [[]],
    ("resume",): [[]],
    ("reload",): [[]],
    ("restart",): [[EVIL]],
    ("scale",): [["1"], [EVIL]],
    ("health",): [[], ["--json"], ["--max-latency", "1s"], ["--explain"], ["--explain", "--json"]],
    ("config", "show"): [[], ["--json"]],
    ("config", "check"): [[], ["--app", EVIL]],
}  # fmt: skip
#: How the hostile values begin where they are shown, and the only command that shows none of them.
ESCAPED, FREE = r"\\(x1b|u001b|u2028)", {("stats",)}
#: They run an application, serve, or need a terminal; tests of their own start them as processes.
PROCESSES = {("run",), ("web",), ("dash",)}


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*words, name))


LEAVES = dict(leaves(command_line.boilerd))


def store_task(connection: redis.Redis, task_id: bytes, queue: bytes, state: bytes = b"queued") -> None:
    """A job whose every text is hostile."""
    call: list[Any] = ["boilerd.entry_point.run", None, [EVIL, {EVIL: [EVIL]}], {"headers": {"tenant-id": EVIL}}]
    fields: dict[Any, Any] = dict.fromkeys(TASK_FIELDS, EVIL_BYTES)
    moments = dict.fromkeys(("created_at", "enqueued_at", "started_at", "ended_at", "last_failed_at"), MOMENT)
    own = {"status": state, "origin": queue, "task_type": EVIL_BYTES, "data": json.dumps(call, ensure_ascii=False)}
    progress = MOMENT + b" " + json.dumps({"done": 1, "note": EVIL}, ensure_ascii=False).encode()
    connection.hset(b"rq:job:" + task_id, mapping=fields | moments | own | {"progress": progress})
    attempt: dict[Any, Any] = {
        "type": "2", "worker_name": EVIL_BYTES, "execution_ended_at": EVIL_BYTES,
        "exc_string": base64.b64encode(zlib.compress(EVIL_BYTES)),
        "return_value": base64.b64encode(json.dumps({EVIL: EVIL}, ensure_ascii=False).encode()),
    }  # fmt: skip
    connection.xadd(b"rq:results:" + task_id, attempt)


@pytest.fixture
def world(connection: redis.Redis) -> None:
    """A Redis in which every text is hostile: names of queues, tasks, workers, periodic tasks, and all their fields."""
    for queue in (b"default", EVIL.encode()):
        connection.sadd(keys.QUEUES, b"rq:queue:" + queue)
        connection.sadd(keys.PAUSED, queue)
        for field in ("max_active", "max_length"):
            connection.hset(keys.LIMITS, queue + b":" + field.encode(), EVIL_BYTES)
        for task_id in (b"pending", EVIL_BYTES, EVIL.encode()):
            connection.rpush(b"rq:queue:" + queue, task_id)
            connection.zadd(b"rq:wip:" + queue, {task_id + b":execution": 2e9})
            store_task(connection, task_id, queue)
        for state, kind in REGISTRIES.items():
            status = {"scheduled": b"scheduled", "failed": b"failed", "finished": b"finished"}.get(kind)
            if status:
                store_task(connection, state.encode() + EVIL_BYTES, queue, status)
                connection.zadd(f"rq:{kind}:".encode() + queue, {state.encode() + EVIL_BYTES: 2e9})
    store_task(connection, b"active", b"default", b"started")
    count_in_minute(connection, connection.time()[0] // 60 - 1, EVIL, EVIL, counted(1, archived=1))
    about = {"fingerprint": EVIL, "type": EVIL, "error": EVIL, "message": EVIL, "frames": [EVIL], "release": EVIL}
    for print_ in (EVIL.encode(), EVIL_BYTES):
        connection.zadd(keys.FAILURES, {print_: 2e9})
        names = ("count", "first_seen", "first_release", "last_release", "note", "noted_by", "acknowledged_by")
        texts: dict[Any, Any] = dict.fromkeys(names, EVIL_BYTES)
        connection.hset(b"boilerd:failure:" + print_, mapping={"about": json.dumps(about), **texts, "noted_at": 2e9})
        connection.rpush(b"boilerd:failure:" + print_ + b":tasks", EVIL_BYTES)
    note = {"id": EVIL, "type": EVIL, "worker": EVIL, "started_at": 1.0, "ended_at": 2.0}
    connection.rpush(keys.completed("default"), json.dumps(note), json.dumps(note, ensure_ascii=False), EVIL_BYTES)
    connection.hset(keys.CRON, EVIL_BYTES, EVIL_BYTES)
    cron = {"name": EVIL, "spec": EVIL, "timezone": EVIL, "type": EVIL, "queue": EVIL, "options": {EVIL: EVIL}}
    facts = {
        "host": EVIL, "release": EVIL, "versions": {EVIL: EVIL, "boilerd": EVIL}, "settings": {EVIL: EVIL},
        "types": [EVIL], "schemas": {EVIL: {EVIL: EVIL}}, "crons": [cron], "left_out": {EVIL: 1},
        "pools": [{"name": EVIL, "queues": {EVIL: 1}}], "started_at": EVIL,
    }  # fmt: skip
    for name, other in ((EVIL.encode(), {}), (EVIL_BYTES, {"host": "other", "settings": {EVIL: "other"}})):
        connection.zadd(keys.DAEMONS, {name: 2e9})
        connection.set(b"boilerd:daemon:" + name, json.dumps(facts | other))
    dead = {"at": time.time(), **dict.fromkeys(("worker", "pool", "exit", "because", "task_id", "task_type"), EVIL)}
    connection.rpush(keys.DEATHS, json.dumps(dead, ensure_ascii=False), EVIL_BYTES)
    tick = {"tick": 1.0, "at": 2.0, "why": EVIL, "id": EVIL, "queue": EVIL}
    connection.rpush(b"boilerd:ticks:" + EVIL.encode(), json.dumps(tick, ensure_ascii=False), EVIL_BYTES)
    connection.set(b"boilerd:unique:default:" + EVIL.encode() + b":digest", EVIL_BYTES)
    connection.xadd(
        keys.AUDIT, dict.fromkeys(("user", "host", "via", "what", "on", "count", "outcome", "why"), EVIL_BYTES)
    )
    connection.xadd(keys.AUDIT, {"user": EVIL, "on": json.dumps({"task": EVIL, EVIL: EVIL})})
    worker = b"rq:worker:" + EVIL_BYTES
    connection.sadd(keys.WORKERS, worker)
    connection.hset(worker, mapping=dict.fromkeys(WORKER_FIELDS, EVIL_BYTES))
    connection.sadd(worker + b":executions", EVIL_BYTES + b":execution")
    connection.hset(b"rq:execution:" + EVIL_BYTES + b":execution", mapping={"job_id": EVIL_BYTES, "created_at": EVIL})


@pytest.fixture
def environment(world: None, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Settings whose texts are hostile, in a directory with a hostile name; no daemon runs."""
    with private_directory() as base:
        directory = base / EVIL_NAME[:20]
        directory.mkdir()
        lines = [EVIL, '{"message": "x", "\x9b2J": "\x7f"}', json.dumps({"message": EVIL, EVIL: EVIL, "level": EVIL})]
        broken = json.dumps({"message": "x", "traceback": EVIL, "task_id": "\ud800"})
        (directory / "LOG").write_bytes("\n".join([*lines, broken, ""]).encode() + EVIL_BYTES)
        for name, value in clean_environment(
            BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP="apps:mux", COLUMNS="80",
            BOILERD_LOG_FILE=str(directory / EVIL_NAME), TERM="xterm-256color",
            BOILERD_CRON=json.dumps([{"name": "mine", "spec": "*\u2028*\x1c* * *", "type": "test:echo"}]),
        ).items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(directory)
        monkeypatch.setattr(command_line, "is_journal", lambda _: False)
        yield directory


#: What rich writes to a terminal by itself: styles, the other screen, a hidden cursor, a progress bar that goes away.
OWN = r"\x1b\[[\d;]*m|\x1b\[\?(?:1049|25)[hl]|\x1b\[H|\x1b\[1A|\x1b\[2K|\r"


class Screen(io.StringIO):
    """What a terminal would get."""

    def isatty(self) -> bool:
        return True


def shown(words: Sequence[str], *, is_terminal: bool) -> str:
    """What a command prints, but for what rich adds on a terminal."""
    return re.sub(OWN, "", shown_by(*words, screen=Screen())) if is_terminal else shown_by(*words)


def unsafe(shown: str) -> set[str]:
    """What a terminal would obey, hide or reorder; a line ends with a line feed alone."""
    return {char for line in shown.split("\n") for char in line if not char.isprintable()}


def test_the_walk_knows_every_command() -> None:
    assert WALK.keys() == LEAVES.keys()
    assert {words[0] for words in WALK} == COMMANDS.keys()


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("command", sorted(WALK.keys() - PROCESSES), ids=" ".join)
def test_no_command_shows_what_a_terminal_would_obey(
    environment: Path, command: tuple[str, ...], is_terminal: bool
) -> None:
    found = {tuple(words): shown([*command, *words], is_terminal=is_terminal) for words in WALK[command]}

    assert {words: unsafe(text) for words, text in found.items() if unsafe(text)} == {}
    objects = [line for words in found if "--json" in words for line in found[words].splitlines() if line[:1] == "{"]
    assert all(isinstance(json.loads(line), dict) for line in objects)
    assert re.search(ESCAPED, "".join(found.values())) or command in FREE


@pytest.mark.parametrize("command", sorted(LEAVES), ids=" ".join)
def test_no_option_is_repeated_as_it_was_given(environment: Path, command: tuple[str, ...]) -> None:
    flags = [flag for option in LEAVES[command].params for flag in option.opts if flag.startswith("--")]
    wrong = [[f"--{EVIL}"], [EVIL] * 50, *([flag, EVIL] for flag in flags)]

    for words in wrong if command not in PROCESSES else wrong[:1]:
        assert unsafe(shown([*command, *words], is_terminal=True)) == set(), words


@pytest.mark.parametrize(
    "words",
    [[command, *words] for command in ("run", "web") for words in WALK[command,]],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_cannot_start_does_not_repeat_what_it_was_given(environment: Path, words: list[str]) -> None:
    done = boilerd(*words, env=dict(os.environ))

    assert done.returncode == 3
    assert unsafe(done.stderr) == set()


def test_a_question_is_harmless_as_well(environment: Path) -> None:
    screen, status = on_a_terminal(["queue", "purge", EVIL], "n")

    assert status == 1
    assert "Delete all pending tasks of queue evil\\x1b[2J" in screen
    assert unsafe(re.sub(OWN, "", screen)) == set()


def test_the_dash_shows_no_screen_that_a_terminal_would_obey(environment: Path) -> None:
    open_a_task, act_on_it, pause, help_and_quit = "\r\r", "jjacn", "qqp", "?xqqq"

    screen, status = on_a_terminal(["dash", "--refresh", "60"], open_a_task + act_on_it + pause + help_and_quit)

    assert status == 0
    assert all(text in screen for text in ("evil\\x1b[2J", "attempt 1", "evil\\u001b[2J", "workers, 1 busy"))
    assert unsafe(re.sub(OWN, "", screen)) == set()


def on_a_terminal(words: Sequence[str], typed: str) -> tuple[str, int]:
    """All that a command writes to a real terminal; each key is pressed when it has shown what the last one did."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (50, 120))
    command = [sys.executable, "-m", "boilerd", *words]
    seen = b""
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        with suppress(OSError):  # it has ended, and the terminal with it
            for key in typed:
                seen += os.read(master, 65536)
                while select.select([master], [], [], 0.05)[0]:
                    seen += os.read(master, 65536)
                os.write(master, key.encode() + (b"\n" if words[0] != "dash" else b""))
            while True:
                seen += os.read(master, 65536)
        status = process.wait(DEADLINE_S)
    os.close(master)
    return seen.decode("utf-8", "surrogateescape"), status
