"""The page of one task: its story, what is known of one that is gone, and two of them side by side."""

import html
import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from rq import Queue

from boilerd import Actor, Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.operation_record import Order
from boilerd.broker.traces import Pause
from boilerd.errors import TaskStateError
from boilerd.web import Principal
from boilerd.web.pages import task
from boilerd.web.pages.task import MOST_PAUSES
from boilerd.web.shown import MOST_NODES, branches
from boilerd.web.timeline import timeline
from browser import WHO, Browser, text_of, web_app, with_people
from builders import WORKER, complete_next, enqueue, fail_as, failure_kind, in_state, pending, rq_queue, serve

AT = datetime(2026, 1, 31, 14, tzinfo=UTC)


def rows(browser: Browser, address: str) -> dict[str, tuple[str, str]]:
    found = browser.get(address).json()["rows"]
    return {row["place"]: (row["this"], row["other"]) for row in found}


def test_where_what_it_came_from_cannot_be_read_the_rest_of_a_tasks_page_is_shown(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "task")
    connection.set("rq:job:task:dependents", "a text")

    answer = browser.get("/tasks/task")

    assert answer.status_code == 200
    assert "rq:job:task:dependents" in text_of(answer.text)


def test_where_the_audit_cannot_be_read_the_page_of_a_task_that_is_gone_says_so(
    browser: Browser, connection: redis.Redis
) -> None:
    connection.set(keys.AUDIT, "a text")

    answer = browser.get("/tasks/gone")

    assert answer.status_code == 404
    assert keys.AUDIT in text_of(answer.text)
    assert "There was never a task" not in answer.text


# --- One that is gone


def test_of_a_task_that_somebody_deleted_its_page_tells_by_whom(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "gone")
    Inspector(connection, by=Actor("cli", "anna", "front")).delete("gone")

    with Browser(with_people(connection), **{WHO: "admin"}) as browser:
        told, data = browser.get("/tasks/gone"), browser.get("/tasks/gone.json")
    with Browser(with_people(connection), **{WHO: "viewer"}) as browser:
        seen = browser.get("/tasks/gone")

    assert (told.status_code, seen.status_code, data.status_code) == (404, 404, 404)
    assert "Delete, by anna@front (cli)" in text_of(told.text)
    assert "Delete" in text_of(seen.text)
    assert "anna" not in seen.text
    assert (data.json()["status"], data.json()["known"]["deeds"][0]["what"]) == (404, "delete")


def test_of_a_task_that_completed_and_was_not_kept_its_page_tells_when(
    browser: Browser, client: Client, broker: Broker
) -> None:
    enqueue(client, "short")
    complete_next(broker)

    shown = browser.get("/tasks/short")

    assert shown.status_code == 404
    assert "It completed on worker" in text_of(shown.text)


def test_of_a_task_that_an_operation_took_its_page_leads_to_the_operation(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "ticked", "other", "whole")
    operations = Inspector(connection).operations
    operations.run(*operations.begin(Order("delete", task_ids=("other", "ticked"))))
    operations.run(*operations.begin(Order("delete", "default", TaskState.PENDING)))

    ticked, whole = (text_of(browser.get(f"/tasks/{task_id}").text) for task_id in ("ticked", "whole"))

    assert "It was selected for an operation: Delete for ever: 2 selected tasks" in ticked
    assert "It may have been among these Delete for ever: all pending tasks of queue default" in whole


def test_of_an_id_that_nobody_knows_its_page_says_how_far_back_it_looked(browser: Browser) -> None:
    assert "There was never a task of this ID, or it ended longer ago" in text_of(browser.get("/tasks/never").text)


# --- Found by clicking


def test_why_a_task_does_not_run_is_found_by_clicking_and_by_pasting_its_id(browser: Browser, client: Client) -> None:
    client.enqueue("mail:send", {"to": "anna"}, task_id="order-7", queue="low")
    way = ["/"]
    for wanted in ("/tasks?queue=low&state=pending", "/tasks/order-7"):
        page = browser.get(way[-1]).text
        assert f'href="{html.escape(wanted)}"' in page, way
        way.append(wanted)

    shown = text_of(browser.get(way[-1]).text)
    pasted = browser.get("/tasks?q=order-7").headers["location"]

    assert "Why Nobody works on queue low" in shown
    assert pasted == way[-1]


def test_workers_are_read_once_for_all_who_ask_why_tasks_of_a_queue_wait(
    browser: Browser, broker: Broker, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "SERVERS_FRESH_S", 600.0)
    enqueue(client, "a", "b")
    client.enqueue("test:echo", task_id="other", queue="low")

    def why(task_id: str) -> list[str]:
        return [each["kind"] for each in browser.get(f"/tasks/{task_id}.json").json()["why"]["reasons"]]

    before = why("a")
    broker.register("host.run.1", ["default", "low"], {"queues": "default,low", "birthmark": "1"})
    meanwhile = why("a"), why("other")
    browser.post("/tasks/b/archive")

    assert before == ["unserved", "ahead"]
    assert meanwhile == (before, ["ahead"])
    assert why("a") == ["ahead"]


def test_the_note_of_the_pause_stands_beside_why_a_task_does_not_run(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "waits")
    Inspector(connection).pause("default", note="the mail server moves")

    shown = text_of(browser.get("/tasks/waits").text)

    assert "the mail server moves" in shown[shown.index("Why") : shown.index("About")]
    assert "workers of the queue are busy" not in shown


def test_why_a_task_does_not_run_has_the_button_that_would_help_for_those_who_may(
    browser: Browser, viewer: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "waits")
    Inspector(connection).pause("default")

    shown, of_viewer = (why_of(one.get("/tasks/waits").text) for one in (browser, viewer))
    (address,) = re.findall(r'<form method="post" action="([^"]+)"', shown)
    done = browser.post(address)

    assert "boilerd queue resume default" in of_viewer
    assert "<form" not in of_viewer
    assert done.status_code == 303
    assert not Inspector(connection).queue("default").counts.is_paused


def test_why_a_task_does_not_run_leads_to_the_workers_where_a_pool_would_be_resumed(
    browser: Browser, viewer: Browser, client: Client, broker: Broker
) -> None:
    enqueue(client, "waits")
    serve(broker, 0, ["default"], state="suspended")

    shown = why_of(browser.get("/tasks/waits").text)

    assert '<a href="/workers"><code>boilerd resume</code></a>' in shown
    assert 'href="/workers"' not in why_of(viewer.get("/tasks/waits").text)


def why_of(page: str) -> str:
    """The part of a task's page that says why it does not run."""
    return page[page.index('data-live="why"') : page.index('data-live="timeline"')]


# --- One that is there


def test_a_page_tells_what_became_of_a_task_and_what_it_came_from(
    browser: Browser, client: Client, connection: redis.Redis, broker: Broker
) -> None:
    fail_as(broker, "fails", failure_kind())
    fail_as(broker, "equal", failure_kind())
    enqueue(client, "cron-nightly-20260131T030000Z")
    inspector = Inspector(connection, by=Actor("cli", "anna", "front"))
    inspector.enqueue("test:echo", copied_from="fails", task_id="copy")
    inspector.run("fails")
    connection.sadd("rq:job:fails:dependents", "waiting-job")

    shown, tick = browser.get("/tasks/fails").text, browser.get("/tasks/cron-nightly-20260131T030000Z").text

    assert 'href="/tasks/copy"' in shown
    assert 'href="/tasks/waiting-job"' in shown
    assert 'href="/tasks/equal"' in shown
    assert 'href="/tasks/fails/compare?with=equal"' in shown
    assert "Run, by anna@front (cli)" in text_of(shown)
    assert 'href="/crons/nightly"' in tick


def test_a_task_that_goes_on_while_its_page_is_read_is_shown_as_it_is_then(
    browser: Browser, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, "task")
    explain = Inspector.explain

    def later(inspector: Inspector, task_id: str, **more: Any) -> Any:
        with suppress(TaskStateError):
            inspector.archive(task_id)
        return explain(inspector, task_id, **more)

    monkeypatch.setattr(Inspector, "explain", later)

    found = browser.get("/tasks/task.json").json()

    assert (found["task"]["state"], found["why"]["state"]) == ("archived", "archived")
    assert "delete" in found["actions"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (TaskState.SCHEDULED, "It is due:"), (TaskState.RETRY, "It is tried again:"),
        (TaskState.ACTIVE, "It is interrupted at its timeout:"), (TaskState.ARCHIVED, "It is deleted:"),
        (TaskState.COMPLETED, "It is deleted:"), (TaskState.PENDING, "attempt 1"),
    ],
)  # fmt: skip
def test_the_head_says_what_happens_next(
    state: TaskState, says: str, browser: Browser, client: Client, broker: Broker
) -> None:
    assert says in text_of(browser.get(f"/tasks/{in_state(client, broker, state)}").text)


def test_a_task_leads_to_the_worker_that_ran_it_those_who_see_all_queues(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    enqueue(client, "done", retention=60)
    complete_next(broker)
    link = f'<a href="/workers/{WORKER}">'.replace(".", "~2E")

    def page(queues: list[str] | None) -> str:
        with Browser(
            web_app(connection, authorize=lambda _: Principal.of_role("o", "operator", queues=queues))
        ) as browser:
            return browser.get("/tasks/done").text

    everybody, own = page(None), page(["default"])

    assert everybody.count(link) == 2
    assert link not in own
    assert WORKER in own


def test_a_time_in_which_the_queue_was_paused_has_its_own_place_in_the_timeline(
    client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    found = replace(Inspector(connection).task("a"), created_at=AT, enqueued_at=AT)
    at = [AT + timedelta(seconds=each) for each in (-50, -10, 20, 50, 80)]
    pauses = [Pause(at[0], at[1], "x"), Pause(at[2], at[3], "anna"), Pause(at[4], None, "")]

    spans = timeline(found, AT + timedelta(seconds=100), pauses)

    assert [(span.kind, span.seconds, span.note) for span in spans] == [
        ("waiting", 20, ""), ("paused", 30, "the queue was paused by anna"), ("waiting", 30, ""),
        ("paused", None, "the queue was paused"),
    ]  # fmt: skip


def test_the_audit_names_who_paused_the_queue_while_a_task_waited(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a")
    inspector = Inspector(connection, by=Actor("cli", "anna", "front"))
    inspector.pause("default")

    with Browser(with_people(connection), **{WHO: "admin"}) as browser:
        shown = browser.get("/tasks/a").text
    with Browser(with_people(connection), **{WHO: "operator"}) as browser:
        unnamed = browser.get("/tasks/a").text

    assert shown.count("the queue was paused by anna") == 1
    assert "anna" not in unnamed
    assert unnamed.count("the queue was paused") == 1


def test_a_timeline_has_the_last_pauses_of_the_queue_and_tells_of_how_many_more(
    connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    inspector = Inspector(connection, by=Actor("cli", "anna", "front"))
    for _ in range(MOST_PAUSES + 3):
        inspector.pause("default")
        inspector.resume("default")

    with Browser(with_people(connection), **{WHO: "admin"}) as browser:
        shown = browser.get("/tasks/a").text

    assert shown.count("the queue was paused by anna") <= MOST_PAUSES  # some begin and end in one millisecond
    assert "paused 3 times more" in shown


def test_a_tree_of_a_payload_has_only_so_many_nodes() -> None:
    value: Any = {"list": [*range(1000)], "deep": {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}}

    (first, last) = branches(value)

    assert (first["name"], first["text"], len(first["inner"])) == ("list", "1,000 items", MOST_NODES)
    assert (last["name"], last["inner"]) == ("…", [])
    assert branches({"a": {"b": 1}})[0]["inner"] == [{"name": "b", "text": "1", "inner": []}]


def test_a_job_of_plain_rq_and_one_without_a_readable_record_have_pages(
    browser: Browser, connection: redis.Redis
) -> None:
    job = rq_queue(connection).enqueue("os.getpid", meta={"x": 1})
    connection.hset(keys.job("broken"), mapping={"data": b"\xff\xfe", "status": "queued", "origin": "default"})
    connection.set(keys.job("text"), "no hash")

    shown = [browser.get(f"/tasks/{each}{page}") for each in (job.id, "broken") for page in ("", "/compare")]
    wrong = [browser.get(f"/tasks/text{page}") for page in ("", "/compare")]

    assert [answer.status_code for answer in shown] == [200] * 4
    assert "os.getpid" in text_of(shown[0].text)
    assert all(keys.job("text") in text_of(answer.text) for answer in wrong)
    assert {answer.status_code for answer in wrong} == {503}


def test_a_job_that_waits_for_another_one_has_not_ended(browser: Browser, connection: redis.Redis) -> None:
    queue = rq_queue(connection)
    waiting = queue.enqueue("shop.mail", depends_on=queue.enqueue("shop.charge"))

    done = browser.post(f"/tasks/{waiting.id}/cancel.json").json()["done"]

    assert done == f"task {waiting.id} is deferred, as RQ has it, and stays so"
    assert waiting.get_status() == "deferred"


@pytest.mark.parametrize("step", ["check", "send"])
def test_a_task_whose_payload_cannot_be_read_is_not_copied_without_it(
    step: str, browser: Browser, connection: redis.Redis, client: Client
) -> None:
    pickled = Queue("default", connection=connection).enqueue("math.sqrt", 4.0).id
    deep: Any = "kept"
    for _ in range(150):
        deep = [deep]
    nested = client.enqueue("test:echo", deep).id

    pages = [text_of(browser.get(f"/tasks/{each}").text) for each in (pickled, nested)]
    asked = [browser.get(f"/tasks/{each}/edit") for each in (pickled, nested)]
    sent = [browser.post(f"/tasks/{each}/edit.json", {"step": step}) for each in (pickled, nested)]
    compared = text_of(browser.get(f"/tasks/{nested}/compare?with={pickled}").text)
    listed = text_of(browser.get("/tasks").text)

    assert all("It cannot be read" in page and "Copy and edit" not in page for page in pages)
    assert {answer.status_code for answer in (*asked, *sent)} == {409}
    assert pending(connection) == [pickled, nested]
    assert "A payload that cannot be read was not compared" in compared
    assert (listed.count("cannot be read"), "null" in listed) == (2, False)
    assert not any("null" in page.partition("Payload")[2] for page in pages)


# --- Two of them


def test_two_tasks_are_compared_place_by_place(browser: Browser, client: Client) -> None:
    client.enqueue("test:echo", {"to": "anna", "n": [1, 2], "same": 1}, task_id="a", headers={"tenant": "7"})
    client.enqueue("test:echo", {"to": "bob", "n": [1], "same": 1}, task_id="b", queue="low", timeout=60)

    found = rows(browser, "/tasks/a/compare.json?with=b")
    shown = text_of(browser.get("/tasks/a/compare?with=b").text)

    assert found.pop("timeout_s")[1] == "60"
    assert found == {
        "queue": ('"default"', '"low"'), "payload.to": ('"anna"', '"bob"'), "payload.n.1": ("2", ""),
        "headers.tenant": ('"7"', ""), "headers": ("", "{}"),
    }  # fmt: skip
    assert "6 places differ" in shown
    assert browser.get("/tasks/a/compare?with=nothing").status_code == 404
    assert "It is the same task; name another." in text_of(browser.get("/tasks/a/compare?with=+a+").text)


def test_whether_what_is_hidden_differs_is_told_to_nobody(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", {"n": 1, "password": "hunter2"}, task_id="a", headers={"session": "s-1"})
    client.enqueue("test:echo", {"n": 2, "password": "hunter3"}, task_id="b", headers={"session": "s-2"})

    with Browser(with_people(connection), **{WHO: "admin"}) as browser:
        seen = rows(browser, "/tasks/a/compare.json?with=b")
    with Browser(with_people(connection), **{WHO: "viewer"}) as browser:
        blind = rows(browser, "/tasks/a/compare.json?with=b")

    assert seen == {"payload.n": ("1", "2")}
    assert blind == {}


def test_a_task_that_fails_is_compared_with_the_last_of_its_type_that_completed(
    browser: Browser, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", {"n": 1}, task_id="old", retention=3600)
    client.enqueue("test:echo", {"n": 2}, task_id="good", retention=3600)
    client.enqueue("test:echo", {"n": 3}, task_id="unkept")
    for _ in range(3):
        complete_next(broker)
    client.enqueue("test:echo", {"n": 4}, task_id="bad")

    found = browser.get("/tasks/bad/compare.json").json()

    assert found["other"]["id"] == "good"
    assert {row["place"] for row in found["rows"]} >= {"payload.n"}
