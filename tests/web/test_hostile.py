"""Whatever stands in Redis is shown as text, hidden where it is a secret, and breaks no page."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.tasks.retry import Verdict
from boilerd.web.links import Links, is_own_path, segment, unsegment
from boilerd.web.page import PAGES, load_pages
from boilerd.web.redaction import Redaction
from boilerd.web.shown import harmless, lasting, sized
from browser import Browser, with_people
from builders import claim, fail_next

load_pages()
CORPUS = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"><img src=x onerror=alert(1)>'",
    "template": "{{ 7 * 7 }}{% raw %}",
    "nul": "a\0b",
    "right to left": "abc\u202etxt.exe",
    "escape": "\x1b[2J",
    "no text": b"\xff\xfe\xed\xa0\x80".decode("utf-8", "surrogateescape"),
    "path": "../../etc/passwd",
    "dots": "..",
    "percent": "%2e%2e%2f",
    "spaces": " a  b\n",
    "long": "x" * 10_000,
    "query": "a?b=c&d#e",
    "json": "a.json",
}
#: Tags and attributes that our pages have.
_SCHEMES = ("/", "#")


class Reader(HTMLParser):
    """Notes the tags of a page, and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "action"}]


def check(html: str) -> Reader:
    """A page has no tag, attribute or character that was not ours."""
    found = Reader()
    found.feed(html)
    assert "img" not in found.tags
    assert html.count("<script") == 2
    assert not {name for name in found.names if name.startswith("on")}
    assert all(link.startswith(_SCHEMES) for link in found.links)
    assert not set(html) & {"\0", "\x1b", "\u202e", "\udcff"}
    return found


def plant(connection: redis.Redis, text: str) -> None:
    """A job of everything hostile, in a queue of that name."""
    raw = text.encode("utf-8", "surrogateescape")
    as_json = raw.decode("utf-8", "replace")  # what is no text in JSON cannot be read at all
    queue = b"rq:queue:" + raw
    connection.sadd(keys.QUEUES, queue)
    connection.rpush(queue, raw)
    data = json.dumps(["boilerd.entry_point.run", None, ["x", {"in": [as_json, 2**70]}], {"headers": {}}])
    connection.hset(
        b"rq:job:" + raw,
        mapping={
            "status": "queued", "origin": raw, "task_type": raw, "data": data, "last_error": raw, "worker_name": raw,
            "unique_key": raw, "concurrency_key": raw, "created_at": raw, "timeout": raw, "fingerprint": raw,
        },
    )  # fmt: skip
    worker = b"rq:worker:" + raw
    connection.sadd("rq:workers", worker)
    connection.hset(worker, mapping={"hostname": raw, "queues": raw, "state": raw, "last_heartbeat": raw})


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_a_hostile_name_is_text_on_every_page(text: str, browser: Browser, connection: redis.Redis) -> None:
    plant(connection, text)
    links = Links()
    pages = [
        links.to(), links.to("queues"), links.to("queues", text), links.to("tasks"), links.to("tasks", text),
        links.to("tasks", queue=text), links.to("tasks", text, "delete"), links.to("tasks", text, "edit"),
        links.to("tasks", text, "move"), links.to("tasks", type=text), links.to("tasks", "new", type=text),
    ]  # fmt: skip

    for page in pages:
        answer = browser.get(page)

        assert answer.status_code in {200, 404}, (page[:200], answer.text[-500:])
        check(answer.text)
    assert browser.get(links.to("queues", text)).status_code == 200
    found = browser.get(f"{links.to('tasks', text)}.json").json()
    assert found["task"]["id"] == text
    assert found["task"]["payload"]["in"][1] == 2**70


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_a_hostile_query_is_text_on_the_page_that_refuses_it(text: str, browser: Browser) -> None:
    for name in ("queue", "state", "page", "told", "seal", "q", "type", "error", "since", "place", "around"):
        check(browser.get(Links().to("tasks", **{name: text[:2000]})).text)


@pytest.mark.parametrize("text", [*CORPUS.values(), "", "~", "a~41", "é", "a/b"], ids=ascii)
def test_any_name_is_a_part_of_a_path_and_comes_back(text: str) -> None:
    part = segment(text)

    assert part.isascii()
    assert not set(part) & set("/.%?#&\\ ")
    assert unsegment(part) == text


def test_a_payload_that_is_nested_deep_or_large_does_not_break_its_page(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", "x" * 1_000_000, task_id="large")
    client.enqueue("test:echo", 1, task_id="deep")
    call = json.dumps(["boilerd.entry_point.run", None, ["x", 0], {}]).replace("0", "[" * 10_000 + "]" * 10_000)
    connection.hset(keys.job("deep"), "data", call)

    large, deep = browser.get("/tasks/large"), browser.get("/tasks/deep")

    assert (large.status_code, deep.status_code) == (200, 200)
    assert len(large.text) < 100_000


# --- Secrets

SECRET, PRIVATE = "hunter2-secret", "anna@private.example"


@pytest.fixture
def with_secrets(client: Client, broker: Broker) -> str:
    """A task that failed, and told a secret of its payload."""
    payload = {"user": {"email": PRIVATE, "Pass-Word": SECRET, "name": "Anna"}, "apiKey": [SECRET], "n": 2**60}
    task_id = client.enqueue("test:echo", payload, task_id="told", headers={"session-id": SECRET}).id
    fail_next(broker, Verdict.ARCHIVE)
    broker.connection.hset(keys.job(task_id), "last_error", f"ValueError: {SECRET} of '{PRIVATE}'")
    return task_id


def addresses() -> Iterator[str]:
    """Every page in every form."""
    for page in PAGES:
        path = page.path.format_map({"id": "told", "queue": "default"})
        base = "/overview" if path == "/" else path
        forms = (".csv", ".ndjson") if page.rows else ()
        yield from (f"{each}?state=archived" for each in (path, *(base + form for form in (".json", *forms))))


@pytest.mark.parametrize("address", [*addresses()])
@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_no_page_shows_a_secret_of_a_payload_an_error_or_a_header(
    role: str, address: str, with_secrets: str, connection: redis.Redis
) -> None:
    with Browser(with_people(connection, redact=["user.email"]), **{"x-who": role}) as browser:
        answer = browser.get(address)

    assert answer.status_code == (403 if role == "viewer" and (".csv" in address or ".ndjson" in address) else 200)
    assert SECRET not in answer.text
    assert PRIVATE not in answer.text
    assert "Anna" not in answer.text or role != "viewer"


def test_a_payload_is_shown_to_those_who_may_and_its_size_to_all_others(
    with_secrets: str, viewer: Browser, browser: Browser
) -> None:
    seen, hidden = browser.get("/tasks/told").text, viewer.get("/tasks/told").text

    assert "&#34;name&#34;: &#34;Anna&#34;" in seen
    assert str(2**60) in seen
    assert "object with 3 keys" in hidden


def test_a_part_of_a_payload_is_hidden_by_its_path_and_by_the_applications_hook() -> None:
    data = {"task": {"type": "mail", "payload": {"to": [{"mail": "a@b"}, {"mail": "c@d"}], "text": "hello"}}}

    by_path = Redaction(["to.*.mail"]).clean(data, shows_payloads=True)
    by_hook = Redaction((), lambda kind, payload: f"{kind}: {len(payload)}").clean(data, shows_payloads=True)

    assert by_path["task"]["payload"] == {"to": [{"mail": "[hidden]"}, {"mail": "[hidden]"}], "text": "hello"}
    assert by_hook["task"]["payload"] == "mail: 2"


def test_the_original_is_not_changed_by_hiding() -> None:
    data = {"payload": {"password": "x"}}

    Redaction().clean(data, shows_payloads=False)

    assert data == {"payload": {"password": "x"}}


# --- Values


def test_values_are_written_for_people() -> None:
    assert [lasting(each) for each in (0.25, 59.6, 3700, 90000, None)] == [
        "0.25 s",
        "1 min 0 s",
        "1 h 1 min",
        "1 d 1 h",
        "",
    ]
    assert [sized(each) for each in (0, 1023, 2048, 5 * 1024**3)] == ["0 B", "1.02e+03 B", "2 KiB", "5 GiB"]
    assert harmless("a\tb\nc\r\u202e") == "a\tb\nc\\r\\u202e"


@pytest.mark.parametrize(
    ("path", "is_ours"), [("/", True), ("/a?b=%20", True), ("//a", False), ("/\\a", False), ("a", False), ("/ä", False)]
)
def test_a_path_of_ours_leads_nowhere_else(path: str, is_ours: bool) -> None:
    assert is_own_path(path) is is_ours


def test_a_claimed_task_of_a_batch_has_a_page(browser: Browser, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", 1, task_id="runs")
    claim(broker)

    assert browser.get("/tasks/runs").status_code == 200
