"""Enqueuing from Python."""

import itertools
import math
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID

import pytest
import redis

from boilerd import (
    BrokerUnavailableError,
    Client,
    DuplicateTaskError,
    InvalidPayloadError,
    InvalidTaskError,
    ServeMux,
    TaskIdConflictError,
    TaskInfo,
    TaskState,
)
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.settings.definitions import Settings
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from support import StartDaemon, Valkey


def test_an_enqueue_answers_with_what_was_stored(client: Client, connection: redis.Redis) -> None:
    info = client.enqueue("email:deliver", {"to": "a@b.c"}, queue="critical", max_retries=5, timeout=300, retention=9)

    assert info == TaskInfo(
        id=info.id, type="email:deliver", queue="critical", state=TaskState.PENDING,
        max_retries=5, timeout_s=300, retention_s=9, payload={"to": "a@b.c"},
    )  # fmt: skip
    assert connection.lrange(keys.queue("critical"), 0, -1) == [info.id.encode()]


def test_defaults_are_asynqs(client: Client) -> None:
    info = client.enqueue("email:deliver")

    assert (info.queue, info.max_retries, info.timeout_s, info.retention_s) == ("default", 25, 1800, 0)


def test_an_enqueue_is_one_round_trip(valkey: Valkey, client: Client, connection: redis.Redis) -> None:
    client.enqueue("test:echo")
    with connection.monitor() as monitor:  # type: ignore[no-untyped-call]
        client.enqueue("test:echo")
        client.connection.ping()

        commands = itertools.takewhile(lambda c: c["command"] != "PING", monitor.listen())
        over_the_wire = [c["command"].split()[0] for c in commands if c["client_type"] != "lua"]

    assert over_the_wire == ["EVALSHA"]


def test_a_queue_that_no_living_worker_works_on_is_told_once(
    client: Client, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.register("host.run.0", ["served"], {"state": "idle"})

    for queue in ("served", "told-once", "told-once"):
        info = client.enqueue("test:echo", queue=queue)
        assert info.state is TaskState.PENDING
    found = client.enqueue_many([("test:echo", None)] * 1200, queue="told-once-of-many")

    assert len(found) == 1200
    assert [(record.levelname, record.name, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "boilerd.client",
            f"no worker works on queue {name!r}, its tasks wait until one does; check the name",
        )
        for name in ("told-once", "told-once-of-many")
    ]


def test_a_queue_is_not_told_of_while_no_worker_is_known(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.enqueue("test:echo", queue="before-all-workers")

    assert caplog.records == []


def test_a_type_without_a_handler_is_told_once_where_the_mux_is_known(
    connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    mux = ServeMux()
    mux.handle("mail:", lambda task: None)
    client = Client(connection, mux=mux)

    for task_type in ("mail:send", "maill:send", "maill:send"):
        client.enqueue(task_type)

    told = "the mux has no handler for task type 'maill:send', its tasks fail; check the name"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_a_task_without_an_id_gets_a_random_uuid(client: Client) -> None:
    ids = [UUID(info.id) for info in client.enqueue_many([("test:echo", None)] * 50)]  # type: ignore[union-attr]

    assert {(each.version, each.variant) for each in ids} == {(4, RFC_4122)}


def test_two_tasks_never_share_an_id(client: Client) -> None:
    assert len({client.enqueue("test:echo").id for _ in range(50)}) == 50


def test_a_taken_id_is_an_error_that_names_it(client: Client) -> None:
    client.enqueue("test:echo", 1, task_id="mine")

    with pytest.raises(TaskIdConflictError, match="'mine' is taken") as raised:
        client.enqueue("test:echo", 2, task_id="mine")

    assert raised.value.task_id == "mine"


def test_many_tasks_are_answered_one_by_one(client: Client, connection: redis.Redis) -> None:
    answers = client.enqueue_many([("test:echo", number) for number in range(1200)], queue="low")

    assert connection.llen(keys.queue("low")) == 1200
    assert [answer.payload for answer in answers if isinstance(answer, TaskInfo)] == list(range(1200))


def test_many_tasks_with_one_id_are_stored_once(client: Client, connection: redis.Redis) -> None:
    first, second = client.enqueue_many([("test:echo", 1), ("test:echo", 2)], task_id="one")

    assert isinstance(first, TaskInfo)
    assert isinstance(second, TaskIdConflictError)
    assert connection.llen(keys.queue("default")) == 1


def test_no_task_of_many_is_sent_when_one_is_not_allowed(client: Client, connection: redis.Redis) -> None:
    with pytest.raises(InvalidTaskError):
        client.enqueue_many([("test:echo", 1), ("bad type", 2)])
    with pytest.raises(InvalidPayloadError):
        client.enqueue_many([("test:echo", 1), ("test:echo", object())])

    assert connection.dbsize() == 0


@pytest.mark.parametrize("one", [("test:echo",), ("test:echo", 1, 2), "test:echo", None, 5, []])
def test_what_is_no_pair_of_many_is_told_by_its_place(client: Client, connection: redis.Redis, one: Any) -> None:
    with pytest.raises(InvalidTaskError, match=r"^task \[2\] of many is not \(type, payload\), a pair$"):
        client.enqueue_many([("test:echo", 0), ("test:echo", 1), one, ("test:echo", 3)])

    assert connection.dbsize() == 0


@pytest.mark.parametrize(
    ("one", "kind", "why"),
    [
        (("bad type", 1), InvalidTaskError, "task type 'bad type'"),
        (("test:echo", math.nan), InvalidPayloadError, r"payload: \$ is nan"),
    ],
)
def test_what_is_wrong_with_one_of_many_is_told_with_its_place(
    client: Client, connection: redis.Redis, one: tuple[str, Any], kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=rf"^task \[600\] of many: {why}") as raised:
        client.enqueue_many([("test:echo", 0)] * 600 + [one])

    assert type(raised.value) is kind
    assert connection.dbsize() == 0


def test_large_payloads_are_sent_in_several_scripts(valkey: Valkey, client: Client, connection: redis.Redis) -> None:
    payloads = ["x" * size for size in (3 << 20, 3 << 20, 3 << 20, 9 << 20, 1, 1)]
    client.enqueue("test:echo")  # loads the script
    before = connection.info("commandstats")["cmdstat_evalsha"]["calls"]

    answers = client.enqueue_many([("test:size", payload) for payload in payloads])

    after = connection.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before == 3
    stored = [answer.id.encode() for answer in answers if isinstance(answer, TaskInfo)]
    assert connection.lrange(keys.queue("default"), 1, -1) == stored
    assert len(stored) == len(payloads)


def test_no_tasks_are_no_round_trip() -> None:
    with Client.from_url("unix:///nowhere.sock") as client:
        assert client.enqueue_many([]) == []


@dataclass
class Mail:
    to: str
    size: int


@pytest.mark.parametrize(
    ("payload", "stored"),
    [(None, b"null"), (Mail("x", 3), b'{"to":"x","size":3}'), ("ü\n", b'"\xc3\xbc\\n"'), ([1, [2]], b"[1,[2]]")],
)
def test_whatever_has_a_json_form_can_be_a_payload(
    client: Client, connection: redis.Redis, payload: Any, stored: bytes
) -> None:
    info = client.enqueue("test:echo", payload)

    data = connection.hget(keys.job(info.id), "data")
    assert data == b'["boilerd.entry_point.run",null,["test:echo",' + stored + b"],{}]"


class Name(str, Enum):  # noqa: UP042 - what f-strings make of such a one is its name in the program
    LOW = "low"
    ECHO = "test:echo"


def test_names_of_an_enum_are_stored_and_locked_as_their_texts(client: Client, connection: redis.Redis) -> None:
    info = client.enqueue(Name.ECHO, queue=Name.LOW, unique=60, concurrency_key=Name.LOW)

    assert connection.hmget(keys.job(info.id), "task_type", "origin", "concurrency_key") == [
        b"test:echo",
        b"low",
        b"low",
    ]
    with pytest.raises(DuplicateTaskError):
        client.enqueue("test:echo", queue="low", unique=60)


@pytest.mark.parametrize("payload", [object(), {1j: 2}, {"a": {1, 2, open}}])
def test_a_payload_without_a_json_form_is_refused(client: Client, connection: redis.Redis, payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match="payload: "):
        client.enqueue("test:echo", payload)

    assert connection.dbsize() == 0


def test_a_payload_that_is_too_large_is_refused(client: Client, connection: redis.Redis) -> None:
    with pytest.raises(InvalidPayloadError, match="store the data elsewhere"):
        client.enqueue("test:echo", "x" * DEFAULT_MAX_PAYLOAD)

    assert connection.dbsize() == 0


#: A program with as few frames as there can be, for each of them takes from the depth that Python 3.11 allows.
DEEPEST = """
import sys
from boilerd import Client, InvalidPayloadError
payload = parts = []
for _ in range(11_000):
    parts.append([])
    parts = parts[0]
with Client.from_url(sys.argv[1]) as client:
    while payload:
        try:
            print(client.enqueue("test:size", payload, unique=float(sys.argv[2]) or None).id)
            break
        except InvalidPayloadError as error:
            assert "nested too deep" in str(error)
            payload = payload[0]
"""


@pytest.mark.parametrize("unique", ["0", "60"])
def test_the_deepest_payload_that_is_accepted_can_be_run(
    valkey: Valkey, start_daemon: StartDaemon, unique: str
) -> None:
    daemon = start_daemon()

    done = subprocess.run(
        [sys.executable, "-c", DEEPEST, valkey.url, unique], capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    daemon.wait_for("task completed", task_id=done.stdout.strip())


@pytest.mark.parametrize(
    "options", [{"queue": "a b"}, {"timeout": -1}, {"max_retries": 1.5}, {"retention": "x"}, {"task_id": "a b"}]
)
def test_an_option_that_is_not_allowed_is_refused(client: Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError):
        client.enqueue("test:echo", **options)


def test_an_unknown_option_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match=r"^unknown option 'quue', did you mean 'queue'\? there are: queue, timeout, "):
        client.enqueue("test:echo", quue="low")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^unknown option 'xyz'; there are: queue, .*, headers, inherit$"):
        client.enqueue_many([("test:echo", None)], xyz=5)  # type: ignore[call-arg]


def test_a_broker_that_went_away_before_the_task_was_sent_has_not_stored_it(directory: Path) -> None:
    server = Valkey(directory).start()
    with Client.from_url(server.url) as client:
        client.enqueue("test:echo")
        server.stop()

        with pytest.raises(BrokerUnavailableError, match="No such file") as refusal:
            client.enqueue("test:echo", task_id="mine")

    assert not refusal.value.was_sent
    assert "may have been stored" not in str(refusal.value)


def test_a_client_can_be_made_from_the_settings(valkey: Valkey, connection: redis.Redis) -> None:
    with Client.from_settings(Settings(redis_url=valkey.url, redis_db=2)) as client:
        client.enqueue("test:echo")

        assert client.connection.dbsize() > 0
    assert connection.dbsize() == 0
