"""The last words of a worker that died: written by its successor, or by whoever finds it dead with its daemon."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import constants, keys
from boilerd.broker.broker import Broker
from boilerd.broker.deaths import place_of
from boilerd.broker.last_words import LastWords
from boilerd.process import out_of_memory
from boilerd.process.exit_status import DONE, RECYCLED, STOPPED_BY_DAEMON
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.worker.succession import OUT_OF_MEMORY, tell_last_words, tell_of_lost
from builders import WORKER, claim, enqueue

#: The successor's entry in RQ's registry.
ENTRY: Any = SimpleNamespace(name="host.run.3", pool="mail")


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def die(scoreboard: Scoreboard, status: int) -> None:
    """A worker in row 3, of 80 MiB at its last heartbeat, ends, and another one begins."""
    scoreboard.put(3, 4711)
    scoreboard.note_resident(3, 80 << 20)
    scoreboard.clear(3, status)
    scoreboard.put(3, 4712)


def test_a_successor_tells_how_its_predecessor_ended_with_which_task_and_memory(
    broker: Broker, client: Client, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    enqueue(client, "order-7")
    held = [claim(broker)]
    die(scoreboard, -signal.SIGSEGV)

    tell_last_words(broker, scoreboard, 3, ENTRY, held)

    (death,) = inspector.deaths()
    assert (death.worker, death.pool, death.pid, death.exit) == ("host.run.3", "mail", 4711, "signal 11 (SIGSEGV)")
    assert (death.task_id, death.task_type, death.tasks) == ("order-7", "test:echo", 1)
    assert (death.rss_bytes, death.lived_s, death.because) == (80 << 20, 0, "")
    assert place_of(death.worker) == ("host", "3")


@pytest.mark.parametrize("status", [RECYCLED, DONE, STOPPED_BY_DAEMON])
def test_a_worker_that_was_to_end_did_not_die(
    status: int, broker: Broker, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    die(scoreboard, status)

    tell_last_words(broker, scoreboard, 3, ENTRY, ())

    assert inspector.deaths() == []


def test_the_first_worker_of_a_row_has_no_predecessor(
    broker: Broker, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    scoreboard.put(3, 4711)

    tell_last_words(broker, scoreboard, 3, ENTRY, ())

    assert inspector.deaths() == []


def test_a_worker_that_the_daemon_killed_has_the_reason(
    broker: Broker, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    die(scoreboard, -signal.SIGKILL)
    scoreboard.note_kill(3, KillReason.LIMIT, limit_s=5)

    tell_last_words(broker, scoreboard, 3, ENTRY, ())

    (death,) = inspector.deaths()
    assert death.why == "signal 9 (SIGKILL), its task ignored its limit of 5 s, from timeout or deadline"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's counts, in a file; it is the one of the machine, as no control group has its own."""
    counts = tmp_path / "vmstat"
    counts.write_text("nr_free_pages 7\noom_kill 4\n")
    monkeypatch.setattr(out_of_memory, "_counts", lambda: counts)
    return counts


@pytest.mark.parametrize(("status", "counted", "because"), [
    (-signal.SIGKILL, 5, OUT_OF_MEMORY), (-signal.SIGKILL, 4, ""), (-signal.SIGSEGV, 5, ""),
])  # fmt: skip
@pytest.mark.usefixtures("kernel")
def test_a_kill_is_for_memory_only_where_the_kernels_count_has_moved(
    status: int, counted: int, because: str, broker: Broker, scoreboard: Scoreboard
) -> None:
    for _ in range(2):
        scoreboard.note_oom_kills(out_of_memory.oom_kills() or 0)
    out_of_memory._counts().write_text(f"nr_free_pages 7\noom_kill {counted}\n")  # type: ignore[union-attr]
    scoreboard.note_oom_kills(counted)  # a heartbeat between the death and the successor
    die(scoreboard, status)

    tell_last_words(broker, scoreboard, 3, ENTRY, ())

    assert [death.because for death in Inspector(broker.connection).deaths()] == [because]


@pytest.mark.usefixtures("kernel")
def test_where_nobody_has_counted_nothing_is_said_of_memory(
    broker: Broker, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    die(scoreboard, -signal.SIGKILL)

    tell_last_words(broker, scoreboard, 3, ENTRY, ())

    assert [death.because for death in inspector.deaths()] == [""]


def test_the_count_of_the_own_control_group_goes_before_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(out_of_memory, "MACHINE", tmp_path / "vmstat")
    place = next(
        (line[4:] for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines() if line.startswith("0::/")),
        None,
    )
    (tmp_path / "vmstat").write_text("oom_kill 9\n")
    if place is not None:
        group = tmp_path / place
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    out_of_memory._counts.cache_clear()

    found = out_of_memory.oom_kills()

    out_of_memory._counts.cache_clear()
    assert found == (9 if place is None else 2)


def test_a_worker_that_died_with_its_daemon_is_told_by_its_record(
    broker: Broker, client: Client, connection: redis.Redis, inspector: Inspector
) -> None:
    enqueue(client, "order-7")
    held = [claim(broker)]
    connection.hset(keys.worker(WORKER), mapping={"pool": "mail", "pid": "12", "rss": "4096"})

    tell_of_lost(broker, WORKER, held)

    (death,) = inspector.deaths()
    assert (death.pool, death.pid, death.rss_bytes, death.lived_s) == ("mail", 12, 4096, None)
    assert (death.why, death.task_id) == ("it died together with its daemon", "order-7")


def test_only_the_last_deaths_of_a_day_are_kept(broker: Broker, connection: redis.Redis, inspector: Inspector) -> None:
    for number in range(constants.MOST_DEATHS + 5):
        broker.note_death(LastWords(f"host.run.{number}").encoded())
    connection.lset(keys.DEATHS, 1, '{"at":1.0,"worker":"of long ago"}')
    connection.lset(keys.DEATHS, 2, "no JSON")

    found = inspector.deaths()

    assert connection.llen(keys.DEATHS) == constants.MOST_DEATHS
    assert 0 < connection.ttl(keys.DEATHS) <= constants.DEATHS_TTL_S
    assert len(found) == constants.MOST_DEATHS - 2
    assert found[0].worker == f"host.run.{constants.MOST_DEATHS + 4}"


def test_a_worker_begins_also_where_its_predecessor_cannot_be_told_of(
    broker: Broker, connection: redis.Redis, scoreboard: Scoreboard, inspector: Inspector
) -> None:
    die(scoreboard, -signal.SIGKILL)
    connection.config_set("min-replicas-to-write", 1)

    try:
        tell_last_words(broker, scoreboard, 3, ENTRY, ())
    finally:
        connection.config_set("min-replicas-to-write", 0)

    assert inspector.deaths() == []
