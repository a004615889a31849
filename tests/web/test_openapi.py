"""What the dashboard tells programs about its addresses is what they find there."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from boilerd.broker.last_words import LastWords
from boilerd.broker.operation_record import Order
from boilerd.broker.operation_store import OperationStore
from boilerd.web import application, endpoint
from boilerd.web.data_shapes import SHAPES
from boilerd.web.described import FIELDS, QUERIES
from boilerd.web.page import ACTIONS, PAGES, load_pages
from boilerd.web.visit import Visit
from browser import WHO, Browser, asking, web_app, with_people
from builders import count_in_minute, counted, enqueue, fail_as, failure_kind, tell_cron

load_pages()
EXAMPLES = {
    "id": "task", "queue": "default", "cron": "nightly", "type": "test:echo", "operation": "1-a",
    "fingerprint": "a" * 12, "worker": "w", "pool": "default", "what": "scale", "snapshot": "kept",
}  # fmt: skip
#: What each address has beside what is its own, which is the browser's business.
BROWSERS = {"told", "seal", "renew", "form_token"}


@pytest.fixture
def with_everything(connection: redis.Redis, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of each kind."""
    fail_as(broker, "failed", failure_kind(EXAMPLES["fingerprint"]))
    client.enqueue("test:echo", {"n": 1}, task_id="task", unique=60, concurrency_key="key", headers={"a": "b"})
    tell_cron(broker, EXAMPLES["cron"])
    count_in_minute(connection, int(time.time()) // 60 - 2, "default", "test:echo", counted(3, archived=1))
    order = Order("delete", "default", TaskState.ARCHIVED)
    OperationStore(connection).write("1-a", {"order": order.to_json(), "state": "stopped"}, time.time())
    connection.sadd("rq:workers", "rq:worker:w")
    connection.hset("rq:worker:w", mapping={"hostname": "h", "queues": "default", "state": "idle"})
    inspector = Inspector(connection)
    inspector.pause("low")
    kept = inspector.kept_pages.keep(
        "{}", path="/queues", title="Queues", user="anna", version="1", shows_payloads=True
    )
    monkeypatch.setitem(EXAMPLES, "snapshot", kept)
    broker.note_death(LastWords("h.a1.0", exit="signal 9 (SIGKILL)", pid=4710).encoded())


@pytest.fixture
def document(connection: redis.Redis) -> dict[str, Any]:
    with Browser(web_app(connection)) as browser:
        found: dict[str, Any] = browser.get("/api/openapi.json").json()
    return found


def routes(app: Any) -> Iterator[tuple[str, str, list[str]]]:
    for route in app.app.routes:
        if re.search(r"\.(json|csv|ndjson)$", route.path) and route.path != application.OPENAPI:
            for method in route.methods - {"HEAD"}:
                needs = [str(each) for each in (route.endpoint.needs, route.endpoint.also) if each]
                yield route.path, method.lower(), needs


def test_every_address_for_programs_is_described_and_no_other(document: dict[str, Any]) -> None:
    described = [
        (path, method, about["x-permissions"])
        for path, methods in document["paths"].items()
        for method, about in methods.items()
    ]

    assert sorted(described) == sorted(routes(web_app(redis.Redis())))


def test_the_description_is_one_of_openapi(document: dict[str, Any]) -> None:
    described = [about for methods in document["paths"].values() for about in methods.values()]
    references = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))

    assert document["openapi"] == "3.1.0"
    assert len({about["operationId"] for about in described}) == len(described)
    assert references <= document["components"]["schemas"].keys()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, methods in document["paths"].items():
        for about in methods.values():
            named = [each["name"] for each in about["parameters"] if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", path)
            assert about["responses"]["200"]["description"]


@pytest.mark.usefixtures("with_everything")
@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_every_page_has_the_data_that_is_described(
    role: str, document: dict[str, Any], connection: redis.Redis
) -> None:
    wrong = {}
    with Browser(with_people(connection), **{WHO: role}) as browser:
        for page in PAGES:
            address = "/overview" if page.path == "/" else page.path.format_map(EXAMPLES)
            answer = browser.get(asking(page.path, f"{address}.json", search="1"))
            if answer.status_code == 403:
                continue
            schema = document["paths"][f"{'/overview' if page.path == '/' else page.path}.json"]["get"]["responses"]
            wanted = {**schema["200"]["content"]["application/json"]["schema"], "components": document["components"]}
            found = [
                str(each.message)[:200] for each in jsonschema.Draft202012Validator(wanted).iter_errors(answer.json())
            ]
            if found:
                wrong[page.path] = found

    assert wrong == {}


class Noting(dict[str, Any]):
    """A query, or a form, that notes what is read of it."""

    read: set[str]

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, set[str]]:
    """What the last request has read of its query and its form."""
    found: dict[str, set[str]] = {"query": set(), "form": set()}
    make = endpoint.__dict__["_visit"]

    def noting(*args: Any) -> Visit:
        visit: Visit = make(*args)
        for name, parts in (("query", (visit.query, visit.queries)), ("form", (visit.form,))):
            for part, field in zip(parts, ("query", "queries") if name == "query" else ("form",), strict=True):
                noted = Noting(part)
                noted.read = found[name]
                object.__setattr__(visit, field, noted)
        return visit

    monkeypatch.setattr(endpoint, "_visit", noting)
    return found


@pytest.mark.usefixtures("with_everything")
def test_what_an_address_reads_of_its_query_and_its_form_is_described(
    read: Mapping[str, set[str]], connection: redis.Redis
) -> None:
    lacking = {}
    with Browser(web_app(connection)) as browser:
        for page in PAGES:
            address = page.path.format_map(EXAMPLES)
            browser.get(asking(page.path, address, search="1", queue="default", state="pending", change="new"))
            if {*QUERIES.get(page.path, {})} != read["query"] - BROWSERS:
                lacking[page.path] = read["query"] ^ {*QUERIES.get(page.path, {})}
            read["query"].clear()
        for action in ACTIONS:
            address = action.path.format_map(EXAMPLES)
            browser.get(asking(action.path, address, queue="default", state="pending"))
            sent = asking(action.path, address, queue="default", state="archived")
            browser.post(sent, {"when": "x", "to": "low", "old": "keep"})
            described = {*QUERIES.get(action.path, {}), *FIELDS.get(action.path, {})} | BROWSERS
            if undescribed := (read["query"] | read["form"]) - described:
                lacking[action.path] = undescribed
            read["query"].clear()
            read["form"].clear()

    assert lacking == {}, "web/described.py tells of these parameters and fields"


def test_what_is_described_is_there() -> None:
    paths = {page.path for page in PAGES} | {action.path for action in ACTIONS}

    assert {*QUERIES, *FIELDS, *SHAPES} <= paths


def test_the_description_tells_where_the_dashboard_stands(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")

    with Browser(web_app(connection, prefix="/jobs")) as browser:
        document = browser.get("/jobs/api/openapi.json").json()

    assert document["servers"] == [{"url": "/jobs"}]
