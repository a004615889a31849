"""An application's hooks hang, exit and kill their process: its tasks end all the same, and nobody else suffers."""

import os
import signal
import time
from pathlib import Path

import pytest

from boilerd import Client, ServeMux, Task
from boilerd.broker import keys
from boilerd.tasks.retry import RetryPolicy, Verdict
from boilerd.worker import settlement
from boilerd.worker.settlement import Rules
from support import RunningDaemon, StartDaemon, wait_until

APP = """
import os, time
from boilerd import ServeMux

mux = ServeMux()

@mux.handle("app:good")
def good(task):
    return "good"

@mux.handle("app:bad")
def bad(task):
    raise ValueError("bad")

@mux.handle("app:sleep")
def sleep(task):
    time.sleep(60)

@mux.error_handler
def tell(task, error):
    os._exit(9)
"""
#: pytest-timeout's own way would be the signal that is tested here.
pytestmark = pytest.mark.timeout(method="thread")


def start_app(start_daemon: StartDaemon, directory: Path) -> RunningDaemon:
    (directory / "hooks.py").write_text(APP)
    return start_daemon("--concurrency", "2", directory=directory, env={"BOILERD_APP": "hooks:mux"}).ready()


def archived(client: Client) -> int:
    return int(client.connection.zcard(keys.registry("failed", "default")))


@pytest.mark.fault(39)
def test_a_hook_that_ends_its_worker_is_asked_once_for_each_failure(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    daemon = start_app(start_daemon, directory)

    client.enqueue_many([("app:bad", None)] * 4, max_retries=0)
    good = client.enqueue("app:good").id

    daemon.wait_for("task completed", task_id=good)
    wait_until(lambda: archived(client) == 4, "the failed ones are archived")
    daemon.wait_for("a hook ended its process, going on without asking it", 4)
    assert len(daemon.lines("process died", exit="exit status 9")) == 4
    assert daemon.stop() == 0


@pytest.mark.fault(39)
def test_a_hook_that_ends_the_scheduler_does_not_keep_it_from_its_duties(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    first = start_app(start_daemon, directory)
    client.enqueue("app:sleep", task_id="left", max_retries=0)
    first.wait_for("task started", task_id="left")
    for pid in first.pids():
        os.kill(pid, signal.SIGKILL)
    first.wait()

    second = start_app(start_daemon, directory)

    wait_until(lambda: archived(client) == 1, "what the killed daemon ran is archived")
    assert len(second.lines("process died", child="scheduler")) == 1
    client.enqueue("app:good", task_id="later", process_in=0.1)
    second.wait_for("task completed", task_id="later")


def judged(mux: ServeMux) -> Verdict:
    made = Rules.of(mux, RetryPolicy(), lambda handler: handler)
    return made.decide_failure(Task(id="t", type="a:b"), ValueError("bad"), "").decision.verdict


@pytest.mark.fault(39)
@pytest.mark.parametrize("name", ["error_handler", "is_failure", "retry_delay", "on_failure"])
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("no")], ids=repr)
def test_a_hook_that_raises_whatever_it_is_is_logged_and_ignored(
    name: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(*_: object) -> bool:
        raise error

    mux = ServeMux()
    getattr(mux, name)(hook)

    assert judged(mux) is Verdict.RETRY
    assert "raised" in caplog.text


@pytest.mark.fault(39)
@pytest.mark.parametrize("name", ["error_handler", "is_failure", "retry_delay", "on_failure"])
def test_a_hook_that_hangs_is_cut_logged_and_ignored(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settlement, "HOOK_LIMIT_S", 0.05)
    before = signal.getsignal(signal.SIGALRM)

    def hook(*_: object) -> bool:
        time.sleep(60)
        return True

    mux = ServeMux()
    getattr(mux, name)(hook)

    assert judged(mux) is Verdict.RETRY
    assert "the hook took longer than 0.05 s" in caplog.text
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
