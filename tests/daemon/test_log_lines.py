"""The log lines of whole daemons: what they say of a task, and what an application may do to them."""

from pathlib import Path

import pytest

from boilerd import Client
from builders import rq_job
from log_app import SILENCERS
from support import QUICK_RETRY, RunningDaemon, StartDaemon, completed, wait_until

#: An empty PYTHONUNBUFFERED is none: what a developer has set would show at once what is printed.
APP = {"BOILERD_APP": "log_app:mux", "PYTHONUNBUFFERED": ""}


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


# --- What an application does to logging


def test_a_task_that_sets_up_logging_anew_silences_neither_itself_nor_later_ones(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env=APP).ready()

    ids = []
    for way in SILENCERS:
        ids += [client.enqueue("log:silence", way).id, client.enqueue("log:fail", max_retries=0).id]
    daemon.wait_for("task archived", task_id=ids[-1])

    messages = [[line["message"] for line in daemon.lines(task_id=task_id)] for task_id in ids]
    assert messages[::2] == [["task started", "task completed"]] * len(SILENCERS)
    assert messages[1::2] == [["task started", "task failed", "task archived"]] * len(SILENCERS)


def test_a_handler_of_the_application_that_a_task_adds_knows_its_caller(
    start_daemon: StartDaemon, client: Client, tmp_path: Path
) -> None:
    daemon = start_daemon("--concurrency", "1", env=APP).ready()

    task_id = client.enqueue("log:handler", str(tmp_path / "log")).id
    daemon.wait_for("task completed", task_id=task_id)

    assert (tmp_path / "log").read_text() == "APP INFO with its caller log_app.py\n"


def test_a_console_of_the_application_on_the_same_stream_shows_no_line_twice(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env={**APP, "LOG_APP": "has a console"}).ready()

    task_id = client.enqueue("log:log").id
    daemon.wait_for("task completed", task_id=task_id)
    assert daemon.stop() == 0

    shown = [line["message"] for line in daemon.lines(task_id=task_id)]
    assert shown == ["task started", "of the application", "of the task", "task completed"]
    assert [line["message"] for line in daemon.lines() if "APP" in line["message"]] == [
        "APP WARNING of its own log_app.py"
    ]


# --- What it prints


def test_what_a_handler_prints_is_log_lines_with_its_tasks_id(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", env={**APP, "LOG_APP": "prints"}).ready()

    ids = [client.enqueue("log:print", name).id for name in ("first", "second")]
    daemon.wait_for("task completed", task_id=ids[1])

    assert daemon.lines("printed at the import", logger="stdout", level="info")
    for task_id, name in zip(ids, ("first", "second"), strict=True):
        lines = [line for line in daemon.lines(task_id=task_id) if line["logger"] in {"stdout", "stderr"}]
        assert [(line["level"], line["logger"], line["message"]) for line in lines] == [
            ("info", "stdout", f"from {name} 100%"), ("warning", "stderr", "a warning"), ("info", "stdout", "bytes"),
            ("info", "stdout", "without an end"),
        ]  # fmt: skip
        assert {line["task_type"] for line in lines} == {"log:print"}
    assert daemon.errors() == ""


def printed(daemon: RunningDaemon, text: str) -> bool:
    return f"\n{text}\n" in (daemon.directory / "stdout").read_text()


@pytest.mark.parametrize("settings", [{"BOILERD_LOG_STDOUT": "raw"}, {"BOILERD_LOG_FORMAT": "text"}])
def test_what_a_handler_prints_appears_as_it_is_and_at_once_where_the_settings_say_so(
    start_daemon: StartDaemon, client: Client, settings: dict[str, str]
) -> None:
    daemon = start_daemon("--concurrency", "1", env={**APP, **settings, "BOILERD_SHUTDOWN_TIMEOUT": "0.1s"}).serving()

    client.enqueue("log:show")
    wait_until(lambda: printed(daemon, "shown at once"), "it is shown while the task runs")

    assert daemon.stop() == 0


def test_what_was_printed_without_an_end_of_line_is_shown_at_the_workers_end(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env={**APP, "BOILERD_LOG_STDOUT": "raw"}).serving()

    client.enqueue("log:print", "one")
    wait_until(lambda: printed(daemon, "from one 100%"), "it is shown")
    assert daemon.stop() == 0

    assert "without an end" in (daemon.directory / "stdout").read_text()


# --- Locks that a fork copies


@pytest.mark.parametrize("settings", [{}, {"BOILERD_LOG_OUTPUT": "file", "BOILERD_LOG_FILE": "log"}])
def test_a_worker_uses_what_a_thread_of_the_application_held_when_it_was_forked(
    start_daemon: StartDaemon, client: Client, settings: dict[str, str]
) -> None:
    env = {**APP, **settings, "LOG_APP": "holds locks", "BOILERD_MAX_TASKS": "1"}
    daemon = start_daemon("--concurrency", "2", env=env).serving()

    ids = [client.enqueue("log:use", retention=60).id for _ in range(6)]
    wait_until(lambda: all(completed(client.connection, task_id) for task_id in ids), "all are completed")

    results = {result.return_value for task_id in ids for result in rq_job(client.connection, task_id).results()}
    assert results == {"imported"}
    assert daemon.stop() == 0


# --- Floods


def test_of_many_tasks_that_go_well_only_so_many_are_logged_as_the_settings_say_and_all_that_fail(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", env={**APP, "BOILERD_LOG_TASKS_PER_SECOND": "1"}).ready()

    names = ["log:ok"] * 300 + ["log:fail"]
    ids = [client.enqueue(name, max_retries=0).id for name in names]
    daemon.wait_for("task archived", task_id=ids[-1])
    assert daemon.stop() == 0

    logged = daemon.lines("task completed")
    folded = [line["folded"] for line in daemon.lines() if line["message"].startswith("task completed: and ")]
    assert len(logged) < 150
    assert len(logged) + sum(folded) == 300
    assert daemon.lines("task failed", task_id=ids[-1])
