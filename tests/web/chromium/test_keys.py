"""What one does with keys, the palette and saved views; lists that are read, and the values of charts."""

from collections.abc import Callable
from datetime import UTC, datetime

import redis
from playwright.sync_api import Route

from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from builders import count_in_minute, count_in_total, counted, enqueue, in_state
from chromium import Visitor, findings

Open = Callable[..., Visitor]

SELECTED = "[role=option][aria-selected=true]"
#: The palette, when it has all names.
COMPLETE = "#palette:not([aria-busy])"


def test_keys_lead_to_pages_unless_they_are_switched_off(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/")

    page.keyboard.type("gt")
    page.wait_for_url("**/tasks")
    page.keyboard.press("/")
    focused = page.evaluate("document.activeElement.name")
    visitor.open("/settings").select_option("main [data-keeps=keys]", "off")
    visitor.open("/").keyboard.type("gt")

    assert focused == "q"
    assert visitor.text("h1") == "Overview"


def test_keys_move_through_rows_tick_them_and_lead_to_the_question(visit: Open, client: Client) -> None:
    enqueue(client, *"abc")
    visitor = visit()
    page = visitor.open("/tasks?queue=default&state=pending")

    page.keyboard.type("jjjjkx")  # there are three rows
    ticked = page.evaluate("[...document.querySelectorAll('[data-row]:checked')].map(each => each.value)")
    page.click("[data-row]")  # the focus is in a box
    page.keyboard.type("a")

    page.wait_for_url("**/bulk/archive?id=a&id=b")
    assert ticked == ["b"]
    visitor.sees("Archive")


def test_the_box_for_all_rows_is_ticked_while_each_row_is(visit: Open, client: Client) -> None:
    enqueue(client, *"ab")
    page = visit().open("/tasks?queue=default&state=pending")
    states = []

    for box in ("[data-all]", "[value=a]", "[value=b]", "[value=a]", "[value=b]", "[data-all]"):
        page.click(f"main table {box}")
        states.append((page.is_checked("[data-all]"), page.locator("[data-row]:checked").count()))

    assert states == [(True, 2), (False, 1), (False, 0), (False, 1), (True, 2), (False, 0)]


def test_whoever_goes_back_to_a_list_finds_no_row_ticked_that_took_the_place_of_one(
    visit: Open, client: Client
) -> None:
    enqueue(client, *"abcd")
    visitor = visit()
    page = visitor.open("/tasks?queue=default&state=pending")
    page.click("main table [value=a]")
    page.click("main table [value=b]")
    page.click("#selected >> text=Archive")
    page.wait_for_url("**/bulk/archive**")
    for task_id in "ab":
        Inspector(client.connection).archive(task_id)

    page.go_back()
    visitor.sees("c", "tbody")

    rows = page.locator("[data-row]")
    assert rows.evaluate_all("all => all.map((each) => [each.value, each.checked])") == [["c", False], ["d", False]]


def test_a_key_opens_the_question_about_the_task_that_is_shown(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/tasks/a")

    page.keyboard.press("r")  # it is pending: there is nothing to run
    page.keyboard.press("d")
    visitor.sees("Delete", "dialog h1")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("?")
    visitor.sees("to the next row", "dialog")

    assert page.url == f"{visitor.root}/tasks/a"


def test_a_page_pauses_and_goes_on_with_a_key(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/queues")
    before = len(visitor.asked)

    page.keyboard.press("p")
    page.clock.run_for(60_000)
    paused, asked = visitor.text("#live"), [each for each in visitor.asked[before:] if "/static/" not in each]
    enqueue(client, "b")
    page.keyboard.press("p")
    page.clock.run_for(2500)

    visitor.sees("2", "#queue-default [data-label=Pending]")
    assert (paused.partition(", ")[2], asked) == ("paused: p goes on", [])


PLACES = {
    "queue mail.l": ("queue", "/queues/mail~2Elow"),
    "test:ec": ("type", "/types/test:echo"),
    "operations": ("page", "/operations"),
    "a-1": ("find this ID", "/tasks/a-1"),
}


def test_the_palette_leads_to_all_that_has_a_name(visit: Open, client: Client, connection: redis.Redis) -> None:
    client.enqueue("test:echo", task_id="a-1", queue="mail.low")
    count_in_total(connection, "mail.low", "test:echo", counted(1))
    visitor = visit()
    page = visitor.open("/queues")

    for typed, (kind, leads_to) in PLACES.items():
        page.keyboard.press("Control+k")
        page.wait_for_selector(COMPLETE)
        page.fill("[role=combobox]", typed)
        visitor.sees(kind, SELECTED)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**{leads_to}")


def test_the_palette_is_a_combobox_that_does_what_the_page_lets_one_do(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/queues/default")

    page.click("header >> text=Go to")
    page.wait_for_selector(COMPLETE)
    page.keyboard.type("default")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    second = page.evaluate(f"document.querySelector('{SELECTED}').id")
    wrong = findings(page)
    page.fill("[role=combobox]", "pause default")
    active = page.get_attribute("[role=combobox]", "aria-activedescendant")
    visitor.sees("Pause", f"#{active}")
    page.keyboard.press("Enter")

    visitor.sees("queue default is paused")
    assert (second, active) == ("option-0", "option-0")
    assert wrong == []


def test_what_is_chosen_in_the_palette_stays_chosen_when_the_names_come(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/queues/default")
    held: list[Route] = []
    page.route("**/palette.json", lambda route: held.append(route))  # noqa: PLW0108 - it takes no builtin

    with page.expect_request("**/palette.json"):
        page.click("header >> text=Go to")
    page.keyboard.type("a")
    page.keyboard.press("ArrowDown")
    before = visitor.text(SELECTED)
    held[0].continue_()
    page.unroute("**/palette.json")
    page.wait_for_selector(COMPLETE)

    assert visitor.text(SELECTED) == before


def test_a_view_is_saved_found_and_deleted(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/tasks?queue=default&state=pending")

    page.click("text=Save this view")
    page.fill("dialog input", "What <b>waits</b>")
    page.keyboard.press("Enter")
    visitor.open("/queues").keyboard.press("Control+k")
    page.fill("[role=combobox]", "waits")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks?queue=default&state=pending")
    visitor.open("/settings")
    listed = visitor.text("#views a")
    page.click("#views button")

    visitor.sees("There are none", "#views")
    assert listed == "What <b>waits</b>"


def test_a_list_that_is_read_stands_still_and_says_what_came(visit: Open, client: Client, broker: Broker) -> None:
    in_state(client, broker, TaskState.ARCHIVED)
    visitor = visit(has_clock=True)
    page = visitor.open("/tasks?queue=default&state=archived")
    page.click("[data-row]")
    before = page.locator("tbody tr").count()

    for _ in range(2):
        in_state(client, broker, TaskState.ARCHIVED)
    page.clock.run_for(2500)
    visitor.sees("2 newer · show", ".newer")
    held = page.locator("tbody tr").count(), page.locator("[data-row]:checked").count()
    page.click(".newer")
    page.wait_for_selector(".newer", state="detached")

    assert (before, held) == (1, (1, 1))
    assert page.locator("tbody tr").count() == 3
    assert page.locator("[data-row]:checked").count() == 0


def test_a_chart_says_its_values_under_the_pointer(visit: Open, client: Client, connection: redis.Redis) -> None:
    enqueue(client, "a")
    minute = int(connection.time()[0]) // 60 - 5
    count_in_minute(connection, minute, "default", "test:echo", counted(1234))
    visitor = visit(timezone_id="UTC")
    page = visitor.open("/types/test:echo")

    picture = page.locator("figure", has_text="Ended").last.locator("svg")
    box = picture.bounding_box()
    assert box is not None
    told = page.evaluate("JSON.parse([...document.querySelectorAll('figure')].at(-1).dataset.told)")
    picture.hover(position={"x": box["width"] * (told.index("ended 1,234") + 0.5) / len(told), "y": 5})

    at = datetime.fromtimestamp(minute * 60, UTC)
    visitor.sees(f"{at:%Y-%m-%d %H:%M}:00 UTC: ended 1,234", "figure .at")
