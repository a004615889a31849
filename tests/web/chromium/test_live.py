"""What scripts do for people: pages renew themselves, and stand still while somebody reads, ticks, types or is asked.

The page's clock is the test's own, so that two seconds of it cost none.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.tasks.retry import Verdict
from boilerd.web import pace
from browser import web_app
from builders import enqueue, fail_next, in_state
from chromium import OF_LAYOUT, SIZES, Place, Visitor, findings, overflow
from support import StartValkey, wait_until

Open = Callable[..., Visitor]

COUNT = "#queue-default [data-label=Pending]"
#: Makes time limits of requests pass by the page's clock too, which Playwright leaves to the machine's.
LIMITS_BY_CLOCK = """AbortSignal.timeout = (limit) => {
  const controller = new AbortController();
  setTimeout(() => controller.abort(new DOMException("", "TimeoutError")), limit);
  return controller.signal;
}"""


def let_time_pass(visitor: Visitor, seconds: float = 2.5) -> None:
    visitor.page.clock.run_for(int(seconds * 1000))


def statuses(visitor: Visitor, path: str) -> list[int]:
    """Of the answers to all polls of a page."""
    return [status for asked, status in visitor.answers if asked == path][1:]


def let_it_renew(visitor: Visitor, path: str) -> None:
    """Let time pass until the answer to one more poll is there."""
    before = len(statuses(visitor, path))

    def has_asked() -> bool:
        let_time_pass(visitor)
        return len(statuses(visitor, path)) > before

    wait_until(has_asked, "the page was renewed")


def until_next_answer(visitor: Visitor, path: str) -> int:
    """Seconds of the page's clock until it has asked once more and has an answer; the clock waits for that one."""
    before, passed_s = len(statuses(visitor, path)), 0

    def is_answered() -> bool:
        visitor.page.evaluate("0")  # what was asked is known before its answer
        return len(statuses(visitor, path)) == visitor.asked.count(path) - 1

    while len(statuses(visitor, path)) == before:
        let_time_pass(visitor, 1)
        passed_s += 1
        wait_until(is_answered, "what was asked is answered")
    return passed_s


def asked_in_a_minute(visitor: Visitor) -> list[str]:
    """What is asked for in a minute; the icon may come late."""
    before = len(visitor.asked)
    let_time_pass(visitor, 60)
    visitor.page.evaluate("0")  # what was asked is known before its answer
    return [path for path in visitor.asked[before:] if "/static/" not in path]


def test_a_page_renews_itself_and_says_how_old_it_is(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    visitor.open("/queues")
    enqueue(client, "b")

    let_time_pass(visitor)

    visitor.sees("2", COUNT)
    assert "as of" in visitor.text("#live")


def test_a_page_on_which_nothing_happened_costs_a_304(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    visitor.open("/queues")

    for _ in range(3):
        let_it_renew(visitor, "/queues")

    first, *others = statuses(visitor, "/queues")  # where an answer is late, one more is asked for
    assert first == 200
    assert len(others) >= 2
    assert {*others} == {304}


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [
        (
            "getSelection().selectAllChildren(document.querySelector('h1'))",
            "getSelection().removeAllRanges()",
            "stands still while text is selected",
        ),
        (
            "document.querySelector('#queue-default th').innerHTML += '<input type=checkbox data-row checked id=row>'",
            "document.getElementById('row').remove()",
            "stands still while rows are ticked",
        ),
        (
            "document.querySelector('#queue-default th').innerHTML += '<input id=field>'; field.focus()",
            "field.remove()",
            "stands still while you type",
        ),
    ],
    ids=["selects", "ticks", "types"],
)
def test_a_page_stands_still_while_somebody(begins: str, ends: str, says: str, visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/queues")
    page.evaluate(begins)
    enqueue(client, "b")

    asked = asked_in_a_minute(visitor)

    assert asked == []
    assert says in visitor.text("#live")
    page.evaluate(ends)
    let_time_pass(visitor)
    visitor.sees("2", COUNT)


def test_what_somebody_opened_focused_and_scrolled_to_stays_while_the_page_renews_itself(
    visit: Open, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", task_id="a")
    fail_next(broker, Verdict.ARCHIVE, traceback="Traceback\n" + "line\n" * 100)
    visitor = visit(has_clock=True)
    page = visitor.open("/tasks/a")
    page.click("[data-live=attempts] summary")  # it is closed now
    page.focus("[data-live=payload] pre")
    page.evaluate("scrollTo(0, 50); document.querySelector('[data-live=attempts] summary').dataset.mine = 'kept'")
    before = page.evaluate("[scrollY, document.activeElement.tagName]")

    Inspector(broker.connection).run("a")
    let_time_pass(visitor)
    visitor.sees("pending", "[data-live=task]")

    assert page.evaluate("document.querySelector('[data-live=attempts] details').open") is False
    assert page.evaluate("[scrollY, document.activeElement.tagName]") == before


def test_a_part_that_was_not_there_comes_and_one_that_is_gone_goes(visit: Open, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", task_id="a")
    visitor = visit(has_clock=True)
    page = visitor.open("/tasks/a")

    fail_next(broker, Verdict.ARCHIVE)
    let_time_pass(visitor)
    visitor.sees("Traceback", "[data-live=attempts]")

    assert page.locator("[data-live=attempts]").count() == 1
    assert page.locator("[data-live=actions] a").all_inner_texts() == ["Run", "Delete", "Copy and edit"]


COVERED = """[...document.querySelectorAll('main .actions > *, main .pager a')].filter(each => {
  each.scrollIntoView({block: 'center'});
  const {left, top, width, height} = each.getBoundingClientRect();
  return !each.contains(document.elementFromPoint(left + width / 2, top + height / 2));
}).map(each => each.innerText)"""


@pytest.mark.parametrize("path", ["/tasks?queue=default&state=pending", "/tasks/a", "/queues/default"])
def test_on_a_telephone_one_bar_of_actions_stays_below_and_covers_no_other(
    path: str, visit: Open, client: Client, broker: Broker
) -> None:
    in_state(client, broker, TaskState.ARCHIVED)
    enqueue(client, *"abcdefgh")
    visitor = visit(viewport={"width": 320, "height": SIZES[320]})

    page = visitor.open(path)

    below: float = page.evaluate("document.querySelector('main > .actions').getBoundingClientRect().bottom")
    assert abs(below - page.evaluate("innerHeight")) < 1
    assert page.evaluate(COVERED) == []


def test_on_a_telephone_a_list_is_sorted_and_all_its_rows_are_ticked(visit: Open, client: Client) -> None:
    for task_id, task_type in (("a", "z:z"), ("b", "a:a")):
        client.enqueue(task_type, task_id=task_id)
    visitor = visit(viewport={"width": 320, "height": SIZES[320]})
    page = visitor.open("/tasks?queue=default&state=pending")

    page.click("thead a:text-is('Type')")
    page.wait_for_url("**sort=type**")
    listed = page.locator("tbody th").all_inner_texts()
    page.locator("thead label").click(position={"x": 60, "y": 8})  # the words beside the box
    ticked = page.locator("tbody :checked").count()

    assert ([each.split()[-1] for each in listed], ticked) == (["b", "a"], 2)
    assert (
        page.evaluate("document.querySelector('thead [data-column=Payload]').offsetWidth") == 1
    )  # it is read, not seen
    assert findings(page, of=OF_LAYOUT) == []


def test_a_page_whose_task_is_gone_says_so_and_keeps_its_last_picture(
    visit: Open, client: Client, broker: Broker
) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    visitor.open("/tasks/a")

    Inspector(broker.connection).delete("a")
    let_time_pass(visitor)

    visitor.sees("it is not there any more", "#live")
    assert "test:echo" in visitor.text("[data-live=task]")
    visitor.wrong.clear()  # the console has the 404


def test_a_page_whose_server_does_not_answer_keeps_its_last_picture_and_says_what_is_wrong(
    visit: Open, client: Client
) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/queues")
    page.route("**/queues", lambda route: route.abort())

    def has_told() -> bool:
        let_time_pass(visitor)
        return "the last good picture: the dashboard does not answer" in visitor.text("#live")

    wait_until(has_told, "the page says what is wrong")
    shown = visitor.text(COUNT)
    page.unroute_all()
    enqueue(client, "b")
    let_it_renew(visitor, "/queues")

    assert shown == "1"
    visitor.sees("2", COUNT)
    assert "the last good picture" not in visitor.text("#live")
    visitor.wrong.clear()  # the console has each that failed


class Stalled:
    """A dashboard on a network that stalls: nothing comes of an answer, or its first half."""

    def __init__(self, app: Any, *, after_half: bool) -> None:
        self._app = app
        self._after_half = after_half

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_half(message: Any) -> None:
            body = message.get("body", b"")
            await send({**message, "body": body[: len(body) // 2], "more_body": True} if body else message)

        if self._after_half:
            await self._app(scope, receive, send_half)
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize("after_half", [False, True], ids=["before an answer", "in the midst of one"])
def test_a_page_whose_network_stalls_says_so_and_goes_on(
    after_half: bool, visit: Open, place: tuple[Place, str], client: Client
) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/queues")
    page.evaluate(LIMITS_BY_CLOCK)
    whole, place[0].app = place[0].app, Stalled(place[0].app, after_half=after_half)
    enqueue(client, "b")

    def is_asked() -> bool:
        let_time_pass(visitor)
        return visitor.asked.count("/queues") > 1

    def stalls() -> bool:
        page.evaluate("0")  # what has come is known before its answer, and the clock waits for it
        return bool(statuses(visitor, "/queues")) == after_half

    def has_told() -> bool:
        let_time_pass(visitor)
        return "the last good picture: the dashboard does not answer" in visitor.text("#live")

    wait_until(is_asked, "the page asks")
    wait_until(stalls, "its poll stalls")
    wait_until(has_told, "the page says so")
    shown, asked = visitor.text(COUNT), visitor.asked.count("/queues") - 1
    place[0].app = whole
    let_it_renew(visitor, "/queues")

    assert (shown, asked) == ("1", 1)
    visitor.sees("2", COUNT)
    assert "the last good picture" not in visitor.text("#live")
    visitor.wrong.clear()  # the console may have what was given up


def test_a_page_says_at_once_what_is_wrong_with_redis_and_soon_that_it_is_back(
    visit: Open, place: tuple[Place, str], start_valkey: StartValkey
) -> None:
    server = start_valkey()
    visitor = visit(has_clock=True)
    with connect(server.url) as connection, Client.from_url(server.url) as client:
        enqueue(client, "a")
        place[0].app = web_app(connection)
        visitor.open("/queues")
        server.stop()

        passed_s = [until_next_answer(visitor, "/queues")]
        visitor.sees("the last good picture: Redis did not answer", "#live")
        passed_s += [until_next_answer(visitor, "/queues") for _ in range(4)]
        shown = visitor.text(COUNT)
        server.start()
        passed_s += [until_next_answer(visitor, "/queues")]
        visitor.sees("There are no queues yet")
        passed_s += [until_next_answer(visitor, "/queues")]

    assert statuses(visitor, "/queues")[:6] == [503] * 5 + [200]
    assert max(passed_s) < 10
    assert passed_s[-1] < 4
    assert shown == "1"
    assert "the last good picture" not in visitor.text("#live")
    visitor.wrong.clear()  # the console has each that failed


@pytest.mark.parametrize(
    ("body", "says"),
    [("busy", "the server answers 503"), (f"<p class=problem>{'x' * 100}</p>", "x" * 100)],
    ids=["a proxy's", "ours"],
)
def test_a_page_that_gets_an_error_waits_as_long_as_it_is_asked_to(
    body: str, says: str, visit: Open, client: Client
) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True, viewport={"width": 320, "height": SIZES[320]})
    page = visitor.open("/queues")
    page.route("**/queues", lambda route: route.fulfill(status=503, headers={"Retry-After": "20"}, body=body))

    passed_s = [until_next_answer(visitor, "/queues") for _ in range(2)]
    visitor.sees(f"the last good picture: {says}", "#live")
    page.unroute_all()

    assert passed_s[1] >= 20
    assert overflow(page) == 0
    visitor.wrong.clear()  # the console has each that failed


def test_a_page_says_that_this_machines_clock_is_wrong(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    visitor.page.clock.set_system_time(time.time() + 3600)
    visitor.open("/queues")

    let_time_pass(visitor)

    visitor.sees("s fast", "#live")


def test_what_one_person_does_another_sees(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    anna, ben = visit(), visit(has_clock=True)
    ben.open("/queues/default")
    ben.sees("open", "[data-live=queue]")

    anna.open("/queues/default").click("text=Pause")
    anna.sees("queue default is paused")
    let_time_pass(ben)

    ben.sees("paused", "[data-live=queue]")
    ben.page.click("text=Resume")
    ben.sees("queue default is open again")


@pytest.mark.parametrize(
    "action",
    [
        (TaskState.ARCHIVED, "Run", "will run as soon as"),
        (TaskState.PENDING, "Archive", "is archived"),
        (TaskState.SCHEDULED, "Cancel", "is cancelled"),
        (TaskState.COMPLETED, "Delete", "is deleted"),
    ],
)
@pytest.mark.parametrize("scripts", [True, False], ids=["in a dialog", "on a page"])
def test_somebody_is_asked_and_then_it_is_done(
    action: tuple[TaskState, str, str], scripts: bool, visit: Open, client: Client, broker: Broker
) -> None:
    state, what, told = action
    task_id = in_state(client, broker, state)
    visitor = visit(java_script_enabled=scripts)
    page = visitor.open(f"/tasks/{task_id}")

    page.click(f".actions >> text={what}")
    asks = page.locator("dialog" if scripts else "main").filter(has_text="?")
    asks.locator("a", has_text="Back").click()
    page.wait_for_selector("[data-question]", state="detached")
    page.click(f".actions >> text={what}")
    asks.locator("button").click()

    visitor.sees(told)


def test_a_list_that_somebody_clicks_on_is_asked_for_once_with_as_many_rows_as_they_chose(
    visit: Open, client: Client
) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/settings")
    page.select_option("main [data-keeps=size]", "25")
    visitor.open("/queues/default")

    page.click("text=Its tasks")
    page.wait_for_url("**/tasks?queue=default&size=25")
    visitor.sees("test:echo")

    assert [path for path in visitor.asked if path.startswith("/tasks")] == ["/tasks?queue=default&size=25"]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_who_has_ticked_nothing_is_told_so_and_goes_back_to_the_same_list(
    scripts: bool, visit: Open, client: Client
) -> None:
    client.enqueue("test:echo", task_id="a", queue="low")
    visitor = visit(java_script_enabled=scripts)
    page = visitor.open("/tasks?queue=low&state=pending&size=25&sort=type")
    there = page.url

    page.click("#selected >> text=Archive")
    visitor.sees("No task is ticked")
    page.click("main >> text=Back")
    visitor.sees("Pending tasks of queue low")

    assert page.url == there


def test_a_wrong_word_leaves_the_question_where_it_is(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/tasks?queue=default&state=pending")

    page.click("text=Delete all")
    page.fill("dialog [name=name]", "defau")
    page.click("dialog button")
    is_refused = page.evaluate("document.querySelector('dialog [name=name]').validity.patternMismatch")
    page.fill("dialog [name=name]", "default")
    page.click("dialog button")

    assert is_refused
    visitor.sees("has been ordered")


def test_a_moment_that_is_none_is_asked_for_again(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/tasks/a")

    page.click(".actions >> text=Reschedule")
    page.fill("dialog [name=when]", "soon")
    page.click("dialog button")
    visitor.sees("when: no time")
    page.fill("[name=when]", "2h")
    page.click("[data-question] button")

    visitor.sees("task a waits for its new moment")


def test_moments_of_a_question_are_told_as_all_others(visit: Open, client: Client) -> None:
    client.enqueue("test:echo", unique=9000)
    visitor = visit(timezone_id="Asia/Tokyo")
    page = visitor.open("/limits?search=1")

    page.click("text=Release…")

    visitor.sees("It ends by itself in 2h at the latest", "dialog")


def test_a_page_stands_still_while_somebody_is_asked(visit: Open, client: Client, broker: Broker) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/tasks/a")
    page.click(".actions >> text=Archive")
    visitor.sees("can be run later", "dialog")

    asked = asked_in_a_minute(visitor)
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")

    assert asked == []
    assert page.evaluate("document.activeElement.textContent") == "Archive"


def test_what_somebody_chose_is_kept(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(timezone_id="Asia/Tokyo", color_scheme="light")
    page = visitor.open("/settings")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    page.select_option("main [data-keeps=theme]", "dark")
    page.select_option("main [data-keeps=moments]", "absolute")
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    visitor.open("/tasks/a")
    there = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    zoned = visitor.text("[data-live=task] time")
    page.select_option("header [data-keeps=zone]", "utc")
    in_utc = visitor.text("[data-live=task] time")

    assert light != dark == there
    assert (zoned[-5:], in_utc[-3:]) == ("GMT+9", "UTC")
    assert visitor.text("#zone") == "UTC"


def test_lists_have_the_rows_and_columns_that_somebody_chose(visit: Open, client: Client) -> None:
    enqueue(client, *(f"t{number:02}" for number in range(30)))
    visitor = visit()
    page = visitor.open("/settings")
    payload = "main :is([data-label=Payload], [data-column=Payload])"

    page.select_option("main [data-keeps=size]", "25")
    page.uncheck("main [data-shows=payload]")
    page.click("header [data-key=t]")
    page.wait_for_url("**/tasks?size=25")
    asked = [path for path in visitor.asked if path.startswith("/tasks")]
    listed = page.locator("main tbody tr").count()
    visitor.open("/tasks?queue=default&state=pending")
    page.wait_for_url("**/tasks?queue=default&state=pending&size=25")
    more = page.get_attribute("nav.pager a:text-is('More')", "href")
    page.emulate_media(media="print")
    on_paper = page.locator(payload).first.is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 320, "height": 800})
    on_a_telephone = page.locator(payload).last.is_visible()

    assert (asked, listed) == (["/tasks?size=25"], 25)
    assert "size=25" in (more or "")
    assert (on_paper, on_a_telephone) == (False, False)
    assert page.locator("main [data-label=Type]").first.is_visible()


def test_on_paper_moments_have_their_day_and_so_has_that_of_the_page(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit()
    page = visitor.open("/tasks/a")
    page.select_option("header [data-keeps=zone]", "utc")
    visitor.sees("ago")
    opened = page.get_attribute("footer time", "datetime") or ""
    page.wait_for_function("before => document.querySelector('footer time')?.dateTime > before", arg=opened)
    on_screen = page.is_visible("footer time")
    page.evaluate("""addEventListener("beforeprint", () => {
      window.printed = ["main time", "footer time"].map((each) => document.querySelector(each).textContent);
    })""")

    page.pdf()
    printed = page.evaluate("printed")
    visitor.sees("ago")
    page.emulate_media(media="print")
    on_paper = visitor.text("footer")
    page.emulate_media(media="screen")

    assert [each[10:11] + each[-3:] for each in printed] == [" UTC", " UTC"]
    assert not on_screen
    assert f"as of {printed[1][:10]} " in on_paper


def test_what_is_chosen_or_forgotten_in_one_window_is_seen_in_another(visit: Open) -> None:
    visitor = visit()
    page = visitor.open("/settings")
    other = visitor.context.new_page()
    other.goto(page.url)

    other.uncheck("main [data-shows=payload]")
    other.select_option("main [data-keeps=size]", "25")
    page.wait_for_selector("header [href$='/tasks?size=25']")
    chosen = page.is_checked("main [data-shows=payload]")
    other.evaluate("localStorage.clear()")
    page.wait_for_selector("header [href$='/tasks']")
    forgotten = page.is_checked("main [data-shows=payload]")
    other.close()

    assert (chosen, forgotten) == (False, True)


def test_a_page_that_is_never_to_be_renewed_is_not(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    page = visitor.open("/queues")

    page.select_option("header [data-keeps=interval]", "0")
    page.locator("h1").click()

    assert asked_in_a_minute(visitor) == []
    assert "not renewed" in visitor.text("#live")


def test_a_page_waits_as_long_as_the_server_asks_it_to_and_says_so(
    visit: Open, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, "a")
    visitor = visit(has_clock=True)
    visitor.open("/queues")
    monkeypatch.setattr(pace, "WINDOW_S", 0.0)
    monkeypatch.setattr(pace, "SHARE", 1e-9)

    def is_told() -> bool:
        let_it_renew(visitor, "/queues")
        return "renewed every 30 s, as the dashboard is busy" in visitor.text("#live")

    wait_until(is_told, "it says how often it is renewed")
    before = len(visitor.asked)
    let_time_pass(visitor, 20)
    visitor.page.evaluate("0")
    early = visitor.asked[before:]
    let_it_renew(visitor, "/queues")

    assert early == []


def test_without_scripts_a_page_is_renewed_by_the_browser(visit: Open, client: Client) -> None:
    enqueue(client, "a")
    visitor = visit(java_script_enabled=False)
    page = visitor.open("/tasks?queue=default")

    page.click("text=Renew by itself")
    page.wait_for_url("**/tasks?queue=default&renew=1")

    assert '<meta http-equiv="refresh"' in page.content()
