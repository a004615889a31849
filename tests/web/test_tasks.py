"""The list of tasks and one task: found, filtered, exported, timed, moved, copied and edited."""

import gc
import html
import json
import re
import tracemalloc
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import boilerd.web
from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys, task_search
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Failure
from boilerd.broker.views import Attempt, TaskDetail
from boilerd.tasks.retry import Decision, Verdict
from boilerd.web.pages import bulk
from boilerd.web.pages.settings import COLUMNS
from boilerd.web.permissions import Permission, Principal
from boilerd.web.schema_check import example, problems, schema_of
from boilerd.web.task_query import escaped, unescaped
from boilerd.web.timeline import timeline
from boilerd.web.tracebacks import MOST_SHOWN, pieces, shown_attempts
from browser import ROLES, WHO, Browser, text_of, web_app, with_people
from builders import WORKER, claim, enqueue, fail, fail_next, in_state, pending, rq_queue, serve, store, tell_types

# --- The list


def listed(browser: Browser, address: str) -> list[str]:
    return [task["id"] for task in browser.get(address).json()["tasks"]]


def test_an_id_in_the_search_box_leads_to_its_task(browser: Browser, client: Client) -> None:
    enqueue(client, "a-1")

    assert browser.get("/tasks?q=a-1").headers["location"] == "/tasks/a-1"
    assert browser.get("/tasks.json?q=a-1").headers["location"] == "/tasks/a-1.json"
    assert browser.get("/tasks?q=a-2").status_code == 200


def test_tasks_are_found_in_all_queues_by_words_and_by_what_links_say(
    browser: Browser, client: Client, broker: Broker
) -> None:
    client.enqueue("mail:send", {"to": "anna"}, task_id="one", queue="low")
    client.enqueue("mail:send", {"to": "bert"}, task_id="two")
    client.enqueue("test:echo", {"to": "anna"}, task_id="three")
    fail_next(broker, Verdict.ARCHIVE, "default")

    assert listed(browser, "/tasks.json?q=anna") == ["three", "one"]
    assert listed(browser, "/tasks.json?q=anna&queue=low") == ["one"]
    assert listed(browser, "/tasks.json?type=mail:send") == ["two", "one"]
    assert listed(browser, "/tasks.json?type=mail:send&q=state:archived") == ["two"]
    assert listed(browser, "/tasks.json?error=valueerror&since=1h") == ["two"]
    assert listed(browser, "/tasks.json?state=archived") == ["two"]
    assert "None of all tasks is like that" in browser.get("/tasks?q=nowhere").text


@pytest.mark.parametrize(
    ("query", "says", "leads_to"),
    [
        ("queue=default&state=pending&q=odd", "None of the pending tasks of queue default is like that", ["q=odd"]),
        ("queue=default&q=-b", "None of the tasks of queue default is like that", ["q=-b"]),
        ("state=pending&type=odd:odd", "None of the pending tasks is like that", ["type=odd%3Aodd"]),
        ("queue=default&q=state:pending+odd", "None of the pending tasks of queue default", ["q=state%3Apending+odd"]),
        ("q=odd", "None of all tasks is like that", []),
        ("q=odd+queue:default", "None of the tasks of queue default is like that", []),
    ],
)
def test_a_search_that_found_nothing_says_where_it_looked_and_leads_to_all_else(
    query: str, says: str, leads_to: list[str], browser: Browser, client: Client
) -> None:
    enqueue(client, "b")

    shown = browser.get(f"/tasks?{query}").text

    assert says in text_of(shown)
    assert re.findall(r'href="/tasks\?([^"]*)">Look in all', shown) == leads_to


def test_somebody_with_queues_of_their_own_is_led_to_all_states_of_one(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "b")

    def authorize(_request: Any) -> Principal:
        return Principal("anna", frozenset({Permission.VIEW}), queues=("default",))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        shown = browser.get("/tasks?queue=default&state=pending&q=odd").text

    assert re.findall(r'href="/tasks\?([^"]*)">(Look in all .*?)</a>', shown) == [
        ("queue=default&amp;q=odd", "Look in all states")
    ]


def test_a_wrong_search_is_a_page_that_says_so(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    for address in ("/tasks?q=state:lost", "/tasks?q=after:never", "/tasks?place=x", "/tasks?since=never"):
        assert browser.get(address).status_code == 400, address


def test_the_list_goes_on_behind_its_last_task_and_shows_its_end(browser: Browser, client: Client) -> None:
    enqueue(client, *(f"t{number}" for number in range(7)), process_in=60)
    shown = browser.get("/tasks.json?queue=default&state=scheduled&size=3").json()

    assert [task["id"] for task in shown["tasks"]] == ["t0", "t1", "t2"]
    assert listed(browser, f"/tasks.json?queue=default&state=scheduled&size=3&place={shown['more']}") == [
        "t3", "t4", "t5",
    ]  # fmt: skip
    assert listed(browser, "/tasks.json?queue=default&state=scheduled&size=2&last=1") == ["t5", "t6"]
    assert listed(browser, "/tasks.json?queue=default&state=scheduled&size=3&page=2") == ["t3", "t4", "t5"]
    assert (
        'href="/tasks?queue=default&amp;state=scheduled&amp;last=1"'
        in browser.get("/tasks?queue=default&state=scheduled").text
    )


@pytest.mark.parametrize(
    "query",
    [
        "queue=default&state=pending", "queue=default&state=pending&type=test:echo", "state=pending&q=-x",
        "queue=default&state=pending&type=test:*", "queue=default&state=pending&q=echo",
        "queue=default&q=echo+state:pending", "queue=default&state=pending&since=1h", "queue=default&q=echo",
    ],
)  # fmt: skip
def test_all_that_a_list_shows_can_be_taken_by_what_it_was_found_by(
    query: str, browser: Browser, client: Client
) -> None:
    enqueue(client, "a")

    shown = browser.get(f"/tasks?{query}").text
    (address,) = re.findall(r'href="/bulk/archive(\?[^"]*)"', shown)
    asked = browser.get(f"/bulk/archive.json{html.unescape(address)}").json()

    assert 'href="/tasks/a"' in shown
    assert 'name="id" value="a"' in shown
    assert [task["id"] for task in asked["sample"]] == ["a"]


def test_all_tasks_of_all_queues_are_offered_to_nobody(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    shown = browser.get("/tasks?state=pending").text

    assert "Archive all" not in shown
    assert "For all that match, choose a queue and a state" in shown


def test_the_head_of_a_search_says_how_far_it_looked_and_leads_further(browser: Browser, client: Client) -> None:
    client.enqueue_many([("test:echo", number) for number in range(60)])

    shown = browser.get("/tasks?queue=default&q=-nowhere&size=50").text
    address = re.search(r'href="(/tasks[^"]*looks=50000)"', shown)
    further = browser.get(html.unescape(address[1] if address else "")).text
    whole = browser.get("/tasks?queue=default").text

    assert re.search(r"60 pending · .* looked at 50 in \d+ ms · look at 50,000 more", text_of(shown))
    assert re.search(r"looked at 10 in \d+ ms, which are all that are left", text_of(further))
    assert "looked at" not in text_of(whole)
    assert browser.get("/tasks?looks=50001").status_code == 400


@pytest.mark.parametrize(
    ("state", "columns"),
    [
        (TaskState.PENDING, ["Waits since", "Retried", "Concurrency key", "Payload"]),
        (TaskState.ACTIVE, ["Started", "Retried", "Timeout", "Worker", "Payload"]),
        (TaskState.COMPLETED, ["Completed", "Ran for", "Worker", "Deleted", "Payload"]),
        (TaskState.ARCHIVED, ["Failed", "Retried", "Worker", "Deleted", "Payload", "Last error"]),
    ],
)
def test_a_list_has_the_columns_of_its_state(
    state: TaskState, columns: list[str], browser: Browser, client: Client, broker: Broker
) -> None:
    in_state(client, broker, state)

    shown = browser.get(f"/tasks?queue=default&state={state}").text
    heads = [text_of(each) for each in re.findall(r"<th scope=\"col\".*?</th>", shown, re.DOTALL)]

    assert heads == ["Select all", "ID", "Type", *columns]
    assert [cell for cell in re.findall(r'data-label="(.*?)"', shown) if cell != "Select"] == ["ID", "Type", *columns]


def test_what_a_part_of_a_list_shows_is_sorted(browser: Browser, client: Client) -> None:
    for task_id, task_type in (("a", "z:z"), ("b", "a:a"), ("c", "m:m")):
        client.enqueue(task_type, task_id=task_id)

    assert listed(browser, "/tasks.json?queue=default&sort=type") == ["b", "c", "a"]
    assert listed(browser, "/tasks.json?queue=default&sort=id&way=down") == ["c", "b", "a"]
    assert listed(browser, "/tasks.json?queue=default&sort=deleted") == ["a", "b", "c"]
    assert "Sorted is what this part" in browser.get("/tasks?queue=default&sort=type").text
    assert browser.get("/tasks?sort=payload").status_code == 400


@pytest.mark.parametrize(
    ("payload", "query"),
    [
        ("a\x00b", {"q": "a\x00b"}),
        ("a\u202eb", {"q": "a\u202eb"}),
        ("a\\b \x1b\x00", {"q": '"a\\b \x1b\x00"'}),
        ("a\U000e0001 b", {"q": "b a\U000e0001"}),
        ("a\\x00b", {"q": "a\\x00b"}),  # these four characters: it is found as it is typed
        ("a\\x00\x00", {"q": '"a\\x00\x00"', "type": "test:*"}),
    ],
    ids=ascii,
)
def test_what_is_not_seen_in_the_search_box_is_found_again_and_taken(
    payload: str, query: dict[str, str], browser: Browser, client: Client
) -> None:
    client.enqueue("test:echo", payload, task_id="a")
    for number, other in enumerate(("a\x00b", "a\u202eb", "a\\x00b", "ab", r"a\u202eb")):
        if other != payload:
            client.enqueue("test:echo", other, task_id=f"other-{number}")

    first = browser.get(f"/tasks?{urlencode(query)}").text
    sent = fields_of(first)
    again = f"/tasks?{urlencode(sent)}"
    second = browser.get(again).text

    assert listed(browser, f"/tasks.json?{urlencode(query)}") == ["a"]
    assert listed(browser, again.replace("?", ".json?")) == ["a"]
    assert fields_of(second) == sent
    assert [json.loads(line)["id"] for line in browser.get(again.replace("?", ".ndjson?")).text.splitlines()] == ["a"]
    (address,) = re.findall(r'href="/bulk/archive(\?[^"]*)"', second)
    assert [task["id"] for task in browser.get(f"/bulk/archive.json{html.unescape(address)}").json()["sample"]] == ["a"]


def fields_of(page: str) -> dict[str, str]:
    """What a browser sends of the form for a search that nobody changes, but for what is chosen in lists."""
    form = page.partition('role="search"')[2].partition("</form>")[0]
    fields = re.findall(r'<input[^>]* name="(\w+)" value="([^"]*)"', form)
    return {name: html.unescape(value) for name, value in fields}


def test_a_backslash_in_the_search_box_stays_one(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    of_link = browser.get("/tasks?" + urlencode({"error": "a\u200bb\\x00"})).text
    plain = browser.get("/tasks?" + urlencode({"q": r"C:\x00\new"})).text
    half = browser.get("/tasks?" + urlencode({"q": r"\ud800 \U0000dfff \xg \U00110000", "escaped": "1"})).text

    assert fields_of(of_link) == {"q": "", "error": r"a\u200bb\\x00", "escaped": "1"}
    assert fields_of(plain) == {"q": r"C:\x00\new"}
    assert fields_of(half)["q"] == r"\ud800 \U0000dfff \xg \U00110000"
    assert browser.get("/tasks?escaped=2").status_code == 400


@given(st.text(st.characters(codec="utf-8")), st.binary())
def test_a_text_that_is_escaped_for_a_field_comes_back(text: str, odd: bytes) -> None:
    whole = text + odd.decode("utf-8", "surrogateescape")

    assert escaped(whole).isprintable()
    assert unescaped(escaped(whole)) == whole


def test_an_id_that_is_gone_leads_from_the_search_box_to_what_is_known_of_it(browser: Browser) -> None:
    assert 'href="/tasks/order-7"' in browser.get("/tasks?q=order-7").text
    assert "what is known of it" not in browser.get("/tasks?q=two+words").text


@pytest.mark.parametrize("address", ["/tasks?queue=low&state=pending", "/tasks?queue=low", "/tasks?q=queue:low+low"])
def test_the_list_of_a_queue_says_that_it_is_paused_or_served_by_nobody(
    address: str, browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:low", queue="low")
    Inspector(connection).pause("low")

    shown = browser.get(address).text

    assert "Queue low : paused nobody serves it" in text_of(shown)
    assert "Queue" not in text_of(
        re.findall(r"<section.*?<table", browser.get("/tasks?state=pending").text, re.DOTALL)[0]
    )


def test_the_list_of_a_queue_that_works_says_nothing_of_it(browser: Browser, client: Client, broker: Broker) -> None:
    enqueue(client, "a", "b")
    serve(broker, 0, ["default"])

    shown = browser.get("/tasks?queue=default&state=pending").text

    assert "Queue default" not in text_of(shown)


def test_the_neighbours_of_a_pending_task_are_shown(browser: Browser, client: Client) -> None:
    enqueue(client, *(f"t{number}" for number in range(9)))

    assert listed(browser, "/tasks.json?queue=default&state=pending&size=3&around=t5") == ["t4", "t5", "t6"]
    assert "not among the first or last" in browser.get("/tasks?queue=default&state=pending&around=other").text


def test_nobody_finds_what_they_may_not_see(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", {"to": "anna", "password": "hunter2"}, task_id="a", headers={"session": "s-77"})
    secrets = ("hunter2", "payload.password:hunter2", "s-77", "header.session:s-77")

    with Browser(with_people(connection), **{"x-who": "admin"}) as admin:
        found = [listed(admin, f"/tasks.json?q={each}") for each in ("anna", "payload.to:anna", *secrets)]
        others = [listed(admin, f"/tasks.json?q=-{each}") for each in ("hunter2", "s-77")]
    with Browser(with_people(connection), **{"x-who": "viewer"}) as viewer:
        seen = [listed(viewer, f"/tasks.json?q={each}") for each in ("anna", "hunter2", "s-77", "echo")]
        refused = [viewer.get(f"/tasks.json?q={each}").status_code for each in ("payload.to:anna", "header.a:b")]
        without = listed(viewer, "/tasks.json?q=-anna")

    assert found == [["a"], ["a"], [], [], [], []]
    assert others == [["a"], ["a"]]
    assert seen == [[], [], [], ["a"]]
    assert refused == [400, 400]
    assert without == ["a"]


def test_an_export_has_all_that_match_without_secrets_and_is_noted(connection: redis.Redis, client: Client) -> None:
    client.enqueue_many([("test:echo", {"n": number, "token": "hunter2"}) for number in range(700)])

    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        as_csv = browser.get("/tasks.csv?queue=default&state=pending")
        lines = [json.loads(line) for line in browser.get("/tasks.ndjson?q=payload.n:69*").text.splitlines()]
        one = [json.loads(line) for line in browser.get("/tasks.ndjson?q=payload.n:699").text.splitlines()]
        refused = browser.get("/tasks.csv?q=state:lost")

    assert len(as_csv.text.splitlines()) == 701
    assert as_csv.headers["content-disposition"] == 'attachment; filename="tasks.csv"'
    assert "hunter2" not in as_csv.text
    assert lines == []
    assert [line["payload"] for line in one] == [{"n": 699, "token": "[hidden]"}]
    assert refused.status_code == 400
    entries = Inspector(connection).audit()
    assert (entries[0].what, entries[0].count, dict(entries[0].on)) == (
        "export", 700, {"queue": "default", "state": "pending"},
    )  # fmt: skip


# --- One task


NOW = datetime(2026, 1, 31, 14, tzinfo=UTC)


def test_the_timeline_has_each_span_to_scale(client: Client, broker: Broker, connection: redis.Redis) -> None:
    task_id = in_state(client, broker, TaskState.RETRY)
    found = Inspector(connection).task(task_id)
    at = found.created_at
    assert at is not None
    ends = [timedelta(seconds=each) for each in (10, 30, 50, 90)]
    attempts = [
        Attempt(at + ends[0], at + ends[1], "w1", is_success=False),
        Attempt(at + ends[2], at + ends[3], "w2", is_success=False),
    ]

    spans = timeline(replace(found, attempts=attempts, enqueued_at=at, next_run_at=at + timedelta(seconds=100)), NOW)

    assert [(span.kind, span.seconds, span.worker) for span in spans] == [
        ("waiting", 10, ""), ("failed", 20, "w1"), ("backoff", 20, ""), ("failed", 40, "w2"), ("backoff", 10, ""),
    ]  # fmt: skip
    assert [(span.x, span.width) for span in spans] == [(0, 100), (100, 200), (300, 200), (500, 400), (900, 100)]


@pytest.mark.parametrize("state", TaskState)
def test_the_page_of_each_task_has_a_timeline(
    state: TaskState, browser: Browser, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, state)

    shown = browser.get(f"/tasks/{task_id}").text

    assert "<rect" in shown
    assert "As a table" in shown


def test_a_clock_that_jumped_back_breaks_no_timeline(browser: Browser, client: Client, broker: Broker) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    broker.connection.hset(keys.job(task_id), "created_at", "2999-01-01T00:00:00.000000Z")

    assert browser.get(f"/tasks/{task_id}").status_code == 200


TRACEBACK = """Traceback (most recent call last):
  File "/app/shop/tasks.py", line 3, in charge
    pay()
  File "/v/lib/python3.11/site-packages/lib.py", line 9, in pay
    deep()
  File "/v/lib/python3.11/site-packages/lib.py", line 11, in deep
    raise OwnError
lib.OwnError: no
"""


def test_the_frames_of_libraries_are_folded_and_equal_tracebacks_told_once() -> None:
    attempt = Attempt(NOW, NOW, "w", is_success=False, error=TRACEBACK)

    assert [(piece.is_own, piece.frames) for piece in pieces(TRACEBACK)] == [(True, 1), (False, 2), (True, 0)]
    assert "".join(piece.traceback for piece in pieces(TRACEBACK)) == TRACEBACK
    assert pieces("") == []
    assert [(each.like, each.attempt.error) for each in shown_attempts([attempt, attempt])] == [(0, ""), (1, "")]


#: A line that would part a traceback in the midst of a hidden text.
FRAME_LINE = '\n  File "/v/site-packages/lib.py", line 1, in pay\n'


@pytest.mark.parametrize("end", ["\r\n", "\u2028", "\x0b", FRAME_LINE])
def test_a_hidden_text_of_several_lines_is_hidden_in_a_traceback(
    end: str, connection: redis.Redis, broker: Broker
) -> None:
    key = f"first half{end}second half"
    store(broker, "fails", {"private_key": key})
    failure = Failure("OwnError", f"{TRACEBACK}lib.OwnError: {key}\n", Decision(Verdict.ARCHIVE, delay_s=0.0), 25)
    broker.fail(WORKER, claim(broker), failure)

    with Browser(with_people(connection)) as browser:
        pages = [browser.get(f"/tasks/fails{form}", **{WHO: who}).text for form in ("", ".json") for who in ROLES]

    assert [page for page in pages if "half" in page] == []
    assert all("OwnError" in page for page in pages)


@pytest.mark.parametrize("is_stored", [False, True])
def test_of_a_long_traceback_the_end_is_shown_and_no_part_of_a_hidden_text_where_it_was_cut(
    is_stored: bool, connection: redis.Redis, broker: Broker
) -> None:
    key = "first half, second half"
    store(broker, "fails", {"private_key": key})
    end = "\nlib.OwnError: the last\n"
    whole = f"{TRACEBACK}lib.OwnError: {key}{'.' * (MOST_SHOWN - len(end) - 9)}{end}"  # cut, it begins with "cond half"
    kept = whole[-MOST_SHOWN:] if is_stored else whole
    broker.fail(WORKER, claim(broker), Failure("OwnError", kept, Decision(Verdict.ARCHIVE, delay_s=0.0), 25))

    with Browser(with_people(connection)) as browser:
        pages = [browser.get(f"/tasks/fails{form}", **{WHO: who}).text for form in ("", ".json") for who in ROLES]

    assert [page for page in pages if "half" in page] == []
    assert all("the last" in page for page in pages)


def test_the_page_names_holders_of_keys_and_folds_what_is_equal(
    browser: Browser, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", task_id="holds", concurrency_key="k")
    client.enqueue("test:echo", task_id="fails")
    claim(broker)
    for _ in range(2):
        fail(broker, claim(broker, row=1), Verdict.RETRY, row=1, delay_s=0.0)
        broker.connection.zadd(keys.registry("scheduled", "default"), {"fails": 0}, xx=True)
        broker.forward()
    client.enqueue("test:echo", task_id="waits", concurrency_key="k")

    assert 'href="/tasks/holds"' in browser.get("/tasks/waits").text
    assert "with the same traceback as" in browser.get("/tasks/fails").text


@pytest.mark.parametrize("when", ["2h", "2999-01-31T14:00"])
def test_a_task_is_rescheduled(when: str, browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")

    asked = browser.get("/tasks/a/reschedule").text
    done = browser.post("/tasks/a/reschedule", {"when": when})

    assert 'name="when"' in asked
    assert done.headers["location"].startswith("/tasks/a?")
    assert Inspector(connection).task("a").state is TaskState.SCHEDULED


def test_what_was_typed_is_there_where_it_is_asked_for_again(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    again = browser.post("/tasks/a/reschedule", {"when": "soon"})

    assert again.status_code == 400
    assert "when: no time" in text_of(again.text)
    assert 'name="when" required value="soon"' in again.text


def test_a_task_is_moved(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")

    assert browser.post("/tasks/a/move", {"to": "other"}).status_code == 303
    assert pending(connection, "other") == ["a"]
    assert browser.post("/tasks/a/move", {"to": "no such"}).status_code == 400
    assert browser.post("/tasks/unknown/move", {"to": "other"}).status_code == 404


# --- Copy and edit

COPY = {"type": "test:echo", "queue": "default", "head": "{}"}


def send(browser: Browser, address: str, form: dict[str, str]) -> Any:
    """Fill in a form, look at it, and send it."""
    looked_at = browser.post(address, {**form, "step": "check"})
    assert looked_at.status_code == 200, text_of(looked_at.text)
    checked = looked_at.text.partition('name="checked" value="')[2].partition('"')[0]
    return browser.post(address, {**form, "step": "send", "checked": checked})


def test_a_copy_is_looked_at_before_it_is_sent_and_the_old_one_stays(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"a": 1, "b": 2}, task_id="old", headers={"tenant": "7"}, max_retries=3)
    form = {"body": '{"a": 1, "b": 3}'}

    first = browser.get("/tasks/old/edit").text
    looked_at = browser.post("/tasks/old/edit", {**form, "step": "check"})
    unchecked = browser.post("/tasks/old/edit", {**form, "step": "send"})
    other = browser.post("/tasks/old/edit", {"body": "4", "step": "send", "checked": looked_at.text})
    before = pending(connection)
    done = send(browser, "/tasks/old/edit", form)

    assert "&#34;b&#34;: 2" in first
    assert "<del>-   &#34;b&#34;: 2</del>" in looked_at.text
    assert "<ins>+   &#34;b&#34;: 3</ins>" in looked_at.text
    assert (unchecked.status_code, other.status_code, before) == (200, 200, ["old"])
    new = pending(connection)[1]
    found = Inspector(connection).task(new)
    assert done.headers["location"].startswith(f"/tasks/{new}?")
    assert (found.payload, found.headers, found.max_retries) == ({"a": 1, "b": 3}, {"tenant": "7"}, 3)
    assert found.copied_from == "old"
    assert 'href="/tasks/old"' in browser.get(f"/tasks/{new}").text


def test_what_differs_is_told_with_the_name_of_its_part_and_without_the_others(
    browser: Browser, client: Client
) -> None:
    client.enqueue("test:echo", dict.fromkeys("abcdefgh", 1), task_id="old", retention=60)
    changed = json.dumps({name: 2 if name == "g" else 1 for name in "abcdefgh"})

    in_payload = browser.post("/tasks/old/edit.json", {"body": changed, "step": "check"}).json()["diff"]
    near = browser.post("/tasks/old/edit.json", {"body": changed.replace("2", "1").replace('"c": 1', '"c": 3')}).json()
    in_headers = browser.post("/tasks/old/edit.json", {"head": '{"a": "b"}', "queue": "low", "step": "check"}).json()

    assert [[mark, line.strip(" ,")] for mark, line in in_payload] == [
        ["", "payload:"], ["", "…"], ["", '"d": 1'], ["", '"e": 1'], ["", '"f": 1'],
        ["-", '"g": 1'], ["+", '"g": 2'], ["", '"h": 1'], ["", "}"],
    ]  # fmt: skip
    assert [line.strip(" ,") for _, line in near["diff"]][:4] == ["payload:", "{", '"a": 1', '"b": 1']
    assert in_headers["diff"] == [
        ["-", "queue: default"], ["+", "queue: low"],
        ["", "headers:"], ["-", "{}"], ["+", "{"], ["+", '  "a": "b"'], ["+", "}"],
    ]  # fmt: skip


def test_of_a_type_that_no_daemon_tells_of_it_is_told_before_it_is_sent(
    browser: Browser, connection: redis.Redis
) -> None:
    form = {"type": "mail:snd", "step": "check"}
    without_daemon = browser.post("/tasks/new.json", form).json()["warnings"]
    tell_types(connection, "quiet")
    of_none = browser.post("/tasks/new.json", form).json()["warnings"]
    tell_types(connection, "host.run", "mail:send", "test:")

    warned = browser.post("/tasks/new", form)
    known = [browser.post("/tasks/new.json", {**form, "type": name}).json() for name in ("mail:send", "test:echo")]
    done = send(browser, "/tasks/new", form)

    assert without_daemon == of_none == []
    assert (
        "type: no living daemon tells of a handler for mail:snd; without one the task is archived at once;"
        " did you mean mail:send?"
    ) in text_of(warned.text)
    assert "Enqueue it" in text_of(warned.text)
    assert [found["warnings"] for found in known] == [[], []]
    assert done.status_code == 303
    tell_types(connection, "host.later", "")
    assert browser.post("/tasks/new.json", form).json()["warnings"] == []


@pytest.mark.parametrize(
    ("word", "left"), [("archive", TaskState.ARCHIVED), ("delete", None), ("keep", TaskState.PENDING)]
)
def test_the_old_task_goes_if_one_says_so(
    word: str, left: TaskState | None, browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "old")

    send(browser, "/tasks/old/edit", {"old": word})

    assert browser.get("/tasks/old").status_code == (404 if left is None else 200)
    assert left is None or Inspector(connection).task("old").state is left


def test_what_is_hidden_is_copied_as_it_was_and_shown_to_nobody(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", {"password": "hunter2", "n": 1}, task_id="old")

    shown = browser.get("/tasks/old/edit").text
    looked_at = browser.post("/tasks/old/edit", {"body": '{"password": "[hidden]", "n": 2}', "step": "check"}).text
    send(browser, "/tasks/old/edit", {"body": '{"password": "[hidden]", "n": 2}'})
    moved = browser.post("/tasks/old/edit", {"body": '{"other": "[hidden]"}', "step": "check"})

    assert "hunter2" not in shown + looked_at
    assert Inspector(connection).task(pending(connection)[1]).payload == {"password": "hunter2", "n": 2}
    assert moved.status_code == 422
    assert "stands where nothing was hidden" in moved.text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"body": "{"}, "payload: no JSON in line 1"),
        ({"body": "NaN"}, "NaN is none of its numbers"),
        ({"body": "[" * 20_000}, "nested too deep"),
        ({"head": "[]"}, "headers: no object"),
        ({"type": ""}, "task type '': use letters"),
        ({"timeout": "soon"}, "timeout: no whole number"),
        ({"when": "soon"}, "when: no time"),
        ({"when": "9999-12-31T23:59:59-12:00"}, "when: no time"),
        ({"type": "a b"}, "task type 'a b': use letters"),
        ({"queue": "ünsafe"}, "queue 'ünsafe': use letters"),
        ({"head": '{"a": 1}'}, "header 'a': int is no text"),
        ({"body": r'"\ud800"'}, "payload: "),
        ({"timeout": "0"}, "timeout: 0 would end every attempt"),
        ({"concurrency_key": "k" * 5000}, "use letters, digits and any of '_ . : / @ -', at most 128"),
        ({"concurrency_limit": "3"}, "concurrency_limit: limits nothing without concurrency_key"),
        ({"concurrency_key": "k", "concurrency_limit": "0"}, "concurrency_limit: 0 is not a number from 1"),
    ],
)
def test_what_cannot_be_sent_is_told_beside_the_form_also_before_it_is_sent(
    form: dict[str, str], words: str, browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "old")

    answers = [browser.post("/tasks/old/edit", {**form, "step": step}) for step in ("check", "send")]

    assert pending(connection) == ["old"]
    for answer in answers:
        assert answer.status_code == 422
        assert words in html.unescape(text_of(answer.text))
        assert "textarea" in answer.text


def test_a_payload_that_a_daemon_would_refuse_is_not_sent(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    connection.zadd(keys.DAEMONS, {"host.run": datetime.now(UTC).timestamp()})
    connection.set(keys.daemon("host.run"), json.dumps({"types": ["test:"], "schemas": {"test:": schema}}))

    answer = browser.post("/tasks/new", {"type": "test:echo", "body": '{"n": "x"}', "step": "check"})

    assert answer.status_code == 422
    assert "payload.n must be integer" in text_of(answer.text)
    assert "&#34;n&#34;: 0" in browser.get("/tasks/new?type=test:echo").text
    assert send(browser, "/tasks/new", {"type": "test:echo", "body": '{"n": 1}'}).status_code == 303


def test_a_new_task_begins_with_what_the_last_payloads_of_its_type_have_in_them(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("mail:send", {"to": "anna", "n": [{"x": 1.5}], "password": "hunter2", "is_new": True})
    client.enqueue("mail:send", {"to": "bob", "n": [{"x": 2}, {}], "password": "hunter3", "is_new": False})
    client.enqueue("mail:send", {"cc": None})

    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        first, second = (browser.get(f"/tasks/new.json?type=mail:send&template={n}").json() for n in (1, 2))
        other = browser.get("/tasks/new.json?type=mail:other").json()
        shown = browser.get("/tasks/new?type=mail:send").text

    assert json.loads(first["form"]["body"]) == {"to": "", "n": [{"x": 0}], "password": "", "is_new": False}
    assert json.loads(second["form"]["body"]) == {"cc": None}
    assert other["form"]["body"] == "null"
    assert "template=2" in shown


def test_a_task_is_enqueued_by_a_program_in_one_step(connection: redis.Redis) -> None:
    from boilerd.settings.web import WebToken  # noqa: PLC0415
    from boilerd.web import passwords  # noqa: PLC0415
    from browser import web_app  # noqa: PLC0415

    token, hashed = passwords.new_token()
    app = web_app(connection, tokens={"ci": WebToken(sha256=hashed, role="operator")})

    with Browser(app, host="any.example") as browser:
        headers = {"authorization": f"Bearer {token}"}
        sent = {"type": "test:echo", "body": '{"a":1}', "queue": "low", "step": "send"}
        done = browser.send("POST", "/tasks/new.json", headers=headers, json=sent)
        wrong = browser.send("POST", "/tasks/new.json", headers=headers, json={**sent, "body": "{"})

    assert pending(connection, "low") == [done.json()["task"]["id"]]
    assert (wrong.status_code, wrong.json()["problems"][0][:14]) == (422, "payload: no JS")


# --- Schemas

POINT = {"$defs": {"n": {"type": "number", "minimum": 0}}, "type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}}


@pytest.mark.parametrize(
    ("schema", "payload", "found"),
    [
        (True, 1, []),
        (None, 1, []),
        ({"type": "unheard of"}, 1, []),
        ({"type": "integer"}, 1.0, []),
        ({"type": "integer"}, True, ["payload must be integer"]),
        ({"type": ["string", "null"]}, 1, ["payload must be string or null"]),
        ({"enum": ["a", "b"]}, "c", ["payload must be one of 'a', 'b'"]),
        ({"const": 1}, True, ["payload must be 1"]),
        (POINT, {"x": -1}, ["payload.x must be at least 0"]),
        ({**POINT, "additionalProperties": False}, {"y": 1}, ["payload.y is not known"]),
        ({**POINT, "required": ["x"]}, {}, ["payload.x is missing"]),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a", 1], [
            "payload must have 1 members or less", "payload.1 must be string",
        ]),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["a", 1], ["payload.1 is one too many"]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, []),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 1, ["payload must be string"]),
        ({"$ref": "https://elsewhere.example/schema"}, 1, []),
        ({"$ref": "#"}, 1, []),
        ({"minimum": "x"}, 1, []),
        ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}]}, 1, []),
        ({"properties": 1, "required": 2, "allOf": 3, "enum": 4}, {"a": 1}, []),
        ({"type": "string", "minLength": 2}, "a", ["payload must have 2 characters or more"]),
    ],
)  # fmt: skip
def test_a_payload_is_checked_as_far_as_its_schema_is_understood(schema: Any, payload: Any, found: list[str]) -> None:
    assert problems(payload, schema) == found


def test_a_payload_to_begin_with_has_what_its_schema_requires() -> None:
    schema = {
        "$ref": "#/$defs/A",
        "$defs": {
            "A": {
                "properties": {
                    "n": {"type": "integer"}, "kind": {"enum": ["x", "y"]}, "on": {"default": True}, "left": {},
                    "again": {"$ref": "#/$defs/A"}, "list": {"type": "array"},
                },
                "required": ["n", "kind", "on", "list"],
            }
        },
    }  # fmt: skip

    assert example(schema) == {"n": 0, "kind": "x", "on": True, "list": []}
    assert example({"$ref": "#"}) is None
    assert example({"properties": {"a": 1}, "required": 2}) is None
    names = [str(number) for number in range(300)]
    assert example({"properties": {name: {"$ref": "#"} for name in names}, "required": names}) is None
    assert example(None) is None


def test_the_schema_of_a_type_is_that_of_its_handler() -> None:
    schemas = {"": 0, "mail:": 1, "mail:send": 2}

    assert [schema_of(schemas, each) for each in ("mail:send", "mail:sent", "x")] == [2, 1, 0]
    assert schema_of({"mail:": 1}, "x") is None


# --- Large payloads


@pytest.fixture
def large(client: Client, connection: redis.Redis) -> int:
    """Twelve archived tasks of a megabyte each; how many bytes one has."""
    for number in range(12):
        payload = {"text": "x" * 1_000_000, "token": "hunter2", "n": number + 10}
        task_id = client.enqueue("test:echo", payload, task_id=f"large-{number}").id
        connection.hset(keys.job(task_id), "last_error", "ValueError: hunter2 is no token")
    client.enqueue("test:echo", "small", task_id="small")
    return connection.hstrlen(keys.job("large-0"), "data")


def peak_of(browser: Browser, address: str) -> tuple[str, int]:
    """The answer, and how many bytes were in use at once for it."""
    browser.get(address)
    gc.collect()
    tracemalloc.start()
    answer = browser.get(address)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return answer.text, peak


def test_a_list_does_not_read_what_is_large(large: int, browser: Browser) -> None:
    found, peak = peak_of(browser, "/tasks.json?queue=default&state=pending")

    rows = {task["id"]: task for task in json.loads(found)["tasks"]}
    assert peak < 2 * large
    assert rows["large-3"]["payload"] == f"{large:,} bytes, too many for a list"
    assert rows["large-3"]["last_error"] == "[hidden]"
    assert (rows["large-3"]["type"], rows["large-3"]["unread_bytes"]) == ("test:echo", large)
    assert rows["small"]["payload"] == "small"
    assert browser.get("/tasks/large-3.json").json()["task"]["payload"]["n"] == 13


@pytest.mark.usefixtures("large")
def test_a_search_finds_a_task_by_its_error_however_large_it_is(browser: Browser) -> None:
    found = browser.get("/tasks.json?state=pending&error=token").json()["tasks"]
    hidden = browser.get("/tasks.json?state=pending&error=hunter2").json()["tasks"]

    assert len(found) == 12
    assert {task["payload"] for task in found} == {found[0]["payload"]}
    assert "too many for a list" in found[0]["payload"]
    assert hidden == []


@pytest.mark.usefixtures("large")
def test_a_search_among_large_tasks_ends_in_its_time(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[TaskDetail] = []
    monkeypatch.setattr(task_search, "time", SimpleNamespace(monotonic=lambda: float(len(slow))))

    def see(task: TaskDetail) -> dict[str, Any]:
        slow.append(task)  # takes a second
        return asdict(task)

    found = Inspector(connection).search("error:token", within_s=0.5, is_whole=False, sees=see)

    assert (found.looked, len(found.tasks), len(slow)) == (1, 1, 1)


def test_an_export_of_large_tasks_has_all_of_them_and_a_few_at_a_time(large: int, connection: redis.Redis) -> None:
    parts = [len(part) for part in Inspector(connection).export(queue="default")]

    assert sum(parts) == 13
    assert max(parts) <= 3


def test_the_size_of_a_task_of_rqs_keeps_nobody_from_its_type(connection: redis.Redis) -> None:
    rq_queue(connection).enqueue("shop.charge", "x" * 20_000, job_id="foreign")

    (found,) = Inspector(connection).tasks("default", TaskState.PENDING, is_whole=False)

    assert (found.type, found.unread_bytes) == ("shop.charge", 0)


def test_a_list_has_tasks_whose_record_is_gone_or_is_none(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a", "gone", "none", "z")
    connection.delete(keys.job("gone"), keys.job("none"))
    connection.set(keys.job("none"), "no record")

    found = Inspector(connection).search(queue="default", state=TaskState.PENDING, is_whole=False).tasks

    assert [(task.id, task.type) for task in found] == [
        ("a", "test:echo"),
        ("gone", ""),
        ("none", ""),
        ("z", "test:echo"),
    ]


def test_the_links_of_a_list_keep_its_rows_and_its_export_has_all(browser: Browser, client: Client) -> None:
    enqueue(client, *"abc")

    page = browser.get("/tasks?queue=default&state=pending&size=2").text
    links = {text: href for href, text in re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>([^<]*)</a>', page)}
    workers = browser.get("/workers?size=2&page=2").text

    assert all("size=2" in links[name] for name in ("More", "Last", "0 completed"))
    assert "size" not in links["CSV of all"]
    assert '<input type="hidden" name="size" value="2">' in page
    assert 'workers.csv"' in workers


def test_settings_offer_to_hide_each_column_that_style_hides(browser: Browser) -> None:
    style = (Path(boilerd.web.__file__).parent / "static" / "app.css").read_text()
    shown = " ".join(browser.get(f"/tasks?state={state}&q=-x").text for state in ("", *map(str, TaskState)))

    hidden = re.findall(
        r':root\[data-hides~="(\w+)"\] \.tasks :is\(\[data-column="([^"]+)"\], \[data-label="\2"\]\)', style
    )

    assert hidden == [*COLUMNS]
    assert {label for _, label in hidden} <= {*re.findall(r'<th scope="col" data-column="([^"]+)"', shown)}


def test_no_more_rows_are_offered_than_can_be_ticked_for_an_action(browser: Browser) -> None:
    (field,) = re.findall(r'<select data-keeps="size".*?</select>', browser.get("/settings").text, re.DOTALL)
    offered = [int(rows) for rows in re.findall(r'value="(\d+)"', field)]

    assert len(offered) > 2
    assert max(offered) <= bulk.MOST_SELECTED
