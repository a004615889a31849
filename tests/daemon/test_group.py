"""The setting ``group``: its members enqueue and look, as a web server's user does, and nobody else does anything."""

import errno
import grp
import os
import pwd
import secrets  # noqa: F401 - redis-py wants it later, when a member may not read where Python is installed
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client
from boilerd.broker import waiter
from boilerd.broker.connection import connect, connect_as_daemon, connect_to
from boilerd.broker.embedded import read_secret
from boilerd.broker.overview import read_overview
from boilerd.broker.scripts import scripts
from boilerd.daemon.sharing import group_id, share_runtime_directory
from boilerd.errors import BootError, BrokerError, RefusedError
from boilerd.inspector import Inspector
from boilerd.settings.definitions import Settings
from boilerd.supervision.asking import ask
from boilerd.supervision.rpc import ProcessInterface
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import TaskState
from support import DEADLINE_S, RunningDaemon, StartDaemon, as_nobody, private_directory, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="it needs a second user")
NOBODY = pwd.getpwnam("nobody")
#: A group of the system's that neither root nor nobody is in.
GROUP = next(each for each in grp.getgrall() if each.gr_gid not in {*os.getgroups(), os.getegid(), 0, NOBODY.pw_gid})


@contextmanager
def as_member(gid: int = GROUP.gr_gid) -> Iterator[None]:
    """As another user than the daemon's, who is a member of its group."""
    before = os.getgroups()
    os.setgroups([gid])
    try:
        with as_nobody():
            yield
    finally:
        os.setgroups(before)


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon with a group, which the tests only look at."""
    with private_directory() as directory:
        directory.chmod(0o755)
        scripts()  # a member cannot read them in a checkout of root's
        started = RunningDaemon("--concurrency", "1", "--group", GROUP.gr_name, directory=shared(directory))
        try:
            yield started.ready()
        finally:
            started.close()


def shared(directory: Path) -> Path:
    """The directory, with a runtime directory in it that others can reach."""
    directory.chmod(0o711)
    return directory


def valkey_url(daemon: RunningDaemon) -> str:
    return f"unix://{daemon.directory}/run/valkey.sock"


@needs_root
def test_a_member_enqueues_and_asks_for_status_and_result(daemon: RunningDaemon) -> None:
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        inspector = Inspector(client.connection)
        before = sum(each.counts.completed for each in inspector.queue_details())
        task_id = client.enqueue("test:echo", 7, retention=60, unique=60).id
        later = client.enqueue("test:echo", 8, process_in=3600).id
        wait_until(lambda: inspector.task(task_id).state is TaskState.COMPLETED, "it ran")
        done = inspector.task(task_id)
        queues = inspector.queue_details()
        seen_later = inspector.task(later)
        overview = read_overview(client.connection)

    assert overview.workers > 0
    assert done.attempts[0].result == 7
    assert seen_later.state is TaskState.SCHEDULED
    assert sum(each.counts.completed for each in queues) == before + 1  # the module's tests share the daemon


@needs_root
def test_a_member_waits_for_a_result_and_is_told_by_the_broker(
    daemon: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "UNTOLD_POLL_S", 3600)
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        result = client.enqueue("test:echo", 9, retention=60).wait(20)

    assert result == 9


@needs_root
def test_a_member_has_an_id_remembered_and_follows_the_progress(daemon: RunningDaemon) -> None:
    seen: list[TaskProgress] = []
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        info = client.enqueue("test:steps", 3, retention=60, task_id="member-1", once=3600, headers={"tenant-id": "7"})
        info.wait(DEADLINE_S, on_progress=seen.append)
        remembered_s = Inspector(client.connection).remembered_s("member-1")

    assert seen
    assert 0 < remembered_s <= 3600


@needs_root
@pytest.mark.parametrize("options", [{}, {"process_in": 3600, "unique": 60}])
def test_a_member_asks_why_a_task_does_not_run(daemon: RunningDaemon, options: dict[str, Any]) -> None:
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        task_id = client.enqueue("test:sleep", 0, concurrency_key="one", **options).id
        found = Inspector(client.connection).explain(task_id)

    assert found.reasons


COMMANDS: list[tuple[Any, ...]] = [
    ("DEL", "rq:job:x"), ("UNLINK", "rq:queue:default"), ("EXPIRE", "rq:job:x", 1), ("HDEL", "rq:job:x", "data"),
    ("LPOP", "rq:queue:default"), ("LREM", "rq:queue:default", 0, "x"), ("BLPOP", "rq:queue:default", 1),
    ("LPUSH", "rq:queue:default", "x"), ("ZREM", "rq:scheduled:default", "x"), ("ZADD", "rq:wip:default", 1, "x"),
    ("SADD", "boilerd:paused", "default"), ("HSET", "boilerd:limits", "default:max_active", 1),
    ("SREM", "rq:workers", "x"), ("SET", "rq:suspended", 1), ("SET", "foreign", 1), ("GET", "foreign"),
    ("PUBLISH", "rq:pubsub:x", "{}"), ("SUBSCRIBE", "rq:pubsub:x"), ("KEYS", "*"), ("MONITOR",),
    ("FLUSHALL",), ("FLUSHDB",), ("SHUTDOWN", "NOSAVE"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", 1),
    ("ACL", "LIST"), ("ACL", "SETUSER", "default", "+@all"), ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"), ("CLIENT", "PAUSE", 1), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"), ("FUNCTION", "FLUSH"),
    ("REPLICAOF", "127.0.0.1", "1"), ("SAVE",), ("MODULE", "LIST"), ("SLOWLOG", "GET"),
    ("EVAL", "return redis.call('DEL', 'rq:job:x')", 0), ("EVAL", "return redis.call('LPOP', 'rq:queue:default')", 0),
    ("AUTH", "boilerd", ""),
]  # fmt: skip


@needs_root
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(map(str, words[:2])))
def test_a_member_may_do_nothing_else_at_the_broker(daemon: RunningDaemon, command: tuple[Any, ...]) -> None:
    with as_member(), connect(valkey_url(daemon)) as client, pytest.raises(redis.RedisError) as raised:
        client.execute_command(*command)

    assert any(words in str(raised.value).lower() for words in ("permission", "wrongpass", "invalid username"))


@needs_root
def test_a_member_is_told_that_it_may_not_pause_cancel_or_delete(daemon: RunningDaemon) -> None:
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        inspector = Inspector(client.connection)
        task_id = client.enqueue("test:echo", process_in=3600).id
        actions: list[Callable[[], object]] = [
            lambda: inspector.pause("default"), lambda: inspector.run(task_id), lambda: inspector.archive(task_id),
            lambda: inspector.delete(task_id), lambda: client.cancel(task_id),
        ]  # fmt: skip
        refusals = []
        for action in actions:
            with pytest.raises(BrokerError) as raised:
                action()
            refusals.append(str(raised.value))
        state = inspector.task(task_id).state

    assert ["Redis allows this user too little" in refusal for refusal in refusals] == [True] * len(actions), refusals
    assert state is TaskState.SCHEDULED


@needs_root
def test_a_member_is_told_that_it_may_not_cancel_what_runs(daemon: RunningDaemon) -> None:
    with as_member(), Client.from_url(valkey_url(daemon)) as client:
        inspector = Inspector(client.connection)
        task_id = client.enqueue("test:sleep", 2, retention=60).id
        wait_until(lambda: inspector.task(task_id).state is TaskState.ACTIVE, "it runs")

        with pytest.raises(BrokerError, match="Redis allows this user too little"):
            client.cancel(task_id)

        wait_until(lambda: inspector.task(task_id).state is not TaskState.ACTIVE, "it ended")
    assert daemon.lines("task completed", task_id=task_id)


@needs_root
def test_a_member_looks_at_the_daemon_and_has_no_method_that_changes_it(daemon: RunningDaemon) -> None:
    inherited = {f"supervisor.{name}" for name in dir(ProcessInterface) if not name.startswith("_")}
    methods = inherited | set(ask(daemon.socket, "system.listMethods"))
    questions = {
        "boilerd.info", "boilerd.settings", "supervisor.getAPIVersion", "supervisor.getVersion",
        "supervisor.getSupervisorVersion", "supervisor.getIdentification", "supervisor.getState", "supervisor.getPID",
        "supervisor.getProcessInfo", "supervisor.getAllProcessInfo",
    }  # fmt: skip
    refused = []

    with as_member():
        seen = ask(daemon.socket, "boilerd.info"), ask(daemon.socket, "supervisor.getAllProcessInfo")
        for method in sorted(methods - questions):
            if not method.startswith("system."):
                with pytest.raises(RefusedError, match="members of the daemon's group may only look"):
                    ask(daemon.socket, method)
                refused.append(method)
        many = ask(daemon.socket, "system.multicall", [{"methodName": "boilerd.scale", "params": [3]}])

    assert seen[0]["state"] == "ready"
    assert len(seen[1]) == 3
    assert {"boilerd.secrets", "boilerd.scale", "supervisor.shutdown", "supervisor.startProcess"} <= {*refused}
    assert "may only look" in many[0]["faultString"]


@needs_root
def test_a_third_user_opens_neither_socket_and_a_member_does_not_read_the_secret(daemon: RunningDaemon) -> None:
    run = daemon.directory / "run"

    refused = []
    for name in ("control.sock", "valkey.sock"):
        with as_nobody(), socket.socket(socket.AF_UNIX) as client:
            refused.append(client.connect_ex(str(run / name)))
    with as_member():
        seen = read_secret(run / "valkey.secret")
        with pytest.raises(PermissionError):
            os.listdir(run)  # noqa: PTH208 - in a context where a generator would be too late
        with pytest.raises(PermissionError):
            (run / "mine").touch()

    assert refused == [errno.EACCES, errno.EACCES]
    assert seen == ""
    assert read_secret(run / "valkey.secret")


@needs_root
def test_the_secret_stands_on_no_command_line_and_in_no_log_line(daemon: RunningDaemon) -> None:
    secret = read_secret(daemon.directory / "run" / "valkey.secret")
    pids = [process["pid"] for process in daemon.processes()] + [daemon.pid]

    said = [Path(f"/proc/{pid}/{name}").read_bytes().decode() for pid in pids for name in ("cmdline", "environ")]
    said += [(daemon.directory / name).read_text() for name in ("stdout", "stderr")]
    users = (daemon.directory / "valkey" / "users.acl").read_text()

    assert len(secret) == 64
    assert [text for text in [*said, users] if secret in text] == []


@needs_root
def test_the_daemon_and_root_may_do_all_through_a_crash_of_the_server_and_a_reload(start_daemon: StartDaemon) -> None:
    with private_directory() as directory:
        flags = ("--concurrency", "1", "--group", GROUP.gr_name)
        daemon = start_daemon(*flags, redis_url=None, directory=shared(directory)).ready()
        settings = Settings(state_dir=str(directory))

        first = daemon.kill("valkey")
        wait_until(lambda: daemon.pid_of("valkey") not in {0, first}, "the server was replaced")
        wait_until(lambda: daemon.cli("health").returncode == 0, "the daemon is well again")
        reloaded = daemon.cli("reload")
        with connect_to(settings) as client:
            was_paused = Inspector(client).pause("default")
        mode = (directory / "run" / "valkey.sock").stat()

        assert reloaded.returncode == 0, reloaded.stderr
        assert daemon.cli("health").returncode == 0
        assert was_paused
        assert (mode.st_gid, mode.st_mode & 0o777) == (GROUP.gr_gid, 0o770)


@needs_root
def test_a_reload_gives_members_the_rights_of_the_new_version(start_daemon: StartDaemon) -> None:
    with private_directory() as directory:
        flags = ("--concurrency", "1", "--group", GROUP.gr_name)
        daemon = start_daemon(*flags, redis_url=None, directory=shared(directory)).ready()
        with connect_as_daemon(valkey_url(daemon)) as server:
            server.execute_command("ACL", "SETUSER", "default", "clearselectors")  # as an earlier one had fewer

        reloaded = daemon.cli("reload")
        with as_member(), Client.from_url(valkey_url(daemon)) as client:
            info = client.enqueue("test:echo", task_id="new", once=60)

    assert reloaded.returncode == 0, reloaded.stderr
    assert info.id == "new"


@needs_root
def test_a_reload_without_the_group_closes_both_sockets_to_it(start_daemon: StartDaemon) -> None:
    with private_directory() as directory:
        config = directory / "boilerd.toml"
        config.write_text(f'group = "{GROUP.gr_name}"\n')
        flags = ("--concurrency", "1", "--config", str(config))
        daemon = start_daemon(*flags, redis_url=None, directory=shared(directory)).ready()
        config.write_text("")

        done = daemon.cli("reload")

        assert done.returncode == 0, done.stderr
        for name in ("control.sock", "valkey.sock"):
            with as_member(), socket.socket(socket.AF_UNIX) as client:
                assert client.connect_ex(str(directory / "run" / name)) == errno.EACCES
        assert not (directory / "run" / "valkey.secret").exists()
        assert daemon.cli("health").returncode == 0


def test_a_group_that_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(BootError) as raised:
        group_id(Settings(group="no-such-group", state_dir=str(directory)))

    assert str(raised.value) == "group: there is no group 'no-such-group'; create it, or leave the setting out"


@needs_root
def test_a_group_that_the_daemons_user_is_not_in_is_refused_with_what_would_do(directory: Path) -> None:
    settings = Settings(group=GROUP.gr_name, runtime_dir=str(directory))
    os.chown(directory, NOBODY.pw_uid, NOBODY.pw_gid)

    with as_nobody(), pytest.raises(BootError) as raised:
        share_runtime_directory(settings, GROUP.gr_gid)

    assert str(raised.value) == (
        f"group: cannot open {directory} to '{GROUP.gr_name}': Operation not permitted;"
        f" start as a member of '{GROUP.gr_name}'"
    )


def test_nothing_is_taken_for_a_secret_that_a_link_leads_to_or_that_does_not_look_like_one(directory: Path) -> None:
    (directory / "secret").write_text("a" * 64)
    (directory / "link").symlink_to(directory / "secret")
    (directory / "shadow").write_text("root:$y$j9T$abc:19000:0:99999:7:::\n")
    os.mkfifo(directory / "fifo")

    found = {name: read_secret(directory / name) for name in ("secret", "link", "shadow", "fifo", "missing")}

    assert found == {"secret": "a" * 64, "link": "", "shadow": "", "fifo": "", "missing": ""}


def test_a_password_that_is_left_over_is_not_told_to_the_embedded_server(directory: Path) -> None:
    settings = Settings(redis_password="left over", state_dir=str(directory))

    with connect_to(settings) as client:
        options = client.connection_pool.connection_kwargs

    assert "left over" not in map(str, options.values())
