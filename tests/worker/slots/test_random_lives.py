"""Random lives of tasks over three worker processes with five slots each, on a real server.

They claim tasks ahead wherever they may, however long tasks take. Steps end tasks, let them fail, cancel them, take
their leases, block a loop past a limit, and end workers in all ways. Handlers note their runs outside of Redis.
Afterwards every task must have ended once, and no task may have run twice at once, or again, without a fault between
the two. The scheduler's duties are done between the steps.

`HYPOTHESIS_PROFILE=long` looks for minutes instead of seconds.
"""

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from boilerd import Client, ServeMux, Task, TaskNotFoundError
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import text
from boilerd.broker.constants import LEASE_OFFSET_S
from boilerd.process.exit_status import STOPPED_BY_DAEMON
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler import recovery
from boilerd.scheduler.recovery import Recoverer
from boilerd.scheduler.slotted_heartbeat import SlottedHeartbeater
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.limits import Limits
from boilerd.worker.prefetch import MOST
from boilerd.worker.settlement import Rules
from boilerd.worker.slots import ahead
from builders import make_due, worker_name
from slotted import ForkedWorker, StartWorker
from support import wait_until

ROWS, SLOTS, SHARE = range(3), 5, 2
#: The supervisor kills a worker that has not ended in time; later here, as machines may be busy.
KILL_S = 10.0
POLICY = RetryPolicy(base=0.01, max_delay=0.01, max_retries=1000)
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
#: A task whose claim a fault hit may begin so long after it; later where other tests have the processors.
BEGUN_S = 1.0 if IS_LONG else 5.0
SETTINGS = settings(
    max_examples=200 if IS_LONG else 5,
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate],  # another run of the same steps is another life
    suppress_health_check=list(HealthCheck),
)
FAULTS = ("lose", "term", "kill", "outage")
steps = st.lists(
    st.tuples(
        st.sampled_from(["enqueue"] * 5 + ["end"] * 3 + ["fail"] * 2 + ["cancel", "strike", *FAULTS]),
        st.integers(0, 99),
    ),
    min_size=10,
    max_size=60 if IS_LONG else 30,
)


@dataclass
class Run:
    """One run of a handler; `end_s` is None while it runs, and where its process was killed."""

    task_id: str
    pid: str
    start_s: float
    end_s: float | None = None
    result: str = "killed"


class Notes:
    """What handlers do next, and what they have done; files that all processes share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "notes"
        self._file.touch()

    def note(self, task: Task, what: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{task.id} {what} {os.getpid()} {time.monotonic():.6f}\n")

    def order(self, task_id: str, what: str) -> None:
        whole = self._directory / "new"
        whole.write_text(what)
        whole.rename(self._directory / f"{task_id}.order")

    @contextmanager
    def around(self, task: Task) -> Iterator[None]:
        """Note how a run begins and ends."""
        self.note(task, "start")
        try:
            yield
        except Exception:
            self.note(task, "raise")
            raise
        except BaseException:
            self.note(task, "raise" if task.type == "test:block" else "cut")
            raise
        self.note(task, "end")

    def is_to_end(self, task: Task) -> bool:
        """Whether the task was told to end; raises if it was told to fail."""
        path = self._directory / f"{task.id}.order"
        with suppress(FileNotFoundError):
            what = path.read_text()
            path.unlink()
            if what == "fail":
                raise OSError("as it was told")
            return True
        return (self._directory / "open").exists()

    def end_all(self) -> None:
        (self._directory / "open").touch()

    def runs(self) -> dict[str, list[Run]]:
        """Of each task, in their order."""
        found: dict[str, list[Run]] = defaultdict(list)
        for line in self._file.read_text().splitlines():
            task_id, what, pid, at_s = line.split()
            if what == "start":
                found[task_id].append(Run(task_id, pid, float(at_s)))
            else:
                run = next(run for run in reversed(found[task_id]) if run.pid == pid and run.end_s is None)
                run.end_s, run.result = float(at_s), what
        return found


def application(notes: Notes) -> ServeMux:
    """Tasks that run until they are told to end, on the loop, in threads, or in the loop's way."""
    mux = ServeMux()

    @mux.handle("test:async")
    async def run_async(task: Task) -> None:
        with notes.around(task):
            while not notes.is_to_end(task):  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(0.005)

    @mux.handle("test:plain")
    def run_plain(task: Task) -> None:
        with notes.around(task):
            while not notes.is_to_end(task):
                time.sleep(0.005)

    @mux.handle("test:block")
    async def run_block(task: Task) -> None:
        with notes.around(task):
            while task.attempt == 1:
                time.sleep(0.005)  # noqa: ASYNC251 - it is what is tested

    return mux


class Life:
    """Three workers, a scheduler's duties, and all that was done to them."""

    def __init__(
        self,
        connection: redis.Redis,
        scoreboard: Scoreboard,
        directory: Path,
        start: Callable[[int], ForkedWorker],
        notes: Notes,
    ) -> None:
        self.connection = connection
        self.notes = notes
        self.enqueued: list[str] = []
        self.shared: set[str] = set()
        self.cancelled: set[str] = set()
        self.lost: set[str] = set()
        #: From when to when something was broken.
        self.faults: list[tuple[float, float]] = []
        self._start = start
        self._scoreboard = scoreboard
        self._client = Client(connection)
        names = [worker_name(row) for row in ROWS]
        broker = Broker(connection)
        self._heartbeater = SlottedHeartbeater(broker, scoreboard, names)
        rules = Rules.of(ServeMux(), POLICY, lambda handler: handler)
        kept = KeptOutcomes(directory / "kept", "broker")
        self._recoverer = Recoverer(
            broker, scoreboard=scoreboard, worker_names=names, queues=["default"], rules=rules, kept=kept
        )
        self.workers = {row: self._begin(row) for row in ROWS}

    def _begin(self, row: int) -> ForkedWorker:
        self._scoreboard.note_slots(row, SLOTS)
        worker = self._start(row)
        self._scoreboard.put(row, worker.pid)
        return worker

    def do(self, action: str, pick: int) -> None:
        """One step; then the scheduler's part."""
        began_s = time.monotonic()
        getattr(self, action)(pick)
        if action in FAULTS:
            self.faults.append((began_s, time.monotonic() + BEGUN_S))
        self.duties()
        for row in ROWS:
            assert self.connection.scard(keys.worker_executions(worker_name(row))) <= SLOTS + MOST

    def duties(self) -> None:
        make_due(self.connection)
        self._heartbeater.beat()
        while self._heartbeater._round is not None:
            self._heartbeater.beat()
        self._recoverer.recover()

    def _running(self, pick: int) -> list[str]:
        """The task of this pick among those that run; none where nothing does."""
        running = sorted(runs[-1].task_id for runs in self.notes.runs().values() if runs[-1].end_s is None)
        return running[pick % len(running) :][:1] if running else []

    def enqueue(self, pick: int) -> None:
        for _ in range(1 + pick % 4):
            task_id = f"t{len(self.enqueued)}"
            task_type = "test:plain" if pick % 3 else "test:async"
            options: dict[str, Any] = {"concurrency_key": "key", "concurrency_limit": SHARE} if pick % 5 == 0 else {}
            self._client.enqueue(task_type, task_id=task_id, retention=600, **options)
            self.enqueued.append(task_id)
            self.shared |= {task_id} if options else set()

    def strike(self, _: int) -> None:
        task_id = f"t{len(self.enqueued)}"
        self._client.enqueue("test:block", task_id=task_id, retention=600, timeout=1)
        self.enqueued.append(task_id)

    def end(self, pick: int) -> None:
        for task_id in self._running(pick):
            self.notes.order(task_id, "end")

    def fail(self, pick: int) -> None:
        for task_id in self._running(pick):
            self.notes.order(task_id, "fail")

    def cancel(self, pick: int) -> None:
        if self.enqueued:
            task_id = self.enqueued[pick % len(self.enqueued)]
            self.cancelled.add(task_id)
            try:
                self._client.cancel(task_id)
            except TaskNotFoundError:
                assert task_id in self.cancelled

    def lose(self, pick: int) -> None:
        """Let leases end as those of a host that was cut off; whoever comes next takes the tasks."""
        held: list[Any] = self.connection.zrange(keys.wip("default"), 0, -1)
        for pair in held[pick % 3 :: 3]:
            self.lost.add(text(pair).partition(":")[0])
            self.connection.zadd(keys.wip("default"), {pair: LEASE_OFFSET_S + 1}, xx=True)
        self._recoverer.recover()

    def term(self, pick: int) -> None:
        self._replace(pick % 3, signal.SIGTERM)

    def kill(self, pick: int) -> None:
        self._replace(pick % 3, signal.SIGKILL)

    def _replace(self, row: int, signum: signal.Signals) -> None:
        if signum == signal.SIGTERM:
            self._scoreboard.dismiss(row)
        self.workers[row].signal(signum)
        status = self._wait_or_kill(self.workers[row])
        self._scoreboard.clear(row, STOPPED_BY_DAEMON if signum == signal.SIGTERM else status)
        self.workers[row] = self._begin(row)

    def _wait_or_kill(self, worker: ForkedWorker) -> int:
        """Its exit status; as the supervisor, end one that does not end by itself."""
        ends_s = time.monotonic() + KILL_S
        wait_until(lambda: worker.has_ended() or time.monotonic() > ends_s, "it has ended or is late")
        worker.close()
        return worker.wait()

    def outage(self, _: int) -> None:
        self.connection.client_kill_filter(_type="normal", skipme=True)
        self.connection.client_pause(100)

    def settle(self) -> None:
        """Let all tasks end."""
        self.notes.end_all()
        wait_until(self._is_settled, "all tasks have ended", deadline_s=60)

    def _is_settled(self) -> bool:
        self.duties()
        waiting = keys.queue("default"), keys.wip("default"), keys.registry("scheduled", "default")
        held = [keys.worker_executions(worker_name(row)) for row in ROWS]  # also what they have lost, until they know
        return not self.connection.exists(*waiting, *held, keys.aside("default"))

    def close(self) -> None:
        for row, worker in self.workers.items():
            worker.close()
            self._scoreboard.clear(row, 0)


def members(connection: redis.Redis, kind: str) -> set[str]:
    found: list[Any] = connection.zrange(keys.registry(kind, "default"), 0, -1)
    return {text(task_id) for task_id in found}


def most_at_once(runs: list[Run]) -> int:
    """Of those whose ends are known."""
    changes = sorted(change for run in runs if run.end_s for change in ((run.start_s, 1), (run.end_s, -1)))
    count = most = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most


def check(life: Life) -> None:
    """Compare what came out with what went in."""
    runs = life.notes.runs()
    completed, archived = members(life.connection, "finished"), members(life.connection, "failed")
    assert not completed & archived
    assert archived <= life.cancelled
    assert set(life.enqueued) - life.cancelled <= completed
    assert all(any(run.result == "end" for run in runs[task_id]) for task_id in completed)
    for found in runs.values():
        for before, after in pairwise(found):
            if before.result != "raise" or before.end_s is None or before.end_s > after.start_s:
                assert any(began <= after.start_s and before.start_s <= ended for began, ended in life.faults), found
    everything = [run for found in runs.values() for run in found]
    assert all(
        most_at_once([run for run in everything if run.pid == pid]) <= SLOTS for pid in {r.pid for r in everything}
    )
    assert most_at_once([run for run in everything if run.task_id in life.shared - life.lost]) <= SHARE
    assert not life.connection.exists(f"{keys.OWN}:running:key", f"{keys.OWN}:waiting:key")


@pytest.mark.long(15)
@pytest.mark.timeout(3600 if IS_LONG else 240)
@given(steps=steps)
@SETTINGS
def test_whatever_happens_to_workers_with_slots_every_task_ends_once(
    steps: list[tuple[str, int]],
    *,
    start_worker: StartWorker,
    connection: redis.Redis,
    scoreboard: Scoreboard,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    patches = pytest.MonkeyPatch()
    patches.setattr(recovery, "GRACE_S", 0.0)
    for name, value in (("EXPECTED_S", 3600.0), ("HOLD_S", 3600.0), ("REST_S", 0.0)):
        patches.setattr(ahead, name, value)  # what is held goes back as ever: the keeper's own limit stays
    connection.flushall()
    directory = tmp_path_factory.mktemp("life")
    notes = Notes(directory)
    mux = application(notes)

    def start(row: int) -> ForkedWorker:
        return start_worker(mux, slots=SLOTS, row=row, parts=3, policy=POLICY, limits=Limits(drain_s=0.3))

    life = Life(connection, scoreboard, directory, start, notes)
    try:
        for action, pick in steps:
            life.do(action, pick)
        life.settle()
        check(life)
    finally:
        life.close()
        patches.undo()
