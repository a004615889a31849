"""Periodic tasks, limits and the system on their pages."""

import re

import pytest
import redis

from boilerd import Client, Inspector
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.job_hash import NewTask
from boilerd.tasks.options import task_options
from boilerd.tasks.retry import Verdict
from boilerd.web.cron_words import in_words
from boilerd.web.pages import crons
from browser import Browser, text_of
from builders import claim, complete_next, enqueue, fail_next, new_task, tell_cron


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("* * * * *", "each minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("7 * * * *", "each hour, at minute 7"),
        ("0 3 * * *", "each day at 03:00"),
        ("30 7 * * 1-5", "on Mondays to Fridays at 07:30"),
        ("0 9 * * 1", "on Mondays at 09:00"),
        ("0 9 1 * *", "on day 1 of each month at 09:00"),
        ("5 */6 * * *", "every 6 hours, at minute 5"),
        ("@every 30s", "every 30s"),
        ("@daily", "each day at 00:00"),
        ("1,2 3 * * *", ""),
        ("0 0 1 1 1", ""),
        ("0 0 * * 9", ""),
        ("30 0 3 * * *", ""),
        ("\udcff * * * *", ""),
        ("", ""),
    ],
)
def test_the_lines_that_people_mostly_write_are_told_in_words(spec: str, words: str) -> None:
    assert in_words(spec) == words


def tick(broker: Broker, name: str, at_s: float, task_id: str) -> None:
    task = NewTask(task_id, "report:build", b"{}", task_options(task_id=task_id))
    broker.tick(name, at_s, task, missed=2)


def test_periodic_tasks_are_listed_those_with_a_problem_first(browser: Browser, broker: Broker) -> None:
    tell_cron(broker, "always", "@hourly")
    broker.ticks_since({"gone": "Europe/Berlin 0 3 * * *"})
    broker.tick("always", float(int(broker.now()) // 3600 * 3600), None, why="its queue was full")

    shown = text_of(browser.get("/crons").text)
    rows = browser.get("/crons.json").json()["crons"]
    exported = browser.get("/crons.csv").text

    assert [(row["name"], row["problem"]) for row in rows] == [("gone", "no daemon has it any more"), ("always", "")]
    assert rows[1]["hosts"] == ["web1"]
    assert rows[1]["last_skipped"] == "its queue was full"
    assert "each day at 03:00" in shown
    assert "always" in exported


def test_a_queue_that_was_never_used_is_named_without_a_link_as_it_has_no_page(
    browser: Browser, client: Client, broker: Broker
) -> None:
    tell_cron(broker, "used", queue="default", daemon="web1.a1")
    tell_cron(broker, "unused", queue="low", daemon="web1.b1")
    enqueue(client, "a")

    shown = browser.get("/crons").text
    links = re.findall(r'href="(/queues/[^"]+)"', shown)

    assert "in low" in text_of(shown)
    assert {link: browser.get(link).status_code for link in links} == {"/queues/default": 200}


def test_many_periodic_tasks_have_pages_and_a_file_has_all_of_them(
    browser: Browser, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crons, "SIZE", 2)
    for name in ("a", "b", "c"):
        tell_cron(broker, name, daemon=f"web1.{name}")
    broker.ticks_since({"gone": "UTC 0 3 * * *"})

    first, second = ([row["name"] for row in browser.get(f"/crons.json?page={n}").json()["crons"]] for n in (1, 2))
    shown = browser.get("/crons").text
    beyond = text_of(browser.get("/crons?page=9").text)

    assert (first, second) == (["gone", "a"], ["b", "c"])
    assert "1 to 2 of 4" in shown
    assert 'href="/crons?page=2"' in shown
    assert "There are none on this page." in beyond
    assert "beyond the last of 4" in beyond
    assert len(browser.get("/crons.csv").text.splitlines()) == 5


def test_a_tick_that_nobody_took_is_told(browser: Browser, broker: Broker, connection: redis.Redis) -> None:
    tell_cron(broker, "hourly", "@hourly")
    connection.hset(keys.CRON, "hourly", float(int(broker.now()) // 3600 * 3600 - 2 * 3600))

    (row,) = browser.get("/crons.json").json()["crons"]

    assert row["problem"] in {"2 ticks were missed", "a tick was missed"}  # at the very hour the last is not late yet


def test_of_one_that_no_daemon_has_the_ticks_that_passed_are_told(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    broker.ticks_since({"gone": "UTC @every 60s"})
    connection.hset(keys.CRON, "gone", broker.now() - 200)

    (row,) = browser.get("/crons.json").json()["crons"]

    assert re.fullmatch("no daemon has it any more, and [34] ticks passed", row["problem"])  # it ticks at whole minutes


def test_one_periodic_task_has_its_next_ticks_and_its_history(browser: Browser, broker: Broker) -> None:
    tell_cron(broker)
    tick(broker, "nightly", 1000.0, "cron-nightly-1")

    shown = text_of(browser.get("/crons/nightly").text)
    found = browser.get("/crons/nightly.json").json()

    assert "Next ticks" in shown
    assert "cron-nightly-1" in shown
    assert len(found["entries"][0]["nexts"]) == 3
    assert found["outcomes"] == {"pending": 1}
    assert "Of its last ticks: 1 pending" in shown
    assert [(each["task_id"], each["state"], each["missed"]) for each in found["ticks"]] == [
        ("cron-nightly-1", "pending", 2)
    ]
    unknown = [browser.post(f"/crons/other/{deed}.json").status_code for deed in ("run", "pause", "resume")]
    assert [browser.get(path).status_code for path in ("/crons/other", "/crons/other/run")] == [404] * 2
    assert unknown == [404] * 3
    assert browser.get("/crons.json").json()["crons"][0]["last_task"] == "cron-nightly-1"


def test_one_is_paused_resumed_and_run_in_the_name_of_the_person(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    tell_cron(broker)

    paused = browser.post("/crons/nightly/pause")
    shown = text_of(browser.get("/crons/nightly").text)
    listed = text_of(browser.get("/crons").text)
    browser.post("/crons/nightly/resume")
    asked = text_of(browser.get("/crons/nightly/run").text)
    run = browser.post("/crons/nightly/run.json")

    assert paused.status_code == 303
    assert "Paused since" in shown
    assert "paused" in listed
    assert "Enqueue the task of nightly now?" in asked
    assert "within 5 seconds" in run.json()["done"]
    assert broker.take_wanted(["nightly"]) == ["nightly"]
    assert [(entry.what, entry.via) for entry in Inspector(connection).audit()] == [
        ("pause", "web"), ("resume", "web"), ("cron run", "web"),
    ]  # fmt: skip


def test_one_that_no_daemon_has_is_not_run(browser: Browser, broker: Broker) -> None:
    broker.ticks_since({"gone": "UTC @daily"})

    assert "Run now" not in text_of(browser.get("/crons/gone").text)
    assert browser.post("/crons/gone/run").status_code == 400


def test_limits_show_what_holds_tasks_back(browser: Browser, client: Client, broker: Broker) -> None:
    broker.set_limits({"low:max_active": 1, "low:max_length": 3})
    enqueue(client, "a", "b", "c", queue="low", concurrency_key="printer", concurrency_limit=2)
    claim(broker, "low")
    client.enqueue("report:build", {"of": 1}, task_id="holder", unique=60)

    found = browser.get("/limits.json?search=1").json()
    shown = text_of(browser.get("/limits?search=1&type=report:build").text)

    (row,) = found["queues"]
    assert (row["name"], row["active"], row["max_active"], row["pending"], row["max_length"]) == ("low", 1, 1, 2, 3)
    assert [(key["key"], key["limit"], key["running"]) for key in found["keys"]] == [("printer", 2, 1)]
    assert [(lock["task_id"], lock["queue"], lock["type"]) for lock in found["locks"]] == [
        ("holder", "default", "report:build")
    ]
    assert found["after"] == ""
    assert "holds tasks back" in shown
    assert "holder" in shown


def test_a_search_for_locks_takes_names_as_they_are_and_is_refused_a_place_that_is_none(
    browser: Browser, client: Client
) -> None:
    client.enqueue("a-b", {"of": 1}, task_id="odd", unique=60)
    client.enqueue("ab", {"of": 1}, task_id="plain", unique=60)

    found = browser.send("GET", "/limits.json", params={"search": "1", "type": "a-b"})

    every = browser.send("GET", "/limits.json", params={"search": "1", "type": "a[-b]*"}).json()["locks"]
    assert [lock["task_id"] for lock in found.json()["locks"]] == ["odd"]
    assert every == []
    assert browser.get("/limits?search=1&after=x").status_code == 400


def test_the_system_tells_of_redis_the_daemons_and_how_they_differ(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    tell_cron(broker, daemon="web1.a")
    facts = '{"host": "web2", "versions": {"boilerd": "2"}, "settings": {"concurrency": 4}}'
    broker.publish("web2.b", len(facts), facts)

    found = browser.get("/system.json").json()
    shown = text_of(browser.get("/system").text)

    assert found["server"]["name"].startswith(("Valkey", "Redis"))
    assert found["server"]["latency_ms"] >= 0
    assert [one["host"] for one in found["daemons"]] == ["web1", "web2"]
    assert {"setting": "version of boilerd", "value": "2", "daemons": ["web2.b"], "more": 0} in found["differences"]
    assert found["dashboard"]["memory_bytes"] > 1e6
    assert "In what they differ" in shown


def test_the_slow_log_names_scripts_and_shows_nothing_that_they_were_given(
    browser: Browser, client: Client, connection: redis.Redis
) -> None:
    before = str(connection.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"])
    connection.config_set("slowlog-log-slower-than", 0)
    try:
        for _ in range(2):  # the first may send the script's text
            client.enqueue("test:echo", {"password": "Xhidden"})
    finally:
        connection.config_set("slowlog-log-slower-than", before)
    shown = browser.get("/system").text

    assert "script enqueue" in shown
    assert "Xhidden" not in shown


def test_a_pause_has_a_note_and_an_end(browser: Browser, broker: Broker, client: Client) -> None:
    tell_cron(broker)
    enqueue(client, "task")
    form = {"note": "the warehouse <is> rebuilt", "until": "2h"}

    for path in ("/crons/nightly", "/queues/default"):
        browser.post(f"{path}/pause", form)
        shown = browser.get(path).text

        assert "until" in text_of(shown)
        assert "the warehouse &lt;is&gt; rebuilt" in shown
        again = browser.post(f"{path}/pause.json", {"note": "it goes on"}).json()["done"]

        assert again.endswith(" was paused already; its note and end are changed")
    wrong = browser.post("/crons/nightly/pause", {"until": "2020-01-01T00:00"})

    assert wrong.status_code == 400
    assert "is past" in text_of(wrong.text)


def test_a_tick_that_was_skipped_leads_to_the_task_that_is_in_its_way(browser: Browser, broker: Broker) -> None:
    tell_cron(broker, "always", "@hourly")
    broker.tick("always", float(int(broker.now()) // 3600 * 3600), None, why="task first holds its unique lock")

    pages = [browser.get(path).text for path in ("/", "/crons", "/crons/always")]

    assert all('task <a href="/tasks/first">first</a> holds its unique lock' in page for page in pages)


def test_one_that_had_no_task_at_its_last_three_ticks_is_a_problem(browser: Browser, broker: Broker) -> None:
    tell_cron(broker, "always", "@hourly")
    hour_s = int(broker.now()) // 3600 * 3600
    broker.tick("always", float(hour_s - 3 * 3600), new_task("ran"))
    for back in (2, 1, 0):
        broker.tick("always", float(hour_s - back * 3600), None, why="its queue was full")

    (row,) = browser.get("/crons.json").json()["crons"]
    (first,) = browser.get("/overview.json").json()["beside"]["crons"]

    assert row["problem"] == first["problem"] == "not run for 3 ticks: its queue was full"
    assert row["outcomes"] == ["skipped", "skipped", "skipped", "gone"]
    assert row["missed"] == 3
    assert "not run for 3 ticks" in text_of(browser.get("/").text)


def test_ticks_tell_what_became_of_their_tasks_and_how_many_succeeded(
    browser: Browser, broker: Broker, client: Client
) -> None:
    tell_cron(broker)
    for number, name in enumerate(("kept", "archived", "brief", "deleted", "waits"), 1):
        broker.tick("nightly", number * 1000.0, new_task(name, retention=3600 if name == "kept" else 0))
        if name in {"kept", "brief"}:
            complete_next(broker)
        elif name == "archived":
            fail_next(broker, Verdict.ARCHIVE)
        elif name == "deleted":
            client.cancel(name)

    (row,) = browser.get("/crons.json").json()["crons"]
    ticks = browser.get("/crons/nightly.json").json()["ticks"]

    outcomes = ["pending", "gone", "completed", "archived", "completed"]
    assert row["outcomes"] == outcomes == [tick["outcome"] for tick in ticks]
    assert (row["succeeded"], row["ended"]) == (2, 3)
    assert [bool(tick["started_at"]) for tick in ticks] == [False, False, True, True, True]
    assert row["late_s"] > 1000


def test_the_histories_of_many_periodic_tasks_cost_two_commands_each(
    browser: Browser, broker: Broker, connection: redis.Redis
) -> None:
    for number in range(40):
        tell_cron(broker, f"cron-{number}", daemon=f"web1.{number}")
        for tick_s in range(1000, 5000, 1000):
            broker.tick(f"cron-{number}", float(tick_s), new_task(f"{number}-{tick_s}"))
    browser.get("/crons")
    before = connection.info("stats")["total_commands_processed"]

    browser.get("/crons")

    assert connection.info("stats")["total_commands_processed"] - before < 60 + 40 * 3  # and one for each daemon
