"""The daemon's lines in a real journal: their priorities, that no error is lost in a flood, and files beside it."""

import json

from service import DROP_IN, Service
from support import wait_until

#: How many tasks make a flood where the journal takes few lines.
FLOOD = 2_000
FEW_LINES = "LogRateLimitIntervalSec=300\nLogRateLimitBurst=200\n"
#: Fails one task of a hundred; its message tells which.
APP = """
import sys
from boilerd import ServeMux, SkipRetry
mux = ServeMux()

@mux.handle("app:work")
def work(task):
    if task.payload % 100 == 0:
        raise SkipRetry(f"number {task.payload}")

@mux.handle("app:print")
def show(task):
    print("from a handler")
    print("to stderr", file=sys.stderr)
"""
ENQUEUE = """
import sys
from boilerd import Client
client = Client.from_url("unix:///run/boilerd/valkey.sock")
for first in range(0, int(sys.argv[1]), 1000):
    client.enqueue_many([("app:work", n) for n in range(first, first + 1000)])
"""
COUNT = """
from boilerd.inspector import Inspector
queue = Inspector.from_url("unix:///run/boilerd/valkey.sock").queue("default")
print(queue.counts.pending + queue.counts.active)
"""


def shown(service: Service, *words: str) -> list[dict[str, str]]:
    """Entries of the journal that the daemon wrote, with the journal's own fields."""
    service.box.run("journalctl", "--sync", check=False)
    text = service.box.run("journalctl", "-t", "boiler-worker", "-o", "json", "-q", *words, timeout=120).stdout
    return [json.loads(line) for line in text.splitlines()]


def python(service: Service, script: str, *words: str) -> str:
    return service.box.run("/opt/boilerd/bin/python", "-c", script, *words, timeout=600).stdout.strip()


def test_every_failure_is_found_by_its_priority_in_a_flood_of_lines(service: Service) -> None:
    service.box.write("/srv/myproject/tasks.py", APP)
    service.drop_in(DROP_IN + FEW_LINES)
    service.start()
    before = len(shown(service))

    python(service, ENQUEUE, str(FLOOD))
    wait_until(lambda: python(service, COUNT) == "0", "all tasks have run")
    entries = shown(service, "-p", "err", "--since", "-1h")

    lines = [json.loads(entry["MESSAGE"]) for entry in entries]
    failed = {line["error"] for line in lines if line["message"] == "task failed"}
    assert len(shown(service)) - before < FLOOD  # it was one that the journal did not take
    assert failed >= {f"SkipRetry: number {n}" for n in range(0, FLOOD, 100)}


def test_each_line_has_its_priority_and_what_a_handler_prints_is_one(service: Service) -> None:
    service.box.write("/srv/myproject/tasks.py", APP)
    service.start()

    task_id = service.enqueue("app:print")
    service.wait_for("task completed", task_id=task_id)

    entries = [(entry["PRIORITY"], json.loads(entry["MESSAGE"])) for entry in shown(service)]
    assert [(priority, line["message"]) for priority, line in entries if line.get("task_id") == task_id] == [
        ("6", "task started"), ("6", "from a handler"), ("4", "to stderr"), ("6", "task completed"),
    ]  # fmt: skip


def test_a_log_file_is_written_where_the_unit_may_and_moved_by_logrotate(service: Service) -> None:
    service.box.write("/etc/boilerd/boilerd.toml", 'log_output = "both"\nlog_file = "/var/log/boilerd/boilerd.log"\n')
    service.start()
    path = service.box.root / "var/log/private/boilerd/boilerd.log"
    first = service.enqueue("app:version")
    service.wait_for("task completed", task_id=first)

    path.rename(path.with_suffix(".1"))
    second = service.enqueue("app:version")
    service.wait_for("task completed", task_id=second)

    assert first in path.with_suffix(".1").read_text()
    assert second in path.read_text()
    assert second in service.box.run("boilerd", "logs", "--task", second).stdout
