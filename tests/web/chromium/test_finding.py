"""What an operator looks for is found from the first page by a few clicks, with the words that stand there."""

from collections.abc import Callable

import pytest

from boilerd import Client, Inspector
from boilerd.broker.broker import Broker
from boilerd.tasks.fingerprint import FailureKind
from builders import claim, fail_as, tell_cron
from chromium import Visitor
from support import wait_until

Open = Callable[..., Visitor]

#: No way is longer.
MOST_CLICKS = 5
BROKEN = FailureKind("b" * 12, "invoice:send", "KeyError", "'…'", ("shop.invoices.send",), "2026.12")
OF_BEFORE = FailureKind("a" * 12, "mail:send", "ConnectionError", "refused", ("shop.mails.send",), "2026.11")


class Operator:
    """Starts at the first page, and clicks on what can be seen."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self.page = visitor.open("/")
        self.clicks = 0

    def clicks_on(self, words: str, within: str = "main") -> None:
        """Click on the first link or button that says so."""
        self.clicks += 1
        assert self.clicks <= MOST_CLICKS
        places = self.page.locator(f"{within} :is(a, button, [role=option]):visible")
        places.filter(has_text=words).first.click()

    def sees(self, words: str, within: str = "main") -> None:
        """Wait until it stands there."""
        self._visitor.sees(words, within)


@pytest.mark.parametrize(
    ("queue", "key", "because"),
    [
        ("gpu", None, "Nobody works on queue gpu"),
        ("default", "customer-7", "Its concurrency key customer-7 lets 1 run at a time, and 1 run: first"),
        ("mailings", None, "the mail server moves"),
    ],
)
def test_why_a_task_of_which_the_id_is_known_does_not_run(
    queue: str, key: str | None, because: str, *, visit: Open, client: Client, broker: Broker
) -> None:
    _have_worker(broker, 0, 40)
    client.enqueue("report:build", task_id="first", concurrency_key="customer-7")
    claim(broker, "default")
    client.enqueue("report:build", task_id="waits-here", queue=queue, concurrency_key=key)
    if queue == "mailings":
        Inspector(client.connection).pause(queue, note="the mail server moves")
    operator = Operator(visit())

    operator.clicks_on("Go to", "header")
    operator.page.keyboard.type("waits-here")
    operator.clicks_on("waits-here", "dialog")

    operator.sees("Task waits-here", "h1")
    operator.sees(because)


def test_what_began_to_fail_in_the_last_release_and_its_archived_tasks_run_again(
    visit: Open, client: Client, broker: Broker
) -> None:
    fail_as(broker, "mail-1", OF_BEFORE, task_type="mail:send")
    for number in range(3):
        fail_as(broker, f"invoice-{number}", BROKEN, task_type="invoice:send")
    operator = Operator(visit())

    operator.sees("new in 2026.12", "[aria-label=Failures] tr")
    operator.clicks_on("Failures", "header")
    operator.clicks_on("first in the last release, 2026.12")
    operator.sees("invoice:send", "tbody tr")
    assert operator.page.locator("tbody tr").count() == 1
    operator.clicks_on("KeyError")
    operator.clicks_on("Run all")
    operator.sees("3, counted now", "dialog")
    operator.clicks_on("Run", "dialog")

    operator.sees("Operation", "h1")
    wait_until(lambda: Inspector(client.connection).queue("default").counts.pending == 3, "they run again")


def test_all_archived_tasks_of_a_failure_are_listed(visit: Open, client: Client, broker: Broker) -> None:
    fail_as(broker, "mail-1", OF_BEFORE, task_type="mail:send")
    fail_as(broker, "invoice-1", BROKEN, task_type="invoice:send")
    operator = Operator(visit())

    operator.clicks_on("KeyError")
    operator.clicks_on("1", "dt:text-is('Archived now') + dd")

    operator.sees("invoice-1", "tbody tr")
    assert operator.page.locator("tbody tr").count() == 1


def test_which_worker_takes_most_memory(visit: Open, client: Client, broker: Broker) -> None:
    for row, mib in enumerate((40, 900, 42)):
        _have_worker(broker, row, mib)
    operator = Operator(visit())

    operator.clicks_on("takes 900 MiB of memory")

    operator.sees("Workers", "h1")
    assert "shop.run.1" in operator.page.inner_text("tbody tr:first-child")
    assert "900 MiB" in operator.page.inner_text("tbody tr:first-child")


def test_which_periodic_task_missed_its_tick_and_why(visit: Open, client: Client, broker: Broker) -> None:
    tell_cron(broker, "each-hour", "@hourly")
    client.enqueue("stock:sync", task_id="sync-1")
    tick_s = float(int(broker.now()) // 3600 * 3600)
    broker.tick("each-hour", tick_s, None, why="task sync-1 holds its unique lock")
    operator = Operator(visit())

    operator.sees("1 missed lately", "[aria-label='Periodic tasks'] tr")
    operator.clicks_on("each-hour")
    operator.sees("task sync-1 holds its unique lock", "tbody tr")
    operator.clicks_on("sync-1")

    operator.sees("Task sync-1", "h1")


def _have_worker(broker: Broker, row: int, mib: int) -> None:
    """Have a worker of `default` and `mailings` that takes so much memory."""
    name, queues = f"shop.run.{row}", ["default", "mailings"]
    told: dict[str, str | int] = {
        "queues": ",".join(queues),
        "hostname": "shop",
        "pid": 4711 + row,
        "state": "idle",
        "rss": mib << 20,
    }
    broker.register(name, queues, told)
