"""What the dashboard costs; the script that measures it tells each budget, and its figures say nothing here."""

import functools
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from asked import asked, begin, forget
from boilerd.broker.connection import connect
from boilerd.web import shared as shared_module
from boilerd.web.shared import Shared
from builders import Clock
from pages import ROOT
from support import Valkey, free_ports


@pytest.mark.long(8)
@pytest.mark.timeout(300)
def test_the_script_that_measures_the_budgets_has_an_example_for_each_page_and_tells_each_budget() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "web_budgets"), "--percent", "0.1", "--times", "1"]
    few = ["--step", "12", "--pictures", "1", "--people", "2", "--rounds", "1", "--turn", "0.2"]
    short = ["--settle", "0", "--seconds", "1"]

    ran = subprocess.run([*command, *few, *short], capture_output=True, text=True, timeout=280, check=False)

    pages, _, budgets = ran.stdout.partition("\n\n")
    assert len(pages.splitlines()) > 5, ran.stderr
    assert "left out" not in ran.stderr
    assert len(budgets.splitlines()) > 15


def test_what_a_script_calls_does_not_count_as_sent_and_is_in_its_time(tmp_path: Path) -> None:
    (port,) = free_ports()
    server = Valkey(tmp_path, "--port", str(port)).start()
    try:
        with connect(f"redis://127.0.0.1:{port}") as client, connect(server.url) as watching:
            client.ping()
            begin(watching)
            forget(watching)

            client.get("a")
            client.eval("for i = 1, 1000 do redis.call('GET', 'a') end", 0)
            client.get("a")

            found = asked(watching, 1e9)
            whole_ms = watching.info("commandstats")["cmdstat_eval"]["usec"] / 1000
    finally:
        server.stop()
    assert found["commands"] == 3
    assert found["redis_ms"] >= whole_ms


def test_what_takes_long_to_read_is_shared_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = Clock(), Clock()
    monkeypatch.setattr(shared_module, "time", SimpleNamespace(monotonic=clock, thread_time=used))
    shared, reads = Shared(), list[int]()

    def read() -> int:
        used.ahead_s += 0.1
        reads.append(1)
        return len(reads)

    assert [shared.get("a", 10.0, read, 300.0), shared.get("b", 10.0, read)] == [1, 2]
    clock.ahead_s += 20
    assert [shared.get("a", 10.0, read, 300.0), shared.get("b", 10.0, read)] == [1, 3]
    clock.ahead_s += 20
    assert shared.get("a", 10.0, read, 300.0) == 4


def test_what_cannot_be_read_takes_no_place_of_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "MOST_KEPT", 2)
    shared, reads = Shared(), list[int]()
    shared.get("a", 60.0, lambda: reads.append(1))

    for key in "bcd":
        with pytest.raises(ValueError, match="no such queue"):
            shared.get(key, 60.0, functools.partial(_refuse, "no such queue"))

    shared.get("a", 60.0, lambda: reads.append(2))
    assert reads == [1]


def _refuse(why: str) -> None:
    raise ValueError(why)


def test_what_is_not_fresh_any_more_leaves_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(shared_module, "time", SimpleNamespace(monotonic=clock, thread_time=lambda: 0.0))
    shared = Shared()
    is_old = [weakref.ref(shared.get(key, 10.0, set[int])) for key in "ab"]
    is_fresh = weakref.ref(shared.get("c", 60.0, set[int]))
    clock.ahead_s += 20

    kept_while_read = [shared.get("a", 10.0, lambda: [each() for each in is_old]) for _ in range(2)]

    assert kept_while_read == [[None, None], [None, None]]
    assert kept_while_read[0] is kept_while_read[1]
    assert is_fresh() is not None
