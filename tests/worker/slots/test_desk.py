"""What the keeper of a worker with slots has on its desk for Redis."""

import pytest
import redis

from boilerd import ServeMux
from boilerd.broker.broker import Broker
from boilerd.tasks.retry import RetryPolicy
from boilerd.worker.settlement import Rules
from boilerd.worker.slots.desk import Desk
from builders import WORKER, pending, store, task_ids


def test_only_tasks_that_had_begun_are_told_of_when_they_go_back(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broker.register(WORKER, ["default"], {"life": "0f1e2d3c", "turn": 0, "slots": 9, "pool": "io"})
    for task_id in "abc":
        store(broker, task_id)
    claims = broker.serve(WORKER, "0f1e2d3c", 1, ["default"], limit=9, parts=1).claims
    desk = Desk(broker, WORKER, Rules.of(ServeMux(), RetryPolicy(), lambda handler: handler))
    desk.sort_cut(claims[:1])
    desk.unstarted += claims[1:]

    desk.write(is_last=True)

    assert (task_ids(claims), sorted(pending(connection))) == (["a", "b", "c"], ["a", "b", "c"])
    assert [record.task_id for record in caplog.records] == ["a"]  # type: ignore[attr-defined]
