"""The scheduler: what Redis refuses to one of its duties, and outages, cost tasks nothing."""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Failure, batch_place
from boilerd.cli.rpc_client import read_status
from boilerd.process.identity import birthmark
from boilerd.process.scoreboard import KillReason, Scoreboard
from boilerd.scheduler import heartbeat, recovery, scheduler
from boilerd.scheduler.heartbeat import HEARTBEAT_S, Heartbeater
from boilerd.scheduler.periodic import Periodic
from boilerd.scheduler.recovery import GRACE_S, Recoverer
from boilerd.scheduler.scheduler import Duty, Scheduler
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.retry import Decision, RetryPolicy, Verdict
from boilerd.worker.kept_outcomes import KeptOutcomes
from boilerd.worker.settlement import Rules
from builders import WORKER, Clock
from support import StartDaemon, StartValkey, expire_leases, wait_until


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def rules() -> Rules:
    return Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)


@pytest.fixture
def kept(directory: Path) -> KeptOutcomes:
    return KeptOutcomes(directory / "outcomes", "broker")


@pytest.fixture
def made(broker: Broker, scoreboard: Scoreboard, rules: Rules, kept: KeptOutcomes) -> Scheduler:
    """A scheduler of one worker, whose duties the test does by itself."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    made = Scheduler(
        broker, scoreboard=scoreboard, worker_names=[WORKER], queues=["default"], rules=rules, periodic=Periodic([]),
        limits={}, kept=kept,
    )  # fmt: skip
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recoverer(broker: Broker, scoreboard: Scoreboard, rules: Rules, clock: Clock, kept: KeptOutcomes) -> Recoverer:
    return Recoverer(
        broker, scoreboard=scoreboard, worker_names=[WORKER], queues=["default"], rules=rules, kept=kept, clock=clock
    )  # fmt: skip


@pytest.fixture
def heartbeater(broker: Broker, scoreboard: Scoreboard, recoverer: Recoverer) -> Heartbeater:
    return Heartbeater(broker, scoreboard, [WORKER], recoverer.start_grace)


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits to be killed."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    yield pid
    with suppress(ProcessLookupError, ChildProcessError):  # the test did it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.fault(40)
def test_a_duty_that_redis_refuses_keeps_the_scheduler_from_no_other(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey()
    cron = {"BOILERD_CRON": '[{"spec": "@every 1s", "type": "test:echo"}]'}
    daemon = start_daemon("--concurrency", "1", redis_url=server.url, env=cron).ready()
    socket = daemon.socket
    with Client.from_url(server.url) as client:
        task_id = client.enqueue("test:sleep", 60).id
        daemon.wait_for("task started", task_id=task_id)
        client.connection.config_set("maxmemory", 1)
        daemon.wait_for("broker refused, trying again", duty="tick")

        def lease_s() -> float:
            found: Any = client.connection.zrange(keys.wip("default"), 0, -1, withscores=True)
            return float(found[0][1])

        before_s = lease_s()
        wait_until(lambda: lease_s() > before_s, "its lease is renewed")
        assert len(daemon.lines("broker refused, trying again")) == 1
        wait_until(lambda: read_status(socket).info["is_broker_away"], "health is red")

        client.connection.config_set("maxmemory", 0)
        daemon.wait_for("broker accepts again", duty="tick")
        wait_until(lambda: not read_status(socket).info["is_broker_away"], "health is green again")
        wait_until(lambda: client.connection.llen(keys.queue("default")), "a periodic task is enqueued")


@pytest.mark.fault(41)
def test_leases_that_nobody_could_renew_are_not_taken_at_once(
    heartbeater: Heartbeater, recoverer: Recoverer, clock: Clock, client: Client, broker: Broker
) -> None:
    recoverer.recover()
    clock.ahead_s = GRACE_S
    client.enqueue("test:echo", task_id="a")
    broker.advance("other.run.0", ["default"])
    heartbeater.beat()
    expire_leases(client.connection, broker.expired)

    assert 0 < recoverer.recover() <= GRACE_S
    assert client.connection.hget(keys.job("a"), "status") == b"started"

    clock.ahead_s += GRACE_S
    recoverer.recover()
    assert client.connection.hget(keys.job("a"), "status") == b"scheduled"


@pytest.mark.fault(41)
def test_a_recoverer_that_was_kept_from_looking_takes_no_lease_at_once(
    recoverer: Recoverer, clock: Clock, client: Client, broker: Broker
) -> None:
    recoverer.recover()
    client.enqueue("test:echo", task_id="a")
    broker.advance("other.run.0", ["default"])
    expire_leases(client.connection, broker.expired)
    clock.ahead_s = 36  # as in an outage that began within its own round, before any heartbeat noticed it

    assert 0 < recoverer.recover() <= GRACE_S
    assert client.connection.hget(keys.job("a"), "status") == b"started"

    clock.ahead_s += GRACE_S
    recoverer.recover()
    assert client.connection.hget(keys.job("a"), "status") == b"scheduled"


@pytest.mark.fault(41)
def test_a_step_of_redis_clock_within_a_look_for_ended_leases_is_noticed(
    recoverer: Recoverer, clock: Clock, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue("test:echo", task_id="a")
    broker.advance("other.run.0", ["default"])
    recoverer.recover()
    clock.ahead_s = GRACE_S
    now, expired = broker.now, broker.expired
    steps: list[float] = []
    monkeypatch.setattr(broker, "now", lambda: now() + sum(steps))

    def step_and_find(queues: Sequence[str]) -> list[tuple[str, Claim]]:
        steps.append(60.0)
        return expire_leases(client.connection, lambda: expired(queues))

    monkeypatch.setattr(broker, "expired", step_and_find)

    recoverer.recover()

    assert client.connection.hget(keys.job("a"), "status") == b"started"


def test_many_lost_claims_do_not_keep_the_scheduler_from_its_other_duties(
    recoverer: Recoverer, clock: Clock, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in range(3):
        client.enqueue("test:echo")
        broker.advance(f"other.run.{row}", ["default"])
    monkeypatch.setattr(recovery, "LONGEST_STEP_S", -1.0)
    recoverer.recover()
    clock.ahead_s = GRACE_S
    expire_leases(client.connection, broker.expired)

    steps = [(recoverer.recover(), client.connection.zcard(keys.wip("default"))) for _ in range(4)]

    assert steps == [(0.0, 2), (0.0, 1), (0.0, 0), (HEARTBEAT_S, 0)]


@pytest.mark.fault(41)
def test_leases_that_ended_because_redis_clock_was_put_forward_are_not_taken_at_once(
    recoverer: Recoverer, clock: Clock, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue("test:echo", task_id="a")
    broker.advance("other.run.0", ["default"])
    recoverer.recover()
    clock.ahead_s = GRACE_S
    now = broker.now
    monkeypatch.setattr(broker, "now", lambda: now() + 60)
    expire_leases(client.connection, broker.expired)

    assert 0 < recoverer.recover() <= GRACE_S
    assert client.connection.hget(keys.job("a"), "status") == b"started"

    clock.ahead_s += GRACE_S
    recoverer.recover()
    assert client.connection.hget(keys.job("a"), "status") == b"scheduled"


def test_the_janitor_comes_again_at_once_while_much_is_left(
    made: Scheduler, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        client.enqueue("test:echo", task_id=f"t{number}")
        (claim,) = broker.advance(WORKER, ["default"]).claims
        broker.fail(WORKER, claim, Failure("no", "no", Decision(Verdict.ARCHIVE), 0))
    client.connection.zadd(keys.registry("failed", "default"), {f"t{number}": 1 for number in range(3)})
    monkeypatch.setattr("boilerd.broker.scheduler_calls.CHUNK", 2)
    monkeypatch.setattr(scheduler, "CHUNK", 2)

    assert [made._clean(), made._clean()] == [0.0, scheduler.CLEAN_EVERY_S]
    assert not client.connection.zcard(keys.registry("failed", "default"))


def test_an_alarm_makes_the_forwarder_look(made: Scheduler, client: Client) -> None:
    made._forwarder.due_s = math.inf

    client.enqueue("test:echo", process_in=1)
    made._await_alarm(5.0)

    assert made._forwarder.due_s <= time.monotonic()


@pytest.fixture
def overdue(
    heartbeater: Heartbeater, scoreboard: Scoreboard, child: int, client: Client, broker: Broker
) -> Heartbeater:
    """Its worker holds a batch of two tasks, long past their timeouts, and has begun none."""
    for number in range(40):
        client.enqueue("test:echo", task_id=f"t{number}", timeout=1)
    claims = broker.advance(WORKER, ["default"], limit=2).claims
    for claim in claims:
        client.connection.hset(keys.execution(f"{claim.task_id}:{claim.execution_id}"), "created_at", "1.0")
    scoreboard.put(0, child)
    scoreboard.open_batch(0, batch_place(claims[0].execution_id)[0], 2)
    return heartbeater


def begin_long_ago(scoreboard: Scoreboard) -> None:
    """A task of the batch began a minute ago."""
    scoreboard.begin(0)
    scoreboard._since_ms[0] -= 60_000


def is_killed(child: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.fault(15)
def test_only_the_attempt_that_runs_is_killed_for_its_timeout(
    overdue: Heartbeater, scoreboard: Scoreboard, child: int, caplog: pytest.LogCaptureFixture
) -> None:
    overdue.beat()
    assert "worker killed" not in caplog.text

    begin_long_ago(scoreboard)
    scoreboard.mark_busy(0, is_busy=True)
    overdue.beat()
    assert is_killed(child)


@pytest.mark.fault(41)
def test_an_attempt_is_killed_for_its_timeout_by_the_host_s_clock_and_not_by_redis_alone(
    overdue: Heartbeater, scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture
) -> None:
    scoreboard.begin(0)  # just now, although Redis's clock says that it is long past its timeout
    scoreboard.mark_busy(0, is_busy=True)

    due_in_s = overdue.beat()

    assert "worker killed" not in caplog.text
    assert due_in_s == HEARTBEAT_S


@pytest.mark.fault(15)
def test_nobody_is_killed_for_a_timeout_when_the_handler_has_returned_or_its_worker_died(
    overdue: Heartbeater,
    scoreboard: Scoreboard,
    child: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin_long_ago(scoreboard)  # the attempt's outcome could not be written yet

    overdue.beat()
    with scoreboard.running_hooks(0):  # the worker itself, or its successor
        overdue.beat()
    assert "worker killed" not in caplog.text

    monkeypatch.setattr(heartbeat, "KILL_IN_HOOKS_AFTER_S", 0.0)  # a hook that never returns to Python
    with scoreboard.running_hooks(0):
        overdue.beat()
    assert is_killed(child)


@pytest.mark.fault(8)
def test_what_a_dead_worker_held_is_left_to_its_supervisor_while_that_lives(
    recoverer: Recoverer, child: int, client: Client, broker: Broker
) -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    mark = birthmark(dead)
    os.waitpid(dead, 0)
    client.enqueue("test:echo", task_id="a")
    broker.register("other.run.0", ["default"], {"birthmark": mark, "supervisor": birthmark(child)})
    broker.advance("other.run.0", ["default"])

    recoverer.recover()
    assert client.connection.hget(keys.job("a"), "status") == b"started"

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    recoverer.recover()
    assert client.connection.hget(keys.job("a"), "status") == b"scheduled"
    assert not client.connection.scard(keys.WORKERS)


@pytest.mark.fault(20)
def test_orphans_keep_their_leases_while_they_drain(
    heartbeater: Heartbeater, scoreboard: Scoreboard, child: int, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", task_id="a")
    broker.advance(WORKER, ["default"])
    scoreboard.put(0, child)
    expire_leases(client.connection, broker.expired)
    killer = threading.Timer(0.2, os.kill, (child, signal.SIGKILL))
    reaper = threading.Thread(target=os.waitpid, args=(child, 0))
    killer.start()
    reaper.start()

    heartbeater.keep_leases_of_orphans()

    assert not broker.expired()
    reaper.join()


@pytest.mark.fault(35)
def test_a_worker_for_which_there_is_no_process_is_tried_again_until_there_is_one(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "crowded.py").write_text(
        "import errno\nfrom pathlib import Path\nfrom apps import mux\nfrom boilerd.supervision import children\n"
        "from supervisor.options import ServerOptions\nchildren.START_RETRIES, fork = 0, ServerOptions.fork\n"
        "def crowded(self):\n    if Path('full').exists():\n        raise OSError(errno.EAGAIN, 'no process')\n"
        "    return fork(self)\nServerOptions.fork = crowded\n"
    )
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "crowded:mux"}).ready()

    (directory / "full").touch()
    daemon.kill("worker:0")
    line = daemon.wait_for("process could not be started, trying again", 2)
    (directory / "full").unlink()

    assert line["error"].startswith("Too many processes in process table")
    daemon.wait_for("task completed", task_id=client.enqueue("test:echo").id)
    assert not daemon.lines("process crashed too often, trying again later")


@pytest.mark.fault(16)
def test_a_worker_that_crashes_by_itself_again_and_again_is_backed_off_and_given_up(
    start_daemon: StartDaemon, directory: Path
) -> None:
    (directory / "broken.py").write_text(
        "from boilerd import ServeMux\nfrom boilerd.worker import worker\nmux = ServeMux()\n"
        "worker.WorkLoop._serve = lambda self: 1 / 0\n"
    )
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "broken:mux"})

    assert daemon.wait_for("process crashed at start, trying again", 2)["tries"] == 2
    assert "ZeroDivisionError" in daemon.wait_for("process crashed")["traceback"]


@pytest.mark.fault(16)
def test_a_burst_ends_although_its_workers_were_given_up(start_daemon: StartDaemon, directory: Path) -> None:
    (directory / "broken.py").write_text(
        "from boilerd import ServeMux\nfrom boilerd.supervision import children\nfrom boilerd.worker import worker\n"
        "mux = ServeMux()\n"
        "worker.WorkLoop._serve = lambda self: 1 / 0\n"
        "children.START_RETRIES = 0\n"
    )
    daemon = start_daemon("--burst", "--concurrency", "1", directory=directory, env={"BOILERD_APP": "broken:mux"})

    assert daemon.wait() == 1

    assert daemon.lines("process crashed too often, giving up on it", child="worker:0")
    assert "all workers crashed too often" in daemon.errors()


def test_a_duty_that_fails_is_tried_again_and_keeps_the_scheduler_from_no_other(
    made: Scheduler, scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boilerd.scheduler")
    calls: list[int] = []

    def fail_twice() -> float:
        calls.append(1)
        return 1 / 0 if len(calls) < 3 else 60.0

    made._duties.insert(0, Duty("broken", fail_twice))
    for _ in range(3):
        for duty in made._duties:
            duty.due_s = 0.0
        made._perform_due()

    found = [(record.getMessage(), record.__dict__["duty"]) for record in caplog.records if "duty" in record.__dict__]
    assert found == [("duty failed, trying again", "broken"), ("duty succeeds again", "broken")]
    assert not scoreboard.is_broker_away


@pytest.fixture
def deaf() -> Iterator[int]:
    """A process that goes on whatever interrupts it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    yield pid
    with suppress(ProcessLookupError, ChildProcessError):  # the test did it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def running(scoreboard: Scoreboard, deaf: int, client: Client, broker: Broker) -> Claim:
    """The claim of a task that the deaf process runs."""
    client.enqueue("test:echo", task_id="t")
    (claim,) = broker.advance(WORKER, ["default"]).claims
    scoreboard.put(0, deaf)
    scoreboard.open_batch(0, batch_place(claim.execution_id)[0], 1)
    scoreboard.begin(0)
    scoreboard.mark_busy(0, is_busy=True)
    return claim


@pytest.mark.fault(12)
def test_a_handler_that_ignores_that_its_task_was_taken_away_is_killed(
    heartbeater: Heartbeater, scoreboard: Scoreboard, running: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = scoreboard.pid(0)
    heartbeater._broker.connection.zrem(keys.wip("default"), f"t:{running.execution_id}")
    heartbeater.beat()
    before = os.waitpid(deaf, os.WNOHANG)[0]

    monkeypatch.setattr(heartbeat, "KILL_TAKEN_AFTER_S", 0.0)
    heartbeater.beat()

    assert before == 0
    assert is_killed(deaf)
    assert scoreboard.last_kill(0)[0] is KillReason.TAKEN


@pytest.mark.usefixtures("running")
def test_a_cancelled_handler_may_take_its_time(
    heartbeater: Heartbeater, broker: Broker, deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "KILL_TAKEN_AFTER_S", 0.0)
    broker.mark_cancelled("t")

    for _ in range(3):
        heartbeater.beat()

    assert os.waitpid(deaf, os.WNOHANG) == (0, 0)
