"""What strangers put into the broker is archived or passed over, never executed, and stops nobody."""

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue
from rq.serializers import PickleSerializer

from boilerd import Client, InvalidPayloadError
from boilerd.broker import keys
from boilerd.entry_point import ENTRY_POINT
from builders import rq_queue
from support import RunningDaemon, StartDaemon, completed, own_daemon, wait_until

ECHO = json.dumps([ENTRY_POINT, None, ["test:echo", None], {}]).encode()


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon with one worker and a Valkey of its own; the tests share it."""
    with own_daemon("--concurrency", "1", "--queues", "default") as made:
        yield made


@pytest.fixture
def client(daemon: RunningDaemon) -> Iterator[Client]:
    with Client.from_url(daemon.redis_url) as made:
        yield made


def refused(daemon: RunningDaemon) -> int:
    """How many jobs it has told of that it refused, one by one or by their number."""
    return sum(line.get("folded", 1) for line in daemon.lines() if line["message"].startswith("task refused"))


def push(connection: redis.Redis, job: bytes, fields: dict[str, Any], queue: str = "default") -> None:
    """Put a job into a queue as anybody could."""
    connection.sadd(keys.QUEUES, keys.queue(queue))
    key = f"{keys.RQ}:job:".encode() + job
    if fields:
        record: dict[Any, Any] = {"origin": queue, "status": "queued", "data": ECHO, **fields}
        connection.hset(key, mapping=record)
    connection.rpush(keys.queue(queue), job)


def nested(depth: int) -> bytes:
    return b'["%b",null,["test:echo",%b%b],{}]' % (ENTRY_POINT.encode(), b"[" * depth, b"]" * depth)


def call(*words: object) -> bytes:
    return json.dumps(list(words)).encode()


def assert_archived(daemon: RunningDaemon, connection: redis.Redis, job: bytes) -> str:
    """It stands in the archive with a reason, and nowhere else."""
    wait_until(lambda: connection.zscore(keys.registry("failed", "default"), job), f"{job!r} was archived")
    assert not [pair for pair, _ in connection.zscan_iter(keys.wip("default")) if bytes(pair).startswith(job + b":")]
    assert not daemon.lines("process died")
    return str(connection.hget(f"{keys.RQ}:job:".encode() + job, "last_error"), "utf-8")  # type: ignore[arg-type]


def assert_well(daemon: RunningDaemon, client: Client) -> None:
    """A good task behind all of it is completed."""
    task_id = client.enqueue("test:echo").id
    daemon.wait_for("task completed", task_id=task_id, attempt=1)
    assert not daemon.lines("process died")
    assert not daemon.lines("process crashed")


def bomb() -> bytes:
    """600 MB of blanks; a block that begins anew may be repeated, so that nobody has to pack all of them."""
    packer = zlib.compressobj()
    head = packer.compress(b"[") + packer.flush(zlib.Z_FULL_FLUSH)
    return head + (packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)) * 600


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "random bytes": ({"data": os.urandom(64)}, "is not JSON of a call"),
    "no data": ({"data": b""}, "is not JSON of a call"),
    "a bomb": ({"data": bomb()}, "unpacks to more than"),
    "a torn zlib": ({"data": zlib.compress(ECHO)[:10]}, "is not JSON of a call"),
    "no zlib": ({"data": b"xyz"}, "cannot be unpacked"),
    "nested too deep": ({"data": nested(10_000)}, "is nested too deep to be read"),
    "nan": ({"data": ECHO.replace(b"null]", b"NaN]")}, "is not JSON of a call"),
    "another function": ({"data": call("os.system", None, ["touch pwned"], {})}, "function 'os.system' is not a"),
    "a method": ({"data": call(ENTRY_POINT, "instance", ["test:echo"], {})}, "are not [task type, payload]"),
    "three arguments": ({"data": call(ENTRY_POINT, None, ["test:echo", 1, 2], {})}, "are not [task type, payload]"),
    "a type with a line break": ({"data": call(ENTRY_POINT, None, ["a\nb", None], {})}, "task type 'a\\nb'"),
    "a type with a format": ({"data": call(ENTRY_POINT, None, ["%s{}{0}", None], {})}, "task type '%s{}{0}'"),
    "a type with lua": ({"data": call(ENTRY_POINT, None, ["'..redis.call('FLUSHALL')..'", None], {})}, "task type"),
    "headers of numbers": ({"data": call(ENTRY_POINT, None, ["test:echo", 1], {"headers": {"a": 1}})}, "header 'a'"),
    "headers of a list": ({"data": call(ENTRY_POINT, None, ["test:echo", 1], {"headers": [1]})}, "headers: list is no"),
    "huge headers": ({"data": call(ENTRY_POINT, None, ["test:echo", 1], {"headers": {"a": "b" * 9999}})}, "bytes are"),
    "a timeout of words": ({"timeout": "soon"}, "is damaged"),
    "a deadline of words": ({"deadline": "soon"}, "is damaged"),
    "a huge deadline": ({"deadline": "1e300"}, "is damaged"),
    "retries of words": ({"number_of_retries": "many"}, "is damaged"),
    "a retention of words": ({"result_ttl": "long"}, "is damaged"),
    "a date of words": ({"enqueued_at": "today"}, "is damaged"),
    "intervals of words": ({"retry_intervals": "{"}, "is damaged"),
}


@pytest.mark.fault(32)
@pytest.mark.fault(33)
def test_broken_jobs_are_archived_with_a_reason_and_a_good_one_behind_them_runs(
    daemon: RunningDaemon, client: Client
) -> None:
    before = refused(daemon)
    for name, (fields, _) in BROKEN.items():
        push(client.connection, name.replace(" ", "-").encode(), fields)

    assert_well(daemon, client)

    reasons = {name: assert_archived(daemon, client.connection, name.replace(" ", "-").encode()) for name in BROKEN}
    assert {name: reason for name, reason in reasons.items() if BROKEN[name][1] not in reason} == {}
    wait_until(lambda: refused(daemon) == before + len(BROKEN), "all are told")
    assert not (daemon.directory / "pwned").exists()


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    "job", [b"\xff\xfe", b"a\nb", b"a\x1b[2J", b"\xed\xa0\x80"], ids=["bytes", "line", "escape", "surrogate"]
)
def test_a_job_whose_id_is_no_text_is_archived_once(daemon: RunningDaemon, client: Client, job: bytes) -> None:
    before = refused(daemon)
    push(client.connection, job, {"task_type": "test:echo"})

    assert_well(daemon, client)

    assert "is no text" in assert_archived(daemon, client.connection, job)
    wait_until(lambda: refused(daemon) == before + 1, "it was refused once")


@pytest.mark.fault(32)
def test_very_many_refused_jobs_are_counted_in_the_log_instead_of_a_line_each(
    start_daemon: StartDaemon, connection: redis.Redis
) -> None:
    daemon, client = start_daemon("--concurrency", "1").ready(), Client(connection)
    client.connection.rpush(keys.queue("default"), *(f"junk-{n}" for n in range(2000)))

    def folded() -> list[dict[str, Any]]:
        return [line for line in daemon.lines() if "folded" in line]

    assert_well(daemon, client)

    wait_until(lambda: refused(daemon) == 2000, "all are told")
    assert len(daemon.lines("task refused")) < 1000
    assert {(line["message"][:18], line["level"], "task_id" in line) for line in folded()} == {
        ("task refused: and ", "error", False)
    }


@pytest.mark.fault(32)
def test_jobs_without_a_record_or_with_one_of_another_kind_are_passed_over(
    daemon: RunningDaemon, client: Client
) -> None:
    connection, before = client.connection, refused(daemon)
    push(connection, b"gone", {})
    connection.set(keys.job("text"), "no hash")
    push(connection, b"text", {})
    connection.rpush(keys.job("list"), "no hash")
    push(connection, b"list", {})

    assert_well(daemon, client)

    wait_until(lambda: refused(daemon) == before + 3, "all three were refused")
    wait_until(lambda: not connection.zcard(keys.wip("default")), "nothing is claimed")


@pytest.mark.fault(32)
def test_a_record_that_is_deleted_while_its_task_runs_or_is_scheduled_leaves_nothing_behind(
    daemon: RunningDaemon, client: Client
) -> None:
    running = client.enqueue("test:sleep", 0.5).id
    scheduled = client.enqueue("test:echo", process_in=0.3).id
    daemon.wait_for("task started", task_id=running)

    client.connection.delete(keys.job(running), keys.job(scheduled))

    ends = ("task completed", "outcome dropped, the lease was lost")  # the second if a heartbeat has ended it first
    wait_until(lambda: any(daemon.lines(end, task_id=running) for end in ends), "the attempt has ended")
    assert_well(daemon, client)
    wait_until(lambda: not client.connection.zcard(keys.registry("scheduled", "default")), "it is not scheduled")
    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "nothing is claimed")
    assert not client.connection.exists(keys.job(running), keys.job(scheduled))


@pytest.mark.fault(32)
def test_an_id_that_stands_twice_in_its_queue_runs_once(daemon: RunningDaemon, client: Client) -> None:
    client.connection.sadd(f"{keys.OWN}:paused", "default")
    task_id = client.enqueue("test:echo").id
    client.connection.rpush(keys.queue("default"), task_id)
    client.connection.srem(f"{keys.OWN}:paused", "default")

    assert_well(daemon, client)

    wait_until(lambda: not client.connection.zcard(keys.wip("default")), "all is acknowledged")
    assert len(daemon.lines("task completed", task_id=task_id)) == 1
    assert completed(client.connection, task_id) == 1


@pytest.mark.fault(32)
def test_a_payload_of_100_megabytes_is_refused_at_the_enqueue_and_survived_in_the_broker(
    daemon: RunningDaemon, client: Client
) -> None:
    with pytest.raises(InvalidPayloadError, match="bytes are more than"):
        client.enqueue("test:echo", "x" * 100_000_000)

    data = b'["%b",null,["test:size","%b"],{}]' % (ENTRY_POINT.encode(), b"x" * 100_000_000)
    push(client.connection, b"huge", {"task_type": "test:size", "data": data})

    daemon.wait_for("task completed", task_id="huge")
    assert_well(daemon, client)


@pytest.mark.fault(32)
@pytest.mark.parametrize("payload", [float("nan"), {"a": [float("inf")]}, (1, -float("inf"))])
def test_a_number_that_json_lacks_is_refused_at_the_enqueue(client: Client, payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match="use what JSON can hold"):
        client.enqueue("test:echo", payload)


@pytest.mark.fault(33)
def test_a_pickled_job_is_never_loaded(daemon: RunningDaemon, client: Client) -> None:
    queue = Queue("default", connection=client.connection, serializer=PickleSerializer)

    job = queue.enqueue(Evil(str(daemon.directory / "pwned")))

    reason = assert_archived(daemon, client.connection, job.id.encode())
    assert "pickled jobs are never loaded" in reason
    assert not (daemon.directory / "pwned").exists()
    assert_well(daemon, client)


@pytest.mark.fault(33)
@pytest.mark.parametrize("outcome", ["test:echo", "test:fail"])
def test_callbacks_and_webhooks_in_a_job_are_never_called(daemon: RunningDaemon, client: Client, outcome: str) -> None:
    target = daemon.directory / "pwned"
    hooks = {f"{kind}_callback_name": "os.system" for kind in ("success", "failure", "stopped")} | {
        "webhooks": json.dumps([{"url": f"file://{target}"}]),
        "meta": b"\x80\x04cos\nsystem\n.",
    }
    data = call(ENTRY_POINT, None, [outcome, f"touch {target}"], {})
    push(client.connection, b"hooked", {"data": data, "task_type": outcome, "max_retries": "0", **hooks})

    assert_well(daemon, client)

    daemon.wait_for("task completed" if outcome == "test:echo" else "task archived", task_id="hooked")
    assert not target.exists()


@pytest.mark.fault(33)
def test_a_job_of_a_plain_rq_client_is_not_imported(daemon: RunningDaemon, client: Client) -> None:
    target = daemon.directory / "pwned"
    queue = rq_queue(client.connection)

    job = queue.enqueue("os.system", f"touch {target}")

    assert "it was not imported" in assert_archived(daemon, client.connection, job.id.encode())
    assert not target.exists()


class Evil:
    """Creates a file when it is unpickled, or called."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)

    __name__ = __qualname__ = "evil"

    def __call__(self) -> None:
        Path(self.path).touch()


@pytest.mark.fault(32)
@pytest.mark.parametrize("key", ["queue", "wip", "scheduled", "failed"])
def test_a_key_of_another_kind_stops_its_own_queue_only(
    start_daemon: StartDaemon, connection: redis.Redis, key: str
) -> None:
    client = Client(connection)
    broken = {
        "queue": keys.queue("bad"), "wip": keys.wip("bad"), "scheduled": keys.registry("scheduled", "bad"),
        "failed": keys.registry("failed", "bad"),
    }[key]  # fmt: skip
    client.connection.sadd(keys.QUEUES, keys.queue("bad"))
    client.connection.set(broken, "a stranger's")
    if key == "wip":
        push(client.connection, b"kept", {"task_type": "test:echo"}, "bad")
    daemon = start_daemon("--concurrency", "1", "--queues", "bad=9,default=1").ready()

    assert_well(daemon, client)

    later = client.enqueue("test:echo", process_in=0.2).id
    daemon.wait_for("task completed", task_id=later)
    if key == "wip":
        assert client.connection.lrange(keys.queue("bad"), 0, -1) == [b"kept"]
    assert daemon.stop() == 0
