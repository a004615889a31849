"""What an operator may have set up unsafely: refused or told at start, and seen by probes."""

import os
import pwd
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.broker.server_check import check, hazards
from boilerd.cli.rpc_client import DaemonStatus, read_status
from boilerd.daemon.directories import lock_directories
from boilerd.errors import BootError, BrokerLoadingError, ConfigError, InvalidPayloadError
from boilerd.process.identity import birthmark, home, is_dead, is_stopped
from boilerd.process.scoreboard import Scoreboard
from boilerd.scheduler.heartbeat import HEARTBEAT_S
from boilerd.settings.definitions import Settings
from boilerd.settings.loading import load
from boilerd.supervision.report import Report
from boilerd.supervision.sd_notify import Notifier
from support import StartDaemon, StartValkey, Valkey, as_nobody, boilerd, clean_environment, wait_until

# The broker.


@pytest.mark.fault(30)
def test_a_broker_that_may_evict_tasks_is_told_with_what_to_set(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--appendonly", "yes")

    daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()

    (warning,) = daemon.lines("tasks may be lost")
    assert "maxmemory-policy is allkeys-lru" in warning["error"]
    assert "noeviction" in warning["error"]


def test_a_broker_that_keeps_nothing_on_disk_is_told_with_what_to_set(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()  # the tests' server is such a one

    (warning,) = daemon.lines("tasks may be lost")
    assert "appendonly is no" in warning["error"]


def test_the_embedded_broker_is_safe(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()

    assert not daemon.lines("tasks may be lost")
    with connect(f"unix://{daemon.directory}/run/valkey.sock") as admin:
        assert admin.config_get("append*")["appendfsync"] == "everysec"


def test_a_broker_with_snapshots_is_no_hazard(start_valkey: StartValkey) -> None:
    server = start_valkey("--save", "60 1")

    with connect(server.url) as connection:
        assert hazards(connection) == []


def test_a_broker_that_hides_its_settings_is_judged_by_what_it_tells(valkey: Valkey) -> None:
    with connect(valkey.url) as admin:
        admin.execute_command("ACL", "SETUSER", "hosted", "on", ">pw", "~*", "&*", "+@all", "-config")
        with connect(valkey.url.replace("unix://", "unix://hosted:pw@")) as connection:
            assert hazards(connection) == []
        admin.execute_command("ACL", "DELUSER", "hosted")


@pytest.mark.fault(4)
def test_a_daemon_waits_for_a_broker_that_reads_its_file(start_daemon: StartDaemon, loading: Valkey) -> None:
    with connect(loading.url) as connection, pytest.raises(BrokerLoadingError):
        check(connection)

    daemon = start_daemon("--concurrency", "1", redis_url=loading.url)

    daemon.wait_for("broker is loading, waiting")
    loading.hurry()
    daemon.wait_for("daemon started")


OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def add_user(server: Valkey, *without: str) -> str:
    """The user that docs/operating.md tells to make, but for some of its rights; the URL with it."""
    (rule,) = re.findall(r"^ACL SETUSER boilerd .*$", OPERATING.read_text(), re.MULTILINE)
    words = [word for word in rule.replace(">PASSWORD", ">pw").split() if word not in without]
    with connect(server.url) as admin:
        admin.execute_command(*words)
    return server.url.replace("unix://", "unix://boilerd:pw@")


def test_the_rights_that_the_readme_names_are_enough(start_daemon: StartDaemon, start_valkey: StartValkey) -> None:
    server = start_valkey("--appendonly", "yes")
    daemon = start_daemon("--concurrency", "2", redis_url=add_user(server)).ready()

    running = daemon.enqueue("test:sleep", "60")
    daemon.wait_for("task started", task_id=running)
    daemon.wait_for("task completed", task_id=daemon.enqueue("test:echo", "1", "--in", "0.1s", "--unique", "1m"))
    assert daemon.cli("task", "cancel", running).returncode == 0
    daemon.wait_for("task archived", task_id=running)
    for words in (
        ("health",), ("status",), ("stats",), ("queue", "ls"), ("queue", "show", "default"), ("queue", "pause", "low"),
        ("queue", "resume", "low"), ("worker", "ls"), ("cron", "ls"), ("task", "show", running),
        ("task", "ls", "--state", "archived"), ("task", "delete", "--all", "--state", "archived", "--yes"), ("reload",),
    ):  # fmt: skip
        done = daemon.cli(*words)
        assert done.returncode == 0, done

    assert daemon.stop() == 0
    log = (daemon.directory / "stdout").read_text()
    assert "permission" not in log
    assert "no right" not in log


def test_without_the_right_to_channels_a_running_task_is_cancelled_all_the_same(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey("--appendonly", "yes")
    daemon = start_daemon("--concurrency", "1", redis_url=add_user(server, "&rq:pubsub:*")).ready()
    running = daemon.enqueue("test:sleep", "60")
    daemon.wait_for("task started", task_id=running)

    cancelled = daemon.cli("task", "cancel", running)

    assert (cancelled.returncode, cancelled.stderr) == (0, "")
    daemon.wait_for("task archived", task_id=running)
    (warning,) = daemon.lines("no right to the command channel")
    assert "&rq:pubsub:*" in warning["hint"]


# Files and users.


def test_settings_that_everybody_may_write_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "boilerd.toml"
    path.write_text("concurrency = 1\n")
    path.chmod(0o666)

    with pytest.raises(ConfigError, match="everybody may write to it; chmod o-w"):
        load(file=path, environ={})
    path.chmod(0o664)
    monkeypatch.setattr(pwd, "getpwall", list)  # nobody else is in the group
    assert load(file=path, environ={}).settings.concurrency == 1


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("BOILERD_STATE_DIR", "open/run: everybody may write to {directory}/open; chmod o-w {directory}/open, or set "),
        ("BOILERD_RUNTIME_DIR", "open: everybody may write to it; chmod 700 {directory}/open, or set "),
    ],
)
def test_a_directory_that_everybody_may_write_is_refused(directory: Path, variable: str, told: str) -> None:
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)

    chosen = {"BOILERD_STATE_DIR": str(directory), variable: str(directory / "open")}

    done = boilerd("run", env=clean_environment(**chosen))

    assert done.returncode == 3
    assert told.format(directory=directory) in done.stderr


def test_a_directory_that_everybody_shares_is_to_stay_as_it_is(directory: Path) -> None:
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)

    with pytest.raises(BootError) as raised:
        lock_directories({directory / "tmp": "state_dir"}, {})

    assert str(raised.value) == (
        f"state_dir {directory}/tmp: everybody may write to it; set state_dir to a directory of your own"
    )


def test_a_lock_that_may_not_be_opened_is_named(directory: Path) -> None:
    directory.chmod(0o755)
    (directory / "boilerd.lock").touch(0o000)

    with as_nobody(), pytest.raises(BootError) as raised:
        lock_directories({directory: "runtime_dir"}, {})

    assert str(raised.value).startswith(f"runtime_dir {directory}/boilerd.lock: Permission denied; ")


def test_a_lock_holds_on_a_disk_that_is_full(directory: Path) -> None:
    (directory / "boilerd.lock").write_text("1\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        (fd,) = lock_directories({directory: "state_dir"}, {}).values()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert (directory / "boilerd.lock").read_text() == ""
    os.close(fd)


def test_directories_and_sockets_are_for_their_owner_alone(start_daemon: StartDaemon, directory: Path) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None, directory=directory, env={
        "BOILERD_STATE_DIR": str(directory / "state"), "BOILERD_RUNTIME_DIR": str(directory / "run"),
    }).ready()  # fmt: skip

    made = ["state", "state/valkey", "run", "run/control.sock", "run/valkey.sock"]
    assert {name: (directory / name).stat().st_mode & 0o777 for name in made} == dict.fromkeys(made, 0o700)
    assert daemon.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_becomes_the_user_that_was_asked_for_for_good(directory: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    program = (
        "import os, pathlib, sys; from boilerd.daemon.privileges import become;"
        "become('nobody', [pathlib.Path(sys.argv[1])]);"
        "print(*os.getresuid(), *os.getresgid(), *os.getgroups())"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(directory / "state")], capture_output=True, text=True, check=True
    )

    assert {int(word) for word in done.stdout.split()[:3]} == {nobody.pw_uid}
    assert {int(word) for word in done.stdout.split()[3:]} == {nobody.pw_gid}
    assert (directory / "state").stat().st_uid == nobody.pw_uid
    assert (directory / "state").stat().st_mode & 0o777 == 0o700


def test_an_unknown_user_is_refused(directory: Path) -> None:
    done = boilerd("run", "--user", "nobody-at-all", env=clean_environment(BOILERD_STATE_DIR=str(directory)))

    assert done.returncode == 3
    assert "user: there is no user 'nobody-at-all'" in done.stderr


def test_only_the_first_of_systemds_directories_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")

    assert Settings().state_path() == Path("/var/lib/one")
    assert Settings().runtime_path() == Path("/run/one")


def test_secrets_stand_neither_in_the_process_list_nor_in_the_log(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey("--requirepass", "hunter2-secret")
    daemon = start_daemon(
        "--concurrency", "1", redis_url=server.url, env={"BOILERD_REDIS_PASSWORD": "hunter2-secret"}
    ).ready()
    shown = daemon.cli("status").stdout + daemon.cli("config", "show").stdout + daemon.cli("health").stdout

    titles = "".join(
        Path(f"/proc/{pid}/cmdline").read_text() for pid in [daemon.pid, *(p["pid"] for p in daemon.processes())]
    )
    server.stop()
    daemon.wait_for("broker unavailable, waiting")
    daemon.close()

    log = (daemon.directory / "stdout").read_text() + daemon.errors()
    assert "boilerd: worker:0" in titles
    assert "hunter2" not in titles + log + shown


# Payloads.


def test_a_payload_above_the_limit_is_refused_with_the_setting_that_would_do(valkey: Valkey) -> None:
    limit = load(environ={"BOILERD_MAX_PAYLOAD": "1K"}).settings.max_payload

    with (
        Client.from_settings(Settings(redis_url=valkey.url, max_payload=limit)) as client,
        pytest.raises(InvalidPayloadError, match=r"1026 bytes are more than 1024.*max_payload"),
    ):
        client.enqueue("test:echo", "x" * 1024)


# Health.


def test_health_is_ok_while_everything_works(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()

    done = daemon.cli("health")

    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_health_turns_red_while_the_broker_is_away_and_green_again(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey("--appendonly", "yes")
    daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
    server.stop()

    red = daemon.cli("health")

    assert red.returncode == 1
    assert red.stdout.startswith("broker: Redis did not answer")
    server.start()
    wait_until(lambda: daemon.cli("health").returncode == 0, "health is green again")


@pytest.mark.parametrize("word", ["health", "status"])
def test_a_broker_that_takes_no_new_tasks_is_told(
    start_daemon: StartDaemon, start_valkey: StartValkey, word: str
) -> None:
    server = start_valkey()
    daemon = start_daemon("--concurrency", "1", redis_url=server.url).ready()
    with connect(server.url) as admin:
        admin.config_set("maxmemory", "1000")

    red = daemon.cli(word)

    assert red.returncode == 1
    assert "Redis is out of memory, raise its maxmemory" in red.stdout


def test_workers_that_cannot_claim_are_told_whatever_the_cause(
    start_daemon: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey()
    daemon = start_daemon("--concurrency", "2", redis_url=server.url).ready()
    with connect(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetkeys", "~boilerd:*", "%R~rq:*")

        told = wait_until(lambda: daemon.cli("health").stdout.replace("ok\n", ""), "health is red")
        wait_until(lambda: daemon.cli("status").returncode == 1, "status says so too")
        admin.execute_command("ACL", "SETUSER", "default", "allkeys")

    assert told == "daemon: its processes wait for the broker, which is away or refuses them; its log says which\n"
    wait_until(lambda: daemon.cli("health").returncode == 0, "health is green again")


def test_a_scheduler_that_hangs_lets_the_heartbeat_age(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--concurrency", "1").ready()
    socket = daemon.socket
    scheduler = daemon.kill("scheduler", signal.SIGSTOP)

    # Longer than from one heartbeat to the next.
    wait_until(lambda: read_status(socket).info["heartbeat_age_s"] > HEARTBEAT_S + 0.5, "it is late")
    os.kill(scheduler, signal.SIGCONT)

    wait_until(lambda: read_status(socket).info["heartbeat_age_s"] < HEARTBEAT_S, "it is in time again")


def test_a_heartbeat_that_is_late_is_a_trouble() -> None:
    fine = {"state": "ready", "status": "1 worker", "is_broker_away": False, "heartbeat_age_s": 7.0}

    assert DaemonStatus(fine, []).problems() == []
    assert DaemonStatus({"state": "ready", "status": "of a daemon from before an upgrade"}, []).problems() == []
    assert DaemonStatus(fine | {"heartbeat_age_s": 21.4}, []).problems() == [
        "scheduler: no heartbeat for 21 s, so that leases end and nothing is forwarded"
    ]


def test_a_heartbeat_that_is_late_stands_in_the_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    scoreboard = Scoreboard()
    report = Report(Notifier({}), scoreboard)
    monkeypatch.setattr(Scoreboard, "heartbeat_age_s", 21.4)

    assert report.status(None, "", "") == "starting, no heartbeat for 21 s"


def test_health_is_red_without_a_daemon(valkey: Valkey, directory: Path) -> None:
    done = boilerd("health", env=clean_environment(BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory)))

    assert done.returncode == 1
    assert done.stdout.startswith("daemon: not running")


# Birthmarks.


def test_a_birthmark_tells_a_dead_process_from_a_living_one_and_from_its_successor() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        mark = birthmark(child.pid)
        assert mark
        assert not is_dead(mark)
        place, _, _ = mark.rpartition("/")
        assert is_dead(f"{place}/1")  # the same ID, born at another time
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(child.pid), "it was stopped")
        assert not is_dead(mark)
        child.kill()
        wait_until(lambda: is_dead(mark), "it is a zombie")
    assert is_dead(mark)
    assert is_dead(f"{home()}/{10**30}/1")  # an ID that no process has


@pytest.mark.parametrize("mark", ["", "/", "a", "boot/pid:[1]/1/1", "///", "a/b/c/d"])
def test_nothing_is_known_of_a_process_elsewhere(mark: str) -> None:
    assert not is_dead(mark)
