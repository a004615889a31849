"""What is printed: as it is, or as log records."""
# ruff: noqa: T201

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

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
