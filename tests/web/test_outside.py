"""What the settings say of the world around: links to other tools, and the name of the environment."""

import msgspec
import pytest
import redis

from boilerd import Client
from boilerd.settings.web import Web, read_web
from boilerd.web.links import outside
from browser import Browser, web_app
from builders import enqueue

LINKS = {"Logs": "https://logs.example/?q={id}&t={type}", "Board": "http://board.example/{queue}"}


def test_pages_lead_to_the_tools_that_know_of_what_they_show(connection: redis.Redis, client: Client) -> None:
    client.enqueue("mail:send", task_id="a-1")

    with Browser(web_app(connection, links=LINKS)) as browser:
        task = browser.get("/tasks/a-1").text
        queue, of_type = browser.get("/queues/default").text, browser.get("/types/mail:send").text

    assert 'href="https://logs.example/?q=a-1&amp;t=mail%3Asend" rel="noreferrer">Logs</a>' in task
    assert 'href="http://board.example/default"' in task
    assert 'href="http://board.example/default"' in queue
    assert "logs.example" not in queue + of_type


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "//logs.example", "https://x/{user}", "https://x/{", "", "https://{id}",
        "https://logs.example{queue}/", "https://logs{type}@x/",
    ],
)  # fmt: skip
def test_a_link_that_is_no_address_of_the_web_is_refused(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        read_web({"links": {"Logs": address}})

    assert read_web({"links": LINKS}).links == LINKS
    assert Web().links == {}


def test_head_and_title_say_which_environment_it_is(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a")

    with Browser(web_app(connection, environment="Production <1>")) as browser:
        page = browser.get("/queues").text

    assert "<title>Queues · boilerd Production &lt;1&gt;</title>" in page
    assert '<span class="mark bad">Production &lt;1&gt;</span>' in page


def test_what_is_shown_stays_a_part_of_the_address() -> None:
    known = {"Search": "https://logs.example/{queue}?q={id}&{id}", "Types": "https://logs.example/{type}"}

    assert outside(known, queue="../a?", id="\udcff&x={id}") == [
        ("Search", "https://logs.example/..%2Fa%3F?q=%FF%26x%3D%7Bid%7D&%FF%26x%3D%7Bid%7D")
    ]
