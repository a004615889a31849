"""A task type that fails suddenly is found, and no other one."""

import pytest
import redis

from boilerd import Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.metrics import Metrics
from boilerd.broker.sudden_failures import SuddenFailure, sudden_failures
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.metric_record import OUTCOME_KEYS, encode, pack_pair
from builders import fail_as


def count(
    connection: redis.Redis, period: str, number: int, outcomes: dict[str, int], *, queue: str = "default"
) -> None:
    record = {OUTCOME_KEYS[outcome]: ended for outcome, ended in outcomes.items() if ended}
    connection.hset(keys.metrics(period, number), pack_pair(queue, "mail:send"), encode(record))


def day(connection: redis.Redis, *, before: dict[str, int], lately: dict[str, int]) -> None:
    """Count what was in an hour of the last day, and in a minute that is not rolled up yet."""
    minute = int(connection.time()[0]) // 60
    count(connection, "hour", minute // 60 - 12, before)
    count(connection, "minute", minute - 2, lately)


def test_a_type_that_hardly_ever_failed_and_now_does_is_found(connection: redis.Redis) -> None:
    day(connection, before={"completed": 198, "archived": 2}, lately={"completed": 5, "retried": 10, "lost": 5})

    assert sudden_failures(Metrics(connection)) == [SuddenFailure("mail:send", 15, 20, 0.01)]


def test_attempts_of_all_queues_count(connection: redis.Redis) -> None:
    day(connection, before={"completed": 200}, lately={"archived": 10})
    count(connection, "minute", int(connection.time()[0]) // 60 - 1, {"dropped": 10}, queue="low")

    assert sudden_failures(Metrics(connection)) == [SuddenFailure("mail:send", 20, 20, 0.0)]


@pytest.mark.parametrize(
    ("before", "lately"),
    [
        pytest.param({"completed": 200}, {"archived": 19}, id="few attempts lately"),
        pytest.param({"completed": 99}, {"archived": 50}, id="few attempts before"),
        pytest.param({}, {"archived": 50}, id="a new type"),
        pytest.param({"completed": 160, "retried": 40}, {"archived": 50}, id="it failed before"),
        pytest.param({"completed": 200}, {"completed": 26, "archived": 24}, id="most succeed"),
        pytest.param({"completed": 200}, {"cancelled": 50}, id="somebody cancelled its tasks"),
        pytest.param({"completed": 200}, {"put_back": 50}, id="a daemon stopped"),
        pytest.param({"completed": 200}, {}, id="nothing lately"),
    ],
)
def test_nothing_else_is_found(connection: redis.Redis, before: dict[str, int], lately: dict[str, int]) -> None:
    day(connection, before=before, lately=lately)

    assert sudden_failures(Metrics(connection)) == []


def test_a_type_whose_failures_are_all_muted_is_no_finding(connection: redis.Redis, broker: Broker) -> None:
    day(connection, before={"completed": 200}, lately={"archived": 20})
    for fingerprint in ("a" * 12, "b" * 12):
        fail_as(broker, fingerprint, FailureKind(fingerprint, "mail:send", "Error", "", (), ""))

    Inspector(connection).mark_failure("a" * 12, "mute")
    some_are_muted = sudden_failures(Metrics(connection))
    Inspector(connection).mark_failure("b" * 12, "mute")

    assert len(some_are_muted) == 1
    assert sudden_failures(Metrics(connection)) == []
