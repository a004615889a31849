"""Tasks are listed part by part, and found by what somebody types, as far as they may see it."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
import redis

from boilerd import Client, Inspector, InvalidTaskError, QueueNotFoundError, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import MOST_SEARCHED
from boilerd.broker.script_calls import ScriptCalls
from boilerd.broker.task_filter import TaskFilter, parse_filter
from boilerd.tasks.retry import Verdict
from builders import complete_next, enqueue, fail_next, rq_job

NOW = datetime(2026, 1, 31, 14, tzinfo=UTC)


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


@pytest.fixture(autouse=True)
def _patient_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine cuts no search short."""
    defaults: Any = Inspector.search.__kwdefaults__
    monkeypatch.setitem(defaults, "within_s", 20.0)


def ids(inspector: Inspector, wanted: TaskFilter | str = "", **choice: Any) -> list[str]:
    return [task.id for task in inspector.search(wanted, **choice).tasks]


def all_parts(search: Callable[[str], Any]) -> list[list[str]]:
    """The IDs of each part, to the end."""
    parts, after = list[list[str]](), ""
    while not parts or after:
        found = search(after)
        parts.append([task.id for task in found.tasks])
        after = found.after
    return [part for part in parts if part]


@pytest.mark.parametrize(
    "state", [TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.COMPLETED]
)
def test_a_list_is_read_part_by_part(state: TaskState, inspector: Inspector, client: Client, broker: Broker) -> None:
    for number in range(5):
        later: dict[str, Any] = {"process_in": 60 + number} if state is TaskState.SCHEDULED else {}
        client.enqueue("test:echo", task_id=f"t{number}", retention=60 + number, **later)
        if state is TaskState.RETRY:
            fail_next(broker, Verdict.RETRY, delay_s=60.0 + number)
        elif state is TaskState.ARCHIVED:
            fail_next(broker, Verdict.ARCHIVE)
        elif state is TaskState.COMPLETED:
            complete_next(broker)

    parts = all_parts(lambda after: inspector.search(queue="default", state=state, size=2, after=after))

    assert parts == [["t0", "t1"], ["t2", "t3"], ["t4"]]


def test_what_comes_and_goes_before_a_part_moves_it_not(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    for number in range(6):
        client.enqueue("test:echo", task_id=f"t{number}", process_in=100 + number)
    first = inspector.search(queue="default", state=TaskState.SCHEDULED, size=3)

    inspector.delete("t0")
    client.enqueue("test:echo", task_id="new", process_in=1)
    client.enqueue("test:echo", task_id="newer", process_in=2)

    assert ids(inspector, queue="default", state=TaskState.SCHEDULED, after=first.after) == ["t3", "t4", "t5"]
    inspector.delete("t2")  # behind which it would go on
    assert ids(inspector, queue="default", state=TaskState.SCHEDULED, after=first.after) == ["t3", "t4", "t5"]


def test_the_end_of_a_list_and_what_is_around_a_task_are_found(inspector: Inspector, client: Client) -> None:
    enqueue(client, *(f"t{number:02}" for number in range(20)))
    shown = {"queue": "default", "state": TaskState.PENDING}

    assert ids(inspector, after=inspector.last_place("default", TaskState.PENDING, 3), **shown) == ["t17", "t18", "t19"]
    assert ids(inspector, after=inspector.place_around("default", "t10", 4), size=4, **shown) == [
        "t08", "t09", "t10", "t11",
    ]  # fmt: skip
    assert inspector.place_around("default", "t00", 4) == "pending:0:default"
    assert inspector.place_around("default", "unknown", 4) == ""


PAYLOADS: dict[str, Any] = {
    "mail": {"user": {"id": 7, "name": "Anna Ärmel"}, "to": ["a@b.example"]},
    "other": {"user": {"id": 77, "name": "Bert"}, "text": 'a "quoted" word'},
    "null": None,
}


@pytest.fixture
def three(client: Client, broker: Broker) -> None:
    """Three tasks that failed in different ways."""
    for name, payload in PAYLOADS.items():
        client.enqueue(
            f"{name}:send", payload, task_id=name, headers={"tenant": name}, concurrency_key=f"key-{name}", retention=60
        )
        fail_next(broker, Verdict.ARCHIVE)
        broker.connection.hset(keys.job(name), "last_error", f"TimeOut: {name} did not answer")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("", ["mail", "other", "null"]),
        ("anna", ["mail"]),
        ("ANNA", ["mail"]),
        ("Ärmel", ["mail"]),
        ("answer -bert -null", ["mail"]),
        ("mail:send", ["mail"]),
        ("type:mail:send", ["mail"]),
        ("type:mail", []),
        ("type:m*", ["mail"]),
        ('"mail did not"', ["mail"]),
        ("error:timeout", ["mail", "other", "null"]),
        ('error:"OTHER did"', ["other"]),
        ("error:anna", []),
        ("payload.user.id:7", ["mail"]),
        ("payload.*.id:77", ["other"]),
        ("payload.to.0:a@b.example", ["mail"]),
        ("payload.user.id:8", []),
        ("header.tenant:mail", ["mail"]),
        ("header:tenant=mail", ["mail"]),
        ("header:tenant=mai", []),
        ("worker:host.run", ["mail", "other", "null"]),
        ("worker:elsewhere", []),
        ("key:key-null", ["null"]),
        ("key:key", []),
        ("after:1h", ["mail", "other", "null"]),
        ("before:1h", []),
        ("before:2999-01-01 after:2000-01-01T00:00Z anna", ["mail"]),
        ("state:archived queue:default bert", ["other"]),
        ("state:pending bert", []),
        ("quoted", ["other"]),
        ("%.*[", []),
    ],
)
def test_tasks_are_found_by_what_is_typed(typed: str, found: list[str], inspector: Inspector) -> None:
    assert ids(inspector, typed, queue="default") == found


@pytest.mark.parametrize("word", ["C:\\Müller", 'say "hi"', "two\nlines é", "\\", "nul\x00"])
def test_what_json_escapes_is_found_in_payloads_and_within_them(
    word: str, inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    for task_id, payload in (("whole", f"a {word}"), ("within", {"a": [f"a {word}"]}), ("name", {f"a {word}": 1})):
        client.enqueue("test:echo", payload, task_id=task_id)
    client.enqueue("test:echo", {"a": ["other"]}, task_id="other")
    client.enqueue("test:echo", None, task_id="in-ascii")
    call: list[Any] = ["boilerd.entry_point.run", None, ["test:echo", {"a": f"a {word}"}], {}]
    connection.hset(keys.job("in-ascii"), "data", json.dumps(call))  # as RQ's own serializer writes it

    found = ids(inspector, TaskFilter(words=(word,)))

    assert sorted(found) == ["in-ascii", "name", "whole", "within"]
    assert ids(inspector, TaskFilter(without=(word,))) == ["other"]


@pytest.mark.parametrize("typed", ["1e-7", "1e22", "payload.n:1e-7", "payload.rate:1e22", "2.50001"])
def test_numbers_are_found_as_they_stand_in_redis(typed: str, inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", {"n": 1e-07, "rate": 1e22, "x": 2.50001}, task_id="it")
    client.enqueue("test:echo", {"n": 1e-06}, task_id="other")

    assert ids(inspector, parse_filter(typed, NOW)) == ["it"]


def test_what_rqs_tools_wrote_and_large_payloads_are_found_by_words(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"name": "anna"}, task_id="packed")
    rq_job(connection, "packed").save()
    client.enqueue("test:echo", {"name": "anna", "fill": "x" * MOST_SEARCHED}, task_id="large")
    client.enqueue("test:echo", {"fill": "x" * MOST_SEARCHED}, task_id="large-anna")

    assert ids(inspector, "anna") == ["packed", "large-anna"]


def test_only_what_one_sees_is_searched(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", {"password": "hunter2"}, task_id="a", headers={"session": "s-1"})
    client.enqueue("test:echo", {"password": "other"}, task_id="b")

    def seen(task: Any) -> dict[str, Any]:
        return {**{name: getattr(task, name) for name in task.__dataclass_fields__}, "payload": "hidden", "headers": {}}

    for typed in ("hunter2", "payload.password:hunter2", "header.session:s-1", "s-1", '"password"'):
        assert ids(inspector, typed, sees=seen) == [], typed
    assert ids(inspector, "-hunter2", sees=seen) == ["a", "b"]
    assert ids(inspector, "hunter2") == ["a"]
    assert ids(inspector, "-hunter2") == ["b"]


def test_a_search_stops_at_its_limits_and_goes_on(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue_many([("test:echo", {"n": number}) for number in range(450)])
    calls: list[int] = []
    run = ScriptCalls._run

    def counted(self: ScriptCalls, script: str, args: Any) -> Any:
        calls.append(len(args)) if script == "pick" else None
        return run(self, script, args)

    monkeypatch.setattr(ScriptCalls, "_run", counted)
    found = inspector.search("payload.n:449", looks=200)

    assert (found.tasks, found.looked, found.after) == ([], 200, "pending:200:default")
    assert len(calls) == 8
    assert [task.payload for task in inspector.search("payload.n:449", after=found.after).tasks] == [{"n": 449}]
    assert inspector.search("payload.n:449", within_s=0.0).looked == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("state:lost", "state:'lost': not known; use one of pending"),
        ("after:yesterday", "it is no time; use 2h"),
        ("before:9999-12-31T23:59:59-12:00", "it is no time; use 2h"),
        ("after:0001-01-01T00:00:00+12:00", "it is no time; use 2h"),
        ("header:tenant", "it is no NAME=VALUE"),
        ("a " * 21, "more than 20 parts"),
        ("queue:unknown", "unknown"),
    ],
)
def test_what_means_nothing_is_refused(typed: str, words: str, inspector: Inspector, client: Client) -> None:
    enqueue(client, "a")

    with pytest.raises((InvalidTaskError, QueueNotFoundError), match=words):
        inspector.search(typed)


@pytest.mark.parametrize(
    "place",
    [
        "archived:1~x~y:default",
        "archived:1~1.0~!:default",
        "archived:1~nan~YQ:default",
        "pending:" + "9" * 20 + ":a",
        "x",
    ],
)
def test_a_place_that_is_none_is_refused(place: str, inspector: Inspector, client: Client) -> None:
    enqueue(client, "a")

    with pytest.raises(InvalidTaskError, match="it is no STATE:NUMBER:QUEUE"):
        inspector.search(after=place)


def test_a_text_is_read_as_a_filter() -> None:
    found = parse_filter('type:a:b "two words" -"not this" http://x after:2h -type:c error:x error:y', NOW)

    assert found == TaskFilter(
        words=("two words", "http://x"),
        without=("not this", "type:c"),
        type="a:b",
        errors=("x", "y"),
        since=NOW - timedelta(hours=2),
    )


def test_a_filter_chooses_by_all_that_it_has_but_queue_and_state() -> None:
    empty, value = TaskFilter(), cast("Any", "of any kind")

    chooses = {field.name: replace(empty, **{field.name: value}).chooses for field in fields(TaskFilter)}

    assert not empty.chooses
    assert {name for name, does in chooses.items() if not does} == {"queue", "state", "reads_payloads"}


@pytest.mark.usefixtures("three")
def test_an_export_has_all_that_match_and_an_entry_in_the_audit(inspector: Inspector) -> None:
    exported = [task.id for part in inspector.export("answer -bert", state=TaskState.ARCHIVED) for task in part]
    first = [task.id for part in inspector.export(most=2) for task in part]

    assert exported == ["mail", "null"]
    assert first == ["mail", "other"]
    entries = [(entry.what, dict(entry.on), entry.count, entry.outcome) for entry in inspector.audit()]
    assert entries == [
        ("export", {"state": "archived", "search": "answer -bert"}, 2, "done"),
        ("export", {}, 2, "done"),
    ]


def test_a_key_of_another_kind_is_told(inspector: Inspector, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")
    connection.set(keys.registry("failed", "default"), "no set")

    with pytest.raises(Exception, match="sorted set"):
        inspector.search("x", queue="default", state=TaskState.ARCHIVED)
    assert ids(inspector, queue="default", state=TaskState.PENDING) == ["a"]
