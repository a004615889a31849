"""Links lead to what is there, and one that leads to its own page keeps what that was asked for."""

import html
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker.operation_record import Order
from boilerd.web.described import QUERIES
from boilerd.web.links import Links
from boilerd.web.page import PAGES
from browser import Browser, text_of
from builders import enqueue
from dashboard_world import PATHS, address, fill

#: What says where in a list one is, so that no other list has to keep it.
PLACES = {"page", "place", "last", "around", "looks", "after"}
#: What lists can be asked for at once; each page is asked for those that it knows.
SHOWS = {"size": "2", "way": "down", "muted": "show", "since": "1h", "search": "1", "renew": "1"}
CHOOSES = {
    "queue": "default", "type": "image:resize", "change": "new", "release": "2026.11.28", "host": "a",
    "pool": "default", "state": "archived", "q": "-x", "error": "card", "worker": "host", "key": "k", "until": "1m",
    "who": "root", "what": "pause", "on": "mail.low", "only": "risen", "with": "charge-1", "more": "2", "template": "1",
}  # fmt: skip
SORTS = {"/tasks": "type", "/types": "failed", "/failures": "count", "/workers": "memory", "/crons": "problem"}
#: Words of links that leave out something.
LEAVES_OUT = {
    "Leave it out", "As it stands", "all", "All types", "all workers", "Renew no more",
    "Look in all queues and all states",
}  # fmt: skip


def queries_of(path: str) -> Iterator[Mapping[str, str]]:
    """How a page can be asked: as it is, in another order, and for fewer rows."""
    known = {*QUERIES.get(path, {}), "renew"}
    shows = {name: value for name, value in {**SHOWS, "sort": SORTS.get(path, "worker")}.items() if name in known}
    yield {}
    yield shows
    yield shows | {name: value for name, value in CHOOSES.items() if name in known}


def links_of(page: str) -> Iterator[tuple[str, str]]:
    """Address and words of each link, and of each form that asks for something as it stands."""
    for link, words in re.findall(r'<a[^>]* href="(/[^"]*)"[^>]*>(.*?)</a>', page, re.DOTALL):
        yield html.unescape(link), text_of(words)
    for target, fields in re.findall(
        r'<form(?![^>]*method="post")[^>]* action="(/[^"?]*)"(.*?)</form>', page, re.DOTALL
    ):
        named = re.findall(r'<(?:input|select)[^>]* name="(\w+)"(?:[^>]* value="([^"]*)")?', fields)
        yield f"{target}?{urlencode([(name, html.unescape(value)) for name, value in named])}", "a form"


@pytest.fixture
def examples(client: Client, connection: redis.Redis) -> dict[str, str]:
    return fill(client, connection)


@pytest.mark.parametrize("path", [page.path for page in PAGES])
def test_a_link_or_form_that_leads_to_its_own_page_loses_nothing_that_was_asked_for_and_says_nothing_twice(
    path: str, browser: Browser, examples: dict[str, str]
) -> None:
    for query in queries_of(path):
        shown = browser.get(f"{address(path, examples)}?{urlencode(query)}")
        assert shown.status_code == 200

        found = [
            (urlsplit(link), words)
            for link, words in links_of(shown.text.partition("<main")[2].partition("</main>")[0])
        ]
        for link, words in [each for each in found if each[0].path == urlsplit(str(shown.url)).path]:
            given = parse_qs(link.query, keep_blank_values=True)

            assert [name for name, values in given.items() if len(values) > 1] == [], words
            assert words in LEAVES_OUT or {*query} <= {*given}, f"{words} in {query}"
            assert {*query} & {"size", "renew"} <= {*given}, f"{words} in {query}"


def test_what_is_alike_but_for_its_type_has_an_address_of_its_own() -> None:
    links = [Links("/below").shown("tasks", last=value) for value in (True, 1, 1.0, "1")]

    assert links == [f"/below/tasks?last={text}" for text in ("True", "1", "1.0", "1")]


def test_who_has_no_scripts_lets_a_page_renew_itself_and_no_more_where_in_a_list_they_are(
    browser: Browser, client: Client
) -> None:
    client.enqueue_many([("test:echo", None)] * 3)
    paused = browser.get(browser.post("/queues/default/pause").headers["location"])
    page = browser.get("/tasks?queue=default&state=pending&size=1&last=1")

    renewing = browser.get(renewal_of(page.text, "Renew by itself"))

    assert '<meta http-equiv="refresh"' in renewing.text
    assert renewal_of(page.text, "Renew by itself") == "/tasks?queue=default&state=pending&size=1&renew=1&last=1"
    assert renewal_of(renewing.text, "Renew no more") == "/tasks?queue=default&state=pending&size=1&last=1"
    assert renewal_of(paused.text, "Renew by itself") == "/queues/default?renew=1"


def renewal_of(page: str, words: str) -> str:
    """Where the link in the head of a page leads."""
    (link,) = [link for link, said in links_of(page) if said == words]
    return link


def test_a_page_that_asks_before_an_action_does_not_renew_itself(browser: Browser, examples: dict[str, str]) -> None:
    assert "Renew by itself" not in browser.get("/bulk/run?id=charge-0&id=order-20417").text


def test_every_link_of_every_page_leads_to_something_that_is_known(browser: Browser, examples: dict[str, str]) -> None:
    pages = {
        f"{address(page.path, examples)}?{urlencode(query)}" for page in PAGES for query in queries_of(page.path)
    } | {address(path, examples) for path in PATHS}

    led_to = {link: page for page in pages for link, _ in links_of(browser.get(page).text)}
    refused = {link: page for link, page in led_to.items() if browser.get(link).status_code in {400, 500}}

    assert len(led_to) > 100
    assert refused == {}


def test_a_button_of_a_list_leads_back_to_the_list_as_it_was_asked_for(
    browser: Browser, examples: dict[str, str]
) -> None:
    page = browser.get("/failures?type=order%3Acharge&sort=count&size=30").text
    (back,) = re.findall(r'<input type="hidden" name="back" value="([^"]*)">', page)

    marked = browser.post(f"/failures/{examples['fingerprint']}/mute", {"back": html.unescape(back)})

    given = parse_qs(urlsplit(marked.headers["location"]).query)
    assert {**given, "told": [], "seal": []} == {
        "type": ["order:charge"], "sort": ["count"], "size": ["30"], "told": [], "seal": []
    }  # fmt: skip
    assert browser.get(marked.headers["location"]).status_code == 200


def test_a_list_of_operations_leads_on_where_there_may_be_more(
    browser: Browser, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "a")
    for _ in range(2):
        Inspector(connection).operations.begin(Order("archive", "default", TaskState.PENDING))

    links = [dict(links_of(browser.get(f"/operations?size={size}").text)) for size in (1, 2, 3)]

    assert ["/operations?size=1000" in each for each in links] == [True, True, False]
