"""Waiting: for signals, for a broker that is away; and how processes end."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from boilerd import BrokerError, BrokerUnavailableError
from boilerd.broker.outage import FIRST_PAUSE_S, LONGEST_PAUSE_S, OutageRetry
from boilerd.process.exit_status import describe_exit
from boilerd.process.signals import SignalInbox
from support import DEADLINE_S, run_python

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


# --- SignalInbox


@pytest.fixture
def inbox() -> Iterator[SignalInbox]:
    kept = {signum: signal.getsignal(signum) for signum in (USR1, USR2)}
    wakeup_fd = signal.set_wakeup_fd(-1)
    made = SignalInbox(kept)
    yield made
    made.close()
    signal.set_wakeup_fd(wakeup_fd)
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def test_a_signal_of_another_process_ends_the_wait(inbox: SignalInbox) -> None:
    began_s = time.monotonic()
    with subprocess.Popen(["kill", "-USR1", str(os.getpid())]):
        found = inbox.wait(DEADLINE_S)
    took_s = time.monotonic() - began_s

    assert found is USR1
    assert took_s < DEADLINE_S / 2


def test_a_wait_without_a_signal_ends_with_its_time(inbox: SignalInbox) -> None:
    began_s = time.monotonic()
    found = inbox.wait(0.02)

    assert found is None
    assert time.monotonic() - began_s >= 0.02


def test_signals_that_came_before_the_wait_are_told_in_their_order(inbox: SignalInbox) -> None:
    for signum in (USR2, USR1, USR2):
        os.kill(os.getpid(), signum)

    assert [inbox.wait(0) for _ in range(4)] == [USR2, USR1, USR2, None]


def test_a_wake_ends_the_next_wait_once(inbox: SignalInbox) -> None:
    inbox.wake()

    assert inbox.wait(DEADLINE_S) is not None
    assert inbox.wait(0) is None


def test_more_wakes_than_anybody_reads_do_no_harm(inbox: SignalInbox) -> None:
    for _ in range(70_000):
        inbox.wake()

    assert inbox.wait(0) is not None


def test_more_signals_than_anybody_reads_do_no_harm(inbox: SignalInbox) -> None:
    for _ in range(70_000):
        os.kill(os.getpid(), USR1)

    assert inbox.wait(0) is USR1


def test_what_arrived_can_be_forgotten(inbox: SignalInbox) -> None:
    for _ in range(5000):
        inbox.wake()
    os.kill(os.getpid(), USR1)

    inbox.drain()

    assert inbox.wait(0) is None


def test_a_closed_inbox_leaves_no_wakeup_fd_behind() -> None:
    kept = signal.set_wakeup_fd(-1)
    inbox = SignalInbox([])
    during = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(during)

    inbox.close()

    assert during >= 0
    assert signal.set_wakeup_fd(kept) == -1


def test_a_forked_child_starts_with_the_defaults_again() -> None:
    found = run_python("""
import json, signal
from boilerd.process.signals import HANDLED, SignalInbox, restore_defaults

SignalInbox(HANDLED)
signal.setitimer(signal.ITIMER_REAL, 1000)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
restore_defaults()
print(json.dumps({
    "handlers": {signal.getsignal(signum) is signal.SIG_DFL for signum in HANDLED} == {True},
    "wakeup": signal.set_wakeup_fd(-1),
    "timer": signal.getitimer(signal.ITIMER_REAL)[0],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
}))
""")

    assert found == {"handlers": True, "wakeup": -1, "timer": 0, "blocked": []}


def test_signals_that_are_passed_on_to_a_child_wait_there_for_their_handlers() -> None:
    found = run_python("""
import json, os, signal
from boilerd.process.signals import PASSED_ON, hold_signals, install_handler, release_signals, restore_defaults

came = []
hold_signals()
if os.fork() == 0:
    restore_defaults(PASSED_ON)
    release_signals(held=PASSED_ON)
    for signum in PASSED_ON:
        os.kill(os.getpid(), signum)
        install_handler(signum, lambda signum, _: came.append(signum))
    release_signals()
    os._exit(len(came))
print(json.dumps(os.waitstatus_to_exitcode(os.wait()[1])))
""")

    assert found == 2


# --- OutageRetry


class Outage:
    """An action that fails so many times, and the pauses that are made meanwhile."""

    def __init__(self, failures: int, *, pauses_allowed: int = 1000) -> None:
        self.failures = failures
        self.pauses_allowed = pauses_allowed
        self.pauses_s: list[float] = []

    def action(self) -> str:
        if len(self.pauses_s) < self.failures:
            raise BrokerUnavailableError(f"no answer, time {len(self.pauses_s)}")
        return "done"

    def pause(self, seconds: float) -> bool:
        assert len(self.pauses_s) <= self.pauses_allowed, "paused again after the pause had said no"
        self.pauses_s.append(seconds)
        return len(self.pauses_s) <= self.pauses_allowed


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def test_an_action_that_works_is_neither_paused_nor_logged(log: pytest.LogCaptureFixture) -> None:
    outage = Outage(0)

    assert OutageRetry(outage.pause).call(outage.action) == "done"
    assert outage.pauses_s == []
    assert log.records == []


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(log: pytest.LogCaptureFixture) -> None:
    outage = Outage(20)

    answer = OutageRetry(outage.pause).call(outage.action)

    assert answer == "done"
    assert [(record.levelname, record.getMessage()) for record in log.records] == [
        ("ERROR", "broker unavailable, waiting"),
        ("INFO", "broker available again"),
    ]
    assert log.records[0].__dict__["error"] == "no answer, time 0"
    assert 0 <= log.records[1].__dict__["outage_s"] < DEADLINE_S


def test_pauses_double_up_to_the_longest_with_jitter() -> None:
    outage = Outage(40)

    OutageRetry(outage.pause).call(outage.action)

    limits_s = [min(FIRST_PAUSE_S * 2**n, LONGEST_PAUSE_S) for n in range(40)]
    assert [
        (pause_s, limit_s)
        for pause_s, limit_s in zip(outage.pauses_s, limits_s, strict=True)
        if not limit_s / 2 <= pause_s <= limit_s
    ] == []
    assert len(set(outage.pauses_s[-30:])) > 15


def test_the_next_outage_begins_with_a_short_pause_and_a_line_again(log: pytest.LogCaptureFixture) -> None:
    outage = Outage(10)
    outage_retry = OutageRetry(outage.pause)
    outage_retry.call(outage.action)
    log.clear()

    outage.failures += 1
    outage_retry.call(outage.action)

    assert len(outage.pauses_s) == 11
    assert outage.pauses_s[-1] <= FIRST_PAUSE_S < outage.pauses_s[-2]
    assert len(log.records) == 2


@pytest.mark.parametrize("pauses", [0, 3])
def test_patience_ends_with_the_actions_error_when_the_pause_says_so(
    log: pytest.LogCaptureFixture, pauses: int
) -> None:
    outage = Outage(1000, pauses_allowed=pauses)

    with pytest.raises(BrokerUnavailableError, match=f"no answer, time {pauses}"):
        OutageRetry(outage.pause).call(outage.action)

    assert [record.getMessage() for record in log.records] == ["broker unavailable, waiting"]


def raising(error: Exception) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_every_refusal_of_the_broker_is_waited_for() -> None:
    with pytest.raises(BrokerError, match="read-only"):
        OutageRetry(Outage(1, pauses_allowed=0).pause).call(raising(BrokerError("read-only")))


def test_an_error_that_is_not_the_brokers_is_not_waited_for(log: pytest.LogCaptureFixture) -> None:
    outage = Outage(0)

    with pytest.raises(ZeroDivisionError):
        OutageRetry(outage.pause).call(raising(ZeroDivisionError()))

    assert outage.pauses_s == []
    assert log.records == []


# --- Exit statuses


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (1, "exit status 1"),
        (255, "exit status 255"),
        (-9, "signal 9 (SIGKILL)"),
        (-11, "signal 11 (SIGSEGV)"),
        (-200, "signal 200"),
    ],
)
def test_an_exit_is_told_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words
