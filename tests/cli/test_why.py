"""``boilerd task why``, and the same in the dash: sentences, JSON, and what only the daemon here knows."""

import json
import os

from rich.console import Console

from boilerd import Client
from boilerd.cli.dash.state import State
from boilerd.cli.dash.views import draw
from boilerd.inspector import Inspector
from support import StartDaemon, Valkey, boilerd, clean_environment, shown_by


def test_reasons_are_told_in_sentences_with_what_would_help(valkey: Valkey, client: Client) -> None:
    client.enqueue("test:echo", task_id="it", process_in=3600)
    Inspector(client.connection).pause("default")

    lines = shown_by("task", "why", "it", "--redis-url", valkey.url).splitlines()

    assert lines[:2] == [
        "task it, test:echo of queue default, is scheduled",
        "1. It is scheduled for a moment.",
    ]
    assert lines[2].startswith("   until ")
    assert lines[2].endswith(("(in 59m)", "(in 60m)"))
    assert lines[3:] == [
        "   try   boilerd task run it",
        "2. Nobody works on queue default: no worker lives at all.",
        "   try   boilerd run",
        "3. Queue default is paused, so that nothing is claimed from it.",
        "   try   boilerd queue resume default",
    ]


def test_json_is_one_object_with_the_reasons_in_their_order(valkey: Valkey, client: Client) -> None:
    client.enqueue("test:echo", task_id="it")

    found = json.loads(shown_by("task", "why", "it", "--json", "--redis-url", valkey.url))

    assert (found["id"], found["type"], found["queue"], found["state"]) == ("it", "test:echo", "default", "pending")
    assert [reason["kind"] for reason in found["reasons"]] == ["unserved", "ahead"]
    assert found["reasons"][0] == {
        "kind": "unserved", "fact": "Nobody works on queue default: no worker lives at all.", "since": None,
        "ends_at": None, "remedy": "boilerd run", "tasks": [],
    }  # fmt: skip


def test_a_quiet_daemon_is_told_where_its_control_socket_is_reached(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    assert daemon.cli("quiet").returncode == 0
    client.enqueue("test:echo", task_id="it")
    client.enqueue("test:echo", task_id="elsewhere", queue="other")

    kinds = {
        task_id: [
            reason["kind"] for reason in json.loads(daemon.cli("task", "why", task_id, "--json").stdout)["reasons"]
        ]
        for task_id in ("it", "elsewhere")
    }
    as_text = daemon.cli("task", "why", "it").stdout

    assert kinds == {"it": ["quiet", "ahead"], "elsewhere": ["unserved", "ahead"]}
    assert "1. The daemon here is quiet, so that its workers claim nothing" in as_text
    assert "   try   boilerd resume\n" in as_text


def test_a_quiet_pool_is_told_of_by_its_name(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1", env={"BOILERD_POOLS": '{"web": {"queues": {"web": 1}}}'}).ready()
    assert daemon.cli("quiet", "web").returncode == 0
    client.enqueue("test:echo", task_id="it", queue="web")
    client.enqueue("test:echo", task_id="other", queue="default")

    as_text = daemon.cli("task", "why", "it").stdout
    elsewhere = daemon.cli("task", "why", "other").stdout

    assert "1. Pool web of the daemon here is quiet, so that its workers claim nothing" in as_text
    assert "   try   boilerd resume web\n" in as_text
    assert "quiet" not in elsewhere


def test_a_task_without_an_id_is_told_of_beside_one_that_nobody_knows(valkey: Valkey) -> None:
    done = boilerd("task", "why", "never", env=clean_environment(BOILERD_REDIS_URL=valkey.url))

    assert (done.returncode, done.stdout) == (1, "")
    note, error = done.stderr.splitlines()
    assert note.startswith("note: a task that a unique lock refused was not stored and has no ID; ")
    assert error.startswith("boilerd: error: task 'never' does not exist")


def test_the_dash_shows_the_first_reason_of_the_chosen_task(client: Client) -> None:
    client.enqueue("test:echo", task_id="it")
    Inspector(client.connection).pause("default")
    state = State(Inspector(client.connection), client.cancel)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        screen = Console(file=nowhere, width=120, height=40, record=True)
        for key in ("", "enter", "enter"):
            state.press(key)
            state.refresh()
        screen.print(draw(state, "title", 120, 40))

    shown = screen.export_text()

    assert "why         Nobody works on queue default: no worker lives at all." in shown
    assert "try         boilerd run" in shown
