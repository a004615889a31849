"""Tasks that are found by their headers, in all places where tasks can be, and how far a search goes."""

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector, InvalidTaskError, QueueNotFoundError, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.constants import MOST_SEARCHED
from boilerd.broker.script_calls import ScriptCalls
from boilerd.tasks.retry import Verdict
from builders import claim, complete_next, fail_as, fail_next, failure_kind, rq_job
from support import Valkey, clean_environment, shown_by

SOUGHT = {"request_id": "r-9"}


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def ids(inspector: Inspector, headers: dict[str, str] = SOUGHT, **choice: Any) -> list[str]:
    return [task.id for task in inspector.find(headers, **choice).tasks]


def everywhere(client: Client, broker: Broker) -> None:
    """A task with the header in each state, named by it, beside one without."""
    for state in TaskState:
        options: dict[str, Any] = {"process_in": 3600} if state is TaskState.SCHEDULED else {"retention": 60}
        for task_id, headers in ((state.value, SOUGHT), (f"other-{state.value}", {"request_id": "r-91"})):
            client.enqueue("test:echo", task_id=task_id, headers=headers, queue=f"q-{state.value}", **options)
    for _ in range(2):
        fail_next(broker, Verdict.RETRY, "q-retry", delay_s=3600.0)
        fail_next(broker, Verdict.ARCHIVE, "q-archived")
        complete_next(broker, "q-completed")
    for row in range(2):  # last: a worker claims nothing more while it holds a task
        claim(broker, "q-active", row=row)


def test_tasks_of_one_request_are_found_in_all_queues_and_states(
    inspector: Inspector, client: Client, broker: Broker
) -> None:
    everywhere(client, broker)

    found = inspector.find(SOUGHT)

    assert sorted(task.id for task in found.tasks) == sorted(TaskState)
    assert (found.looked, found.after) == (2 * len(TaskState), "")


@pytest.mark.parametrize("state", [*TaskState])
def test_a_state_and_a_queue_choose_among_them(
    inspector: Inspector, client: Client, broker: Broker, state: TaskState
) -> None:
    everywhere(client, broker)

    assert ids(inspector, state=state) == [state]
    assert ids(inspector, queue=f"q-{state}") == [state]
    assert ids(inspector, queue="q-pending", state=TaskState.ARCHIVED) == []


def test_all_headers_must_be_there_and_a_request_id_may_be_in_the_payload(inspector: Inspector, client: Client) -> None:
    client.enqueue("test:echo", task_id="both", headers={**SOUGHT, "tenant-id": "7"})
    client.enqueue("test:echo", {"request_id": "r-9"}, task_id="payload", headers={"tenant-id": "7"})
    client.enqueue("test:echo", {"request_id": "r-9"}, task_id="header-wins", headers={"request_id": "r-1"})
    client.enqueue("test:echo", {"tenant-id": "7", "request_id": 9, "of": "r-9"}, task_id="neither")

    assert ids(inspector) == ["both", "payload"]
    assert ids(inspector, {"tenant-id": "7"}) == ["both", "payload"]
    assert ids(inspector, {"tenant-id": "7", **SOUGHT}) == ["both", "payload"]
    assert ids(inspector, {"tenant-id": "7", "request_id": "r-1"}) == []


@pytest.mark.parametrize(
    "value", ["ä \N{SNOWMAN}", 'a "quoted" \\ one', "%d.*[", "x" * 4000], ids=["wide", "quotes", "pattern", "long"]
)
def test_any_text_is_found_as_it_is(inspector: Inspector, client: Client, value: str) -> None:
    client.enqueue("test:echo", task_id="a", headers={"own": value})
    client.enqueue("test:echo", task_id="b", headers={"own": "another"})

    assert ids(inspector, {"own": value}) == ["a"]


def test_a_task_that_rqs_tools_have_written_again_is_found(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"any": 1}, task_id="a", headers={"own": "ä", **SOUGHT})
    rq_job(connection, "a").save()

    assert ids(inspector) == ids(inspector, {"own": "ä"}) == ["a"]
    data: Any = connection.hget(keys.job("a"), "data")
    assert data[:1] == b"x"


def test_large_payloads_are_passed_over_but_their_headers_are_not(inspector: Inspector, client: Client) -> None:
    large = {"request_id": "r-9", "text": "x" * MOST_SEARCHED}
    client.enqueue("test:echo", large, task_id="payload")
    client.enqueue("test:echo", large, task_id="header", headers=SOUGHT)

    assert ids(inspector) == ["header"]


def test_records_that_are_gone_damaged_or_none_at_all_are_passed_over(
    inspector: Inspector, client: Client, connection: redis.Redis
) -> None:
    for task_id in ("gone", "damaged", "other", "odd\udcff", "last"):
        if task_id != "odd\udcff":
            client.enqueue("test:echo", task_id=task_id, headers=SOUGHT)
    connection.delete(keys.job("gone"), keys.job("other"))
    connection.hset(keys.job("damaged"), "data", b'["x",null,[],{"headers":{"request_id":"r-9"')
    connection.set(keys.job("other"), "no hash")
    connection.lpush(keys.queue("default"), b"odd\xff", "")

    found = inspector.find(SOUGHT)

    assert ([task.id for task in found.tasks], found.after) == (["last"], "")


def test_a_search_stops_at_its_limits_and_goes_on_where_it_stopped(inspector: Inspector, client: Client) -> None:
    for queue in ("a", "b.c"):
        for number in range(25):
            headers = SOUGHT if number % 5 == 0 else {}
            client.enqueue("test:echo", task_id=f"{queue[0]}-{number}", headers=headers, queue=queue)
    wanted = [f"{queue}-{number}" for queue in "ab" for number in range(0, 25, 5)]

    sizes: list[dict[str, Any]] = [{"size": 2}, {"looks": 7}, {"size": 3, "looks": 11}]
    for limits in sizes:
        found, after, calls = list[str](), "", 0
        while calls == 0 or after:
            part = inspector.find(SOUGHT, after=after, **limits)
            assert len(part.tasks) <= limits.get("size", 30)
            assert part.looked <= limits.get("looks", 50)
            found += [task.id for task in part.tasks]
            after, calls = part.after, calls + 1
        assert found == wanted
    assert inspector.find(SOUGHT, size=5).after == "pending:21:a"
    assert inspector.find(SOUGHT, within_s=0.0).after == "active:0:a"


def test_one_call_reads_a_bounded_part_of_redis(
    inspector: Inspector, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue_many([("test:echo", "x" * 20_000)] * 40)
    calls: list[int] = []
    run = ScriptCalls._run

    def counted(self: ScriptCalls, script: str, args: Any) -> Any:
        answer = run(self, script, args)
        if script == "pick":
            calls.append(answer[0])
        return answer

    monkeypatch.setattr(ScriptCalls, "_run", counted)

    found = inspector.find(SOUGHT)

    assert found.looked == sum(calls) == 40
    assert max(calls) == 4

    client.enqueue_many([("test:echo", 1)] * 250, queue="small")
    calls.clear()

    assert inspector.find(SOUGHT, queue="small").looked == 250
    assert calls == [50] * 5


@pytest.mark.parametrize(
    ("headers", "options", "words"),
    [
        ({}, {}, "there are none to look for"),
        ({"Request-ID": "r"}, {}, "use small letters"),
        (SOUGHT, {"after": "r-9"}, "it is no STATE:NUMBER:QUEUE"),
        (SOUGHT, {"after": "retry:1:default"}, "it is no STATE:NUMBER:QUEUE"),
        (SOUGHT, {"after": "pending:-1:default"}, "it is no STATE:NUMBER:QUEUE"),
    ],
)
def test_what_no_search_could_mean_is_refused(
    inspector: Inspector, client: Client, headers: dict[str, str], options: Any, words: str
) -> None:
    client.enqueue("test:echo")

    with pytest.raises(InvalidTaskError, match=words):
        inspector.find(headers, **options)


def test_limits_and_queues_that_are_none_are_refused(inspector: Inspector) -> None:
    with pytest.raises(ValueError, match="both begin at 1"):
        inspector.find(SOUGHT, size=0)
    with pytest.raises(ValueError, match="'lost' is not a valid TaskState"):
        inspector.find(SOUGHT, state="lost")  # type: ignore[arg-type]
    with pytest.raises(QueueNotFoundError):
        inspector.find(SOUGHT, queue="unknown")


@pytest.fixture
def commands(valkey: Valkey, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that this process runs mean the tests' Valkey."""
    for name, value in clean_environment(BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory)).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("commands")
def test_the_command_lists_them_and_says_how_to_go_on(client: Client, broker: Broker) -> None:
    everywhere(client, broker)

    table = shown_by("task", "ls", "--header", "request_id=r-9").splitlines()
    chosen = shown_by("task", "ls", "--header", "request_id=r-9", "-s", "retry", "-q", "q-retry", "--json")
    part = shown_by("task", "ls", "--header", "request_id=r-9", "--looks", "3").splitlines()
    rest = shown_by("task", "ls", "--header", "request_id=r-9", "--after", "completed:1:q-completed").splitlines()

    assert table[0].split()[:4] == ["ID", "TYPE", "QUEUE", "STATE"]
    assert sorted(line.split()[0] for line in table[1:]) == sorted(TaskState)
    assert [json.loads(line)["id"] for line in chosen.splitlines()] == ["retry"]
    assert part[-1] == "3 tasks were looked at, and there are more; go on with --after archived:1:q-archived"
    assert sorted(line.split()[0] for line in rest[1:]) == ["pending", "retry", "scheduled"]


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--after", "active:0:default"], "--after is for --header"),
        (["--header", "a=b", "--page", "2"], "--header goes on with --after; leave --page out"),
        (["--header", "request_id"], "'request_id' is not NAME=VALUE"),
    ],
)
def test_the_command_says_what_does_not_go_together(words: list[str], told: str) -> None:
    assert told in shown_by("task", "ls", *words)


@pytest.mark.usefixtures("commands")
def test_the_last_tasks_of_a_failure_group_and_the_audit_name_the_request(
    client: Client, broker: Broker, inspector: Inspector, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(), headers=SOUGHT)
    fail_as(broker, "b", failure_kind())
    fail_as(broker, "gone", failure_kind(), headers=SOUGHT)
    connection.delete(keys.job("gone"))

    group = inspector.failure("a" * 12)
    shown = shown_by("failures", "show", "a" * 12)
    inspector.run("a")
    client.cancel("a")
    inspector.delete("b")

    assert group.task_ids == ["gone", "b", "a"]
    assert group.request_ids == {"a": "r-9"}
    assert "  a  request_id r-9\n" in shown
    assert [dict(entry.on) for entry in inspector.audit()] == [
        {"task": "a", "request_id": "r-9"}, {"task": "a", "request_id": "r-9"}, {"task": "b"},
    ]  # fmt: skip
