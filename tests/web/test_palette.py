"""The index of names that the palette is filled from."""

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.web.pages import palette
from browser import Browser
from builders import count_in_total, counted, enqueue, tell_cron


def test_it_has_all_names_and_is_not_sent_again_unless_they_change(
    browser: Browser, client: Client, broker: Broker, connection: redis.Redis
) -> None:
    client.enqueue("test:echo", queue="mail.low")
    tell_cron(broker, "nightly")
    count_in_total(connection, "mail.low", "test:echo", counted(1))

    first = browser.get("/palette.json")
    again = browser.get("/palette.json", if_none_match=first.headers["etag"])
    page = browser.get("/palette").text

    assert first.json() == {"queues": ["mail.low"], "types": ["test:echo"], "crons": ["nightly"], "left_out": 0}
    assert again.status_code == 304
    assert all(link in page for link in ('"/queues/mail~2Elow"', '"/types/test:echo"', '"/crons/nightly"'))


def test_it_has_so_many_names_at_most(browser: Browser, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette, "MOST", 2)
    for name in "abc":
        client.enqueue("test:echo", queue=name)

    found = browser.get("/palette.json").json()

    assert (found["queues"], found["left_out"]) == (["a", "b"], 1)
    assert "1 more are not shown" in browser.get("/palette").text


def test_what_cannot_be_read_hides_no_other_names(browser: Browser, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")
    connection.set(keys.METRICS_TOTAL, "another program's")

    assert browser.get("/palette.json").json()["queues"] == ["default"]


def test_each_page_of_the_menu_has_a_key_of_its_own(browser: Browser) -> None:
    listed = browser.get("/settings").text.partition('<nav aria-label="Pages">')[2].partition("</nav>")[0]

    found = [part.partition('"')[0] for part in listed.split('data-key="')[1:]]

    assert len(found) == len({*found}) >= 10
    assert found[:4] == ["o", "q", "t", "f"]
