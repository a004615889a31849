"""Whatever stands in Redis is shown as text, hidden where it is a secret, and breaks no page."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from boilerd import Client, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.last_words import LastWords
from boilerd.broker.operation_record import Order
from boilerd.broker.operation_store import OperationStore
from boilerd.tasks.retry import Verdict
from boilerd.web.links import Links, is_own_path, segment, unsegment
from boilerd.web.page import PAGES, load_pages
from boilerd.web.permissions import ROLES, Permission
from boilerd.web.redaction import Redaction
from boilerd.web.shown import harmless, lasting, sized
from browser import Browser, asking, text_of, with_people
from builders import claim, count_in_minute, counted, fail_as, fail_next, failure_kind, tell_cron

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
    assert html.count("<script") == 3
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
    count_in_minute(connection, int(time.time()) // 60 - 2, text, text, counted(1, archived=1))
    plant_failure(connection, raw)
    connection.xadd(keys.AUDIT, {"user": raw, "host": raw, "via": raw, "what": raw, "on": data, "why": raw})
    plant_operation(connection, raw)
    worker = b"rq:worker:" + raw
    connection.sadd("rq:workers", worker)
    connection.hset(
        worker, mapping={"hostname": raw, "queues": raw, "state": raw, "last_heartbeat": raw, "pool": raw, "rss": raw}
    )


def plant_failure(connection: redis.Redis, raw: bytes) -> None:
    """A failure group of everything hostile."""
    told = raw.decode("utf-8", "replace")
    about = json.dumps({"fingerprint": told, "type": told, "error": told, "message": told, "frames": [told]})
    connection.zadd(keys.FAILURES, {raw: time.time()})
    group: Any = {"about": about, "count": raw, "first_seen": raw, "first_release": raw, "last_release": raw}
    said: Any = dict.fromkeys(("acknowledged_by", "acknowledged_release", "muted_by", "note", "noted_by"), raw)
    moments: Any = {"acknowledged_at": time.time(), "muted_at": raw, "noted_at": time.time(), b"v:" + raw: raw}
    connection.hset(b"boilerd:failure:" + raw, mapping={**group, **said, **moments})
    connection.rpush(b"boilerd:failure:" + raw + b":tasks", raw)


def plant_operation(connection: redis.Redis, raw: bytes) -> None:
    """An operation of everything hostile."""
    name = raw.decode("utf-8", "surrogateescape")
    order = Order("delete", name, TaskState.ARCHIVED, name, name)
    fields: Any = dict.fromkeys(("user", "host", "via", "why", "created", "starts", "beat", "parts"), raw)
    tally = json.dumps({"skipped": {name: 1}})
    connection.zadd(keys.OPERATIONS, {raw: time.time()})
    connection.hset(
        b"boilerd:op:" + raw, mapping={**fields, "order": order.to_json(), "state": "running", "tally": tally}
    )


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_a_hostile_name_is_text_on_every_page(text: str, browser: Browser, connection: redis.Redis) -> None:
    plant(connection, text)
    links = Links()
    pages = [
        links.to(), links.to("queues"), links.to("queues", text), links.to("tasks"), links.to("tasks", text),
        links.to("tasks", queue=text), links.to("tasks", text, "delete"), links.to("tasks", text, "edit"),
        links.to("tasks", text, "move"), links.to("tasks", text, "compare"),
        links.to("tasks", type=text), links.to("tasks", "new", type=text),
        links.to("crons"), links.to("crons", text),
        links.to("queues", text, "delete"), links.to("limits", key=text),
        links.to("limits", "release", queue=text, type=text, digest=text),
        links.to("limits"), links.to("limits", search=1, queue=text, type=text), links.to("system"),
        links.to("types"), links.to("types", text), links.to("types", text, queue=text), links.to("types", queue=text),
        links.to("workers"), links.to("workers", host=text, pool=text), links.to("workers", state=text, sort="memory"),
        links.to("failures"),
        links.to("failures", text), links.to("failures", text, "run"), links.to("operations"),
        links.to("operations", text), links.to("audit"), links.to("audit", who=text, on=text),
        links.to("bulk", "delete", queue=text, type=text, state="pending"), links.to("bulk", "delete", id=text),
        links.to("queues", text, "purge", state="pending"),
    ]  # fmt: skip

    for page in pages:
        answer = browser.get(page)

        assert answer.status_code in {200, 404}, (page[:200], answer.text[-500:])
        check(answer.text)
    for page in (links.to("queues", text), links.to("failures", text), links.to("operations", text)):
        assert browser.get(page).status_code == 200
    found = browser.get(f"{links.to('tasks', text)}.json").json()
    assert found["task"]["id"] == text
    assert found["task"]["payload"]["in"][1] == 2**70


@pytest.mark.parametrize("text", CORPUS.values(), ids=CORPUS)
def test_a_hostile_query_is_text_on_the_page_that_refuses_it(text: str, browser: Browser) -> None:
    for name in ("queue", "state", "page", "told", "seal", "q", "type", "error", "since", "place", "around"):
        check(browser.get(Links().to("tasks", **{name: text[:2000]})).text)
    for name in ("queue", "q", "type", "error", "key", "fingerprint", "id", "state"):
        check(browser.get(Links().to("bulk", "archive", **{name: text[:2000]})).text)
    check(browser.get(Links().to("tasks", text[:200])).text)


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "/%5Cevil.example", "//%5C/evil.example", "/%09/evil.example", "/x%3F//y"]
)
def test_no_page_leads_to_the_host_that_an_address_of_none_names(path: str, browser: Browser) -> None:
    answer = browser.get(f"http://localhost{path}")

    assert answer.status_code == 404
    assert 'href="/"' in answer.text
    assert not re.search(r'href="/[/\\\s]', answer.text)


@pytest.mark.parametrize("text", [*CORPUS.values(), "", "~", "a~41", "é", "a/b"], ids=ascii)
def test_any_name_is_a_part_of_a_path_and_comes_back(text: str) -> None:
    part = segment(text)

    assert part.isascii()
    assert not set(part) & set("/.%?#&\\ ")
    assert unsegment(part) == text


def test_half_a_character_of_a_strangers_json_breaks_no_page(browser: Browser, connection: redis.Redis) -> None:
    connection.rpush(keys.DEATHS, '{"at": 1, "worker": "\\ud800.1.0"}')

    answers = [browser.get("/workers"), browser.get("/workers/dead")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert Links().to("tasks", "\ud800", q="\ud800") == "/tasks/~ED~A0~80?q=%ED%A0%80"


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
GROUP = "a" * 12


@pytest.fixture
def with_secrets(client: Client, broker: Broker) -> str:
    """A task that failed, and told a secret of its payload."""
    payload = {"user": {"email": PRIVATE, "Pass-Word": SECRET, "name": "Anna"}, "apiKey": [SECRET], "n": 2**60}
    task_id = client.enqueue("test:echo", payload, task_id="told", headers={"session-id": SECRET}).id
    fail_next(broker, Verdict.ARCHIVE)
    broker.connection.hset(keys.job(task_id), "last_error", f"ValueError: {SECRET} of '{PRIVATE}'")
    tell_cron(broker)
    fail_as(broker, "other", failure_kind(GROUP))
    broker.connection.lpush(keys.failure_tasks(GROUP), task_id)
    broker.note_death(LastWords("host.run.0", task_id=task_id).encoded())
    order = Order("delete", "default", TaskState.ARCHIVED)
    OperationStore(broker.connection).write("told", {"order": order.to_json(), "state": "done"}, time.time())
    return task_id


def addresses() -> Iterator[tuple[str, set[Permission]]]:
    """Every page in every form, and what one needs to see it."""
    for page in PAGES:
        path = page.path.format_map(
            {
                "id": "told", "queue": "default", "cron": "nightly", "type": "test:echo", "operation": "told",
                "fingerprint": GROUP, "worker": "host.run.0", "snapshot": "kept",
            }
        )  # fmt: skip
        base = "/overview" if path == "/" else path
        forms = (".csv", ".ndjson") if page.rows else ()
        for each in (path, *(base + form for form in (".json", *forms))):
            yield (
                asking(page.path, each, state="archived"),
                {page.needs, *([Permission.EXPORT] if each.endswith(forms or "?") else [])},
            )


def _keep(browser: Browser, of: str, connection: redis.Redis) -> None:
    """Have an admin keep a page under the ID that the examples have."""
    kept = browser.post("/snapshots/keep.json", {"of": of}, sec_fetch_site="same-origin", x_who="admin").json()
    connection.rename(keys.kept_page(kept["snapshot"]), keys.kept_page("kept"))


def _wrong(answer: httpx.Response, role: str, needs: set[Permission]) -> list[object]:
    """What an answer shows that it should not, and its status if that is not the right one."""
    secrets = [each for each in (SECRET, PRIVATE) if each in answer.text]
    for_others = [each for each in ("Anna",) if role == "viewer" and each in answer.text]
    expected = 200 if needs <= ROLES[role] else 403
    return [*secrets, *for_others, *({answer.status_code} - {expected})]


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_no_page_shows_a_secret_of_a_payload_an_error_or_a_header(
    role: str, with_secrets: str, connection: redis.Redis
) -> None:
    with Browser(with_people(connection, redact=["user.email"]), **{"x-who": role}) as browser:
        _keep(browser, f"/tasks/{with_secrets}", connection)
        found = {address: _wrong(browser.get(address), role, needs) for address, needs in addresses()}

    assert {address: wrong for address, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("serializer", [None, JSONSerializer], ids=["pickled", "JSON"])
def test_who_may_not_see_payloads_reads_none_in_what_rq_says_of_its_jobs(
    serializer: Any, connection: redis.Redis
) -> None:
    queue = Queue("default", connection=connection, serializer=serializer)
    queue.enqueue("shop.charge", "4111-1111", password="hunter2", job_id="charge")

    with Browser(with_people(connection), **{"x-who": "viewer"}) as browser:
        paths = ("/tasks", "/tasks/charge", "/queues/default", "/tasks?q=-x", "/tasks/charge/run")
        shown = {path: browser.get(path).text for path in paths}
        found = browser.get("/tasks.json?q=4111-1111").json()["tasks"]

    assert [path for path, text in shown.items() if "4111-1111" in text or "hunter2" in text] == []
    assert "shop.charge" in shown["/tasks"]
    assert re.search(r"shop\.charge.*100 %", text_of(shown["/queues/default"]))
    assert found == []


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


@pytest.mark.parametrize(
    "payload",
    [
        {"\uff30assword": SECRET},
        {"pässword": SECRET},
        {"\u200bto\u200bken": SECRET},
        [["Authorization", SECRET], ["Accept", "text"]],
        {"headers": [{"name": "Cookie", "value": SECRET}]},
        [{"key": "api_key", "value": {"deep": [SECRET]}}],
    ],
    ids=ascii,
)
def test_a_secret_is_hidden_in_whatever_way_its_name_is_written(payload: object) -> None:
    found = Redaction().clean({"payload": payload, "error": f"no {SECRET}"}, shows_payloads=True)

    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    "error",
    [
        f"can't use '{SECRET}'",
        f"it's \"x\" and '{SECRET}'",
        f"“{SECRET}”",
        f"unknown user {PRIVATE}",
        "unknown user anna@private.exa",
        "unknown user anna@private…",
        f"unknown {PRIVATE!r}"[:-8],
        "bad line 'first\\nsecond'",
        'bad line "first\\nsecond"',
        'bad name "J\\u00e9r\\u00f4me"',
        "KeyError: Dorothea",
    ],
)
def test_an_error_quotes_no_payload_to_those_who_may_not_see_it(error: str) -> None:
    payload = {"to": PRIVATE, "text": "first\nsecond", "name": "Jérôme", "ages": {"Dorothea": 7}}

    found = Redaction().clean({"task": {"payload": payload}, "why": [{"fact": error}]}, shows_payloads=False)

    told = found["why"][0]["fact"]
    assert not [part for part in (SECRET, "anna", "second", "J\\u00e9", "Dorothea") if part in told], told


def test_who_may_not_see_a_payload_cannot_guess_it_by_its_digest_or_the_note_of_its_progress(
    client: Client, broker: Broker, viewer: Browser, browser: Browser
) -> None:
    client.enqueue("test:echo", {"user": PRIVATE}, task_id="a", unique=60)
    client.enqueue("test:echo", {"user": PRIVATE, "n": 1}, task_id="b")
    broker.connection.hset(keys.job("b"), "progress", json.dumps({"done": 1, "note": f"mails {PRIVATE}"}))

    key = browser.get("/tasks/a.json").json()["task"]["unique_key"]

    assert len(key.rpartition(":")[2]) >= 32
    assert key not in viewer.get("/tasks/a").text + viewer.get("/tasks/a.json").text
    assert PRIVATE not in viewer.get("/tasks/b.json").text


def test_of_an_error_that_was_cut_in_what_it_quotes_the_first_line_is_hidden_from_those_who_may_not_see_it() -> None:
    error = f"of {PRIVATE}'\n  File lib.py\n" + "E" * 64 * 1024

    found = Redaction().clean({"error": error}, shows_payloads=False)["error"]

    assert found.startswith("[hidden]\n  File lib.py\nE")


def test_an_error_quotes_nothing_that_the_applications_hook_hides() -> None:
    data = {"payload": {"to": PRIVATE, "n": 1234}, "error": f"no {PRIVATE} of 1234", "result": {"sent": [PRIVATE]}}

    found = Redaction((), lambda _kind, payload: {**payload, "to": "x"} if "to" in payload else payload).clean(
        data, shows_payloads=True
    )

    assert found["error"] == "no [hidden] of 1234"


def test_a_result_does_not_repeat_a_secret_of_the_payload() -> None:
    data = {"payload": {"password": SECRET}, "result": {"echo": [f"was {SECRET}"]}}

    assert Redaction().clean(data, shows_payloads=True)["result"] == {"echo": ["was [hidden]"]}


@pytest.mark.parametrize(("many", "error"), [(15_000, "x" * 64_000), (150_000, "short")])
def test_very_many_secrets_hide_the_error_and_do_not_take_seconds(many: int, error: str) -> None:
    secrets = [f"{number:07}" for number in range(many)]
    began_s = time.process_time()

    found = Redaction().clean({"payload": {"tokens": secrets}, "error": error}, shows_payloads=True)

    assert found["error"] == "[hidden]"
    assert time.process_time() - began_s < 2


def test_the_original_is_not_changed_by_hiding() -> None:
    data = {"payload": {"password": "x"}}

    Redaction().clean(data, shows_payloads=False)

    assert data == {"payload": {"password": "x"}}


@pytest.mark.parametrize(
    "text", ["=1+1", "\uff1d1+1", "\t=1", "\n=1", " @a", "-1", "a;=1+1", "a\t=1+1", "a,=1", '";=1']
)
def test_no_spreadsheet_computes_what_stands_in_an_export(text: str, browser: Browser, client: Client) -> None:
    client.enqueue("test:echo", text, task_id="a")

    exported = browser.get("/tasks.csv?queue=default").text
    cells = {end: [cell for row in csv.reader(io.StringIO(exported), delimiter=end) for cell in row] for end in ",;\t"}

    assert text.replace("\t", "").lstrip()[:1] in "".join(cells[","])
    assert not [cell for each in cells.values() for cell in each if cell.strip().startswith((*"=+-@\uff1d",))]


def test_an_export_escapes_what_a_terminal_would_obey(browser: Browser, client: Client) -> None:
    client.enqueue("test:echo", "\x1b[2J\u202e", task_id="a")

    assert "\\x1b[2J\\u202e" in browser.get("/tasks.csv?queue=default").text


# --- Values


def test_values_are_written_for_people() -> None:
    assert [lasting(each) for each in (0.25, 59.6, 3700, 90000, None)] == [
        "0.25 s",
        "1 min 0 s",
        "1 h 1 min",
        "1 d 1 h",
        "",
    ]
    assert [sized(each) for each in (0, 1023, 2048, 5 * 1024**3)] == ["0 B", "1,023 B", "2 KiB", "5 GiB"]
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
