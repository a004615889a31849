"""Tasks are claimed in batches while they are short; nothing waits behind a slow one."""

import itertools
import logging
import os
import select
import signal
import time
from collections import Counter

import pytest
import redis

from boilerd import Client
from boilerd.broker import broker as broker_module
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, batch_place
from boilerd.broker.connection import connect
from boilerd.errors import LeaseExpiredError, WorkerDiedError
from boilerd.process import batches
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.reclaimer import Reclaimer
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.prefetch import MOST, SLOW_S, Prefetch
from boilerd.worker.settlement import Rules
from builders import WORKER, enqueue, pending, task_ids
from support import RunningDaemon, StartDaemon, StartValkey, completed, expire_leases, wait_until


@pytest.fixture
def whole_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch may be as long as its queue."""
    monkeypatch.setattr(broker_module, "BATCH_PARTS", 1)


def workers(client: Client) -> list[str]:
    found: set[bytes] = client.connection.smembers(keys.WORKERS)  # type: ignore[assignment]
    return [key.decode().removeprefix(keys.worker("")) for key in found]


# --- How many


def test_a_worker_that_knows_nothing_claims_one_task() -> None:
    assert Prefetch().limit() == 1


@pytest.mark.parametrize(("duration_s", "limit"), [(0.0001, MOST), (0.0009, 9), (0.0039, 3), (0.009, 1), (60.0, 1)])
def test_as_many_are_claimed_as_are_expected_to_begin_within_eight_milliseconds(duration_s: float, limit: int) -> None:
    prefetch = Prefetch()
    for _ in range(100):
        prefetch.note(duration_s)

    assert prefetch.limit() == limit


def test_one_slow_task_ends_it_at_once_and_short_ones_bring_it_back() -> None:
    prefetch = Prefetch()
    for _ in range(100):
        prefetch.note(0.0001)

    prefetch.note(1.0)
    assert prefetch.limit() == 1
    needed = 0
    while prefetch.limit() == 1:
        prefetch.note(0.0001)
        needed += 1
    assert 5 < needed < 50


def test_a_batch_that_was_late_is_followed_by_a_single_task() -> None:
    prefetch = Prefetch()
    for _ in range(100):
        prefetch.note(0.0001)

    prefetch.note_late()
    assert prefetch.limit() == 1


def test_it_can_be_turned_off() -> None:
    prefetch = Prefetch(is_on=False)
    for _ in range(100):
        prefetch.note(0.0001)

    assert prefetch.limit() == 1


# --- Claiming


@pytest.mark.usefixtures("whole_queues")
def test_a_batch_is_in_the_order_of_its_queue_and_leaves_the_others(client: Client, broker: Broker) -> None:
    enqueue(client, *"abcde")
    enqueue(client, *"xyz", queue="low")

    assert task_ids(broker.advance(WORKER, ("critical", "default", "low"), limit=3).claims) == ["a", "b", "c"]
    assert pending(client.connection) == ["d", "e"]
    assert pending(client.connection, "low") == ["x", "y", "z"]


@pytest.mark.usefixtures("whole_queues")
def test_each_task_of_a_batch_is_active_in_the_words_of_rq(client: Client, broker: Broker) -> None:
    enqueue(client, *"abc")

    claims = broker.advance(WORKER, ("default",), limit=3).claims

    for place, claim in enumerate(claims):
        pair = f"{claim.task_id}:{claim.execution_id}"
        assert batch_place(claim.execution_id)[1] == place
        assert client.connection.hget(keys.job(claim.task_id), "status") == b"started"
        assert client.connection.hget(keys.execution(pair), "job_id") == claim.task_id.encode()
        assert client.connection.zscore(keys.wip("default"), pair)
    assert len({batch_place(claim.execution_id)[0] for claim in claims}) == 1


def test_a_short_queue_is_left_to_all_workers(client: Client, broker: Broker) -> None:
    enqueue(client, *(f"t{number}" for number in range(40)))

    assert len(broker.advance(WORKER, ("default",), limit=MOST).claims) == 3
    assert len(broker.advance("host.run.1", ("default",), limit=MOST).claims) == 3
    client.connection.ltrim(keys.queue("default"), 0, 14)
    assert len(broker.advance("host.run.2", ("default",), limit=MOST).claims) == 1


@pytest.mark.usefixtures("whole_queues")
def test_a_whole_batch_is_acknowledged_in_one_call(client: Client, broker: Broker) -> None:
    enqueue(client, *"abc")
    enqueue(client, "d", retention=60)
    claims = broker.advance(WORKER, ("default",), limit=4).claims

    before = client.connection.info("commandstats")["cmdstat_evalsha"]["calls"]
    answer = broker.advance(WORKER, (), [Completion(claim, b"1") for claim in claims])

    assert client.connection.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert (answer.lost, answer.holds_more) == ([], False)
    assert not client.connection.zcard(keys.wip("default"))
    assert not list(client.connection.scan_iter(f"{keys.RQ}:execution*"))
    assert [client.connection.exists(keys.job(task_id)) for task_id in "abcd"] == [0, 0, 0, 1]
    assert [completed(client.connection, f'"{task_id}"') for task_id in "abcd"] == [1, 1, 1, 1]
    assert sum(int(n) for key in client.connection.scan_iter(f"{keys.OWN}:stats:*")
               for n in client.connection.hvals(key)) == 4  # fmt: skip


@pytest.mark.usefixtures("whole_queues")
def test_a_lease_that_was_lost_costs_the_others_of_its_batch_nothing(client: Client, broker: Broker) -> None:
    enqueue(client, *"abc")
    claims = broker.advance(WORKER, ("default",), limit=3).claims
    client.connection.zrem(keys.wip("default"), f"b:{claims[1].execution_id}")

    answer = broker.advance(WORKER, (), [Completion(claim) for claim in claims])

    assert answer.lost == ["b"]
    assert [client.connection.exists(keys.job(task_id)) for task_id in "abc"] == [0, 1, 0]
    assert not client.connection.exists(keys.worker_executions(WORKER))


@pytest.mark.usefixtures("whole_queues")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_task_with_a_concurrency_key_is_claimed_alone_in_its_turn(client: Client, broker: Broker, place: int) -> None:
    for number, task_id in enumerate("abc"):
        enqueue(client, task_id, **({"concurrency_key": "k"} if number == place else {}))
    seen = []
    while claims := broker.advance(WORKER, ("default",), limit=16).claims:
        seen.append(task_ids(claims))
        broker.advance(WORKER, (), [Completion(claim) for claim in claims])

    assert list(itertools.chain(*seen)) == ["a", "b", "c"]
    assert ["abc"[place]] in seen


@pytest.mark.usefixtures("whole_queues")
def test_a_queue_with_a_limit_is_claimed_from_one_by_one(client: Client, broker: Broker) -> None:
    broker.set_limits({"default:max_active": 2})
    enqueue(client, *"abcd")

    assert task_ids(broker.advance(WORKER, ("default",), limit=16).claims) == ["a"]
    assert task_ids(broker.advance("host.run.1", ("default",), limit=16).claims) == ["b"]
    assert broker.advance("host.run.2", ("default",), limit=16).claims == []


@pytest.mark.usefixtures("whole_queues")
def test_an_id_without_a_record_in_the_middle_of_a_batch_is_found_in_its_turn(client: Client, broker: Broker) -> None:
    enqueue(client, *"abc")
    client.connection.delete(keys.job("b"))

    assert task_ids(broker.advance(WORKER, ("default",), limit=16).claims) == ["a"]
    (ghost,) = broker.advance("host.run.1", ("default",), limit=16).claims
    assert (ghost.task_id, ghost.is_missing) == ("b", True)
    assert task_ids(broker.advance("host.run.2", ("default",), limit=16).claims) == ["c"]


# --- Giving back


@pytest.mark.usefixtures("whole_queues")
@pytest.mark.parametrize("count", [3, 16])
def test_what_is_released_goes_back_to_the_head_in_its_order(client: Client, broker: Broker, count: int) -> None:
    names = [f"t{number}" for number in range(count)]
    enqueue(client, *names, "last")
    claims = broker.advance(WORKER, ("default",), limit=count).claims

    broker.release(WORKER, only=[claim.execution_id for claim in claims[1:]])

    assert pending(client.connection) == [*names[1:], "last"]
    assert task_ids(broker.held(WORKER)) == ["t0"]


@pytest.mark.usefixtures("whole_queues")
def test_a_task_of_which_nobody_knows_whether_it_began_is_not_counted_and_claimed_alone(
    client: Client, broker: Broker
) -> None:
    enqueue(client, *"abc", max_retries=0)
    broker.advance(WORKER, ("default",), limit=3)
    rules = Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)
    for worker, claim in expire_leases(client.connection, broker.expired):
        error = LeaseExpiredError("lease expired")
        rules.record_lost_attempt(broker, worker, claim, error, is_taken=True, is_doubtful=not claim.is_alone)
    broker.forward()

    assert sorted(pending(client.connection)) == ["a", "b", "c"]
    for row in range(3):
        (claim,) = broker.advance(f"host.run.{row + 1}", ("default",), limit=16).claims
        assert claim.is_alone
        assert claim.task is not None
        assert claim.task.attempt == 1


# --- The scoreboard


def test_the_board_tells_how_far_a_batch_is() -> None:
    scoreboard = Scoreboard()
    scoreboard.open_batch(3, 7, 2)
    assert (scoreboard.batch(3).number, scoreboard.batch(3).size) == (7, 2)
    assert (scoreboard.batch(3).finished, scoreboard.batch(3).is_running) == (0, False)
    assert scoreboard.begin(3)
    assert (scoreboard.batch(3).finished, scoreboard.batch(3).is_running) == (0, True)
    scoreboard.finish(3)
    assert (scoreboard.batch(3).finished, scoreboard.batch(3).is_running) == (1, False)


def test_a_worker_begins_nothing_of_a_batch_that_was_revoked_and_all_of_the_next() -> None:
    scoreboard = Scoreboard()
    scoreboard.open_batch(0, 7, 3)
    assert scoreboard.begin(0)
    assert (scoreboard.revoke(0, 7).finished, scoreboard.batch(0).is_running) == (0, True)
    scoreboard.finish(0)
    assert not scoreboard.begin(0)
    assert (scoreboard.batch(0).finished, scoreboard.batch(0).is_running) == (1, False)
    scoreboard.open_batch(0, 8, 3)
    assert scoreboard.begin(0)


def test_a_worker_that_begins_a_task_at_the_moment_of_a_revocation_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    scoreboard = Scoreboard()
    scoreboard.open_batch(0, 7, 3)
    let_settle = batches._let_writes_settle

    def arrive_late() -> None:
        # What the worker wrote before it read, and missed, the revocation: no other processor has seen it yet.
        scoreboard._progress[0] |= 1
        let_settle()

    monkeypatch.setattr(batches, "_let_writes_settle", arrive_late)

    assert scoreboard.revoke(0, 7).is_running


def test_the_first_batch_that_nobody_watches_wakes_whoever_is_to_watch_it() -> None:
    scoreboard = Scoreboard()

    def rings() -> list[bytes]:
        readable, _, _ = select.select([scoreboard.alarm_fds[0]], [], [], 0)
        return [os.read(fd, 4096) for fd in readable]

    scoreboard.open_batch(0, 7, 1)
    alone = rings()
    scoreboard.open_batch(0, 8, 3)
    unwatched = rings()
    scoreboard.watch_batches(is_watching=True)
    scoreboard.open_batch(1, 9, 3)
    watched = rings()

    assert [len(alone), len(unwatched), len(watched)] == [0, 1, 0]


@pytest.mark.parametrize("is_shortened", [False, True])
def test_a_batch_is_open_until_its_tasks_have_ended_or_went_back(is_shortened: bool) -> None:
    scoreboard = Scoreboard()
    scoreboard.open_batch(0, 7, 2)
    seen = [scoreboard.has_open_batch(0)]

    for _ in range(1 if is_shortened else 2):
        scoreboard.begin(0)
        seen.append(scoreboard.has_open_batch(0))
        scoreboard.finish(0)
    if is_shortened:
        scoreboard.shorten_batch(0)

    assert all(seen)
    assert not scoreboard.has_open_batch(0)
    assert scoreboard.batch(0).finished == len(seen) - 1


def test_a_timer_reaches_the_board_from_inside_of_code_that_never_returns_to_python() -> None:
    scoreboard = Scoreboard()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, lambda *_: None)
            signal.set_wakeup_fd(scoreboard.alarm_fds[1], warn_on_full_buffer=False)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            sum(range(10**10))
        finally:
            os._exit(1)
    try:
        assert select.select([scoreboard.alarm_fds[0]], [], [], 20)[0]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# --- The reclaimer


def open_on(scoreboard: Scoreboard, claims: list[Claim]) -> int:
    """Have the worker of row 0 begin the first of these; the number of the batch."""
    number, _ = batch_place(claims[0].execution_id)
    scoreboard.open_batch(0, number, len(claims))
    assert scoreboard.begin(0)
    return number


@pytest.mark.usefixtures("whole_queues")
def test_tasks_behind_a_slow_one_go_back_when_the_broker_answers_again(
    start_valkey: StartValkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_valkey()
    away = server.socket.with_name("away.sock")
    scoreboard = Scoreboard()
    with Client.from_url(server.url) as client, connect(server.url) as own:
        enqueue(client, *"ab")
        open_on(scoreboard, Broker(own).advance(WORKER, ("default",), limit=2).claims)
        wait_until(lambda: scoreboard.batch(0).running_ms > SLOW_S * 1000, "the first is slow")
        own.connection_pool.disconnect()
        server.socket.rename(away)

        # Of a scheduler that is new: the worker's timer rang before.
        Reclaimer(Broker(own), scoreboard, [WORKER]).start()
        wait_until(lambda: "tasks beside a slow one stay where they are" in caplog.text, "it was tried in vain")
        away.rename(server.socket)

        wait_until(lambda: pending(client.connection) == ["b"], "the second is back in its queue")


@pytest.mark.usefixtures("whole_queues")
def test_a_worker_that_went_on_to_its_next_batch_keeps_that(client: Client, connection: redis.Redis) -> None:
    scoreboard = Scoreboard()

    class Late(Broker):
        """Answers when the worker has gone on."""

        def held(self, worker: str) -> list[Claim]:
            open_on(
                scoreboard, self.advance(worker, ("default",), [Completion(claim) for claim in claims], limit=2).claims
            )
            return super().held(worker)

    broker = Late(connection)
    enqueue(client, *"abcd")
    claims = broker.advance(WORKER, ("default",), limit=2).claims
    number = open_on(scoreboard, claims)

    Reclaimer(broker, scoreboard, [WORKER]).end_batch(0, number)

    assert task_ids(Broker(connection).held(WORKER)) == ["c", "d"]
    assert not pending(connection)


def test_a_reclaimer_without_batches_sleeps_until_there_is_one(connection: redis.Redis) -> None:
    scoreboard = Scoreboard()
    looks: list[int] = []

    class Watched(Reclaimer):
        """Tells each of its looks."""

        def _look(self) -> bool:
            looks.append(1)
            return super()._look()

    Watched(Broker(connection), scoreboard, [WORKER]).start()
    wait_until(lambda: len(looks) == 2, "it has looked once more before it sleeps")
    began_s = time.monotonic()
    wait_until(lambda: time.monotonic() - began_s > 6 * SLOW_S, "it would have looked again")
    asleep = len(looks)
    scoreboard.open_batch(0, 7, 2)

    wait_until(lambda: len(looks) > 5, "it watches the batch")
    assert asleep == 2


# --- The daemon


def one_worker(start_daemon: StartDaemon, *flags: str) -> RunningDaemon:
    return start_daemon("--concurrency", "1", *flags).ready()


def test_short_tasks_take_far_less_than_a_round_trip_each(start_daemon: StartDaemon, client: Client) -> None:
    daemon, rounds = one_worker(start_daemon), itertools.count(1)

    def calls() -> int:
        client.connection.config_resetstat()
        client.enqueue_many([("test:echo", None)] * 2000)
        daemon.wait_for("task completed", 2000 * next(rounds))
        return int(client.connection.info("commandstats")["cmdstat_evalsha"]["calls"])

    # A task that another process keeps from the processor is a slow one.
    wait_until(lambda: calls() < 1500, "a round took few calls")


def test_without_prefetch_each_task_is_claimed_by_itself(start_daemon: StartDaemon, client: Client) -> None:
    daemon = one_worker(start_daemon, "--prefetch", "false")
    client.connection.config_resetstat()
    client.enqueue_many([("test:echo", None)] * 300)
    daemon.wait_for("task completed", 300)

    assert client.connection.info("commandstats")["cmdstat_evalsha"]["calls"] > 300


@pytest.mark.parametrize(("task_type", "payload"), [("test:sleep", 3), ("test:native", 4_000_000)])
def test_nothing_waits_behind_a_slow_task(
    start_daemon: StartDaemon, client: Client, task_type: str, payload: int
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    client.enqueue_many([*[("test:echo", None)] * 300, (task_type, payload), *[("test:echo", None)] * 300])

    daemon.wait_for("task completed", task_type=task_type)
    messages = [line["task_type"] for line in daemon.lines("task completed")]
    # The one that it ran just before may be logged after it; of those behind it none is.
    assert messages.index(task_type) == 600


@pytest.mark.parametrize(
    ("task_type", "payload"),
    [
        ("test:defuse", "alarm"),
        ("test:defuse", "wakeup fd"),
        ("test:defuse", "mask"),
        ("test:defuse-async", None),
    ],
)
def test_nothing_waits_behind_a_slow_task_whatever_that_does_to_its_process(
    start_daemon: StartDaemon, client: Client, task_type: str, payload: str | None
) -> None:
    daemon = start_daemon("--concurrency", "2", "--shutdown-timeout", "0.1").ready()

    client.enqueue_many([*[("test:echo", None)] * 300, (task_type, payload), *[("test:echo", None)] * 300])

    daemon.wait_for("task completed", 600)
    assert not daemon.lines("task completed", task_type=task_type)


@pytest.mark.parametrize("task_type", ["test:sleep", "test:native"])
def test_what_ended_before_a_slow_task_is_acknowledged_while_that_runs(
    start_daemon: StartDaemon, client: Client, task_type: str
) -> None:
    daemon = one_worker(start_daemon, "--shutdown-timeout", "0.1")
    client.enqueue_many([("test:echo", None)] * 300)
    daemon.wait_for("task completed", 300)
    daemon.signal(signal.SIGTSTP)
    daemon.wait_for("worker stopped accepting new tasks")
    client.enqueue_many([("test:echo", None)] * 300)
    locks = [client.enqueue("test:echo", number, unique=3600).id for number in range(8)]
    kept = client.enqueue("test:echo", "kept", retention=60).id
    locks += [client.enqueue("test:echo", number, unique=3600).id for number in range(8, 15)]
    client.enqueue(task_type, 60 if task_type == "test:sleep" else 2_000_000_000, task_id="slow")
    client.enqueue_many([("test:echo", None)] * 300)
    daemon.signal(signal.SIGCONT)
    daemon.wait_for("task started", task_id="slow")

    wait_until(lambda: client.connection.zcard(keys.wip("default")) == 1, "the others of its batch are acknowledged")
    assert [client.connection.exists(keys.job(task_id)) for task_id in locks] == [0] * 15
    assert client.enqueue("test:echo", 14, unique=3600).state == "pending"
    assert client.connection.hget(keys.job(kept), "status") == b"finished"
    assert client.connection.hget(keys.worker(next(iter(workers(client)))), "state") == b"busy"
    assert not daemon.lines("outcome dropped, the lease was lost")


def test_a_batch_that_ended_beside_a_slow_task_is_acknowledged_once(start_daemon: StartDaemon, client: Client) -> None:
    daemon = one_worker(start_daemon)
    work = [("test:sleep", 0.1) if number % 100 == 99 else ("test:echo", None) for number in range(1000)]
    client.enqueue_many(work)

    daemon.wait_for("task completed", 1000)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "all are acknowledged")
    (day,) = client.connection.scan_iter(f"{keys.OWN}:stats:default:*")
    assert client.connection.hgetall(day) == {b"processed": b"1000"}
    assert not daemon.lines("outcome dropped, the lease was lost")


def test_a_batch_is_begun_in_the_order_of_the_queue_whatever_was_given_back(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = one_worker(start_daemon)
    work = [("test:sleep", 0.03 if number % 50 == 49 else 0.0) for number in range(400)]
    order = [info.id for info in client.enqueue_many(work) if not isinstance(info, Exception)]

    daemon.wait_for("task completed", 400)
    assert [line["task_id"] for line in daemon.lines("task started")] == order


def test_a_critical_task_overtakes_a_full_low_queue(start_daemon: StartDaemon, client: Client) -> None:
    daemon = one_worker(start_daemon)
    client.enqueue_many([("test:sleep", 0.001)] * 3000, queue="low")
    daemon.wait_for("task completed", 300)

    before = len(daemon.lines("task started"))
    task_id = client.enqueue("test:echo", queue="critical").id
    daemon.wait_for("task completed", task_id=task_id)

    started = [line["task_id"] for line in daemon.lines("task started")]
    # Those that began while the test looked and enqueued; then ten milliseconds of tasks at most.
    assert started.index(task_id) - before < 1000
    assert len(started) < 3001


def test_a_drain_leaves_running_and_unstarted_tasks_at_the_head_of_their_queue(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = one_worker(start_daemon, "--shutdown-timeout", "0.3")
    client.enqueue_many([("test:echo", None)] * 200)
    client.enqueue("test:sleep", 60, task_id="slow")
    behind = [info.id for info in client.enqueue_many([("test:echo", None)] * 100) if not isinstance(info, Exception)]
    daemon.wait_for("task started", task_id="slow")

    assert daemon.stop() == 0
    assert pending(client.connection) == ["slow", *behind]
    assert not client.connection.zcard(keys.wip("default"))
    for task_id in ("slow", *behind):
        assert client.connection.hget(keys.job(task_id), "status") == b"queued"
        assert not client.connection.hexists(keys.job(task_id), "number_of_retries")


def test_quiet_in_the_middle_of_a_batch_gives_the_rest_back(start_daemon: StartDaemon, client: Client) -> None:
    daemon = one_worker(start_daemon)
    order = [i.id for i in client.enqueue_many([("test:sleep", 0.001)] * 1000) if not isinstance(i, Exception)]
    daemon.wait_for("task completed", 100)

    daemon.signal(signal.SIGTSTP)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "nothing is claimed")
    done = len(daemon.lines("task completed"))
    assert pending(client.connection) == order[done:]

    daemon.signal(signal.SIGCONT)
    daemon.wait_for("task completed", 1000)
    assert [line["task_id"] for line in daemon.lines("task started")] == order


def test_tasks_that_fail_in_a_batch_fail_alone(start_daemon: StartDaemon, client: Client) -> None:
    daemon = one_worker(start_daemon)
    work = [("test:fail" if number % 10 == 9 else "test:echo", None) for number in range(300)]
    client.enqueue_many(work, max_retries=0)

    daemon.wait_for("task archived", 30)
    daemon.wait_for("task completed", 270)
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "nothing is claimed")
    assert client.connection.zcard(keys.registry("failed", "default")) == 30
    assert set(Counter(line["task_id"] for line in daemon.lines("task started")).values()) == {1}


# --- Faults


@pytest.mark.fault(11)
def test_a_worker_killed_in_a_batch_costs_the_running_task_an_attempt_and_the_others_nothing(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = one_worker(start_daemon)
    work = [("test:echo", None)] * 250 + [("test:die", None)] + [("test:echo", None)] * 250
    order = [info.id for info in client.enqueue_many(work, max_retries=0) if not isinstance(info, Exception)]

    daemon.wait_for("task completed", 500)

    assert daemon.wait_for("task archived")["task_id"] == order[250]
    assert [line["task_id"] for line in daemon.lines("task started")] == order
    assert client.connection.zcard(keys.registry("failed", "default")) == 1
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "nothing is claimed")


@pytest.mark.fault(11)
@pytest.mark.usefixtures("whole_queues")
def test_of_a_batch_whose_worker_died_a_task_with_a_result_to_keep_is_never_completed_without_it(
    client: Client, broker: Broker
) -> None:
    enqueue(client, "a")
    enqueue(client, "b", retention=60)
    enqueue(client, *"cd")
    claims = broker.advance(WORKER, ("default",), limit=4).claims
    scoreboard = Scoreboard()
    scoreboard.open_batch(0, batch_place(claims[0].execution_id)[0], 4)
    for _ in range(2):
        scoreboard.begin(0)
        scoreboard.finish(0)
    scoreboard.begin(0)
    rules = Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler)

    rules.settle_dead_worker(broker, WORKER, scoreboard.batch(0), WorkerDiedError("worker died"))

    assert not client.connection.exists(keys.job("a"))
    attempts = [client.connection.hget(keys.job(task_id), "number_of_retries") for task_id in "bcd"]
    assert attempts == [b"1", b"1", None]
    assert client.connection.zcard(keys.registry("scheduled", "default")) == 2
    assert pending(client.connection) == ["d"]


@pytest.mark.fault(11)
def test_a_daemon_killed_in_a_batch_counts_nothing_and_finds_out_the_next_time(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = one_worker(start_daemon)
    client.enqueue_many([("test:echo", None)] * 200)
    client.enqueue("test:sleep", 60, task_id="slow")
    client.enqueue_many([("test:echo", None)] * 200)
    daemon.wait_for("task started", task_id="slow")
    for attempt in (1, 2):
        for pid in daemon.pids():
            os.kill(pid, signal.SIGKILL)
        daemon.wait()
        daemon = one_worker(start_daemon)
        assert daemon.wait_for("task started", task_id="slow")["attempt"] == attempt


@pytest.mark.fault(11)
def test_tasks_behind_a_slow_one_go_back_also_when_the_scheduler_was_killed_meanwhile(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    daemon.kill("scheduler", signal.SIGSTOP)
    client.enqueue_many([*[("test:echo", None)] * 300, ("test:sleep", 4), *[("test:echo", None)] * 300])
    daemon.wait_for("task started", task_type="test:sleep")
    daemon.kill("scheduler")

    daemon.wait_for("task completed", task_type="test:sleep")
    assert [line["task_type"] for line in daemon.lines("task completed")].index("test:sleep") == 600


def test_the_clock_of_the_board_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scoreboard = Scoreboard()
    ticks = iter([(2**31 - 5) * 1_000_000, (2**31 + 5) * 1_000_000])
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(ticks))
    scoreboard.open_batch(0, 1, 1)
    scoreboard.begin(0)
    assert scoreboard.batch(0).running_ms == 10
