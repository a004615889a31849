"""The pages on types show what metrics have counted, beside the time before, and where a release began."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.operations import Operations
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.metric_record import LATER_BUCKETS, OUTCOME_KEYS, encode, pack_pair
from boilerd.web.links import segment
from boilerd.web.pages import crons, types, workers
from boilerd.web.pages.types import SORTS
from boilerd.web.type_facts import TIMEOUT
from browser import Browser, text_of
from builders import count_in_minute, counted, fail_as, failure_kind, tell_types
from support import Valkey, wait_until


@pytest.fixture
def minute(connection: redis.Redis) -> int:
    """One that is over."""
    return int(connection.time()[0]) // 60 - 5


@pytest.fixture(autouse=True)
def _patient_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine cuts no count short."""
    defaults = Operations.preview.__kwdefaults__ or {}
    monkeypatch.setattr(Operations.preview, "__kwdefaults__", {**defaults, "within_s": 20.0})


def names(browser: Browser, query: str) -> list[str]:
    return [row["type"] for row in browser.get(f"/types.json?{query}").json()["types"]]


def test_each_type_has_a_row_the_one_that_takes_most_time_first(
    browser: Browser, connection: redis.Redis, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "email:send", counted(30))
    count_in_minute(connection, minute, "low", "email:send", counted(30))
    count_in_minute(connection, minute, "low", "report", counted(15, archived=5, run_s=10))

    found = browser.get("/types.json").json()["types"]
    html = browser.get("/types").text

    assert [row["type"] for row in found] == ["report", "email:send"]
    assert found[0]["failed_share"] == 0.25
    assert found[1]["queues"] == ["default", "low"]
    assert found[0]["time_share"] > 0.9
    assert sum(found[1]["ended_by_period"]) == 60
    assert 'href="/types/email:send?since=1h"' in html
    assert "25 %" in text_of(html)


def test_a_type_that_is_called_types_is_compared_with_its_own_time_before(
    browser: Browser, connection: redis.Redis, minute: int
) -> None:
    count_in_minute(connection, minute - 60, "default", "types", counted(30, archived=10))
    count_in_minute(connection, minute, "default", "types", counted(30))

    (row,) = browser.get("/types.json").json()["types"]
    found = browser.get("/types/types.json").json()["before"]

    assert row["failed_share_before"] == found["failed_share"] == 0.25
    assert browser.get("/types/types").status_code == 200


@pytest.mark.parametrize("column", SORTS)
def test_the_types_are_sorted_by_the_column_that_is_clicked(
    column: str, browser: Browser, connection: redis.Redis, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "b", counted(4, run_s=0.5))
    count_in_minute(connection, minute, "default", "a", counted(1, archived=5, run_s=0.01))
    html = browser.get("/types").text
    (link,) = re.findall(rf'<th[^>]*><a href="(/types\?sort={column}&amp;way=(?:up|down))"', html)
    way = link.rpartition("=")[2]

    clicked = browser.get(link.replace("&amp;", "&"))

    assert clicked.text.count("aria-sort=") == 1
    assert f'aria-sort="{"ascending" if way == "up" else "descending"}"' in clicked.text
    assert set(names(browser, f"sort={column}&way=down")) == {"a", "b"}
    if column in {"type", "failed", "run_p50", "time"}:
        assert names(browser, f"sort={column}&way=down") == names(browser, f"sort={column}&way=up")[::-1]


def test_a_type_that_fails_more_than_before_is_found_by_one_click(
    browser: Browser, connection: redis.Redis, minute: int
) -> None:
    for name, fails_before, fails_now in (("steady", 5, 5), ("broken", 0, 9), ("mended", 9, 0)):
        count_in_minute(connection, minute - 60, "default", name, counted(10, archived=fails_before))
        count_in_minute(connection, minute, "default", name, counted(10, archived=fails_now))

    found = browser.get("/types.json?sort=rise").json()["types"]

    assert [row["type"] for row in found] == ["broken", "steady", "mended"]
    assert found[0]["failed_share_before"] == 0
    assert found[2]["failed_rise"] < 0


def test_the_time_since_the_last_release_is_compared_with_the_time_before_it(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    began_s = (minute - 20) * 60 + 1
    fail_as(broker, "old", failure_kind("a" * 12, release="1.0"))
    fail_as(broker, "new", failure_kind("b" * 12, release="1.1"))
    connection.hset("boilerd:failure:" + "a" * 12, "first_seen", began_s - 7200)
    connection.hset("boilerd:failure:" + "b" * 12, "first_seen", began_s)
    count_in_minute(connection, minute - 30, "default", "sound", counted(10))
    count_in_minute(connection, minute - 30, "default", "broken", counted(10))
    count_in_minute(connection, minute, "default", "sound", counted(10))
    count_in_minute(connection, minute, "default", "broken", counted(1, archived=9))

    found = browser.get("/types.json?since=release&sort=rise").json()

    assert found["release"] == "1.1"
    assert [each["release"] for each in found["releases"]] == ["1.1", "1.0"]
    assert [(row["type"], row["failed_rise"]) for row in found["types"]] == [("broken", 0.9), ("sound", 0.0)]
    assert "since the last release" in browser.get("/types").text


def test_only_types_of_which_more_fails_than_before_are_shown_where_that_is_asked_for(
    browser: Browser, connection: redis.Redis, minute: int
) -> None:
    for name, fails_before, fails_now in (("steady", 5, 5), ("broken", 0, 9), ("mended", 9, 0), ("sound", 0, 0)):
        count_in_minute(connection, minute - 60, "default", name, counted(10, archived=fails_before))
        count_in_minute(connection, minute, "default", name, counted(10, archived=fails_now))
    count_in_minute(connection, minute, "default", "new", counted(10))

    found = names(browser, "only=risen&sort=rise")
    shown = text_of(browser.get("/types?only=risen").text)
    of_another = text_of(browser.get("/types?only=risen&queue=low").text)

    assert found == ["broken"]
    assert "Types of which more fails than before: 1 of 5 types" in shown
    assert "Nothing was counted in this time." in of_another


def test_a_foreign_key_hides_nothing_else_of_the_types(browser: Browser, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    connection.set(keys.FAILURES, "foreign")

    found, one = browser.get("/types.json"), browser.get("/types/a.json")
    html = browser.get("/types").text

    assert [row["type"] for row in found.json()["types"]] == ["a"]
    assert one.json()["total"]["ended"] == 3
    assert html.count("key boilerd:failures is no sorted set, rename it or delete it") == 1
    assert [keys.FAILURES in page.json()["skipped"][0] for page in (found, one)] == [True] * 2


@pytest.mark.parametrize("since", types.SINCE)
def test_one_type_is_shown_over_every_time(since: str, browser: Browser, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3, archived=1))
    count_in_minute(connection, minute, "default", "b", counted(7))

    found = browser.get(f"/types/a.json?since={since}").json()
    html = browser.get(f"/types/a?since={since}").text

    assert sum(period["ended"] for period in found["periods"]) == found["total"]["ended"] == 4
    assert found["total"]["failed_share"] == 0.25
    assert len(found["periods"]) <= types.MOST_COLUMNS + 1
    assert (found["before"] is None) == (since == "90d")
    assert html.count("<svg") == html.count("<title>") - 1 == 4
    assert len(html) < 150_000


def test_a_type_tells_how_many_attempts_its_tasks_took(browser: Browser, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute - 60, "default", "a", counted(10) | {LATER_BUCKETS + 2: 1})
    count_in_minute(
        connection, minute, "default", "a", counted(95, archived=5) | {LATER_BUCKETS: 3, LATER_BUCKETS + 4: 2}
    )
    count_in_minute(connection, minute - 600, "default", "b", counted(1))

    found = browser.get("/types/a.json").json()
    shown = text_of(browser.get("/types/a").text)
    of_nothing = text_of(browser.get("/types/b").text)

    assert [(row["first"], row["last"], row["tasks"]) for row in found["total"]["attempts_taken"]] == [
        (1, 1, 95), (2, 2, 3), (3, 3, 0), (4, 5, 0), (6, 10, 0), (11, None, 2),
    ]  # fmt: skip
    assert (found["total"]["attempts_taken"][1]["share"], found["before"]["attempts_taken"][0]["share"]) == (0.03, 0.9)
    assert "until they were done with: 95 % took one" in shown
    assert re.search(r"4 to 5 attempts\s+0\s+0 %\s+10 %", shown)
    assert re.search(r"11 or more attempts\s+2\s+2 %\s+0 %", shown)
    assert "6 to 10" not in shown  # no task took so many, now or before
    assert "How many attempts" not in of_nothing


def test_the_heat_map_has_each_run_in_its_bucket(browser: Browser, connection: redis.Redis, minute: int) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3, run_s=0.2))
    count_in_minute(connection, minute + 1, "default", "a", counted(2, run_s=20.0))

    found = browser.get("/types/a.json").json()["run_heat"]

    assert (found["edges_s"][0], found["edges_s"][-1]) == (0.1, 30.0)
    columns = [column for column in found["columns"] if any(column)]
    assert [[column[0], column[-1]] for column in columns] == [[3, 0], [0, 2]]


def test_the_time_before_is_never_counted_in_this_one(browser: Browser, connection: redis.Redis, minute: int) -> None:
    # A number that each minute alone has tells which ones were added.
    each = {minute - back: 2**place for place, back in enumerate(range(0, 110, 5))}
    for number, count in each.items():
        count_in_minute(connection, number, "default", "a", counted(count))

    found = browser.get("/types/a.json?since=1h").json()

    start = int(datetime.fromisoformat(found["periods"][0]["start"]).timestamp()) // 60
    assert found["total"]["ended"] == sum(count for number, count in each.items() if number >= start)
    assert found["before"]["ended"] == sum(count for number, count in each.items() if start - 60 <= number < start)


@pytest.mark.parametrize(("word", "seconds"), types.SINCE.items())
def test_the_time_before_ends_where_this_begins_and_is_as_long(word: str, seconds: int) -> None:
    start = datetime(2026, 11, 29, 13, 7, tzinfo=UTC)

    found = types.Window(word, seconds).before(start)

    if word == "90d":
        assert found is None
        return
    assert found is not None
    since, until, step_s = found
    assert (until - since).total_seconds() == seconds
    assert 0 <= (start - until).total_seconds() < step_s
    assert until.timestamp() % step_s == since.timestamp() % step_s == 0


def test_a_release_is_marked_where_it_began(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "test:echo", counted(3, archived=1))
    fail_as(broker, "new", failure_kind("b" * 12, release="1.1"))
    connection.hset("boilerd:failure:" + "b" * 12, "first_seen", minute * 60)

    html = browser.get("/types/test:echo").text
    found = browser.get("/types/test:echo.json").json()

    assert 'class="mark-line"' in html
    assert f'href="/failures/{"b" * 12}"' in html
    assert [mark["release"] for mark in found["releases"]] == ["1.1"]
    assert found["failures"]["groups"][0]["first_release"] == "1.1"


def test_a_type_of_which_nothing_was_counted_has_a_page_that_says_what_would_make_it_appear(
    browser: Browser, connection: redis.Redis
) -> None:
    tell_types(connection, "host.run", "mail:")

    answer = browser.get("/types/mail:send")

    assert answer.status_code == 200
    assert "It appears when" in text_of(answer.text)
    assert "A type appears when" in text_of(browser.get("/types").text)


def test_a_type_that_nobody_knows_has_no_page(
    browser: Browser, connection: redis.Redis, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = connection.time()[0] // 86400 - 40
    connection.hset(keys.metrics("day", day), pack_pair("low", "a-month-ago"), encode(counted(1)))
    for _ in range(2):
        client.enqueue("waits", queue="mail-out")
    defaults: Any = Inspector.search.__kwdefaults__
    monkeypatch.setitem(defaults, "within_s", 20.0)

    known = [browser.get(f"/types/{name}").status_code for name in ("a-month-ago", "waits")]
    unknown = [browser.get(f"/types/nope{form}") for form in ("", ".json", ".csv", "?queue=mail-out")]
    monkeypatch.setitem(defaults, "looks", 1)
    behind_others = browser.get("/types/none").status_code

    assert ([answer.status_code for answer in unknown], known) == ([404] * 4, [200, 200])
    assert unknown[1].json()["error"].startswith("nothing is known of type 'nope'")
    assert behind_others == 200  # a task that was not looked at may be of it


@pytest.mark.parametrize("query", ["since=2h", "sort=size_of_moon", "way=left", "page=0", "since=release"])
def test_a_wrong_query_is_a_page_that_names_it(query: str, browser: Browser) -> None:
    answer = browser.get(f"/types?{query}")

    assert answer.status_code == 400
    assert query.partition("=")[0] in text_of(answer.text)


def test_however_many_look_the_metrics_are_read_once(
    browser: Browser, connection: redis.Redis, valkey: Valkey, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    browser.get("/types")
    before = calls(connection)

    for _ in range(10):
        browser.get("/types")
        browser.get("/types?sort=failed")

    assert calls(connection) - before <= 200  # one more reading of the last hour, if the test is slow


def calls(connection: redis.Redis) -> int:
    return int(connection.info("commandstats").get("cmdstat_hscan", {"calls": 0})["calls"])


def test_a_key_of_another_kind_is_told_and_hides_no_other(
    browser: Browser, connection: redis.Redis, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "a", counted(3))
    connection.set(f"boilerd:metrics:minute:{minute - 1}", "a text")

    shown = browser.get("/types")

    assert shown.status_code == 200
    assert "Left out" in text_of(shown.text)
    assert "/types/a" in shown.text


def test_a_type_tells_which_part_timed_out_and_how_many_daemons_handle_it(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    count_in_minute(connection, minute, "default", "mail:send", counted(3, archived=1))
    count_in_minute(connection, minute, "default", "orphan", counted(1))
    fail_as(broker, "slow", FailureKind("c" * 12, "mail:send", TIMEOUT, "", (), ""))
    for name, patterns in (("web1.a1", ["mail:", "test"]), ("web2.a1", ["mail:send"])):
        encoded = json.dumps({"host": name.partition(".")[0], "pid": 1, "types": patterns, "versions": {}})
        broker.publish(name, len(encoded), encoded)

    found = {row["type"]: row for row in browser.get("/types.json").json()["types"]}
    html = browser.get("/types").text

    assert (found["mail:send"]["timeout_share"], found["mail:send"]["daemons"]) == (0.25, 2)
    assert (found["orphan"]["timeout_share"], found["orphan"]["daemons"]) == (0.0, 0)
    assert "no handler" in html
    assert browser.get("/types.json?queue=default").json()["types"][0]["timeout_share"] is None
    assert browser.get("/types.json?since=90d").json()["types"][0]["timeout_share"] is None


def test_an_earlier_release_is_shown_until_the_next_one(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    for fingerprint, release, ago in (("a" * 12, "1.0", 60), ("b" * 12, "1.1", 30)):
        fail_as(broker, release, failure_kind(fingerprint, release=release))
        connection.hset("boilerd:failure:" + fingerprint, "first_seen", (minute - ago) * 60)
    for ago, count in ((80, 1), (50, 2), (31, 4), (20, 8)):
        count_in_minute(connection, minute - ago, "default", "a", counted(count))

    earlier = browser.get("/types/a.json?since=release:1.0").json()
    last = browser.get("/types/a.json?since=release").json()

    assert (earlier["total"]["ended"], earlier["before"]["ended"]) == (6, 1)
    assert (last["total"]["ended"], last["before"]["ended"]) == (8, 6)
    assert "of release 1.0" in text_of(browser.get("/types/a").text)
    assert browser.get("/types?since=release:1.0&sort=rise").status_code == 200


def test_what_began_to_fail_after_the_last_release_is_found_and_run_again_by_clicks_alone(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    fail_as(broker, "old", failure_kind("a" * 12, release="1.0"), queue="low")
    connection.hset("boilerd:failure:" + "a" * 12, "first_seen", (minute - 90) * 60)
    for number in range(3):
        kind = FailureKind("b" * 12, "mail:send", "shop.OwnError", "no card", ("shop.pay",), "1.1")
        fail_as(broker, f"t{number}", kind, queue="mails", task_type="mail:send")
    connection.hset("boilerd:failure:" + "b" * 12, "first_seen", (minute - 10) * 60)
    for ago, failed in ((30, 0), (3, 9)):
        for name in ("sound", "mail:send"):
            fails = failed if name == "mail:send" else 0
            count_in_minute(connection, minute - ago, "default", name, counted(10, archived=fails))

    page = "/"
    for words in ("Types", "What began to fail after the last release, 1.1", "mail:send", "shop.OwnError", "Run all"):
        page = link(browser, page, words)
    asked = browser.get(page).text
    done = browser.post(page)

    assert "3, counted now" in asked
    assert done.headers["location"].startswith("/operations/")
    wait_until(lambda: connection.llen("rq:queue:mails") == 3, "they are run again")
    assert connection.zcard("rq:failed:low") == 1


def test_a_type_that_fails_suddenly_is_a_finding_that_leads_to_it_unless_it_is_muted(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int
) -> None:
    fail_as(broker, "a", FailureKind("b" * 12, "mail/send", "Error", "", (), ""))
    name = pack_pair("default", "mail/send")
    connection.hset(f"boilerd:metrics:hour:{minute // 60 - 12}", name, encode({OUTCOME_KEYS["completed"]: 200}))
    count_in_minute(connection, minute, "default", "mail/send", counted(0, archived=20))

    shown = browser.get("/").text
    browser.post(f"/failures/{'b' * 12}/mute")
    muted = browser.get("/").text

    assert re.search(r'<a href="/types/mail~2Fsend">type mail/send fails: 20 of its 20', shown)
    assert "type mail/send fails" not in muted


def test_a_poll_of_what_has_not_changed_reads_nothing_and_an_action_is_seen_at_once(
    browser: Browser, connection: redis.Redis, broker: Broker, minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((crons, "FRESH_S"), (workers, "FRESH_S"), (workers, "CONTROL_FRESH_S")):
        monkeypatch.setattr(module, name, 600.0)
    count_in_minute(connection, minute, "default", "test:echo", counted(3))
    fail_as(broker, "a", failure_kind())

    tag = ""
    for page in (
        "/crons?page=1",
        "/workers?sort=memory",
        "/types?since=1h",
        "/types/test:echo?since=1h",
        "/failures?type=test:echo",
    ):
        tag = browser.get(page).headers["etag"]
        before = connection.info("stats")["total_commands_processed"]
        again = browser.get(page, if_none_match=tag)
        after = connection.info("stats")["total_commands_processed"]
        assert again.status_code == 304
        assert after - before == 1
        assert browser.get(page.partition("?")[0], if_none_match=tag).status_code == 200
    browser.post(f"/failures/{'a' * 12}/mute")

    assert browser.get("/failures?type=test:echo", if_none_match=tag).status_code == 200


def link(browser: Browser, page: str, words: str) -> str:
    """Where the first link with these words leads."""
    found = re.search(rf'<a [^>]*href="([^"]*)"[^>]*>\s*{re.escape(words)}\s*</a>', browser.get(page).text)
    assert found, f"{page} has no link {words}"
    return found[1].replace("&amp;", "&")


def test_all_archived_tasks_of_a_type_are_run_whatever_their_queue(
    browser: Browser, viewer: Browser, connection: redis.Redis, broker: Broker
) -> None:
    for task_id, queue, name in (("a", "low", "mail"), ("b", "high", "mail"), ("c", "low", "other")):
        fail_as(broker, task_id, failure_kind(), queue=queue, task_type=name)

    asked = text_of(browser.get("/types/mail/run").text)
    browser.post("/types/mail/run?state=archived")

    assert "all archived tasks of all queues of type mail" in asked
    assert "2, counted now" in asked
    wait_until(lambda: connection.zcard("rq:failed:low") + connection.zcard("rq:failed:high") == 1, "they are run")
    assert connection.lrange("rq:queue:low", 0, -1) == [b"a"]
    assert 'href="/types/mail/delete?state=archived"' in browser.get("/types/mail").text
    assert "/types/mail/run" not in viewer.get("/types/mail").text
    assert "Run now: all archived tasks of all queues of type mail" in text_of(viewer.get("/operations").text)
    assert browser.get("/types/mail/run?state=active").status_code == 400


@pytest.mark.parametrize("name", ["mail*", 'a"b', 'a" b:"c', ""])
def test_of_a_type_that_no_search_is_for_alone_an_action_is_refused(browser: Browser, name: str) -> None:
    answer = browser.get(f"/types/{segment(name)}/delete")

    assert (answer.status_code, "no search is for it alone" in text_of(answer.text)) == (400, True)


def test_thousands_of_types_are_pages(browser: Browser, connection: redis.Redis, minute: int) -> None:
    for number in range(120):
        count_in_minute(connection, minute, "default", f"t{number:03}", counted(1))

    first, last = (browser.get(f"/types?sort=type&page={page}").text for page in (1, 3))

    assert first.count("<tr>") == 51
    assert "1 to 50 of 120" in text_of(first)
    assert "t119" in last
    assert "More" not in text_of(last)[-300:]
    assert first.count("<") < 3000


@pytest.mark.parametrize("path", ["/types", "/types/mail:send"])
def test_the_queue_that_is_looked_at_stays_chosen_where_nothing_is_counted_of_it(
    path: str, browser: Browser, connection: redis.Redis
) -> None:
    tell_types(connection, "host.run", "mail:")

    shown = browser.get(f"{path}?queue=silent").text

    assert "<option selected>silent</option>" in shown
