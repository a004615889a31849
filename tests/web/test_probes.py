"""What monitoring finds at the dashboard's own address, and who may ask."""

from typing import Any

import pytest
import redis

import boilerd.web
from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Web, WebToken
from boilerd.web import passwords
from browser import WHO, Browser, with_people
from builders import enqueue
from support import StartValkey

PROBES = ("/healthz", "/readyz", "/metrics")
TOKEN, HASHED = passwords.new_token()


def probed(connection: redis.Redis, *, allow: list[str] | None = None, **web: Any) -> Any:
    """A dashboard with people, or with a token, and these clients of monitoring."""
    table = Web(**{"tokens": {"prometheus": WebToken(sha256=HASHED)}, **web})
    return boilerd.web.app(Settings(web=table, metrics_allow=allow or []), authorize=None, connection=connection)


def test_metrics_tell_of_the_queues_in_the_form_that_is_asked_for(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "a", "b")

    with Browser(probed(connection), authorization=f"Bearer {TOKEN}") as browser:
        plain = browser.get("/metrics")
        other = browser.get("/metrics", accept="application/openmetrics-text; version=1.0.0")

    assert 'boilerd_tasks{queue="default",state="pending"} 2.0' in plain.text
    assert "boilerd_broker_up 1.0" in plain.text
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert other.text.endswith("# EOF\n")


def test_it_is_ready_while_nothing_is_at_fault(connection: redis.Redis) -> None:
    with Browser(probed(connection), authorization=f"Bearer {TOKEN}") as browser:
        statuses = {path: browser.get(path).status_code for path in PROBES}

    assert statuses == dict.fromkeys(PROBES, 200)


def test_without_redis_it_lives_and_is_not_ready(start_valkey: StartValkey) -> None:
    server = start_valkey()
    with connect(server.url) as connection:
        server.stop()
        with Browser(probed(connection), authorization=f"Bearer {TOKEN}") as browser:
            answers = {path: browser.get(path) for path in PROBES}

    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/healthz": 200, "/readyz": 503, "/metrics": 200
    }  # fmt: skip
    assert "boilerd_broker_up 0.0" in answers["/metrics"].text


def test_whether_it_lives_is_told_without_a_word_to_redis_which_may_hang(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(connection, "execute_command", lambda *words, **_: asked.append(words))

    with Browser(probed(connection), authorization=f"Bearer {TOKEN}") as browser:
        answer = browser.get("/healthz")

    assert (answer.status_code, asked) == (200, [])


@pytest.mark.parametrize(
    ("address", "allow", "status"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], 200), ("::ffff:10.1.2.3", ["10.0.0.0/8"], 200), ("10.1.2.3", ["10.1.2.4"], 401),
        ("10.1.2.3", [], 401), ("no address", ["10.0.0.0/8"], 401),
    ],
)  # fmt: skip
def test_who_says_nothing_is_let_in_by_its_address_alone_and_only_there(
    address: str, allow: list[str], status: int, connection: redis.Redis
) -> None:
    with Browser(probed(connection, allow=allow), address=address) as browser:
        statuses = {path: browser.get(path).status_code for path in PROBES}
        page = browser.get("/queues.json")

    assert statuses == dict.fromkeys(PROBES, status)
    assert page.status_code == 401


def test_nobody_is_let_in_by_an_address_that_they_made_up(connection: redis.Redis) -> None:
    with Browser(probed(connection, allow=["10.0.0.0/8"]), address="192.0.2.1") as browser:
        assert browser.get("/metrics", x_forwarded_for="10.1.2.3").status_code == 401
    proxied = probed(connection, allow=["10.0.0.0/8"], trusted_proxies=["10.0.0.1"])
    with Browser(proxied, address="10.0.0.1") as browser:
        assert browser.get("/metrics", x_forwarded_for="192.0.2.1").status_code == 401


def test_who_has_queues_of_their_own_gets_no_metrics_of_all(connection: redis.Redis) -> None:
    with Browser(with_people(connection), **{WHO: "viewer"}) as browser:
        assert browser.get("/metrics").status_code == 200
    tokens = {"desk": WebToken(sha256=HASHED, queues=["low"])}
    with Browser(probed(connection, tokens=tokens), authorization=f"Bearer {TOKEN}") as browser:
        assert browser.get("/metrics").status_code == 403
