"""Attempts in slots: on the loop and in threads, with limits, contexts and what else each has of its own."""

import asyncio
import contextvars
import decimal
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boilerd import ServeMux, Task
from boilerd.errors import ShutdownTimeoutError, TaskCancelledError, TaskTimeoutError
from boilerd.process.forks import disown_children
from boilerd.process.logs import log_context
from boilerd.tasks.current import current_task
from boilerd.worker.attempt import Failed
from boilerd.worker.attempt_log import log_attempts
from boilerd.worker.slots import escalation, runner
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.runner import SlotRunner
from slot_driver import LOOPS, TIMEOUT, SlotDriver, driven, late
from support import DEADLINE_S

#: The children have handlers and timers of their own.
pytestmark = pytest.mark.timeout(method="thread")

FOREVER_S = 3600.0
SOON_S = 0.1
#: Ends what the handlers `…:held` wait for in C code; each child has one of its own.
let_go = threading.Event()
mux = ServeMux()
on_each_loop = pytest.mark.parametrize("loop", LOOPS)


@mux.handle("async:return")
async def return_async(task: Task) -> Any:
    return task.payload


@mux.handle("plain:return")
def return_plain(task: Task) -> Any:
    return task.payload


@mux.handle("async:sleep")
async def sleep_async(task: Task) -> str:
    await asyncio.sleep(task.payload)
    return "slept"


@mux.handle("async:forever")
async def wait_for_ever(task: Task) -> None:
    await asyncio.sleep(FOREVER_S)


@mux.handle("async:blocking")
async def block(task: Task) -> str:
    time.sleep(task.payload)  # noqa: ASYNC251 - what blocks a loop
    return "slept"


@mux.handle("async:held")
async def hold_loop(task: Task) -> None:
    let_go.wait(DEADLINE_S)


@mux.handle("plain:held")
def hold_thread(task: Task) -> None:
    let_go.wait(DEADLINE_S)


@mux.handle("async:computing")
async def compute(task: Task) -> None:
    while True:
        pass


@mux.handle("plain:computing")
def compute_plain(task: Task) -> None:
    while True:
        pass


@mux.handle("plain:sleep")
def sleep_plain(task: Task) -> str:
    time.sleep(task.payload)
    return "slept"


@pytest.mark.parametrize("kind", ["async", "plain"])
@on_each_loop
def test_an_attempt_ends_with_what_its_handler_returns(kind: str, loop: str) -> None:
    assert driven(mux, lambda driver: driver.outcomes(driver.begin(f"{kind}:return", 7)), loop=loop) == ["completed: 7"]


@on_each_loop
def test_an_async_attempt_ends_at_its_timeout_and_its_neighbours_do_not_notice(loop: str) -> None:
    def drive(driver: SlotDriver) -> Any:
        neighbour = driver.begin("async:sleep", 3 * SOON_S, timeout_s=FOREVER_S)
        return driver.outcomes(driver.begin("async:forever", timeout_s=SOON_S), neighbour)

    assert driven(mux, drive, loop=loop) == [TIMEOUT, "completed: slept"]


@pytest.mark.parametrize(("kind", "payload"), [("async:blocking", FOREVER_S), ("async:computing", None)])
@on_each_loop
def test_what_blocks_the_loop_past_its_limit_is_struck_and_nothing_else(loop: str, kind: str, payload: Any) -> None:
    def drive(driver: SlotDriver) -> Any:
        others = [driver.begin("async:sleep", SOON_S), driver.begin("async:blocking", SOON_S, timeout_s=FOREVER_S)]
        blocking = driver.attempt(kind, payload, timeout_s=6 * SOON_S)
        behind = driver.attempt("async:return", "began", timeout_s=3 * SOON_S)
        ends_s = behind.ends_s
        driver.runner.begin([blocking, behind])
        return [*driver.outcomes(blocking, behind, *others), behind.ends_s > ends_s]

    assert driven(mux, drive, loop=loop) == [TIMEOUT, "completed: began", *["completed: slept"] * 2, True]


@on_each_loop
def test_an_asyncio_task_of_an_attempt_that_blocks_the_loop_past_its_limit_is_struck(loop: str) -> None:
    mux = ServeMux()

    @mux.handle("blocks:in_child")
    async def block_in_child(task: Task) -> None:
        await asyncio.create_task(block(task))

    def drive(driver: SlotDriver) -> Any:
        return driver.outcomes(driver.begin("blocks:in_child", FOREVER_S, timeout_s=SOON_S))

    assert driven(mux, drive, loop=loop) == [TIMEOUT]


def test_an_attempt_that_blocks_the_loop_while_it_cleans_up_is_overdue_and_struck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "CLEAN_UP_S", 5 * SOON_S)
    mux = ServeMux()
    seen: list[bool] = []

    @mux.handle("blocks:cleaning_up")
    async def clean_up(task: Task) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            while not seen:
                with suppress(TaskTimeoutError):
                    time.sleep(FOREVER_S)  # noqa: ASYNC251 - as above

    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin("blocks:cleaning_up", timeout_s=SOON_S)
        driver.wait(lambda: driver.runner.is_blocked and driver.board.overdue_s(0) > 0, "it is blocked and overdue")
        seen.append(True)
        return driver.outcomes(attempt)

    assert driven(mux, drive) == [TIMEOUT]


def test_a_strike_that_met_the_code_of_another_attempt_puts_off_none_that_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "CLEAN_UP_S", FOREVER_S)
    on_strike, met = SlotRunner._on_strike, []

    def noting(self: SlotRunner, signum: int, frame: object) -> None:
        try:
            on_strike(self, signum, frame)
        finally:
            met.append(signum)

    monkeypatch.setattr(SlotRunner, "_on_strike", noting)

    def drive(driver: SlotDriver) -> Any:
        behind = driver.attempt("async:forever", timeout_s=5 * SOON_S)
        blocking = driver.attempt("async:blocking", FOREVER_S, timeout_s=FOREVER_S)
        driver.runner.begin([behind, blocking])
        driver.wait(lambda: driver.runner.is_blocked and behind.reason, "the one behind is due, and cannot be told")
        driver.wait(lambda: met, "a strike has met the other")
        driver.runner.interrupt([blocking], TaskCancelledError("cancelled"))
        return driver.outcomes(blocking, behind)

    assert driven(mux, drive) == ["failed: TaskCancelledError: cancelled", TIMEOUT]


def test_a_plain_attempt_is_struck_between_two_bytecodes_at_its_timeout() -> None:
    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin("plain:computing", timeout_s=SOON_S)
        words = driver.outcomes(attempt)
        assert isinstance(attempt.outcome, Failed)
        return [*words, type(attempt.outcome.error).__name__, attempt.outcome.traceback.splitlines()[-1]]

    line = "boilerd.errors.TaskTimeoutError: the attempt took longer than the task's timeout"
    assert driven(mux, drive) == [TIMEOUT, "TaskTimeoutError", line]


def test_a_blocked_loop_is_told_of_once_with_what_blocks_it_and_again_when_it_goes_on() -> None:
    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin("async:held")
        driver.wait(lambda: driver.told("event loop blocked"), "it is blocked")
        for _ in range(3):
            driver.runner.look()
        let_go.set()
        driver.outcomes(attempt)
        driver.wait(lambda: driver.told("event loop goes on"), "it goes on")
        [blocked], [goes_on] = driver.told("event loop blocked"), driver.told("event loop goes on")
        return [blocked.task_type, "let_go.wait" in blocked.stack, goes_on.blocked_s >= 1.0]  # type: ignore[attr-defined]

    assert driven(mux, drive, blocked_after_s=1.0) == ["async:held", True, True]


def test_a_loop_that_is_blocked_by_what_a_handler_left_is_told_of_when_others_wait_for_it() -> None:
    mux = ServeMux()
    blocks = threading.Event()

    def block_later() -> None:
        blocks.set()
        let_go.wait(DEADLINE_S)

    @mux.handle("leaves:blocking")
    async def leave(task: Task) -> None:
        asyncio.get_running_loop().call_later(SOON_S, block_later)

    mux.handle("async:return")(return_async)

    def drive(driver: SlotDriver) -> Any:
        driver.outcomes(driver.begin("leaves:blocking"))
        blocks.wait(DEADLINE_S)
        waits = driver.begin("async:return", 1)
        driver.wait(lambda: driver.told("event loop blocked"), "it is told of")
        let_go.set()
        return [*driver.outcomes(waits), len(driver.told("event loop blocked"))]

    assert driven(mux, drive, blocked_after_s=1.0) == ["completed: 1", 1]


@pytest.mark.parametrize("task_type", ["async:forever", "plain:computing"])
def test_the_loop_looks_for_limits_itself_while_the_keeper_is_held_up(
    monkeypatch: pytest.MonkeyPatch, task_type: str
) -> None:
    monkeypatch.setattr(runner, "LATE_LOOK_S", SOON_S)

    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin(task_type, timeout_s=SOON_S)
        driver.runner.look()
        return driver.ended.get(timeout=DEADLINE_S) is attempt

    assert driven(mux, drive)


def test_a_loop_that_gets_on_is_not_called_blocked_and_beats_on_the_board() -> None:
    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin("async:sleep", 1.0)
        driver.wait(lambda: driver.board.loop_age_s(0), "it beats")
        driver.outcomes(attempt)
        driver.wait(lambda: not driver.board.loop_age_s(0), "it does not beat any more")
        return [driver.runner.is_blocked, [line.getMessage() for line in driver.lines]]

    assert driven(mux, drive) == [False, []]


def test_a_loop_that_has_ended_with_what_does_not_end_is_not_taken_for_a_blocked_one() -> None:
    def drive(driver: SlotDriver) -> None:
        driver.begin("async:sleep", FOREVER_S)
        driver.wait(lambda: driver.board.loop_age_s(0), "it beats")

    assert driven(mux, drive, after=lambda driver: driver.board.loop_age_s(0)) == 0


@pytest.fixture
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalation, "STEPS_S", (0.1, 0.2, 0.3))


@pytest.mark.usefixtures("quick_steps")
def test_an_async_attempt_that_swallows_every_cancellation_is_stuck_and_told_of() -> None:
    mux = ServeMux()

    @mux.handle("swallows:all")
    async def swallow(task: Task) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(FOREVER_S)

    seen: list[Any] = []

    def drive(driver: SlotDriver) -> None:
        attempt = driver.begin("swallows:all", timeout_s=SOON_S)
        driver.wait(lambda: driver.runner.stuck, "it is stuck")
        [line] = driver.told("task does not end")
        driver.wait(lambda: driver.board.overdue_s(0) < 0, "nobody is to kill the process for it")
        counts = [driver.runner.stuck, driver.board.stuck(0), attempt.is_stuck, attempt in driver.runner.running]
        seen[:] = [*counts, line.levelname, line.task_type, "await asyncio.sleep" in line.stack]  # type: ignore[attr-defined]

    def after(driver: SlotDriver) -> Any:
        driver.runner.drain_leftovers(SOON_S)
        return [*seen, len(driver.told("asyncio tasks were left behind, cancelled"))]

    assert driven(mux, drive, after=after) == [1, 1, True, True, "ERROR", "swallows:all", True, 0]


@pytest.mark.usefixtures("quick_steps")
def test_a_thread_in_c_code_is_stuck_and_named_until_it_ends_after_all() -> None:
    def drive(driver: SlotDriver) -> Any:
        attempt = driver.begin("plain:held", timeout_s=SOON_S)
        driver.wait(lambda: driver.board.stuck(0), "it is stuck")
        [line] = driver.told("task does not end")
        let_go.set()
        outcome = driver.outcomes(attempt)
        counts = [driver.runner.stuck, driver.board.stuck(0), len(driver.told("task has ended after all"))]
        return [*outcome, *counts, line.task_type, "let_go.wait" in line.stack]  # type: ignore[attr-defined]

    assert driven(mux, drive) == [TIMEOUT, 0, 0, 1, "plain:held", True]


def test_a_wait_that_swallows_the_first_cancellation_ends_at_the_second() -> None:
    mux = ServeMux()

    @mux.handle("swallows:one")
    async def swallow_one(task: Task) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        except asyncio.CancelledError:
            await asyncio.sleep(FOREVER_S)

    def drive(driver: SlotDriver) -> Any:
        return driver.outcomes(driver.begin("swallows:one", timeout_s=SOON_S))

    assert driven(mux, drive) == [TIMEOUT]


@on_each_loop
def test_limits_of_the_handlers_own_that_are_over_at_the_same_time_leave_our_reason(loop: str) -> None:
    mux = ServeMux()

    @mux.handle("own:timeout")
    async def timeout(task: Task) -> None:
        async with asyncio.timeout(task.payload):
            await asyncio.sleep(FOREVER_S)

    @mux.handle("own:wait_for")
    async def wait_for(task: Task) -> None:
        await asyncio.wait_for(asyncio.sleep(FOREVER_S), task.payload)

    @mux.handle("own:group")
    async def group(task: Task) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(asyncio.sleep(FOREVER_S))

    @mux.handle("blocks:both")
    async def block_until_both_are_over(task: Task) -> None:
        await asyncio.sleep(0)  # what the others have made has begun, too
        blocks.set()
        let_go.wait(DEADLINE_S)
        time.sleep(task.payload)  # noqa: ASYNC251 - so that the loop comes to both limits in one round

    blocks = threading.Event()

    def drive(driver: SlotDriver) -> Any:
        kinds = ("own:timeout", "own:wait_for", "own:group", "blocks:both")
        *attempts, blocking = [driver.attempt(kind, 10 * SOON_S) for kind in kinds]
        driver.runner.begin([*attempts, blocking])
        blocks.wait(DEADLINE_S)
        driver.runner.interrupt(attempts, TaskTimeoutError("ours"))
        let_go.set()
        return driver.outcomes(*attempts)

    assert driven(mux, drive, loop=loop) == ["failed: TaskTimeoutError: ours"] * 3


@pytest.mark.parametrize(
    ("error", "line"), [("CancelledError", "CancelledError: mine"), ("TimeoutError", "TimeoutError: mine")]
)
def test_a_handler_that_raises_such_an_error_by_itself_has_failed_with_it(error: str, line: str) -> None:
    mux = ServeMux()

    @mux.handle("own:error")
    async def fail(task: Task) -> None:
        raise getattr(asyncio, task.payload)("mine")

    assert driven(mux, lambda driver: driver.outcomes(driver.begin("own:error", error))) == [f"failed: {line}"]


def test_a_handler_that_returns_after_it_was_interrupted_has_completed() -> None:
    mux = ServeMux()

    @mux.handle("cleans:async")
    async def clean_async(task: Task) -> str:
        try:
            await asyncio.sleep(FOREVER_S)
        except asyncio.CancelledError as error:
            return str(error)
        return "never"

    @mux.handle("cleans:plain")
    def clean_plain(task: Task) -> str:
        try:
            compute_plain(task)
        except TaskCancelledError as error:
            return str(error)
        return "never"

    def drive(driver: SlotDriver) -> Any:
        attempts = [driver.begin("cleans:async"), driver.begin("cleans:plain")]
        driver.wait(lambda: all(attempt.has_begun for attempt in attempts), "they have begun")
        driver.runner.interrupt(attempts, TaskCancelledError("nobody wants it"))
        return driver.outcomes(*attempts)

    assert driven(mux, drive) == ["completed: nobody wants it"] * 2


@pytest.mark.parametrize("kind", ["async:forever", "plain:computing"])
def test_the_end_of_a_drain_releases_and_replaces_no_other_reason(kind: str) -> None:
    def drive(driver: SlotDriver) -> Any:
        cut, cancelled = driver.begin(kind), driver.begin(kind)
        driver.wait(lambda: cut.has_begun and cancelled.has_begun, "they have begun")
        driver.runner.interrupt([cancelled], TaskCancelledError("nobody wants it"))
        driver.runner.interrupt([cut, cancelled], ShutdownTimeoutError("the shutdown timeout is over"))
        return driver.outcomes(cut, cancelled)

    assert driven(mux, drive) == ["released", "failed: TaskCancelledError: nobody wants it"]


@pytest.mark.parametrize("kind", ["async:return", "plain:return"])
def test_an_attempt_whose_deadline_passed_or_that_was_cancelled_before_it_began_never_runs(kind: str) -> None:
    def drive(driver: SlotDriver) -> Any:
        too_late, cancelled = driver.attempt(kind, 1, **late()), driver.attempt(kind, 1)
        cancelled.reason = TaskCancelledError("nobody wants it")
        driver.runner.begin([too_late, cancelled])
        return driver.outcomes(too_late, cancelled)

    told = [
        "failed: DeadlineExceededError: the task's deadline has passed",
        "failed: TaskCancelledError: nobody wants it",
    ]
    assert driven(mux, drive) == told


@on_each_loop
def test_what_a_plain_handler_returns_to_be_awaited_runs_on_the_loop_and_ends_at_its_timeout(loop: str) -> None:
    mux = ServeMux()

    async def work(task: Task) -> str:
        assert threading.current_thread() is threading.main_thread()
        assert current_task() is task
        await asyncio.sleep(task.payload)
        return "slept"

    @mux.handle("hidden:async")
    def hide(task: Task) -> Any:
        return work(task)

    def drive(driver: SlotDriver) -> Any:
        ends, waits = driver.begin("hidden:async", SOON_S), driver.begin("hidden:async", FOREVER_S, timeout_s=SOON_S)
        return driver.outcomes(ends, waits)

    assert driven(mux, drive, loop=loop) == ["completed: slept", TIMEOUT]


def test_what_a_plain_handler_returns_to_be_awaited_is_struck_where_it_blocks_the_loop() -> None:
    mux = ServeMux()

    @mux.handle("hidden:blocking")
    def hide(task: Task) -> Any:
        return block(task)

    def drive(driver: SlotDriver) -> Any:
        return driver.outcomes(driver.begin("hidden:blocking", FOREVER_S, timeout_s=SOON_S))

    assert driven(mux, drive) == [TIMEOUT]


# --- What each attempt has of its own


def test_the_contexts_and_log_fields_of_attempts_that_run_at_the_same_time_never_mix() -> None:
    mux = ServeMux()
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="none")

    def look(task: Task) -> list[Any]:
        logging.getLogger("boilerd.task").info("looked", extra={"payload": task.payload})
        return [variable.get(), current_task().payload, decimal.getcontext().prec]

    def enter(task: Task) -> None:
        assert variable.get() == "base"
        assert decimal.getcontext().prec == 11
        variable.set(task.payload)
        decimal.getcontext().prec = task.payload + 1

    @mux.handle("context:async")
    async def interleave(task: Task) -> Any:
        enter(task)
        with log_context(mine=task.payload):
            for _ in range(3):
                await asyncio.sleep(0.01)
            return look(task)

    @mux.handle("context:plain")
    def beside(task: Task) -> Any:
        enter(task)
        with log_context(mine=task.payload):
            time.sleep(0.05)
            return look(task)

    def before() -> None:
        variable.set("base")
        decimal.getcontext().prec = 11

    def drive(driver: SlotDriver) -> Any:
        kinds = ["context:async"] * 480 + ["context:plain"] * 20
        attempts = [driver.attempt(kind, payload) for payload, kind in enumerate(kinds)]
        driver.runner.begin(attempts)
        wanted = [f"completed: {[payload, payload, payload + 1]}" for payload in range(len(kinds))]
        return driver.outcomes(*attempts) == wanted

    assert driven(mux, drive, before=before)


@on_each_loop
def test_all_async_attempts_run_on_one_loop_with_what_was_made_on_it_before(loop: str) -> None:
    mux = ServeMux()
    made: list[Any] = []

    @mux.handle("loop:shared")
    async def use(task: Task) -> int:
        made[0].put_nowait(1)
        await made[0].get()
        return id(asyncio.get_running_loop())

    def before() -> None:
        from boilerd.tasks.coroutines import kept_loop  # noqa: PLC0415 - the child's

        async def make() -> asyncio.Queue[int]:
            return asyncio.Queue()

        made.append(kept_loop().run_until_complete(make()))

    def drive(driver: SlotDriver) -> Any:
        attempts = [driver.attempt("loop:shared") for _ in range(1000)]
        driver.runner.begin(attempts)
        return len(set(driver.outcomes(*attempts)))

    assert driven(mux, drive, loop=loop, before=before) == 1


def test_an_interrupt_has_its_name_and_words_in_the_lines_and_for_the_error_handler() -> None:
    def drive(driver: SlotDriver) -> Any:
        attempts = [driver.begin(kind, timeout_s=SOON_S) for kind in ("async:forever", "plain:computing")]
        driver.outcomes(*attempts)
        for attempt in attempts:
            assert isinstance(attempt.outcome, Failed)
            assert isinstance(attempt.outcome.error, TaskTimeoutError)
        return [line.error for line in driver.told("task failed")]  # type: ignore[attr-defined]

    assert driven(mux, drive, middleware=log_attempts) == [TIMEOUT.removeprefix("failed: ")] * 2


# --- What attempts do to the process


def test_what_a_task_leaves_on_the_loop_goes_on_and_is_named_cancelled_and_awaited_at_the_end() -> None:
    mux = ServeMux()
    ended: list[str] = []

    async def go_on() -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    async def count() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    @mux.handle("leaves:both")
    async def leave(task: Task) -> None:
        task_left = asyncio.create_task(go_on(), name="left")
        leave.kept = task_left  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        async for _ in count():
            break

    def drive(driver: SlotDriver) -> Any:
        driver.outcomes(driver.begin("leaves:both"))
        driver.wait(lambda: ended == ["generator"], "the generator has ended")

    def after(driver: SlotDriver) -> Any:
        driver.runner.drain_leftovers(5.0)
        [line] = driver.told("asyncio tasks were left behind, cancelled")
        return [ended, len(line.tasks), "left: " in line.tasks[0], "go_on" in line.tasks[0]]  # type: ignore[attr-defined]

    assert driven(mux, drive, after=after) == [["generator", "task"], 1, True, True]


def test_what_stays_when_it_is_cancelled_at_the_end_holds_nothing_up() -> None:
    mux = ServeMux()

    async def stay() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(FOREVER_S)

    @mux.handle("leaves:stubborn")
    async def leave(task: Task) -> None:
        leave.kept = asyncio.create_task(stay())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    def after(driver: SlotDriver) -> Any:
        driver.runner.drain_leftovers(SOON_S)
        return len(driver.told("asyncio tasks do not end"))

    assert driven(mux, lambda driver: driver.outcomes(driver.begin("leaves:stubborn")), after=after) == 1


async def _exit() -> None:
    sys.exit(3)


async def _interrupt() -> None:
    raise KeyboardInterrupt


async def _stop() -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("leave", [_exit, _interrupt, _stop])
@on_each_loop
def test_what_makes_a_loop_end_ends_neither_the_process_nor_another_task(leave: Any, loop: str) -> None:
    mux = ServeMux()

    @mux.handle("ends:loop")
    async def end(task: Task) -> str:
        await asyncio.wait([asyncio.create_task(leave())])
        return "went on"

    mux.handle("async:sleep")(sleep_async)

    def drive(driver: SlotDriver) -> Any:
        found = driver.outcomes(driver.begin("async:sleep", 3 * SOON_S), driver.begin("ends:loop"))
        return [*found, len(driver.told("event loop was left by a task, going on"))]

    assert driven(mux, drive, loop=loop) == ["completed: slept", "completed: went on", 1]


@on_each_loop
def test_a_handler_that_cancels_all_tasks_loses_none(loop: str) -> None:
    mux = ServeMux()

    @mux.handle("cancels:all")
    async def cancel_all(task: Task) -> None:
        for other in asyncio.all_tasks():
            other.cancel()

    mux.handle("async:forever")(wait_for_ever)

    def drive(driver: SlotDriver) -> Any:
        first = driver.begin("async:forever")
        driver.wait(lambda: first.has_begun, "it runs")
        rest = [driver.attempt("cancels:all"), driver.attempt("async:forever")]
        driver.runner.begin(rest)
        return [words.partition(":")[0] for words in driver.outcomes(first, *rest)]

    assert driven(mux, drive, loop=loop) == ["failed", "completed", "failed"]


def test_the_timeout_of_a_held_task_counts_from_its_begin_and_its_deadline_does_not() -> None:
    mux, go = ServeMux(), threading.Event()
    mux.handle("plain:held")(lambda task: go.wait(DEADLINE_S))
    mux.handle("plain:return")(return_plain)

    @mux.handle("plain:forever")
    def go_on(task: Task) -> None:
        while True:
            time.sleep(0.005)

    def drive(driver: SlotDriver) -> Any:
        first = driver.begin("plain:held")
        others = [
            driver.attempt("plain:return", 1, timeout_s=SOON_S),
            driver.attempt("plain:return", 2, **late(SOON_S)),
            driver.attempt("plain:forever", timeout_s=SOON_S),
        ]
        driver.runner.hold(others)
        driver.wait(lambda: all(time.monotonic() > each.ends_s for each in others), "they are late")
        go.set()
        return [driver.runner.held, *driver.outcomes(first, *others)]

    assert driven(mux, drive) == [
        3, "completed: True", "completed: 1", "failed: DeadlineExceededError: the task's deadline has passed", TIMEOUT
    ]  # fmt: skip


def holding() -> tuple[ServeMux, threading.Event]:
    """A mux whose type ``plain:held`` waits for the event."""
    mux, go = ServeMux(), threading.Event()
    mux.handle("plain:held")(lambda task: go.wait(DEADLINE_S))
    mux.handle("plain:return")(return_plain)
    return mux, go


def test_what_is_held_never_begins_once_the_runner_is_closed() -> None:
    mux, go = holding()
    made: list[SlotAttempt] = []

    def drive(driver: SlotDriver) -> None:
        made[:] = [driver.begin("plain:held"), driver.attempt("plain:return")]
        driver.runner.hold(made[1:])

    def end(driver: SlotDriver) -> Any:
        go.set()
        return [*driver.outcomes(made[0]), made[1].has_begun, driver.runner.held]

    assert driven(mux, drive, after=end) == ["completed: True", False, 0]


def test_what_was_not_looked_at_for_long_stays_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TRUST_S", 0.0)
    mux, go = holding()

    def drive(driver: SlotDriver) -> Any:
        first, other = driver.begin("plain:held"), driver.attempt("plain:return", 1)
        driver.runner.hold([other])
        go.set()
        found = [*driver.outcomes(first), other.has_begun, driver.runner.held]
        driver.runner.begin_held(1)
        return [*found, *driver.outcomes(other)]

    assert driven(mux, drive) == ["completed: True", False, 1, "completed: 1"]


@pytest.mark.parametrize("kind", ["async", "plain"])
@on_each_loop
def test_a_child_that_a_handler_forks_and_that_returns_ends_and_tells_nobody(kind: str, loop: str) -> None:
    mux = ServeMux()

    def fork(task: Task) -> int:
        pid = os.fork()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0

    @mux.handle("forks:async")
    async def fork_async(task: Task) -> int:
        return fork(task)

    mux.handle("forks:plain")(fork)

    def drive(driver: SlotDriver) -> Any:
        read, write = os.pipe()
        on_end = driver.runner._on_end
        driver.runner._on_end = lambda attempt: (os.write(write, b"."), on_end(attempt))[1]
        found = driver.outcomes(driver.begin(f"forks:{kind}"))
        return [*found, len(os.read(read, 10))]

    assert driven(mux, drive, loop=loop) == ["completed: 0", 1]


@on_each_loop
def test_a_child_that_a_handler_forks_and_that_goes_back_to_the_loop_ends_there(loop: str) -> None:
    mux = ServeMux()

    @mux.handle("forks:awaits")
    async def fork(task: Task) -> int:
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - the child is to have all of it
            return os.waitstatus_to_exitcode(status)
        await asyncio.sleep(0)  # with more, asyncio itself raises
        os._exit(9)

    def drive(driver: SlotDriver) -> Any:
        return driver.outcomes(driver.begin("forks:awaits"))

    assert driven(mux, drive, loop=loop, before=disown_children) == ["completed: 0"]


@on_each_loop
def test_signals_that_the_application_handles_itself_are_handled_while_nothing_else_wakes_the_loop(loop: str) -> None:
    came: list[int] = []

    def before() -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR2, lambda *_: came.append(0))
        came.append(reader)

    def drive(driver: SlotDriver) -> Any:
        reader = came.pop()
        driver.outcomes(driver.begin("async:sleep", SOON_S))
        driver.wait(lambda: not driver.board.loop_age_s(0), "the loop beats no longer")
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR2)
            driver.runner.nudge(os.read(reader, 100))
            driver.wait(lambda: came, "the handler ran")
            came.clear()
        return True

    assert driven(mux, drive, loop=loop, before=before)


@on_each_loop
def test_a_signal_handler_that_the_application_gives_to_the_loop_is_called(loop: str) -> None:
    mux = ServeMux()
    came: list[int] = []

    @mux.handle("listens")
    async def listen(task: Task) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, came.append, 1)

    mux.handle("async:sleep")(sleep_async)
    readers: list[int] = []

    def before() -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        readers.append(reader)

    def drive(driver: SlotDriver) -> Any:
        driver.outcomes(driver.begin("listens"))
        driver.outcomes(driver.begin("async:sleep", 4 * SOON_S))  # the loop beats meanwhile
        os.kill(os.getpid(), signal.SIGUSR2)
        driver.runner.nudge(os.read(readers[0], 100))
        driver.wait(lambda: came, "the handler ran")
        return came

    assert driven(mux, drive, loop=loop, before=before) == [1]


def test_what_handlers_change_of_the_process_is_put_back_while_none_runs(tmp_path: Path) -> None:
    mux = ServeMux()

    @mux.handle("changes:process")
    async def change(task: Task) -> None:
        os.chdir(tmp_path)
        os.environ["CHANGED"] = "1"
        os.umask(0o777)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def drive(driver: SlotDriver) -> Any:
        before = str(Path.cwd())
        driver.outcomes(driver.begin("changes:process"))
        driver.wait(lambda: str(Path.cwd()) == before and "CHANGED" not in os.environ, "it is put back")
        umask = os.umask(0o022)
        return [umask != 0o777, signal.getsignal(signal.SIGALRM) == driver.runner._on_strike]

    assert driven(mux, drive) == [True, True]


def test_helpers_of_the_loop_are_as_many_as_tasks_but_not_more_than_64() -> None:
    def drive(driver: SlotDriver) -> Any:
        return driver.runner._loop._default_executor._max_workers  # type: ignore[attr-defined]

    assert (driven(mux, drive, slots=20), driven(mux, drive, slots=500)) == (20, 64)


def test_thousands_of_open_files_hold_nothing_up() -> None:
    def before() -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
        for _ in range(1100):
            os.open(os.devnull, os.O_RDONLY)

    def drive(driver: SlotDriver) -> Any:
        kinds = (("async:sleep", SOON_S), ("plain:sleep", SOON_S), ("async:blocking", SOON_S))
        return driver.outcomes(*(driver.begin(kind, payload) for kind, payload in kinds))

    assert driven(mux, drive, before=before) == ["completed: slept"] * 3


class Payload:
    """Something that one can refer to weakly."""


def remembering(kept: "weakref.WeakSet[Any]") -> ServeMux:
    """Handlers that note their payloads; some fail, and some have to be interrupted."""
    mux = ServeMux()

    def use(task: Task) -> None:
        kept.add(task.payload)
        if task.id.endswith("7"):
            raise ValueError(task.payload)

    @mux.handle("kept:async")
    async def use_async(task: Task) -> None:
        use(task)
        if task.id.endswith("3"):
            await asyncio.Event().wait()  # a loop keeps timers, and their contexts, for a while when they are cancelled

    @mux.handle("kept:plain")
    def use_plain(task: Task) -> None:
        use(task)
        if task.id.endswith("3"):
            compute_plain(task)

    return mux


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_nothing_is_kept_of_attempts_that_have_ended(kind: str) -> None:
    kept: weakref.WeakSet[Any] = weakref.WeakSet()

    def drive(driver: SlotDriver) -> Any:
        attempts: list[SlotAttempt] = []
        for _ in range(20):
            attempts[:] = [driver.attempt(f"kept:{kind}", Payload(), timeout_s=0.05) for _ in range(20)]
            driver.runner.begin(attempts)
            driver.outcomes(*attempts)
        attempts.clear()
        gc.collect()
        return len(kept)

    assert driven(remembering(kept), drive) < 40  # each thread holds what it had last
