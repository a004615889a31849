"""What is done with many tasks at once: asked for, ordered, shown, stopped, undone, and continued after a kill."""

import functools
import html
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import httpx
import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.operation_record import GONE_S, OPEN, Operation, OperationState, Order
from boilerd.broker.operations import Operations
from boilerd.errors import RefusedError
from boilerd.web.operators import MOST_AT_ONCE, Operators
from boilerd.web.pages import bulk
from boilerd.web.pages import operations as operations_page
from boilerd.web.permissions import Permission, Principal
from browser import Browser, text_of, web_app, with_people
from builders import enqueue, fail_as, failure_kind, in_state, pending
from support import DEADLINE_S, Failpoints, Valkey, clean_environment, wait_until

GROUP = "a" * 12


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What deletes does not wait."""
    monkeypatch.setattr(bulk, "UNDO_S", 0.0)


def ordered(answer: httpx.Response) -> str:
    """The ID of the operation that an action has led to."""
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].partition("?")[0].rpartition("/")[2]


def ended(connection: redis.Redis, operation_id: str) -> Operation:
    """The operation, once it has ended."""
    inspector = Inspector(connection)

    def found() -> Operation | None:
        operation = inspector.operations.one(operation_id)
        return None if operation.state in OPEN else operation

    return wait_until(found, "the operation has ended") or pytest.fail("it has not")


def left_alone(connection: redis.Redis, operation_id: str) -> None:
    key = keys.operation(operation_id)
    connection.hset(key, "beat", str(float(connection.hget(key, "beat") or 0) - GONE_S - 1))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("what", "state", "ends"),
    [
        ("run", TaskState.ARCHIVED, TaskState.PENDING),
        ("run", TaskState.SCHEDULED, TaskState.PENDING),
        ("archive", TaskState.PENDING, TaskState.ARCHIVED),
        ("archive", TaskState.RETRY, TaskState.ARCHIVED),
        ("cancel", TaskState.SCHEDULED, None),
    ],
)
def test_an_action_is_done_with_all_that_a_list_shows(  # noqa: PLR0917 - a row of a table, and fixtures
    what: str, state: TaskState, ends: TaskState | None, browser: Browser, client: Client, broker: Broker
) -> None:
    task_id, connection = in_state(client, broker, state), broker.connection
    address = f"/bulk/{what}?queue=default&state={state}"

    offered = browser.get(f"/tasks?queue=default&state={state}").text
    asked = text_of(browser.get(address).text)
    found = ended(connection, ordered(browser.post(address)))

    assert f'href="{address.replace("&", "&amp;")}"' in offered
    assert f"all {state} tasks of queue default" in asked
    assert "1, counted now" in asked
    assert (found.state, found.tally.done) == ("done", 1)
    tasks = Inspector(connection).tasks_of([task_id])
    assert [task.state for task in tasks] == ([ends] if ends else [])


@pytest.mark.usefixtures("at_once")
def test_an_action_is_done_with_the_tasks_that_are_ticked(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b_b", "c")
    listed = browser.get("/tasks?queue=default").text

    asked = browser.get("/bulk/delete?id=a&id=b%5fb")
    found = ended(connection, ordered(browser.post("/bulk/delete?id=a&id=b%5fb")))

    assert listed.count("data-row") == 3
    assert 'formaction="/bulk/delete"' in listed
    assert "2 selected tasks" in text_of(asked.text)
    assert pending(connection) == ["c"]
    assert (found.tally.done, found.order.task_ids) == (2, ("a", "b_b"))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("queue=default&state=pending&around=a", "around: no operation chooses tasks by it"),
        ("q=after:tuesday", "it is no time"),
        ("q=before:9999-12-31T23:59:59-12:00", "it is no time"),
        ("", "No task is ticked"),
        ("size=25", "No task is ticked"),
        ("queue=nowhere&state=pending", "never used"),
        ("queue=default", "state: not known"),
        ("state=archived&q=card", "cannot archive archived tasks"),
        ("queue=default&state=flying", "state: not known"),
        ("queue=default&state=active", "cannot archive active tasks"),
        ("&".join(f"id={number}" for number in range(bulk.MOST_SELECTED + 1)), "are more than 150"),
    ],
)
def test_what_no_operation_can_be_for_is_refused_with_the_reason(
    query: str, says: str, browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")

    asked, posted = browser.get(f"/bulk/archive?{query}"), browser.post(f"/bulk/archive?{query}")

    assert says in text_of(asked.text)
    assert asked.status_code == posted.status_code in {400, 404, 409}
    assert Inspector(connection).operations.latest() == []


@pytest.mark.parametrize(
    ("referer", "leads_to"),
    [
        (
            "http://localhost/tasks?queue=low&state=archived&q=%22a%22",
            "/tasks?queue=low&amp;state=archived&amp;q=%22a%22",
        ),
        ("http://localhost/", "/"),
        ("http://localhost", ""),
        ("http://elsewhere/tasks", ""),
        ("http://localhost:81/tasks", ""),
        ("http://localhost@elsewhere/tasks", ""),
        ("http://localhost//elsewhere/tasks", ""),
        ("http://localhost/\\elsewhere", ""),
        ("http://[localhost/tasks", ""),
        ("javascript:alert(1)", ""),
        ("", ""),
    ],
)
def test_who_has_ticked_no_task_is_told_so_and_led_back_to_the_list_that_they_came_from(
    referer: str, leads_to: str, browser: Browser
) -> None:
    shown = browser.get("/bulk/run?", referer=referer)

    assert shown.status_code == 400
    assert "<h1>No task is ticked</h1>" in shown.text
    assert re.findall(r'href="([^"]*)">Back', shown.text) == [leads_to][not leads_to :]
    assert "no task is named" in browser.get("/bulk/run.json").json()["error"]


def test_back_says_nothing_of_an_action_before_and_leads_to_no_form_that_was_sent(
    browser: Browser, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    done = browser.post(f"/tasks/{task_id}/run")
    said = f"http://localhost{done.headers['location']}"

    opened = browser.get("/bulk/run?", referer=f"{said}&b=c").text
    refused = browser.post(f"/tasks/{task_id}/run", referer=said, sec_fetch_site="same-origin")

    assert "told=" in said
    assert f'href="/tasks/{task_id}?b=c">Back' in opened
    assert (refused.status_code, ">Back" in refused.text) == (409, False)


@pytest.mark.parametrize("comes_from", ["/tasks?queue=low", "/ops/jobs-of-others/tasks", "/ops/jobs//elsewhere"])
def test_below_a_prefix_nobody_is_led_to_another_application(comes_from: str, connection: redis.Redis) -> None:
    with Browser(web_app(connection, prefix="/ops/jobs")) as browser:
        led, other = (
            browser.get("/ops/jobs/bulk/run?", referer=f"http://localhost{each}").text
            for each in ("/ops/jobs/tasks?queue=low", comes_from)
        )

    assert 'href="/ops/jobs/tasks?queue=low">Back' in led
    assert "Back" not in other


@pytest.mark.usefixtures("at_once")
def test_an_action_is_done_with_all_that_a_search_finds_in_all_queues(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    for queue in ("default", "low"):
        client.enqueue("mail:send", {"to": "anna"}, queue=queue, task_id=f"{queue}-anna")
        client.enqueue("mail:send", {"to": "bob"}, queue=queue, task_id=f"{queue}-bob")
    client.enqueue("mail:send", {"to": "anna"}, queue="low", task_id="due", process_in=3600)
    address = "/bulk/archive?type=mail%3A%2A&q=payload.to%3Aanna"

    offered = browser.get("/tasks?q=payload.to:anna&type=mail:*").text
    asked = browser.get(address)
    found = ended(connection, ordered(browser.post(address)))
    shown = browser.get(f"/operations/{found.id}").text

    assert 'href="/bulk/archive?q=payload.to%3Aanna&amp;type=mail%3A%2A"' in offered
    said = "all tasks of all queues whose type begins with mail: and with “anna” at to of the payload"
    assert said in text_of(asked.text)
    assert "3, counted now" in text_of(asked.text)
    assert asked.text.count('data-label="ID"') == 3
    assert (found.state, found.tally.done, found.tally.seen) == ("done", 3, 5)
    assert (pending(connection), pending(connection, "low")) == (["default-bob"], ["low-bob"])
    assert said in text_of(shown)
    assert 'href="/bulk/archive?q=' in shown


def test_of_more_than_can_be_looked_at_a_page_says_how_many_there_are_at_least(
    browser: Browser, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(300)])
    monkeypatch.setattr(
        Operations, "preview", functools.partialmethod(Operations.preview, looks=200, within_s=DEADLINE_S)
    )

    asked = browser.get("/bulk/archive?q=echo&queue=default").text

    assert "at least 200: looked at the first 200 of 300" in text_of(asked)


def test_a_queue_with_another_programs_key_is_told_and_the_others_are_found(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    client.enqueue("test:echo", task_id="b", queue="low")
    connection.delete(keys.queue("low"))
    connection.set(keys.queue("low"), "no list")

    whole, one = browser.get("/bulk/archive?q=echo"), browser.get("/bulk/archive?q=echo&queue=low&state=pending")

    assert "1, counted now" in text_of(whole.text)
    assert "queue low: " in text_of(whole.text)
    assert (one.status_code, keys.queue("low") in one.text) == (503, True)


@pytest.mark.usefixtures("at_once")
def test_an_operation_means_what_its_page_has_shown(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")
    address = "/bulk/archive?q=before%3A0s"

    asked = browser.get(address)
    as_of = re.search(r'name="as_of" value="([\d.]+)"', asked.text)
    found = ended(connection, ordered(browser.post(address, {"as_of": as_of[1] if as_of else ""})))
    refused = browser.post(address, {"as_of": "now"})

    assert found.order.as_of == float(as_of[1] if as_of else 0)
    assert refused.status_code == 400


def test_what_a_search_looks_for_in_payloads_is_hidden_from_those_who_may_not_see_them(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", {"to": "anna", "password": "hunter2"}, task_id="a")

    def authorize(request: Any) -> Principal:
        rights = frozenset({Permission.VIEW, Permission.RUN, Permission.ARCHIVE})
        return Principal("anna", rights | ({Permission.VIEW_PAYLOAD} if "x-all" in request.headers else set()))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        secret = browser.get("/bulk/archive.json?q=hunter2", x_all="1").json()["count"]
        blind = [browser.get(f"/bulk/archive.json?q={word}").json()["count"] for word in ("anna", "echo")]
        refused = browser.get("/bulk/archive?q=payload.to:anna").status_code
        order = Order("archive", search="payload.to:anna", as_of=1e9)
        operation, _ = Inspector(connection).operations.begin(order)
        left_alone(connection, operation.id)
        shown = browser.get(f"/operations/{operation.id}").text + browser.get("/operations").text
        taken = browser.post(f"/operations/{operation.id}/continue")

    assert (secret, blind, refused) == (0, [0, 1], 400)
    assert "that a search in payloads finds" in shown
    assert "payload.to" not in shown
    assert (taken.status_code, "view_payload" in taken.text) == (403, True)


def test_who_sees_more_continues_an_operation_as_it_was_ordered(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"to": "anna"}, task_id="a")
    order = Order("archive", "default", TaskState.PENDING, search="type:test:echo -anna", sees_payloads=False)
    operation, _ = Inspector(connection).operations.begin(order)
    left_alone(connection, operation.id)

    browser.post(f"/operations/{operation.id}/continue")
    found = ended(connection, operation.id)

    assert (found.tally.seen, found.tally.done) == (1, 1)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("deed", "field"), [("move", {"to": "low"}), ("reschedule", {"when": "2h"})])
def test_ticked_tasks_are_moved_and_rescheduled(
    deed: str, field: dict[str, str], browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b", "c")
    address = f"/bulk/{deed}?id=a&id=c"

    asked, untold = browser.get(address).text, browser.post(address)
    found = ended(connection, ordered(browser.post(address, field)))

    assert f'name="{next(iter(field))}" required' in asked
    assert (untold.status_code, found.tally.done) == (400, 2)
    assert pending(connection) == ["b"]
    tasks = Inspector(connection).tasks_of(["a", "c"])
    assert {(task.queue, str(task.state)) for task in tasks} == {
        ("low", "pending") if deed == "move" else ("default", "scheduled")
    }
    goes = Inspector(connection).audit()[-1].on["to" if deed == "move" else "at"]
    assert goes == "low" or datetime.fromisoformat(goes).microsecond == 0


@pytest.mark.usefixtures("at_once")
def test_a_purge_needs_the_queues_name_typed_and_leaves_what_came_later(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, *map(str, range(7)))
    address = "/queues/default/purge?state=pending"

    asked = browser.get(address)
    enqueue(client, "later")
    untyped, misspelt = browser.post(address), browser.post(address, {"name": "default-"})
    of = re.search(r'name="of" value="(\d+)"', asked.text)
    found = ended(connection, ordered(browser.post(address, {"name": "default", "of": of[1] if of else ""})))

    assert asked.text.count('data-label="ID"') == 5
    assert 'name="name" required' in asked.text
    assert (untyped.status_code, misspelt.status_code) == (400, 400)
    assert "name: write default" in untyped.text
    assert pending(connection) == ["later"]
    assert found.total == 7


def test_a_program_asks_what_would_be_changed_and_changes_it(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"password": "hunter2-secret"}, task_id="a")

    asked = browser.get("/bulk/archive.json?queue=default&state=pending")
    done = browser.post("/bulk/archive.json?queue=default&state=pending")
    found = ended(connection, done.json()["operation"])

    assert "hunter2" not in asked.text
    assert (asked.json()["count"], asked.json()["to_type"], asked.json()["sample"][0]["id"]) == (1, "", "a")
    assert found.tally.done == 1


def test_more_than_a_thousand_need_the_queues_name_typed(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(1001)])

    asked = browser.get("/bulk/archive?queue=default&state=pending")
    untyped = browser.post("/bulk/archive?queue=default&state=pending")
    found = ended(connection, ordered(browser.post("/bulk/archive?queue=default&state=pending", {"name": "default"})))

    assert "1,001, counted now" in text_of(asked.text)
    assert untyped.status_code == 400
    assert found.tally.done == 1001


def test_a_wrong_name_is_asked_for_again_with_all_that_was_filled_in(browser: Browser, client: Client) -> None:
    client.enqueue_many([("test:echo", number) for number in range(1001)])

    again = browser.post("/bulk/move?queue=default&state=pending", {"to": "low", "name": "<defau>"})

    assert again.status_code == 400
    assert "name: write default for move of all pending tasks" in text_of(again.text)
    assert "1,001, counted now" in text_of(again.text)
    assert 'name="to" required value="low"' in again.text
    assert 'name="name" required value="&lt;defau&gt;"' in again.text


def test_a_moment_that_is_none_is_asked_for_again_and_a_program_is_told_so(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    again = browser.post("/bulk/reschedule?id=a", {"when": "soon"})
    program = browser.post("/bulk/reschedule.json?id=a", {"when": "soon"})

    assert (again.status_code, program.status_code) == (400, 400)
    assert "when: no time; use 2h" in text_of(again.text)
    assert 'name="when" required value="soon"' in again.text
    assert program.json().keys() == {"error", "status"}


def test_all_of_a_state_are_deleted_only_by_those_who_may_purge(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a")

    def authorize(_request: Any) -> Principal:
        return Principal("anna", frozenset({Permission.VIEW, Permission.DELETE}))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        whole, named = browser.get("/bulk/delete?queue=default&state=pending"), browser.get("/bulk/delete?id=a")

    assert (whole.status_code, named.status_code) == (403, 200)


def test_what_deletes_can_be_undone_until_it_begins(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "stays")

    operation_id = ordered(browser.post("/bulk/delete?id=stays"))
    shown = browser.get(f"/operations/{operation_id}").text
    undone = browser.post(f"/operations/{operation_id}/undo")
    too_late = browser.post(f"/operations/{operation_id}/undo")

    assert "until then it can be undone" in text_of(shown)
    assert f'action="/operations/{operation_id}/undo"' in shown
    assert "data-soon" in shown  # it is renewed as often as ever, or nobody would see that it has begun
    assert "data-soon" not in browser.get(f"/operations/{operation_id}").text
    assert (undone.status_code, too_late.status_code) == (303, 409)
    assert ended(connection, operation_id).state is OperationState.UNDONE
    assert pending(connection) == ["stays"]


def test_pages_show_who_ordered_what_and_how_it_went(connection: redis.Redis, broker: Broker, client: Client) -> None:
    fail_as(broker, "fails", failure_kind())
    enqueue(client, "waits")

    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        operation_id = ordered(browser.post("/bulk/run?id=fails&id=waits&id=gone"))
        ended(connection, operation_id)
        listed, shown = browser.get("/operations").text, text_of(browser.get(f"/operations/{operation_id}").text)
        row = browser.get("/operations.json").json()["operations"][0]
        lines = browser.get("/operations.csv").text.splitlines()

    assert f'href="/operations/{operation_id}"' in listed
    assert "operator@127.0.0.1 (web)" in shown
    assert "3 of 3 looked at" in shown
    assert {(each["why"], each["count"]) for each in row["skipped"]} == {("is gone", 1), ("it is pending", 1)}
    assert (row["done"], row["state"], row["what"], row["is_gone"]) == (1, "done", "run", False)
    assert len(lines) == 2
    entries = [(entry.user, entry.what, entry.count, entry.outcome) for entry in Inspector(connection).audit()]
    assert entries[:2] == [("operator", "run", 3, "begun"), ("operator", "run", 1, "done")]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("address", "state", "field", "leads_to"),
    [
        ("archive?queue=default&state=pending", "pending", {}, "queue=default&state=archived"),
        ("archive?q=test:echo", "retry", {}, "state=archived&q=test%3Aecho"),
        (
            "run?queue=default&state=archived&q=error:valueerror",
            "archived",
            {},
            "queue=default&state=pending&q=error%3Avalueerror",
        ),
        ("run?queue=default&state=scheduled", "scheduled", {}, "queue=default&state=pending"),
        ("move?queue=default&state=pending", "pending", {"to": "low"}, "queue=low&state=pending"),
        ("move?q=test:echo", "scheduled", {"to": "low"}, "queue=low&q=test%3Aecho"),
        ("reschedule?queue=default&state=pending", "pending", {"when": "2h"}, "queue=default&state=scheduled"),
        ("reschedule?queue=default&state=retry", "retry", {"when": "2h"}, "queue=default&state=retry"),
        ("reschedule?q=test:echo", "pending", {"when": "2h"}, "q=test%3Aecho"),
    ],
)
def test_an_operation_that_is_done_leads_to_where_its_tasks_are_by_now(  # noqa: PLR0917 - a row of a table, and fixtures
    address: str, state: str, field: dict[str, str], leads_to: str, browser: Browser, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState(state))

    operation_id = ordered(browser.post(f"/bulk/{address}", field))
    ended(broker.connection, operation_id)
    link = tasks_link(browser, operation_id)

    assert link == f"/tasks?{leads_to}"
    assert f'id="task-{task_id}"' in browser.get(link).text


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("address", "leads_to"),
    [
        ("delete?queue=default&q=echo", ""),
        ("cancel?queue=default&state=pending", ""),
        ("archive?q=state:pending+test:echo", ""),
        ("archive?queue=default&state=pending&until=0s", ""),
        ("archive?q=queue:default+test:echo", "/tasks?queue=default&state=archived&q=queue%3Adefault+test%3Aecho"),
        ("archive?id=a", "/tasks/a"),
        ("archive?id=a&id=b", ""),
    ],
)
def test_an_operation_leads_to_no_list_in_which_its_tasks_are_not(
    address: str, leads_to: str, browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b")

    operation_id = ordered(browser.post(f"/bulk/{address}", {"name": "default"}))
    ended(connection, operation_id)

    assert tasks_link(browser, operation_id) == leads_to


def test_an_operation_that_is_not_done_leads_to_where_its_tasks_were(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    found, _ = Inspector(connection).operations.begin(Order("delete", "default", TaskState.PENDING), undo_s=600)

    assert tasks_link(browser, found.id) == "/tasks?queue=default&state=pending"


def tasks_link(browser: Browser, operation_id: str) -> str:
    """Where the page of an operation says that its tasks are; empty: it does not."""
    page = browser.get(f"/operations/{operation_id}").text
    return html.unescape("".join(re.findall(r'<a href="([^"]*)">The tasks that it is about', page)))


@pytest.mark.parametrize(
    "foreign",
    [{"queue": ["a"]}, {"task_type": {"a": 1}}, {"fingerprint": [7]}, {"value": [None]}, {"task_ids": [[1], None]}],
    ids=str,
)
def test_an_operation_of_which_a_stranger_wrote_fields_is_shown_as_far_as_it_can_be_read(
    foreign: dict[str, Any], browser: Browser, connection: redis.Redis
) -> None:
    found, _ = Inspector(connection).operations.begin(Order("move", "default", TaskState.PENDING, value="low"))
    order = json.loads(found.order.to_json()) | foreign
    connection.hset(keys.operation(found.id), mapping={"order": json.dumps(order), "tally": '{"done": 3}'})

    shown, listed = browser.get(f"/operations/{found.id}"), browser.get("/operations.json")

    assert (shown.status_code, listed.status_code) == (200, 200)
    assert listed.json()["operations"][0]["done"] == 3
    assert "Move" in text_of(shown.text)


def test_an_operation_that_would_have_seen_more_than_there_can_be_has_seen_none(
    browser: Browser, connection: redis.Redis
) -> None:
    found, _ = Inspector(connection).operations.begin(Order("delete", "default", TaskState.PENDING))
    counts = {"tally": json.dumps({"seen": 10**400}), "parts": json.dumps([["default", "pending", 10**400]])}
    for name, value in {**counts, "began": "1"}.items():
        connection.hset(keys.operation(found.id), name, value)

    shown = browser.get(f"/operations/{found.id}")

    assert (shown.status_code, "0 of 0 looked at" in text_of(shown.text)) == (200, True)


def test_the_list_of_operations_is_read_once_for_all_who_look_and_again_after_an_action(
    browser: Browser, connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, "stays")
    monkeypatch.setattr(operations_page, "FRESH_S", 600.0)
    found, _ = Inspector(connection).operations.begin(Order("delete", "default", TaskState.PENDING), undo_s=600)

    def states() -> list[str]:
        return [row["state"] for row in browser.get("/operations.json").json()["operations"]]

    first, tag = states(), browser.get("/operations").headers["etag"]
    commands = connection.info("stats")["total_commands_processed"]
    same = browser.send("GET", "/operations", headers={"if-none-match": tag})
    asked = connection.info("stats")["total_commands_processed"] - commands
    browser.post(f"/operations/{found.id}/undo")

    assert (first, same.status_code, asked) == (["waiting"], 304, 1)  # it is the question itself
    assert states() == ["undone"]


def test_those_who_may_not_act_see_operations_without_buttons(
    viewer: Browser, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    found, _ = Inspector(connection).operations.begin(Order("delete", "default", TaskState.PENDING), undo_s=60)

    listed, shown = viewer.get("/operations"), viewer.get(f"/operations/{found.id}")
    tasks = viewer.get("/tasks?queue=default").text
    refused = [viewer.post(f"/operations/{found.id}/{what}").status_code for what in ("undo", "stop", "continue")]

    assert (listed.status_code, shown.status_code) == (200, 200)
    assert "/undo" not in shown.text
    assert "data-row" not in tasks
    assert refused == [403, 403, 403]


def test_whoever_may_not_delete_cannot_continue_a_deletion(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    enqueue(client, "stays")
    found, _ = Inspector(connection).operations.begin(Order("delete", "default", TaskState.PENDING))
    left_alone(connection, found.id)

    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        shown = browser.get(f"/operations/{found.id}").text
        answer = browser.post(f"/operations/{found.id}/continue")

    assert f"/operations/{found.id}/continue" not in shown
    assert f"/operations/{found.id}/stop" in shown
    assert answer.status_code == 403
    assert pending(connection) == ["stays"]


@contextmanager
def served(valkey: Valkey, failpoints: Failpoints) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A dashboard as a process of its own."""
    env = clean_environment(BOILERD_REDIS_URL=valkey.url, **failpoints.env)
    command = [sys.executable, "-m", "boilerd", "web", "--port", "0"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().rpartition(" ")[2].strip(), process
        finally:
            process.kill()


def test_of_a_dashboard_that_is_killed_another_shows_what_was_done_and_continues(
    valkey: Valkey, failpoints: Failpoints, client: Client, connection: redis.Redis, browser: Browser
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(250)])

    with served(valkey, failpoints) as (address, process):
        failpoints.arm("after-act")
        with suppress(httpx.TransportError):  # it may be killed before it answers
            ours = {"sec-fetch-site": "same-origin"}
            httpx.post(f"{address}bulk/archive?queue=default&state=pending", headers=ours, timeout=DEADLINE_S)
        process.wait(DEADLINE_S)
    operation_id = Inspector(connection).operations.latest()[0].id
    working = text_of(browser.get(f"/operations/{operation_id}").text)
    left_alone(connection, operation_id)
    gone = text_of(browser.get(f"/operations/{operation_id}").text)
    continued = browser.post(f"/operations/{operation_id}/continue")
    found = ended(connection, operation_id)

    assert "Nobody works on it any more" not in working
    assert "Nobody works on it any more" in gone
    assert "up to 100 tasks more may have been" in gone
    assert continued.status_code == 303
    assert found.state is OperationState.DONE
    assert pending(connection) == []
    assert connection.zcard(keys.registry("failed", "default")) == 250


#: Ends in the middle of an operation, which goes no further before that.
ENDING = """
import select, sys
from boilerd import Inspector, TaskState
from boilerd.broker.operation_record import Order
from boilerd.broker.operation_run import OperationRun
from boilerd.web.operators import Operators

beat = OperationRun._beat
operators = Operators()

def late(self, state, changes, at=""):
    if [*changes] == ["tally"]:
        operators._ending.wait(60)
    return beat(self, state, changes, at)

OperationRun._beat = late
operations = Inspector.from_url(sys.argv[1]).operations
operation, runner = operations.begin(Order("archive", "default", TaskState.PENDING))
operators.start(operations, operation, runner)
while operations.one(operation.id).state != "running":
    select.select([], [], [], 0.01)
print(operation.id)
"""


def test_a_process_that_ends_lets_its_operations_come_to_a_halt(
    valkey: Valkey, client: Client, connection: redis.Redis
) -> None:
    client.enqueue_many([("test:echo", number) for number in range(250)])

    done = subprocess.run(
        [sys.executable, "-c", ENDING, valkey.url], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )

    found = Inspector(connection).operations.one(done.stdout.strip())
    assert (found.state, found.why, found.tally.done) == ("stopped", "its process ended", 100)
    assert len(pending(connection)) == 150


def test_a_process_works_on_a_few_operations_at_once(connection: redis.Redis) -> None:
    operators, waits = Operators(), threading.Event()

    class Waiting:
        def run(self, *_: Any, **_more: Any) -> None:
            waits.wait(DEADLINE_S)

    operation, _ = Inspector(connection).operations.begin(Order("delete", task_ids=("a",)))
    for _ in range(MOST_AT_ONCE):
        operators.check_free()
        operators.start(Waiting(), operation, "")  # type: ignore[arg-type]
    try:
        with pytest.raises(RefusedError, match="8 operations are going on here"):
            operators.check_free()
    finally:
        waits.set()


# --- Failure groups


def test_the_tasks_of_a_failure_are_found_by_clicking_and_run_again(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP, release="1.1"))
    fail_as(broker, "b", failure_kind(GROUP, release="1.1"), queue="low")

    listed = browser.get("/failures").text
    shown = browser.get(f"/failures/{GROUP}").text
    asked = text_of(browser.get(f"/failures/{GROUP}/run").text)
    found = ended(connection, ordered(browser.post(f"/failures/{GROUP}/run")))

    assert f'href="/failures/{GROUP}"' in listed
    assert all(part in text_of(listed) for part in ("shop.OwnError", "card N", "test:echo", "new", "1.1", "low"))
    assert f'href="/failures/{GROUP}/run"' in shown
    assert all(part in text_of(shown) for part in ("shop.charge", "shop.pay", "archived", "this hour, so far"))
    assert 'href="/tasks/a"' in shown
    assert "2, counted now" in asked
    assert (pending(connection), pending(connection, "low")) == (["a"], ["b"])
    assert found.tally.done == 2


def test_failures_are_sorted_and_filtered(browser: Browser, broker: Broker, connection: redis.Redis) -> None:
    fail_as(broker, "a", failure_kind("a" * 12))
    fail_as(broker, "b", failure_kind("a" * 12))
    fail_as(broker, "c", failure_kind("b" * 12))
    connection.hset(keys.failure("b" * 12), "first_seen", 1)

    def shown(query: str) -> list[str]:
        rows = browser.get(f"/failures.json?{query}").json()["failures"]
        return [row["fingerprint"][0] for row in rows]

    assert (shown(""), shown("sort=count"), shown("sort=first")) == (["b", "a"], ["a", "b"], ["a", "b"])
    assert (shown("change=new"), shown("change=steady"), shown("type=other")) == (["a"], ["b"], [])
    assert browser.get("/failures?sort=x").status_code == 400
    assert len(browser.get("/failures.csv").text.splitlines()) == 3


def test_a_group_whose_tasks_are_gone_is_shown_all_the_same(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP))
    connection.delete(keys.job("a"))

    shown = browser.get(f"/failures/{GROUP}")

    assert shown.status_code == 200
    assert "None of them is there any more" in text_of(shown.text)
    assert browser.get("/failures").status_code == 200
    assert browser.get("/failures/nothing").status_code == 404


# --- The audit


def test_the_audit_tells_who_did_what_by_filters(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a", "b")

    with Browser(with_people(connection), **{"x-who": "admin"}) as browser:
        browser.post("/queues/default/pause")
        browser.post("/tasks/a/delete")
        browser.post("/tasks/b/archive")

        def shown(query: str) -> list[str]:
            return [entry["what"] for entry in browser.get(f"/audit.json?{query}").json()["entries"]]

        assert shown("") == ["archive", "delete", "pause"]
        assert (shown("who=admin&what=pause"), shown("who=bob"), shown("on=a"), shown("since=1h&on=default")) == (
            ["pause"], [], ["delete"], ["pause"],
        )  # fmt: skip
        assert (shown("size=2"), shown("size=2&page=2")) == (["archive", "delete"], ["pause"])
        page = browser.get("/audit").text
        assert 'href="/tasks/a"' in page
        assert 'href="/queues/default"' in page
        assert len(browser.get("/audit.ndjson").text.splitlines()) == 3
        assert browser.get("/audit?since=1y").status_code == 400


def test_the_audit_is_exported_as_a_whole_and_that_is_noted(connection: redis.Redis) -> None:
    with connection.pipeline(transaction=False) as pipeline:
        for number in range(2500):
            pipeline.xadd(
                keys.AUDIT, {"user": "anna" if number % 2 else "bob", "what": "run", "on": "{}"}, f"{number + 1}-0"
            )
        pipeline.execute()

    with Browser(with_people(connection), **{"x-who": "admin"}) as browser:
        whole = browser.get("/audit.ndjson").text.splitlines()
        part = browser.get("/audit.csv?who=anna&until=1970-01-01T00:00:01").text.splitlines()
        browser.get("/queues.csv")

    assert (len(whole), len(part)) == (2500, 1 + 500)
    noted = [(entry.user, dict(entry.on), entry.count) for entry in Inspector(connection).audit(what="export")]
    assert noted == [
        ("admin", {"page": "/audit"}, 2500), ("admin", {"page": "/audit", "who": "anna"}, 500),
        ("admin", {"page": "/queues"}, 0),
    ]  # fmt: skip


def test_the_audit_is_exported_only_by_those_who_may_see_it(connection: redis.Redis) -> None:
    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        statuses = {path: browser.get(path).status_code for path in ("/audit", "/audit.csv", "/audit.json")}

    assert set(statuses.values()) == {403}


def test_an_audit_that_is_another_programs_key_is_told(browser: Browser, connection: redis.Redis) -> None:
    connection.set(keys.AUDIT, "x")

    answer = browser.get("/audit")

    assert answer.status_code == 503
    assert keys.AUDIT in text_of(answer.text)
