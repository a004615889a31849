"""`boilerd task move --to URL`: the waiting tasks of one broker go to another one."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.moving import CHUNK, Move
from boilerd.errors import ConfigError
from boilerd.inspector import Inspector
from boilerd.tasks.task import TaskState
from builders import claim, in_state, pending
from support import Failpoints, StartValkey, Valkey, boilerd, clean_environment

WAITING = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED)


@pytest.fixture
def target(start_valkey: StartValkey) -> Valkey:
    return start_valkey()


@pytest.fixture
def there(target: Valkey) -> Iterator[redis.Redis]:
    """A connection to the broker to which tasks are moved."""
    with connect(target.url) as connection:
        yield connection


@pytest.fixture(params=["before-arrive", "after-arrive", "before-act", "after-act"])
def armed(failpoints: Failpoints, request: pytest.FixtureRequest) -> Failpoints:
    """Kills a command at one of the points between the steps of a move."""
    failpoints.arm(request.param)
    return failpoints


def move(valkey: Valkey, target: Valkey, *words: str, **env: str) -> Any:
    return boilerd(
        "task", "move", "--to", target.url, *words, env=clean_environment(BOILERD_REDIS_URL=valkey.url, **env)
    )


def everything(connection: redis.Redis, task_id: str) -> dict[str, Any]:
    """All that a broker holds of a task."""
    stores: Any = connection
    return {
        "job": stores.hgetall(keys.job(task_id)),
        "results": stores.xrange(keys.results(task_id)),
        "is_kept": stores.ttl(keys.job(task_id)) < 0,
        **{
            kind: stores.zscore(keys.registry(kind, "default"), task_id)
            for kind in ("scheduled", "failed")
        },
        "archived": stores.zscore(keys.archived("default"), task_id),
    }  # fmt: skip


def fill(client: Client, broker: Broker) -> dict[TaskState, str]:
    """A task in each state in which tasks wait, with all options, and one that waits for a concurrency key."""
    made = {state: in_state(client, broker, state) for state in (TaskState.ARCHIVED, TaskState.RETRY)}
    made[TaskState.SCHEDULED] = client.enqueue(
        "test:echo", {"ä": 1}, process_in=3600, retention=60, timeout=5, max_retries=3, unique=7200
    ).id
    made[TaskState.PENDING] = client.enqueue("test:echo", "x" * 100_000, unique=60, unique_until="ttl").id
    return made


def test_each_waiting_task_is_there_with_all_its_fields(
    client: Client, connection: redis.Redis, valkey: Valkey, target: Valkey, there: redis.Redis
) -> None:
    broker = Broker(connection)
    made = fill(client, broker)
    before = {state: everything(connection, task_id) for state, task_id in made.items()}
    locks = {key: connection.get(key) for key in connection.keys(f"{keys.OWN}:unique:*")}

    done = move(valkey, target)

    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    assert {state: everything(there, task_id) for state, task_id in made.items()} == before
    assert {state: Inspector(there).task(task_id).state for state, task_id in made.items()} == {s: s for s in WAITING}
    assert len(locks) == 2
    assert {key: there.get(key) for key in locks} == locks
    assert connection.keys(keys.job("*")) == []
    assert connection.smembers(keys.PAUSED) == connection.smembers(keys.MOVING) == set()


def test_tasks_keep_their_order_and_run_there(
    client: Client, broker: Broker, connection: redis.Redis, there: redis.Redis
) -> None:
    for number in range(3):
        client.enqueue("test:echo", task_id=f"key-{number}", concurrency_key="k")
    running = claim(broker)
    assert broker.advance("host.run.1", ("default",)).claims == []  # they step aside
    ids = [client.enqueue("test:echo", task_id=f"{number:03}").id for number in range(2 * CHUNK + 1)]

    steps = list(Move(connection, there).run("default"))

    assert running.task_id == "key-0"
    assert pending(there) == ["key-1", "key-2", *ids]
    assert max(len(step.moved) for step in steps) <= CHUNK
    assert pending(connection) == []
    assert [claim(Broker(there)).task_id] == ["key-1"]


def test_a_move_that_is_killed_loses_nothing_and_the_next_one_ends_it(
    valkey: Valkey, connection: redis.Redis, target: Valkey, there: redis.Redis, armed: Failpoints
) -> None:
    broker, client = Broker(connection), Client(connection)
    made = set(fill(client, broker).values())

    killed = move(valkey, target, **armed.env)
    here, gone = ({each for each in made if store.exists(keys.job(each))} for store in (connection, there))
    claimed = broker.advance("host.run.0", ("default",)).claims
    again = move(valkey, target)

    assert killed.returncode == -9
    assert here | gone == made
    assert claimed == []
    assert again.returncode == 0, again.stderr
    assert {each for each in made if there.exists(keys.job(each))} == made
    assert connection.keys(keys.job("*")) == []
    assert pending(there) == [Inspector(there).tasks("default", TaskState.PENDING)[0].id]
    assert connection.smembers(keys.PAUSED) == set()


def test_a_move_leaves_queues_paused_that_have_another_key_prefix(
    valkey: Valkey, connection: redis.Redis, target: Valkey
) -> None:
    settings = valkey.socket.parent / "boilerd.toml"
    settings.write_text('key_prefix = "app"\n')
    connection.sadd(keys.MOVING, "default")

    done = move(valkey, target, "-q", "default", "--config", str(settings))

    assert done.returncode == 0, done.stderr
    assert connection.smembers(keys.MOVING) == {b"default"}


def test_a_task_stays_where_another_one_has_its_id_or_its_lock_there(
    client: Client, connection: redis.Redis, valkey: Valkey, target: Valkey, there: redis.Redis
) -> None:
    with Client(there) as other:
        other.enqueue("test:echo", "theirs", task_id="same")
        other.enqueue("test:echo", "locked", unique=60, task_id="holder")
    client.enqueue("test:echo", "ours", task_id="same")
    client.enqueue("test:echo", "locked", unique=60, task_id="second")
    client.enqueue("test:echo", task_id="third")

    done = move(valkey, target)

    assert (done.returncode, done.stdout) == (1, "1\n")
    assert "task same stays here: another task has its ID there" in done.stderr
    assert "task second stays here: another task holds its unique lock there" in done.stderr
    assert pending(connection) == ["same", "second"]
    assert pending(there) == ["same", "holder", "third"]
    assert Inspector(there).task("same").payload == "theirs"


def test_a_queue_that_was_paused_before_stays_paused(
    client: Client, connection: redis.Redis, there: redis.Redis
) -> None:
    client.enqueue("test:echo")
    Inspector(connection).pause("default")

    list(Move(connection, there).run("default"))

    assert connection.smembers(keys.PAUSED) == {b"default"}


def test_a_move_to_the_broker_itself_is_refused(connection: redis.Redis, valkey: Valkey) -> None:
    with connect(valkey.url) as same, pytest.raises(ConfigError) as raised:
        Move(connection, same).check()

    assert str(raised.value) == "--to is the broker on which the tasks are; name another one"


def test_the_password_of_the_other_broker_comes_from_a_file(
    client: Client, valkey: Valkey, start_valkey: StartValkey
) -> None:
    target = start_valkey("--requirepass", "hunter2")
    (target.socket.parent / "password").write_text("hunter2\n")
    client.enqueue("test:echo")

    refused = move(valkey, target)
    done = move(valkey, target, "--password-file", str(target.socket.parent / "password"))

    assert refused.returncode == 1
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
