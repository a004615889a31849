"""A Redis in which very much is, for what has to stay fast: a million tasks, hundreds of workers, months of metrics.

Broker and Inspector write what they can, as daemons and people do; tasks beyond a few, and metrics of months, are
written as they would stand there.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import batch_place
from boilerd.broker.connection import text
from boilerd.broker.constants import METRIC_PERIODS
from boilerd.broker.neighbours import Declared
from boilerd.broker.operation_record import Order
from boilerd.daemon.published import Published
from boilerd.process.identity import Load, birthmark
from boilerd.settings.definitions import Settings
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.metric_record import (
    ENQUEUED,
    LATER_BUCKETS,
    MOST_RUN_US,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
    encode,
    pack_pair,
)
from boilerd.tasks.mux import ServeMux
from builders import fail_as, keep_page, new_task

#: Tasks that one script writes.
_CHUNK = 5000
#: Minutes that are counted before they have come, so that each minute of a measurement has its own.
_AHEAD = 10
_FILL = """
for i = ARGV[1], ARGV[2] do
  local id = ARGV[3] .. i
  redis.call(unpack(ARGV[4] == 'list' and {'RPUSH', KEYS[1], id} or {'ZADD', KEYS[1], ARGV[6] + i, id}))
  redis.call('HSET', KEYS[2] .. id, 'status', ARGV[5], 'origin', ARGV[7], 'task_type', 'mail:t' .. i % ARGV[8],
    'description', 'mail:t' .. i % ARGV[8], 'created_at', '2026-01-31T14:00:00.000000Z',
    'enqueued_at', '2026-01-31T14:00:00.000000Z', 'timeout', 1800, 'result_ttl', 0,
    'data', '["boilerd.entry_point.run",null,["mail:t' .. i % ARGV[8] .. '",{"to":"user-' .. i ..
      '@mail.example","subject":"About your order","lines":[1,2,3]}],{}]')
  if ARGV[5] == 'failed' then
    redis.call('HSET', KEYS[2] .. id, 'last_error', 'OwnError: card ' .. i .. ' was refused',
      'last_failed_at', '2026-01-31T14:00:01.000000Z', 'number_of_retries', 25)
  end
end
"""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How much of each there is."""

    pending: int = 1_000_000
    scheduled: int = 100_000
    archived: int = 10_000
    completed: int = 10_000
    queues: int = 50
    types: int = 200
    pairs: int = 300
    daemons: int = 50
    workers: int = 500
    failures: int = 1000
    crons: int = 50
    actions: int = 10_000
    operations: int = 200

    @classmethod
    def of_percent(cls, percent: float) -> "Crowd":
        """So much of all that."""
        whole = cls()
        return cls(**{name: max(2, round(getattr(whole, name) * percent / 100)) for name in cls.__slots__})

    @property
    def queue_names(self) -> list[str]:
        """The first one holds nearly all tasks."""
        return ["default", *(f"queue-{number:02}" for number in range(1, self.queues))]

    @property
    def type_names(self) -> list[str]:
        """Types of tasks."""
        return [f"mail:t{number}" for number in range(self.types)]

    @property
    def daemon_names(self) -> list[str]:
        """Each stands on a host of its own."""
        return [f"web{number:02}.example.org.a{number}" for number in range(self.daemons)]

    def workers_of(self, daemon: str) -> list[str]:
        """The names of its workers."""
        return [f"{daemon}.{row}" for row in range(max(1, self.workers // self.daemons))]


def fill(connection: redis.Redis, crowd: Crowd) -> dict[str, str]:
    """Put it all there; an example for each part that the address of a page names."""
    broker = Broker(connection)
    fingerprint = _fail(broker, crowd)
    _fill_tasks(connection, crowd)
    _count(connection, crowd)
    _begin_daemons(broker, crowd)
    Heart(connection, crowd).beat()
    return {
        "queue": "default",
        "id": "a1",
        "type": crowd.type_names[0],
        "fingerprint": fingerprint,
        "cron": _tick(broker, crowd),
        "operation": _act(connection, crowd),
        "snapshot": keep_page(connection),
        "worker": crowd.workers_of(crowd.daemon_names[0])[0],
    }


class Heart:
    """What the schedulers of all daemons tell Redis every five seconds.

    Args:
        connection: The client of Redis.
        crowd: Whose daemons these are; they have begun.
    """

    def __init__(self, connection: redis.Redis, crowd: Crowd) -> None:
        self._broker = Broker(connection)
        self._crowd = crowd
        born: Any = connection.hget(keys.worker(crowd.workers_of(crowd.daemon_names[0])[0]), "birth")
        self._born_s = datetime.fromisoformat(text(born)).timestamp()
        self._running = {}
        for worker in (worker for daemon in crowd.daemon_names for worker in crowd.workers_of(daemon)):
            pair: Any = connection.srandmember(f"{keys.worker(worker)}:executions")
            if pair:
                self._running[worker] = batch_place(text(pair).rpartition(":")[2])

    def beat(self) -> None:
        """All of them, at once."""
        for daemon in self._crowd.daemon_names:
            self._beat(daemon)

    def go_on(self, until: Callable[[], bool], every_s: float = 5.0) -> None:
        """One after the other, each at its moment."""
        for daemon in itertools.cycle(self._crowd.daemon_names):
            self._beat(daemon)
            time.sleep(every_s / self._crowd.daemons)
            if until():
                return

    def _beat(self, daemon: str) -> None:
        workers = self._crowd.workers_of(daemon)
        now_ms = int(time.time() * 1000)
        running = {worker: self._running[worker] for worker in workers if worker in self._running}
        used_ms = int(300 * (time.time() - self._born_s))  # each a third of one CPU
        loads = {worker: Load(90_000_000 + now_ms % 8_000_000, used_ms) for worker in workers}
        self._broker.extend(workers, running, loads)
        told = _told(self._crowd, daemon)
        if not self._broker.publish(daemon, len(told)):
            self._broker.publish(daemon, len(told), told)


# --- Tasks


def _fill_tasks(connection: redis.Redis, crowd: Crowd) -> None:
    with Client(connection) as client:
        for queue in crowd.queue_names:
            client.enqueue("mail:t0", queue=queue)
        for number in range(min(crowd.queues, 20)):
            client.enqueue(
                f"key:t{number}", task_id=f"keyed-{number}", concurrency_key=f"account-{number}", unique=3600
            )
    in_day_s = time.time() + 86400
    for queue in crowd.queue_names:
        mark, is_large = ("", True) if queue == "default" else (f"{queue}-", False)
        for key, prefix, kind, status, number, score in (
            (keys.queue(queue), "p", "list", "queued", crowd.pending, 0.0),
            (keys.registry("scheduled", queue), "s", "set", "scheduled", crowd.scheduled, in_day_s),
            (keys.registry("failed", queue), "a", "set", "failed", crowd.archived, in_day_s),
            (keys.registry("finished", queue), "c", "set", "finished", crowd.completed, in_day_s),
        ):
            for first in range(0, number if is_large else min(number, 20), _CHUNK):
                last = min(first + _CHUNK, number if is_large else 20) - 1
                args: list[Any] = [first, last, f"{mark}{prefix}", kind, status, score, queue, crowd.types]
                connection.eval(_FILL, 2, key, keys.job(""), *args)


# --- Metrics


def _count(connection: redis.Redis, crowd: Crowd) -> None:
    """Metrics of all periods that are kept, and of the minutes to come."""
    chance = random.Random(1)
    records = [encode(_record(chance)) for _ in range(100)]
    pairs = [
        pack_pair(crowd.queue_names[number % crowd.queues], crowd.type_names[number % crowd.types])
        for number in range(crowd.pairs)
    ]
    now_s = int(time.time())
    for period, (step_s, kept_s) in METRIC_PERIODS.items():
        this = now_s // step_s
        for number in range(this - kept_s // step_s, this + (_AHEAD if period == "minute" else 1)):
            fields: Mapping[Any, Any] = {pair: chance.choice(records) for pair in pairs}
            connection.hset(keys.metrics(period, number), mapping=fields)
            connection.expire(keys.metrics(period, number), kept_s + 3600)
    connection.hset(keys.METRICS_TOTAL, mapping=dict.fromkeys(pairs, records[0]))
    connection.set(keys.METRICS_ROLLED, f"{now_s // 60 - 1}:0")


def _record(chance: random.Random) -> dict[int, int]:
    """Of a type whose attempts take several times."""
    found = {
        OUTCOME_KEYS["completed"]: chance.randrange(500, 5000), OUTCOME_KEYS["retried"]: chance.randrange(1, 50),
        OUTCOME_KEYS["archived"]: chance.randrange(1, 5), ENQUEUED: chance.randrange(500, 5000),
        RUN_US: chance.randrange(10**8, 10**9), MOST_RUN_US: chance.randrange(10**6, 10**7),
        WAIT_US: chance.randrange(10**8, 10**9), PAYLOAD_BYTES: chance.randrange(10**5, 10**6),
        LATER_BUCKETS: 30, LATER_BUCKETS + 1: 9, LATER_BUCKETS + 2: 2, LATER_BUCKETS + 3: 1,
    }  # fmt: skip
    for first, width in ((RUN_BUCKETS + 8, 10), (WAIT_BUCKETS + 6, 10), (PAYLOAD_BUCKETS + 2, 3)):
        start = first + chance.randrange(4)
        found |= {start + bucket: chance.randrange(1, 900) for bucket in range(width)}
    return found


# --- Daemons and workers


def _begin_daemons(broker: Broker, crowd: Crowd) -> None:
    """Daemons with their workers, every other of which has a task."""
    for number, daemon in enumerate(crowd.daemon_names):
        for row, worker in enumerate(crowd.workers_of(daemon)):
            mine = crowd.queue_names[number % 5 :: 5] if row else ["default", *crowd.queue_names[1:4]]
            broker.register(worker, mine, _born(crowd, daemon, mine, 1000 * number + row))
            if row % 2 == 0:
                broker.advance(worker, ("default",), limit=1)


def _born(crowd: Crowd, daemon: str, queues: list[str], pid: int) -> dict[str, str | int]:
    """As a worker tells of itself at its start."""
    return {
        "queues": ",".join(queues), "hostname": _host(daemon), "ip_address": "10.0.0.1", "version": "3.0.0",
        "python_version": "3.13.5", "state": "starting", "application": Declared(tuple(crowd.type_names)).encoded(),
        "supervisor": birthmark(), "pid": pid, "birthmark": birthmark(),
    }  # fmt: skip


def _host(daemon: str) -> str:
    return daemon.rpartition(".")[0]


_published: dict[tuple[Crowd, str], str] = {}


def _told(crowd: Crowd, daemon: str) -> str:
    """What a daemon tells of itself."""
    if (crowd, daemon) not in _published:
        crons = [
            CronEntry(name=f"cron-{number:02}", spec=f"{number % 60} * * * *", task_type=crowd.type_names[0])
            for number in range(crowd.crons)
        ]  # fmt: skip
        settings = Settings(release="2026.11.28" if daemon < "web25" else "2026.11.29")
        told = json.loads(
            Published(
                daemon, settings=settings, mux=ServeMux(), types=crowd.type_names, crons=crons, broker="valkey 8.1.1",
                started_s=time.time() - 5000,
            ).encoded({"worker": len(crowd.workers_of(daemon))})
        )  # fmt: skip
        _published[crowd, daemon] = json.dumps({**told, "host": _host(daemon)}, separators=(",", ":"))
    return _published[crowd, daemon]


# --- What has happened


def _fail(broker: Broker, crowd: Crowd) -> str:
    """Failure groups with counts of days; the fingerprint of one."""
    hour = int(time.time()) // 3600
    for number in range(crowd.failures):
        task_type = crowd.type_names[number % crowd.types]
        frames = (f"shop.gateways.Gateway{number}.charge", "shop.orders.pay")
        how = FailureKind(
            f"{number:012x}", task_type, f"shop.Refused{number}Error", "card N was refused", frames, "1.0"
        )
        fail_as(broker, f"failed-{number}", how, queue=crowd.queue_names[-1], task_type=task_type)
        every = 1 + number % 9
        counts: dict[Any, Any] = {f"h{hour - ago}": 1 + ago % 7 for ago in range(1, 48, every)}
        counts |= {f"d{hour // 24 - ago}": 10 + ago for ago in range(1, 30, every)}
        broker.connection.hset(keys.failure(how.fingerprint), mapping=counts)
    return f"{0:012x}"


def _tick(broker: Broker, crowd: Crowd) -> str:
    """Ticks of all periodic tasks; the name of one."""
    now_s = int(time.time())
    names = [f"cron-{number:02}" for number in range(crowd.crons)]
    broker.ticks_since({name: f"UTC {number % 60} * * * *" for number, name in enumerate(names)})
    for name in names:
        for ago in range(20, 0, -1):
            task = new_task(f"{name}-{ago}", retention=3600) if ago % 5 else None
            broker.tick(name, float(now_s - 3600 * ago), task)
    return names[0]


def _act(connection: redis.Redis, crowd: Crowd) -> str:
    """Entries of the audit, and operations; the ID of one."""
    with Inspector(connection) as inspector:
        for number in range(crowd.actions // 2):
            queue = crowd.queue_names[number % crowd.queues]
            inspector.pause(queue)
            inspector.resume(queue)
        operations = inspector.operations
        for number in range(crowd.operations):
            operations.run(*operations.begin(Order("run", task_ids=(f"nowhere-{number}",))))
        waiting, _ = operations.begin(Order("delete", "default", TaskState.ARCHIVED), undo_s=3600)
    return waiting.id
