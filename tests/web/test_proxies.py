"""What proxies tell counts only from those that are trusted, and not what came through them from a browser."""

from typing import Any

import pytest
import redis
from starlette.requests import Request

from boilerd.errors import ConfigError
from boilerd.web.proxies import Proxies
from browser import ROLES, WHO, Browser, web_app, with_people


def request(*headers: tuple[str, str], client: Any = ("10.0.0.1", 1), server: Any = ("localhost", 80)) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "headers": raw, "client": client, "server": server, "scheme": "http"})


PROXIES = Proxies(["10.0.0.0/8", "unix"])


def test_a_line_that_the_proxy_adds_counts_and_not_the_one_that_the_browser_sent() -> None:
    sent = request(
        ("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 10.0.0.9"),
        ("x-forwarded-proto", "http"), ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"), ("x-forwarded-host", "jobs.example"),
    )  # fmt: skip

    assert (PROXIES.address(sent), PROXIES.host(sent), PROXIES.is_secure(sent)) == ("2.2.2.2", "jobs.example", True)


def test_a_proxy_is_known_by_its_ipv4_address_on_a_socket_for_both() -> None:
    assert PROXIES.trusts(request(client=("::ffff:10.0.0.1", 1)))
    assert not PROXIES.trusts(request(client=("::ffff:11.0.0.1", 1)))


def test_a_peer_that_is_not_known_is_no_peer_of_the_unix_socket() -> None:
    assert PROXIES.trusts(request(client=None, server=("/run/web.sock", None)))
    assert PROXIES.trusts(request(client=None, server=None))
    assert not PROXIES.trusts(request(client=None))


def test_a_proxy_that_leaves_what_the_browser_said_who_it_is_names_nobody(connection: redis.Redis) -> None:
    with Browser(with_people(connection)) as browser:
        two = browser.send("GET", "/queues", headers=[(WHO, "admin"), (WHO, "viewer")])
        one = browser.get("/queues", **{WHO: "viewer"})

    assert (two.status_code, one.status_code) == (401, 200)


def test_the_password_that_a_proxy_asked_for_is_no_bad_token(connection: redis.Redis) -> None:
    with Browser(with_people(connection)) as browser:
        answer = browser.get("/queues", **{WHO: "viewer", "authorization": "Basic YTpi"})

    assert answer.status_code == 200


def test_a_header_that_nobody_may_send_lets_nobody_in(connection: redis.Redis) -> None:
    with pytest.raises(ConfigError, match="name the proxy in trusted_proxies"):
        web_app(connection, trusted_header=WHO, roles=ROLES)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "1.2.3.4"}, {"x_real_ip": "1.2.3.4"}, {"forwarded": "for=1.2.3.4"}, {"via": "1.1 proxy"},
        {"x_forwarded_proto": "https"}, {"x_forwarded_host": "localhost"},
        {"sec_fetch_site": "same-origin", "origin": "https://jobs.example"},
        {"sec_fetch_site": "same-origin", "referer": "https://jobs.example/queues"},
    ],
    ids=str,
)  # fmt: skip
def test_who_comes_by_an_unknown_proxy_is_not_on_this_host(headers: dict[str, str], connection: redis.Redis) -> None:
    with Browser(web_app(connection)) as browser:
        refused = browser.get("/queues", **headers)
    with Browser(web_app(connection, trusted_proxies=["127.0.0.1"])) as browser:
        shown = browser.get("/queues", **headers)

    assert (refused.status_code, shown.status_code) == (403, 200)
    assert "add users to [web]" in refused.text


def test_nginx_is_a_proxy_also_where_it_adds_nothing_to_what_it_passes_on(connection: redis.Redis) -> None:
    app = web_app(connection)

    async def as_nginx(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "http_version": "1.0"}, receive, send)

    with Browser(as_nginx) as browser:
        refused = browser.get("/queues"), browser.post("/all-queues/pause"), browser.get("/metrics")

    assert [answer.status_code for answer in refused] == [403] * 3


def test_our_own_page_is_no_proxy_whatever_port_leads_to_it(connection: redis.Redis) -> None:
    own = {"sec_fetch_site": "same-origin", "origin": "http://localhost:9000", "referer": "http://localhost:9000/x"}

    with Browser(web_app(connection), host="localhost:9000") as browser:
        assert browser.get("/queues", **own).status_code == 200


def test_our_own_page_is_no_proxy_where_an_application_has_it_tell_nothing_of_itself(connection: redis.Redis) -> None:
    with Browser(web_app(connection)) as browser:
        sent = browser.send("POST", "/all-queues/pause", headers={"sec-fetch-site": "same-origin", "origin": "null"})

    assert sent.status_code == 303
