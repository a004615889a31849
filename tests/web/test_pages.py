"""The pages show what stands in Redis, as HTML, as JSON and as lists, and do what a person asks."""

import html
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import text
from boilerd.web import sampler
from boilerd.web.described import QUERIES
from boilerd.web.page import ACTIONS, PAGES, action, load_pages, page
from boilerd.web.pages import workers
from boilerd.web.parameters import OF_BROWSERS, is_sized
from boilerd.web.sampler import Sampler, Snapshot
from boilerd.web.visit import Visit
from browser import Browser, text_of, web_app, with_people
from builders import claim, count_in_minute, counted, enqueue, in_state, pending
from dashboard_world import PATHS, address, fill


def test_the_overview_begins_with_the_verdict(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "waits")
    Inspector(connection).pause("default")

    shown = text_of(browser.get("/").text)

    assert "Worth a look" in shown
    assert shown.index("Worth a look") < shown.index("paused:") < shown.index("Pending")


def test_the_same_address_with_json_has_the_data_of_the_page(browser: Browser, client: Client) -> None:
    enqueue(client, "a", "b")

    found = browser.get("/overview.json").json()

    assert found["totals"]["pending"] == 2
    assert [queue["name"] for queue in found["queues"]] == ["default"]
    assert browser.get("/queues.json").json()["queues"][0]["pending"] == 2
    assert browser.get("/queues/default.json").json()["queue"]["counts"]["pending"] == 2


@pytest.mark.parametrize("state", TaskState)
def test_a_task_of_each_state_is_in_its_list_and_has_a_page(
    state: TaskState, browser: Browser, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, state)

    listed = browser.get(f"/tasks?queue=default&state={state}")
    shown = browser.get(f"/tasks/{task_id}")

    assert f'href="/tasks/{task_id}"' in listed.text
    assert shown.status_code == 200
    assert state in text_of(shown.text)


def test_an_address_that_is_none_is_answered_in_the_form_that_its_end_has(browser: Browser) -> None:
    unknown = [browser.get(f"/nothing{form}") for form in ("", ".json", ".csv")]
    wrong = browser.send("DELETE", "/queues.json")

    assert [answer.status_code for answer in unknown] == [404] * 3
    assert "<h1>Not Found</h1>" in unknown[0].text
    assert [answer.json() for answer in unknown[1:]] == [{"error": "there is no such page", "status": 404}] * 2
    assert (wrong.status_code, wrong.json()["error"]) == (405, "this address does not take that method")


def test_an_address_that_is_none_is_answered_whatever_bytes_its_query_has(connection: redis.Redis) -> None:
    app = web_app(connection)

    async def as_some_servers_hand_it_on(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "query_string": b"a=\xe9"}, receive, send)

    with Browser(as_some_servers_hand_it_on) as browser:
        assert browser.get("/nothing").status_code == 404


def test_a_word_that_is_none_of_those_that_there_are_is_told_them(browser: Browser) -> None:
    answer = browser.get("/types.json?only=risin")

    assert (answer.status_code, answer.json()["error"]) == (400, "only: not known; use one of risen")


def test_the_page_of_a_task_says_why_it_does_not_run(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "waits")
    Inspector(connection).pause("default")

    shown = text_of(browser.get("/tasks/waits").text)

    assert "paused" in shown[shown.index("Why") : shown.index("About")]


def test_a_queue_is_paused_and_resumed_in_the_name_of_who_asks(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "waits")

    with Browser(with_people(connection), **{"x-who": "operator"}) as browser:
        paused = browser.post("/queues/default/pause")
        told = browser.get(paused.headers["location"])
        resumed = browser.post("/queues/default/resume.json")

    assert paused.status_code == 303
    assert "queue default is paused" in text_of(told.text)
    assert resumed.json() == {"done": "queue default is open again"}
    entries = Inspector(connection).audit()
    assert [(entry.user, entry.via, entry.what, entry.host) for entry in entries] == [
        ("operator", "web", "pause", "127.0.0.1"), ("operator", "web", "resume", "127.0.0.1"),
    ]  # fmt: skip


def test_a_task_is_deleted_only_after_a_page_that_asks(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "goes")

    asked = browser.get("/tasks/goes/delete")
    still_there = pending(connection)
    done = browser.post("/tasks/goes/delete")

    assert "Delete this task for ever?" in asked.text
    assert 'action="/tasks/goes/delete"' in asked.text
    assert still_there == ["goes"]
    assert done.headers["location"].startswith("/tasks?queue=default&state=pending&told=")
    assert pending(connection) == []


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (TaskState.ARCHIVED, ("run", TaskState.PENDING)),
        (TaskState.PENDING, ("archive", TaskState.ARCHIVED)),
        (TaskState.SCHEDULED, ("run", TaskState.PENDING)),
    ],
)
def test_an_action_changes_the_state_of_a_task(
    state: TaskState, action: tuple[str, TaskState], browser: Browser, client: Client, broker: Broker
) -> None:
    what, ends = action
    task_id = in_state(client, broker, state)

    answer = browser.post(f"/tasks/{task_id}/{what}")

    assert answer.status_code == 303
    assert Inspector(broker.connection).task(task_id).state is ends


def test_an_action_that_the_state_forbids_is_a_page_that_says_so(
    browser: Browser, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState.ACTIVE)

    answer = browser.post(f"/tasks/{task_id}/delete")

    assert answer.status_code == 409
    assert "active" in text_of(answer.text)


def test_what_an_action_said_is_shown_to_nobody_who_made_it_up(browser: Browser) -> None:
    shown = browser.get("/queues?told=all+is+lost&seal=x")

    assert "all is lost" not in shown.text


def test_a_list_is_exported_as_csv_and_as_lines_of_json(browser: Browser, client: Client) -> None:
    client.enqueue("test:echo", {"sum": "=1+1"}, task_id="a")

    table = browser.get("/tasks.csv?queue=default")
    lines = browser.get("/tasks.ndjson?queue=default")

    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert [row.split(",")[0] for row in table.text.splitlines()] == ["id", "a"]
    assert [json.loads(line)["id"] for line in lines.text.splitlines()] == ["a"]


def test_an_export_has_as_many_rows_as_it_is_asked_for(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a", "b", "c")
    for name in ("few", "many"):
        count_in_minute(connection, int(time.time()) // 60 - 2, "default", name, counted(9))
    browser.post("/tasks/c/delete")
    browser.post("/tasks/b/archive")

    tasks = browser.get("/tasks.ndjson?q=-x&size=1").text.splitlines()
    entries = browser.get("/audit.ndjson?size=2").text.splitlines()
    others = [browser.get(f"/types.ndjson?sort=type&{which}").text.splitlines() for which in ("size=1", "")]

    assert [json.loads(line)["id"] for line in tasks] == ["a"]
    assert [json.loads(line)["what"] for line in entries] == ["export", "archive"]
    assert [[json.loads(line)["type"] for line in lines] for lines in others] == [["few"], ["few", "many"]]
    assert browser.get("/tasks.csv?size=none").status_code == 400


@pytest.mark.parametrize("path", ["/tasks.ndjson", "/audit.csv"])
def test_an_export_that_begins_at_the_first_row_has_no_second_page(path: str, browser: Browser, client: Client) -> None:
    enqueue(client, "a", "b")

    refused = browser.get(f"{path}?size=1&page=2")

    assert refused.status_code == 400
    assert "page: an export of this list begins with the first row" in refused.json()["error"]
    assert browser.get(f"{path}?page=2").status_code == 200


@pytest.mark.parametrize("path", ["/tasks.csv", "/audit.ndjson", "/queues.csv"])
def test_who_asks_for_the_head_of_an_export_gets_no_rows_and_no_entry_in_the_audit(
    path: str, browser: Browser, client: Client
) -> None:
    enqueue(client, "a")

    answer = browser.send("HEAD", path)

    assert (answer.status_code, answer.text) == (200, "")
    assert browser.get("/audit.json").json()["entries"] == []


def test_an_address_says_which_methods_it_takes(browser: Browser) -> None:
    answers = browser.send("PUT", "/queues.json"), browser.get("/queues/a/pause.json"), browser.get("/queues/a/pause")

    assert [{*answer.headers["allow"].split(", ")} for answer in answers] == [{"GET", "HEAD"}, {"POST"}, {"POST"}]


def test_a_page_that_has_not_changed_is_not_sent_again(browser: Browser, client: Client) -> None:
    enqueue(client, "a")
    first = browser.get("/tasks?queue=default")

    again = browser.get("/tasks?queue=default", if_none_match=first.headers["etag"])
    enqueue(client, "b")
    after = browser.get("/tasks?queue=default", if_none_match=first.headers["etag"])

    assert (again.status_code, again.text) == (304, "")
    assert after.status_code == 200


def test_what_one_dashboard_has_shown_another_one_beside_it_takes_for_no_picture_of_its_own(
    connection: redis.Redis, client: Client
) -> None:
    with Browser(web_app(connection)) as one, Browser(web_app(connection)) as other:
        tag = one.get("/queues").headers["etag"]
        enqueue(client, "a")

        answer = other.get("/queues", if_none_match=tag)

    assert answer.status_code == 200


def test_a_picture_that_is_renewed_while_a_page_is_made_is_not_taken_for_the_one_that_it_shows(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, changes = Sampler.read, ["a"]

    def change(self: Sampler, **how: bool) -> Snapshot:
        found = read(self, **how)
        if changes:
            enqueue(client, changes.pop())
            self.forget()
        return found

    monkeypatch.setattr(Sampler, "read", change)
    with Browser(web_app(connection)) as browser:
        shown = browser.get("/queues.json")

        answer = browser.get("/queues.json", if_none_match=shown.headers["etag"])

    assert shown.json()["queues"] == []
    assert answer.status_code == 200


def test_a_part_of_a_page_that_could_not_be_read_is_shown_as_soon_as_it_can(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FRESH_S", 3600.0)
    connection.set(keys.DEATHS, "a stranger's")
    with Browser(web_app(connection)) as browser:
        tag = browser.get("/workers").headers["etag"]
        connection.delete(keys.DEATHS)

        answer = browser.get("/workers", if_none_match=tag)

    assert answer.status_code == 200


def test_a_list_is_sent_again_for_each_change_of_a_task_that_it_shows(
    browser: Browser, connection: redis.Redis, broker: Broker, client: Client
) -> None:
    client.enqueue("test:echo", {"n": 1}, task_id="a")
    claim(broker, "default")
    seen = [browser.get("/tasks?state=active").headers["etag"]]

    def is_sent(*names: str, **fields: str) -> bool:
        for name in names:
            connection.hdel(keys.job("a"), name)
        for name, value in fields.items():
            connection.hset(keys.job("a"), name, value)
        answer = browser.get("/tasks?state=active", if_none_match=seen[-1])
        seen.append(answer.headers["etag"])
        return answer.status_code == 200

    data = text(connection.hget(keys.job("a"), "data") or "")
    assert not is_sent(last_heartbeat="2026-01-31T14:00:00Z")
    assert is_sent(data=data.replace("1", "2"))
    assert is_sent(data=data.replace("1", '"1"'))
    assert is_sent(data=data.replace("1", '"long"').ljust(20_000))
    assert is_sent(data=data.replace("1", '"longer"').ljust(20_001))
    assert is_sent(data=data)
    assert is_sent(status="queued")
    assert is_sent(number_of_retries="1")
    assert is_sent("number_of_retries")


def test_a_page_is_sent_again_where_the_settings_hide_more(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", {"color": "red"})

    def open_with(tag: str, **settings: Any) -> tuple[int, str, bool]:
        with Browser(web_app(connection, **settings)) as browser:
            answer = browser.get("/tasks", if_none_match=tag)
            return answer.status_code, answer.headers["etag"], "red" in answer.text

    _, tag, _ = open_with("")

    assert open_with(tag)[0] == 304
    assert open_with(tag, redact=["color"])[::2] == (200, False)


@pytest.mark.parametrize(
    "path", ["/", "/queues", "/queues/default", "/tasks", "/tasks/a", "/types", "/types/test:echo"]
)
def test_a_page_on_which_only_time_goes_by_is_not_sent_again(
    path: str, browser: Browser, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 0.0)
    enqueue(client, "a")
    seen = {browser.get(path).headers["etag"]}

    def is_known() -> bool:
        answer = browser.get(path)
        known = answer.headers["etag"] in seen
        seen.add(answer.headers["etag"])
        return known

    # The second of a moment may be rounded either way.
    assert sum(is_known() for _ in range(5)) >= 3


def test_a_poll_gets_what_is_renewed_alone(browser: Browser) -> None:
    whole, part = browser.get("/"), browser.get("/", boilerd_live="1")

    assert 'data-live="queues"' in part.text
    assert "<html" in whole.text
    assert "<html" not in part.text
    assert whole.headers["etag"] != part.headers["etag"]
    assert "Boilerd-Live" in whole.headers["vary"]


def test_however_many_look_redis_is_asked_once_a_second(
    browser: Browser, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FRESH_S", 60.0)  # a machine that is busy takes seconds for ten pages
    browser.get("/")
    before = connection.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"]

    for _ in range(10):
        browser.get("/")

    after = connection.info("commandstats").get("cmdstat_time", {"calls": 0})["calls"]
    assert after - before <= 2


@pytest.mark.parametrize("path", ["/nothing", "/tasks/unknown", "/queues/unknown", "/tasks/unknown.json"])
def test_what_is_not_there_is_a_page_that_says_so(path: str, browser: Browser) -> None:
    answer = browser.get(path)

    assert answer.status_code == 404
    assert "no" in text_of(answer.text)


@pytest.mark.parametrize("query", ["state=lost", "page=0", "page=x", "size=100000"])
def test_a_wrong_query_is_a_page_that_names_it(query: str, browser: Browser) -> None:
    answer = browser.get(f"/tasks?{query}")

    assert answer.status_code == 400
    assert query.partition("=")[0] in text_of(answer.text)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/tasks?stat=archived", "'stat': no parameter of this address; did you mean state? there are around, error,"),
        ("/tasks.json?stat=archived", "'stat': no parameter of this address; did you mean state?"),
        ("/tasks.csv?states=archived&x=1", "'states', 'x': no parameter of this address; did you mean state?"),
        (
            "/tasks?a=1&b=1&c=1&stat=archived",
            "'a', 'b', 'c' and 1 more: no parameter of this address; there are around,",
        ),
        ("/types/mail/run?stat=archived", "'stat': no parameter of this address; did you mean state? there is state"),
        ("/queues.csv?queue=low", "'queue': no parameter of this address; it takes none"),
        ("/failures/f/run?queue=low", "'queue': no parameter of this address; it takes none"),
        ("/bulk/delete?stat=archived", "stat: no operation chooses tasks by it; did you mean state? use error,"),
    ],
)
def test_a_parameter_that_a_list_or_an_action_does_not_know_is_refused_with_the_nearest_that_it_knows(
    path: str, told: str, browser: Browser
) -> None:
    answer = browser.get(path)

    assert answer.status_code == 400
    assert told in html.unescape(text_of(answer.text))


def test_a_page_that_is_the_same_with_any_parameter_takes_what_others_add_to_links(browser: Browser) -> None:
    assert browser.get("/?utm_source=mail").status_code == 200


def test_who_asks_for_the_head_of_an_export_is_told_of_a_wrong_parameter_as_well(browser: Browser) -> None:
    assert [browser.send(method, "/tasks.csv?stat=archived").status_code for method in ("HEAD", "GET")] == [400, 400]


def led_to(page: str) -> Iterator[tuple[str, str]]:
    """The addresses of the links and forms of a page, with each parameter that they give."""
    for link in re.findall(r'<a[^>]* href="(/[^"]+)"', page):
        asked = urlsplit(html.unescape(link))
        yield from ((asked.path, name) for name, _ in parse_qsl(asked.query))
    for target, fields in re.findall(
        r'<form(?![^>]*method="post")[^>]* action="(/[^"?]+)"(.*?)</form>', page, re.DOTALL
    ):
        yield from ((target, name) for name in re.findall(r'<(?:input|select|button)[^>]* name="(\w+)"', fields))


def known_at(path: str) -> set[str]:
    """The parameters that an address knows."""
    path = re.sub(r"\.(csv|ndjson|json)$", "", path)
    paths = sorted([page.path for page in PAGES] + [each.path for each in ACTIONS], key=lambda each: each.count("{"))
    found = next(each for each in paths if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), path))
    return {*QUERIES.get(found, {}), *OF_BROWSERS}


def test_the_links_and_forms_of_each_page_give_parameters_that_are_known_where_they_lead(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    examples = fill(client, connection)

    given = {each for page in PAGES for each in led_to(browser.get(address(page.path, examples)).text)}

    assert len({path for path, _ in given}) > 20
    assert [(path, name) for path, name in given if name not in known_at(path)] == []


def test_what_leads_on_within_a_list_keeps_its_rows_with_which_nobody_exports(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    fill(client, connection)

    def lost(path: str, more: str = "") -> list[str]:
        main = browser.get(f"{path}?size=1{more}").text.partition("<main")[2]
        links = [html.unescape(link) for link in re.findall(r'<a[^>]* href="(/[^"]+)"', main)]
        forms = re.findall(rf'<form(?![^>]*method="post")[^>]* action="{path}"(.*?)</form>', main, re.DOTALL)
        assert not [link for link in links if urlsplit(link).path == f"{path}.csv" and "size=" in link]
        return [link for link in links if urlsplit(link).path == path and "size=1" not in urlsplit(link).query] + [
            form for form in forms if '<input type="hidden" name="size" value="1">' not in form
        ]

    sized = [page.path for page in PAGES if is_sized(page.path)]

    assert {*sized} == {"/tasks", "/types", "/workers", "/workers/dead", "/crons", "/audit"}
    assert [link for path in sized for link in lost(path)] == []
    assert lost("/types", "&only=risen&queue=default&since=release") == []
    assert lost("/tasks", "&type=test:echo&state=pending") == []
    assert lost("/workers", "&host=nowhere") == []


def test_the_methods_that_a_page_does_not_take_are_refused(browser: Browser) -> None:
    assert browser.post("/queues").status_code == 405
    assert browser.get("/queues/default/pause").status_code == 405


def test_a_key_of_another_kind_is_told_and_hides_no_other(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    enqueue(client, "a")
    connection.sadd(keys.QUEUES, keys.queue("broken"))
    connection.set(keys.queue("broken"), "a text")

    shown = browser.get("/queues")

    assert shown.status_code == 200
    assert keys.queue("broken") in shown.text
    assert 'href="/queues/default"' in shown.text


def test_a_page_cannot_be_declared_without_a_permission() -> None:
    with pytest.raises(TypeError, match="needs"):
        page("/open", title="Open")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="needs"):
        action("/open", title="Open")  # type: ignore[call-arg]


def test_a_fault_in_a_page_is_a_page_that_says_so_and_is_logged(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(inspector: Inspector, name: str) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Inspector, "queue", fails)

    answer = browser.get("/queues/default")

    assert answer.status_code == 500
    assert "this page failed" in text_of(answer.text)
    assert "a page failed" in caplog.messages


def test_every_page_has_one_heading_landmarks_and_captions(browser: Browser, client: Client) -> None:
    enqueue(client, "a")

    pages = "/ /queues /queues/default /tasks /tasks/a /tasks/a/delete /types /types/test:echo /workers /nothing"
    for path in pages.split():
        html = browser.get(path).text

        assert html.count("<h1") == 1, path
        assert html.count("<table") == html.count("<caption"), path
        assert all(mark in html for mark in ('<main id="main"', "<nav aria-label", 'class="skip" href="#main"')), path
        assert " style=" not in html, path
        assert " onclick" not in html, path


def test_each_page_of_the_menu_has_a_place_of_its_own() -> None:
    load_pages()
    places = [page.menu for page in PAGES if page.menu]

    assert len(places) == len({*places})


def test_a_page_is_shown_whichever_part_of_it_cannot_be_read(
    client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = fill(client, connection)
    monkeypatch.setattr(Visit, "trying", lambda _visit, _read: {"problem": "it cannot be read"})

    with Browser(web_app(connection)) as browser:
        failed = [path for path in PATHS if browser.get(address(path, examples)).status_code >= 500]

    assert failed == []
