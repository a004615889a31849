"""Workers with several slots: how they claim, give back and renew many claims at once."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from rq.executions import Execution
from rq.registry import StartedJobRegistry
from rq.worker import BaseWorker

from boilerd import BrokerUnavailableError, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Advance, Claim, Completion, Renewal
from boilerd.broker.connection import connect
from boilerd.broker.constants import LEASE_OFFSET_S, LEASE_S
from boilerd.tasks.retry import Verdict
from builders import WORKER, claim_batch, fail, pending, rq_job, store, task_ids, worker_name
from proxy import Proxy
from support import Valkey, wait_until

LIFE, OTHER_LIFE = "0f1e2d3c", "ffffffff"


@pytest.fixture
def serving(broker: Broker) -> Broker:
    """A broker with two registered workers of many slots."""
    for row in (0, 1):
        register(broker, row)
    return broker


def register(broker: Broker, row: int = 0, life: str = LIFE, turn: int = 0) -> None:
    broker.register(worker_name(row), ["default"], {"life": f"{life}{row}", "turn": turn, "slots": 100, "pool": "io"})


def serve(broker: Broker, turn: int, *queues: str, row: int = 0, life: str = LIFE, **options: object) -> Advance:
    given = {"limit": 64, "parts": 1} | options
    return broker.serve(worker_name(row), f"{life}{row}", turn, queues or ("default",), **given)  # type: ignore[arg-type]


def store_all(broker: Broker, *task_ids: str, **options: object) -> None:
    for task_id in task_ids:
        store(broker, task_id, **options)


def held_by(broker: Broker, row: int = 0) -> set[str]:
    return {claim.task_id for claim in broker.held(worker_name(row))}


# Claim.


def test_a_worker_that_holds_claims_gets_more(serving: Broker) -> None:
    store_all(serving, *"abc")

    first = serve(serving, 1, limit=2).claims
    second = serve(serving, 2, limit=2).claims

    assert (task_ids(first), task_ids(second)) == (["a", "b"], ["c"])
    assert held_by(serving) == {"a", "b", "c"}


def test_a_claim_never_counts_as_alone(serving: Broker) -> None:
    store(serving, "a")

    (claim,) = serve(serving, 1).claims

    assert not claim.is_alone
    assert claim.execution_id.endswith("-0")


def test_each_worker_gets_its_part_of_a_short_queue(serving: Broker) -> None:
    store_all(serving, *"abcdef")

    found = [task_ids(serve(serving, 1, row=row, parts=2).claims) for row in (0, 1)]

    assert found == [list("abcd"), list("ef")]


def test_completions_are_acknowledged_with_the_next_claim(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"ab")
    (first,) = serve(serving, 1, limit=1).claims

    answer = serve(serving, 2, completions=[Completion(first)])

    assert task_ids(answer.claims) == ["b"]
    assert not connection.exists(keys.job("a"))


def test_tasks_with_a_concurrency_key_are_claimed_up_to_its_limit(serving: Broker) -> None:
    store_all(serving, *"abcd", concurrency_key="one", concurrency_limit=3)
    store(serving, "e")

    claims = serve(serving, 1).claims

    assert task_ids(claims) == ["a", "b", "c", "e"]


def test_tasks_of_a_limited_queue_are_claimed_up_to_its_limit(serving: Broker) -> None:
    serving.set_limits({"default:max_active": 3})
    store_all(serving, *"abcdef")

    first = serve(serving, 1, limit=2).claims
    others = [serve(serving, 1, row=1).claims, serve(serving, 2).claims]

    assert [task_ids(first), *map(task_ids, others)] == [["a", "b"], ["c"], []]


# What is claimed ahead begins when others have ended.


def test_tasks_are_claimed_ahead_beside_those_that_begin_at_once(serving: Broker) -> None:
    store_all(serving, *"abcd")

    claims = serve(serving, 1, limit=3, ahead=2).claims

    assert task_ids(claims) == ["a", "b", "c"]


@pytest.mark.parametrize("begin", [0, 1])
def test_a_task_with_a_concurrency_key_is_not_claimed_ahead_and_none_behind_it(serving: Broker, begin: int) -> None:
    store(serving, "a")
    store(serving, "b", concurrency_key="one", concurrency_limit=9)
    store_all(serving, *"cd")
    store(serving, "e", queue="low")

    claims = serve(serving, 1, "default", "low", limit=4, ahead=4 - begin).claims
    nothing = serve(serving, 2, "default", "low", limit=4, ahead=4).claims

    assert task_ids(claims) == ["a"]
    assert nothing == []
    assert task_ids(serve(serving, 3, limit=1).claims) == ["b"]
    assert task_ids(serve(serving, 4).claims) == ["c", "d"]


def test_a_task_whose_worker_died_is_not_claimed_ahead(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"ab")
    connection.hset(keys.job("a"), "alone", 1)

    claims = serve(serving, 1, slots=16, limit=2, ahead=2).claims

    assert claims == []
    assert task_ids(serve(serving, 2, slots=16, limit=2, ahead=1).claims) == ["a", "b"]


def test_nothing_of_a_limited_queue_is_claimed_ahead_nor_of_one_behind_it(serving: Broker) -> None:
    serving.set_limits({"default:max_active": 3})
    store_all(serving, *"abcd")
    store(serving, "e", queue="low")

    found = [
        task_ids(serve(serving, turn, "default", "low", limit=4, ahead=ahead).claims)
        for turn, ahead in ((1, 4), (2, 2), (3, 4), (4, 3), (5, 4))
    ]

    assert found == [[], ["a", "b"], [], ["c"], ["e"]]  # it is full in the end, and holds up nobody


def test_more_tasks_step_aside_than_one_script_looks_at(serving: Broker) -> None:
    store_all(serving, *(f"k{number}" for number in range(250)), concurrency_key="one")
    store(serving, "last")
    serve(serving, 1, limit=1)

    claims = serve(serving, 2).claims

    assert task_ids(claims) == ["last"]


def test_an_id_without_a_job_is_told_and_holds_nobody_up(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"abc")
    connection.delete(keys.job("b"))

    claims = serve(serving, 1).claims

    assert task_ids(claims) == ["a", "c", "b"]
    assert [claim.is_missing for claim in claims] == [False, False, True]
    assert len({claim.execution_id for claim in claims}) == 3
    assert held_by(serving) == {"a", "c"}


def test_an_id_that_stands_in_its_queue_twice_is_claimed_once(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"ab")
    connection.rpush(keys.queue("default"), "a", "", "b")

    claims = serve(serving, 1).claims

    assert task_ids(claims) == ["a", "b"]
    assert pending(connection) == []


@pytest.mark.parametrize("how", ["paused", "suspended"])
def test_nothing_is_claimed_where_all_claims_are_held(serving: Broker, connection: redis.Redis, how: str) -> None:
    store(serving, "a")
    connection.sadd(keys.PAUSED, "default") if how == "paused" else connection.set(keys.SUSPENDED, 1)

    assert serve(serving, 1).claims == []


def test_a_worker_whose_record_is_gone_claims_nothing(broker: Broker) -> None:
    store(broker, "a")

    answer = serve(broker, 1)

    assert (answer.claims, answer.is_registered) == ([], False)


def test_rqs_record_says_whether_the_worker_is_busy(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")
    states = []
    for turn, acknowledges in enumerate((False, False, True), 1):
        serve(serving, turn, completions=[Completion(claim) for claim in serving.held(WORKER) if acknowledges])
        states.append(connection.hget(keys.worker(WORKER), "state"))
    serving.serve(WORKER, f"{LIFE}0", 4, (), limit=1, parts=1)

    assert [*states, connection.hget(keys.worker(WORKER), "state")] == [b"busy", b"busy", b"idle", b"suspended"]


# Lives and turns.


def test_a_call_of_another_life_claims_nothing(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")

    answer = serve(serving, 9, life=OTHER_LIFE)

    assert (answer.claims, answer.is_stale) == ([], True)
    assert pending(connection) == ["a"]


def test_a_late_call_of_a_dead_worker_claims_nothing_but_its_completions_count(
    serving: Broker, connection: redis.Redis
) -> None:
    store_all(serving, *"ab")
    (first,) = serve(serving, 1, limit=1).claims
    register(serving, life=OTHER_LIFE)

    answer = serve(serving, 2, completions=[Completion(first)])

    assert (answer.claims, answer.is_stale, answer.lost) == ([], True, [])
    assert not connection.exists(keys.job("a"))
    assert pending(connection) == ["b"]


@pytest.mark.parametrize("turn", [1, 2])
def test_a_turn_that_is_not_above_the_last_claims_nothing(serving: Broker, turn: int) -> None:
    serve(serving, 2)
    store(serving, "a")

    answer = serve(serving, turn)

    assert (answer.claims, answer.is_stale) == ([], True)


def test_a_worker_that_registers_again_goes_on_with_its_turns(serving: Broker) -> None:
    store(serving, "a")
    register(serving, turn=5)

    answers = [serve(serving, turn) for turn in (5, 6)]

    assert [answer.is_stale for answer in answers] == [True, False]
    assert task_ids(answers[1].claims) == ["a"]


def test_what_a_turn_claimed_whose_answer_was_lost_goes_back_uncounted(
    serving: Broker, connection: redis.Redis
) -> None:
    store_all(serving, *"abcd")
    serve(serving, 1, limit=2)
    serve(serving, 2)

    released = serving.take_back_turn(WORKER, f"{LIFE}0", 2)

    assert sorted(released) == ["c", "d"]
    assert pending(connection) == ["c", "d"]
    assert held_by(serving) == {"a", "b"}
    assert task_ids(serve(serving, 3).claims) == ["c", "d"]


def test_a_turn_that_was_taken_back_claims_nothing_when_redis_runs_it_later(serving: Broker) -> None:
    store(serving, "a")

    released = serving.take_back_turn(WORKER, f"{LIFE}0", 1)
    late = serve(serving, 1)

    assert (released, late.claims, late.is_stale) == ([], [], True)
    assert task_ids(serve(serving, 2).claims) == ["a"]


@pytest.fixture
def proxy(valkey: Valkey, directory: Path) -> Iterator[Proxy]:
    with Proxy(directory, valkey.socket) as made:
        yield made


def test_what_was_claimed_with_an_answer_that_is_lost_goes_back_with_the_next_call(
    serving: Broker, connection: redis.Redis, proxy: Proxy
) -> None:
    store_all(serving, *"abc")
    serve(serving, 1, limit=1)
    with connect(proxy.url) as cut_off:
        proxy.cuts_reply_to = LIFE.encode()

        with pytest.raises(BrokerUnavailableError):
            serve(Broker(cut_off), 2)
        held = held_by(serving)
        released = Broker(cut_off).take_back_turn(WORKER, f"{LIFE}0", 2)

    assert (held, sorted(released)) == ({"a", "b", "c"}, ["b", "c"])
    assert pending(connection) == ["b", "c"]


def test_a_call_that_redis_runs_after_the_worker_has_given_it_up_claims_nothing(
    serving: Broker, connection: redis.Redis, proxy: Proxy
) -> None:
    store_all(serving, *"abc")
    (first,) = serve(serving, 1, limit=1).claims
    with connect(proxy.url, timeout_s=0.5) as stalled:
        stalled.ping()
        proxy.stall()

        with pytest.raises(BrokerUnavailableError):
            serve(Broker(stalled), 2, completions=[Completion(first)])
        serving.take_back_turn(WORKER, f"{LIFE}0", 2)
        proxy.resume()
        wait_until(lambda: not connection.exists(keys.job("a")), "the late call has written its completion")

    assert held_by(serving) == set()
    assert pending(connection) == ["b", "c"]
    assert task_ids(serve(serving, 3).claims) == ["b", "c"]


# Give back.


def test_claims_go_back_to_the_head_in_the_order_in_which_they_are_given(
    serving: Broker, connection: redis.Redis
) -> None:
    names = [f"t{number:03}" for number in range(250)]
    store_all(serving, *names)
    claims = [claim for turn in range(1, 6) for claim in serve(serving, turn, limit=50).claims]

    released = serving.give_back(WORKER, claims[20:])

    assert sorted(released) == names[20:]
    assert pending(connection) == names[20:]
    assert held_by(serving) == set(names[:20])


def test_a_claim_that_is_lost_does_not_go_back(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"ab")
    claims = serve(serving, 1).claims
    connection.zrem(keys.wip("default"), f"a:{claims[0].execution_id}")

    released = serving.give_back(WORKER, claims)

    assert released == ["b"]
    assert not connection.exists(keys.worker_executions(WORKER))


def test_a_task_that_was_cancelled_is_deleted_instead_of_given_back(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")
    claims = serve(serving, 1).claims
    serving.cancel("a")

    assert serving.give_back(WORKER, claims) == []
    assert not connection.exists(keys.job("a"))


@pytest.mark.parametrize("number", [249, 510])
def test_any_number_of_completions_is_acknowledged(serving: Broker, connection: redis.Redis, number: int) -> None:
    store_all(serving, *(f"t{place}" for place in range(number)))
    claims = [claim for turn in range(1, 9) for claim in serve(serving, turn).claims]
    connection.zrem(keys.wip("default"), claims[0].pair, claims[-1].pair)

    answer = serving.serve(WORKER, f"{LIFE}0", 9, (), [Completion(claim) for claim in claims], limit=0, parts=1)

    assert answer.lost == [claims[0].task_id, claims[-1].task_id]
    assert connection.zcard(keys.wip("default")) == 0
    assert not connection.exists(keys.worker_executions(WORKER))


@pytest.mark.parametrize("keeps", [False, True])
def test_all_of_very_many_claims_are_released_in_their_order(
    serving: Broker, connection: redis.Redis, keeps: bool
) -> None:
    names = [f"t{number:03}" for number in range(250)]
    store_all(serving, *names)
    claims = [claim for turn in range(1, 6) for claim in serve(serving, turn, limit=50).claims]
    connection.zrem(keys.wip("default"), claims[7].pair)

    released = serving.release(WORKER, keep=[claims[3].execution_id] if keeps else [])

    back = [name for place, name in enumerate(names) if place != 7 and (place != 3 or not keeps)]
    assert sorted(released) == back
    assert pending(connection) == back
    assert serving.executions_of(WORKER) == ([claims[3].pair] if keeps else [])


# What people see.


def test_of_a_worker_with_several_slots_one_task_is_shown_and_how_many_it_runs(
    serving: Broker, connection: redis.Redis
) -> None:
    store_all(serving, *"abc")
    serve(serving, 1)

    busy, idle = Inspector(connection).workers()

    assert (busy.slots, busy.running, busy.pool, busy.state) == (100, 3, "io", "busy")
    assert busy.runs == f"test:echo {busy.task_id} and 2 more"
    assert busy.task_started_at
    assert (idle.running, idle.runs) == (0, "")


def test_of_a_batch_only_one_task_runs(broker: Broker, connection: redis.Redis) -> None:
    broker.register(WORKER, ["default"], {})
    store_all(broker, *(f"t{number}" for number in range(40)))
    claim_batch(broker, limit=3)

    (shown,) = Inspector(connection).workers()

    assert (shown.slots, shown.running, shown.pool) == (1, 1, "default")


def test_why_tells_the_worker_of_each_of_the_tasks_that_one_runs(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"abc")
    serve(serving, 1)

    found = [Inspector(connection).explain(task_id) for task_id in "abc"]

    assert [WORKER in why.reasons[0].fact for why in found] == [True, True, True]


# Leases.


class Lease(msgspec.Struct):
    """A claim as the scheduler knows it."""

    pair: str
    queue: str
    key: str = ""


def leases(claims: list[Claim]) -> list[Lease]:
    return [Lease(claim.pair, claim.queue) for claim in claims]


def age(broker: Broker, connection: redis.Redis, seconds: float = 20) -> None:
    """Let the leases of the worker's claims end so much sooner."""
    for pair in broker.executions_of(WORKER):
        if connection.zscore(keys.wip("default"), pair):
            connection.zincrby(keys.wip("default"), -seconds, pair)


def left_s(broker: Broker, connection: redis.Redis, claim: Claim) -> float:
    """How long the claim's lease lasts."""
    score = connection.zscore(keys.wip(claim.queue), claim.pair)
    assert isinstance(score, float)
    return score - LEASE_OFFSET_S - broker.now()


def test_all_leases_of_a_worker_are_renewed(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *(f"t{number}" for number in range(300)))
    store_all(serving, "other", queue="low")
    claims = [claim for turn in range(1, 7) for claim in serve(serving, turn, "default", "low").claims]
    age(serving, connection)

    renewal = serving.renew(WORKER, leases(claims))

    assert renewal == Renewal([], [])
    assert len(claims) == 301
    assert all(LEASE_S - 5 < left_s(serving, connection, claim) <= LEASE_S for claim in claims)


def test_of_many_claims_those_that_are_lost_or_cancelled_are_told(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"abcdef")
    claims = {claim.task_id: claim for claim in serve(serving, 1).claims}
    connection.zrem(keys.wip("default"), claims["b"].pair)
    connection.hset(keys.job("c"), "worker_name", "elsewhere")
    connection.delete(keys.job("d"))
    serving.cancel("e")
    age(serving, connection)

    renewal = serving.renew(WORKER, [*leases([*claims.values()]), Lease("gone:1", "")])

    assert sorted(renewal.lost) == sorted(["gone:1", *(claims[name].pair for name in "bcd")])
    assert renewal.cancelled == [claims["e"].pair]
    renewed = [name for name in "acde" if left_s(serving, connection, claims[name]) > LEASE_S - 5]
    assert renewed == ["a", "e"]


def test_a_share_of_a_concurrency_key_is_renewed_with_its_claim(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a", concurrency_key="one")
    (claim,) = serve(serving, 1).claims
    connection.delete(keys.running("one"))

    serving.renew(WORKER, [Lease(claim.pair, claim.queue, "one")])

    score = connection.zscore(keys.running("one"), "a")
    assert isinstance(score, float)
    assert score > serving.now() + LEASE_S - 5
    assert connection.ttl(keys.running("one")) > 80_000


def test_a_worker_without_claims_stays_in_rqs_registry(serving: Broker, connection: redis.Redis) -> None:
    connection.expire(keys.worker(WORKER), 10)

    assert serving.renew(WORKER, []) == Renewal([], [])
    assert connection.ttl(keys.worker(WORKER)) > 400


def test_a_foreign_key_in_place_of_the_leases_costs_no_more_than_them(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")
    claims = serve(serving, 1).claims
    connection.set(keys.wip("default"), "foreign")

    assert serving.renew(WORKER, leases(claims)).lost == [claims[0].pair]


def test_rqs_tools_see_attempts_whose_records_are_renewed(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *(f"t{number}" for number in range(60)), concurrency_key="one", concurrency_limit=60)
    claims = serve(serving, 1).claims
    before = Execution.fetch(claims[-1].execution_id, claims[-1].task_id, connection)
    connection.delete(keys.execution(claims[0].pair))

    serving.renew_records(WORKER, [*serving.executions_of(WORKER), "foreign"])

    for claim in claims:
        (execution,) = rq_job(connection, claim.task_id).get_executions()
        assert execution.id == claim.execution_id
        assert execution.last_heartbeat > before.last_heartbeat
    assert StartedJobRegistry("default", connection).get_job_count() == 60
    worker = BaseWorker.find_by_key(keys.worker(WORKER), connection=connection)
    assert worker
    assert len(worker.get_current_executions()) == 60


def test_the_records_of_a_lost_claim_stay_gone(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")
    (claim,) = serve(serving, 1).claims
    fail(serving, claim, Verdict.RETRY, delay_s=60.0)

    serving.renew_records(WORKER, [claim.pair])

    assert not connection.exists(keys.execution(claim.pair), keys.executions("a"))


def test_of_many_tasks_those_that_are_not_wanted_are_named_with_the_reason(
    serving: Broker, connection: redis.Redis
) -> None:
    store_all(serving, *"abcdef")
    claims = {claim.task_id: claim for claim in serve(serving, 1).claims}
    serving.cancel("b")
    connection.delete(keys.job("c"))
    connection.zrem(keys.wip("default"), claims["d"].pair)
    connection.hset(keys.job("e"), "status", "canceled")

    reasons = serving.unwanted(WORKER, claims.values())

    assert reasons == {claims[name].execution_id: serving.cancellation(claims[name]) for name in "bcde"}
    assert reasons[claims["b"].execution_id] == "cancelled on request"


def test_looking_for_what_is_not_wanted_renews_nothing(serving: Broker, connection: redis.Redis) -> None:
    store(serving, "a")
    (claim,) = serve(serving, 1).claims
    age(serving, connection)

    assert serving.unwanted(WORKER, [claim]) == {}
    assert left_s(serving, connection, claim) < LEASE_S - 15


def test_the_claims_of_a_worker_with_very_many_are_all_listed(serving: Broker) -> None:
    names = [f"t{number:03}" for number in range(250)]
    store_all(serving, *names)
    for turn in range(1, 6):
        serve(serving, turn)

    assert [claim.task_id for claim in serving.held(WORKER)] == names
    assert sorted(pair.partition(":")[0] for pair in serving.executions_of(WORKER)) == names


# Suspects.


def crash(broker: Broker, claims: list[Claim], times: int = 1) -> None:
    """Give these claims back as those of a worker that died, so many times."""
    for turn in range(times):
        broker.give_back(WORKER, claims, is_doubtful=True)
        if turn < times - 1:
            claims = broker.serve(WORKER, f"{LIFE}0", 100 + turn, ["default"], limit=64, parts=1, slots=800).claims


def test_each_death_of_a_worker_is_counted_on_what_it_held(serving: Broker) -> None:
    store(serving, "a")
    crash(serving, serve(serving, 1).claims, times=3)

    (claim,) = serve(serving, 200).claims

    assert claim.deaths == 3
    assert claim.task
    assert claim.task.attempt == 1


@pytest.mark.parametrize(("alone", "deaths"), [("1", 1), ("2", 2), ("garbage", 1), ("-3", 1)])
def test_a_mark_of_an_earlier_version_or_a_foreign_one_is_a_death(
    serving: Broker, connection: redis.Redis, alone: str, deaths: int
) -> None:
    store(serving, "a")
    connection.hset(keys.job("a"), "alone", alone)

    (claim,) = serve(serving, 1).claims
    crash(serving, [claim])
    (again,) = serve(serving, 2).claims

    assert claim.deaths == deaths
    assert again.deaths >= 1


def test_a_few_suspects_run_at_once_and_nobody_waits_behind_the_others(
    serving: Broker, connection: redis.Redis
) -> None:
    store_all(serving, *"abcdef")
    crash(serving, serve(serving, 1).claims)
    store_all(serving, *"xyz")

    claims = serve(serving, 2, slots=16).claims

    assert task_ids(claims) == [*"ab", *"xyz"]
    assert pending(connection) == [*"cdef"]
    assert task_ids(serve(serving, 3, slots=16, suspects=[1, 1]).claims) == []
    assert task_ids(serve(serving, 4, slots=16, suspects=[1]).claims) == ["c"]


def test_one_whose_worker_died_twice_runs_beside_no_other_suspect(serving: Broker, connection: redis.Redis) -> None:
    store_all(serving, *"abcx")
    for task_id, alone in zip("abc", (2, 1, 3), strict=True):
        connection.hset(keys.job(task_id), "alone", alone)

    beside_a_suspect = serve(serving, 1, slots=16, suspects=[1], limit=1).claims
    one_of_two_deaths = serve(serving, 2, slots=16).claims
    beside_it = serve(serving, 3, slots=16, suspects=[2]).claims

    assert task_ids(beside_a_suspect) == ["b"]
    assert task_ids(one_of_two_deaths) == ["a", "x"]
    assert task_ids(beside_it) == []
    assert pending(connection) == ["c"]


def test_very_many_suspects_stay_in_their_order_and_hold_up_no_other_queue(
    serving: Broker, connection: redis.Redis
) -> None:
    names = [f"s{number:03}" for number in range(150)]
    for name in names:
        store(serving, name)
        connection.hset(keys.job(name), "alone", 1)
    store(serving, "other", queue="low")

    claims = serve(serving, 1, "default", "low", slots=8, suspects=[1]).claims

    assert task_ids(claims) == ["other"]
    assert pending(connection) == names


def test_of_tasks_that_end_their_workers_each_is_found_and_no_other_counts(serving: Broker) -> None:
    pills = {"t030", "t170"}
    names = {f"t{number:03}" for number in range(250)}
    store_all(serving, *sorted(names))
    done: set[str] = set()
    blamed: list[str] = []
    deaths = turn = 0
    while done | set(blamed) < names:
        claims: list[Claim] = []
        while len(claims) < 100:
            turn += 1
            suspects = [claim.deaths for claim in claims if claim.deaths]
            some = serve(serving, turn, limit=50, slots=100, suspects=suspects).claims
            claims += some
            if not some:
                break
        if pills.isdisjoint(task_ids(claims)):
            serve(serving, turn := turn + 1, "none", completions=[Completion(claim) for claim in claims])
            done |= set(task_ids(claims))
            continue
        deaths += 1
        to_blame = [claim for claim in claims if claim.deaths > 1]
        blamed += task_ids(to_blame)
        for claim in to_blame:
            fail(serving, claim, Verdict.DROP)
        serving.give_back(WORKER, [claim for claim in claims if claim not in to_blame], is_doubtful=True)

    assert set(blamed) == pills
    assert done == names - pills
    assert deaths <= 8
