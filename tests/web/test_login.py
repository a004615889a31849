"""Logging in: by a name and a password, for as long as one looks, and no more after one has left."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.connection import connect, text
from boilerd.broker.web_sessions import WebSecret, WebSessions
from boilerd.errors import BrokerUnavailableError
from boilerd.settings.web import PasswordHash, Web, WebUser
from boilerd.web import access, passwords, sessions
from boilerd.web.sessions import Seals
from browser import Browser, web_app
from builders import Clock, enqueue
from support import StartValkey, Valkey, wait_until

PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(passwords, "N", 2)
    passwords.nobodys_hash.cache_clear()
    yield
    passwords.nobodys_hash.cache_clear()


def users(password: str = PASSWORD) -> dict[str, WebUser]:
    return {"anna": WebUser(password=PasswordHash(passwords.hash_password(password)), role="operator")}


def log_in(browser: Browser, password: str = PASSWORD, name: str = "anna", **more: str) -> Any:
    return browser.post("/login", {"name": name, "password": password, **more})


def test_who_is_not_logged_in_comes_to_the_login_and_then_to_where_they_wanted(connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users()), host="any.example") as browser:
        sent = browser.get("/queues?a=1")
        form = browser.get(sent.headers["location"])
        done = log_in(browser, next="/queues?a=1")
        shown = browser.get("/queues")

    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Fqueues%3Fa%3D1")
    assert 'value="/queues?a=1"' in form.text
    assert (done.status_code, done.headers["location"]) == (303, "/queues?a=1")
    assert shown.status_code == 200
    assert "Log out anna" in shown.text


def test_the_cookie_is_for_this_site_alone_and_for_no_script(connection: redis.Redis) -> None:
    app = web_app(connection, users=users(), trusted_proxies=["127.0.0.1"])

    with Browser(app) as browser:
        plain = log_in(browser).headers["set-cookie"]
        secure = browser.post(
            "/login", {"name": "anna", "password": PASSWORD}, x_forwarded_proto="https", sec_fetch_site="same-origin"
        ).headers["set-cookie"]

    assert plain.startswith("boilerd_session=")
    assert "HttpOnly" in plain
    assert "SameSite=strict" in plain
    assert secure.startswith("__Host-boilerd=")
    assert "Secure" in secure


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("bob", PASSWORD), ("", ""), ("anna", "\udcff")])
def test_a_wrong_name_or_password_is_told_alike(name: str, password: str, connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users())) as browser:
        answer = browser.post("/login", {"name": name, "password": password.encode("utf-8", "replace").decode()})

    assert answer.status_code == 403
    assert "name or password is wrong" in answer.text
    assert "set-cookie" not in answer.headers


def test_passwords_are_not_tried_for_ever(connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users())) as browser:
        statuses = [log_in(browser, "wrong").status_code for _ in range(access.TRIES + 1)]
        right = log_in(browser).status_code
        another = log_in(browser, name="bob").status_code

    assert statuses == [403] * access.TRIES + [429]
    assert right == 429
    assert another == 403


def test_names_are_not_tried_for_ever_either(connection: redis.Redis) -> None:
    app = web_app(connection, users=users(), trusted_proxies=["127.0.0.1"])

    with Browser(app, sec_fetch_site="same-origin") as browser:
        statuses = [
            browser.post("/login", {"name": f"name {number}"}, x_forwarded_for=f"2001:db8::{number:x}").status_code
            for number in range(access.TRIES_OF_ADDRESS + 1)
        ]
        elsewhere = browser.post(
            "/login", {"name": "anna", "password": PASSWORD}, x_forwarded_for="2001:db8:1::1"
        ).status_code

    assert statuses == [403] * access.TRIES_OF_ADDRESS + [429]
    assert elsewhere == 303


@pytest.mark.parametrize("name", ["anna", "bob"])
def test_no_password_is_tried_while_others_wait_for_the_loop(
    name: str, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    scrypt = hashlib.scrypt
    known = users()

    def noted(*args: Any, **more: Any) -> bytes:
        threads.add(threading.current_thread())
        return scrypt(*args, **more)

    monkeypatch.setattr(hashlib, "scrypt", noted)

    with Browser(web_app(connection, users=known)) as browser:
        log_in(browser, name=name)
        head = browser.send("HEAD", "/login")

    assert len(threads) == 1
    assert threading.current_thread() not in threads
    assert head.status_code == 200


@pytest.mark.parametrize("wanted", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)"])
def test_the_login_leads_to_no_other_site(wanted: str, connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users())) as browser:
        done = log_in(browser, next=wanted)

    assert done.headers["location"] == "/"


def test_who_logs_out_is_out_everywhere_and_redis_knows_no_session(connection: redis.Redis) -> None:
    app = web_app(connection, users=users())

    with Browser(app) as browser, Browser(app) as other:
        log_in(browser)
        (kept,) = connection.keys("boilerd:web:session:*")
        cookie = browser._client.cookies["boilerd_session"]
        other._client.cookies.set("boilerd_session", cookie)
        seen = other.get("/queues").status_code
        browser.post("/logout")
        after = other.get("/queues").status_code

    assert (seen, after) == (200, 303)
    assert cookie.encode() not in kept
    assert connection.keys("boilerd:web:session:*") == []


def test_polls_are_taken_for_whose_they_were_a_moment_ago_and_all_else_asks(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=clock))
    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        opened = browser.get("/settings").status_code
        connection.delete(*connection.keys("boilerd:web:session:*"))

        polled = browser.get("/settings", boilerd_live="1").status_code
        again = browser.get("/settings").status_code
        acted = browser.post("/queues/default/pause", boilerd_live="1").status_code
        clock.ahead_s += 5
        later = browser.get("/settings", boilerd_live="1").status_code

    assert (opened, polled) == (200, 200)
    assert (again, acted, later) == (303, 401, 401)


def test_who_logs_out_gets_no_more_polls_either(connection: redis.Redis) -> None:
    app = web_app(connection, users=users())

    with Browser(app) as browser, Browser(app) as other:
        log_in(browser)
        other._client.cookies.set("boilerd_session", browser._client.cookies["boilerd_session"])
        polled = [other.get("/settings", boilerd_live="1").status_code for _ in range(2)]

        browser.post("/logout")

        assert other.get("/settings", boilerd_live="1").status_code == 401
        assert polled == [200, 200]


def test_who_can_read_and_write_sessions_in_redis_cannot_make_one(connection: redis.Redis) -> None:
    app = web_app(connection, users=users())

    with Browser(app) as browser, Browser(app) as thief:
        log_in(browser)
        (kept,) = connection.keys("boilerd:web:session:*")
        planted = keys.web_session(hashlib.sha256(b"planted").hexdigest())
        connection.set(planted, connection.get(kept) or b"")
        thief._client.cookies.set("boilerd_session", "planted")
        seen = thief.get("/queues").status_code

    assert seen == 303


def _fill(connection: redis.Redis) -> None:
    connection.config_set("maxmemory", 1)


def _follow_another(connection: redis.Redis) -> None:
    connection.replicaof("127.0.0.1", "1")


@pytest.mark.parametrize("make_sick", [_fill, _follow_another])
def test_people_look_and_log_in_while_redis_takes_nothing(
    make_sick: Callable[[redis.Redis], None], start_valkey: StartValkey
) -> None:
    server = start_valkey()

    with connect(server.url) as connection:
        app = web_app(connection, users=users())
        with Browser(app) as before, Browser(app) as later:
            log_in(before)
            make_sick(connection)
            done = log_in(later)
            seen = [browser.get(path).status_code for browser in (before, later) for path in ("/", "/queues", "/tasks")]
            out = later.post("/logout").status_code
            after = later.get("/queues").status_code

    assert (done.status_code, seen) == (303, [200] * 6)
    assert (out, after) == (303, 303)


def test_a_login_needs_no_redis_and_its_session_is_of_use_when_it_is_back(start_valkey: StartValkey) -> None:
    server = start_valkey()

    with connect(server.url) as connection, Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        server.stop()
        form, wrong, done = browser.get("/login"), log_in(browser, "wrong"), log_in(browser)
        page = browser.get("/tasks/a")
        server.start()
        wait_until(lambda: browser.get("/queues").status_code == 200, "they see the pages again")

    assert (form.status_code, wrong.status_code, done.status_code, page.status_code) == (200, 403, 303, 503)


def test_who_logs_out_has_no_session_also_where_redis_kept_it_and_answered_too_late(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = WebSessions.keep

    def late(place: WebSessions, session: str, owner: str) -> None:
        keep(place, session, owner)
        raise BrokerUnavailableError("Redis did not answer")

    monkeypatch.setattr(WebSessions, "keep", late)
    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        cookie = browser._client.cookies["boilerd_session"]
        before = browser.get("/queues").status_code
        browser.post("/logout")
        browser._client.cookies.set("boilerd_session", cookie)
        after = browser.get("/queues").status_code

    assert (before, after) == (200, 303)


def test_who_logs_in_again_leaves_no_session_behind(connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        first = connection.keys("boilerd:web:session:*")
        log_in(browser)
        second = connection.keys("boilerd:web:session:*")

    assert (len(first), len(second)) == (1, 1)
    assert first != second


def test_a_session_ends_with_its_password_and_its_user(connection: redis.Redis) -> None:
    statuses = []
    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        cookie = browser._client.cookies["boilerd_session"]
    for known in (users("another"), {"bob": users()["anna"]}):
        with Browser(web_app(connection, users=known)) as browser:
            browser._client.cookies.set("boilerd_session", cookie)
            statuses.append(browser.get("/queues").status_code)

    assert statuses == [303, 303]


def test_a_read_only_dashboard_logs_people_in_and_writes_nothing_to_redis(valkey: Valkey) -> None:
    with (
        connect(valkey.url) as connection,
        Browser(web_app(connection, users=users(), read_only=True)) as browser,
    ):
        log_in(browser)
        shown = browser.get("/queues")
        refused = browser.post("/queues/default/pause")
        left = connection.keys("*")

    assert (shown.status_code, refused.status_code) == (200, 403)
    assert left == []


def test_the_hash_of_a_password_is_not_shown() -> None:
    table = Web(users=users())

    assert "scrypt" not in repr(table)
    assert str(table.users["anna"].password) == "********"


def test_the_table_of_users_is_read_and_a_text_that_is_no_hash_refused() -> None:
    hashed = passwords.hash_password(PASSWORD)

    assert PasswordHash.parse(hashed).text == hashed
    assert passwords.fits(PASSWORD, hashed)
    assert not passwords.fits("wrong", hashed)
    assert not passwords.fits(PASSWORD, "scrypt$3$8$1$AAAA$AAAA")
    with pytest.raises(ValueError, match="boilerd web password"):
        PasswordHash.parse(PASSWORD)


def test_a_session_ends_a_week_after_it_began_however_much_it_is_used(
    connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    statuses = []

    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        for days in (0, 6.9, 7.1):
            monkeypatch.setattr(time, "time", lambda at_s=now_s + days * 86400: at_s)
            statuses.append(browser.get("/queues.json").status_code)

    assert statuses == [200, 200, 401]


def test_who_can_write_to_redis_cannot_have_a_session_last_longer(connection: redis.Redis) -> None:
    with Browser(web_app(connection, users=users())) as browser:
        log_in(browser)
        (key,) = connection.keys("boilerd:web:session:*")
        mac, began, name = text(connection.get(key) or b"").split(":")
        statuses = []
        for value in (
            f"{mac}:{int(began) + 1}:{name}",
            f"{mac}:{name}",
            f"{mac}:x:{name}",
            "",
            f"{mac}:{began}:{name}",
        ):
            connection.set(key, value)
            statuses.append(browser.get("/queues.json").status_code)

    assert statuses == [401, 401, 401, 401, 200]


# --- Several processes


def form_of(browser: Browser) -> str:
    """The token of a form that this dashboard has made."""
    return browser.get("/queues/default").text.partition('name="form_token" value="')[2].partition('"')[0]


def test_a_form_of_one_process_is_taken_by_another_with_the_same_settings(
    connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "task")
    with Browser(web_app(connection)) as one, Browser(web_app(connection)) as other:
        sent = other.send("POST", "/queues/default/pause", data={"form_token": form_of(one)})
        told = one.get(sent.headers["location"])

    assert sent.status_code == 303
    assert "queue default is paused" in told.text


def test_a_form_outlives_a_redis_that_came_back_empty(
    connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SEAL_FRESH_S", 0.0)
    with Browser(web_app(connection)) as one, Browser(web_app(connection)) as other:
        one.get("/")
        other.get("/")
        connection.flushall()
        enqueue(client, "task")
        sent = other.send("POST", "/queues/default/pause", data={"form_token": form_of(one)})

    assert sent.status_code == 303


def test_who_reads_redis_cannot_seal_a_form_of_people_who_log_in(connection: redis.Redis) -> None:
    seals = [Seals(WebSecret(connection, 60).get, salt) for salt in (b"the hashes", b"the hashes", b"")]

    for each in seals:
        each.refresh()

    ours, theirs, guessed = (each.seal("form", "anna", "session") for each in seals)
    assert ours == theirs != guessed


@pytest.mark.parametrize("value", [None, b"\xff\xfe", "set"])
def test_a_secret_that_is_none_keeps_no_page_from_being_shown(value: Any, connection: redis.Redis) -> None:
    if value == "set":
        connection.sadd(keys.WEB_SECRET, "x")
    elif value:
        connection.set(keys.WEB_SECRET, value)

    with Browser(web_app(connection)) as browser:
        assert browser.get("/").status_code == 200
