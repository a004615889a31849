"""What pages weigh: answers are packed where that tells nobody anything, and stay below what is promised."""

import gc
import re
from typing import Any

import httpx
import pytest
import redis
from jinja2.runtime import Context

from boilerd import Client
from boilerd.settings.web import WebToken
from boilerd.web.passwords import hash_token
from browser import Browser, web_app
from builders import enqueue

OURS = {"sec_fetch_site": "same-origin", "accept_encoding": "gzip"}


def weight(answer: httpx.Response) -> int:
    """The bytes that were sent."""
    return int(answer.headers["content-length"])


def test_a_list_and_what_a_first_visit_loads_stay_below_their_budgets(browser: Browser, client: Client) -> None:
    for number in range(60):
        payload = {"to": f"user-{number}@example.org", "order": number * 7919, "text": "a sentence of some length"}
        client.enqueue("email:deliver", payload, task_id=f"{number:032x}")

    page = browser.get("/tasks?queue=default&state=pending", **OURS)
    files = [browser.get(address, **OURS) for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)]
    root = str(files[0].url).rpartition("/")[0]
    app = next(file for file in files if file.url.path.endswith("/app.js"))
    modules = set(re.findall(r'from "\./(\w+\.js)"', app.text))
    files += [browser.get(f"{root}/{name}", **OURS) for name in modules]

    assert page.text.count("<tr id=") == 50
    assert len(re.findall(r"<[a-z]", page.text)) <= 1500
    assert weight(page) <= 15 * 1024
    assert weight(page) + sum(map(weight, files)) <= 35 * 1024


@pytest.mark.parametrize(
    ("headers", "is_packed"),
    [
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({}, False),
        ({"authorization": "Bearer secret"}, True),
    ],
    ids=str,
)
def test_an_answer_is_packed_only_where_no_page_of_another_site_asks(
    headers: dict[str, str], is_packed: bool, connection: redis.Redis
) -> None:
    tokens = {"nagios": WebToken(sha256=hash_token("secret"))}
    web: Any = {"tokens": tokens} if "authorization" in headers else {}

    with Browser(web_app(connection, **web)) as browser:
        answer = browser.get("/settings", accept_encoding="gzip", **headers)

    assert answer.headers.get("content-encoding") == ("gzip" if is_packed else None)
    assert "<h1>Settings" in answer.text


def test_an_export_is_packed_while_it_is_sent(browser: Browser, client: Client) -> None:
    enqueue(client, *map(str, range(100)))

    answer = browser.get("/tasks.csv?queue=default&state=pending", **OURS)

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.text.count("\n") == 101


def test_what_a_page_showed_needs_no_garbage_collector_to_go(browser: Browser, client: Client) -> None:
    enqueue(client, "shown")
    address = "/tasks?queue=default&state=pending"
    browser.get(address)

    gc.collect()
    gc.disable()
    try:
        shown = browser.get(address).text
        left = [each for each in gc.get_objects() if issubclass(type(each), Context) and "title" in each.parent]
    finally:
        gc.enable()

    assert "shown" in shown
    assert not left
