"""An ID that is remembered beyond its task."""

import socket
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import redis

from boilerd import (
    BrokerRefusedError,
    BrokerUnavailableError,
    Client,
    InvalidTaskError,
    QueueFullError,
    ServeMux,
    TaskIdConflictError,
    TaskState,
)
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.embedded import member_rights
from boilerd.broker.job_hash import NewTask
from boilerd.broker.moving import Move
from boilerd.errors import ConfigError
from boilerd.inspector import Inspector
from boilerd.tasks.options import task_options
from boilerd.tasks.retry import Verdict
from boilerd.testing import RecordingClient
from builders import complete_next, fail_next, pending
from support import StartValkey, Valkey, boilerd, clean_environment, private_directory, wait_until

DAY_S = 24 * 3600
ONCE = {"task_id": "receipt-1", "once": DAY_S}


def enqueue_once(client: Client, **options: Any) -> str:
    return client.enqueue("test:echo", **{**ONCE, **options}).id


def refused(client: Client) -> TaskIdConflictError:
    """The error of another enqueue with the ID."""
    with pytest.raises(TaskIdConflictError) as found:
        enqueue_once(client)
    return found.value


def test_a_completed_task_that_is_not_kept_leaves_its_id_remembered(client: Client, broker: Broker) -> None:
    enqueue_once(client)
    complete_next(broker)

    error = refused(client)

    assert str(error) == (
        "task ID 'receipt-1' was used within the time of its once, and its task is gone; it is not stored again"
    )
    assert (error.task_id, error.is_remembered) == ("receipt-1", True)


def test_while_the_task_is_there_the_error_says_that_the_id_is_taken(client: Client) -> None:
    enqueue_once(client)

    error = refused(client)

    assert str(error) == "task ID 'receipt-1' is taken; choose another, or leave it out"
    assert not error.is_remembered


def test_the_id_is_free_when_its_time_is_over(client: Client, broker: Broker, connection: redis.Redis) -> None:
    enqueue_once(client)
    complete_next(broker)
    connection.pexpire(keys.once("receipt-1"), 1)
    wait_until(lambda: not connection.exists(keys.once("receipt-1")), "it has expired")

    assert enqueue_once(client) == "receipt-1"


@pytest.mark.parametrize("once", [DAY_S, timedelta(days=1)])
def test_the_time_counts_from_the_enqueue_in_seconds_or_as_a_timedelta(
    client: Client, connection: redis.Redis, once: Any
) -> None:
    enqueue_once(client, once=once, process_in=3600)

    assert DAY_S - 60 < connection.ttl(keys.once("receipt-1")) <= DAY_S


@pytest.mark.parametrize("end", ["cancel", "delete", "drop", "archive"])
def test_whatever_became_of_the_task_its_id_is_remembered(client: Client, broker: Broker, end: str) -> None:
    enqueue_once(client)
    if end == "cancel":
        client.cancel("receipt-1")
    elif end == "delete":
        broker.act("delete", ["receipt-1"])
    elif end == "drop":
        fail_next(broker, Verdict.DROP)
    else:
        fail_next(broker, Verdict.ARCHIVE)
        broker.act("delete", ["receipt-1"])

    assert refused(client).is_remembered


def test_an_archived_task_can_be_run_again(client: Client, broker: Broker, connection: redis.Redis) -> None:
    enqueue_once(client)
    fail_next(broker, Verdict.ARCHIVE)

    Inspector(connection).run("receipt-1")

    assert complete_next(broker) == "receipt-1"
    assert refused(client).is_remembered


def test_an_enqueue_without_once_takes_the_id_all_the_same(client: Client, broker: Broker) -> None:
    enqueue_once(client)
    complete_next(broker)

    assert client.enqueue("test:echo", task_id="receipt-1").id == "receipt-1"


def test_an_enqueue_without_once_remembers_nothing(client: Client, broker: Broker, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="receipt-1")
    complete_next(broker)

    assert connection.keys(f"{keys.OWN}:once:*") == []
    assert enqueue_once(client) == "receipt-1"


@pytest.mark.parametrize("options", [{"once": 60}, {"once": 0.5, "task_id": "a"}, {"once": "24h", "task_id": "a"}])
def test_once_needs_an_id_and_a_time(client: Client, options: Any) -> None:
    with pytest.raises(InvalidTaskError, match=r"^once: "):
        client.enqueue("test:echo", **options)


def test_a_periodic_task_takes_no_once() -> None:
    with pytest.raises(ConfigError, match="every tick is taken once in any case"):
        ServeMux().cron("@daily", "test:echo", once=60)


def test_each_of_many_tasks_is_answered_by_itself(broker: Broker) -> None:
    tasks = [NewTask(name, "test:echo", b"null", task_options(task_id=name, once=60)) for name in ("a", "b", "a", "c")]

    answers = broker.enqueue(tasks)
    assert [complete_next(broker) for _ in range(3)] == ["a", "b", "c"]
    again = broker.enqueue(tasks)

    assert [isinstance(answer, TaskIdConflictError) for answer in answers] == [False, False, True, False]
    assert [getattr(answer, "is_remembered", None) for answer in again] == [True] * 4


def test_a_task_that_is_kept_out_for_another_reason_is_not_remembered(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    broker.set_limits({"default:max_length": 1})
    client.enqueue("test:echo")
    with pytest.raises(QueueFullError):
        enqueue_once(client)
    complete_next(broker)

    assert enqueue_once(client) == "receipt-1"


@pytest.mark.parametrize("process_in", [None, 3600])
def test_where_a_foreign_key_keeps_the_task_out_its_id_is_not_remembered(
    client: Client, connection: redis.Redis, process_in: float | None
) -> None:
    for key in (keys.queue("default"), keys.registry("scheduled", "default")):
        connection.set(key, "foreign")

    with pytest.raises(BrokerRefusedError):
        enqueue_once(client, process_in=process_in)

    assert not connection.exists(keys.once("receipt-1"))


@pytest.mark.parametrize("words", [("SET", "x"), ("RPUSH", "x"), ("HSET", "x", "1")], ids=lambda words: words[0])
def test_a_foreign_key_in_the_place_of_the_memory_keeps_its_own_id_out_and_no_other(
    client: Client, connection: Any, words: tuple[str, ...]
) -> None:
    key = keys.once("receipt-1")
    connection.execute_command(words[0], key, *words[1:])
    before = connection.dump(key)

    error = refused(client)

    assert error.is_remembered
    assert enqueue_once(client, task_id="receipt-2") == "receipt-2"
    assert client.enqueue("test:echo", task_id="receipt-1").id == "receipt-1"
    assert connection.dump(key) == before


def test_a_user_without_the_right_to_remember_stores_nothing(valkey: Valkey, connection: redis.Redis) -> None:
    rights = member_rights().replace(f" ~{keys.once('*')}", "").split()
    _set_rights(connection, "narrow", rights)
    try:
        with (
            Client(connect(f"{valkey.url}?username=narrow", password="any")) as client,
            pytest.raises(BrokerRefusedError, match="allows this user too little"),
        ):
            enqueue_once(client)
    finally:
        connection.acl_deluser("narrow")

    assert pending(connection) == []


def test_members_of_the_group_may_have_ids_remembered(valkey: Valkey, connection: redis.Redis) -> None:
    _set_rights(connection, "member", member_rights().split())
    try:
        with Client(connect(f"{valkey.url}?username=member", password="any")) as client:
            assert enqueue_once(client) == "receipt-1"
    finally:
        connection.acl_deluser("member")


def _set_rights(connection: Any, user: str, rights: list[str]) -> None:
    """Make a user without a password; words in brackets go together, as the server takes them."""
    found = ["reset", "on", "nopass"]
    for word in rights:
        if found and found[-1].startswith("(") and not found[-1].endswith(")"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    connection.execute_command("ACL", "SETUSER", user, *found)


def test_a_move_takes_the_memory_of_its_tasks_along(
    client: Client, connection: redis.Redis, start_valkey: StartValkey
) -> None:
    enqueue_once(client)
    client.enqueue("test:echo", task_id="plain")

    with connect(start_valkey().url) as there:
        for _ in Move(connection, there).run("default"):
            pass
        kept_s, plain = there.ttl(keys.once("receipt-1")), there.exists(keys.once("plain"))

    assert DAY_S - 60 < kept_s <= DAY_S
    assert not plain
    assert refused(client).is_remembered


def test_a_task_that_was_moved_away_can_be_moved_back(
    client: Client, connection: redis.Redis, start_valkey: StartValkey
) -> None:
    enqueue_once(client)

    with connect(start_valkey().url) as there:
        for source, target in ((connection, there), (there, connection)):
            for _ in Move(source, target).run("default"):
                pass

    assert pending(connection) == ["receipt-1"]


def test_a_move_shortens_no_memory(client: Client, broker: Broker, start_valkey: StartValkey) -> None:
    with Client.from_url(start_valkey().url) as target:
        enqueue_once(target)
        complete_next(Broker(target.connection))
        enqueue_once(client, once=60)

        assert [step.moved for step in Move(client.connection, target.connection).run("default") if step.moved]

        assert Inspector(target.connection).remembered_s("receipt-1") > 60


def test_the_recording_client_remembers_as_well() -> None:
    mux, client = ServeMux(), RecordingClient()
    mux.handle("test:echo", lambda task: None)
    enqueue_once(client)
    list(client.run_all(mux))

    assert refused(client).is_remembered
    assert client.enqueue("test:echo", task_id="receipt-1").state is TaskState.PENDING


def test_the_command_line_remembers_as_well(valkey: Valkey, broker: Broker) -> None:
    env = clean_environment(BOILERD_REDIS_URL=valkey.url)
    words = "enqueue", "worker:ping", "--id", "receipt-1", "--once", "24h"
    first, _ = boilerd(*words, env=env), complete_next(broker)

    second, asked = boilerd(*words, env=env), boilerd("task", "why", "receipt-1", env=env)
    third = boilerd("enqueue", "worker:ping", "--once", "24h", env=env)

    assert first.stdout == "receipt-1\n"
    assert (second.returncode, third.returncode) == (1, 2)
    assert "was used within the time of its once" in second.stderr
    assert asked.stderr.startswith("note: its ID is remembered by once, and refused with it for ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "with this ID is safe until it has ended; give task_id and once to have it safe after that"),
        (ONCE, "with this ID and once is safe for 24h"),
    ],
)
def test_an_enqueue_without_an_answer_says_when_another_is_safe(options: Any, told: str) -> None:
    with private_directory() as directory, closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(directory / "silent.sock"))
        silent.listen()

        with (
            Client.from_url(f"unix://{directory}/silent.sock", timeout_s=0.1) as client,
            pytest.raises(BrokerUnavailableError, match=f"{told}$"),
        ):
            client.enqueue("test:echo", **options)
