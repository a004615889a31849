"""Nothing that Redis or a log holds ends a command in a traceback.

Each example fills every record that people look at with values at the edge of what can be read, or beyond it, and runs
every command that reads them. `HYPOTHESIS_PROFILE=long` looks for minutes instead of seconds.
"""

import base64
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.cli.dash.state import State
from boilerd.cli.dash.views import draw
from support import Valkey, clean_environment, shown_by

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SETTINGS = settings(
    max_examples=5_000 if IS_LONG else 40,
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if IS_LONG else [])],  # to make one small takes minutes
    suppress_health_check=list(HealthCheck),
)
pytestmark = pytest.mark.timeout(3600 if IS_LONG else 60)

Record = dict[str, Any]
TASK, QUEUE = "task", "default"
#: Where the day begins first, and where it ends last: a moment at the end of the calendar has no local time there.
ZONES = ("Pacific/Kiritimati", "Pacific/Pago_Pago")
NUMBERS = [
    "", "0", "-1", "1.5", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "1_000", "٣", "0x10", "9" * 5_000, "-",
    *(str(sign * 2**bits + more) for bits in (31, 53, 63, 64, 80) for sign in (1, -1) for more in (0, -1)),
    str(sys.maxsize), "253402300799.9999999", "253402300800", "-62135596800", "-62135596801",
]  # fmt: skip
MOMENTS = [
    "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00", "0001-01-01T00:00:00+23:59",
    "1969-12-31T23:59:59.999999Z", "2026-11-24", "2026-02-30T00:00:00Z", "2026-11-24T09:30:00+01:02:03.4", "\ud800",
]  # fmt: skip
DEPTHS = (90, 150, 400, 950, 15_000)
values = st.one_of(
    st.sampled_from(NUMBERS).map(str.encode),
    st.sampled_from(MOMENTS).map(lambda moment: moment.encode("utf-8", "surrogatepass")),
    st.binary(max_size=20),
    st.text(max_size=10).map(lambda text: text.encode("utf-8", "replace")),
)
nested = st.sampled_from(DEPTHS).flatmap(
    lambda depth: st.sampled_from([
        "[" * depth, "[" * depth + "]" * depth, '{"a":' * depth, '{"a":' * depth + "1" + "}" * depth
    ])
)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(MOMENTS)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
documents = nested | trees.map(json.dumps) | st.sampled_from(NUMBERS)


def fields(*names: str) -> st.SearchStrategy[Record]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, values))


def calls(document: str) -> st.SearchStrategy[bytes]:
    """The data of a job whose payload, or all of it, is this document; packed or not."""
    own = f'["boilerd.entry_point.run",null,["a:b",{document}],{{}}]'
    foreign = f'["shop.bill",null,[{document}],{document}]'
    headed = f'["boilerd.entry_point.run",null,["a:b",1],{{"headers":{document}}}]'
    packed = [zlib.compress(text.encode()) for text in (own, foreign, document)]
    return st.sampled_from(
        [own.encode(), headed.encode(), foreign.encode(), document.encode(), *packed, packed[0][:-3]]
    )


jobs = st.builds(
    dict.__or__,
    fields(
        "created_at", "enqueued_at", "started_at", "ended_at", "last_failed_at", "deadline", "timeout", "result_ttl",
        "failure_ttl", "max_retries", "retries_left", "number_of_retries", "last_error", "worker_name", "task_type",
        "unique_key", "unique_until", "concurrency_key", "concurrency_limit", "description", "data", "runs",
        "retry_intervals", "retried_until",
    ),
    st.fixed_dictionaries({
        "status": st.sampled_from([b"queued", b"scheduled", b"failed", b"finished", b"started", b"deferred", b"?"]),
        "origin": st.just(b"default") | st.text(max_size=10).map(lambda text: text.encode("utf-8", "replace")),
    }),
)  # fmt: skip
attempts = st.builds(
    dict.__or__,
    fields("type", "worker_name", "execution_started_at", "execution_ended_at", "exc_string", "return_value", "pad"),
    st.fixed_dictionaries(
        {"type": st.sampled_from([b"1", b"2"])},
        optional={
            "return_value": documents.map(lambda text: base64.b64encode(text.encode())),
            "exc_string": values.map(lambda value: base64.b64encode(zlib.compress(value))),
        },
    ),
)
notes = values | documents.map(str.encode) | st.builds(
    lambda start, end, more: f'{{"id":"a","type":"b","worker":"c","started_at":{start},"ended_at":{end},"x":{more}}}',
    *[st.sampled_from([*NUMBERS, *map(json.dumps, MOMENTS)])] * 2,
    documents,
).map(str.encode)  # fmt: skip
progresses = documents | st.builds(
    '{{"done":{},"total":{},"note":{}}}'.format,
    *[st.sampled_from([*NUMBERS, "1" * 400, "-" + "1" * 400, "0.1"])] * 2,
    st.text(max_size=10).map(json.dumps) | st.sampled_from(MOMENTS).map(json.dumps),
)
workers = fields(
    "hostname",
    "pid",
    "state",
    "queues",
    "birth",
    "last_heartbeat",
    "successful_job_count",
    "failed_job_count",
    "rss",
    "cpu_ms",
)
#: What a daemon tells of itself, each part as it is meant, or as anything.
PARTS = {
    "host": st.just("h"), "pid": st.just(1), "release": st.just("1"), "started_at": st.sampled_from(MOMENTS),
    "versions": st.dictionaries(st.just("python"), scalars), "settings": st.dictionaries(st.just("app"), trees),
    "pools": st.lists(st.fixed_dictionaries({"name": st.just("default")}, optional={"processes": trees}), max_size=1),
    "types": st.lists(st.just("a:b") | trees, max_size=2), "schemas": st.dictionaries(st.just("a:b"), trees),
    "crons": st.lists(st.fixed_dictionaries({"name": st.just("mine"), "spec": scalars, "timezone": scalars})),
    "left_out": st.dictionaries(st.just("types"), scalars),
}  # fmt: skip
facts = values | documents.map(str.encode) | st.fixed_dictionaries(
    {}, optional={name: part | trees for name, part in PARTS.items()}
).map(json.dumps).map(str.encode)  # fmt: skip
ticks = values | documents.map(str.encode) | st.fixed_dictionaries(
    {"tick": scalars, "id": st.just(TASK)}, optional=dict.fromkeys(("at", "missed", "why", "queue"), scalars)
).map(json.dumps).map(str.encode)  # fmt: skip
LINE_KEYS = (
    "message", "time", "level", "task_id", "traceback", "exc_info", "getMessage", "args", "msg", "name", "created",
    "levelname", "levelno", "exc_text", "stack_info", "__class__", "__dict__", "duration_ms", "",
)  # fmt: skip
lines = st.one_of(
    values,
    documents.map(str.encode),
    st.dictionaries(st.sampled_from(LINE_KEYS), trees).map(lambda line: json.dumps({"message": "x"} | line).encode()),
    documents.map(lambda text: f'{{"message":"x","traceback":{text},"a":{text}}}'.encode()),
)


@pytest.fixture
def log(valkey: Valkey, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log file of settings that lead to the tests' Valkey; afterwards the time zone is what it was."""
    path = directory / "log"
    for name, value in clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_LOG_FILE=str(path),
        BOILERD_CRON='[{"name": "mine", "spec": "@daily", "type": "a:b"}]',
    ).items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield path
    monkeypatch.undo()
    time.tzset()


def fill(connection: Any, draw: st.DataObject) -> None:
    """Every record that is read, with whatever stands there."""
    connection.flushall()
    connection.sadd(keys.QUEUES, keys.queue(QUEUE))
    job = draw.draw(jobs)
    if "data" in job:
        job["data"] = draw.draw(documents.flatmap(calls))
    job["progress"] = job.get("started_at", b"") + b" " + draw.draw(progresses).encode("utf-8", "surrogateescape")
    score = draw.draw(st.floats(allow_nan=False) | st.sampled_from([2e9, 253402300800.0, float("inf")]))
    connection.rpush(keys.queue(QUEUE), TASK)
    connection.zadd(keys.wip(QUEUE), {f"{TASK}:execution": 2e9})
    for kind in ("scheduled", "finished", "failed"):
        connection.zadd(keys.registry(kind, QUEUE), {TASK: score})
    connection.hset(keys.job(TASK), mapping=job)
    connection.set(keys.once(TASK), b"", px=draw.draw(st.sampled_from([None, 1, 10**9, 2**62])))
    connection.xadd(keys.results(TASK), dict(draw.draw(attempts)))
    connection.rpush(keys.completed(QUEUE), *draw.draw(st.lists(notes, min_size=1, max_size=3)))
    connection.hset(
        keys.LIMITS, mapping={f"{QUEUE}:{name}": draw.draw(values) for name in ("max_active", "max_length")}
    )
    counts = {name: draw.draw(values) for name in ("processed", "failed")}
    for day in (int(time.time() // 86_400), int(time.time() // 86_400) + 1):
        connection.hset(keys.stats(QUEUE, day), mapping=counts)
    connection.hset(keys.CRON, "mine", draw.draw(values))
    connection.rpush(keys.ticks("mine"), b'{"tick": 1}', *draw.draw(st.lists(ticks, max_size=3)))
    connection.zadd(keys.DAEMONS, {"h.r": score, "h.s": 1.0})
    connection.set(keys.daemon("h.r"), draw.draw(facts) or b"0")
    connection.set(keys.daemon("h.s"), b"{}")
    connection.sadd(keys.WORKERS, "rq:worker:w")
    connection.hset("rq:worker:w", mapping=draw.draw(workers) | {"name": "w"})
    connection.sadd("rq:worker:w:executions", f"{TASK}:execution")
    execution = {"job_id": TASK, "created_at": draw.draw(values)}
    connection.hset(keys.execution(f"{TASK}:execution"), mapping=execution)


READERS = [
    ["task", "show", TASK], ["task", "why", TASK], ["task", "recent"], ["queue", "ls"], ["queue", "show", QUEUE],
    ["cron", "history", "mine"], ["daemon", "ls"], ["daemon", "show", "h.r"],
    ["stats"], ["worker", "ls"], ["cron", "ls"], ["status"], ["health", "--max-latency", "1s"], ["health", "--explain"],
    *(["task", "ls", "-s", s.value] for s in TaskState),
]  # fmt: skip


@SETTINGS
@given(content=st.data())
def test_no_content_of_redis_ends_in_a_traceback(log: Path, client: Client, content: st.DataObject) -> None:
    fill(client.connection, content)
    os.environ["TZ"] = content.draw(st.sampled_from(ZONES))
    time.tzset()
    as_json = content.draw(st.booleans())

    shown = {" ".join(words): shown_by(*words, *(["--json"] if as_json else [])) for words in READERS}
    show_dash(client)

    assert {words: text for words, text in shown.items() if "error: " in text} == {}


def show_dash(client: Client) -> None:
    """Each screen of the dash."""
    state = State(Inspector(client.connection), client.cancel)
    screen = Console(file=open(os.devnull, "w"), width=120, height=40)  # noqa: PTH123, SIM115
    with screen.file:
        for key in ("", "enter", *["tab"] * len(TaskState), "enter"):
            state.press(key)
            state.refresh()
            screen.print(draw(state, "title", 120, 40))


@SETTINGS
@given(written=st.lists(lines, max_size=5), zone=st.sampled_from(ZONES))
def test_no_line_of_a_log_ends_in_a_traceback(log: Path, written: list[bytes], zone: str) -> None:
    log.write_bytes(b"\n".join(written))
    os.environ["TZ"] = zone
    time.tzset()

    shown = shown_by("logs", "--level", "debug")
    as_json = shown_by("logs", "--json")

    assert len(shown.splitlines()) >= len(as_json.splitlines())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["logs", "--file", "DIRECTORY"], "DIRECTORY: Is a directory; give another file with --file"),
        (["queue", "ls", "--redis-url", "unix://DIRECTORY"], "Redis did not answer: .* DIRECTORY. Connection refused."),
        (["stats", "--config", "DIRECTORY"], "DIRECTORY: Is a directory; check --config and BOILERD_CONFIG"),
        (["quiet"], "no daemon answers at DIRECTORY: Connection refused; is it running.*"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_directory_where_a_file_or_a_socket_should_be_is_told(
    log: Path, directory: Path, words: list[str], told: str
) -> None:
    wrong = directory / "run" / "control.sock"
    wrong.mkdir(parents=True)

    shown = shown_by(*(word.replace("DIRECTORY", str(wrong)) for word in words))

    assert re.fullmatch("boilerd: error: " + told.replace("DIRECTORY", re.escape(str(wrong))) + "\n", shown)


def test_lines_of_a_log_that_are_hard_to_read_are_shown(log: Path) -> None:
    odd = [
        "[" * 100_000,
        '{"message": "x", "getMessage": 1}',
        '{"message": "x", "time": "0001-01-01T00:00:00Z"}',
    ]
    log.write_text("\n".join(odd))

    shown = shown_by("logs").splitlines()

    assert shown[0] == odd[0]
    assert [line.split()[1:] for line in shown[1:]] == [["x"], ["x"]]
