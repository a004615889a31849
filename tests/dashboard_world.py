"""A Redis in which much has happened, so that each page of the dashboard has something to show."""

from collections.abc import Mapping
from typing import Any

import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from boilerd.broker.last_words import LastWords
from boilerd.broker.operation_record import Order
from boilerd.tasks.fingerprint import FailureKind
from boilerd.tasks.metric_record import LATER_BUCKETS
from boilerd.tasks.retry import Verdict
from boilerd.web.page import ACTIONS, PAGES, load_pages
from builders import count_in_minute, counted, fail_as, fail_next, in_state, keep_page, new_task, tell_cron

TRACEBACK = """Traceback (most recent call last):
  File "shop/mails.py", line 41, in deliver
    smtp.sendmail(message.sender, message.recipients, message.as_string())
  File "/usr/lib/python3.13/smtplib.py", line 894, in sendmail
    raise SMTPRecipientsRefused(senderrs)
smtplib.SMTPRecipientsRefused: {'anna@example.org': (550, b'No such user')}
"""
PAYLOAD = {"to": "anna@example.org", "order": 20417, "lines": [{"sku": "A-1", "count": 2}], "api_key": "hidden"}
#: Which tasks a page asks about, where its address alone does not say it.
SETS = {
    "/bulk/run": "?queue=payments&state=archived",
    "/bulk/archive": "?queue=images&state=pending",
    "/bulk/delete": "?queue=default&state=completed",
    "/bulk/cancel": "?queue=default&state=scheduled",
    "/bulk/reschedule": "?queue=default&state=scheduled",
    "/bulk/move": "?q=-nothing",
    "/queues/{queue}/purge": "?state=archived",
    "/limits/release": "?queue=default&type=test:lock&digest={digest}",
}
#: Pages that ask as another one does, which is looked at.
ALIKE = {f"{place}/{deed}" for place in ("/failures/{fingerprint}", "/types/{type}") for deed in ("run", "archive")}
#: Pages that are looked at beside those that are declared.
MORE = (
    "/tasks?state=archived",
    "/tasks?state=completed",
    "/tasks?queue=empty",
    "/tasks/gone",
    "/tasks?q=-x",
    "/nothing",
)


def fill(client: Client, connection: redis.Redis) -> dict[str, str]:
    """Let tasks of all kinds happen; an example for each part that the address of a page names."""
    broker = Broker(connection)
    client.enqueue("email:deliver", PAYLOAD, task_id="order-20417")
    fail_next(broker, Verdict.ARCHIVE, traceback=TRACEBACK)
    fingerprint = _fail(broker)
    for state in (TaskState.COMPLETED, TaskState.RETRY, TaskState.SCHEDULED, TaskState.ACTIVE, TaskState.PENDING):
        in_state(client, broker, state)
    for number in range(12):
        client.enqueue("image:resize", {"path": f"/srv/uploads/2026/11/{number:032x}.png"}, queue="images")
    client.enqueue("test:echo", "<script>alert(1)</script><b onclick=x>'\"", queue="mail.low")
    client.enqueue("report:write_a_type_with_a_rather_long_name", "x" * 300, queue="mail.low", task_id="t" * 120)
    Inspector(connection).pause("mail.low")
    return {
        "queue": "default",
        "id": "order-20417",
        "type": _measure(connection),
        "fingerprint": fingerprint,
        "cron": _tick(broker),
        "operation": _operate(connection),
        "worker": _die(broker),
        "pool": "default",
        "digest": _lock(client),
        "snapshot": keep_page(connection),
    }


def _measure(connection: redis.Redis) -> str:
    """Have attempts counted in the last hours, and in those before; the type of most of them."""
    minute, task_type = int(connection.time()[0]) // 60, "report:write_a_type_with_a_rather_long_name"
    for ago in range(2, 240, 7):
        count_in_minute(connection, minute - ago, "images", "image:resize", counted(ago, run_s=0.004 * ago))
        record = counted(12_345 * ago, archived=ago % 3, run_s=90.0 / ago) | {LATER_BUCKETS: 234, LATER_BUCKETS + 4: 5}
        for queue in ("default", "mail.low"):
            count_in_minute(connection, minute - ago, queue, task_type, record)
    return task_type


def _fail(broker: Broker) -> str:
    """Have tasks fail in one way, in two releases; the fingerprint."""
    error, message = "shop.gateways.PaymentGatewayRefusedError", "card N of 'anna@example.org' was refused " + "x" * 80
    frames = ("shop.gateways.PaymentGateway.charge", "shop.orders.pay")
    for number, release in enumerate(("2026.11.28", "2026.11.29", "2026.11.29")):
        how = FailureKind("c0ffee" * 2, "order:charge", error, message, frames, release)
        fail_as(broker, f"charge-{number}", how, queue="payments", task_type="order:charge")
        if not number:
            inspector = Inspector(broker.connection)
            inspector.mark_failure("c0ffee" * 2, "acknowledge")
            inspector.mark_failure("c0ffee" * 2, "note", "the bank refuses some cards since Friday, anna asks them")
    return "c0ffee" * 2


def _tick(broker: Broker) -> str:
    """Have a periodic task tick; its name."""
    name = tell_cron(broker, "accounts-of-each-night", "30 3 * * 1-5", "a-host-with-a-rather-long-name.example.org.a1")
    now_s = int(broker.now())
    broker.tick(name, float(now_s - 120), new_task("accounts-of-each-night-1", retention=3600), missed=2)
    broker.tick(name, float(now_s - 60), None, why="its queue was full")
    return name


def _lock(client: Client) -> str:
    """Have a task hold a unique lock; the digest of its payload."""
    client.enqueue("test:lock", {"of": 1}, unique=3600)
    (lock,) = Inspector(client.connection).unique_locks(task_type="test:lock").locks
    return lock.digest


def _operate(connection: redis.Redis) -> str:
    """Do something with many tasks, of which one is gone; the operation's ID."""
    operations = Inspector(connection).operations
    found, runner = operations.begin(Order("run", task_ids=("charge-0", "order-of-long-ago")))
    operations.run(found, runner)
    operations.begin(Order("delete", "images", TaskState.PENDING), undo_s=3600)
    return found.id


def _die(broker: Broker) -> str:
    """Have a worker take much memory, and its predecessor and another die; its name."""
    name = "a-host-with-a-rather-long-name.a1b2c3.0"
    for number, rss in enumerate((900 << 20, 80 << 20, 90 << 20)):
        other = name.replace(".0", f".{number}")
        record: dict[str, Any] = {
            "queues": "default,images",
            "hostname": name.partition(".")[0],
            "pid": 4711,
            "state": "idle",
            "rss": rss,
            "birthmark": "x",
        }
        broker.register(other, ["default", "images"], record)
    because = "its task ignored its limit of 30 s, from timeout or deadline"
    held: dict[str, Any] = {
        "task_id": "order-20417",
        "task_type": "email:deliver",
        "tasks": 1,
        "rss_bytes": 812 << 20,
        "lived_s": 4000,
    }
    broker.note_death(LastWords(name, exit="signal 9 (SIGKILL)", because=because, pid=4710, **held).encoded())
    broker.note_death(LastWords(name.replace(".0", ".1"), exit="exit status 1").encoded())
    return name


class _Examples(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise AssertionError(f"a page has {{{name}}} in its address: give an example in `fill` of dashboard_world.py")


def address(path: str, examples: Mapping[str, str]) -> str:
    """The address of an example of a page."""
    return path.format_map(_Examples(examples))


load_pages()
#: The pages that ask before an action.
ASKING = tuple(
    f"{action.path}{SETS.get(action.path, '')}" for action in ACTIONS if action.about and action.path not in ALIKE
)
#: All pages, as they are declared, those that ask, and more.
PATHS = (*(page.path for page in PAGES), *ASKING, *MORE)
