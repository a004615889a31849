"""The log lines of whole daemons: what they say of a task, and what an application may do to them."""

from boilerd import Client
from support import QUICK_RETRY, StartDaemon

APP = {"BOILERD_APP": "log_app:mux"}


def test_each_line_about_a_task_has_its_type_queue_attempt_and_request_id(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "2", env={**APP, **QUICK_RETRY, "BOILERD_SHUTDOWN_TIMEOUT": "0.1s"}).ready()

    ids = [client.enqueue(name, {"request_id": "r-7"}, max_retries=1).id for name in ("log:fail", "log:die")]
    for task_id in ids:
        daemon.wait_for("task archived", task_id=task_id)
    ids.append(client.enqueue("log:sleep", {"request_id": "r-7"}).id)
    daemon.wait_for("task started", task_id=ids[-1])
    assert daemon.stop() == 0

    lines = [line for line in daemon.lines() if "task_id" in line]
    assert {line["message"] for line in lines} == {
        "task started", "task failed", "task will be retried", "task archived", "task released, it will run again",
    }  # fmt: skip
    assert {line["task_id"] for line in lines} == set(ids)
    assert all(line["task_type"].startswith("log:") and line["queue"] == "default" for line in lines)
    assert {(line["attempt"], line["request_id"]) for line in lines} == {(1, "r-7"), (2, "r-7")}
