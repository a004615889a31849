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


@pytest.mark.parametrize(("before", "after"), [(0, BEHIND), (BEHIND + 5, BEHIND + 5)])
def test_it_and_its_threads_go_behind_others_and_one_that_is_further_behind_stays_there(
    before: int, after: int
) -> None:
    env = {**os.environ, "PYTHONPATH": python_path()}

    done = subprocess.run(
        [sys.executable, "-c", TELL.format(before)], env=env, capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{after}\n"


def test_where_that_is_forbidden_it_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)

    step_back()
