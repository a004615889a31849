"""What the scripts cost beside very much of everything: Redis serves nobody else while one runs."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from boilerd.broker import keys
from boilerd.broker.broker import BATCH_PARTS, Broker
from boilerd.broker.constants import CHUNK, KEYS_SLICE, SLICE
from boilerd.broker.job_hash import describe_task
from boilerd.broker.scheduler_calls import MOST_EXPIRED, MOST_SLICES
from boilerd.broker.scripts import scripts
from boilerd.tasks.metric_record import encode, pack_pair
from boilerd.tasks.retry import Verdict
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT
from builders import WORKER, claim, failure, new_task, store

#: As many as any script goes through in one call, and four times as many.
FEW, MANY = CHUNK, 4 * CHUNK
#: So many times as many commands are chance: of the cursors, and of samples.
CHANCE = 2

#: So many of each are built in one call, far below what a client waits for on a machine that is busy.
PIECE = 50
#: ARGV: RQ's prefix, boilerd's, the first and the last number of what is built: queues with a scheduled task and a
#: worker; keys with a task that runs and one that waits; workers; and in queue `many` tasks that are pending,
#: scheduled, due, active with a lease that ended, archived, completed and expired, and that wait for one key.
BUILD = """
local rq, own = ARGV[1], ARGV[2]
local function job(id, status, ...)
  redis.call('HSET', rq .. ':job:' .. id, 'status', status, 'origin', 'many', 'data', '[]', 'task_type', 'x', ...)
  return id
end
redis.call('SADD', own .. ':queues', 'many')
for i = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  local queue, key = 'queue-' .. i, 'key-' .. i
  redis.call('SADD', own .. ':queues', queue)
  redis.call('ZADD', rq .. ':scheduled:' .. queue, 2e10, job('later-' .. i, 'scheduled'))
  redis.call('SADD', rq .. ':workers', rq .. ':worker:gone-' .. i)
  redis.call('SADD', rq .. ':workers:' .. queue, rq .. ':worker:gone-' .. i)
  redis.call('SADD', own .. ':keys', key, 'key')
  redis.call('ZADD', own .. ':running:' .. key, 2e10, job('runs-' .. i, 'started'))
  redis.call('ZADD', own .. ':waiting:' .. key, i, job('waits-' .. i, 'queued', 'concurrency_key', key))
  redis.call('ZADD', own .. ':aside:many', i, 'waits-' .. i)
  redis.call('ZADD', own .. ':running:key', 2e10, job('active-' .. i, 'started'))
  redis.call('ZADD', own .. ':waiting:key', i, job('one-of-many-' .. i, 'queued', 'concurrency_key', 'key'))
  redis.call('ZADD', own .. ':aside:many', i, 'one-of-many-' .. i)
  redis.call('RPUSH', rq .. ':queue:many', job('pending-' .. i, 'queued'))
  redis.call('ZADD', rq .. ':scheduled:many', i, job('due-' .. i, 'scheduled'))
  redis.call('ZADD', rq .. ':scheduled:many', 2e10, job('much-later-' .. i, 'scheduled'))
  redis.call('ZADD', rq .. ':wip:many', i, job('lapsed-' .. i, 'started') .. ':0')
  redis.call('ZADD', rq .. ':failed:many', i, job('archived-' .. i, 'failed'))
  redis.call('ZADD', own .. ':archived:many', i, 'archived-' .. i)
  redis.call('ZADD', rq .. ':finished:many', i, job('completed-' .. i, 'finished'))
end
"""


def build(broker: Broker, number: int) -> None:
    for before in range(0, number, PIECE):
        broker.connection.eval(BUILD, 0, keys.RQ, keys.OWN, before + 1, min(before + PIECE, number))


def call_advance(broker: Broker) -> Sequence[Any]:
    return [WORKER, 32, BATCH_PARTS, "0123456789abcdef", 1, "many"]


def call_serve(broker: Broker) -> Sequence[Any]:
    broker.register(WORKER, ["many"], {"life": "0f"})
    return [WORKER, 64, 1, "0123456789abcdef", 1, "many", "0f", 1, 1, 1]


def call_fail(broker: Broker) -> Sequence[Any]:
    held, how = claim(broker, "many"), failure(Verdict.ARCHIVE)
    return [
        WORKER, held.task_id, held.execution_id, "many", held.started, how.error, "", "archive", 0, 1, 0,
        DEFAULT_ARCHIVE_LIMIT, 0, 0,
    ]  # fmt: skip


def call_with_a_claim(*args: Any) -> Callable[[Broker], Sequence[Any]]:
    def call(broker: Broker) -> Sequence[Any]:
        store(broker, "runs")
        claim(broker)
        return args

    return call


def call_with_a_pair(*args: Any, after: Sequence[Any] = ()) -> Callable[[Broker], Sequence[Any]]:
    def call(broker: Broker) -> Sequence[Any]:
        store(broker, "runs")
        return [*args, claim(broker).pair, *after]

    return call


def call_result(broker: Broker) -> Sequence[Any]:
    store(broker, "runs")
    held = claim(broker)
    return [held.task_id, held.execution_id, held.queue, "1"]


#: Who intervenes, as audit.lua has it.
BY = ("me", "host", "cli", "{}")
#: Script → what its arguments are, and what has to be done before.
CALLS: dict[str, Callable[[Broker], Sequence[Any]]] = {
    "act": lambda _: ["archive", 400, *[""] * 4, "pending-400", "waits-7", "one-of-many-9"],
    "advance": call_advance,
    "adopt": lambda _: ["many", "0", WORKER],
    "annotate": lambda _: ["a" * 12, "mute", "", *BY],
    "arrive": lambda _: ["new", "many", "scheduled", "2e10", "-1", "", "", "0", "0", 2, "created_at", "now", 0],
    "birth": lambda _: [WORKER, 1, "many", "pid", 1],
    "cancel": lambda _: ["{}", *BY, "pending-400"],
    "death": lambda _: [WORKER],
    "died": lambda _: ['{"worker":"host.run.0"}'],
    "enqueue": lambda _: describe_task(new_task("new", queue="many")),
    "expired": lambda _: [MOST_EXPIRED, "0", "many"],
    "extend": call_with_a_claim(WORKER, "", "1000", "10"),
    "fail": call_fail,
    "forward": lambda _: [CHUNK, "0", "many"],
    "place": lambda _: ["move", "other", "0", *BY, "pending-400"],
    "held": call_with_a_claim(WORKER),
    "janitor": lambda _: [CHUNK, "0", "many"],
    "listed": lambda _: ["both", "pending-1", "archived-2", "nothing"],
    "look": lambda _: ["ends", 20, "many"],
    "mark": lambda _: ["runs-1"],
    "metrics": lambda _: [pack_pair("many", "test:echo"), encode({10: 1})],
    "note": lambda _: [*BY, "run", 1, "done", ""],
    "operate": lambda _: ["1-a", ",running,", "", "0", "1", "", "state", "done"],
    "over": lambda _: [],
    "pick": lambda _: [CHUNK, 1, "data", "data", '"r-9"', '"r-9"', "pending-1", "pending-2"],
    "progress": call_result,
    "publish": lambda _: ["host.run", 2, "{}"],
    "records": call_with_a_pair(WORKER),
    "renew": call_with_a_pair(WORKER, "default", 1, "1000", "10", after=[""]),
    "release": call_with_a_claim(WORKER, "all but"),
    "result": call_result,
    "roll": lambda _: [],
    "serve": call_serve,
    "sift": lambda _: ["many", 1, 0, CHUNK, 30],
    "since": lambda _: ["entry", "@daily UTC"],
    "tick": lambda _: ["entry", "1.0", 0, "", *describe_task(new_task("new", queue="many"))],
    "tidy": lambda _: ["0", CHUNK],
    "unlock": lambda _: ["many", "test:echo", "00", "runs-1", 0],
    "unlist": lambda _: ["many"],
    "waiting": lambda _: ["0"],
    "runs": lambda _: [keys.worker("gone-1"), keys.worker("gone-2")],
    "workers": lambda _: [1, "queues", keys.worker("gone-1"), keys.worker("gone-2")],
}


def commands(broker: Broker, call: Callable[[], object]) -> int:
    """How many commands Redis performs meanwhile, those in scripts included."""
    broker.connection.config_resetstat()
    call()
    stats: dict[str, Any] = broker.connection.info("commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if not name.startswith(("cmdstat_config", "cmdstat_info")))


@pytest.mark.parametrize("script", sorted(scripts()))
def test_what_a_script_costs_does_not_grow_with_what_there_is(
    broker: Broker, connection: redis.Redis, script: str
) -> None:
    counts = []
    for number in (FEW, MANY):
        connection.flushall()
        build(broker, number)
        args = CALLS[script](broker)
        counts.append(commands(broker, lambda args=args: broker._run(script, args)))  # type: ignore[misc]

    few, many = counts

    assert many < CHANCE * few


def test_all_queues_have_their_turn_slice_by_slice(broker: Broker, connection: redis.Redis) -> None:
    names = [f"queue-{number}" for number in range(3 * SLICE)]
    connection.sadd(keys.SERVED, *names)
    for number, name in enumerate(names):
        connection.zadd(keys.registry("scheduled", name), {f"task-{number}": 1 if number % 2 else 2e10})

    moved, left_s = broker.forward()

    assert moved == 3 * SLICE // 2
    assert left_s is not None


def test_all_keys_have_their_turn_slice_by_slice(broker: Broker, connection: redis.Redis) -> None:
    number = 2 * MOST_SLICES * KEYS_SLICE
    for key in range(number):
        connection.sadd(f"{keys.OWN}:keys", f"key-{key}")
        connection.hset(keys.job(f"task-{key}"), mapping={"status": "queued", "origin": "default"})
        connection.zadd(f"{keys.OWN}:waiting:key-{key}", {f"task-{key}": 1})

    broker.expired()
    after_one_look = connection.llen(keys.queue("default"))
    for _ in range(3):
        broker.expired()

    assert 0 < after_one_look < number
    assert connection.llen(keys.queue("default")) == number
