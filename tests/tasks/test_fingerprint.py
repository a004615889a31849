"""Which failures are one group: the class of the error and where the application's code was, or the masked message."""

import random
import uuid
from collections.abc import Callable
from types import FunctionType
from typing import Any

import msgspec
import pytest

from boilerd import InvalidPayloadError, ServeMux, SkipRetry, Task
from boilerd.errors import HandlerNotFoundError, LeaseExpiredError, RetryLater, TaskTimeoutError, WorkerDiedError
from boilerd.tasks.fingerprint import FRAMES, MOST_SHOWN, FailureKind, kind_of, masked
from boilerd.tasks.retry import Hooks, RetryPolicy
from boilerd.worker import settlement
from boilerd.worker.settlement import Rules

HERE = __name__


class OwnError(Exception):
    """An error of the application's."""


def charge(message: str) -> None:
    raise OwnError(message)


def refund(message: str) -> None:
    raise OwnError(message)


def dig(levels: int) -> None:
    if levels:
        dig(levels - 1)
    charge("deep")


def raised(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def kind(call: Callable[[], object], task_type: str = "order:pay", **options: Any) -> FailureKind:
    return kind_of(task_type, raised(call), **options)


def installed(name: str, call: Callable[[], object]) -> Callable[[], object]:
    """A function of a library's module that calls `call`."""
    code = compile("def run():\n    call()\n", f"/venv/lib/python3/site-packages/{name}/core.py", "exec")
    module: dict[str, Any] = {"__name__": f"{name}.core", "call": call}
    exec(code, module)
    run = module["run"]
    assert isinstance(run, FunctionType)
    return run


def messages(number: int) -> list[str]:
    """Messages of one failure with other IDs, addresses, numbers and paths each time."""
    draw = random.Random(1)
    return [
        f"user {draw.randrange(10**9)} <u{draw.randrange(999)}@shop{draw.randrange(99)}.example> at"
        f" 10.{draw.randrange(255)}.0.{draw.randrange(255)}:{draw.randrange(65000)} was not found in"
        f" /srv/u{draw.randrange(10**6)}/x{draw.randrange(99)}/orders.db, object at 0x{draw.getrandbits(48):x},"
        f" '{draw.getrandbits(32):x} it is', trace {draw.getrandbits(128):032x},"
        f" request {uuid.UUID(int=draw.getrandbits(128))},"
        f" took {draw.random()} s of https://api.example/v1/{draw.randrange(10**6)}?token={draw.getrandbits(64):x}"
        for _ in range(number)
    ]


def test_ten_thousand_variants_of_a_message_are_one_group() -> None:
    variants = messages(10_000)

    assert len(set(variants)) == 10_000
    assert len({kind_of("order:pay", OwnError(message)).fingerprint for message in variants}) == 1


def test_the_message_does_not_count_where_the_application_s_code_is_known() -> None:
    assert kind(lambda: charge("card is stolen")).fingerprint == kind(lambda: charge("no such account")).fingerprint


def test_two_bugs_in_one_handler_are_two_groups() -> None:
    def handle(bug: Callable[[str], None]) -> None:
        bug("no")

    assert kind(lambda: handle(charge)).fingerprint != kind(lambda: handle(refund)).fingerprint


def test_two_errors_of_one_function_are_two_groups() -> None:
    def handle(value: str) -> int:
        return int(value) // 0

    assert kind(lambda: handle("x")).fingerprint != kind(lambda: handle("1")).fingerprint


def test_one_bug_is_another_group_for_each_type() -> None:
    assert kind(lambda: charge("no")).fingerprint != kind(lambda: charge("no"), "order:repay").fingerprint


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [("user:42:sync", "user:7:sync", True), ("v1:send", "v2:send", False), ("a:send", "b:send", False)],
)
def test_numbers_in_a_type_are_ids(one: str, other: str, is_one: bool) -> None:
    prints = {kind(lambda: charge("no"), task_type).fingerprint for task_type in (one, other)}

    assert (len(prints) == 1) is is_one


def test_a_group_tells_the_class_and_the_application_s_functions_innermost_first() -> None:
    found = kind(installed("celerylike", lambda: charge("card 4111 of 'Ann'")))

    assert (found.type, found.error, found.message) == ("order:pay", f"{HERE}.OwnError", "card N of '…'")
    assert found.frames[0] == f"{HERE}.charge"
    assert not any("celerylike" in frame for frame in found.frames)


def test_how_deep_a_recursion_was_does_not_count() -> None:
    assert kind(lambda: dig(0)).fingerprint == kind(lambda: dig(30)).fingerprint


def test_only_the_innermost_functions_count() -> None:
    def called_by(*names: str) -> FailureKind:
        call: Callable[[], object] = lambda: charge("no")  # noqa: E731 - wrapped below
        for name in names:
            call = installed(f"shop.{name}", call)
        return kind(call, home="shop")

    inner = [f"f{number}" for number in range(FRAMES)]

    assert len(called_by(*inner).frames) == FRAMES
    assert called_by(*inner, "a").fingerprint == called_by(*inner, "b").fingerprint
    assert called_by("a", *inner).fingerprint != called_by("b", *inner).fingerprint


def test_code_of_the_handler_s_package_is_the_application_s_also_among_libraries() -> None:
    def fail() -> None:
        raise OwnError("no")

    error = raised(installed("shop", fail))

    assert "shop.core.run" in kind_of("order:pay", error, home="shop").frames
    assert "shop.core.run" not in kind_of("order:pay", error).frames


def test_the_cause_of_all_decides_and_what_was_only_going_on_does_not() -> None:
    def translated(cause: Callable[[str], None]) -> None:
        try:
            cause("no")
        except OwnError as error:
            raise RuntimeError("the order failed") from error

    def cleaned_up(bug: Callable[[str], None]) -> None:
        try:
            bug("no")
        except OwnError:
            raise KeyError("it") from None

    found = kind(lambda: translated(charge))

    assert (found.error, found.frames[0]) == (f"{HERE}.OwnError", f"{HERE}.charge")
    assert found.fingerprint != kind(lambda: translated(refund)).fingerprint
    assert kind(lambda: cleaned_up(charge)).error == "KeyError"


def test_a_cause_that_nobody_raised_does_not_decide() -> None:
    def fail() -> None:
        raise OwnError("no") from ValueError("a traceback of another process")

    assert kind(fail).error == f"{HERE}.OwnError"


def test_a_ring_of_causes_ends() -> None:
    error, other = raised(lambda: charge("a")), raised(lambda: refund("b"))
    error.__cause__, other.__cause__ = other, error

    assert kind_of("x", error).error == f"{HERE}.OwnError"


def test_a_group_of_errors_is_what_it_holds_first() -> None:
    group = BaseExceptionGroup("many", [BaseExceptionGroup("inner", [raised(lambda: charge("no"))])])

    assert kind_of("order:pay", group).error == f"{HERE}.OwnError"


@pytest.mark.parametrize("error", [TaskTimeoutError, LeaseExpiredError])
def test_a_limit_is_one_group_wherever_the_code_was(error: type[BaseException]) -> None:
    def interrupted(where: str) -> None:
        raise error(where)

    def elsewhere() -> None:
        interrupted("b")

    assert kind(lambda: interrupted("a")).fingerprint == kind(elsewhere).fingerprint
    assert kind(elsewhere).error == f"boilerd.errors.{error.__name__}"


def test_deaths_by_other_signals_are_other_groups() -> None:
    killed, crashed = (WorkerDiedError(f"worker died: signal {what}") for what in ("9 (SIGKILL)", "11 (SIGSEGV)"))

    assert kind_of("x", killed).fingerprint != kind_of("x", crashed).fingerprint


def test_a_misfit_is_told_by_its_message() -> None:
    def misfit(message: str) -> FailureKind:
        error = InvalidPayloadError(message)
        error.__cause__ = raised(lambda: charge("what it was made of"))
        return kind_of("x", error)

    assert misfit("Expected `int`, got `str` - at `$.age`").fingerprint != misfit("no `$.name`").fingerprint
    assert kind_of("x", HandlerNotFoundError("x")).message == "handler not found for task '…'"


@pytest.mark.parametrize(
    ("message", "mask"),
    [
        ("can't open '/srv/a b/c', don't", "can't open '…', don't"),
        ("https://ann:secret@api.example:8443/v1?token=abc failed", "https://api.example failed"),
        ("connect to [2001:db8::1] or 10.0.0.1", "connect to [IP] or IP"),
        ("no such file: /var/lib/shop/orders.db", "no such file: orders.db"),
        ("took 1,234.5 s\nof 3", "took N s of N"),
        ("token deadbeef01", "token N"),
    ],
)
def test_what_is_another_each_time_is_masked(message: str, mask: str) -> None:
    assert masked(message) == mask


def test_an_error_that_cannot_be_shown_and_one_that_is_endless_have_groups() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    assert kind_of("x", BrokenError()).message == ""
    assert len(kind_of("x", ValueError("é" * 10_000_000)).message) == MOST_SHOWN
    assert msgspec.json.encode(kind_of("\udcff", ValueError("\udcff")))


# What the rules make of it.


def decided(mux: ServeMux, error: BaseException, task_type: str = "order:pay") -> FailureKind | None:
    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler, release="1.2")
    return rules.decide_failure(Task("a", task_type), error, "").kind


def test_a_failure_has_its_kind_and_the_release() -> None:
    found = decided(ServeMux(), raised(lambda: charge("no")))

    assert found is not None
    assert (found.error, found.release) == (f"{HERE}.OwnError", "1.2")


@pytest.mark.parametrize("error", [RetryLater(1), SkipRetry("no")])
def test_what_is_no_failure_belongs_to_no_group(error: Exception) -> None:
    assert (decided(ServeMux(), error) is None) is isinstance(error, RetryLater)


def test_the_hook_decides_over_types_where_it_returns_a_text() -> None:
    mux = ServeMux()
    mux.fingerprint(lambda task, error: "stolen" if "stolen" in str(error) else None)

    kinds = [decided(mux, OwnError("stolen card"), "a"), decided(mux, ValueError("stolen car"), "b")]
    others = [decided(mux, OwnError("no"), "a"), decided(mux, OwnError("no"), "b")]

    assert len({found.fingerprint for found in kinds if found}) == 1
    assert len({found.fingerprint for found in others if found}) == 2


@pytest.mark.parametrize("answer", [42, b"x", OwnError("the hook is broken")])
def test_a_hook_that_fails_or_returns_no_text_changes_nothing(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    mux = ServeMux()

    @mux.fingerprint
    def hook(task: Task, error: BaseException) -> str | None:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    assert decided(mux, OwnError("no")) == decided(ServeMux(), OwnError("no"))
    assert [record.message for record in caplog.records] == ["fingerprint raised"]


def test_a_hook_that_hangs_is_cut(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(settlement, "HOOK_LIMIT_S", 0.05)
    mux = ServeMux()

    @mux.fingerprint
    def hang(task: Task, error: BaseException) -> str | None:
        while True:
            pass

    assert decided(mux, OwnError("no")) == decided(ServeMux(), OwnError("no"))
    assert [record.message for record in caplog.records] == ["fingerprint raised"]


def test_the_hook_must_be_a_plain_function() -> None:
    async def hook(task: Task, error: BaseException) -> str:
        return ""

    with pytest.raises(TypeError):
        ServeMux().fingerprint(hook)  # type: ignore[arg-type]
    assert ServeMux().hooks == Hooks()
