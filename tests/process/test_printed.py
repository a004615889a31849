"""What is printed: as it is, or as log records."""
# ruff: noqa: T201

import codecs
import gc
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import copy_context
from typing import TextIO

import pytest

from boilerd.process import printed

Records = list[logging.LogRecord]


@contextmanager
def recorded() -> Iterator[Records]:
    """The records that are made of what is printed in the block, where sys's streams are the interpreter's own."""
    made: Records = []
    with redirect_stdout(sys.__stdout__), redirect_stderr(sys.__stderr__):
        printed.wrap(made.append)
        yield made
        printed.end_lines()
        printed.unwrap()
        assert sys.stdout is sys.__stdout__


def messages(records: Records) -> list[str]:
    return [record.getMessage() for record in records]


@pytest.mark.parametrize(
    ("write", "lines"),
    [
        (lambda: print("a", "b"), ["a b"]),
        (lambda: print("one\n\n  two  \n"), ["one", "  two"]),
        (lambda: print("100% %s"), ["100% %s"]),
        (lambda: sys.stdout.writelines(["one\n", "two\n"]), ["one", "two"]),
        (lambda: sys.stdout.buffer.write(b"\xff\n"), ["\\xff"]),
        (lambda: print("ü", flush=True), ["ü"]),
        (lambda: [print(n, end=" ", flush=True) for n in range(3)], ["0 1 2"]),
        (print, []),
        (lambda: print("x" * 20_000, end=""), ["x" * 20_000]),
    ],
)
def test_each_line_is_a_record(write: Callable[[], object], lines: list[str]) -> None:
    with recorded() as records:
        write()

    assert messages(records) == lines
    assert {(record.name, record.levelname) for record in records} <= {("stdout", "INFO")}


def test_what_goes_to_stderr_is_a_warning() -> None:
    with recorded() as records:
        print("careful", file=sys.stderr)

    assert [(record.name, record.levelname) for record in records] == [("stderr", "WARNING")]


def test_lines_of_two_threads_do_not_mix() -> None:
    with recorded() as records:
        print("be", end="")
        other = threading.Thread(target=print, args=("other",))
        other.start()
        other.join()
        print("gun")

    assert messages(records) == ["other", "begun"]


def test_what_a_thread_printed_without_an_end_of_line_is_a_line_at_the_end_of_the_task() -> None:
    with ThreadPoolExecutor(1) as pool, recorded() as records:
        pool.submit(print, "of a pool", end="").result()
        thread = threading.Thread(target=print, args=("of a thread",), kwargs={"end": ""})
        thread.start()
        thread.join()
        printed.end_lines()
        written = messages(records)

    assert written == ["of a pool", "of a thread"]


def test_what_two_writers_print_in_turns_in_one_thread_does_not_mix_and_each_ends_its_own_lines() -> None:
    one, other = copy_context(), copy_context()
    one.run(printed.write_as, "one")
    other.run(printed.write_as, "other")

    with recorded() as records:
        one.run(print, "be", end="")
        other.run(print, "left", end="")
        one.run(print, "gun")
        one.run(printed.end_lines)
        printed.end_lines()
        before = messages(records)
        other.run(printed.end_lines)

    assert (before, messages(records)) == (["begun"], ["begun", "left"])


def test_a_child_leaves_the_line_that_was_begun_to_its_parent_and_its_own_is_one_when_it_is_flushed() -> None:
    script = """
import os, sys
from boilerd.process import printed
printed.wrap(lambda record: os.write(2, f"{os.getpid() == parent}:{record.getMessage()},".encode()))
parent = os.getpid()
print("begun", end="")
if not os.fork():
    printed.leave_line_to_parent()
    print("child", end="", flush=True)
    os._exit(0)
os.wait()
print(" ended")
"""

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert found.stderr == "False:child,True:begun ended,"


@pytest.mark.parametrize("around", [
    lambda: io.TextIOWrapper(sys.stdout.buffer, "utf-8", line_buffering=True),
    lambda: io.TextIOWrapper(sys.stdout.detach(), "utf-8", line_buffering=True),  # type: ignore[union-attr]
    lambda: codecs.getwriter("utf-8")(sys.stdout.buffer),
])  # fmt: skip
def test_a_stream_that_the_application_puts_around_ours_makes_records_too(around: Callable[[], TextIO]) -> None:
    with recorded() as records:
        sys.stdout = around()
        gc.collect()
        print("wrapped twice")
        sys.stdout = sys.__stdout__

    assert messages(records) == ["wrapped twice"]


def test_a_writer_that_prints_itself_is_not_called_again() -> None:
    calls: Records = []

    def write(record: logging.LogRecord) -> None:
        calls.append(record)
        print("again")

    with recorded():
        printed.wrap(write)
        print("once")

    assert messages(calls) == ["once"]


def test_a_stream_is_still_the_one_of_its_descriptor() -> None:
    with recorded():
        found = sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty(), sys.stdout.encoding

    assert found == (1, 2, False, "utf-8")


def test_a_stream_that_the_application_put_there_stays() -> None:
    with redirect_stdout(io.StringIO()) as own, redirect_stderr(io.StringIO()):
        printed.wrap(lambda _: None)
        print("kept")

    assert own.getvalue() == "kept\n"


def test_to_flush_streams_of_any_kind_never_raises() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, object(), closed):
        with redirect_stdout(stream):  # type: ignore[type-var]
            printed.flush()


def test_to_flush_ends_a_line_that_was_begun() -> None:
    with recorded() as records:
        print("without an end", end="")
        printed.flush()
        written = messages(records)

    assert written == ["without an end"]
