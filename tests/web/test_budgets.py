"""The script that measures the dashboard against its budgets measures each of them; figures say nothing here."""

import subprocess
import sys

from pages import ROOT


def test_the_script_that_measures_the_budgets_opens_every_page_and_tells_each_budget() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "web_budgets"), "--percent", "0.1", "--times", "1"]
    times = ["--people", "2", "--pairs", "1", "--seconds", "1"]

    ran = subprocess.run([*command, *times], capture_output=True, text=True, timeout=120, check=False)

    pages, _, budgets = ran.stdout.partition("\n\n")
    assert "/tasks?q=nowhere" in pages, ran.stderr
    assert pages.count("\n") > 50
    assert budgets.count("\n| ") > 15
