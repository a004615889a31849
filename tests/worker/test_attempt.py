"""One attempt: from a handler, inside its limits, to an outcome. Real signals, in this process."""

import _signal  # type: ignore[import-not-found] # it returns what it takes
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import msgspec
import pydantic
import pytest

import boilerd
from boilerd import BoilerdError, Handler, ServeMux, Task
from boilerd.entry_point import run as entry_point
from boilerd.errors import ShutdownTimeoutError, TaskTimeoutError
from boilerd.process.signals import StopRequest, install_handler
from boilerd.tasks.payload import encode_payload
from boilerd.worker.attempt import (
    MAX_RESULT_BYTES,
    AttemptRunner,
    Completed,
    Failed,
    Outcome,
    Released,
    encode_result,
)
from boilerd.worker.attempt_log import log_attempts
from builders import endless_list
from support import DEADLINE_S, wait_until

#: pytest-timeout's own way would be the signal that is tested here.
pytestmark = [pytest.mark.timeout(method="thread"), pytest.mark.usefixtures("restored_signals")]

SOON_S = 0.02


def task(timeout_s: float = DEADLINE_S, payload: Any = None) -> Task:
    return Task(id="t1", type="a:b", payload=payload, timeout_s=timeout_s)


def wait() -> None:
    """Far longer than any limit here."""
    select.select([], [], [], DEADLINE_S)


def waiting(task: Task) -> str:
    wait()
    return "waited in vain"


@Integral.register
class Whole:
    """Stands for a number of numpy, which is not installed here: registered as one, and not derived from int."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


@Real.register
class Broken:
    def __float__(self) -> float:
        return 1.5


class Told(NamedTuple):
    """A failure as people see it."""

    error: str
    traceback: str


def failed(outcome: Outcome) -> Told:
    assert isinstance(outcome, Failed), outcome
    return Told(outcome.line, outcome.traceback)


def is_armed() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)


# --- What a handler does to its process


@pytest.mark.parametrize(
    ("end", "status"),
    [(lambda: "a result", 0), (lambda: sys.exit(7), 7), (lambda: sys.exit("no"), 1), (lambda: int("x"), 1)],
)
def test_a_child_that_a_handler_forks_ends_where_the_handler_would(end: Callable[[], object], status: int) -> None:
    parent = os.getpid()

    def handler(task: Task) -> object:
        pid = os.fork()
        if pid == 0:
            return end()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    outcome = AttemptRunner(handler).run(task())
    if os.getpid() != parent:
        os._exit(99)
    assert outcome == Completed(status)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None], ids=["ignore", "default", "own"])
def test_signal_handlers_that_a_task_leaves_behind_are_undone(handler: Any) -> None:
    def replaces(task: Task) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1):
            signal.signal(signum, handler)

    kept = {signum: _signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = StopRequest()
        execution = AttemptRunner(lambda task: replaces(task) if task.payload else wait())
        execution.run(task(payload="replace"))

        assert failed(execution.run(task(SOON_S))).error.startswith("TaskTimeoutError")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
    finally:
        for signum, was in kept.items():
            install_handler(signum, was)


@pytest.mark.parametrize("error", [None, ValueError("bad"), SystemExit(1)], ids=["returns", "raises", "exits"])
def test_an_attempt_ends_with_its_surroundings_put_back(tmp_path: Path, error: BaseException | None) -> None:
    def handler(_: Task) -> None:
        os.chdir(tmp_path)
        os.environ["NEW"] = "new"
        if error:
            raise error

    before = Path.cwd()

    AttemptRunner(handler).run(task())

    assert (Path.cwd(), os.environ.get("NEW")) == (before, None)


# --- Results


@pytest.mark.parametrize(
    ("result", "encoded"),
    [(None, b""), ("ü", b'"\xc3\xbc"'), ({"a": [1, 2.5]}, b'{"a":[1,2.5]}'), (0, b"0"), (False, b"false"), ("", b'""')],
)
def test_what_a_handler_returns_is_kept_as_json(result: object, encoded: bytes) -> None:
    assert AttemptRunner(lambda task: result).run(task()) == Completed(result)
    assert encode_result(result) == encoded


def test_a_handler_gets_the_task() -> None:
    given = task(payload=[1, 2])
    seen: list[Task] = []

    AttemptRunner(seen.append).run(given)

    assert seen == [given]


class Leaving(PurePosixPath):
    """Ends whoever wants it as text."""

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("result", "type_name"),
    [
        (object(), "object"),
        (endless_list(), "list"),
        ("\udcff", "str"),
        ({1j: 2}, "dict"),
        (open, "builtin_function_or_method"),
        (Leaving("a"), "Leaving"),
    ],
    ids=["object", "endless", "not unicode", "keys", "function", "exit"],
)
def test_a_task_that_succeeded_stays_so_when_its_result_is_no_json(result: object, type_name: str) -> None:
    outcome = AttemptRunner(lambda task: result).run(task())

    assert isinstance(outcome, Completed)
    assert msgspec.json.decode(encode_result(outcome.result)) == f"not JSON: {type_name}"


def test_a_result_of_a_subclass_is_kept_as_what_it_is_a_subclass_of() -> None:
    safe, number = type("SafeString", (str,), {}), type("Number", (int,), {})

    assert encode_result({"html": safe("<b>"), "n": number(5)}) == b'{"html":"<b>","n":5}'


class Model(pydantic.BaseModel):
    tags: tuple[str, ...] = ("a", "b")


@pytest.mark.parametrize(
    ("result", "decoded"),
    [
        (PurePosixPath("/srv/report.pdf"), "/srv/report.pdf"),
        (Whole(5), 5),
        ({Whole(5): Broken()}, {"5": 1.5}),
        (type("bool", (), {"__module__": "numpy", "__bool__": lambda _: False})(), False),
        (Told("bad", "at line 1"), ["bad", "at line 1"]),
        (datetime(2027, 1, 31, 8, tzinfo=UTC), "2027-01-31T08:00:00Z"),
        ([Model()], [{"tags": ["a", "b"]}]),
    ],
)
def test_what_has_a_form_as_a_payload_has_it_as_a_result(result: object, decoded: object) -> None:
    assert msgspec.json.decode(encode_result(result)) == decoded
    assert msgspec.json.decode(encode_payload(result)) == decoded


@pytest.mark.parametrize(
    ("result", "why"), [({"f": Fraction(1, 3)}, "Fraction has no JSON form"), ("x" * MAX_RESULT_BYTES, "too large")]
)
def test_a_result_that_is_not_kept_is_a_warning_that_names_the_task(
    caplog: pytest.LogCaptureFixture, result: object, why: str
) -> None:
    about = Task("t1", "a:b", request_id="why")

    encode_result(result, about)

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert vars(record).items() >= about.log_fields.items()
    assert why in vars(record)["error"]


# --- Failures


def test_a_handler_that_raises_has_failed_with_its_error_and_traceback() -> None:
    def open_mailbox() -> None:
        raise KeyError("mailbox")

    def deliver(task: Task) -> None:
        try:
            open_mailbox()
        except KeyError as error:
            raise RuntimeError("not delivered") from error

    outcome = failed(AttemptRunner(deliver).run(task()))

    assert outcome.error == "RuntimeError: not delivered"
    assert outcome.traceback.startswith("Traceback (most recent call last):\n")
    assert outcome.traceback.endswith("\nRuntimeError: not delivered\n")
    assert "in open_mailbox" in outcome.traceback
    assert "KeyError: 'mailbox'" in outcome.traceback
    assert "direct cause" in outcome.traceback


def test_a_traceback_begins_with_the_applications_own_code() -> None:
    def deliver(task: Task) -> None:
        raise RuntimeError("not delivered")

    mux = ServeMux()
    mux.handle("a:b", deliver)

    outcome = failed(AttemptRunner(log_attempts(mux)).run(task()))

    assert "in deliver" in outcome.traceback.splitlines()[1]
    assert str(Path(boilerd.__file__).parent) not in outcome.traceback


def test_an_error_of_boilerd_itself_has_a_traceback_too() -> None:
    outcome = failed(AttemptRunner(ServeMux()).run(task()))

    assert outcome.error == "HandlerNotFoundError: handler not found for task 'a:b'"
    assert "in _raise_not_found" in outcome.traceback


class SpitefulError(Exception):
    """One that nobody can look at."""

    def __str__(self) -> str:
        raise ValueError("no words")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("no notes")


def test_an_error_that_cannot_be_looked_at_has_failed_with_its_frames() -> None:
    def spiteful(task: Task) -> None:
        raise SpitefulError

    told = failed(AttemptRunner(spiteful).run(task()))

    assert told.error == "SpitefulError: (no message)"
    assert told.traceback.startswith("Traceback (most recent call last):\n")
    assert ", in spiteful\n" in told.traceback
    assert "SpitefulError: " in told.traceback  # and what of it this Python can tell


def test_a_long_traceback_keeps_its_end() -> None:
    def fail(task: Task) -> None:
        raise RuntimeError("ü" * 100_000 + "the end")

    outcome = failed(AttemptRunner(fail).run(task()))

    assert len(outcome.traceback) <= 65536
    assert outcome.traceback.endswith("üthe end\n")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt("now"), "KeyboardInterrupt: now"),
        (GeneratorExit("x"), "GeneratorExit: x"),
        (BaseException("x"), "BaseException: x"),
        (MemoryError("x"), "MemoryError: x"),
        (RecursionError("x"), "RecursionError: x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_handler_raises_is_a_failed_attempt(error: BaseException, text: str) -> None:
    def leave(task: Task) -> None:
        raise error

    assert failed(AttemptRunner(leave).run(task())).error == text


def test_a_handler_that_never_stops_calling_itself_is_a_failed_attempt() -> None:
    def deeper(task: Task) -> None:
        deeper(task)

    assert failed(AttemptRunner(deeper).run(task())).error.startswith("RecursionError: ")


def test_an_error_that_has_no_words_is_a_failed_attempt() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def fail(task: Task) -> None:
        raise MuteError

    outcome = failed(AttemptRunner(fail).run(task()))

    assert outcome.error.startswith("MuteError")
    assert "in fail" in outcome.traceback


def test_an_execution_goes_on_after_a_failure() -> None:
    execution = AttemptRunner(lambda task: 1 / task.payload)

    outcomes = [execution.run(task(payload=number)) for number in (0, 1, 0, 2)]

    assert [type(outcome) for outcome in outcomes] == [Failed, Completed, Failed, Completed]


# --- The timeout


def test_a_handler_is_interrupted_at_the_timeout() -> None:
    began_s = time.monotonic()
    outcome = failed(AttemptRunner(waiting).run(task(SOON_S)))
    took_s = time.monotonic() - began_s

    assert outcome.error == "TaskTimeoutError: the attempt took longer than the task's timeout"
    assert "in wait" in outcome.traceback
    assert SOON_S <= took_s < DEADLINE_S / 2


def test_a_handler_that_swallows_every_exception_is_interrupted() -> None:
    swallowed: list[Exception] = []

    def swallow(task: Task) -> NoReturn:
        while True:
            try:
                wait()
            except Exception as error:
                swallowed.append(error)

    outcome = failed(AttemptRunner(swallow).run(task(SOON_S)))

    assert outcome.error.startswith("TaskTimeoutError: ")
    assert swallowed == []


def test_a_handler_that_computes_is_interrupted() -> None:
    def compute(task: Task) -> NoReturn:
        while True:
            sum(range(100))

    assert failed(AttemptRunner(compute).run(task(SOON_S))).error.startswith("TaskTimeoutError: ")


def test_a_handler_that_is_interrupted_can_clean_up() -> None:
    cleaned: list[str] = []

    def careful(task: Task) -> None:
        try:
            wait()
        finally:
            cleaned.append("file")

    AttemptRunner(careful).run(task(SOON_S))

    assert cleaned == ["file"]


def test_every_attempt_has_the_whole_timeout() -> None:
    execution = AttemptRunner(waiting)
    execution.run(task(SOON_S))

    began_s = time.monotonic()
    outcome = execution.run(task(3 * SOON_S))

    assert isinstance(outcome, Failed)
    assert time.monotonic() - began_s >= 3 * SOON_S


def test_a_timeout_that_strikes_while_the_handler_returns_is_over_with_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def outlast(task: Task) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        wait_until(lambda: not execution.remaining_s(), "its time is over")

    def interrupted_pid() -> int:
        signal.raise_signal(signal.SIGALRM)
        return pid

    pid, execution = os.getpid(), AttemptRunner(outlast)
    with monkeypatch.context() as patched:
        patched.setattr(
            "boilerd.worker.attempt.os", SimpleNamespace(getpid=interrupted_pid)
        )  # what is called first then
        assert failed(execution.run(task(SOON_S))).error.startswith("TaskTimeoutError: ")

    signal.raise_signal(signal.SIGALRM)  # raises nothing between two tasks


def fail_at_once(task: Task) -> NoReturn:
    raise RuntimeError


@pytest.mark.parametrize("handler", [lambda task: None, fail_at_once, waiting], ids=["good", "bad", "late"])
def test_no_timer_is_left_behind(handler: Handler) -> None:
    during: list[bool] = []

    def looking(task: Task) -> Any:
        during.append(is_armed())
        return handler(task)

    AttemptRunner(looking).run(task(10 * SOON_S))

    assert during == [True]
    assert not is_armed()


def test_an_alarm_between_two_attempts_does_no_harm() -> None:
    execution = AttemptRunner(lambda task: "done")
    execution.run(task())

    os.kill(os.getpid(), signal.SIGALRM)

    assert execution.run(task()) == Completed("done")


# --- The end of a drain


def drain_in(execution: AttemptRunner, timeout_s: float) -> None:
    """What a worker does at TERM, at another signal here."""
    signal.signal(signal.SIGUSR1, lambda signum, frame: execution.drain(timeout_s))


def told_to_drain(then: Callable[[], object] = wait) -> Handler:
    """A handler that gets the signal while it runs."""

    def handler(task: Task) -> object:
        os.kill(os.getpid(), signal.SIGUSR1)
        return then()

    return handler


def test_a_drain_cuts_the_running_handler_and_its_task_goes_back() -> None:
    execution = AttemptRunner(told_to_drain())
    drain_in(execution, SOON_S)

    began_s = time.monotonic()
    outcome = execution.run(task())
    took_s = time.monotonic() - began_s

    assert outcome == Released()
    assert SOON_S <= took_s < DEADLINE_S / 2
    assert not is_armed()


def test_a_drain_cuts_a_handler_that_swallows_every_exception() -> None:
    def swallow() -> NoReturn:
        while True:
            try:
                wait()
            except Exception:
                logging.getLogger(__name__).exception("swallowed")

    execution = AttemptRunner(told_to_drain(swallow))
    drain_in(execution, SOON_S)

    assert execution.run(task()) == Released()


def test_a_handler_that_ends_before_the_drain_has_completed() -> None:
    execution = AttemptRunner(told_to_drain(lambda: "done"))
    drain_in(execution, DEADLINE_S)

    assert execution.run(task()) == Completed("done")
    assert not is_armed()


def test_a_handler_that_fails_during_the_drain_has_failed() -> None:
    execution = AttemptRunner(told_to_drain(lambda: 1 / 0))
    drain_in(execution, DEADLINE_S)

    assert failed(execution.run(task())).error == "ZeroDivisionError: division by zero"


def test_of_timeout_and_drain_the_nearer_one_counts() -> None:
    execution = AttemptRunner(told_to_drain())
    drain_in(execution, DEADLINE_S)

    outcome = failed(execution.run(task(SOON_S)))

    assert outcome.error.startswith("TaskTimeoutError: ")


def test_a_drain_that_began_before_the_attempt_limits_it_too() -> None:
    execution = AttemptRunner(waiting)
    execution.drain(SOON_S)
    was_armed = is_armed()

    outcome = execution.run(task())

    assert not was_armed
    assert outcome == Released()


def test_an_attempt_after_the_end_of_a_drain_goes_back_at_once() -> None:
    execution = AttemptRunner(waiting)
    execution.drain(0)

    assert [execution.run(task()) for _ in range(3)] == [Released()] * 3


def test_an_attempt_that_a_drain_cut_is_not_counted_although_its_clean_up_failed() -> None:
    def roll_back() -> None:
        try:
            wait()
        finally:
            raise ConnectionError("rollback failed")

    execution = AttemptRunner(told_to_drain(roll_back))
    drain_in(execution, SOON_S)

    assert execution.run(task()) == Released()


def test_the_log_of_an_attempt_that_a_drain_cut_says_neither_failed_nor_completed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    execution = AttemptRunner(log_attempts(told_to_drain()))
    drain_in(execution, SOON_S)

    assert execution.run(task()) == Released()
    assert [record.getMessage() for record in caplog.records] == ["task started"]


@pytest.mark.parametrize("error", [TaskTimeoutError, ShutdownTimeoutError])
def test_an_interrupt_is_no_exception_that_a_handler_would_catch(error: type[BaseException]) -> None:
    assert not issubclass(error, Exception)


# --- The entry point in RQ's records


def test_a_plain_rq_worker_is_told_that_the_task_is_not_for_it() -> None:
    with pytest.raises(BoilerdError, match="'a:b' runs in boilerd's workers only; stop the plain RQ worker"):
        entry_point("a:b", {"password": "geheim"}, headers={"tenant-id": "7"})
