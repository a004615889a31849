"""The daemon of this host from a page: quiet, resume, restart and scale; and why not, where that cannot be."""

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import boilerd.web
from boilerd import Client, Inspector
from boilerd.broker.daemons import DaemonInfo
from boilerd.errors import RefusedError
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Web
from boilerd.supervision.asking import ask
from boilerd.web.local_daemon import LocalDaemon, member_of
from boilerd.web.pages import workers
from browser import WHO, Browser, text_of, with_people
from support import RunningDaemon, StartDaemon, wait_until

POOLS = '{"mail": {"queues": {"mail": 1}, "processes": 1}}'


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> RunningDaemon:
    return start_daemon("--concurrency", "2", env={"BOILERD_POOLS": POOLS}).ready()


def beside(path: Path, connection: redis.Redis) -> Browser:
    """A dashboard on the host of the daemon with this state directory."""
    settings = Settings(state_dir=str(path), web=Web())
    return Browser(boilerd.web.app(settings, authorize=None, connection=connection))


@pytest.fixture
def browser(daemon: RunningDaemon, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    monkeypatch.setattr(workers, "FRESH_S", 0.0)
    monkeypatch.setattr(workers, "CONTROL_FRESH_S", 0.0)
    with beside(daemon.directory, connection) as found:
        wait_until(lambda: found.get("/workers.json").json()["local"]["name"], "the daemon tells of itself")
        yield found


def pool(browser: Browser, name: str) -> dict[str, object]:
    return next(each for each in browser.get("/workers.json").json()["local"]["pools"] if each["name"] == name)


def done(connection: redis.Redis) -> list[tuple[str, str, dict[str, str], str, int]]:
    """What the audit has, without the place of the daemon."""
    return [
        (
            each.via,
            each.what,
            {name: value for name, value in each.on.items() if name != "daemon"},
            each.outcome,
            each.count,
        )
        for each in Inspector(connection).audit()
    ]


def test_a_daemon_is_made_quiet_resumed_scaled_and_restarted_and_a_death_is_told(
    browser: Browser, daemon: RunningDaemon, connection: redis.Redis, client: Client
) -> None:
    assert browser.post("/daemon/pools/mail/quiet").status_code == 303
    assert (pool(browser, "mail")["is_quiet"], pool(browser, "default")["is_quiet"]) == (True, False)
    assert "Resume mail" in text_of(browser.get("/workers").text)
    assert browser.post("/daemon/pools/~/resume").status_code == 303
    assert not pool(browser, "mail")["is_quiet"]

    assert browser.post("/daemon/pools/default/scale", {"size": "1"}).status_code == 303
    wait_until(lambda: pool(browser, "default")["workers"] == 1, "the pool has one worker")

    rows = browser.get("/workers.json").json()["workers"]
    row = next(each for each in rows if each["name"].endswith(".0"))
    asked = text_of(browser.get(f"/workers/{row['name'].replace('.', '~2E')}/restart").text)
    answer = browser.post(f"/workers/{row['name'].replace('.', '~2E')}/restart")
    assert f"Replace worker {row['name']} by fresh ones?" in asked
    assert answer.status_code == 303
    wait_until(lambda: daemon.pid_of("worker:0") not in {0, row["pid"]}, "another process serves the row")

    client.enqueue("test:die", task_id="deadly", max_retries=0)
    wait_until(lambda: browser.get("/workers.json").json()["died"]["count"], "the death is told")

    posted = [f"/daemon/pools/{name}" for name in ("other/quiet", "other/scale", "other/restart")]
    unknown = [browser.post(f"{path}.json", {"size": "1"}) for path in (*posted, "/workers/other~2E0/restart")]
    assert [answer.status_code for answer in unknown] == [404] * 4
    assert unknown[0].json()["error"] == "the daemon of this host has no pool 'other'; /workers has all"

    (death,) = browser.get("/workers/dead.json").json()["deaths"]
    page = text_of(browser.get(f"/workers/{row['name'].replace('.', '~2E')}").text)
    listed = daemon.cli("worker", "ls", "--dead")
    assert (death["worker"], death["task_id"], death["exit"]) == (row["name"], "deadly", "signal 9 (SIGKILL)")
    assert "How those ended that died in its place" in page
    assert "signal 9 (SIGKILL)" in page
    assert "deadly" in listed.stdout
    assert done(connection) == [
        ("web", "quiet", {"pool": "mail"}, "done", 1),
        ("web", "resume", {}, "done", 1),
        ("web", "scale", {"pool": "default", "size": "1"}, "done", 1),
        ("web", "restart", {"workers": "worker:0"}, "done", 1),
    ]


def test_what_cannot_be_done_is_refused_with_the_reason_and_noted(connection: redis.Redis, directory: Path) -> None:
    with beside(directory, connection) as browser:
        quiet = browser.post("/daemon/pools/default/quiet.json")
        restart = browser.post("/workers/a~2Erun~2E0/restart.json")
        sizes = [browser.post("/daemon/pools/x/scale.json", {"size": size}).status_code for size in ("0", "many", "")]
        unknown = browser.post("/daemon/pools/x/kill.json").status_code
        asked, page = browser.get("/daemon/pools/x/restart").text, browser.get("/workers").text

    assert (quiet.status_code, restart.status_code) == (409, 404)
    assert "no daemon answers" in quiet.json()["error"]
    assert (sizes, unknown) == ([400] * 3, 404)
    assert "no daemon answers" in text_of(asked)
    assert 'action="/daemon/pools/x/restart"' not in asked
    assert "It cannot be controlled from here" in text_of(page)
    assert [(what, outcome) for _, what, _, outcome, _ in done(connection)] == [("quiet", "refused")]


def test_one_who_may_not_sees_no_buttons_and_no_commands(connection: redis.Redis) -> None:
    with Browser(with_people(connection), **{WHO: "operator"}) as operator:
        page = operator.get("/workers")

    assert page.status_code == 200
    assert "The daemon of this host" not in page.text


def test_what_a_page_showed_of_a_daemon_that_is_gone_is_not_done_to_the_one_in_its_place(
    browser: Browser, daemon: RunningDaemon, connection: redis.Redis
) -> None:
    links = re.findall(r'(?:action|href)="(/daemon/[^"]+)"', browser.get("/workers").text)
    shown = [html.unescape(each) for each in links if "/restart" not in each]
    name = browser.get("/workers.json").json()["local"]["name"]
    old = [each.replace(name, "h.earlier") for each in shown]

    answers = [browser.post(each, {"size": "1"}) for each in old]
    asked = html.unescape(text_of(browser.get("/daemon/pools/~/restart?daemon=h.earlier").text))
    restart = browser.post("/daemon/pools/~/restart.json?daemon=h.earlier")

    assert len(shown) == 6
    assert {(answer.status_code, f"this is the daemon {name}, and not" in answer.text) for answer in answers} == {
        (409, True)
    }
    assert f"the daemon of this host is {name} by now, and not 'h.earlier'" in asked
    assert (restart.status_code, "not 'h.earlier'" in restart.json()["error"]) == (409, True)
    assert {outcome for _, _, _, outcome, _ in done(connection)} == {"refused"}
    assert [(each["workers"], each["is_quiet"]) for each in daemon.info()["pools"]] == [(2, False), (1, False)]
    with pytest.raises(RefusedError, match="'kill': give one of quiet, resume, restart, scale"):
        ask(daemon.socket, "boilerd.command", name, "kill", [])


@pytest.mark.parametrize(("info", "is_own"), [
    ({"name": "h.run"}, True), ({"name": "h.other"}, False), ({"name": ""}, False), ({}, False),
])  # fmt: skip
def test_a_daemon_is_controlled_only_where_it_works_for_the_same_redis(
    info: dict[str, str], is_own: bool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalDaemon(Settings(state_dir=str(directory)))
    monkeypatch.setattr(local, "ask", lambda *_, **__: {"pid": os.getpid(), "state": "ready", "pools": [], **info})
    # Both have its host and process ID, as in two containers.
    told = [DaemonInfo(name, host=os.uname().nodename, pid=os.getpid()) for name in ("", "h.run")]

    found = local.find(told)

    assert bool(found.name) is is_own
    assert bool(found.why) is not is_own
    assert found.owns("h.run.3") is is_own
    assert not found.owns("h.earlier.3")


def test_a_socket_of_another_user_is_refused_politely(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("boilerd.supervision.asking.ask", refuse)

    with pytest.raises(RefusedError, match="is another user's; use the command, as that user"):
        LocalDaemon(Settings(state_dir=str(directory))).ask("quiet")


def test_a_worker_is_named_as_its_daemon_does() -> None:
    assert [member_of("h.run.3", pool) for pool in ("default", "mail")] == ["worker:3", "mail:3"]
