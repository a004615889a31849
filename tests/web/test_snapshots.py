"""Pages that are kept as they were: what of them, for how long, and who sees them."""

import json
import random
import re
import zlib
from collections.abc import Iterator

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import kept_pages, keys
from boilerd.broker.connection import text
from boilerd.broker.operation_record import Order
from boilerd.tasks.task import TaskState
from boilerd.web.frozen import is_keepable
from boilerd.web.page import PAGES
from browser import WHO, Browser, text_of, web_app, with_people
from dashboard_world import address, fill

PAYLOAD = {"name": "Anna", "token": "s3cret"}
#: What is only for who may do or see more than the page itself needs.
ONLY_LIVE = {"The daemon of this host", "What people did last"}


@pytest.fixture
def people(connection: redis.Redis, client: Client) -> Iterator[Browser]:
    """A browser at a dashboard with a task; each request says who sends it."""
    client.enqueue("mail:send", PAYLOAD, task_id="told")
    with Browser(with_people(connection)) as found:
        yield found


def keep(browser: Browser, of: str, who: str = "admin") -> str:
    """Keep a page; its address."""
    answer = browser.post("/snapshots/keep", {"of": of}, sec_fetch_site="same-origin", **{WHO: who})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"]).partition("?")[0]


def test_a_page_is_kept_as_it_was_with_who_and_when(people: Browser, client: Client, connection: redis.Redis) -> None:
    kept = keep(people, "/queues/default?told=x&seal=y")
    client.enqueue("mail:send", task_id="later")
    Inspector(connection).pause("default")

    page = people.get(kept, **{WHO: "operator"}).text
    listed = people.get("/snapshots.json", **{WHO: "operator"}).json()["snapshots"]

    assert "Pending 1 " in text_of(page)
    assert "kept by admin" in text_of(page)
    assert '<body data-root="" data-still>' in page
    assert [(row["of"], row["user"], row["title"]) for row in listed] == [("/queues/default", "admin", "Queue")]
    assert 6.9 * 86400 < min(connection.ttl(key) for key in connection.keys("boilerd:web:kept*")) <= 7 * 86400


def test_nothing_can_be_done_on_it(people: Browser) -> None:
    kept = keep(people, "/tasks/told")

    page = people.get(kept, **{WHO: "admin"}).text.partition("<main")[2].partition("</main>")[0]

    assert "Task told" in page
    assert "Anna" in page
    assert "data-confirm" not in page
    assert "<form" not in page


@pytest.mark.parametrize("path", ["/queues", "/crons", "/failures"])
def test_its_table_has_no_buttons_and_that_of_the_live_page_has_them_whichever_is_seen_first(
    connection: redis.Redis, client: Client, path: str
) -> None:
    fill(client, connection)
    with Browser(web_app(connection)) as browser:
        kept = keep(browser, path)
        seen = [browser.get(each).text for each in (kept, path, kept, path)]

    counts = [text.partition("<tbody")[2].partition("</tbody")[0].count("<button") for text in seen]
    assert counts == [0, counts[1], 0, counts[1]]
    assert counts[1] > 0


def test_who_may_not_see_payloads_sees_none_of_one_that_another_kept(people: Browser) -> None:
    kept = keep(people, "/tasks/told", who="operator")

    seen = {
        who: people.get(f"{kept}{form}", **{WHO: who}).text for who in ("viewer", "admin") for form in ("", ".json")
    }
    page = people.get(kept, **{WHO: "viewer"}).text

    assert "Anna" in seen["admin"]
    assert "Anna" not in seen["viewer"] + page
    assert "object with 2 keys" in page
    assert "s3cret" not in "".join(seen.values())


@pytest.mark.parametrize(
    "of",
    ["/tasks/told/compare?with=other", "/operations/{operation}", "/operations", "/tasks?q=payload.name:Anna"],
)
def test_who_may_not_see_payloads_sees_no_page_that_tells_of_them_elsewhere_than_in_a_task(
    of: str, people: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("mail:send", {"name": "Berta"}, task_id="other")
    order = Order("archive", "default", TaskState.PENDING, search="payload.name:Anna")
    operation, _ = Inspector(connection).operations.begin(order)
    kept = keep(people, of.format(operation=operation.id), who="operator")

    seen = {
        who: [people.get(address, **{WHO: who}) for address in (kept, f"{kept}.json", "/snapshots", "/snapshots.json")]
        for who in ("viewer", "operator")
    }

    assert [answer.status_code for answer in seen["viewer"]] == [403, 403, 200, 200]
    assert "Anna" not in "".join(answer.text for answer in seen["viewer"])
    assert [answer.status_code for answer in seen["operator"]] == [200, 200, 200, 200]
    assert "Anna" in seen["operator"][1].text
    assert seen["operator"][3].json()["snapshots"] != []


def test_the_permission_of_its_own_page_is_asked_again(people: Browser) -> None:
    kept = keep(people, "/audit")

    statuses = {who: people.get(kept, **{WHO: who}).status_code for who in ("viewer", "operator", "admin")}
    refused = people.post("/snapshots/keep", {"of": "/audit"}, sec_fetch_site="same-origin", **{WHO: "operator"})

    assert statuses == {"viewer": 403, "operator": 403, "admin": 200}
    assert refused.status_code == 403
    assert people.get("/snapshots.json", **{WHO: "operator"}).json() == {"snapshots": []}


def test_what_only_the_one_who_keeps_it_may_see_is_not_in_it(people: Browser) -> None:
    people.post("/queues/default/pause", x_who="admin", sec_fetch_site="same-origin")
    kept = keep(people, "/")

    told = people.get(f"{kept}.json", **{WHO: "viewer"}).json()["content"]

    assert "default" in told
    assert '"what":"pause"' not in told


def test_it_is_deleted_and_the_audit_has_both(people: Browser, connection: redis.Redis) -> None:
    kept = keep(people, "/queues", who="operator")
    delete = f"{kept}/delete"

    statuses = [people.post(delete, sec_fetch_site="same-origin", x_who="operator").status_code for _ in range(2)]

    assert statuses == [303, 404]
    assert people.get(kept, **{WHO: "operator"}).status_code == 404
    assert connection.keys("boilerd:web:kept*") == []
    entries = Inspector(connection).audit()
    assert [(entry.what, entry.user, entry.via, entry.outcome) for entry in entries] == [
        ("keep", "operator", "web", "done"), ("delete", "operator", "web", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize("of", ["", "/nothing", "/snapshots", "/settings", "/tasks/told/edit", "//evil.example/queues"])
def test_what_is_no_page_with_data_is_not_kept(of: str, people: Browser) -> None:
    answer = people.post("/snapshots/keep.json", {"of": of}, sec_fetch_site="same-origin", **{WHO: "admin"})

    assert (answer.status_code, "of:" in answer.text) == (400, True)


def test_there_are_so_many_of_such_a_size_at_most(
    people: Browser, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_pages, "MOST", 2)
    for _ in range(2):
        keep(people, "/queues")

    more = people.post("/snapshots/keep.json", {"of": "/queues"}, sec_fetch_site="same-origin", **{WHO: "admin"})
    monkeypatch.setattr(kept_pages, "MOST_BYTES", 1000)
    client.enqueue("mail:send", random.Random(1).randbytes(2000).hex(), task_id="large")
    large = people.post("/snapshots/keep.json", {"of": "/tasks/large"}, sec_fetch_site="same-origin", **{WHO: "admin"})

    assert "delete one of them" in more.json()["error"]
    assert "too large to be kept" in large.json()["error"]


def test_every_page_that_can_be_kept_is_shown_as_it_was(connection: redis.Redis, client: Client) -> None:
    examples = fill(client, connection)
    paths = [address(page.path, examples) for page in PAGES if is_keepable(page)]

    with Browser(web_app(connection)) as browser:
        for path in paths:
            shown, kept = browser.get(path).text, browser.get(keep(browser, path)).text
            assert "kept by another version" not in kept, path
            assert parts_of(shown) - parts_of(kept) <= ONLY_LIVE, path
            assert parts_of(kept) <= parts_of(shown), path

    assert len(paths) > 15


def parts_of(html: str) -> set[str]:
    """The headings and captions of a page."""
    return {*re.findall("<(?:h1|h2|caption)[^>]*>(.*?)<", html)}


def test_what_is_nested_deep_is_shown_or_told_to_be_none(people: Browser, connection: redis.Redis) -> None:
    kept = keep(people, "/queues")
    key = keys.kept_page(kept.rpartition("/")[2])
    content = json.loads(kept_pages._unpack(connection.hget(key, "content")))
    content["queues"][0]["deep"] = "DEEP"
    statuses = {}

    for depth in range(900, 1000, 4):  # near the depth from which on it is no JSON for Python
        nested = json.dumps(content).replace('"DEEP"', "[" * depth + "]" * depth)
        connection.hset(key, "content", zlib.compress(nested.encode()))
        statuses[depth] = people.get(kept, **{WHO: "admin"}).status_code

    assert {*statuses.values()} <= {200, 404}, statuses


def test_whatever_stands_in_redis_is_shown_as_text_or_not_at_all(people: Browser, connection: redis.Redis) -> None:
    kept = keep(people, "/queues")
    key = keys.kept_page(kept.rpartition("/")[2])
    about = text(connection.hget(key, "about") or b"")
    bomb = zlib.compress(b" " * (kept_pages.MOST_UNPACKED + 1))
    statuses = []
    for content in (b"", b"{}", zlib.compress(b"[]"), zlib.compress(b"{}"), zlib.compress(b"[" * 100_000), bomb):
        connection.hset(key, mapping={"content": content})
        statuses.append(people.get(kept, **{WHO: "admin"}).status_code)
    problem = people.get(kept, **{WHO: "admin"})
    connection.hset(key, mapping={"content": zlib.compress(b"{}")})
    without = people.get(kept, **{WHO: "admin"}).text
    for other in ("", "{}", about.replace("/queues", "/nothing"), about.replace("admin", "<script>")):
        connection.hset(key, mapping={"about": other})
        statuses.append(people.get(kept, **{WHO: "admin"}).status_code)
    scripted = people.get("/snapshots", **{WHO: "admin"}).text
    connection.set(keys.KEPT_PAGES, "another program's")

    assert statuses == [404, 404, 404, 200, 404, 404, 404, 404, 404, 200]
    assert problem.status_code == 404
    assert "kept by another version" in without
    assert "&lt;script&gt;" in scripted
    assert people.get("/snapshots", **{WHO: "admin"}).status_code == 503
