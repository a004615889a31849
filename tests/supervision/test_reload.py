"""A reload: new settings and code in the same process, no task interrupted, nothing refused meanwhile."""

import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pytest
import redis

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.cli.control import DaemonError, await_reload
from boilerd.errors import RefusedError
from boilerd.supervision.asking import ask
from boilerd.supervision.handover import Handover, RunningValkey
from boilerd.supervision.reload import Check
from support import (
    DEADLINE_S,
    QUICK_RETRY,
    Failpoints,
    RunningDaemon,
    StartDaemon,
    StartValkey,
    Valkey,
    is_running,
    python_path,
    wait_until,
)

APP = """
import os, time
from boilerd import ServeMux
mux = ServeMux()

@mux.handle("app:version")
def version(task):
    task.logger.info("version {version}")

@mux.handle("app:sleep")
def sleep(task):
    time.sleep(task.payload)

@mux.handle("app:until")
def until(task):
    while not os.path.exists(task.payload):
        time.sleep(0.01)
"""


def write_app(directory: Path, version: int) -> None:
    # Of another length: Python's cache goes by seconds and size.
    (directory / "myapp.py").write_text(APP.replace("{version}", str(version)) + "#" * version)


def wait_for_generation(daemon: RunningDaemon, generation: int) -> dict[str, Any]:
    return wait_until(
        lambda: found if (found := daemon.info()).get("generation") == generation and found["state"] == "ready" else {},
        f"generation {generation} is ready",
    )


@pytest.fixture
def start_app(start_daemon: StartDaemon, directory: Path) -> StartDaemon:
    """Start a daemon with an application of its own, in its directory."""

    def start(*flags: str, **options: Any) -> RunningDaemon:
        write_app(directory, 1)
        env = {"BOILERD_APP": "myapp:mux"} | options.pop("env", {})
        return start_daemon(*flags, directory=directory, env=env, **options).ready()

    return start


def test_a_reload_brings_new_code_and_settings_with_the_same_pid(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "boilerd.toml").write_text("concurrency = 1\n")
    daemon = start_app()
    first = client.enqueue("app:version").id
    daemon.wait_for("version 1", task_id=first)

    write_app(directory, 2)
    (directory / "boilerd.toml").write_text("concurrency = 3\n")
    done = daemon.cli("reload", cwd=directory)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    second = client.enqueue("app:version").id
    daemon.wait_for("version 2", task_id=second)
    assert (daemon.info()["pid"], daemon.info()["generation"]) == (daemon.pid, 1)
    assert len([p for p in daemon.processes() if p["name"].startswith("worker:")]) == 3
    assert daemon.stop() == 0


def test_a_reload_lets_running_tasks_end(start_app: StartDaemon, client: Client) -> None:
    daemon = start_app("--concurrency", "4", "--shutdown-timeout", "20")
    ids = [client.enqueue("app:sleep", 1.0).id for _ in range(4)]
    daemon.wait_for("task started", count=4)

    daemon.signal(signal.SIGHUP)

    wait_for_generation(daemon, 1)
    for task_id in ids:
        assert len(daemon.lines("task started", task_id=task_id)) == 1
        assert daemon.lines("task completed", task_id=task_id)
    assert not daemon.lines("task released, it will run again")


def test_a_task_longer_than_the_shutdown_timeout_runs_again_after_the_reload(
    start_app: StartDaemon, client: Client
) -> None:
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "0.3")
    task_id = client.enqueue("app:sleep", 60).id
    daemon.wait_for("task started", task_id=task_id)

    daemon.signal(signal.SIGHUP)

    daemon.wait_for("task released, it will run again", task_id=task_id)
    assert daemon.wait_for("task started", count=2, task_id=task_id)["attempt"] == 1
    assert daemon.lines("reload cut tasks short, they run again")


def test_a_quiet_daemon_stays_quiet_through_a_reload(start_app: StartDaemon, client: Client) -> None:
    daemon = start_app("--concurrency", "1")
    assert daemon.cli("quiet").returncode == 0

    assert daemon.cli("reload").returncode == 0
    task_id = client.enqueue("app:version").id
    wait_until(lambda: daemon.info()["pending"] == 1, "the task waits")

    assert daemon.info()["status"] == "quiet, 1 worker, 0 busy, 1 pending"
    assert not daemon.lines("task started")
    assert daemon.cli("resume").returncode == 0
    daemon.wait_for("task completed", task_id=task_id)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"boilerd.toml": "workers = 3\n"}, "unknown key 'workers'"),
        ({"myapp.py": "import nothing_like_it\n"}, "nothing_like_it"),
        ({"myapp.py": "raise SystemExit(7)\n"}, "SystemExit"),
        ({"myapp.py": "import os; os._exit(9)\n"}, "exit status 9"),
        ({"myapp.py": "import os, sys; print('a remark', file=sys.stderr); os._exit(9)\n"}, "exit status 9: a remark"),
        (
            {"myapp.py": "import atexit, os; atexit.register(os.write, 2, b'bye'); import nothing_like_it"},
            "nothing_like_it",
        ),
        ({"boilerd.toml": 'redis_url = "unix:///nowhere.sock"\n'}, "Redis did not answer"),
    ],
)
def test_a_broken_reload_leaves_the_old_one_running_and_says_why(
    start_app: StartDaemon, valkey: Valkey, directory: Path, broken: dict[str, str], error: str
) -> None:
    (directory / "boilerd.toml").write_text(f'redis_url = "{valkey.url}"\n')
    daemon = start_app("--concurrency", "1", redis_url=None)
    workers = [p["pid"] for p in daemon.processes()]

    for name, text in broken.items():
        (directory / name).write_text(text)
    daemon.signal(signal.SIGHUP)

    assert error in daemon.wait_for("reload refused, going on as before")["error"]
    assert error in daemon.info()["trouble"]
    assert error in daemon.info()["status"]
    assert [p["pid"] for p in daemon.processes()] == workers
    with Client.from_url(valkey.url) as client:
        daemon.wait_for("version 1", task_id=client.enqueue("app:version").id)


def test_the_reload_command_tells_what_is_wrong(start_app: StartDaemon, directory: Path) -> None:
    daemon = start_app("--concurrency", "1")

    (directory / "myapp.py").write_text("mux = 1\n")
    done = daemon.cli("reload")

    assert done.returncode == 1
    assert re.fullmatch(r"boilerd: error: reload refused: app 'myapp:mux': a int is no mux; .*\n", done.stderr)
    assert is_running(daemon.pid)


def test_clients_of_the_embedded_broker_notice_nothing_of_a_reload(start_app: StartDaemon, directory: Path) -> None:
    daemon = start_app("--concurrency", "2", redis_url=None)
    broker = daemon.pid_of("valkey")
    with connect(f"unix://{directory}/run/valkey.sock") as connection:
        connection.client_setname("mine")
        before = connection.client_id()

        for generation in (1, 2, 3):
            daemon.signal(signal.SIGHUP)
            wait_for_generation(daemon, generation)

        assert (connection.client_id(), connection.client_getname()) == (before, "mine")
    assert daemon.pid_of("valkey") == broker
    daemon.wait_for("version 1", task_id=daemon.enqueue("app:version"))
    daemon.kill("valkey")
    wait_until(lambda: daemon.pid_of("valkey") not in {0, broker}, "the broker was replaced")
    task_id = wait_until(lambda: daemon.cli("enqueue", "app:version").stdout.strip(), "a task was taken")  # noqa: PLW0108
    daemon.wait_for("version 1", task_id=task_id)
    assert daemon.stop() == 0


def test_a_reload_may_leave_the_embedded_broker_for_another(
    start_app: StartDaemon, valkey: Valkey, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    broker = daemon.pid_of("valkey")

    (directory / "boilerd.toml").write_text(f'redis_url = "{valkey.url}"\n')
    done = daemon.cli("reload", cwd=directory)

    assert done.returncode == 0
    assert not is_running(broker)
    assert [p["name"] for p in daemon.processes()] == ["scheduler", "worker:0"]


def test_the_locks_are_held_through_a_reload(start_app: StartDaemon, directory: Path) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    locks = [(directory / name).open("rb+") for name in ("boilerd.lock", "run/boilerd.lock")]

    def can_be_had(lock: IO[bytes]) -> bool:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    daemon.signal(signal.SIGHUP)
    while not daemon.lines("daemon reloaded"):
        assert not any(can_be_had(lock) for lock in locks)
    for lock in locks:
        lock.close()

    second = daemon.cli("run", cwd=directory)

    assert second.returncode == 3
    assert f"in use by another daemon (pid {daemon.pid})" in second.stderr


def inheritable(pid: int) -> set[str]:
    """The descriptors that a program gets which the process executes, beside the first three."""
    shown = subprocess.run(
        ["find", f"/proc/{pid}/fdinfo", "-type", "f"], capture_output=True, text=True, check=True
    ).stdout.split()

    def flags(path: str) -> int:
        return int(re.search(r"flags:\s+(\d+)", Path(path).read_text()).group(1), 8)  # type: ignore[union-attr]

    found = {Path(path).name for path in shown if Path(path).exists() and not flags(path) & os.O_CLOEXEC}
    return found - {"0", "1", "2"}


def test_programs_that_tasks_start_get_no_descriptors_of_the_daemon_after_a_reload(
    start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "1", redis_url=None).ready()
    assert daemon.cli("reload").returncode == 0

    assert inheritable(daemon.pid) == set()


def test_many_hangups_are_one_reload_after_the_other(start_app: StartDaemon, client: Client) -> None:
    daemon = start_app("--concurrency", "2")

    def reloaded() -> bool:
        # At any moment, also while the new program starts.
        daemon.signal(signal.SIGHUP)
        return len(daemon.lines("daemon reloaded")) >= 4

    wait_until(reloaded, "four reloads", deadline_s=3 * DEADLINE_S)
    wait_until(lambda: daemon.info().get("state") == "ready", "the last one has ended")

    task_id = client.enqueue("app:version").id
    daemon.wait_for("version 1", task_id=task_id)
    assert daemon.stop() == 0


@pytest.mark.fault(22)
def test_a_term_in_the_middle_of_a_reload_ends_the_daemon(
    start_app: StartDaemon, client: Client, tmp_path: Path
) -> None:
    daemon = start_app("--concurrency", "2", "--shutdown-timeout", "30")
    task_id = client.enqueue("app:until", str(tmp_path / "may-end")).id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")

    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    (tmp_path / "may-end").touch()

    assert daemon.wait() == 0
    assert daemon.lines("task completed", task_id=task_id)
    assert not daemon.lines("daemon reloaded")


@pytest.mark.fault(22)
def test_a_term_while_the_reload_is_checked_ends_the_daemon_and_the_check(
    start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1")
    (directory / "myapp.py").write_text(
        "import os, pathlib, subprocess\n"
        "with subprocess.Popen(['sleep', '600']) as child:\n"
        f"    new = pathlib.Path({str(directory)!r}, 'new')\n"
        "    new.write_text(f'{os.getpid()} {child.pid}')\n"
        "    new.rename(new.with_name('checking'))\n"
    )
    daemon.signal(signal.SIGHUP)
    wait_until((directory / "checking").exists, "the check runs")
    pids = [int(pid) for pid in (directory / "checking").read_text().split()]

    assert daemon.stop() == 0
    wait_until(lambda: not any(map(is_running, pids)), "the check has ended, and what it started")
    assert not daemon.lines("reload refused, going on as before")


@pytest.mark.fault(22)
def test_a_term_at_the_last_moment_before_the_new_program_ends_the_daemon(
    start_app: StartDaemon, failpoints: Failpoints
) -> None:
    daemon = start_app("--concurrency", "1", env=failpoints.env)
    failpoints.arm("supervisor-becomes-new", signal.SIGTERM)

    daemon.signal(signal.SIGHUP)

    assert daemon.wait() == 0
    assert failpoints.struck("supervisor-becomes-new") == daemon.pid
    assert not daemon.lines("daemon reloaded")


def test_a_daemon_that_cannot_become_the_new_program_goes_on_as_the_old_one(
    python: Path, start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "60", redis_url=None)
    broker = daemon.pid_of("valkey")
    with Client.from_url(f"unix://{directory}/run/valkey.sock") as client:
        daemon.wait_for("task started", task_id=client.enqueue("app:until", str(directory / "go")).id)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloading, draining the workers")

        python.unlink()
        (directory / "go").touch()

        daemon.wait_for("reload failed, going on as before")
        daemon.wait_for("version 1", task_id=client.enqueue("app:version").id)
    assert (daemon.info()["generation"], daemon.info()["state"]) == (0, "ready")
    assert daemon.info()["trouble"].startswith("reload failed: ")
    assert daemon.pid_of("valkey") == broker
    assert inheritable(daemon.pid) == set()
    assert daemon.stop() == 0


def test_a_check_that_never_ends_is_ended_and_the_old_program_goes_on(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "impatient.py").write_text(
        "from boilerd.supervision import reload\nfrom myapp import mux\nreload.CHECK_TIMEOUT_S = 0.5\n"
    )
    daemon = start_app("--concurrency", "1", env={"BOILERD_APP": "impatient:mux"})

    (directory / "myapp.py").write_text("import time\ntime.sleep(600)\n")
    daemon.signal(signal.SIGHUP)

    assert "the check took longer than 0.5 s" in daemon.wait_for("reload refused, going on as before")["error"]
    daemon.wait_for("version 1", task_id=client.enqueue("app:version").id)


#: Added to an application: its check never ends by itself.
HANGING = """
import os, pathlib, sys
if "--check" in sys.argv:
    pathlib.Path("new").write_text(str(os.getpid()))
    pathlib.Path("new").rename("checking")
    time.sleep(600)
"""


def test_workers_that_are_killed_or_recycled_while_a_reload_is_checked_are_replaced_at_once(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    daemon = start_app("--concurrency", "2", "--max-tasks", "2")
    (directory / "myapp.py").write_text(APP + HANGING)
    daemon.signal(signal.SIGHUP)
    wait_until((directory / "checking").exists, "the check runs")

    killed = daemon.kill("worker:0")
    ids = [client.enqueue("app:version").id for _ in range(10)]

    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id)
    wait_until(lambda: daemon.pid_of("worker:0") not in {0, killed}, "it was replaced")
    assert daemon.info()["state"] == "reloading"
    assert not daemon.lines("process crashed")
    assert daemon.stop() == 0


def test_reloads_that_succeed_fail_and_hang_lose_neither_a_worker_nor_a_task(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    daemon = start_app("--concurrency", "2", "--max-tasks", "5", env=QUICK_RETRY)
    ids: list[str] = []

    for n, added in enumerate(("1 / 0\n", HANGING, "")):
        (directory / "myapp.py").write_text(APP + added)
        daemon.signal(signal.SIGHUP)
        daemon.wait_for("reloading, checking the settings and the application first", n + 1)
        ids += [client.enqueue("app:sleep", 0.01).id for _ in range(15)]
        with suppress(ProcessLookupError):  # it may have been recycled in between
            os.kill(wait_until(lambda: daemon.pid_of("worker:1"), "there is a worker"), signal.SIGKILL)
        if added == HANGING:
            wait_until((directory / "checking").exists, "the check hangs")
            for task_id in ids:
                daemon.wait_for("task completed", task_id=task_id)
            os.kill(int((directory / "checking").read_text()), signal.SIGKILL)
        wait_until(lambda n=n: count_ends(daemon) > n, "the reload has ended")  # type: ignore[misc]

    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id)
    assert not daemon.lines("process crashed")
    assert len(daemon.lines("reload refused, going on as before")) == 2
    wait_until(lambda: daemon.info()["missing"] == [] and daemon.info()["state"] == "ready", "all workers serve")
    assert {p["state"] for p in daemon.processes()} <= {"STARTING", "RUNNING"}


def count_ends(daemon: RunningDaemon) -> int:
    return len(daemon.lines("daemon reloaded")) + len(daemon.lines("reload refused, going on as before"))


def test_settings_that_break_between_the_check_and_the_new_program_are_tried_again_by_the_manager(
    start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    broker = daemon.pid_of("valkey")
    (directory / "myapp.py").write_text(
        f"{APP}import pathlib, sys\nif '--check' in sys.argv:\n"
        "    pathlib.Path('boilerd.toml').write_text('workers = 4')\n"
    )

    daemon.signal(signal.SIGHUP)

    assert daemon.wait() == 1
    assert "unknown key 'workers'" in daemon.errors()
    assert not is_running(broker)


def test_a_worker_that_is_restarted_comes_back_while_a_reload_is_checked(
    start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "0.5")
    before = daemon.kill("worker:0", signal.SIGSTOP)  # so that it takes its time to end

    ask(directory / "run" / "control.sock", "boilerd.restart", [])
    (directory / "myapp.py").write_text("import time\ntime.sleep(600)\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, checking the settings and the application first")

    wait_until(lambda: daemon.pid_of("worker:0") not in {0, before}, "it is there again")
    assert daemon.info()["state"] == "reloading"
    assert daemon.stop() == 0


def test_a_reload_to_another_state_directory_takes_a_broker_of_that(start_app: StartDaemon, directory: Path) -> None:
    settings = directory / "boilerd.toml"
    settings.write_text(f'state_dir = "{directory}/one"\n')
    where = {"BOILERD_STATE_DIR": "", "BOILERD_RUNTIME_DIR": f"{directory}/run"}
    daemon = start_app("--concurrency", "1", redis_url=None, env=where)
    broker = daemon.pid_of("valkey")

    settings.write_text(f'state_dir = "{directory}/other"\n')
    done = daemon.cli("reload", cwd=directory)

    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running(broker)
    with connect(f"unix://{directory}/run/valkey.sock") as admin:
        assert admin.config_get("dir") == {"dir": f"{directory}/other/valkey"}
    with (directory / "one" / "boilerd.lock").open("rb+") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another daemon may have it
    daemon.wait_for("version 1", task_id=daemon.enqueue("app:version"))


def test_a_reload_to_a_directory_of_another_daemon_is_refused(start_app: StartDaemon, directory: Path) -> None:
    settings = directory / "boilerd.toml"
    settings.write_text(f'state_dir = "{directory}/one"\n')
    where = {"BOILERD_STATE_DIR": "", "BOILERD_RUNTIME_DIR": f"{directory}/run"}
    daemon = start_app("--concurrency", "1", redis_url=None, env=where)
    (directory / "other").mkdir()

    with (directory / "other" / "boilerd.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        settings.write_text(f'state_dir = "{directory}/other"\n')
        done = daemon.cli("reload", cwd=directory)

    assert done.returncode == 1
    assert "reload refused: state_dir" in done.stderr
    assert "in use by another daemon" in done.stderr
    assert (daemon.info()["state"], daemon.info()["generation"]) == ("ready", 0)


def test_a_broker_that_is_given_up_and_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boilerd.supervision.handover.STOP_S", 0.1)
    hangs = ["sh", "-c", "trap '' INT; echo; exec sleep 600"]
    with subprocess.Popen(hangs, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            assert child.stdout.readline()
            handover = Handover(valkey=RunningValkey("/nowhere.sock", child.pid, os.open(os.devnull, os.O_RDONLY)))

            handover.abandon()

            assert not is_running(child.pid)
        finally:
            child.kill()


def test_a_reloaded_daemon_waits_for_a_broker_that_is_away(start_app: StartDaemon, start_valkey: StartValkey) -> None:
    server = start_valkey()
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "3", redis_url=server.url)
    with Client.from_url(server.url) as client:
        task_id = client.enqueue("app:sleep", 60).id  # the drain takes 3 s
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")

    server.stop()
    daemon.wait_for("broker unavailable, waiting", logger="boilerd.daemon")
    server.start()

    daemon.wait_for("daemon reloaded")
    wait_for_generation(daemon, 1)
    assert daemon.stop() == 0


def test_a_reloaded_daemon_that_waits_for_its_broker_can_be_stopped(
    start_app: StartDaemon, start_valkey: StartValkey
) -> None:
    server = start_valkey()
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "3", redis_url=server.url)
    with Client.from_url(server.url) as client:  # the drain takes 3 s
        daemon.wait_for("task started", task_id=client.enqueue("app:sleep", 60).id)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")
    server.stop()
    daemon.wait_for("broker unavailable, waiting", logger="boilerd.daemon")

    assert daemon.stop() == 0
    assert daemon.lines("stopped while starting")


def test_a_new_program_that_cannot_start_after_all_leaves_no_broker_behind(
    start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    broker = daemon.pid_of("valkey")

    (directory / "myapp.py").write_text(f"import sys\nassert '--check' in sys.argv\n{APP}")
    daemon.signal(signal.SIGHUP)

    assert daemon.wait() == 1  # the service manager tries again
    assert daemon.lines("daemon could not start")
    assert not is_running(broker)


def too_few_replicas(admin: redis.Redis, _directory: Path) -> None:
    admin.config_set("min-replicas-to-write", "2")


def replica(admin: redis.Redis, _directory: Path) -> None:
    admin.replicaof("127.0.0.1", "1")


def replica_that_refuses_to_read(admin: redis.Redis, _directory: Path) -> None:
    admin.config_set("replica-serve-stale-data", "no")
    admin.replicaof("127.0.0.1", "1")


def disk_that_is_full(admin: redis.Redis, directory: Path) -> None:
    """A snapshot cannot be put into place."""
    (directory / "dump.rdb" / "in the way").mkdir(parents=True)
    admin.config_set("save", "3600 1")
    admin.bgsave()
    wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "it could not save")


Trouble = Callable[[redis.Redis, Path], None]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (too_few_replicas, "Redis has too few replicas"),
        (replica, "Redis is read-only"),
        (replica_that_refuses_to_read, "Redis refused the command: Link with MASTER is down"),
        (disk_that_is_full, "Redis cannot save to its disk"),
    ],
)
def test_a_reload_is_refused_while_the_broker_takes_no_writes(
    start_app: StartDaemon, start_valkey: StartValkey, trouble: Trouble, error: str
) -> None:
    server = start_valkey()
    daemon = start_app("--concurrency", "1", redis_url=server.url)
    with connect(server.url) as admin:
        trouble(admin, server.socket.parent)

    done = daemon.cli("reload")

    assert done.returncode == 1
    assert error in done.stderr
    assert (daemon.info()["state"], daemon.info()["generation"]) == ("ready", 0)


def test_a_reload_to_other_limits_is_refused_while_the_broker_is_full(
    start_app: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    settings = directory / "boilerd.toml"
    settings.write_text("[limits.low]\nmax_active = 1\n")
    server = start_valkey()
    daemon = start_app("--concurrency", "1", redis_url=server.url)
    with connect(server.url) as admin:
        admin.config_set("maxmemory", "1000")

    settings.write_text("[limits.low]\nmax_active = 2\n")
    refused = daemon.cli("reload", cwd=directory)
    settings.write_text("[limits.low]\nmax_active = 1\n")
    done = daemon.cli("reload", cwd=directory)

    assert refused.returncode == 1
    assert "Redis is out of memory, raise its maxmemory" in refused.stderr
    # Nothing new is to be stored: workers that take tasks away are what a full broker needs.
    assert (done.returncode, done.stderr) == (0, "")
    assert daemon.info()["generation"] == 1


def test_a_reloaded_daemon_waits_for_a_broker_that_takes_no_writes(
    start_app: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey()
    daemon = start_app("--concurrency", "1", redis_url=server.url)
    (directory / "myapp.py").write_text(
        "import pathlib, sys, time\n"
        "while '--check' not in sys.argv and not pathlib.Path('go').exists():\n    time.sleep(0.01)\n"
        + (directory / "myapp.py").read_text()
    )
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")

    with connect(server.url) as admin:
        too_few_replicas(admin, directory)
        (directory / "go").touch()
        waiting = daemon.wait_for("broker unavailable, waiting", logger="boilerd.daemon")
        health = daemon.cli("health").stdout
        admin.config_set("min-replicas-to-write", "0")

    assert "Redis has too few replicas" in waiting["error"]
    assert "daemon: starting, broker unavailable" in health.splitlines()
    wait_for_generation(daemon, 1)
    assert daemon.stop() == 0


def test_a_reload_without_the_embedded_brokers_socket_is_refused(start_app: StartDaemon, directory: Path) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    task_id = daemon.enqueue("app:sleep", "3")
    daemon.wait_for("task started", task_id=task_id)
    shutil.rmtree(directory / "run")

    daemon.signal(signal.SIGHUP)

    refused = daemon.wait_for("reload refused, going on as before")
    assert re.search(r"Redis did not answer: .*valkey\.sock", refused["error"])
    daemon.wait_for("task completed", task_id=task_id)
    assert daemon.stop() == 0
    assert daemon.errors() == ""


def test_a_reload_with_a_full_disk_under_the_embedded_broker_is_refused(
    start_app: StartDaemon, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", redis_url=None)
    with connect(f"unix://{directory}/run/valkey.sock") as admin:
        disk_that_is_full(admin, directory / "valkey")

        done = daemon.cli("reload")
        admin.config_set("save", "")

    assert done.returncode == 1
    assert "Redis cannot save to its disk" in done.stderr
    daemon.wait_for("version 1", task_id=daemon.enqueue("app:version"))


@pytest.mark.fault(35)
def test_a_reload_without_a_file_descriptor_to_spare_is_refused(start_app: StartDaemon) -> None:
    daemon = start_app("--concurrency", "1")
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    assert all(Path(f"/proc/{daemon.pid}/fd/{fd}").is_symlink() for fd in range(5))

    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (5, limits[1]))
    daemon.signal(signal.SIGHUP)
    refused = daemon.wait_for("reload refused, going on as before")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)

    assert "Too many open files" in refused["error"]
    assert daemon.cli("reload").returncode == 0


@pytest.mark.fault(34)
def test_a_reload_needs_no_room_on_a_disk(start_app: StartDaemon, directory: Path) -> None:
    (directory / "full").mkdir()
    (directory / "full" / "sitecustomize.py").write_text("import tempfile\ntempfile.tempdir = '/proc/nowhere'\n")
    daemon = start_app("--concurrency", "1", env={"PYTHONPATH": python_path(directory / "full")})

    assert daemon.cli("reload").returncode == 0

    assert daemon.info()["generation"] == 1


def test_a_check_that_takes_too_long_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boilerd.supervision.reload.CHECK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", "import signal; signal.pause()"])
    pids: dict[int, Any] = {}
    check = Check(pids, os.environ)
    (pid,) = pids

    def has_ended() -> bool:
        check.end_if_late()
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    wait_until(has_ended, "the check was ended")
    check.finish(*os.waitpid(pid, 0))

    assert check.error == "the check took longer than 0.1 s; see what the import of app waits for"


def test_the_reload_command_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boilerd.cli.control.SILENCE_S", 0.1)
    told = {"generation": 1, "state": "starting", "status": "starting, broker unavailable"}

    with pytest.raises(DaemonError, match=r"^the new program goes on starting: starting, broker unavailable$"):
        await_reload(lambda: told, 0)


def test_what_was_handed_over_and_is_gone_already_is_given_up_in_silence() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    handover = Handover(valkey=RunningValkey("/nowhere.sock", child.pid, fd))

    handover.abandon()

    assert handover.valkey is None


def test_supervisors_own_tool_reloads_as_well(start_app: StartDaemon) -> None:
    daemon = start_app("--concurrency", "1")
    socket = daemon.socket

    tool = [str(Path(sys.executable).parent / "supervisorctl"), "-s", f"unix://{socket}"]
    done = subprocess.run([*tool, "reload"], capture_output=True, text=True, timeout=90, check=False)

    assert "Restarted" in done.stdout, (done.stdout, done.stderr)
    assert wait_for_generation(daemon, 1)["pid"] == daemon.pid


ALL_THAT_CHANGES: list[tuple[Any, ...]] = [("quiet",), ("resume",), ("scale", 3), ("restart", []), ("reload",)]


def test_while_a_reload_is_under_way_each_request_is_refused_with_that_reason(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "30")
    task_id = client.enqueue("app:until", str(directory / "go")).id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("reloading, draining the workers")

    for method, *args in ALL_THAT_CHANGES:
        with pytest.raises(RefusedError, match=r"^a reload is under way; try again when it has ended$"):
            ask(daemon.socket, f"boilerd.{method}", *args)
    daemon.signal(signal.SIGTSTP)
    daemon.wait_for("signal ignored", error="a reload is under way; try again when it has ended")
    (directory / "go").touch()

    assert wait_for_generation(daemon, 1)["status"] == "1 worker, 0 busy, 0 pending"


def test_the_cont_that_a_service_manager_sends_behind_a_term_is_no_line_worth(start_app: StartDaemon) -> None:
    daemon = start_app("--concurrency", "1").ready()
    daemon.signal(signal.SIGSTOP)

    daemon.signal(signal.SIGTERM)
    daemon.signal(signal.SIGCONT)

    assert daemon.wait() == 0
    assert daemon.lines("signal ignored") == []


def test_while_it_drains_for_good_each_request_is_refused_with_that_reason(
    start_app: StartDaemon, client: Client, directory: Path
) -> None:
    daemon = start_app("--concurrency", "1", "--shutdown-timeout", "60")
    task_id = client.enqueue("app:until", str(directory / "go")).id
    daemon.wait_for("task started", task_id=task_id)
    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")

    for method, *args in ALL_THAT_CHANGES:
        with pytest.raises(RefusedError, match=r"^the daemon is draining, and ends then$"):
            ask(daemon.socket, f"boilerd.{method}", *args)
    with pytest.raises(RefusedError, match="SHUTDOWN_STATE"):
        ask(daemon.socket, "supervisor.startProcess", "scheduler")
    daemon.signal(signal.SIGCONT)
    daemon.wait_for("signal ignored", error="the daemon is draining, and ends then")
    (directory / "go").touch()

    assert daemon.wait() == 0
    assert daemon.lines("task completed", task_id=task_id)


MAILS = """
from dataclasses import dataclass
from boilerd import ServeMux
mux = ServeMux()
@dataclass
class Mail:
    to: {kind}
mux.handle("mail:send", lambda task: None, payload=Mail)
"""


def test_a_task_that_old_code_could_not_read_is_run_by_the_new(
    start_daemon: StartDaemon, client: Client, directory: Path
) -> None:
    (directory / "mails.py").write_text(MAILS.format(kind="str"))
    env = {"BOILERD_APP": "mails:mux", **QUICK_RETRY}
    daemon = start_daemon("--concurrency", "1", directory=directory, env=env).ready()
    task_id = client.enqueue("mail:send", {"to": ["ada@example.org"]}, max_retries=1000).id
    daemon.wait_for("task will be retried", task_id=task_id)

    (directory / "mails.py").write_text(MAILS.format(kind="list[str]"))
    daemon.signal(signal.SIGHUP)

    daemon.wait_for("task completed", task_id=task_id)
