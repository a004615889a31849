"""A run of the tests that is killed leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import undertaker
from support import TESTS, is_running, wait_until

#: A run that starts one program in a session of its own, as tests do with tmux and with a systemd.
RUN = """
import subprocess, sys, undertaker
undertaker.watch_over_this_run()
print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, flush=True)
sys.stdin.read()
"""


def test_what_a_run_has_started_ends_with_it_though_nobody_could_clean_up() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN], env=os.environ | {"PYTHONPATH": str(TESTS)}, stdin=-1, stdout=-1, text=True
    ) as run:
        assert run.stdout
        started = int(run.stdout.readline())
        assert f"{undertaker.MARK}={run.pid}" in Path(f"/proc/{started}/environ").read_text().split("\0")

        run.kill()

        wait_until(lambda: not is_running(started), "the program has ended")
