"""A list that renews itself is sent again where it shows something else, and costs little where it does not."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import raw, text
from boilerd.broker.constants import LISTED_FIELDS, MOST_LISTED, MOST_LISTED_BYTES
from boilerd.settings.web import Grant
from boilerd.web import sampler
from browser import WHO, Browser, web_app
from builders import claim, enqueue, in_state

LIST = "/tasks?queue=default&state=pending"


class Poll:
    """What a browser does that shows a list: it asks again, and says what it has."""

    def __init__(self, browser: Browser, path: str = LIST, **headers: str) -> None:
        self._browser, self._path, self._headers = browser, path, headers
        self._tag = browser.get(path, **headers).headers["etag"]

    def is_sent(self) -> bool:
        """Whether it is sent again, and not a second time."""
        statuses = []
        for _ in range(2):
            answer = self._browser.get(self._path, if_none_match=self._tag, **self._headers)
            statuses.append(answer.status_code)
            self._tag = answer.headers["etag"]
        assert statuses[1] == 304
        return statuses[0] == 200


def asked(connection: redis.Redis, ask: Callable[[], object]) -> dict[str, int]:
    """Command → how often it was called meanwhile, also in scripts."""
    connection.config_resetstat()
    ask()
    stats: dict[str, Any] = connection.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def test_a_list_is_sent_again_for_each_field_that_is_shown_and_for_no_other(
    browser: Browser, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a", "b")
    poll = Poll(browser)

    def set_field(name: str) -> bool:
        connection.hset(keys.job("b"), name, "7")
        return poll.is_sent()

    sent = {name for name in (*LISTED_FIELDS, "last_heartbeat", "ready_at", "meta") if set_field(name)}

    assert sent == {*LISTED_FIELDS}


@pytest.mark.parametrize("state", TaskState)
def test_a_list_reads_all_of_a_task_that_is_shown_of_it(
    state: TaskState, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = in_state(client, broker, state)
    for number, name in enumerate(LISTED_FIELDS):
        connection.hsetnx(keys.job(task_id), name, str(number))
    inspector = Inspector(connection)

    listed = inspector.search(queue="default", state=state, is_whole=False).tasks

    assert [*listed] == inspector.tasks("default", state)


def test_a_list_is_the_same_in_whatever_order_redis_has_the_fields_of_a_task(
    browser: Browser, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    poll = Poll(browser)
    fields: dict[Any, Any] = connection.hgetall(keys.job("a"))
    connection.delete(keys.job("a"))
    connection.hset(keys.job("a"), mapping=dict(reversed(fields.items())))

    assert not poll.is_sent()


def test_a_list_is_sent_again_where_a_task_comes_is_due_at_another_time_or_is_gone(
    browser: Browser, connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", task_id="a", process_in=3600)
    poll = Poll(browser, "/tasks?queue=default&state=scheduled")

    def add(score: float) -> bool:
        connection.zadd(keys.registry("scheduled", "default"), {"a": score})
        return poll.is_sent()

    assert add(2e10)
    assert not add(2e10)
    assert add(2.1e10)
    client.enqueue("test:echo", task_id="b", process_in=3600)
    assert poll.is_sent()
    connection.delete(keys.job("a"))
    assert poll.is_sent()
    connection.set(keys.job("b"), "no record")
    assert poll.is_sent()


@pytest.mark.parametrize("task_id", ["a", b"\xff\xfe".decode("utf-8", "surrogateescape")], ids=["text", "no text"])
def test_a_list_with_bytes_that_are_no_text_is_sent_again_when_they_change(
    task_id: str, browser: Browser, connection: redis.Redis
) -> None:
    connection.sadd(keys.QUEUES, keys.queue("default"))
    connection.rpush(keys.queue("default"), raw(task_id))
    connection.hset(raw(keys.job(task_id)), mapping={"origin": "default", "status": "queued", "task_type": b"\xff"})
    poll = Poll(browser)

    same = poll.is_sent()
    connection.hset(raw(keys.job(task_id)), "task_type", b"\xfe")

    assert (same, poll.is_sent()) == (False, True)


@pytest.mark.parametrize("size", [MOST_LISTED_BYTES // 40, MOST_LISTED - 100, MOST_LISTED + 100])
def test_each_of_many_tasks_with_much_data_counts(
    size: int, browser: Browser, connection: redis.Redis, client: Client
) -> None:
    for task_id in map(str, range(50)):
        client.enqueue("test:echo", "x" * size, task_id=task_id)
    poll = Poll(browser)

    def change(task_id: str) -> bool:
        connection.hset(keys.job(task_id), "last_error", "ValueError: card 7")
        return poll.is_sent()

    assert not poll.is_sent()
    assert all(map(change, ("0", "8", "24", "25", "49")))


def test_a_poll_that_brings_nothing_asks_for_places_and_digests_and_reads_no_task(
    browser: Browser, connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    enqueue(client, *map(str, range(50)))
    poll = Poll(browser)

    sent: list[bool] = []
    counts = asked(connection, lambda: sent.append(poll.is_sent()))

    assert sent == [False]
    assert (counts["lrange"], counts["evalsha_ro"], counts["hmget"]) == (2, 4, 100)
    assert not counts.keys() & {"hgetall", "sismember", "zrange"}


def test_a_poll_of_retries_looks_at_hundreds_of_scheduled_tasks_at_once_and_brings_each_new_retry(
    browser: Browser, connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 3600.0)
    client.enqueue_many([("test:echo", None)] * 900, process_in=3600)
    registry = keys.registry("scheduled", "default")
    ids: Any = connection.zrange(registry, 0, -1)
    first, last = text(ids[0]), text(ids[-1])

    def fail(task_id: str) -> bool:
        connection.hset(keys.job(task_id), "last_failed_at", "2026-01-31T14:00:00Z")
        return poll.is_sent()

    poll = Poll(browser, "/tasks?queue=default&state=retry")
    sent = [poll.is_sent(), fail(last), fail(first), poll.is_sent()]
    counts = asked(connection, poll.is_sent)

    assert sent == [False, True, True, False]
    assert counts["evalsha_ro"] < 900 / 50


@pytest.mark.parametrize("is_known", [False, True], ids=["opened", "polled"])
def test_a_list_with_other_tasks_than_before_reads_them_once(
    is_known: bool, browser: Browser, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a", "b")
    tag = browser.get(LIST).headers["etag"]
    enqueue(client, "c")

    counts = asked(connection, lambda: browser.get(LIST, **({"if_none_match": tag} if is_known else {})))

    assert counts["hmget"] == 3


def test_who_has_queues_of_their_own_is_sent_each_change_of_a_task(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    roles: dict[str, Any] = {"anna": Grant(queues=["default"])}
    enqueue(client, "a")
    claim(broker, "default")

    with Browser(web_app(connection, trusted_proxies=["127.0.0.1"], trusted_header=WHO, roles=roles)) as browser:
        poll = Poll(browser, "/tasks?queue=default&state=active", **{WHO: "anna"})
        sent: Sequence[bool] = [
            bool(connection.hset(keys.job("a"), name, "2026-01-31T14:00:00Z")) or poll.is_sent()
            for name in ("last_heartbeat", "started_at")
        ]

    assert sent == [False, True]
