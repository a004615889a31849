"""The audit: every intervention leaves one right entry, and costs nothing where the audit cannot be written."""

import inspect
import json
import logging
import os
import pwd
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from boilerd import Actor, AuditEntry, BoilerdError, BulkProgress, Client, Inspector, TaskState
from boilerd.broker import audit, keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.broker.embedded import member_rights
from boilerd.broker.moving import Move
from builders import enqueue, fail_as, failure_kind, in_state, pending, tell_cron
from support import Failpoints, StartDaemon, StartValkey, Valkey, boilerd, clean_environment, shown_by

USER = os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
GROUP = "a" * 12
FAILURE = failure_kind(GROUP)


@dataclass
class Hands:
    """What an intervention is made with."""

    client: Client
    broker: Broker
    inspector: Inspector

    def waiting(self) -> str:
        """A pending task."""
        enqueue(self.client, "waits")
        return "waits"

    def failed(self) -> str:
        """An archived task."""
        return in_state(self.client, self.broker, TaskState.ARCHIVED)

    def cron(self) -> str:
        """A periodic task that a daemon has."""
        return tell_cron(self.broker)

    def fail_in(self, *queues: str) -> None:
        """An archived task of the failure group in each of the queues."""
        for number, queue in enumerate(queues):
            fail_as(self.broker, f"{queue}-{number}", FAILURE, queue=queue)


@pytest.fixture
def hands(client: Client, broker: Broker, connection: redis.Redis) -> Hands:
    return Hands(client, broker, Inspector(connection))


@pytest.fixture
def commands(valkey: Valkey, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that this process runs mean the tests' Valkey, and no daemon."""
    (directory / "boilerd.toml").write_text('[[cron]]\nname = "mine"\nspec = "@hourly"\ntype = "test:echo"\n')
    monkeypatch.chdir(directory)
    for name, value in clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP="apps:mux"
    ).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def user_with(connection: Any, valkey: Valkey) -> Iterator[Callable[..., redis.Redis]]:
    """Connects as a user of Redis who has only these rights."""
    with ExitStack() as stack:

        def connected(*rights: str) -> redis.Redis:
            connection.execute_command("ACL", "SETUSER", "guest", "on", "nopass", *rights)
            stack.callback(connection.execute_command, "ACL", "DELUSER", "guest")
            user: redis.Redis = stack.enter_context(connect(f"{valkey.url}?username=guest&password=any"))
            return user

        yield connected


def told(entry: AuditEntry) -> tuple[Any, ...]:
    return entry.via, entry.what, dict(entry.on), entry.count, entry.outcome, entry.why


def entries(connection: redis.Redis) -> list[tuple[Any, ...]]:
    return [told(entry) for entry in Inspector(connection).audit()]


def run_all(hands: Hands, action: Any, state: TaskState, task_type: str | None = None) -> None:
    for _ in hands.inspector.bulk(action, "default", state, task_type):
        pass


def end_after_first(steps: Generator[BulkProgress]) -> None:
    with closing(steps):
        next(steps)


def release(h: Hands, task_id: str) -> None:
    """Release the lock that a task which waits holds."""
    (lock,) = h.inspector.unique_locks().locks
    h.inspector.release_lock(lock.queue, lock.type, lock.digest, task_id=task_id, also_of_living=True)


def task(task_id: str) -> dict[str, str]:
    return {"task": task_id}


DEFAULT = {"queue": "default"}
#: Method of an Inspector → what brings its object about, what is done with that, and what the entry tells of it.
Case = tuple[Callable[[Hands], Any], Callable[[Hands, Any], Any], Callable[[Any], tuple[Any, ...]]]
CHANGING: dict[str, list[Case]] = {
    "run": [
        (Hands.failed, lambda h, i: h.inspector.run(i), lambda i: ("run", task(i), 1, "done", "")),
        (Hands.waiting, lambda h, i: h.inspector.run(i), lambda i: ("run", task(i), 0, "refused", "it is pending")),
    ],
    "archive": [(Hands.waiting, lambda h, i: h.inspector.archive(i), lambda i: ("archive", task(i), 1, "done", ""))],
    "delete": [
        (Hands.waiting, lambda h, i: h.inspector.delete(i), lambda i: ("delete", task(i), 1, "done", "")),
        (
            lambda h: "\x1b[2J\udcff" + "x" * 1000,
            lambda h, i: h.inspector.delete(i),
            lambda i: ("delete", task(f"{i[:199]}…"), 0, "refused", "there is no such task"),
        ),
    ],
    "cancel": [
        (Hands.waiting, lambda h, i: h.inspector.cancel(i), lambda i: ("cancel", task(i), 1, "done", "")),
        (Hands.waiting, lambda h, i: h.client.cancel(i), lambda i: ("cancel", task(i), 1, "done", "")),
        (
            lambda h: in_state(h.client, h.broker, TaskState.ACTIVE),
            lambda h, i: h.client.cancel(i),
            lambda i: ("cancel", task(i), 1, "done", ""),
        ),
        (Hands.failed, lambda h, i: h.client.cancel(i), lambda i: ("cancel", task(i), 0, "refused", "it had ended")),
    ],
    "move": [
        (
            Hands.waiting,
            lambda h, i: h.inspector.move(i, "other"),
            lambda i: ("move", {**task(i), "to": "other"}, 1, "done", ""),
        )
    ],
    "reschedule": [
        (
            Hands.waiting,
            lambda h, i: h.inspector.reschedule(i, datetime(2099, 1, 1, tzinfo=UTC)),
            lambda i: ("reschedule", {**task(i), "at": "2099-01-01T00:00:00+00:00"}, 1, "done", ""),
        )
    ],
    "enqueue": [
        (
            Hands.failed,
            lambda h, i: h.inspector.enqueue("test:echo", task_id="new", copied_from=i),
            lambda i: ("copy", {**task("new"), "type": "test:echo", **DEFAULT, "copied_from": i}, 1, "done", ""),
        )
    ],
    "export": [
        (
            Hands.waiting,
            lambda h, _: list(h.inspector.export("waits", queue="default")),
            lambda _: ("export", {**DEFAULT, "search": "waits"}, 1, "done", ""),
        )
    ],
    "export_audit": [
        (
            Hands.waiting,
            lambda h, _: list(h.inspector.export_audit(who="nobody")),
            lambda _: ("export", {"page": "/audit", "who": "nobody"}, 0, "done", ""),
        )
    ],
    "note_export": [
        (
            Hands.waiting,
            lambda h, _: h.inspector.note_export("/queues", 2),
            lambda _: ("export", {"page": "/queues"}, 2, "done", ""),
        )
    ],
    "reveal": [
        (
            Hands.waiting,
            lambda h, i: h.inspector.reveal(i),
            lambda i: ("reveal", {**task(i), **DEFAULT}, 1, "done", ""),
        )
    ],
    "pause": [(Hands.waiting, lambda h, _: h.inspector.pause("default"), lambda _: ("pause", DEFAULT, 1, "done", ""))],
    "resume": [
        (Hands.waiting, lambda h, _: h.inspector.resume("default"), lambda _: ("resume", DEFAULT, 0, "done", ""))
    ],
    "delete_queue": [
        (
            lambda h: in_state(h.client, h.broker, TaskState.PENDING),
            lambda h, _: h.inspector.delete_queue("default"),
            lambda _: (
                "delete", DEFAULT, 0, "refused",
                "queue 'default' cannot be deleted: it holds tasks; purge it, and take it out of the settings",
            ),
        )
    ],
    "release_lock": [
        (
            lambda h: enqueue(h.client, "holder", unique=60),
            lambda h, _: release(h, "holder"),
            lambda _: ("unlock", {"task": "holder", **DEFAULT, "type": "test:echo"}, 1, "done", ""),
        )
    ],
    "pause_cron": [
        (Hands.cron, lambda h, i: h.inspector.pause_cron(i), lambda i: ("pause", {"cron": i}, 1, "done", "")),
    ],
    "resume_cron": [
        (Hands.cron, lambda h, i: h.inspector.resume_cron(i), lambda i: ("resume", {"cron": i}, 0, "done", "")),
    ],
    "run_cron": [
        (Hands.cron, lambda h, i: h.inspector.run_cron(i), lambda i: ("cron run", {"cron": i}, 1, "done", "")),
    ],
    "bulk": [
        (
            lambda h: enqueue(h.client, *map(str, range(250))),
            lambda h, _: run_all(h, "delete", TaskState.PENDING, "test:echo"),
            lambda _: ("delete", {**DEFAULT, "state": "pending", "type": "test:echo"}, 250, "done", ""),
        ),
        (
            lambda h: enqueue(h.client, "one"),
            lambda h, _: run_all(h, "run", TaskState.PENDING),
            lambda _: (
                "run", {**DEFAULT, "state": "pending"}, 0, "refused",
                "cannot run pending tasks: state is pending, and must be scheduled, retry or archived",
            ),
        ),
        (
            lambda h: h.fail_in("default", "default"),
            lambda h, _: list(h.inspector.bulk("run", "default", TaskState.ARCHIVED, fingerprint=GROUP)),
            lambda _: ("run", {**DEFAULT, "state": "archived", "fingerprint": GROUP}, 2, "done", ""),
        ),
    ],
    "mark_failure": [
        (
            lambda h: h.fail_in("low"),
            lambda h, _: h.inspector.mark_failure(GROUP, "note", "ask anna"),
            lambda _: ("note", {"fingerprint": GROUP}, 1, "done", ""),
        ),
        (
            lambda h: h.fail_in("low"),
            lambda h, _: h.inspector.mark_failure(GROUP, "unmute"),
            lambda _: ("unmute", {"fingerprint": GROUP}, 0, "done", ""),
        ),
        (
            lambda h: None,
            lambda h, _: h.inspector.mark_failure(GROUP, "mute"),
            lambda _: ("mute", {"fingerprint": GROUP}, 0, "refused", "there is no such failure group"),
        ),
    ],
    "bulk_failure": [
        (
            lambda h: h.fail_in("default", "low", "high"),
            lambda h, _: list(h.inspector.bulk_failure("delete", GROUP)),
            lambda _: ("delete", {"fingerprint": GROUP}, 3, "done", ""),
        ),
        (
            lambda h: h.fail_in("default", "low", "high"),
            lambda h, _: end_after_first(h.inspector.bulk_failure("run", GROUP)),
            lambda _: ("run", {"fingerprint": GROUP}, 1, "interrupted", ""),
        ),
        (
            lambda h: None,
            lambda h, _: list(h.inspector.bulk_failure("run", GROUP)),
            lambda _: (
                "run", {"fingerprint": GROUP}, 0, "refused",
                f"failure group {GROUP!r} does not exist; `boilerd failures` lists those of the last 30 days",
            ),
        ),
    ],
}  # fmt: skip
CASES = [
    pytest.param(*case, id=f"{name}-{number}") for name, cases in CHANGING.items() for number, case in enumerate(cases)
]
#: Methods that only look, with what they are asked.
LOOKING: dict[str, tuple[Any, ...]] = {
    "queues": (), "queue_details": (), "queue": ("default",), "history": ("default",), "is_suspended": (),
    "remembered_s": ("waits",), "has_workers": ("default",), "handled_types": ("default",), "unserved": (),
    "tasks": ("default", TaskState.PENDING), "recent": ("default",), "task": ("waits",), "explain": ("waits",),
    "workers": (), "broker": (), "crons": (), "last_ticks": (), "problems": (), "audit": (), "audit_after": ("",),
    "failures": (), "failure": (GROUP,), "close": (), "tasks_of": (["waits"],), "find": ({"request_id": "r-9"},),
    "metrics": (timedelta(hours=1),), "totals": (), "search": ("waits",), "parse_filter": ("after:2h",),
    "last_place": ("default", TaskState.PENDING), "place_around": ("default", "waits"),
    "traces": ("waits", "default"), "dependents": ("waits",), "last_completed": ("default", "test:echo"),
    "key_holders": ("boilerd:unique:x", "key"), "server": (), "concurrency_keys": (), "unique_locks": (),
    "failure_states": (), "deaths": (), "paused_crons": (), "pauses": (), "daemons": (), "ticks": ("nightly",),
    "histories": (["nightly"],), "composition": ("default",), "longest_running": (["default"],),
    "noting": ("quiet",),  # which changes nothing before its block
    "check_enqueue": ("test:echo",),
    "key_tasks": ("key",), "refusals": (), "unique_lock": ("default", "test:echo", "0"), "queue_names": (),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "intervene", "expected"), CASES)
def test_each_intervention_from_python_leaves_one_right_entry(
    hands: Hands, connection: redis.Redis, prepare: Any, intervene: Any, expected: Any
) -> None:
    subject = prepare(hands)

    try:
        intervene(hands, subject)
    except BoilerdError:
        assert expected(subject)[3] == "refused"

    (entry,) = hands.inspector.audit()
    assert told(entry) == ("python", *expected(subject))
    assert (entry.user.split(" as ")[0], entry.host) == (USER, os.uname().nodename)
    now = datetime.fromtimestamp(connection.time()[0], UTC)
    assert abs(now - entry.at) < timedelta(minutes=1)


def test_whoever_gives_an_inspector_a_new_method_says_whether_it_changes_something() -> None:
    methods = {name for name, _ in inspect.getmembers(Inspector, callable) if not name.startswith("_")}

    assert methods - {"from_url", "from_settings"} == {*CHANGING, *LOOKING}


@pytest.mark.parametrize("method", LOOKING)
def test_a_method_that_is_said_to_look_changes_nothing(hands: Hands, connection: redis.Redis, method: str) -> None:
    hands.waiting()
    hands.fail_in("low")

    def everything() -> dict[bytes, Any]:
        return {key: connection.dump(key) for key in connection.scan_iter()}

    before = everything()
    getattr(hands.inspector, method)(*LOOKING[method])

    assert everything() == before


CLI: list[tuple[str, tuple[Any, ...]]] = [
    ("queue pause default", ("pause", DEFAULT, 1, "done", "")),
    ("queue resume default", ("resume", DEFAULT, 0, "done", "")),
    ("queue purge default --yes", ("delete", {**DEFAULT, "state": "pending"}, 1, "done", "")),
    ("task run waits", ("run", task("waits"), 0, "refused", "it is pending")),
    ("task archive waits", ("archive", task("waits"), 1, "done", "")),
    ("task delete waits", ("delete", task("waits"), 1, "done", "")),
    ("task archive --all --state pending --yes", ("archive", {**DEFAULT, "state": "pending"}, 1, "done", "")),
    ("task cancel waits", ("cancel", task("waits"), 1, "done", "")),
    (f"failures run {GROUP}", ("run", {"fingerprint": GROUP}, 1, "done", "")),
    (f"failures archive {GROUP} --yes", ("archive", {"fingerprint": GROUP}, 0, "done", "")),
    (f"failures delete {GROUP} --yes", ("delete", {"fingerprint": GROUP}, 1, "done", "")),
    (f"failures acknowledge {GROUP}", ("acknowledge", {"fingerprint": GROUP}, 1, "done", "")),
    (f"failures mute {GROUP} --undo", ("unmute", {"fingerprint": GROUP}, 0, "done", "")),
    (f"failures note {GROUP} known", ("note", {"fingerprint": GROUP}, 1, "done", "")),
    ("cron run mine", ("cron run", {"cron": "mine"}, 1, "done", "")),
]


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(("line", "expected"), CLI, ids=[line for line, _ in CLI])
def test_each_command_that_intervenes_leaves_one_right_entry(
    hands: Hands, connection: redis.Redis, line: str, expected: tuple[Any, ...]
) -> None:
    hands.waiting()
    hands.fail_in("low")

    shown_by(*line.split())

    assert entries(connection) == [("cli", *expected)]


def test_a_move_leaves_one_entry_for_each_queue_that_held_something(
    client: Client, connection: redis.Redis, start_valkey: StartValkey
) -> None:
    enqueue(client, "a", "b", queue="low")
    connection.sadd(keys.QUEUES, keys.queue("empty"))

    with connect(start_valkey().url) as target:
        move = Move(connection, target, Actor("cli"))
        for queue in move.queues():
            list(move.run(queue))

    assert entries(connection) == [("cli", "move", {"queue": "low"}, 2, "done", "")]


@pytest.mark.usefixtures("commands")
def test_each_command_to_a_daemon_leaves_one_right_entry(
    start_daemon: StartDaemon, connection: redis.Redis, directory: Path
) -> None:
    daemon = start_daemon("--concurrency", "1", directory=directory).ready()
    lines = "quiet", "resume", "scale default=2", "restart worker:0", "scale nowhere=2", "reload --no-wait"

    for line in lines:
        shown_by(*line.split())

    place = {"daemon": str(daemon.socket.parent)}
    found = entries(connection)
    assert [row[1] for row in found] == [line.split()[0] for line in lines]
    assert [row[2] for row in found] == [
        place, place, {**place, "pool": "default", "size": "2"}, {**place, "workers": "worker:0"},
        {**place, "pool": "nowhere", "size": "2"}, place,
    ]  # fmt: skip
    assert [row[3:5] for row in found] == [(1, "done")] * 4 + [(0, "refused"), (1, "done")]


def test_a_bulk_action_that_is_left_tells_how_far_it_came(hands: Hands, connection: redis.Redis) -> None:
    enqueue(hands.client, *map(str, range(250)))

    with closing(hands.inspector.bulk("delete", "default", TaskState.PENDING)) as steps:
        next(steps)

    assert entries(connection) == [("python", "delete", {**DEFAULT, "state": "pending"}, 100, "interrupted", "")]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_bulk_action_whose_command_is_ended_leaves_its_entry(
    client: Client, connection: redis.Redis, valkey: Valkey, failpoints: Failpoints, signum: signal.Signals
) -> None:
    enqueue(client, "waits")
    failpoints.arm("after-act", signum)
    before = signal.signal(signum, signal.SIG_DFL)  # these tests may run under nohup, and a command heeds that

    try:
        done = boilerd(
            "queue", "purge", "default", "-y", env=clean_environment(BOILERD_REDIS_URL=valkey.url, **failpoints.env)
        )
    finally:
        signal.signal(signum, before)

    assert (done.returncode, done.stderr) == (1, "\nAborted!\n")
    assert entries(connection) == [("cli", "delete", {**DEFAULT, "state": "pending"}, 0, "interrupted", "")]


def test_the_audit_holds_neither_payloads_nor_headers(hands: Hands, connection: redis.Redis) -> None:
    payload, headers = {"password": "s3cret-payload"}, {"token": "s3cret-header"}
    for task_id in ("a", "b", "c", "d"):
        hands.client.enqueue("test:echo", payload, task_id=task_id, headers=headers)

    hands.inspector.archive("a")
    hands.inspector.run("a")
    hands.client.cancel("b")
    run_all(hands, "delete", TaskState.PENDING)

    assert len(entries(connection)) == 4
    assert b"s3cret" not in repr(connection.xrange(keys.AUDIT)).encode()


@pytest.mark.parametrize("what", ["key", "rights"])
def test_an_audit_that_cannot_be_written_costs_no_intervention_and_is_told_once(
    connection: redis.Redis, user_with: Callable[..., redis.Redis], caplog: pytest.LogCaptureFixture, what: str
) -> None:
    audit.tell_unaudited.cache_clear()
    caplog.set_level(logging.WARNING, "boilerd.client")
    if what == "key":
        connection.set(keys.AUDIT, "another program's")
    user = user_with("~*", "&*", "+@all", *(["-xadd"] if what == "rights" else []))
    client, inspector = Client(user), Inspector(user)
    enqueue(client, "a", "b", "c", "d")

    inspector.delete("a")
    assert client.cancel("b")
    assert inspector.pause("default")
    list(inspector.bulk("archive", "default", TaskState.PENDING))

    assert pending(connection) == []
    assert connection.smembers(keys.PAUSED) == {b"default"}
    (line,) = {record.getMessage() for record in caplog.records}
    assert line.startswith(f"the audit, {keys.AUDIT}, has no entry of what was done: ")
    assert len(caplog.records) == 1


def test_whoever_asks_for_an_audit_that_is_another_programs_key_is_told_so(connection: redis.Redis) -> None:
    connection.set(keys.AUDIT, "another program's")

    with pytest.raises(BoilerdError, match=keys.AUDIT):
        Inspector(connection).audit()


def test_the_oldest_entries_make_way(connection: redis.Redis) -> None:
    noted = audit.Audit(connection, Actor())
    with connection.pipeline(transaction=False) as pipeline:
        for _ in range(10_200):
            pipeline.xadd(keys.AUDIT, {"user": "old"})
        pipeline.execute()

    noted._write("run", {}, 1, "done", "")

    assert 10_000 <= connection.xlen(keys.AUDIT) <= 10_100


def test_pages_and_filters_show_the_latest_last(connection: redis.Redis) -> None:
    for number in range(5):
        for user in ("anna as root", "bob"):
            Inspector(connection, by=Actor("web", user, "front")).pause(f"q{number}")
    inspector = Inspector(connection)

    assert [entry.on["queue"] for entry in inspector.audit(who="anna", size=2)] == ["q3", "q4"]
    assert [entry.on["queue"] for entry in inspector.audit(who="root", size=2, page=2)] == ["q1", "q2"]
    assert len(inspector.audit(who="bob", what="pause", since=timedelta(days=10**6))) == 5
    assert inspector.audit(what="resume") == inspector.audit(since=datetime(2999, 1, 1, tzinfo=UTC)) == []
    assert len(inspector.audit_after(inspector.audit(size=4)[0].id)) == 3


@pytest.mark.parametrize("task_id", ["a", "größe", 'a"b', "a\\b", "a/b", "a\udcffb", "task"])
def test_the_traces_of_a_task_are_found_among_those_of_others_however_it_is_written(
    task_id: str, connection: redis.Redis
) -> None:
    inspector = Inspector(connection, by=Actor("web", "anna"))
    noted = audit.Audit(connection, Actor("web", "anna"))
    for name in (task_id, f"{task_id} 2", "other"):
        noted.note("run", 1, "done", task=name)
        noted.note("copy", 1, "done", task=f"copy of {name}", copied_from=name)
    noted.note("pause", 1, "done", queue=task_id)
    connection.xadd(
        keys.AUDIT, {"what": "archive", "on": json.dumps({"task": task_id}, ensure_ascii="\udcff" in task_id)}
    )

    found = inspector.traces(task_id, task_id)

    assert [entry.what for entry in found.deeds] == ["run", "archive"]
    assert found.copies == [f"copy of {task_id}"]
    assert [(pause.user, pause.ends_at) for pause in found.pauses] == [("anna", None)]


@pytest.mark.usefixtures("commands")
def test_the_command_shows_hostile_names_harmlessly_and_as_json(connection: redis.Redis) -> None:
    connection.xadd(keys.AUDIT, {"user": b"\x1b[2J\xff", "on": '{"task": "\\u202e"}', "count": "many", "why": "a\nb"})

    (_, row) = shown_by("audit").splitlines()
    found = json.loads(shown_by("audit", "--json"))

    assert r"\x1b[2J\udcff@" in row
    assert r"task \u202e" in row
    assert r"a\nb" in row
    assert (found["user"], found["on"], found["count"]) == ("\x1b[2J\udcff", {"task": "\u202e"}, 0)


@pytest.mark.usefixtures("commands")
def test_follow_goes_on_with_entries_as_they_come(
    hands: Hands, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(["later", "last"])

    def pause_another(*_: Any) -> None:
        if (queue := next(rounds, None)) is None:
            raise KeyboardInterrupt
        hands.inspector.pause(queue)

    hands.inspector.pause("first")
    monkeypatch.setattr("boilerd.cli.audit.select", SimpleNamespace(select=pause_another))  # threads use select, too

    lines = shown_by("audit", "-f", "--what", "pause").splitlines()

    assert [line.split("queue ")[1].split()[0] for line in lines[:3]] == ["first", "later", "last"]


def test_a_member_of_the_group_reads_the_audit_and_does_not_write_it(
    connection: redis.Redis, user_with: Callable[..., redis.Redis]
) -> None:
    Inspector(connection).pause("default")
    member = user_with(*member_rights().split())

    with pytest.raises(BoilerdError, match="allows this user too little"):
        Inspector(member).resume("default")
    with pytest.raises(redis.ResponseError):
        member.xadd(keys.AUDIT, {"user": "somebody else"})

    assert [entry.what for entry in Inspector(member).audit()] == ["pause"]
