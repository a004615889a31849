"""Task type → handler, the middleware around it, and the handler that boilerd brings."""

import functools
import itertools
import logging
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

import boilerd
from boilerd import Handler, HandlerNotFoundError, InvalidTaskError, Middleware, ServeMux, Task, retry
from boilerd.errors import InvalidPayloadError, ShutdownTimeoutError, TaskTimeoutError
from boilerd.process.folding import MOST, Folding
from boilerd.process.log_lines import JsonFormatter
from boilerd.process.logs import _AddFields
from boilerd.tasks.builtin import WORKER_PING
from boilerd.tasks.builtin import mux as builtin_mux
from boilerd.tasks.retry import Hooks
from boilerd.worker.attempt_log import log_attempts


def task(task_type: str = "email:deliver", payload: Any = None, **fields: Any) -> Task:
    return Task(id="t1", type=task_type, payload=payload, **fields)


def answer(text: str) -> Handler:
    """A handler that says who it is."""
    return lambda task: text


def around(name: str) -> Middleware:
    """Middleware that puts its name around what the next handler answers."""
    return lambda next_handler: lambda task: f"{name}({next_handler(task)})"


@pytest.fixture
def mux() -> ServeMux:
    return ServeMux()


# --- Which handler


def test_a_type_has_a_handler_where_a_pattern_or_the_not_found_handler_runs_it() -> None:
    inner, outer, all_of_it = ServeMux(), ServeMux(), ServeMux()
    inner.handle("in:known", lambda task: None)
    outer.handle("in:", inner)
    outer.handle("own", lambda task: None)
    all_of_it.not_found(lambda task: None)

    found = {name: outer.has_handler(name) for name in ("own:task", "in:known", "in:unknown", "other")}

    assert found == {"own:task": True, "in:known": True, "in:unknown": False, "other": False}
    assert all_of_it.has_handler("anything")


def test_a_handler_gets_the_task_and_its_answer_comes_back(mux: ServeMux) -> None:
    given = task(payload={"to": "a@b.c"})
    mux.handle("email:deliver", lambda task: [task])

    assert mux(given) == [given]


def test_a_decorated_handler_is_registered_and_stays_what_it_was(mux: ServeMux) -> None:
    def deliver(task: Task) -> str:
        return "delivered"

    assert mux.handle("email:deliver")(deliver) is deliver
    assert mux(task("email:deliver")) == "delivered"


@pytest.mark.parametrize(
    ("task_type", "chosen"),
    [
        ("email:deliver", "email:deliver"),
        ("email:deliver:again", "email:deliver"),
        ("email:draft", "email:"),
        ("email:", "email:"),
        ("emailer:x", "email"),
        ("email", "email"),
        ("e", None),
        ("mail:email:deliver", None),
    ],
)
def test_an_exact_match_wins_then_the_longest_prefix(mux: ServeMux, task_type: str, chosen: str | None) -> None:
    for pattern in ("email:", "email:deliver", "email", "x"):
        mux.handle(pattern, answer(pattern))

    found = mux.match(task_type)

    assert (found(task()) if found else None) == chosen


def test_matching_tells_the_handler_without_its_middleware(mux: ServeMux) -> None:
    handler = answer("bare")
    mux.handle("email", handler)
    mux.use(around("a"))

    assert mux.match("email:x") is handler


def test_patterns_are_listed_in_order(mux: ServeMux) -> None:
    for pattern in ("b", "c:", "a"):
        mux.handle(pattern, answer(""))

    assert mux.patterns() == ["a", "b", "c:"]


def test_a_pattern_can_be_registered_once(mux: ServeMux) -> None:
    mux.handle("email", answer("first"))

    with pytest.raises(ValueError, match="pattern 'email' has a handler already"):
        mux.handle("email", answer("second"))

    assert mux(task("email")) == "first"


@pytest.mark.parametrize("pattern", ["", " ", "email deliver", "email*", "ü", "x" * 257])
def test_what_no_task_type_begins_with_is_no_pattern(mux: ServeMux, pattern: str) -> None:
    with pytest.raises(InvalidTaskError, match="task type"):
        mux.handle(pattern, answer(""))

    assert mux.patterns() == []


async def plain_async(*_: Any) -> Any:
    """What runs only where somebody awaits it."""


def generator(*_: Any) -> Any:
    yield


class AsyncCall:
    async def __call__(self, *_: Any) -> Any:
        """The same."""


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        *itertools.product(
            ["is_failure", "retry_delay", "error_handler", "on_failure"], [None, 5, plain_async, AsyncCall(), generator]
        ),
        *itertools.product(["use"], [None, 5, plain_async, AsyncCall()]),
    ],
)
def test_hooks_and_middleware_must_be_plain_functions(mux: ServeMux, name: str, hook: Any) -> None:
    register = getattr(mux, name)
    what = "middleware" if name == "use" else name

    with pytest.raises(TypeError, match=rf"^{what}: .*(cannot be called|is no plain function)"):
        register(hook)

    assert mux.hooks == Hooks()


def test_none_is_no_not_found_handler(mux: ServeMux) -> None:
    with pytest.raises(TypeError, match="not_found: None cannot be called"):
        mux.not_found(None)  # type: ignore[arg-type]


def test_a_middleware_that_forgot_to_return_its_handler_is_named(mux: ServeMux) -> None:
    @mux.use
    def forgetful(next_handler: Handler) -> Any:
        def wrapped(task: Task) -> Any:
            return next_handler(task)

    mux.handle("email", answer("sent"))

    with pytest.raises(TypeError, match=r"middleware .*forgetful returned None; it must return the handler"):
        mux(task("email"))


def test_what_cannot_be_called_is_no_handler(mux: ServeMux) -> None:
    with pytest.raises(TypeError, match="handler for 'email': 'text' cannot be called"):
        mux.handle("email", "text")  # type: ignore[arg-type]

    assert mux.patterns() == []


class Mailer:
    def deliver(self, task: Task) -> None:
        """A method, which lacks its object."""


def passing_on(function: Any) -> Any:
    """A decorator that gives the handler what it needs beside the task."""

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args, "session")

    return wrapped


@pytest.mark.parametrize("handler", [lambda: None, lambda task, session: None, lambda *, task: None, Mailer.deliver])
def test_a_handler_that_cannot_be_called_with_a_task_alone_is_refused(mux: ServeMux, handler: Any) -> None:
    with pytest.raises(TypeError, match=r"^handler for 'email': .* cannot be called with \(task\): "):
        mux.handle("email", handler)
    with pytest.raises(TypeError, match=r"^not_found: .* cannot be called with \(task\): "):
        mux.not_found(handler)

    assert mux.patterns() == []


@pytest.mark.parametrize(
    "handler",
    [
        lambda task, session=None: None, lambda *args, **kwargs: None, passing_on(lambda task, session: None),
        Mailer().deliver, print, dict,
    ],
)  # fmt: skip
def test_a_handler_that_can_be_called_with_a_task_is_registered(mux: ServeMux, handler: Any) -> None:
    mux.handle("email", handler)

    assert mux.match("email") is handler


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("is_failure", "(error)"), ("retry_delay", "(retried, error, task)"), ("error_handler", "(task, error)"),
        ("on_failure", "(failed)"), ("use", "(next_handler)"),
    ],
)  # fmt: skip
def test_a_hook_that_cannot_be_called_as_it_will_be_is_refused(mux: ServeMux, name: str, arguments: str) -> None:
    with pytest.raises(TypeError, match=rf" cannot be called with {re.escape(arguments)}: "):
        getattr(mux, name)(lambda: None)

    assert mux.hooks == Hooks()


def test_a_decorator_without_its_parentheses_says_how_it_is_written(mux: ServeMux) -> None:
    def deliver(task: Task) -> None: ...

    with pytest.raises(TypeError, match=r'deliver without parentheses; write @mux\.handle\("email:deliver"\)'):
        mux.handle(deliver)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"deliver without parentheses; write @retry\(max_retries=5\)"):
        retry(deliver)  # type: ignore[arg-type]


def test_a_type_that_nobody_handles_is_an_error_that_names_it(mux: ServeMux) -> None:
    mux.handle("email:", answer(""))

    with pytest.raises(HandlerNotFoundError, match="handler not found for task 'image:resize'") as raised:
        mux(task("image:resize"))

    assert raised.value.task_type == "image:resize"


def test_the_not_found_handler_gets_what_nobody_handles(mux: ServeMux) -> None:
    def fallback(task: Task) -> str:
        return f"nobody handles {task.type}"

    mux.handle("email:", answer("email"))

    assert mux.not_found(fallback) is fallback
    assert mux(task("image:resize")) == "nobody handles image:resize"
    assert mux(task("email:x")) == "email"


# --- Middleware


def test_the_first_middleware_is_outermost(mux: ServeMux) -> None:
    mux.handle("email", answer("handled"))
    mux.use(around("a"), around("b"))
    mux.use(around("c"))

    assert mux(task("email")) == "a(b(c(handled)))"


def test_middleware_wraps_every_handler_whenever_it_was_registered(mux: ServeMux) -> None:
    mux.handle("before", answer("before"))
    mux.use(around("a"))
    mux.handle("after", answer("after"))

    assert (mux(task("before")), mux(task("after"))) == ("a(before)", "a(after)")


def test_middleware_wraps_the_not_found_handler_too(mux: ServeMux) -> None:
    seen: list[str] = []

    @mux.use
    def noting(next_handler: Handler) -> Handler:
        def handler(task: Task) -> Any:
            try:
                return next_handler(task)
            except HandlerNotFoundError as error:
                seen.append(error.task_type)
                raise

        return handler

    with pytest.raises(HandlerNotFoundError):
        mux(task("image:resize"))
    mux.not_found(answer("found"))
    mux.use(around("a"))

    assert seen == ["image:resize"]
    assert mux(task("image:resize")) == "a(found)"


def test_middleware_can_be_registered_as_a_decorator_and_stays_what_it_was(mux: ServeMux) -> None:
    middleware = around("a")

    assert mux.use(middleware, around("b")) is middleware


def test_no_middleware_is_a_mistake(mux: ServeMux) -> None:
    with pytest.raises(ValueError, match="at least one middleware"):
        mux.use()  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("register", "expected"),
    [
        (lambda mux: mux.handle("email:deliver", answer("exact")), "exact"),
        (lambda mux: mux.handle("email:", answer("longer")), "longer"),
        (lambda mux: mux.use(around("a")), "a(prefix)"),
    ],
    ids=["exact", "longer prefix", "middleware"],
)
def test_what_is_registered_after_the_first_task_counts(
    mux: ServeMux, register: Callable[[ServeMux], object], expected: str
) -> None:
    mux.handle("email", answer("prefix"))
    first = mux(task("email:deliver"))

    register(mux)

    assert (first, mux(task("email:deliver"))) == ("prefix", expected)


def test_a_not_found_handler_that_is_set_after_the_first_task_counts(mux: ServeMux) -> None:
    with pytest.raises(HandlerNotFoundError):
        mux(task("image:resize"))

    mux.not_found(answer("found"))

    assert mux(task("image:resize")) == "found"


def test_any_number_of_types_from_outside_takes_a_bounded_memory(mux: ServeMux) -> None:
    mux.not_found(answer(""))

    for number in range(10_050):
        mux(task(f"made:up:{number}"))

    assert len(mux._chains) == 10_000


# --- One mux inside another


def test_a_mux_inside_a_mux_runs_inside_the_middleware_of_both(mux: ServeMux) -> None:
    inner = ServeMux()
    inner.handle("email:deliver", answer("delivered"))
    inner.use(around("inner"))
    mux.handle("email:", inner)
    mux.use(around("outer"))

    assert mux(task("email:deliver")) == "outer(inner(delivered))"


def test_a_type_that_the_inner_mux_does_not_handle_is_not_found_there(mux: ServeMux) -> None:
    inner = ServeMux()
    mux.handle("email:", inner)
    mux.not_found(answer("outer"))

    with pytest.raises(HandlerNotFoundError, match="email:draft"):
        mux(task("email:draft"))


def test_what_is_registered_with_the_inner_mux_later_counts(mux: ServeMux) -> None:
    inner = ServeMux()
    inner.not_found(answer("not found"))
    mux.handle("email:", inner)
    first = mux(task("email:deliver"))

    inner.handle("email:deliver", answer("delivered"))

    assert (first, mux(task("email:deliver"))) == ("not found", "delivered")


# --- The lines of an attempt

FIELDS = ("task_id", "task_type", "queue", "attempt", "request_id")
TASK = task("email:deliver", {"password": "geheim"}, queue="critical", attempt=3, request_id="r-7")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    """The records of a test, with the fields that the handlers of `configure` add."""
    with caplog.at_level(logging.DEBUG), caplog.filtering(_AddFields()):
        yield caplog


def messages(log: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in log.records]


def test_a_completed_attempt_has_two_lines_with_the_fields_of_its_task(log: pytest.LogCaptureFixture) -> None:
    result = log_attempts(answer("handled"))(TASK)

    assert result == "handled"
    assert messages(log) == [("INFO", "task started"), ("INFO", "task completed")]
    for record in log.records:
        assert [getattr(record, name) for name in FIELDS] == ["t1", "email:deliver", "critical", 3, "r-7"]


def test_the_duration_is_that_of_the_handler_in_milliseconds(log: pytest.LogCaptureFixture) -> None:
    inside_ms: list[float] = []

    def busy(task: Task) -> None:
        began_s = time.perf_counter()
        while time.perf_counter() < began_s + 0.002:
            pass
        inside_ms.append((time.perf_counter() - began_s) * 1000)

    began_s = time.perf_counter()
    log_attempts(busy)(TASK)
    outside_ms = (time.perf_counter() - began_s) * 1000

    assert inside_ms[0] - 0.001 <= log.records[-1].__dict__["duration_ms"] <= outside_ms + 0.001
    assert "duration_ms" not in log.records[0].__dict__


def failing_many_times(error: Exception, *, has_handler: bool = True) -> None:
    """Log more attempts that end in this error than are written of a misfit in a second."""

    def fail(task: Task) -> None:
        raise error

    folding = Folding(logging.getLogger("boilerd.task"), lambda: 0.0)
    handler = log_attempts(fail, misfits=folding, has_handler=lambda _: has_handler)
    for _ in range(MOST + 5):
        with pytest.raises(type(error)):
            handler(TASK)
    folding.tell(is_last=True)


def test_lines_of_a_type_without_a_handler_are_folded_beyond_a_few_in_a_second(log: pytest.LogCaptureFixture) -> None:
    failing_many_times(HandlerNotFoundError("a:b"), has_handler=False)

    told = Counter(messages(log))
    assert told == {
        ("INFO", "task started"): MOST, ("ERROR", "task failed"): MOST,
        ("INFO", "task started: and 5 more like it"): 1, ("ERROR", "task failed: and 5 more like it"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(("within_s", "count"), [(60.0, MOST), (0.0, MOST + 5)], ids=["misfit", "of the handler's own"])
def test_failures_of_payloads_that_do_not_fit_are_folded_and_no_others(
    log: pytest.LogCaptureFixture, within_s: float, count: int
) -> None:
    error = InvalidPayloadError("does not fit")
    error.retry_within_s = within_s

    failing_many_times(error)

    told = Counter(messages(log))
    assert (told["INFO", "task started"], told["ERROR", "task failed"]) == (MOST + 5, count)


@pytest.mark.parametrize("error", [ValueError("no address"), TaskTimeoutError("no address"), SystemExit("no address")])
def test_a_failed_attempt_is_an_error_with_its_cause_on_one_line(
    log: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(task: Task) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        log_attempts(fail)(TASK)

    assert raised.value is error
    assert messages(log) == [("INFO", "task started"), ("ERROR", "task failed")]
    record = log.records[-1]
    assert record.__dict__["error"] == f"{type(error).__name__}: no address"
    assert record.__dict__["duration_ms"] >= 0
    assert record.__dict__["task_id"] == "t1"
    assert record.exc_info is None


def test_an_error_that_cannot_be_told_is_logged_and_raised_all_the_same(log: pytest.LogCaptureFixture) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def fail(task: Task) -> None:
        raise MuteError

    with pytest.raises(MuteError):
        log_attempts(fail)(TASK)

    assert messages(log)[-1] == ("ERROR", "task failed")
    assert log.records[-1].__dict__["error"].startswith("MuteError: ")


def test_an_attempt_that_a_drain_cuts_has_neither_failed_nor_completed(log: pytest.LogCaptureFixture) -> None:
    def cut(task: Task) -> None:
        raise ShutdownTimeoutError

    with pytest.raises(ShutdownTimeoutError):
        log_attempts(cut)(TASK)

    assert messages(log) == [("INFO", "task started")]


def test_what_a_handler_logs_anywhere_carries_the_fields_of_its_task(log: pytest.LogCaptureFixture) -> None:
    def handler(task: Task) -> None:
        logging.getLogger("some.library").info("deep inside")

    log_attempts(handler)(TASK)
    logging.getLogger("some.library").info("outside")

    inside, outside = (record for record in log.records if record.name == "some.library")
    assert [inside.__dict__[name] for name in FIELDS] == ["t1", "email:deliver", "critical", 3, "r-7"]
    assert not outside.__dict__.keys() & set(FIELDS)


def test_a_failed_attempt_leaves_no_fields_behind(log: pytest.LogCaptureFixture) -> None:
    def fail(task: Task) -> None:
        raise ValueError("bounced")

    with pytest.raises(ValueError, match="bounced"):
        log_attempts(fail)(TASK)
    logging.getLogger("some.library").info("outside")

    assert not log.records[-1].__dict__.keys() & set(FIELDS)


@pytest.mark.parametrize("outcome", [nullcontext(), pytest.raises(ValueError, match="bounced")], ids=["good", "bad"])
def test_the_payload_is_never_in_a_line(log: pytest.LogCaptureFixture, outcome: AbstractContextManager[Any]) -> None:
    def handler(task: Task) -> None:
        task.logger.info("working")
        if not isinstance(outcome, nullcontext):
            raise ValueError("bounced")

    with outcome:
        log_attempts(handler)(TASK)

    lines = [JsonFormatter().format(record) for record in log.records]
    assert len(lines) == 3
    assert not [line for line in lines if "geheim" in line or "password" in line]


# --- worker:ping


def test_the_builtin_mux_handles_worker_ping() -> None:
    assert WORKER_PING == "worker:ping"
    assert builtin_mux.patterns() == ["worker:ping"]


def test_a_ping_is_answered_with_its_message(log: pytest.LogCaptureFixture) -> None:
    result = log_attempts(builtin_mux)(task(WORKER_PING, {"message": "hi", "request_id": "r-7"}, request_id="r-7"))

    assert result == "hi"
    (line,) = (record for record in log.records if record.getMessage() == "task processed successfully")
    assert (line.__dict__["ping_message"], line.__dict__["request_id"]) == ("hi", "r-7")


@pytest.mark.parametrize(
    "payload", [None, [], ["message"], "message", 5, True, {}, {"message": 5}, {"message": None}, {"other": "hi"}]
)
def test_a_ping_of_another_shape_is_answered_too(log: pytest.LogCaptureFixture, payload: Any) -> None:
    result = builtin_mux(task(WORKER_PING, payload))

    assert result == "pong"
    assert [record.__dict__["ping_message"] for record in log.records] == ["pong"]


def test_a_ping_with_an_empty_message_is_answered_with_it() -> None:
    assert builtin_mux(task(WORKER_PING, {"message": ""})) == ""


# --- What users import


def test_all_public_names_can_be_imported() -> None:
    found: dict[str, Any] = {}

    exec("from boilerd import *", found)

    assert set(boilerd.__all__) <= found.keys()
    with pytest.raises(AttributeError, match="'boilerd' has no attribute 'Clint'"):
        _ = boilerd.Clint


def test_a_module_of_handlers_loads_no_client_for_redis() -> None:
    names = ("redis", "rq", "asyncio", "pydantic")
    code = f"import sys, boilerd; boilerd.ServeMux(); print([name for name in {names} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
