"""A Redis in which much has happened, so that each page of the dashboard has something to show."""

from collections.abc import Mapping

import redis

from boilerd import Client, Inspector, TaskState
from boilerd.broker.broker import Broker
from boilerd.tasks.retry import Verdict
from boilerd.web.page import ACTIONS, PAGES, load_pages
from builders import fail_next, in_state

TRACEBACK = """Traceback (most recent call last):
  File "shop/mails.py", line 41, in deliver
    smtp.sendmail(message.sender, message.recipients, message.as_string())
  File "/usr/lib/python3.13/smtplib.py", line 894, in sendmail
    raise SMTPRecipientsRefused(senderrs)
smtplib.SMTPRecipientsRefused: {'anna@example.org': (550, b'No such user')}
"""
PAYLOAD = {"to": "anna@example.org", "order": 20417, "lines": [{"sku": "A-1", "count": 2}], "api_key": "hidden"}
#: Pages that are looked at beside those that are declared.
MORE = ("/tasks?state=archived", "/tasks?state=completed", "/tasks?queue=empty", "/nothing")


def fill(client: Client, connection: redis.Redis) -> dict[str, str]:
    """Let tasks of all kinds happen; an example for each part that the address of a page names."""
    broker = Broker(connection)
    client.enqueue("email:deliver", PAYLOAD, task_id="order-20417")
    fail_next(broker, Verdict.ARCHIVE, traceback=TRACEBACK)
    for state in (TaskState.COMPLETED, TaskState.RETRY, TaskState.SCHEDULED, TaskState.ACTIVE, TaskState.PENDING):
        in_state(client, broker, state)
    for number in range(12):
        client.enqueue("image:resize", {"path": f"/srv/uploads/2026/11/{number:032x}.png"}, queue="images")
    client.enqueue("test:echo", "<script>alert(1)</script><b onclick=x>'\"", queue="mail.low")
    client.enqueue("report:write_a_type_with_a_rather_long_name", "x" * 300, queue="mail.low", task_id="t" * 120)
    Inspector(connection).pause("mail.low")
    return {"queue": "default", "id": "order-20417"}


class _Examples(dict[str, str]):
    def __missing__(self, name: str) -> str:
        raise AssertionError(f"a page has {{{name}}} in its address: give an example in `fill` of dashboard_world.py")


def address(path: str, examples: Mapping[str, str]) -> str:
    """The address of an example of a page."""
    return path.format_map(_Examples(examples))


load_pages()
#: All pages, as they are declared, those that ask before an action, and more.
PATHS = (*(page.path for page in PAGES), *(action.path for action in ACTIONS if action.about), *MORE)
