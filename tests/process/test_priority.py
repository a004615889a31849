"""A process that steps back behind others of the machine."""

import os
import subprocess
import sys

import pytest

from boilerd.process.priority import BEHIND, step_back
from support import python_path

TELL = """
import os, threading
from boilerd.process.priority import step_back
os.nice({})
step_back()
threading.Thread(target=lambda: print(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))).start()
"""
TELL_POLICY = """
import os, threading
from boilerd.process.priority import step_back
if {0} != os.sched_getscheduler(0):
    os.sched_setscheduler(0, {0}, os.sched_param(0))
step_back()
threading.Thread(target=lambda: print(os.sched_getscheduler(0))).start()
"""
is_linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no such policy")


@pytest.mark.parametrize(("before", "after"), [(0, BEHIND), (BEHIND + 5, BEHIND + 5)])
def test_it_and_its_threads_go_behind_others_and_one_that_is_further_behind_stays_there(
    before: int, after: int
) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}

    done = subprocess.run(
        [sys.executable, "-c", TELL.format(before)], env=env, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{after}\n"


@is_linux
@pytest.mark.parametrize(("before", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_it_and_its_threads_wait_for_the_turn_of_who_runs_and_one_that_waits_longer_does_so_still(
    before: str, after: str
) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}

    done = subprocess.run(
        [sys.executable, "-c", TELL_POLICY.format(getattr(os, before))],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout == f"{getattr(os, after)}\n"


def test_where_that_is_forbidden_it_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def forbid(*_: object) -> None:
        tried.append(True)
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)

    step_back()

    assert len(tried) == (2 if sys.platform == "linux" else 1)


def test_where_there_is_no_such_policy_it_goes_behind_others_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.delattr(os, "SCHED_BATCH", raising=False)
    monkeypatch.setattr(os, "setpriority", lambda *given: found.append(given))

    step_back()

    assert found == [(os.PRIO_PROCESS, 0, max(BEHIND, os.getpriority(os.PRIO_PROCESS, 0)))]
