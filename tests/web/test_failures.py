"""The pages on failure groups: what people say of one, where its tasks are now, and what they have in common."""

import re
import time
from datetime import timedelta
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.tasks.retry import Verdict
from boilerd.web.pages import failures
from browser import Browser, text_of
from builders import complete_next, fail_as, failure_kind

GROUP, OTHER = "a" * 12, "b" * 12


def listed(browser: Browser, query: str = "") -> dict[str, dict[str, Any]]:
    return {row["fingerprint"]: row for row in browser.get(f"/failures.json{query}").json()["failures"]}


def test_a_muted_group_leaves_the_list_which_says_so_and_shows_it_by_a_click(browser: Browser, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(GROUP))
    fail_as(broker, "b", failure_kind(OTHER))

    (button,) = re.findall(rf'formaction="(/failures/{GROUP}/mute)"', browser.get("/failures").text)
    muted = browser.post(button, {"back": "list"})
    html = browser.get("/failures").text
    (link,) = re.findall(r'href="(/failures\?[^"]*muted=show[^"]*)">1 muted, show', html)

    assert muted.headers["location"].startswith("/failures?told=")
    assert [*listed(browser)] == [OTHER]
    assert GROUP in browser.get(link.replace("&amp;", "&")).text
    assert {*listed(browser, "?muted=show")} == {GROUP, OTHER}
    assert "Unmute" in browser.get(f"/failures/{GROUP}").text
    browser.post(f"/failures/{GROUP}/unmute")
    assert {*listed(browser)} == {GROUP, OTHER}


def test_what_is_no_count_of_a_group_breaks_no_page(browser: Browser, broker: Broker, connection: redis.Redis) -> None:
    fail_as(broker, "a", failure_kind(GROUP))
    hour = int(time.time()) // 3600

    connection.hset(keys.failure(GROUP), mapping={f"h{hour - 1}": -5, f"h{hour - 2}": "9" * 400})

    assert browser.get("/failures").status_code == 200
    assert sum(listed(browser)[GROUP]["hours"]) == 1


def test_an_acknowledged_group_that_fails_again_came_back_in_which_release(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP, release="1.0"))
    browser.post(f"/failures/{GROUP}/acknowledge")
    known = browser.get(f"/failures/{GROUP}").text
    fail_as(broker, "b", failure_kind(GROUP, release="1.1"))

    shown = text_of(browser.get("/failures?change=came+back").text)
    page = text_of(browser.get(f"/failures/{GROUP}").text)

    assert "it has not failed since" in known
    assert "came back in release 1.1" in shown
    assert "it failed 1 times since" in page
    assert "Acknowledge again" in page
    (entry,) = Inspector(connection).audit()
    assert (entry.via, entry.what, entry.on) == ("web", "acknowledge", {"fingerprint": GROUP})


def test_a_note_is_kept_with_who_wrote_it_and_removed_by_an_empty_one(browser: Browser, broker: Broker) -> None:
    fail_as(broker, "a", failure_kind(GROUP))

    browser.post(f"/failures/{GROUP}/note", {"note": "<b>ask</b> anna"})
    row = listed(browser)[GROUP]
    html = browser.get("/failures").text
    browser.post(f"/failures/{GROUP}/note", {"note": " "})

    assert row["note"] == "<b>ask</b> anna"
    assert row["noted_by"]
    assert "&lt;b&gt;ask&lt;/b&gt; anna" in html
    assert listed(browser)[GROUP]["noted_at"] is None
    assert browser.post(f"/failures/{GROUP}/note", {"note": "x" * 1001}).status_code == 400


def test_marks_are_for_those_who_look_after_failures_and_of_groups_that_are_there(
    viewer: Browser, browser: Browser, broker: Broker
) -> None:
    fail_as(broker, "a", failure_kind(GROUP))

    assert viewer.post(f"/failures/{GROUP}/mute").status_code == 403
    assert "/mute" not in viewer.get(f"/failures/{GROUP}").text
    assert browser.post(f"/failures/{OTHER}/mute.json").status_code == 404
    assert browser.get(f"/failures/{GROUP}/mute").status_code == 405


def test_the_list_names_the_groups_that_it_leaves_out(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP))
    fail_as(broker, "b", failure_kind(OTHER))
    connection.delete(keys.failure(GROUP))
    connection.set(keys.failure(GROUP), "x")

    found, text = browser.get("/failures.json?size=2").json(), text_of(browser.get("/failures?size=2").text)

    assert [row["fingerprint"] for row in found["failures"]] == [OTHER]
    assert (found["skipped"], found["has_more"]) == (
        ["key boilerd:failure:aaaaaaaaaaaa is no hash, rename it or delete it"], True,
    )  # fmt: skip
    assert "Left out: key boilerd:failure:aaaaaaaaaaaa is no hash" in text


def test_the_list_says_where_the_tasks_of_each_group_are_now(
    browser: Browser, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "FRESH_S", 0.0)
    fail_as(broker, "a", failure_kind(GROUP))
    fail_as(broker, "b", failure_kind(GROUP), queue="low")
    fail_as(broker, "c", failure_kind(GROUP), Verdict.RETRY)
    fail_as(broker, "d", failure_kind(OTHER))

    found = browser.get("/failures.json").json()

    rows = {row["fingerprint"]: (row["archived"], row["retry"]) for row in found["failures"]}
    assert rows == {GROUP: (2, 1), OTHER: (1, 0)}
    assert (found["is_exact"], found["looked_at_tasks"]) == (True, 4)
    (link,) = {
        each.replace("&amp;", "&")
        for each in re.findall(r'href="(/tasks\?state=archived[^"]*)"', browser.get(f"/failures/{GROUP}").text)
    }
    assert {row["id"] for row in browser.get(link.replace("/tasks", "/tasks.json")).json()["tasks"]} == {"a", "b"}
    monkeypatch.setattr(Inspector.failure_states, "__defaults__", (2, 20.0))
    assert "≥ " in text_of(browser.get("/failures").text)


def test_a_group_that_rises_tells_how_many_times_as_often_it_fails(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP))
    now_s = int(broker.now())
    hour = now_s // 3600
    hours: Any = {f"h{hour - back}": 2 for back in range(2, 30)} | {f"h{hour + near}": 24 for near in (-1, 0, 1)}
    hours["first_seen"] = now_s - 10 * 86400
    connection.hset(keys.failure(GROUP), mapping=hours)

    row = listed(browser)[GROUP]

    assert row["state"] == "rising"
    assert row["rise"] >= 12
    assert f"rising \u00d7{round(row['rise'])}" in text_of(browser.get("/failures").text)


def test_a_release_is_marked_in_the_charts_and_leads_to_what_failed_first_in_it(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    fail_as(broker, "a", failure_kind(GROUP, release="1.0"))
    connection.hset(keys.failure(GROUP), "first_seen", broker.now() - timedelta(hours=5).total_seconds())
    fail_as(broker, "b", failure_kind(OTHER, release="1.1"))
    fail_as(broker, "c", failure_kind(GROUP, release="1.1"))

    html = browser.get("/failures").text
    (link,) = re.findall(r'href="(/failures\?[^"]*)">first in the last release, 1.1', html)
    page = browser.get(f"/failures/{GROUP}")

    assert html.count('class="mark-line"') == 2
    assert [*listed(browser, link.replace("&amp;", "&").partition("/failures")[2])] == [OTHER]
    assert page.text.count('class="mark-line"') == 2
    found = browser.get(f"/failures/{GROUP}.json").json()
    assert [mark["release"] for mark in found["hour_marks"]] == ["1.1", "1.0"]
    assert found["releases"] == [{"release": "1.0", "count": 1}, {"release": "1.1", "count": 1}]


def test_a_group_tells_what_its_last_tasks_have_in_common_and_how_many_succeeded_later(
    browser: Browser, broker: Broker, client: Client, connection: redis.Redis
) -> None:
    for task_id in ("kept", "gone", "retry", "archived", "deleted"):
        verdict = Verdict.ARCHIVE if task_id == "archived" else Verdict.RETRY
        fail_as(broker, task_id, failure_kind(GROUP), verdict, retention=3600 if task_id == "kept" else 0)
    connection.hset(keys.job("archived"), "last_error", "OwnError: card 2")
    inspector = Inspector(connection)
    for task_id in ("kept", "gone"):
        inspector.run(task_id)
        complete_next(broker)
    inspector.delete("deleted")

    found = browser.get(f"/failures/{GROUP}.json").json()

    assert inspector.task("kept").state is TaskState.COMPLETED
    sample = found["sample"]
    assert (sample["noted"], sample["succeeded"]) == (5, 2)
    assert {row["value"]: row["count"] for row in sample["became"]} == {
        "completed": 2, "retry": 1, "archived": 1, "gone": 1
    }  # fmt: skip
    assert {row["message"]: row["count"] for row in sample["variants"]}["OwnError: card 2"] == 1
    assert [row["value"] for row in sample["hosts"]] == ["host"]
    assert "2 of its last 5 tasks completed at a later attempt" in text_of(browser.get(f"/failures/{GROUP}").text)
