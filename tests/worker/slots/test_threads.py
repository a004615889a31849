"""Threads that run plain attempts: others strike them, and code of the application may raise exceptions in them."""

import ctypes
import queue
import random
import select
import threading
from typing import Any

import pytest

from boilerd import ServeMux, Task
from boilerd.errors import TaskCancelledError, TaskTimeoutError
from boilerd.worker.slots import threads as threads_module
from boilerd.worker.slots.attempt import SlotAttempt
from boilerd.worker.slots.strikes import Strikable, struck_with
from boilerd.worker.slots.threads import Threads
from slot_driver import SlotDriver, driven
from support import wait_until

pytestmark = pytest.mark.timeout(method="thread")


class Stray(BaseException):
    """What an application's own time limit raises, too late."""


def raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


@pytest.fixture
def ran() -> list[Any]:
    return []


def test_threads_are_made_when_they_are_needed_and_used_again(ran: list[Any]) -> None:
    threads: Threads[int] = Threads(lambda item: ran.append((item, threading.get_ident())), lambda item, error: None)

    for item in range(50):
        threads.start(item)
        wait_until(lambda: threads.free == 1, f"item {item} has run")

    assert [item for item, _ in ran] == list(range(50))
    assert len({ident for _, ident in ran}) == 1


def test_each_item_begins_at_once_however_many_run() -> None:
    barrier = threading.Barrier(21)

    def wait_there(item: int) -> None:
        barrier.wait(20)

    threads: Threads[int] = Threads(wait_there, lambda item, error: None)

    for item in range(20):
        threads.start(item)

    barrier.wait(20)  # all of them have come here


def test_a_thread_without_work_ends_after_a_while(monkeypatch: pytest.MonkeyPatch, ran: list[Any]) -> None:
    monkeypatch.setattr(threads_module, "IDLE_S", 0.05)
    threads: Threads[int] = Threads(lambda item: ran.append(threading.current_thread()), lambda item, error: None)

    threads.start(1)
    wait_until(lambda: ran and not ran[0].is_alive() and threads.free == 0, "it has ended")
    threads.start(2)

    wait_until(lambda: len(ran) == 2, "there is another")


def test_what_is_held_begins_in_a_thread_that_ends_another_before_that_end_is_told() -> None:
    done: list[tuple[str, int, int]] = []
    go = threading.Event()

    def run(item: int) -> bool:
        go.wait(20)
        done.append(("ran", item, len(threads.held)))
        return True

    threads: Threads[int] = Threads(
        run, lambda item, error: None, lambda item: done.append(("told", item, len(threads.held)))
    )
    threads.start(0)
    threads.held |= {1: None, 2: None, 3: None}
    taken = threads.take_back(3), threads.take_back(3)

    go.set()

    wait_until(lambda: threads.free == 1, "all have run")
    assert taken == (True, False)
    assert done == [
        ("ran", 0, 2), ("told", 0, 1), ("ran", 1, 1), ("told", 1, 0), ("ran", 2, 0), ("told", 2, 0)
    ]  # fmt: skip
    assert len(threads.made) == 1


def test_an_item_may_leave_no_place_for_one_that_is_held(ran: list[Any]) -> None:
    threads: Threads[int] = Threads(ran.append, lambda item, error: None)
    threads.held[1] = None

    threads.start(0)

    wait_until(lambda: threads.free == 1, "it has run")
    assert (ran, [*threads.held]) == ([0], [1])


def test_a_held_item_whose_thread_got_a_stray_exception_is_not_lost(ran: list[Any]) -> None:
    told: list[int] = []

    def end(item: int) -> None:
        if item == 0:
            raise Stray  # the next one is taken

    def run(item: int) -> bool:
        ran.append(item)
        return True

    threads: Threads[int] = Threads(run, lambda item, error: told.append(item), end)
    threads.held[1] = None

    threads.start(0)
    wait_until(lambda: told == [0] and threads.held, "it is held again")
    threads.start(2)

    wait_until(lambda: ran == [0, 2, 1], "it has run")


def test_an_exception_of_the_application_that_comes_too_late_takes_neither_the_thread_nor_the_next_item(
    ran: list[Any],
) -> None:
    threads: Threads[int] = Threads(lambda item: ran.append((item, threading.get_ident())), lambda item, error: None)
    threads.start(0)
    wait_until(lambda: ran and threads.free == 1, "the first has run")

    for item in range(1, 60):
        raise_in(ran[0][1], Stray)
        threads.start(item)
        wait_until(lambda: threads.free == 1, f"item {item} has run")

    assert [item for item, _ in ran] == list(range(60))


def test_a_thread_that_died_is_replaced_and_what_it_ran_is_told_of(
    monkeypatch: pytest.MonkeyPatch, ran: list[Any]
) -> None:
    told: list[tuple[int, str]] = []
    threads: Threads[int] = Threads(ran.append, lambda item, error: told.append((item, str(error))))
    threads.start(0)
    wait_until(lambda: ran and threads.free == 1, "it has run")
    [(made, thread)] = threads.made.items()
    monkeypatch.setattr(made, "_serve", lambda: False)  # it ends at once, as if it had died
    threads.start(1)
    wait_until(lambda: not thread.is_alive(), "the thread has ended")

    threads.look()

    wait_until(lambda: ran == [0, 1], "another has run what waited")


def test_an_item_whose_thread_got_such_an_exception_is_told_of() -> None:
    told: list[tuple[int, BaseException]] = []

    def run(item: int) -> None:
        if item == 0:
            raise_in(threading.get_ident(), Stray)
            for _ in range(1000):
                pass

    threads: Threads[int] = Threads(run, lambda item, error: told.append((item, error)))

    threads.start(0)
    wait_until(lambda: told and threads.free == 1, "it is told of")
    threads.start(1)
    wait_until(lambda: threads.free == 1, "the next has run")

    assert [(item, type(error)) for item, error in told] == [(0, Stray)]


def test_a_handler_that_is_hit_after_its_end_by_its_own_time_limit_costs_no_slot() -> None:
    mux = ServeMux()
    limits: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()

    @mux.handle("own:limit")
    def limit(task: Task) -> str:
        # Not by a thread that is started here: it has this one's number for a moment, and might be hit in its place.
        limits.put((0.001 * task.payload, threading.get_ident()))
        return "done"

    def keep_limits() -> None:
        while True:
            in_s, thread = limits.get()
            select.select([], [], [], in_s)
            raise_in(thread, Stray)

    mux.handle("plain:return")(lambda task: task.payload)

    def drive(driver: SlotDriver) -> Any:
        threading.Thread(target=keep_limits, daemon=True).start()
        for delay in range(30):
            driver.outcomes(driver.begin("own:limit", delay % 5))
            driver.outcomes(*(driver.begin("plain:return", delay) for _ in range(3)))
        return driver.outcomes(*(driver.begin("plain:return", 1) for _ in range(10)))

    found = driven(mux, drive)

    assert len(found) == 10
    assert found.count("completed: 1") >= 9  # the last limit may hit one


def test_no_strike_reaches_another_task_than_its_own() -> None:
    mux = ServeMux()

    @mux.handle("plain:short")
    def compute(task: Task) -> str:
        for _ in range(random.randint(1, 300)):
            pass
        return task.id

    def strike_at_random(driver: SlotDriver) -> list[SlotAttempt]:
        attempts: list[SlotAttempt] = []
        while len(attempts) < 1000:
            attempts += [driver.begin("plain:short") for _ in range(4 - len(driver.runner.running))]
            struck = [attempt for attempt in attempts[-4:] if random.random() < 0.05]
            for attempt in struck:
                driver.runner.interrupt([attempt], TaskCancelledError(attempt.task.id))
            while not driver.ended.empty():
                driver.runner.forget(driver.ended.get())
        return attempts

    def drive(driver: SlotDriver) -> Any:
        attempts = strike_at_random(driver)
        found = list(zip(driver.outcomes(*attempts), attempts, strict=True))
        hits = [
            words == f"failed: TaskCancelledError: {attempt.task.id}" and attempt.reason for words, attempt in found
        ]
        ends = [words == f"completed: {attempt.task.id}" for words, attempt in found]
        return any(hits) and all(hit or end for hit, end in zip(hits, ends, strict=True))

    assert driven(mux, drive)


def test_a_strike_after_the_end_does_nothing() -> None:
    place = Strikable()
    place.close()

    place.strike(TaskTimeoutError("late"))

    for _ in range(1000):
        pass


def test_a_strike_that_the_thread_has_not_noticed_is_taken_back_at_the_end() -> None:
    begun, struck, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        place = Strikable()
        places.append(place)
        begun.set()
        try:
            struck.wait(20)  # in C: the strike is not noticed before its end
        finally:
            place.close()
            ended.append(True)

    def guarded() -> None:
        try:
            work()
        except TaskTimeoutError:
            ended.append(False)
        for _ in range(1000):
            pass

    places: list[Strikable] = []
    thread = threading.Thread(target=guarded)
    thread.start()
    begun.wait(20)
    places[0].strike(TaskTimeoutError("over"))
    struck.set()
    thread.join(20)

    assert ended in ([True], [True, False])


def test_what_is_raised_looks_like_the_reason() -> None:
    raised = struck_with(TaskTimeoutError("over"))()

    assert isinstance(raised, TaskTimeoutError)
    assert (type(raised).__name__, type(raised).__module__, str(raised)) == (
        "TaskTimeoutError",
        "boilerd.errors",
        "over",
    )
