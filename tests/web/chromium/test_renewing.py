"""What a page that renews itself leaves as it is: what somebody has changed in a field; and all else is renewed."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import redis
from playwright.sync_api import Route

import boilerd.web
from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Web
from boilerd.tasks.retry import Verdict
from boilerd.web.pages import crons, workers
from builders import enqueue, fail_next, in_state, tell_cron
from chromium import Place, Visitor
from support import StartDaemon, wait_until

Open = Callable[..., Visitor]

PENDING, ARCHIVED = (f"#queue-default [data-label={label}]" for label in ("Pending", "Archived"))
#: Fields of all kinds; `{0}` is what the server says in them.
FIELDS = """<form action="/sent">
  <input name="text" value="text {0}"><textarea name="area">area {0}</textarea>
  <input name="box" type="checkbox" value="box" title="{0}">
  <input name="radio" type="radio" value="a" checked><input name="radio" type="radio" value="b">
  <select name="chosen"><option>one</option><option>two {0}</option></select>
  <select name="told"><option>one</option><option selected>two {0}</option></select>
</form>"""
READ = """[...document.querySelectorAll("form[action='/sent'] > *")].map(
  each => ["checkbox", "radio"].includes(each.type) ? each.checked : each.value)"""


def let_it_renew(visitor: Visitor) -> None:
    visitor.page.clock.run_for(2500)


def serve_fields(visitor: Visitor, inspector: Inspector) -> None:
    """Have the page of all queues have fields, which say how many tasks are pending."""
    wanted = '<section data-live="queues"'

    def answer(route: Route) -> None:
        response = route.fetch()
        fields = FIELDS.format(inspector.queue("default").counts.pending)
        body = response.text().replace(wanted, f'<div data-live="fields">{fields}</div>{wanted}')
        route.fulfill(response=response, body=body)

    visitor.page.route("**/queues", answer)


def test_a_field_that_somebody_changed_stays_as_it_is_until_it_is_set_back(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    serve_fields(visitor, Inspector(client.connection))
    page = visitor.open("/queues")
    as_it_was = page.evaluate(READ)
    page.fill("[name=text]", "mine")
    page.fill("[name=area]", "mine")
    page.check("[name=box]")
    page.check("[name=radio][value=b]")
    page.select_option("[name=chosen]", index=1)
    page.select_option("[name=told]", index=0)
    page.locator("h1").click()
    changed = page.evaluate(READ)

    enqueue(client, "b")
    let_it_renew(visitor)
    visitor.sees("2", PENDING)
    kept = page.evaluate(READ)
    page.evaluate("document.querySelector('form[action=\"/sent\"]').reset()")
    enqueue(client, "c")
    let_it_renew(visitor)
    visitor.sees("3", PENDING)
    renewed = page.evaluate(READ)
    page.unroute_all()

    assert as_it_was == ["text 1", "area 1", False, True, False, "one", "two 1"]
    assert changed == kept == ["mine", "mine", True, False, True, "two 1", "one"]
    assert renewed == ["text 3", "area 3", False, True, False, "one", "two 3"]


def test_a_size_that_somebody_typed_is_the_one_that_a_pool_gets(
    visit: Open, start_daemon: StartDaemon, place: tuple[Place, str], connection: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(workers, "FRESH_S", 0.0)
    monkeypatch.setattr(workers, "CONTROL_FRESH_S", 0.0)
    daemon = start_daemon("--concurrency", "1").ready()
    wait_until(Inspector(connection).daemons, "the daemon tells of itself in Redis, by which it is the dashboard's")
    settings = Settings(state_dir=str(daemon.directory), web=Web())
    visitor = visit(has_clock=True)
    place[0].app = boilerd.web.app(settings, authorize=None, connection=connection)
    page = visitor.open("/workers")
    page.fill("[name=size]", "2")
    page.keyboard.press("Tab")

    assert daemon.cli("quiet").returncode == 0
    let_it_renew(visitor)
    visitor.sees("quiet", "#pool-default [data-label=State]")
    page.keyboard.press("Enter")

    visitor.sees("pool default gets 2 workers")


@pytest.mark.parametrize("path", ["/queues/low", "/crons/nightly"])
def test_a_note_that_somebody_began_stays_while_the_page_is_renewed(
    path: str, visit: Open, client: Client, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crons, "ONE_FRESH_S", 0.0)
    client.enqueue("test:echo", queue="low")
    tell_cron(broker, "nightly")
    visitor = visit(has_clock=True)
    page = visitor.open(path)
    page.click("text=Pause with a note or an end")
    page.fill("[name=note]", "deploying")
    page.locator("h1").click()

    if path == "/queues/low":
        client.enqueue("test:echo", queue="low")
        let_it_renew(visitor)
        visitor.sees("2", "dt:text-is('Pending') + dd")
    else:
        broker.tick("nightly", broker.now() - 60, None, why="it holds its unique lock")
        let_it_renew(visitor)
        visitor.sees("it holds its unique lock", "tbody tr")

    assert page.input_value("[name=note]") == "deploying"
    assert page.is_visible("[name=note]")


def test_rows_that_are_ticked_stay_so_while_they_are_renewed(visit: Open, client: Client, broker: Broker) -> None:
    task_id = in_state(client, broker, TaskState.SCHEDULED)
    visitor = visit(has_clock=True)
    page = visitor.open("/tasks?queue=default&state=scheduled")
    page.click("[data-row]")
    page.locator("h1").click()

    Inspector(broker.connection).reschedule(task_id, datetime.now(UTC) + timedelta(hours=30))
    let_it_renew(visitor)
    visitor.sees("in 1d", "tbody tr")

    assert page.locator("[data-row]:checked").count() == 1


@pytest.mark.parametrize("focused", ["a", "button"])
def test_what_has_the_focus_is_renewed_and_keeps_it(focused: str, visit: Open, client: Client, broker: Broker) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/")
    page.focus(f"{ARCHIVED} a" if focused == "a" else "#queue-default button")

    fail_next(broker, Verdict.ARCHIVE)
    Inspector(broker.connection).pause("default")
    let_it_renew(visitor)
    visitor.sees("1", ARCHIVED)
    visitor.sees("paused", "#queue-default [data-label=State]")

    shown = page.evaluate("document.activeElement.textContent")
    assert shown == ("1" if focused == "a" else "Resume")
