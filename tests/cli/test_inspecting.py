"""The commands that look at the broker and intervene."""

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from boilerd import Client, Inspector, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.claims import Completion
from boilerd.cli import COMMANDS
from boilerd.cli import boilerd as main
from boilerd.tasks.retry import Verdict
from builders import complete_next, enqueue, fail_next, in_state, new_task, pending, rq_job, rq_queue, tell_cron
from support import (
    DEADLINE_S,
    Command,
    Done,
    StartDaemon,
    Valkey,
    boilerd,
    clean_environment,
    python_path,
    wait_until,
)


@pytest.fixture
def command(valkey: Valkey, directory: Path) -> Command:
    """Runs a command on the tests' Valkey; no daemon runs."""
    env = clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP="apps:mux", PYTHONPATH=python_path()
    )
    return lambda *words, **options: boilerd(*words, env=env | options.pop("env", {}), **options)


@pytest.fixture
def inspector(connection: redis.Redis) -> Inspector:
    return Inspector(connection)


def rows(done: Done) -> list[list[str]]:
    assert (done.returncode, done.stderr) == (0, ""), done
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("state", [*TaskState])
def test_task_ls_lists_the_tasks_of_each_state(
    command: Command, client: Client, broker: Broker, state: TaskState
) -> None:
    task_id = in_state(client, broker, state)

    head, *shown = rows(command("task", "ls", "--state", state))
    as_json = [json.loads(line) for line in command("task", "ls", "-s", state, "--json").stdout.splitlines()]

    assert head[:2] == ["ID", "TYPE"]
    assert [row[:2] for row in shown] == [[task_id, "test:echo"]]
    assert [(task["id"], task["state"], task["payload"]) for task in as_json] == [(task_id, state, 1)]


def test_a_task_that_waits_for_a_concurrency_key_says_so(command: Command, client: Client, broker: Broker) -> None:
    for task_id in ("first", "second"):
        client.enqueue("test:echo", task_id=task_id, concurrency_key="customer:7")
        broker.advance(task_id, ["default"])

    listed = command("task", "ls").stdout
    shown = command("task", "show", "second").stdout

    assert "second" in listed
    assert "concurrency key customer:7" in listed
    assert re.search("waits for +concurrency key customer:7", shown)


def test_a_task_that_rq_cancelled_says_so(command: Command, client: Client, connection: redis.Redis) -> None:
    task_id = client.enqueue("test:echo").id
    rq_job(connection, task_id).cancel()

    shown = command("task", "show", task_id).stdout

    assert re.search("state +canceled", shown)


def test_what_is_no_text_is_an_escape_in_json(command: Command, client: Client, connection: redis.Redis) -> None:
    task_id = client.enqueue("test:echo", "ü").id
    connection.hset(keys.job(task_id), "last_error", b"half a \xc3")

    shown = command("task", "show", task_id, "--json")
    listed = command("task", "ls", "--json")

    assert [json.loads(done.stdout)["last_error"] for done in (shown, listed)] == ["half a \udcc3"] * 2
    assert '"ü"' in shown.stdout


def test_task_recent_lists_what_completed_last_with_how_long_it_took(
    command: Command, client: Client, broker: Broker
) -> None:
    task_id = client.enqueue("test:echo").id
    (claim,) = broker.advance("w", ["default"]).claims
    broker.advance("w", (), [Completion(claim)])

    head, row = rows(command("task", "recent"))
    told = json.loads(command("task", "recent", "--json").stdout)

    assert head == ["ID", "TYPE", "COMPLETED", "TOOK", "WORKER"]
    assert (row[:2], row[-2:]) == ([task_id, "test:echo"], ["0.0s", "w"])
    assert (told["id"], told["worker"]) == (task_id, "w")


def test_task_show_tells_everything_with_the_traceback_of_each_attempt(
    command: Command, client: Client, broker: Broker
) -> None:
    task_id = client.enqueue("test:echo", {"to": "ä\x1b[2J"}).id
    fail_next(broker, Verdict.ARCHIVE)

    shown = command("task", "show", task_id).stdout

    assert re.search(r'^payload +\{"to": "ä\\u001b\[2J"\}$', shown, re.MULTILINE)
    assert re.search(r"^state +archived$", shown, re.MULTILINE)
    assert re.search(r"^attempt 1: failed after \d\.\ds, 20\d\d-.* \(\d\.\ds ago\), host\.run\.0$", shown, re.MULTILINE)
    assert "\n  Traceback …\n  ValueError: bad\n" in shown
    assert json.loads(command("task", "show", task_id, "--json").stdout)["attempts"][0]["is_success"] is False


@pytest.mark.parametrize(
    ("retention", "told"), [("-1", ["for", "ever"]), (str(sys.maxsize), ["for", "ever"]), ("500", ["8m"]), ("0", None)]
)
def test_task_show_tells_how_long_a_task_is_kept(
    command: Command, client: Client, connection: redis.Redis, retention: str, told: list[str] | None
) -> None:
    task_id = client.enqueue("test:echo").id
    connection.hset(keys.job(task_id), "result_ttl", retention)

    shown = {name: words for name, *words in rows(command("task", "show", task_id))}

    assert shown.get("retention") == told


def test_what_tasks_hold_never_moves_the_cursor(command: Command, client: Client, broker: Broker) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    client.connection.hset(keys.job(task_id), "last_error", "\x1b[2Jgone\r\n")

    for words in (("task", "show", task_id), ("task", "ls", "-s", "archived")):
        shown = command(*words).stdout
        assert "\\x1b[2Jgone" in shown
        assert "\x1b" not in shown


def test_tasks_are_run_archived_and_deleted_by_id(command: Command, client: Client, broker: Broker) -> None:
    inspector = Inspector(client.connection)
    one, two = in_state(client, broker, TaskState.ARCHIVED), client.enqueue("test:echo", process_in=99).id

    assert command("task", "run", one, two).returncode == 0
    assert {inspector.task(task_id).state for task_id in (one, two)} == {TaskState.PENDING}
    assert command("task", "archive", one).returncode == 0
    assert inspector.task(one).state is TaskState.ARCHIVED
    assert command("task", "delete", one, two).returncode == 0
    assert not client.connection.exists(keys.job(one), keys.job(two))


def test_what_can_be_done_is_done_and_what_cannot_is_told(command: Command, client: Client) -> None:
    pending = client.enqueue("test:echo").id

    done = command("task", "delete", "nope", pending, "neither")

    assert done.returncode == 1
    assert [line.partition("task ")[2].split()[0] for line in done.stderr.splitlines()] == ["'nope'", "'neither'"]
    assert not client.connection.exists(keys.job(pending))


def test_all_tasks_of_a_state_are_run_at_once(command: Command, client: Client, broker: Broker) -> None:
    for task_type in ("mail:send", "mail:send", "test:echo"):
        in_state(client, broker, TaskState.ARCHIVED, task_type)

    done = command("task", "run", "--all", "--state", "archived", "--queue", "default", "--type", "mail:send")

    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    counts = Inspector(client.connection).queues()[0]
    assert (counts.pending, counts.archived) == (2, 1)


def test_all_that_a_search_finds_are_archived(command: Command, client: Client) -> None:
    for name in ("anna", "bob"):
        client.enqueue("test:echo", {"to": name}, task_id=name)

    wrong = command("task", "archive", "--all", "-s", "pending", "--find", "queue:low anna", "--yes")
    done = command("task", "archive", "--all", "-s", "pending", "--find", "payload.to:anna", "--yes")

    assert (wrong.returncode, "of another queue or state" in wrong.stderr) == (2, True)
    assert done.stdout == "1\n"
    assert pending(client.connection) == ["bob"]
    assert Inspector(client.connection).audit()[-1].on["search"] == "payload.to:anna"


@pytest.mark.parametrize(
    "words",
    [
        ("task", "delete", "--all", "-s", "pending"),
        ("task", "archive", "--all", "-s", "pending"),
        ("queue", "purge", "default"),
    ],
)
def test_what_destroys_asks_first(command: Command, client: Client, words: tuple[str, ...]) -> None:
    client.enqueue("test:echo")

    unasked = command(*words)
    assert unasked.returncode == 2
    assert "Say so with --yes." in unasked.stderr
    assert client.connection.llen(keys.queue("default")) == 1

    assert command(*words, "--yes").stdout == "1\n"
    assert client.connection.llen(keys.queue("default")) == 0


def test_a_no_on_a_terminal_leaves_everything_as_it_is(client: Client, valkey: Valkey) -> None:
    client.enqueue("test:echo")
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "boilerd", "queue", "purge", "default", "--redis-url", valkey.url],
        env=clean_environment(), stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.write(master, b"n\n")
        out, err = process.communicate(timeout=DEADLINE_S)
    os.close(master)
    os.close(slave)

    assert (process.returncode, out) == (1, "")
    assert "Delete all pending tasks of queue default? [y/N]" in err
    assert client.connection.llen(keys.queue("default")) == 1


def test_task_cancel_deletes_what_waits_and_tells_what_has_ended(
    command: Command, client: Client, broker: Broker
) -> None:
    ended = in_state(client, broker, TaskState.COMPLETED)
    waiting = client.enqueue("test:echo").id

    done = command("task", "cancel", waiting, ended)

    assert done.returncode == 1
    assert f"cannot cancel task {ended}" in done.stderr
    assert not client.connection.exists(keys.job(waiting))


def test_queue_ls_and_show_tell_counts_latency_and_history(command: Command, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", queue="low")
    in_state(client, broker, TaskState.ARCHIVED)
    client.enqueue("test:echo")
    command("queue", "pause", "low")

    listed = rows(command("queue", "ls"))
    shown = command("queue", "show", "default", "--days", "2").stdout

    columns = ["QUEUE", "PENDING", "ACTIVE", "SCHEDULED+RETRY", "ARCHIVED", "COMPLETED", "LATENCY", "MEMORY"]
    assert listed[0] == columns
    assert [row[:6] for row in listed[1:]] == [["default", "1", "0", "0", "1", "0"], ["low", "1", "0", "0", "0", "0"]]
    assert [row[-1] == "paused" for row in listed[1:]] == [False, True]
    assert re.search(r"^archived +1$", shown, re.MULTILINE)
    assert re.search(r"^20\d\d-\d\d-\d\d +1 +1 +100.00%$", shown, re.MULTILINE)
    found = [json.loads(line) for line in command("queue", "ls", "--json").stdout.splitlines()]
    assert [(queue["name"], queue["is_paused"]) for queue in found] == [("default", False), ("low", True)]


def test_queue_ls_lists_queues_of_plain_rq_whatever_their_names(command: Command, connection: redis.Redis) -> None:
    rq_queue(connection, "mail:EU").enqueue("shop.bill", 7)

    assert [row[:2] for row in rows(command("queue", "ls"))[1:]] == [["mail:EU", "1"]]


def test_a_misspelt_queue_is_not_paused(command: Command, connection: redis.Redis, broker: Broker) -> None:
    broker.register("host.run.0", ["reports"], {"state": "idle"})

    misspelt = command("queue", "pause", "crit")
    others = command("queue", "pause", "critical", "reports")

    assert misspelt.returncode == 1
    assert misspelt.stderr == "boilerd: error: queue 'crit' was never used; there are: none\n"
    assert (others.returncode, others.stderr) == (0, "")
    assert connection.smembers(keys.PAUSED) == {b"critical", b"reports"}


def test_pausing_twice_is_told_and_no_error(command: Command, connection: redis.Redis) -> None:
    command("queue", "pause", "low")
    again = command("queue", "pause", "low", "default")
    resumed = command("queue", "resume", "low", "default")
    never = command("queue", "resume", "low")

    assert (again.returncode, again.stderr) == (0, "queue low was paused already\n")
    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert (never.returncode, never.stderr) == (0, "queue low was not paused\n")
    assert not connection.exists(keys.PAUSED)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([], ["--note", "moves", "--until", "2h"], "; its note and end are changed"),
        (["--note", "moves"], ["--note", "moves", "--until", "2h"], "; its end is changed"),
        (["--note", "moves"], ["--note", "is gone"], "; its note is changed"),
        (["--note", "moves", "--until", "2h"], [], "; its note and end are gone"),
        (["--note", "moves"], ["--note", "moves"], ""),
    ],
)
def test_pausing_twice_tells_what_becomes_of_note_and_end(
    before: list[str], now: list[str], told: str, command: Command, broker: Broker
) -> None:
    tell_cron(broker, "low")
    for what in ("queue", "cron"):
        command(what, "pause", "low", *before)

    again = [command(what, "pause", "low", *now).stderr for what in ("queue", "cron")]

    assert again == [f"{named} low was paused already{told}\n" for named in ("queue", "periodic task")]


def test_a_queue_that_nobody_knows_is_not_resumed(command: Command, client: Client) -> None:
    enqueue(client, "task", queue="reports")

    misspelt = command("queue", "resume", "report")

    assert misspelt.returncode == 1
    assert misspelt.stderr == "boilerd: error: queue 'report' was never used; there are: reports\n"


def test_queue_ls_and_show_tell_until_when_and_why_a_queue_is_paused(
    command: Command, client: Client, inspector: Inspector
) -> None:
    enqueue(client, "task")
    inspector.pause("default", note="the mail server moves", until=datetime(2090, 1, 31, 8, tzinfo=UTC))

    listed, shown = (command("queue", *words) for words in (["ls"], ["show", "default"]))
    as_json = [json.loads(command("queue", *words, "--json").stdout) for words in (["ls"], ["show", "default"])]

    told = r"paused until 2090-\S+ \S+ \(in \d+d\): the mail server moves$"
    assert re.search(told, listed.stdout, re.MULTILINE)
    assert re.search(f"^state +{told}", shown.stdout, re.MULTILINE)
    assert [(found["pause"]["note"], found["pause"]["until"]) for found in as_json] == [
        ("the mail server moves", "2090-01-31T08:00:00Z")
    ] * 2


def test_what_was_said_of_a_pause_is_left_out_where_another_programs_key_stands(
    command: Command, client: Client, inspector: Inspector, connection: redis.Redis
) -> None:
    enqueue(client, "task")
    inspector.pause("default")
    connection.set(keys.PAUSES, "mine")

    listed, shown = (command("queue", *words) for words in (["ls"], ["show", "default"]))

    assert rows(listed)[1][-1] == "paused"
    assert re.search("^state +paused$", shown.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("until", "told"),
    [
        ("soon", "'soon' is neither a duration such as 30s, 1h30m or 7d, or a number of seconds nor a moment such as"),
        ("-1h", "'-1h' is neither a duration such as"),
        ("2027-01-31T08:00", "'2027-01-31T08:00' has no time zone"),
        ("2027-13-31T08:00Z", "'2027-13-31T08:00Z' is not a moment such as"),
    ],
)
def test_an_end_of_a_pause_that_nobody_can_read_is_told_with_what_would_do(
    command: Command, until: str, told: str
) -> None:
    assert told in command("queue", "pause", "low", "--until", until).stderr


def test_lock_ls_tells_a_misspelt_name_from_one_without_locks(command: Command, client: Client) -> None:
    enqueue(client, "task", unique=60)

    none = command("lock", "ls", "--queue", "low")
    misspelt = command("lock", "ls", "--queue", "mails")
    of_type = command("lock", "ls", "--type", "test:ecko")

    assert (none.returncode, none.stderr) == (0, "")
    assert misspelt.returncode == 1
    assert misspelt.stderr == "boilerd: error: queue 'mails' was never used; there are: default\n"
    assert of_type.returncode == 0
    assert of_type.stderr == "note: no lock is of type 'test:ecko', but there are those of test:echo\n"


@pytest.mark.usefixtures("on_one_day")
def test_stats_sum_over_all_queues(command: Command, client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", queue="low")
    in_state(client, broker, TaskState.ARCHIVED)
    in_state(client, broker, TaskState.COMPLETED)

    found = json.loads(command("stats", "--json").stdout)
    shown = command("stats").stdout

    assert found["tasks"] == {"pending": 1, "active": 0, "scheduled": 0, "archived": 1, "completed": 1}
    assert found["today"] == {"processed": 2, "failed": 1, "dropped": 0}
    assert "50.00%" in shown
    assert found["broker"]["server"] in shown


def test_worker_ls_tells_who_runs_what(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    task_id = client.enqueue("test:sleep", 30).id
    daemon.wait_for("task started", task_id=task_id)
    wait_until(lambda: len(daemon.cli("worker", "ls").stdout.splitlines()) == 3, "both are registered")

    shown = daemon.cli("worker", "ls").stdout

    assert len(re.findall(rf"busy .* test:sleep {task_id} +\d", shown)) == 1
    assert daemon.cli("worker", "scale", "1").returncode == 0


def test_cron_ls_and_run(command: Command, connection: redis.Redis, directory: Path) -> None:
    (directory / "crons.py").write_text(
        "from boilerd import ServeMux\nmux = ServeMux()\n"
        "mux.cron('@every 1h', 'report:send', {'a': 1}, name='mine', queue='low')\n"
    )
    env = {"BOILERD_APP": "crons:mux"}

    listed = rows(command("cron", "ls", cwd=directory, env=env))
    task_id = command("cron", "run", "mine", cwd=directory, env=env).stdout.strip()
    unknown = command("cron", "run", "yours", cwd=directory, env=env)

    assert listed[1][:5] == ["mine", "@every", "1h", "UTC", "report:send"]
    assert listed[1][-2] == "in"
    shown = Inspector(connection).task(task_id)
    assert (shown.type, shown.queue, shown.payload) == ("report:send", "low", {"a": 1})
    assert unknown.returncode == 2
    assert "no periodic task 'yours'; there are: mine" in unknown.stderr


def test_cron_ls_says_which_entries_no_daemon_has(
    command: Command, broker: Broker, connection: redis.Redis, directory: Path
) -> None:
    told = json.dumps({"crons": [{"name": name, "spec": "@daily", "type": "a:b"} for name in ("mine", "theirs")]})
    broker.publish("web1.a", len(told), told)
    broker.ticks_since({"mine": "UTC @daily", "removed": "UTC @weekly"})
    cron = json.dumps([{"name": name, "spec": "@daily", "type": "a:b"} for name in ("mine", "new")])
    env = {"BOILERD_APP": "", "BOILERD_CRON": cron}

    listed = [json.loads(line) for line in command("cron", "ls", "--json", env=env).stdout.splitlines()]
    table = command("cron", "ls", env=env).stdout

    assert {row["name"]: (row["daemons"], row["problem"]) for row in listed} == {
        "mine": (["web1.a"], ""), "theirs": (["web1.a"], ""), "new": ([], "no daemon that lives has this entry"),
        "removed": ([], "no daemon has this entry any more"),
    }  # fmt: skip
    assert table.splitlines()[0].split()[-2:] == ["NEXT", "ON"]
    assert re.search(r"^theirs .* in \S+ +web1$", table, re.MULTILINE)


def test_cron_history_shows_what_became_of_each_tick(command: Command, broker: Broker, client: Client) -> None:
    client.enqueue("a:b", task_id="taken")
    for tick_s, task_id in ((1.0, "done"), (2.0, "taken"), (3.0, "waits")):
        broker.tick("mine", tick_s, new_task(task_id))
    client.cancel("taken")
    complete_next(broker)

    shown = command("cron", "history", "mine").stdout
    last = command("cron", "history", "mine", "--size", "1", "--json")
    unknown = command("cron", "history", "yours")

    latest, skipped, first = shown.splitlines()[1:]
    assert " waits  pending" in latest
    assert skipped.endswith("a task of its ID was there already")
    assert re.search(r" done +completed +\d{4}-", first)
    assert json.loads(last.stdout).items() >= {"task_id": "waits", "state": "pending", "skipped": ""}.items()
    assert unknown.returncode == 2
    assert "no periodic task 'yours'; there are: none" in unknown.stderr


def test_the_schemas_of_an_application_are_shown(command: Command, directory: Path) -> None:
    (directory / "typed.py").write_text(
        "from boilerd import ServeMux\nmux = ServeMux()\n"
        "mux.handle('email:', lambda task: None, payload=list[int])\nmux.handle('bare', lambda task: None)\n"
    )
    env = {"BOILERD_APP": "typed:mux"}

    every = command("schema", cwd=directory, env=env)
    one = command("schema", "email:deliver", cwd=directory, env=env)
    none = command("schema", "bare", cwd=directory, env=env)

    assert json.loads(every.stdout) == {"email:": json.loads(one.stdout)}
    assert json.loads(one.stdout).items() >= {"title": "list[int]", "type": "array"}.items()
    assert none.returncode == 2
    assert "no handler declares the payload of 'bare' by payload=; declared are: email:" in none.stderr


def test_cron_ls_that_finds_nothing_says_where_it_looked(command: Command) -> None:
    done = command("cron", "ls", env={"BOILERD_APP": ""})
    as_json = command("cron", "ls", "--json", env={"BOILERD_APP": ""})

    assert (done.returncode, done.stdout.split()) == (
        0, ["NAME", "SPEC", "TIMEZONE", "TYPE", "PREVIOUS", "NEXT"],
    )  # fmt: skip
    assert done.stderr.startswith("no periodic tasks in these settings and in app (built-in); where the daemon was")
    assert (as_json.stdout, as_json.stderr) == ("", "")


def test_health_tells_of_tasks_that_wait_too_long(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    daemon.cli("quiet")
    task_id = client.enqueue("test:echo").id
    client.connection.hset(keys.job(task_id), "enqueued_at", "2026-01-01T00:00:00Z")

    late = daemon.cli("health", "--max-latency", "1h")
    fine = daemon.cli("health")
    daemon.cli("queue", "pause", "default")

    assert late.returncode == 1
    assert re.fullmatch(r"queue default: the oldest task has waited \d+ s\n", late.stdout)
    assert (fine.returncode, fine.stdout) == (0, "ok\n")
    assert json.loads(daemon.cli("health", "--json").stdout) == {"ok": True, "troubles": []}
    paused = daemon.cli("health", "--max-latency", "1h")
    assert paused.returncode == 1
    assert re.fullmatch(r"queue default \(paused\): the oldest task has waited \d+ s\n", paused.stdout)


def test_health_and_status_tell_of_tasks_that_nobody_will_claim(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    task_id = client.enqueue("test:echo", queue="maill").id
    client.enqueue("test:echo", queue="later", process_in=3600)
    client.connection.hset(keys.job(task_id), "enqueued_at", "2026-01-01T00:00:00Z")

    late = daemon.cli("health", "--max-latency", "1h")
    fine = daemon.cli("health")
    as_json = json.loads(daemon.cli("health", "--json").stdout)
    table = daemon.cli("status").stdout

    notes = [f"queue {name}: tasks wait, and no worker works on it" for name in ("later", "maill")]
    assert late.returncode == 1
    assert re.match(r"queue maill: the oldest task has waited \d+ s\nnote: queue later: ", late.stdout)
    assert (fine.returncode, fine.stdout.splitlines()) == (0, ["ok", *(f"note: {note}" for note in notes)])
    assert as_json == {"ok": True, "troubles": [], "notes": notes}
    told = [line.split()[0] for line in table.splitlines() if line.endswith("tasks wait, and no worker works on it")]
    assert sorted(told) == ["later", "maill"]
    assert json.loads(daemon.cli("status", "--json").stdout)["unserved"] == ["later", "maill"]


def test_status_counts_what_waits_as_its_own_table_does(start_daemon: StartDaemon, client: Client) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    daemon.cli("quiet")
    client.enqueue_many([("test:echo", None)] * 1234)

    shown = daemon.cli("status").stdout
    as_json = json.loads(daemon.cli("status", "--json").stdout)

    assert "daemon      quiet, 1 worker, 0 busy, 1,234 pending" in shown.splitlines()
    assert as_json["daemon"]["pending"] == 1234
    assert re.search(r"^default +1234 ", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "words",
    [
        ("stats",), ("queue", "ls"), ("queue", "pause", "default"), ("task", "ls"), ("task", "cancel", "x"),
        ("task", "move", "--to", "unix:///nowhere"),
        ("worker", "ls"), ("cron", "run", "mine"), ("enqueue", "test:echo"), ("health",), ("status",),
    ],
)  # fmt: skip
def test_without_a_daemon_each_command_says_what_to_do(directory: Path, words: tuple[str, ...]) -> None:
    (directory / "crons.py").write_text(
        "from boilerd import ServeMux\nmux = ServeMux()\nmux.cron('@every 1h', 'report:send', name='mine')\n"
    )
    env = clean_environment(BOILERD_STATE_DIR=str(directory), BOILERD_APP="crons:mux")

    done = boilerd(*words, env=env, cwd=directory)

    assert done.returncode == 1
    cure = "start `boilerd run`, or set redis_url (BOILERD_REDIS_URL)"
    told = f"no broker: no daemon with an embedded Valkey at {directory}/run; {cure}"
    assert told in done.stdout + done.stderr


def test_enqueue_warns_of_a_type_that_no_worker_of_the_queue_handles(
    start_daemon: StartDaemon, connection: redis.Redis
) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    daemon.cli("queue", "pause", "default")

    known = daemon.cli("enqueue", "test:echo")
    misspelt = daemon.cli("enqueue", "tset:echo")
    wrong = daemon.cli("enqueue", "test echo")
    connection.hdel(connection.smembers(keys.WORKERS).pop(), "application")  # as of an older version
    unknown = daemon.cli("enqueue", "tset:echo")

    assert [done.returncode for done in (known, misspelt, unknown)] == [0, 0, 0]
    assert (known.stderr, unknown.stderr) == ("", "")
    assert misspelt.stderr.startswith("boilerd: warning: no worker of queue default has a handler for 'tset:echo'; ")
    assert wrong.stderr.startswith("boilerd: error: task type 'test echo': ")  # alone
    assert pending(connection) == [done.stdout.strip() for done in (known, misspelt, unknown)]


@pytest.mark.parametrize(
    "words",
    [
        ("task", "show", "x"), ("task", "ls"), ("task", "run", "x"), ("task", "cancel", "x"), ("queue", "ls"),
        ("queue", "pause", "a"), ("queue", "show", "a"), ("stats",), ("worker", "ls"), ("cron", "ls"),
    ],
)  # fmt: skip
def test_without_a_broker_each_command_says_so_in_one_line(directory: Path, words: tuple[str, ...]) -> None:
    env = clean_environment(BOILERD_REDIS_URL=f"unix://{directory}/none.sock")

    done = boilerd(*words, env=env, cwd=directory)

    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"boilerd: error: Redis did not answer: .*none\.sock.*\n", done.stderr)


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("task", "show", "nope"), 1, "task 'nope' does not exist"),
        (("task", "ls", "--queue", "nope"), 1, "queue 'nope' was never used; there are: none"),
        (("queue", "show", "nope"), 1, "queue 'nope' was never used"),
        (("queue", "show", "no pe"), 2, "no pe"),
        (("task", "ls", "--state", "broken"), 2, "'broken' is not one of 'pending', 'active'"),
        (("task", "run"), 2, "give either task IDs, or --all with --state"),
        (("task", "run", "x", "--all"), 2, "give either task IDs, or --all with --state"),
        (("task", "ls", "--page", "0"), 2, "0 is not in the range x>=1"),
        (("queue", "nope"), 2, "No such command 'nope'"),
        (("failures", "nope"), 2, "No such command 'nope'"),
        (("failures", "3f0c2a91d4be"), 2, "see that failure group with: boilerd failures show 3f0c2a91d4be"),
        (("types", "--since", "40000d"), 2, "'40000d' is too long; the longest duration is 68 years, or 24855d"),
    ],
)
def test_wrong_words_get_an_error_that_says_what_would_do(
    command: Command, words: tuple[str, ...], status: int, error: str
) -> None:
    done = command(*words)

    assert (done.returncode, done.stdout) == (status, "")
    assert error in done.stderr


def test_a_reader_that_goes_away_ends_a_long_list_quietly(client: Client, valkey: Valkey) -> None:
    client.enqueue_many([("test:echo", n) for n in range(10_000)])
    tool = f"{sys.executable} -m boilerd task ls --size 10000 --redis-url {valkey.url} | head -n 2"

    done = subprocess.run(["bash", "-c", tool], env=clean_environment(), capture_output=True, text=True, check=False)

    assert (len(done.stdout.splitlines()), done.stderr) == (2, "")


@pytest.mark.parametrize("width", [30, 60, 100])
def test_a_table_fits_a_narrow_terminal_and_is_whole_in_a_pipe(
    client: Client, broker: Broker, valkey: Valkey, width: int
) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    client.connection.hset(keys.job(task_id), "last_error", "x" * 300)
    words = [sys.executable, "-m", "boilerd", "task", "ls", "-s", "archived", "--redis-url", valkey.url]
    env = clean_environment(COLUMNS=str(width), TERM="xterm")

    piped = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    shown = subprocess.run(
        ["script", "-qec", " ".join(words), "/dev/null"], env=env, capture_output=True, text=True, check=True,
        stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip

    assert "x" * 300 in piped
    assert "\x1b" not in piped
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert max(map(len, plain)) <= width
    assert (task_id in shown) == (width >= 60)
    assert ("…" in shown) == (width != 60)


def test_no_colour_where_it_is_not_wanted(client: Client, valkey: Valkey) -> None:
    client.enqueue("test:echo")
    words = f"{sys.executable} -m boilerd queue ls --redis-url {valkey.url}"

    def on_a_terminal(**variables: str) -> str:
        env = clean_environment(TERM="xterm-256color", COLUMNS="120", **variables)
        script = ["script", "-qec", words, "/dev/null"]
        return subprocess.run(
            script, env=env, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        ).stdout

    assert not re.search(r"\x1b\[3\d|\x1b\[4\d", on_a_terminal(NO_COLOR="1"))
    assert "default" in on_a_terminal()


def test_every_command_has_help_with_an_example() -> None:
    def help_of(words: tuple[str, ...]) -> str:
        shown = CliRunner().invoke(main, [*words, "--help"], prog_name="boilerd")
        assert shown.exit_code == 0
        return shown.output

    def commands(words: tuple[str, ...]) -> list[tuple[str, ...]]:
        _, found, listed = help_of(words).partition("Commands:\n")
        names = re.findall(r"^  ([a-z]+) ", listed, re.MULTILINE) if found else []
        return [leaf for name in names for leaf in commands((*words, name))] if names else [words]

    groups = [name for name in COMMANDS if name != "config"]
    leaves = [leaf for name in groups for leaf in commands((name,))]
    missing = [words for words in leaves if f"  boilerd {' '.join(words)}" not in help_of(words)]

    manual = (Path(__file__).parents[2] / "docs" / "boilerd.1").read_text()

    assert len(leaves) >= 28
    assert [words for words in leaves if f".SS boilerd {' '.join(words)}" not in manual] == []
    # Their examples are those of `boilerd restart` and `boilerd scale`.
    assert sorted(missing) == [("worker", "restart"), ("worker", "scale")]


def log_line(message: str, level: str = "info", **fields: object) -> str:
    return json.dumps({"time": "2026-11-24T09:30:00.123Z", "level": level, "message": message, "pid": 7, **fields})


LOG = [
    log_line("task started", task_id="a", task_type="mail:send"),
    "Traceback of somebody else",
    log_line(
        "task failed", "error", task_id="a", task_type="mail:send", error="no", traceback="Traceback\nRuntimeError"
    ),
    log_line("task completed", task_id="b", task_type="test:echo"),
]
#: As the handlers write it that applications bring along.
FOREIGN = log_line("boom", "error", task_id=["a"], exc_info="Traceback\n\tValueError: \x1b[2J", args=[1])


@pytest.mark.parametrize("variable", ["BOILERD_LOG_FILE", "LOG_FILE"])
def test_logs_are_readable_lines_of_the_log_file(command: Command, directory: Path, variable: str) -> None:
    (directory / "boilerd.log").write_text("\n".join(LOG) + "\n")
    env = {variable: str(directory / "boilerd.log"), "TZ": "UTC"}

    done = command("logs", env=env)

    assert done.stdout.splitlines() == [
        "09:30:00.123 INFO    task started  task_id=a task_type=mail:send",
        "Traceback of somebody else",
        "09:30:00.123 ERROR   task failed  task_id=a task_type=mail:send error=no",
        "Traceback",
        "RuntimeError",
        "09:30:00.123 INFO    task completed  task_id=b task_type=test:echo",
    ]


def test_logs_show_json_lines_of_others_without_moving_the_cursor(command: Command) -> None:
    done = command("logs", "--file", "-", stdin=FOREIGN + "\n", env={"TZ": "UTC"})
    of_task = command("logs", "--file", "-", "--task", "a", stdin=FOREIGN + "\n")

    assert done.stdout.splitlines() == [
        "09:30:00.123 ERROR   boom  task_id=['a']",
        "Traceback",
        "\\tValueError: \\x1b[2J",
    ]
    assert (of_task.returncode, of_task.stdout, of_task.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (("--task", "b"), [3]),
        (("--type", "mail:send"), [0, 2]),
        (("--level", "warning"), [1, 2]),
        (("-n", "1"), [3]),
        (("-n", "1", "--type", "mail:send"), [2]),
        (("-n", "0"), []),
        (("-n", "9" * 20, "--task", "b"), [3]),
    ],
)
def test_logs_can_be_filtered(command: Command, flags: tuple[str, ...], wanted: list[int]) -> None:
    done = command("logs", "--file", "-", "--json", *flags, stdin="\n".join(LOG) + "\n")

    assert (done.stdout.splitlines(), done.returncode) == ([LOG[n] for n in wanted], 0)


def test_logs_follow_a_file_that_grows_and_is_rotated(directory: Path) -> None:
    log = directory / "boilerd.log"
    log.write_text(f"{LOG[0]}\n")
    words = [sys.executable, "-m", "boilerd", "logs", "-f", "--json", "--file", str(log)]
    with (
        (directory / "out").open("wb") as out,
        subprocess.Popen(
            words, env=clean_environment(PYTHONUNBUFFERED="1"), stdout=out, stderr=subprocess.DEVNULL
        ) as process,
    ):

        def said() -> list[str]:
            return (directory / "out").read_text().splitlines()

        wait_until(lambda: said() == LOG[:1], "the first line")
        with log.open("a") as file:
            file.write(f"{LOG[2]}\n")
        wait_until(lambda: said() == [LOG[0], LOG[2]], "the line that came")
        log.rename(directory / "boilerd.log.1")
        log.write_text(f"{LOG[3]}\n")
        wait_until(lambda: said() == [LOG[0], LOG[2], LOG[3]], "the line of the new file")
        process.terminate()


def test_logs_that_find_nothing_in_the_journal_say_where_they_looked(command: Command, directory: Path) -> None:
    journal = directory / "journalctl"
    journal.write_text(f"#!/bin/sh\necho '{log_line('task started')}'\n")
    journal.chmod(0o755)
    env = {"PATH": f"{directory}:{os.environ['PATH']}", "LOG_FILE": ""}

    found = command("logs", "--unit", "mail", env=env)
    nothing = command("logs", "--unit", "mail", "--level", "error", env=env)

    assert (found.returncode, found.stderr) == (0, "")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert re.fullmatch(r"no such lines of mail in the journal; .* --unit or --file\n", nothing.stderr)


def test_a_log_that_is_not_there_is_told(command: Command, directory: Path) -> None:
    missing = command("logs", "--file", str(directory / "none.log"))
    nowhere = command("logs", env={"PATH": str(directory)})

    assert missing.returncode == 1
    assert "none.log: No such file" in missing.stderr
    assert nowhere.returncode == 1
    assert "log_file is not set, and there is no journal here; give --file" in nowhere.stderr
