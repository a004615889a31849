"""Log lines: their form, where they go, and that they never get in the way."""

import importlib
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from boilerd.process.line_handler import LineHandler
from boilerd.process.log_lines import FIELDS, LONGEST, JsonFormatter, TextFormatter
from boilerd.process.logs import configure, log_context, name_process
from builders import endless_list
from support import DEADLINE_S, clean_environment

logger = logging.getLogger("app.module")

Capture = pytest.CaptureFixture[str]
#: 2026-01-02T03:04:05.678Z
MOMENT_S = 1767323045.678


@contextmanager
def logging_to(output: str = "stdout", *, level: str = "info", worker: str = "", **options: Any) -> Iterator[None]:
    """Logging set up for the block; pytest's own handlers come back after it."""
    root = logging.getLogger()
    kept = root.handlers[:], {name: logging.getLogger(name).level for name in (None, "rq", "rq.worker")}
    raises = logging.raiseExceptions
    root.handlers[:] = []
    try:
        configure(level=level, output=output, **options)
        if worker:
            name_process(worker)
        yield
    finally:
        for handler in root.handlers:
            with suppress(OSError):
                getattr(handler, "shut", handler.close)()
        root.handlers[:] = kept[0]
        for name, kept_level in kept[1].items():
            logging.getLogger(name).setLevel(kept_level)
        logging.raiseExceptions = raises


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def read(path: Path) -> list[dict[str, Any]]:
    return json_lines(path.read_text("utf-8"))


def record(message: str = "hello", **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("app", logging.INFO, __file__, 1, message, None, None)
    made.created = MOMENT_S
    vars(made).update(fields)
    return made


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place that is five and a half hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-5:30")
        time.tzset()
        yield
    time.tzset()


# --- JSON


def test_a_line_is_one_json_object_with_the_fields_in_their_order(capfd: Capture) -> None:
    with logging_to(worker="worker:3"):
        logger.info(
            "task completed",
            extra={
                "zebra": 1, "request_id": "r", "error": "e", "duration_ms": 1.5, "attempt": 2, "queue": "default",
                "task_type": "a:b", "task_id": "t", "apple": 2,
            },
        )  # fmt: skip

    (line,) = json_lines(capfd.readouterr().out)
    assert tuple(line) == (*FIELDS, "zebra", "apple")
    assert line == {
        "time": line["time"], "level": "info", "message": "task completed", "logger": "app.module", "pid": os.getpid(),
        "worker": "worker:3", "task_id": "t", "task_type": "a:b", "queue": "default", "attempt": 2, "duration_ms": 1.5,
        "error": "e", "request_id": "r", "zebra": 1, "apple": 2,
    }  # fmt: skip


def test_fields_without_a_value_are_left_out(capfd: Capture) -> None:
    with logging_to():
        logger.warning("quiet", extra={"request_id": None, "other": None, "zero": 0, "empty": ""})

    (line,) = json_lines(capfd.readouterr().out)
    assert list(line) == ["time", "level", "message", "logger", "pid", "zero", "empty"]
    assert line["level"] == "warning"


@pytest.mark.usefixtures("far_east")
def test_times_are_utc_with_milliseconds() -> None:
    line = json.loads(JsonFormatter().format(record()))

    assert line["time"] == "2026-01-02T03:04:05.678Z"


def test_the_time_of_a_line_is_now(capfd: Capture) -> None:
    before = datetime.now(UTC)
    with logging_to():
        logger.info("now")
    after = datetime.now(UTC)

    (line,) = json_lines(capfd.readouterr().out)
    lag = datetime.fromisoformat(line["time"]) - before
    assert -0.001 <= lag.total_seconds() <= (after - before).total_seconds()


def test_arguments_are_put_into_the_message(capfd: Capture) -> None:
    with logging_to():
        logger.info("%d of %s", 3, "ü€\n")

    assert json_lines(capfd.readouterr().out)[0]["message"] == "3 of ü€\n"


def test_an_exception_is_in_the_field_traceback(capfd: Capture) -> None:
    with logging_to():
        try:
            raise KeyError("missing")
        except KeyError:
            logger.exception("it failed")

    (line,) = json_lines(capfd.readouterr().out)
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("\nKeyError: 'missing'")
    assert not {"exc_info", "exc_text"} & line.keys()


class Mute:
    def __repr__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "value",
    [
        b"\xff", {1, 2}, object(), ValueError("x"), datetime.now(UTC), float("nan"), float("inf"), 2**70, int, 1j,
        {(1, 2): 3}, {None: 1}, "\udcff", ["\udcff"], Mute(), endless_list(), Path("/x"), "\x00\x1b",
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_stands_in_a_field_the_line_is_written(capfd: Capture, style: str, value: object) -> None:
    with logging_to(style=style):
        logger.info("before")
        logger.info("the line", extra={"field": value, "other": "kept"})

    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "the line" in lines[1]
    assert "kept" in lines[1]
    if style == "json":
        assert "field" in json.loads(lines[1]) or value != value  # noqa: PLR0124 - null is what JSON has for NaN


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_name_that_is_not_utf_8_is_written_readably(capfd: Capture, style: str) -> None:
    with logging_to(style=style):
        logger.error("no file %s", os.fsdecode(b"file-\xe9"), extra={"error": os.fsdecode(b"\xff")})

    out = capfd.readouterr().out
    text = json.loads(out)["message"] if style == "json" else out
    assert "no file file-" in text
    assert "udce9" in ascii(text)


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_message_that_does_not_fit_its_arguments_is_written_without_them(capfd: Capture, style: str) -> None:
    with logging_to(style=style):
        logger.info("%d tasks", "many")

    assert "%d tasks" in capfd.readouterr().out


def test_a_field_of_the_callers_never_takes_the_place_of_the_lines_own(capfd: Capture) -> None:
    with logging_to():
        logger.info("real", extra={"time": 1, "level": 2, "logger": 3, "pid": 4})

    (line,) = json_lines(capfd.readouterr().out)
    assert (line["level"], line["logger"], line["pid"]) == ("info", "app.module", os.getpid())
    assert str(line["time"]).endswith("Z")


# --- What lines may hold


HOSTILE = "\x1b]52;c;aGk=\x07 \x9b2J \x7f \x00 \r \u202e\u2066\u200f\u061c \u2028\u2029 ü€"


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_character_that_a_terminal_obeys_or_a_reader_mistakes_is_written_as_it_is(
    capfd: Capture, style: str
) -> None:
    with logging_to(style=style):
        logger.info("message %s", HOSTILE, extra={"field": HOSTILE, HOSTILE: [HOSTILE]})

    (line,) = capfd.readouterr().out.split("\n")[:-1]
    assert [c for c in line if not c.isprintable()] == []
    assert "ü€" in line
    if style == "json":
        found = json.loads(line)
        assert (found["message"], found["field"], found[HOSTILE]) == (f"message {HOSTILE}", HOSTILE, [HOSTILE])


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "long", ["a" * 10**6, "€" * 10**6, "\x00" * 10**6, "\x7f" * 10_000, ["a" * 10**6], {"a": "b" * 10**6}]
)
def test_a_long_value_is_cut_and_marked_and_the_others_stay(capfd: Capture, style: str, long: object) -> None:
    with logging_to(style=style), log_context(task_id="t"):
        logger.info("the line", extra={"field": long, "duration_ms": 1.5})

    (line,) = capfd.readouterr().out.split("\n")[:-1]
    assert len(line.encode()) < LONGEST
    assert re.search(r"… [\d,]+ characters cut …", line)
    if style == "json":
        found = json.loads(line)
        assert (found["message"], found["task_id"], found["duration_ms"]) == ("the line", "t", 1.5)


def test_a_long_message_and_a_long_traceback_keep_their_two_ends(capfd: Capture) -> None:
    with logging_to():
        try:
            raise KeyError("first" + "x" * 10**6 + "last")
        except KeyError:
            logger.exception("begin %s end", "y" * 10**6)

    (line,) = json_lines(capfd.readouterr().out)
    assert line["message"].startswith("begin yyy")
    assert line["message"].endswith("yyy end")
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("last'")


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_line_of_fields_without_number_keeps_its_own(capfd: Capture, style: str) -> None:
    with logging_to(style=style), log_context(task_id="t"):
        logger.info("the line", extra={f"field{n}": "value" for n in range(10_000)})

    (line,) = capfd.readouterr().out.split("\n")[:-1]
    assert len(line.encode()) < LONGEST
    assert "the line" in line
    assert ('"task_id":"t"' if style == "json" else "task_id=t") in line


def test_a_line_that_is_just_short_enough_is_whole(capfd: Capture) -> None:
    with logging_to():
        logger.info("x" * (LONGEST - 200))

    assert json_lines(capfd.readouterr().out)[0]["message"] == "x" * (LONGEST - 200)


# --- Text


@pytest.mark.usefixtures("far_east")
def test_text_is_local_time_level_message_and_fields() -> None:
    line = TextFormatter().format(record(zebra=1, queue="default", task_id="t", duration_ms=12.5, error=None))

    assert line == "08:34:05.678 INFO    hello  task_id=t queue=default duration_ms=12.5 zebra=1"


def test_text_without_fields_ends_with_the_message() -> None:
    assert TextFormatter().format(record()).endswith(" INFO    hello")


@pytest.mark.parametrize(
    ("value", "text"),
    [("two words", "'two words'"), ("", "''"), ("a\nb", r"'a\nb'"), (3.0, "3"), (1234567.0, "1.23457e+06"), (7, "7")],
)
def test_text_shows_where_a_value_begins_and_ends(value: object, text: str) -> None:
    assert TextFormatter().format(record(field=value)).endswith(f"  field={text}")


def test_text_has_a_traceback_that_a_field_holds_on_the_lines_below() -> None:
    trace = 'Traceback:\n  File "a.py", line 7\n    def x(:\nSyntaxError: \x1b[31mbad'

    line = TextFormatter().format(record(error="bad", traceback=trace))

    assert line.partition("\n")[0].endswith("  error=bad")
    assert line.partition("\n")[2] == trace.replace("\x1b", r"\x1b")


def test_text_has_an_exception_on_the_lines_below(capfd: Capture) -> None:
    with logging_to(style="text"):
        try:
            raise KeyError("missing")
        except KeyError:
            logger.exception("it failed", extra={"a": 1})

    first, second, *_, last = capfd.readouterr().out.splitlines()
    assert first.endswith(" ERROR   it failed  a=1")
    assert (second, last) == ("Traceback (most recent call last):", "KeyError: 'missing'")


# --- Fields of the context


def test_fields_of_the_context_are_on_every_line_inside_and_nest(capfd: Capture) -> None:
    with logging_to():
        logger.info("0")
        with log_context(task_id="a", queue="default"):
            logger.info("1")
            with log_context(task_id="b", attempt=2):
                logging.getLogger("elsewhere").info("2")
            logger.info("3")
        logger.info("4")

    lines = json_lines(capfd.readouterr().out)
    assert [[line.get(name) for name in ("task_id", "queue", "attempt")] for line in lines] == [
        [None, None, None], ["a", "default", None], ["b", "default", 2], ["a", "default", None], [None, None, None],
    ]  # fmt: skip


def test_fields_of_the_context_end_with_an_exception(capfd: Capture) -> None:
    with logging_to():
        with suppress(KeyError), log_context(task_id="a"):
            raise KeyError
        logger.info("after")

    assert "task_id" not in json_lines(capfd.readouterr().out)[0]


def test_a_field_of_the_line_wins_over_the_context(capfd: Capture) -> None:
    with logging_to(), log_context(task_id="a", queue="default"):
        logger.info("other", extra={"task_id": "b"})

    (line,) = json_lines(capfd.readouterr().out)
    assert (line["task_id"], line["queue"]) == ("b", "default")


# --- Where lines go


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(capfd: Capture, level: str, written: list[str]) -> None:
    with logging_to(level=level):
        for name in ("debug", "info", "warning", "error"):
            getattr(logger, name)("line")

    assert [line["level"] for line in json_lines(capfd.readouterr().out)] == written


@pytest.mark.parametrize("name", ["rq.worker", "rq.job"])
def test_rq_never_logs_a_call_with_its_arguments(capfd: Capture, name: str) -> None:
    importlib.import_module("rq.worker")  # gives its logger a level of its own
    with logging_to(level="debug"):
        logging.getLogger(name).info("default: run('a:b', 'geheim')")
        logging.getLogger(name).warning("kept")

    assert [line["message"] for line in json_lines(capfd.readouterr().out)] == ["kept"]


@pytest.mark.parametrize(("output", "counts"), [("stdout", (1, 0)), ("file", (0, 1)), ("both", (1, 1))])
def test_lines_go_where_the_settings_say(tmp_path: Path, capfd: Capture, output: str, counts: tuple[int, int]) -> None:
    path = tmp_path / "log"
    path.touch()

    with logging_to(output, file=str(path), worker="scheduler"):
        logger.info("here")

    found = json_lines(capfd.readouterr().out), read(path)
    assert (len(found[0]), len(found[1])) == counts
    assert {line["worker"] for lines in found for line in lines} == {"scheduler"}


def test_a_file_gets_json_where_stdout_gets_text(tmp_path: Path, capfd: Capture) -> None:
    with logging_to("both", file=str(tmp_path / "log"), style="text"):
        logger.info("here")

    assert capfd.readouterr().out.endswith(" INFO    here\n")
    assert [line["message"] for line in read(tmp_path / "log")] == ["here"]


def test_a_file_is_added_to(tmp_path: Path) -> None:
    for message in ("first", "second"):
        with logging_to("file", file=str(tmp_path / "log")):
            logger.info(message)

    assert [line["message"] for line in read(tmp_path / "log")] == ["first", "second"]


def test_to_set_up_again_takes_the_place_of_what_was(tmp_path: Path, capfd: Capture) -> None:
    with logging_to("both", file=str(tmp_path / "log")):
        configure(level="info")
        name_process("worker:1")
        logger.info("once")

    assert [line["worker"] for line in json_lines(capfd.readouterr().out)] == ["worker:1"]
    assert read(tmp_path / "log") == []


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), logging_to("file", file=str(tmp_path / "none" / "log")):
        pass


@pytest.mark.parametrize("move", [lambda path: path.rename(f"{path}.1"), Path.unlink], ids=["renamed", "removed"])
def test_a_file_that_was_renamed_or_removed_is_opened_again(tmp_path: Path, move: Callable[[Path], object]) -> None:
    path = tmp_path / "log"
    with logging_to("file", file=str(path)):
        logger.info("before")
        move(path)
        logger.info("after")

    assert [line["message"] for line in read(path)] == ["after"]


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_line_is_one_write(style: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        handler = LineHandler(ours.fileno())
        handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())

        handler.handle(record("x" * 10_000, field="y"))
        handler.handle(record("second"))

        first = theirs.recv(100_000)
        assert (len(first) > 10_000, first[-1:]) == (True, b"\n")
        assert b"second" in theirs.recv(100_000)


def run(script: str, *, stdout: Any = subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python that log; in the end they say so on stderr."""
    prelude = "import logging, os, sys\nfrom boilerd.process.logs import configure\n"
    return subprocess.run(
        [sys.executable, "-c", f"{prelude}{script}\nprint('alive', file=sys.stderr)"],
        env=clean_environment(**variables), stdout=stdout, stderr=subprocess.PIPE,
        text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


# --- Handlers of the application


FOREIGN = "handler = logging.StreamHandler()\nhandler.setFormatter(logging.Formatter('%(lineno)d %(threadName)s'))\n"


@pytest.mark.parametrize("name", ["", "app"])
def test_a_handler_of_the_application_can_show_caller_and_thread(name: str) -> None:
    done = run(
        f"configure(level='info')\n{FOREIGN}logging.getLogger({name!r}).addHandler(handler)\n"
        "configure(level='info')\nlogging.getLogger('app').info('one')"
    )

    assert done.stderr == "8 MainThread\nalive\n"
    assert [line["message"] for line in json_lines(done.stdout)] == ["one"]


def test_records_carry_no_caller_where_nobody_shows_it() -> None:
    done = run(
        "logging.getLogger('library').addHandler(logging.NullHandler())\nconfigure(level='info')\n"
        f"{FOREIGN}show = lambda record: print(handler.format(record), file=sys.stderr)\n"
        "logging.getLogger().handlers[0].addFilter(lambda record: show(record) or True)\nlogging.info('one')"
    )

    assert done.stderr == "0 None\nalive\n"


@pytest.mark.parametrize("name", ["", "app"])
def test_a_handler_that_is_added_later_can_show_caller_and_thread_too(name: str) -> None:
    done = run(
        f"configure(level='info')\n{FOREIGN}logging.getLogger({name!r}).addHandler(handler)\n"
        "logging.getLogger('app').info('one')"
    )

    assert done.stderr == "7 MainThread\nalive\n"


# --- What goes wrong stays here


LOG = "configure(level='info')\nlogging.info('one')\nlogging.info('two')"


def test_a_full_disk_under_stdout_never_reaches_the_caller() -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(LOG, stdout=full)

    assert (done.returncode, done.stderr) == (0, "alive\n")


def test_a_pipe_that_nobody_reads_never_reaches_the_caller() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    done = run(LOG, stdout=write_fd)
    os.close(write_fd)

    assert (done.returncode, done.stderr) == (0, "alive\n")


def test_a_stdout_that_was_closed_never_reaches_the_caller() -> None:
    done = run(f"os.close(1)\n{LOG.replace('info', 'info', 1)}")

    assert done.stderr.endswith("alive\n")
    assert "Traceback" not in done.stderr


def test_a_program_that_was_started_without_stdout_can_log() -> None:
    script = f"sys.stdout = None\n{LOG}"

    done = run(script)

    assert (done.returncode, done.stderr) == (0, "alive\n")
    assert [line["message"] for line in json_lines(done.stdout)] == ["one", "two"]


def test_a_full_disk_under_the_file_never_reaches_the_caller(capfd: Capture) -> None:
    with logging_to("both", file="/dev/full"):
        logger.info("one")
        logger.info("two")

    captured = capfd.readouterr()
    assert [line["message"] for line in json_lines(captured.out)] == ["one", "two"]
    assert captured.err == ""


def test_a_worker_that_is_forked_while_the_disk_is_full_can_set_up_its_own_logging(capfd: Capture) -> None:
    with logging_to("file", file="/dev/full"):
        logger.info("lost")

        configure(level="info")
        logger.info("kept")

    assert [line["message"] for line in json_lines(capfd.readouterr().out)] == ["kept"]


def test_a_directory_that_was_removed_never_reaches_the_caller(tmp_path: Path, capfd: Capture) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    with logging_to("both", file=str(directory / "log")):
        logger.info("one")
        (directory / "log").unlink()
        directory.rmdir()

        logger.info("two")
        directory.mkdir()
        logger.info("three")

    assert [line["message"] for line in json_lines(capfd.readouterr().out)] == ["one", "two", "three"]
    assert [line["message"] for line in read(directory / "log")] == ["three"]


def test_a_file_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = f"configure(level='info', output='file', file={str(path)!r})\nlogging.info('\\u20ac')"

    done = run(script, LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")

    assert (done.returncode, done.stderr) == (0, "alive\n")
    assert [line["message"] for line in read(path)] == ["€"]


def test_a_terminal_gets_text_and_anything_else_json() -> None:
    terminal, its_end = pty.openpty()
    try:
        done = run(LOG, stdout=its_end)
        shown = os.read(terminal, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(its_end)

    assert done.returncode == 0, done.stderr
    assert [line.rpartition("INFO")[2].strip() for line in shown.splitlines()] == ["one", "two"]
    assert [line["message"] for line in json_lines(run(LOG).stdout)] == ["one", "two"]


def test_threads_put_the_set_up_back_while_others_make_loggers() -> None:
    script = """
import logging, sys, threading
from boilerd.process import logs

logs.configure(level="info")
sys.setswitchinterval(1e-6)
root, failed = logging.getLogger(), []

def make(thread):
    for number in range(1500):
        logging.getLogger(f"made.{thread}.{number}")

def put_back():
    try:
        for _ in range(150):
            root.setLevel("ERROR")
            logs.put_back()
    except RuntimeError as error:
        failed.append(error)

threads = [threading.Thread(target=make, args=(n,)) for n in range(2)] + [threading.Thread(target=put_back)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed, root.level == logging.INFO)
"""

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert found.stdout == "[] True\n"
