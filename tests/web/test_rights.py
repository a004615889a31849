"""Who may see and do what: every address by everybody, and from everywhere."""

import html
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis

import boilerd.web
from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.audit import Actor
from boilerd.broker.broker import Broker
from boilerd.broker.neighbours import Declared
from boilerd.broker.operation_record import Order
from boilerd.broker.web_sessions import WebSecret
from boilerd.errors import DuplicateTaskError
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Grant, Web
from boilerd.web import endpoint, passwords
from boilerd.web.endpoint import Endpoint
from boilerd.web.own_queues import OwnQueues
from boilerd.web.page import ACTIONS, PAGES, Page, load_pages
from boilerd.web.permissions import BEYOND_QUEUES, ROLES, Permission, Principal
from boilerd.web.quoting import HIDDEN
from boilerd.web.refusal import Refusal
from boilerd.web.sessions import Seals
from browser import WHO, Browser, text_of, web_app, with_people
from builders import claim, count_in_minute, counted, enqueue, fail_as, failure_kind, tell_cron

load_pages()
#: Addresses that need no permission.
PUBLIC = {"/login", "/logout", "/static/{version}/{name:path}"}
#: A value for each part that an address may name.
EXAMPLES = {
    "id": "task", "queue": "default", "cron": "nightly", "type": "test:echo", "operation": "1-a",
    "fingerprint": "a" * 12, "worker": "host.run.0", "pool": "default", "what": "quiet", "snapshot": "kept",
}  # fmt: skip
BAD_TOKEN = {"authorization": "Bearer nonsense"}


def routes(app: Any) -> list[Any]:
    return list(app.app.routes)


ROUTES = [
    (route.path, method, frozenset(filter(None, (route.endpoint.needs, route.endpoint.also))))
    for route in routes(web_app(redis.Redis()))
    for method in sorted(route.methods - {"HEAD"})
    if route.path not in PUBLIC
]


def example(path: str) -> str:
    """An address of a route."""
    return path.format_map(EXAMPLES)


def test_every_address_has_a_permission_but_those_that_are_public() -> None:
    found = routes(web_app(redis.Redis()))

    assert all(isinstance(route.endpoint, Endpoint) for route in found)
    assert {route.path for route in found if route.endpoint.needs is None} == PUBLIC
    assert {page.path for page in PAGES} | {action.path for action in ACTIONS} <= {route.path for route in found}


def outcome(answer: httpx.Response) -> str:
    """What became of a request, as far as rights go."""
    if answer.status_code in {401, 403}:
        return "refused"
    assert answer.status_code < 500 or answer.request.url.path == "/readyz", answer.text
    return "served"


@pytest.mark.parametrize(("path", "method", "needs"), ROUTES, ids=lambda each: each if isinstance(each, str) else "")
def test_an_address_serves_those_who_may_and_refuses_all_others(
    path: str, method: str, needs: frozenset[Permission], connection: redis.Redis, client: Client
) -> None:
    app, address = with_people(connection), example(path)
    ours = {"sec-fetch-site": "same-origin"}
    expected = {role: "served" if needs <= allowed else "refused" for role, allowed in ROLES.items()}

    found = {}
    with Browser(app) as browser:
        found["nobody"] = outcome(browser.send(method, address, headers=ours))
        found["a stranger"] = outcome(browser.send(method, address, headers={**ours, WHO: "stranger"}))
        found["a bad token"] = outcome(browser.send(method, address, headers={**ours, **BAD_TOKEN, WHO: "admin"}))
        for role in ROLES:
            connection.flushall()
            enqueue(client, "task")
            tell_cron(Broker(connection))
            found[role] = outcome(browser.send(method, address, headers={**ours, WHO: role}))
    with Browser(app, address="10.0.0.1") as browser:
        found["no proxy"] = outcome(browser.send(method, address, headers={**ours, WHO: "admin"}))

    nobody = dict.fromkeys(("nobody", "a stranger", "a bad token", "no proxy"), "refused")
    assert found == {**nobody, **expected}


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:81"},
    {"origin": "http://localhost."},
    {"origin": "http://evil@localhost"},
    {"origin": "http://["},
    {"origin": "localhost"},
    {"sec-fetch-site": "cross-site", "origin": "http://localhost"},
    {},
]


@pytest.mark.parametrize("path", [path for path, method, _ in ROUTES if method == "POST"])
def test_nothing_is_done_that_another_site_sends(path: str, connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")
    before = connection.dump("rq:queue:default"), connection.smembers("boilerd:paused")
    found = {}

    with Browser(web_app(connection)) as browser:
        for headers in FOREIGN:
            status = browser.send("POST", example(path), headers=headers, data={}).status_code
            after = connection.dump("rq:queue:default"), connection.smembers("boilerd:paused")
            found[str(headers)] = status, after == before
            before = after

    assert {case: got for case, got in found.items() if got != (403, True)} == {}
    assert len(found) == len(FOREIGN)


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "http://localhost"}], ids=str)
def test_what_our_own_page_sends_is_done(headers: dict[str, str], browser: Browser, client: Client) -> None:
    enqueue(client, "task")

    assert browser.send("POST", "/queues/default/pause", headers=headers).status_code == 303


def test_a_browser_that_tells_nothing_is_known_by_the_token_of_the_form(browser: Browser, client: Client) -> None:
    enqueue(client, "task")
    token = browser.get("/tasks/task/delete").text.partition('name="form_token" value="')[2].partition('"')[0]

    assert browser.send("POST", "/queues/default/pause", data={"form_token": token}).status_code == 303
    assert browser.send("POST", "/queues/default/resume", data={"form_token": token[:-1]}).status_code == 403


@pytest.mark.parametrize(("has_hash", "status"), [(False, 303), (True, 403)])
def test_a_form_that_somebody_sealed_by_what_stands_in_redis_is_sent_by_no_browser_of_today(
    has_hash: bool, status: int, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "task")
    tokens = _tokens({"ci": {"sha256": "0" * 64}} if has_hash else {})

    with Browser(with_people(connection, tokens=tokens), **{WHO: "admin"}) as browser:
        browser.get("/queues")
        seals = Seals(WebSecret(connection, 60).get)
        seals.refresh()
        form = {"form_token": seals.seal("form", "admin", "")}
        answers = {
            str(headers): browser.send("POST", "/queues/default/pause", headers=headers, data=form).status_code
            for headers in FOREIGN
        }

    assert answers == {str(headers): 403 if headers else status for headers in FOREIGN}


def test_nothing_is_shown_under_the_name_of_another_host(connection: redis.Redis) -> None:
    app = web_app(connection, hosts=["jobs.example"])

    statuses = {}
    for host in ("localhost:8383", "[::1]:8383", "jobs.example", "JOBS.example:80", "evil.example", "localhost.evil"):
        with Browser(app, host=host) as browser:
            statuses[host] = browser.get("/").status_code

    assert statuses == {
        "localhost:8383": 200, "[::1]:8383": 200, "jobs.example": 200, "JOBS.example:80": 200,
        "evil.example": 421, "localhost.evil": 421,
    }  # fmt: skip
    with Browser(app, host="other.example:8443") as browser:
        assert "host 'other.example' is not one of" in browser.get("/queues.json").json()["error"]


def test_read_only_leaves_nobody_anything_to_do(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")

    with Browser(web_app(connection, read_only=True)) as browser:
        shown = browser.get("/tasks/task")
        answers = {path: browser.post(example(path)).status_code for path, method, _ in ROUTES if method == "POST"}

    assert shown.status_code == 200
    assert "data-confirm" not in shown.text
    assert set(answers.values()) == {403}


def test_the_actions_that_somebody_may_not_take_are_not_offered(viewer: Browser, client: Client) -> None:
    enqueue(client, "task")

    assert "<form method=" not in viewer.get("/queues/default").text
    assert "data-confirm" not in viewer.get("/tasks/task").text


def test_every_answer_has_the_headers_that_hold_a_browser_back(browser: Browser) -> None:
    for path in ("/", "/queues.json", "/nothing", "/tasks?page=x"):
        headers = browser.get(path).headers

        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "private, no-store"
        assert not [name for name in headers if name.startswith("access-control")]


def test_a_body_without_an_end_is_cut(browser: Browser) -> None:
    ours = {"sec-fetch-site": "same-origin"}

    assert browser.send("POST", "/queues/default/pause", content=b"x" * 70_000, headers=ours).status_code == 413
    assert browser.send("POST", "/queues/default/pause", content=b"a=1&" * 2000, headers=ours).status_code == 400


def test_a_list_is_exported_to_those_who_may_see_its_page_and_export(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited = Page(
        path="/secret", needs=Permission.AUDIT, view=lambda _visit: {"rows": []}, title="", template="", rows="rows"
    )
    monkeypatch.setattr("boilerd.web.page.PAGES", [*PAGES, audited])

    with Browser(with_people(connection)) as browser:
        statuses = {
            (role, form): browser.get(f"/secret.{form}", **{WHO: role}).status_code
            for role in ROLES
            for form in ("json", "csv", "ndjson")
        }

    assert {who for who, status in statuses.items() if status == 200} == {
        ("admin", "json"), ("admin", "csv"), ("admin", "ndjson"),
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/queues", "/tasks", "/tasks/a", "/tasks/a.json"])
def test_what_somebody_has_seen_is_not_unchanged_for_another(
    path: str, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    people = ("viewer", "operator", "admin", "stranger", "")

    with Browser(with_people(connection)) as browser:
        tags = {role: browser.get(path, **{WHO: role}).headers["etag"] for role in ROLES}
        statuses = {
            (seen, who): browser.get(path, if_none_match=tag, **{WHO: who}).status_code
            for seen, tag in tags.items()
            for who in people
        }

    assert {pair for pair, status in statuses.items() if status == 304} == {(role, role) for role in ROLES}
    assert {status for (_, who), status in statuses.items() if who not in ROLES} == {401}


# --- Hooks and tokens


def test_a_hook_says_who_it_is_for_an_application_that_mounts_it(connection: redis.Redis) -> None:
    async def authorize(request: Any) -> Principal | None:
        name = request.headers.get("x-session", "")
        return Principal.of_role(name, "viewer") if name else None

    with Browser(web_app(connection, authorize=authorize), host="any.example") as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/", x_session="anna").status_code == 200
        assert browser.get("/tasks.csv", x_session="anna").status_code == 403


def test_a_password_that_a_proxy_passes_on_is_not_taken_for_a_token(connection: redis.Redis) -> None:
    with Browser(with_people(connection), **{WHO: "viewer"}) as browser:
        assert browser.get("/queues", authorization="Basic YW5uYTpzZWNyZXQ=").status_code == 200
    with Browser(with_people(connection)) as browser:
        assert browser.get("/queues.json", authorization="Basic YW5uYTpzZWNyZXQ=").status_code == 401


@pytest.mark.parametrize("found", ["admin", {"name": "anna"}, True])
def test_a_hook_that_returns_something_else_lets_nobody_in(found: Any, connection: redis.Redis) -> None:
    with Browser(web_app(connection, authorize=lambda _request: found)) as browser:
        answer = browser.get("/")

    assert answer.status_code == 500
    assert "failed by a TypeError" in answer.text


def test_a_program_has_a_token_and_needs_no_form_of_ours(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")
    token, hashed = passwords.new_token()
    tokens = {
        "nagios": {"sha256": hashed, "role": "operator"},
        "old": {"sha256": passwords.hash_token("old"), "ends": "2020-01-01T00:00:00Z"},
    }

    with Browser(web_app(connection, tokens=_tokens(tokens)), host="any.example") as browser:
        shown = browser.get("/queues.json", authorization=f"Bearer {token}")
        done = browser.send("POST", "/queues/default/pause.json", headers={"authorization": f"Bearer {token}"})
        ended = browser.get("/queues.json", authorization="Bearer old")
        nobody = browser.get("/queues.json")

    assert (shown.status_code, done.status_code) == (200, 200)
    assert (ended.status_code, nobody.status_code) == (401, 401)
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert nobody.json()["error"].startswith("nobody is logged in; send a token")
    assert ended.json()["error"].startswith("the token that was sent is unknown here, or has ended; send")


def _tokens(given: dict[str, dict[str, str]]) -> Any:
    import msgspec  # noqa: PLC0415

    from boilerd.settings.web import WebToken  # noqa: PLC0415

    return msgspec.convert(given, dict[str, WebToken])


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(passwords, "N", 2)
    passwords.nobodys_hash.cache_clear()
    yield
    passwords.nobodys_hash.cache_clear()


def test_who_may_see_the_audit_and_no_payloads_reads_none_in_what_others_sought(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", {"to": "anna"}, task_id="a")
    inspector = Inspector(connection, by=Actor("web", "operator", "h"))
    order = Order("archive", "default", TaskState.PENDING, search="payload.to:anna")
    inspector.operations.begin(order)
    inspector.kept_pages.keep(
        "{}", path="/tasks?q=payload.to:anna", title="Tasks", user="operator", version="1", shows_payloads=True
    )

    def authorize(request: Any) -> Principal:
        rights = frozenset({Permission.VIEW, Permission.AUDIT, Permission.EXPORT})
        return Principal("eve", rights | ({Permission.VIEW_PAYLOAD} if "x-all" in request.headers else set()))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        addresses = ("/audit", "/audit.json", "/audit.csv", "/", "/overview.json")
        blind = {address: browser.get(address).text for address in addresses}
        seeing = {address: browser.get(address, x_all="1").text for address in addresses}
        guessed = browser.get("/audit.json?on=payload.to:anna").json()["entries"]

    assert [address for address, text in blind.items() if "anna" in text] == []
    assert [address for address, text in seeing.items() if "anna" not in text] == []
    assert guessed == []
    assert "archive" in blind["/audit.csv"]


def test_who_may_not_see_payloads_learns_of_no_lock_by_a_digest_that_they_guess(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", {"to": "anna"}, task_id="holder", unique=60)
    (lock,) = Inspector(connection).unique_locks().locks
    addresses = [f"/limits/release?queue=default&type=test:echo&digest={digest}" for digest in (lock.digest, "0" * 64)]
    eve = Principal("eve", frozenset({Permission.VIEW, Permission.DELETE}))

    with Browser(web_app(connection, authorize=lambda _: eve)) as browser:
        found = [browser.get(each) for each in addresses] + [browser.post(each, {"holder": "x"}) for each in addresses]

    assert {answer.status_code for answer in found} == {403}
    assert all("it needs the permission view_payload" in answer.text for answer in found)


# --- Queues of one's own

#: A word that stands in everything of the other queue, and in nothing else.
HUSH = "hush"


@pytest.fixture
def with_another_queue(connection: redis.Redis, client: Client, broker: Broker) -> None:
    """A queue of anna's, and one that is none of hers: with tasks, a failure, metrics, a worker, and what was done."""
    client.enqueue("test:echo", task_id="task", queue="mail-out")
    fail_as(broker, "hush-3", failure_kind("a" * 12), queue="hush")
    for task_id in ("hush-1", "hush-2"):
        client.enqueue("hush:type", {"hush": "hush"}, task_id=task_id, queue="hush", concurrency_key="hush")
    tell_cron(broker, "hush", daemon="hush.a1", queue="hush")
    tell_cron(broker, EXAMPLES["cron"], queue="mail-out")
    count_in_minute(connection, int(time.time()) // 60 - 2, "hush", "hush:type", counted(1, archived=1))
    inspector = Inspector(connection, by=Actor("web", "hush", "hush"))
    inspector.pause("hush")
    inspector.operations.begin(Order("delete", "hush", TaskState.ARCHIVED))
    inspector.operations.begin(Order("delete", task_ids=("hush-1",)))
    inspector.operations.begin(Order("move", "mail-out", TaskState.SCHEDULED, value="hush"))
    inspector.kept_pages.keep(
        '{"hush": 1}', path="/queues/hush", title="Queue", user="hush", version="1", shows_payloads=True
    )
    inspector.enqueue("hush:type", copied_from="task", queue="hush", task_id="hush-4")
    client.enqueue("hush:lock", queue="hush", unique=60, task_id="hush-5")
    with pytest.raises(DuplicateTaskError):
        client.enqueue("hush:lock", queue="hush", unique=60)
    connection.sadd("rq:workers", "rq:worker:hush")
    connection.hset("rq:worker:hush", mapping={"hostname": "hush", "queues": "hush", "state": "idle"})


def of_anna(connection: redis.Redis, role: Any = "admin") -> Browser:
    app = web_app(
        connection,
        trusted_proxies=["127.0.0.1"],
        trusted_header=WHO,
        roles={"anna": Grant(role=role, queues=["mail-*", "low"])},
    )
    return Browser(app, **{WHO: "anna"})


def stored(connection: redis.Redis) -> dict[bytes, object]:
    """All that stands in Redis of the other queue, but for the audit."""
    found: dict[Any, object] = {
        key: connection.dump(key) for key in connection.keys("*") if b"audit" not in key and b"session" not in key
    }
    return {key: value for key, value in found.items() if b"hush" in key or b"paused" in key or b":op:" in key}


@pytest.mark.usefixtures("with_another_queue")
def test_nobody_sees_a_queue_that_is_none_of_theirs(connection: redis.Redis) -> None:
    own = {**EXAMPLES, "queue": "mail-out", "id": "task"}
    asked = [
        path.format_map(own) + query
        for path, method, _ in ROUTES
        if method == "GET"
        for query in (
            "",
            "?queue=mail-out",
            "?q=payload.hush:hush",
            "?queue=hush",
            "?state=archived&queue=hush&search=1",
        )
    ]

    with of_anna(connection) as browser:
        found = {address: browser.get(address) for address in asked}

    told = {address: answer for address, answer in found.items() if HUSH in _without(answer.text, address)}
    assert {address: answer.text for address, answer in told.items()} == {}
    assert {answer.status_code for answer in found.values()} <= {200, 303, 400, 403, 404, 405}
    served = {address for address, answer in found.items() if answer.status_code == 200}
    assert served >= {
        "/",
        "/queues",
        "/queues.csv",
        "/queues/mail-out",
        "/tasks",
        "/tasks/task",
        "/tasks.csv?queue=mail-out",
    }
    assert served >= {"/types?queue=mail-out", "/operations", "/tasks/new", "/tasks/task/edit", "/tasks/task/move"}
    assert served >= {"/crons", "/crons/nightly", "/limits", "/palette", "/tasks/task/compare"}
    assert "nightly" in found["/"].text


@pytest.mark.usefixtures("with_another_queue")
def test_the_error_of_a_queue_that_was_never_used_names_no_queue_of_others(connection: redis.Redis) -> None:
    with of_anna(connection) as browser:
        told = [browser.get(path).json()["error"] for path in ("/queues/low.json", "/tasks.json?queue=low")]
        shown = browser.get("/queues/low").text

        beside = [text_of(browser.get(path).text) for path in ("/queues/mail-out", "/system")]

    assert all("Those who see all queues are told" in page for page in beside)
    assert told == ["queue 'low' was never used; there are: mail-out"] * 2
    assert "mail-out" in shown
    assert "hush" not in shown


def _without(text: str, address: str) -> str:
    """The answer without what was asked, which it may repeat."""
    return (
        text
        if "hush" not in address
        else re.sub(r"payload\.hush(:|%3A)\"?hush|[=:+]hush|>hush</option>|\"hush\"", "", text)
    )


@pytest.mark.usefixtures("with_another_queue")
def test_what_is_of_another_queue_is_refused_to_those_who_have_their_own(connection: redis.Redis) -> None:
    operation = Inspector(connection).operations.latest()[0].id
    (kept,) = [each.id for each in Inspector(connection).kept_pages.latest()]
    theirs = {
        **EXAMPLES, "id": "hush-1", "queue": "hush", "cron": "hush", "type": "hush:type", "operation": operation,
        "fingerprint": "a" * 12, "worker": "hush", "pool": "hush", "snapshot": kept,
    }  # fmt: skip
    before = stored(connection)

    with of_anna(connection) as browser:
        statuses = {
            (path, method): browser.send(
                method, path.format_map(theirs), headers={"sec-fetch-site": "same-origin"}
            ).status_code
            for path, method, _ in ROUTES
            if "{" in path
        }

    assert {asked: status for asked, status in statuses.items() if status not in {400, 403, 404, 405}} == {}
    assert stored(connection) == before


@pytest.mark.usefixtures("with_another_queue")
@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("/bulk/delete?queue=hush&state=pending", {"name": "hush"}),
        ("/bulk/delete?id=hush-1&id=hush-2", {}),
        ("/tasks/new", {"type": "test:echo", "queue": "hush", "step": "send"}),
        ("/bulk/move?queue=mail-out&state=pending", {"to": "hush"}),
        ("/bulk/move?id=task", {"to": "hush"}),
        ("/bulk/move?queue=mail-out&q=-x", {"to": "hush"}),
        ("/bulk/delete?queue=mail-out&state=pending&q=queue:hush", {}),
        ("/types/test:echo/delete?state=pending", {"name": "test:echo"}),
        ("/limits/release?queue=hush&type=hush:lock&digest=x", {"holder": "hush-5", "id": "hush-5"}),
        ("/snapshots/keep", {"of": "/queues/hush"}),
        ("/tasks/task/move", {"to": "hush"}),
        ("/tasks/hush-1/move", {"to": "mail-out"}),
        ("/tasks/task/edit", {"queue": "hush", "step": "send"}),
    ],
)
def test_nothing_is_put_into_or_taken_out_of_a_queue_of_others(
    address: str, form: dict[str, str], connection: redis.Redis
) -> None:
    before = stored(connection)

    with of_anna(connection) as browser:
        if "step" in form:
            form |= {
                "checked": browser.post(address, form).text.partition('name="checked" value="')[2].partition('"')[0]
            }
        answer = browser.post(address, form)

    assert answer.status_code in {403, 404, 409, 422}, answer.text
    assert stored(connection) == before


@pytest.mark.usefixtures("with_another_queue")
def test_who_has_queues_of_their_own_does_there_what_the_role_allows(connection: redis.Redis) -> None:
    with of_anna(connection) as browser:
        paused = browser.post("/queues/mail-out/pause.json")
        ordered = browser.post("/bulk/cancel.json?id=task&id=hush-1", {})
        seen = browser.get(f"/operations/{ordered.json()['operation']}.json").json()

    assert paused.json() == {"done": "queue mail-out is paused"}
    assert seen["operation"]["total"] == 1


@pytest.mark.usefixtures("with_another_queue")
def test_what_is_beside_ones_own_queues_is_shown_without_that_of_others(
    connection: redis.Redis, client: Client, broker: Broker
) -> None:
    fail_as(broker, "failed", failure_kind("b" * 12), queue="low")
    inspector = Inspector(connection)
    inspector.enqueue("test:echo", copied_from="task", queue="mail-out", task_id="copy")
    inspector.enqueue("hush:type", copied_from="task", queue="hush", task_id="hush-6")
    client.enqueue("test:echo", queue="low", task_id="runs")
    claim(broker, "low")

    with of_anna(connection) as browser:
        first = browser.get("/overview.json").json()
        task = browser.get("/tasks/task.json").json()
        failed = browser.get("/tasks/failed.json").json()
        gone = browser.get("/tasks/nowhere")
        (lock,) = inspector.unique_locks("hush").locks
        address = f"/limits/release?queue=hush&type={lock.type}&digest={lock.digest}"
        locked = browser.get(address)
        released = browser.post(address, {"holder": "hush-5", "id": "hush-5"})
        compared = browser.get("/tasks/task/compare.json?with=hush-1")
        refused = browser.get("/limits.json").json()["refusals"]

    assert [each["id"] for each in first["beside"]["longest"]["tasks"]] == ["runs"]
    assert [each["name"] for each in first["beside"]["crons"]] == [EXAMPLES["cron"]]
    assert (first["beside"]["problems"], first["beside"]["failures"], first["heaviest"]) == ([], [], None)
    assert task["lineage"]["copies"] == ["copy"]
    assert "this shows or changes more than these" in failed["equals"]["problem"]
    assert (gone.status_code, compared.status_code) == (404, 404)
    assert "may be of another one" in gone.text
    assert (locked.status_code, released.status_code) == (403, 403)
    assert refused == {"rows": []}


def test_of_the_types_that_its_workers_know_those_of_the_queue_alone_are_told(
    connection: redis.Redis, client: Client
) -> None:
    declared = Declared(("", "hush:type", "mail:", "mail:send", "other:type", "report:"))
    now = f"{datetime.fromtimestamp(connection.time()[0], UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    record: Any = {
        "queues": "hush,mail-out",
        "birthmark": "x",
        "last_heartbeat": now,
        "application": declared.encoded(),
    }
    connection.hset("rq:worker:w", mapping=record)
    connection.sadd("rq:workers", "rq:worker:w")
    client.enqueue("mail:send", queue="mail-out", task_id="task")
    count_in_minute(connection, int(time.time()) // 60 - 2, "mail-out", "report:weekly", counted(1))
    count_in_minute(connection, int(time.time()) // 60 - 2, "hush", "other:type", counted(1))

    with of_anna(connection) as browser:
        told = browser.get("/queues/mail-out.json").json()["types"]
    with Browser(web_app(connection)) as browser:
        all_of_them = browser.get("/queues/mail-out.json").json()["types"]

    assert told == {"handled": ["", "mail:", "mail:send", "report:"]}
    assert all_of_them == {"handled": [*declared.types]}


def test_a_new_task_begins_with_what_stands_in_ones_own_queue(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", {"hush": 1}, queue="hush")
    client.enqueue("test:echo", {"to": "anna"}, queue="mail-out")

    with of_anna(connection) as browser:
        forms = [
            browser.get(f"/tasks/new.json?type=test:echo&{query}").json()["form"]
            for query in ("queue=mail-out", "queue=hush", "")
        ]

    assert [json.loads(form["body"]) for form in forms] == [{"to": ""}, None, None]


KEYED = {"type": "test:echo", "queue": "mail-out", "concurrency_key": "ours", "concurrency_limit": "2"}


@pytest.mark.parametrize(
    ("sent", "is_done"),
    [
        (("/tasks/new", {}), True),
        (("/tasks/new", {"concurrency_limit": ""}), False),
        (("/tasks/new", {"concurrency_limit": "3"}), False),
        (("/tasks/new", {"concurrency_key": "theirs"}), False),
        (("/tasks/new", {"concurrency_key": "nobody"}), False),
        (("/tasks/new", {"concurrency_key": "", "concurrency_limit": ""}), True),
        (("/tasks/keyed/edit", {"concurrency_key": "of-old", "concurrency_limit": "3"}), True),
        (("/tasks/keyed/edit", {"concurrency_key": "of-old", "concurrency_limit": "4"}), False),
        (("/tasks/keyed/edit", {"concurrency_key": "theirs"}), False),
    ],
)
def test_who_has_queues_of_their_own_holds_back_no_task_of_others_by_a_concurrency_key(
    sent: tuple[str, dict[str, str]], is_done: bool, connection: redis.Redis, client: Client, broker: Broker
) -> None:
    for row, (queue, key) in enumerate((("mail-out", "ours"), ("hush", "theirs"))):
        client.enqueue("test:echo", queue=queue, concurrency_key=key, concurrency_limit=2, task_id=f"{key}-runs")
        claim(broker, queue, row=row)
    client.enqueue("test:echo", queue="mail-out", concurrency_key="of-old", concurrency_limit=3, task_id="keyed")

    with of_anna(connection) as browser:
        address, form = sent[0], KEYED | sent[1]
        looked_at = browser.post(address, form)
        checked = looked_at.text.partition('name="checked" value="')[2].partition('"')[0]
        answer = browser.post(address, {**form, "checked": checked, "step": "send"})

    assert looked_at.status_code == (200 if is_done else 422)
    assert (answer.status_code, "all queues share it" in answer.text) == ((303, False) if is_done else (422, True))
    assert connection.llen("rq:queue:mail-out") == (2 if is_done else 1)


def test_that_nobody_works_on_ones_own_queue_is_told_without_what_they_work_on(
    client: Client, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", queue="low").id
    connection.sadd("rq:workers", "rq:worker:hush")
    connection.hset("rq:worker:hush", mapping={"queues": "hush", "state": "idle"})
    own = OwnQueues(Inspector(connection), Principal.of_role("anna", "viewer", queues=["low"]))

    unserved, _ = own.explain(task_id).reasons

    assert (unserved.fact, unserved.remedy) == ("Nobody works on queue low.", "")


@pytest.mark.parametrize("option", ["unique", "once", "task_id", "deadline"])
def test_who_has_queues_of_their_own_takes_no_lock_by_hand(option: str, connection: redis.Redis) -> None:
    own = OwnQueues(Inspector(connection), Principal.of_role("anna", "admin", queues=["low"]))

    with pytest.raises(Refusal, match=f"anna has the queues low: {option} is nothing for a task"):
        own.enqueue("test:echo", queue="low", copied_from="", **{option: 60})


@pytest.mark.usefixtures("with_another_queue")
def test_who_got_queues_of_their_own_later_continues_nothing_with_tasks_of_others(connection: redis.Redis) -> None:
    before = Inspector(connection, by=Actor("web", "anna", "hush"))
    mixed, _ = before.operations.begin(Order("cancel", task_ids=("task", "hush-1")))
    own, _ = before.operations.begin(Order("cancel", task_ids=("task", "gone")))
    for each in (mixed, own):
        connection.hset(keys.operation(each.id), "beat", "1")

    with of_anna(connection) as browser:
        seen = {each.id: browser.get(f"/operations/{each.id}") for each in (mixed, own)}
        taken = browser.post(f"/operations/{mixed.id}/continue")

    assert (seen[mixed.id].status_code, seen[own.id].status_code) == (404, 200)
    assert taken.status_code == 404
    assert Inspector(connection).task("hush-1").state is TaskState.PENDING


@pytest.mark.usefixtures("with_another_queue")
def test_a_copy_does_not_name_the_task_of_another_queue_that_it_was_made_of(connection: redis.Redis) -> None:
    inspector = Inspector(connection)
    inspector.enqueue("test:echo", copied_from="hush-1", queue="mail-out", task_id="copy")
    inspector.enqueue("test:echo", copied_from="task", queue="low", task_id="own")

    with of_anna(connection) as browser:
        told = [
            browser.get(address).text
            for address in (
                "/tasks/copy",
                "/tasks/copy.json",
                "/tasks.json?queue=mail-out",
                "/tasks.csv?queue=mail-out",
                "/bulk/cancel.json?id=copy",
            )
        ]
        own = browser.get("/tasks/own.json").json()["task"]["copied_from"]

    assert [text for text in told if "hush" in text] == []
    assert own == "task"


def test_what_was_read_for_all_is_shown_to_nobody_with_queues_of_their_own(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("hush:type", task_id="hush-1", queue="hush")
    count_in_minute(connection, int(time.time()) // 60 - 2, "hush", "hush:type", counted(1))
    app = web_app(
        connection,
        trusted_proxies=["127.0.0.1"],
        trusted_header=WHO,
        roles={"anna": Grant(queues=["low"]), "all": "admin"},
    )

    with Browser(app) as browser:
        for page in ("/types?queue=low", "/workers", "/", "/types"):
            browser.get(page, **{WHO: "all"})
            tag = browser.get(page, **{WHO: "all"}).headers["etag"]
            answer = browser.send("GET", page, headers={"if-none-match": tag, WHO: "anna"})

            assert HUSH not in answer.text
            assert answer.status_code != 304


def test_operations_with_named_tasks_are_listed_for_who_ordered_them_and_for_no_other_of_the_same_queues(
    connection: redis.Redis,
) -> None:
    grant = Grant(role="admin", queues=["low"])
    app = web_app(connection, trusted_proxies=["127.0.0.1"], trusted_header=WHO, roles={"anna": grant, "bob": grant})
    for name in ("anna", "bob"):
        Inspector(connection, by=Actor("web", name, "here")).operations.begin(Order("run", task_ids=(f"of-{name}",)))

    with Browser(app) as browser:
        listed = {name: browser.get("/operations.json", **{WHO: name}).json()["operations"] for name in ("anna", "bob")}

    assert {name: [row["user"] for row in rows] for name, rows in listed.items()} == {"anna": ["anna"], "bob": ["bob"]}


def test_who_has_queues_of_their_own_is_sent_what_changes_beside_these_and_nobody_else_is_shown(
    connection: redis.Redis, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "FRESH_S", 0.0)
    for number in range(6):
        tell_cron(broker, f"often-{number}", "* * * * *", f"web{number}.a1", "hush")
    tell_cron(broker, "nightly", "0 3 1 1 *", "mail.a1", "low")

    with of_anna(connection) as browser:
        tag = browser.get("/").headers["etag"]
        same = browser.get("/", if_none_match=tag).status_code
        tell_cron(broker, "nightly", "0 4 1 1 *", "mail.a1", "low")
        answer = browser.get("/", if_none_match=tag)

    assert (same, answer.status_code) == (304, 200)


@pytest.mark.parametrize(
    ("queues", "queue", "owns"),
    [
        (None, "any", True), (("mail-*",), "mail-out", True), (("mail-*",), "mail", False), (("low",), "lower", False),
        (("*",), "any", True), (("a", "b"), "b", True), (("a",), "", False), ((), "a", False),
    ],
)  # fmt: skip
def test_a_queue_is_named_in_whole_or_by_how_it_begins(queues: tuple[str, ...] | None, queue: str, owns: bool) -> None:
    assert Principal("anna", frozenset(), queues=queues).owns(queue) is owns


def test_what_is_of_no_queue_is_not_for_those_who_have_their_own(connection: redis.Redis) -> None:
    beyond = [(path, method) for path, method, needs in ROUTES if needs & BEYOND_QUEUES]

    with of_anna(connection) as browser:
        answers = [
            browser.send(method, example(path), headers={"sec-fetch-site": "same-origin"}) for path, method in beyond
        ]

    assert ("/crons/{cron}/run", "POST") in beyond
    assert {answer.status_code for answer in answers} == {403}
    assert all("it needs the permission" in answer.text for answer in answers)


def test_a_role_may_be_a_list_of_permissions(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")

    with Browser(
        web_app(connection, trusted_proxies=["127.0.0.1"], trusted_header=WHO, roles={"*": ["view", "pause"]}),
        **{WHO: "anna"},
    ) as browser:
        statuses = [browser.post("/queues/default/pause").status_code, browser.post("/tasks/task/run").status_code]

    assert statuses == [303, 403]


# --- What is hidden, on demand


def test_what_is_hidden_is_revealed_to_those_who_may_and_the_audit_tells_it(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", {"password": "hunter2", "payload": {"token": "t0p"}}, task_id="task")

    with Browser(with_people(connection)) as browser:
        shown = browser.get("/tasks/task", **{WHO: "admin"}).text
        answers = {
            role: browser.send("POST", "/tasks/task/reveal", headers={"sec-fetch-site": "same-origin", WHO: role})
            for role in ROLES
        }
        data = browser.send(
            "POST", "/tasks/task/reveal.json", headers={"sec-fetch-site": "same-origin", WHO: "admin"}
        ).json()
        opened = browser.get("/tasks/task/reveal", **{WHO: "admin"})

    assert "hunter2" not in shown
    assert "Reveal what is hidden" in shown
    assert {role: "hunter2" in answer.text for role, answer in answers.items()} == {
        "viewer": False, "operator": False, "admin": True
    }  # fmt: skip
    assert data["payload"] == {"password": "hunter2", "payload": {"token": "t0p"}}
    assert opened.status_code == 405
    assert [(entry.user, entry.what, entry.on["task"]) for entry in Inspector(connection).audit()] == [
        ("admin", "reveal", "task")
    ] * 2


def test_nothing_is_revealed_where_the_audit_cannot_have_it(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", {"password": "hunter2"}, task_id="task")
    connection.set(keys.AUDIT, "a text")

    with Browser(with_people(connection), **{WHO: "admin"}) as browser:
        answer = browser.send("POST", "/tasks/task/reveal", headers={"sec-fetch-site": "same-origin"})

    assert answer.status_code == 503
    assert "hunter2" not in answer.text


def test_only_to_reveal_shows_what_is_hidden() -> None:
    assert [(each.path, each.needs) for each in ACTIONS if each.reveals] == [("/tasks/{id}/reveal", Permission.REVEAL)]


def _hide_of_cards(task_type: str, payload: Any) -> Any:
    """An application's hook, which hides by the type."""
    is_card = task_type == "card:pay" and isinstance(payload, dict)
    return {name: HIDDEN if name == "number" else value for name, value in payload.items()} if is_card else payload


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"type": "test:echo"}, "payload.number: what is hidden there would be seen in this copy"),
        ({"body": '{"number": "[hidden]", "at": ["note", "[hidden]"]}'}, "payload.at.1: what is hidden there would"),
        ({"head": '[["x", "[hidden]"]]'}, "headers.0.1: [hidden] stands where nothing was hidden"),
        ({"type": "test:echo", "body": '{"number": "mine"}'}, ""),
        ({"queue": "low"}, ""),
    ],
)
def test_what_is_hidden_is_not_brought_to_light_by_a_copy(
    form: dict[str, str], says: str, connection: redis.Redis, client: Client
) -> None:
    client.enqueue("card:pay", {"number": "4242 4242", "at": ["token", "hunter2"]}, task_id="task")
    app = boilerd.web.app(Settings(web=Web()), authorize=None, connection=connection, redact=_hide_of_cards)

    with Browser(app) as browser:
        looked_at = browser.post("/tasks/task/edit", form)
        checked = looked_at.text.partition('name="checked" value="')[2].partition('"')[0]
        sent = browser.post("/tasks/task/edit", {**form, "checked": checked, "step": "send"})

    assert says in html.unescape(looked_at.text)
    assert (looked_at.status_code, sent.status_code) == ((422, 422) if says else (200, 303))


SCHEMA = {
    "type": "object", "properties": {"card": {"properties": {"cvv": {"type": "string"}}}, "n": {"type": "string"}},
    "additionalProperties": False,
}  # fmt: skip


def test_the_check_by_a_schema_tells_nothing_of_what_somebody_does_not_see(
    connection: redis.Redis, client: Client
) -> None:
    client.enqueue("test:echo", {"card": {"cvv": 123}, "n": 1, "street": "Main"}, task_id="task")
    connection.zadd(keys.DAEMONS, {"host.run": time.time()})
    connection.set(keys.daemon("host.run"), json.dumps({"types": ["test:"], "schemas": {"test:": SCHEMA}}))
    rights = frozenset({Permission.VIEW, Permission.EDIT})

    def authorize(request: Any) -> Principal:
        return Principal("eve", rights | ({Permission.VIEW_PAYLOAD} if "x-all" in request.headers else set()))

    with Browser(web_app(connection, authorize=authorize)) as browser:
        ours = {"sec-fetch-site": "same-origin"}
        blind = browser.post("/tasks/task/edit.json", {"queue": "low"}, **ours).json()["problems"]
        seeing = browser.post("/tasks/task/edit.json", {"queue": "low"}, x_all="1", **ours).json()["problems"]
        other_type = browser.post("/tasks/task/edit.json", {"type": "x"}, **ours).json()["problems"]

    assert blind == ["payload: what you do not see of it does not fit the type"]
    assert seeing == [
        "payload.card: what you do not see of it does not fit the type",
        "payload.n must be string",
        "payload.street is not known",
    ]
    assert other_type == ["type: leave it as it is; what you do not see of the payload may be hidden by it"]
