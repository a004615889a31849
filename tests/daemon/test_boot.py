"""What stops the daemon from starting: one clear line, nothing left behind, and exit status 3.

A broker that does not answer may answer the next time, so it is status 1: service managers try again.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boilerd.broker.connection import connect
from boilerd.errors import AppImportError
from boilerd.tasks.loading import load_app
from support import StartDaemon, StartValkey, Valkey, boilerd, clean_environment, wait_until


def run(directory: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return boilerd("run", *flags, env=clean_environment(BOILERD_STATE_DIR=str(directory), **variables), cwd=directory)


def assert_refused(done: subprocess.CompletedProcess[str], pattern: str, *, status: int = 3) -> None:
    """The exit status, and the reason as the last line of stderr."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert re.fullmatch(f"boilerd: error: .*{pattern}.*", done.stderr.splitlines()[-1]), done.stderr
    assert '"daemon started"' not in done.stdout


def test_a_redis_that_does_not_answer_is_named(directory: Path) -> None:
    done = run(directory, "--redis-url", f"unix://{directory}/none.sock")

    assert_refused(done, r"Redis did not answer: .*none\.sock", status=1)
    assert len(done.stderr.splitlines()) == 1


def test_a_first_start_on_a_full_disk_may_be_tried_again(directory: Path) -> None:
    files = directory / "valkey" / "appendonlydir"
    files.mkdir(parents=True)
    (files / "temp-appendonly.aof.manifest").symlink_to("/dev/full")

    assert_refused(run(directory), "No space left on device", status=1)


def test_a_wrong_password_is_told_without_the_password(directory: Path) -> None:
    server = Valkey(directory, "--requirepass", "right").start()
    try:
        missing = run(directory, "--redis-url", server.url)
        wrong = run(directory, BOILERD_REDIS_URL=server.url, BOILERD_REDIS_PASSWORD="wr0ng")
        in_url = run(directory, BOILERD_REDIS_URL=f"unix://:wr0ng@{server.socket}")
    finally:
        server.stop()

    assert_refused(missing, "password")
    assert_refused(wrong, "password")
    assert_refused(in_url, "password")
    assert "wr0ng" not in wrong.stdout + wrong.stderr + in_url.stdout + in_url.stderr


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("colour = 1", r"boilerd\.toml: unknown key 'colour'"),
        ("concurrencyy = 3", r"unknown key 'concurrencyy'; did you mean 'concurrency'\?"),
        ("concurrency = 'many'", r"boilerd\.toml: concurrency: 'many' is not a whole number"),
        ("concurrency = -1", r"concurrency: -1 is not a whole number of at least 1"),
        ("concurrency = ", r"boilerd\.toml: not TOML"),
        ("[queues]\nlow = 0", r"queues: .*weights of at least 1"),
    ],
)
def test_a_wrong_configuration_names_the_key_the_value_and_what_would_do(
    directory: Path, text: str, pattern: str
) -> None:
    (directory / "boilerd.toml").write_text(text)

    done = run(directory)

    assert_refused(done, pattern)
    assert len(done.stderr.splitlines()) == 1


def test_an_application_that_raises_is_shown_with_its_traceback(directory: Path) -> None:
    (directory / "broken.py").write_text("import json\njson.loads('{')\n")

    done = run(directory, "--app", "broken:mux")

    assert_refused(done, r"app 'broken:mux' cannot be imported: JSONDecodeError")
    assert "broken.py" in done.stderr
    assert "Traceback" in done.stderr


def test_a_working_directory_that_was_deleted_is_told(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    (directory / "release").mkdir()
    monkeypatch.chdir(directory / "release")
    (directory / "release").rmdir()

    with pytest.raises(AppImportError, match=r"^app 'myapp:mux': the working directory is gone"):
        load_app("myapp:mux")


@pytest.mark.parametrize(
    ("app", "pattern"),
    [
        ("nowhere:mux", "no module 'nowhere'"),
        ("empty:mux", "module 'empty' has no 'mux'"),
        ("empty:__doc__", "no mux"),
        ("empty", "is not module:name"),
    ],
)
def test_an_application_that_is_not_there_is_named(directory: Path, app: str, pattern: str) -> None:
    (directory / "empty.py").write_text('"""Nothing here."""\n')

    assert_refused(run(directory, "--app", app), pattern)


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("task_type", "queue", "pattern"),
    [
        ("known:task", "lwo", r"cron entry 'mine': .* queue 'lwo'; .*\(critical, default, low\), add 'lwo' to them"),
        ("unknown:task", "low", "cron entry 'mine': the app has no handler for type 'unknown:task'; "),
    ],
)
def test_a_periodic_task_that_this_daemon_could_not_run_is_named(
    directory: Path, task_type: str, queue: str, pattern: str
) -> None:
    (directory / "mine.py").write_text(
        "from boilerd import ServeMux\nmux = ServeMux()\nmux.handle('known:', lambda task: None)\n"
        f"mux.cron('@daily', '{task_type}', name='mine', queue='{queue}')\n"
    )

    assert_refused(run(directory, "--app", "mine:mux"), pattern)


def test_an_application_that_imports_what_is_missing_is_told_apart_from_a_missing_application(directory: Path) -> None:
    (directory / "needy.py").write_text("import not_installed\n")

    done = run(directory, "--app", "needy:mux")

    assert_refused(done, "'needy:mux' cannot be imported: ModuleNotFoundError")
    assert "import not_installed" in done.stderr


def test_a_state_directory_that_cannot_be_made_is_named(directory: Path) -> None:
    (directory / "file").write_text("")

    assert_refused(run(directory, "--state-dir", f"{directory}/file/state"), r"runtime_dir \S+: Not a directory")


def test_a_path_too_long_for_a_socket_is_named(directory: Path) -> None:
    assert_refused(run(directory, "--state-dir", f"{directory}/{'x' * 90}"), "too long for a socket")


def test_a_control_socket_that_cannot_be_opened_is_named(directory: Path) -> None:
    (directory / "run" / "control.sock").mkdir(parents=True)

    done = run(directory)

    assert_refused(done, r"control socket \S+/run/control\.sock: Is a directory")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["control.sock", "valkey.sock"])
@pytest.mark.parametrize(("make", "kind"), [(Path.mkdir, "directory"), (Path.touch, "file")])
def test_what_stands_at_a_sockets_path_and_is_no_socket_is_named_and_left(
    directory: Path, name: str, make: Callable[[Path], None], kind: str
) -> None:
    path = directory / "run" / name
    path.parent.mkdir(mode=0o700)
    make(path)

    done = run(directory)

    where = f"{path.stem} socket {path}: Is a {kind}, not a socket; move it away, or set another runtime_dir"
    assert_refused(done, re.escape(where))
    assert len(done.stderr.splitlines()) == 1
    assert path.exists()


def test_a_log_file_that_cannot_be_opened_is_named(directory: Path) -> None:
    done = run(directory, "--log-output", "file", "--log-file", f"{directory}/none/log")

    assert_refused(done, r"log_file \S+/none/log: No such file or directory")


@pytest.mark.parametrize(
    ("setting", "value", "pattern"),
    [
        ("min-replicas-to-write", "2", "Redis has too few replicas"),
        ("maxmemory", "1000", "Redis is out of memory, raise its maxmemory"),
    ],
)
def test_a_broker_that_takes_no_writes_at_present_is_worth_another_try(
    start_valkey: StartValkey, directory: Path, setting: str, value: str, pattern: str
) -> None:
    (directory / "boilerd.toml").write_text("[limits.low]\nmax_active = 1\n")
    server = start_valkey(f"--{setting}", value)

    assert_refused(run(directory, "--redis-url", server.url), pattern, status=1)


@pytest.mark.parametrize("lacking", ["@scripting", "@blocking", "evalsha"])
def test_a_user_with_too_few_rights_is_told(start_valkey: StartValkey, directory: Path, lacking: str) -> None:
    server = start_valkey()
    with connect(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", f"-{lacking}")

    done = run(directory, "--redis-url", server.url.replace("unix://", "unix://weak:pw@"))

    assert_refused(done, "Redis allows this user too little: .* no permissions to run")
    assert "redis.call" not in done.stderr


def test_a_server_that_is_no_redis_is_told(directory: Path) -> None:
    assert_refused(run(directory, "--redis-url", "redis://127.0.0.1:1/0"), "Redis did not answer", status=1)


def test_a_damaged_append_only_file_is_told_and_nothing_is_left_running(
    start_daemon: StartDaemon, directory: Path
) -> None:
    first = start_daemon("--concurrency", "1", redis_url=None, directory=directory).ready()
    first.enqueue("test:echo", "1")
    first.stop()
    for file in (directory / "valkey").rglob("*.aof"):
        file.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n garbage garbage" + file.read_bytes())

    done = run(directory)

    assert_refused(done, "the embedded Valkey ended at once: .*")
    assert "Bad file format" in done.stderr
    shown = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert f"{directory}/run/valkey.sock" not in shown
    assert [path.name for path in (directory / "run").iterdir()] == ["boilerd.lock"]


def test_a_start_that_fails_after_that_of_the_embedded_broker_leaves_nothing_running(directory: Path) -> None:
    (directory / "upset.py").write_text(
        "from boilerd import ServeMux, errors\nfrom boilerd.broker import server_check\n"
        "mux = ServeMux()\n"
        "def check(connection):\n    raise errors.BrokerError('not to be used')\n"
        "server_check.check = check\n"
    )

    done = run(directory, "--app", "upset:mux")

    assert_refused(done, "not to be used")
    shown = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert f"{directory}/run/valkey.sock" not in shown


def test_a_service_named_boilerd_in_kubernetes_keeps_no_daemon_from_its_start(start_daemon: StartDaemon) -> None:
    service = {"BOILERD_PORT": "tcp://10.96.7.1:80", "BOILERD_SERVICE_HOST": "10.96.7.1", "REDIS_PORT": "tcp://[::1]:1"}

    daemon = start_daemon("--concurrency", "1", "--log-level", "debug", env=service).ready()

    told = daemon.lines("variables of a service named boilerd are no settings")
    assert [line["variables"] for line in told] == [["BOILERD_PORT", "BOILERD_SERVICE_HOST"]]


@pytest.mark.parametrize("name", [" a=b 'c' \"d\"?#&%41 {e}%(f)s ", "a\nb\\c;$HOME"], ids=["spaces", "lines"])
def test_a_runtime_directory_may_have_any_name_that_is_text(
    start_daemon: StartDaemon, directory: Path, name: str
) -> None:
    runtime = directory / name
    variables = {"BOILERD_RUNTIME_DIR": str(runtime), "BOILERD_STATE_DIR": str(directory / f"{name}s")}
    daemon = start_daemon("--concurrency", "1", redis_url=None, env=variables)
    daemon.wait_for("daemon started")

    task_id = daemon.enqueue("test:echo")
    daemon.wait_for("task completed", task_id=task_id)
    reloaded = daemon.cli("reload")
    health = daemon.cli("health")

    assert (reloaded.returncode, health.stdout, daemon.stop()) == (0, "ok\n", 0)


def test_a_runtime_directory_whose_name_is_no_text_is_told(directory: Path) -> None:
    done = run(directory, BOILERD_RUNTIME_DIR=f"{directory}/\udcff")

    assert_refused(done, r"runtime_dir: '.*\\udcff' is not a path that is UTF-8 text")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("whose", ["environment", "application"])
def test_warnings_that_are_errors_keep_no_command_from_its_daemon(
    start_daemon: StartDaemon, directory: Path, whose: str
) -> None:
    (directory / "strict.py").write_text("import warnings\nfrom apps import mux\nwarnings.simplefilter('error')\n")
    chosen = {"environment": {"PYTHONWARNINGS": "error"}, "application": {"BOILERD_APP": "strict:mux"}}[whose]
    daemon = start_daemon("--concurrency", "1", env=chosen, directory=directory)
    daemon.wait_for("daemon started")
    wait_until(lambda: daemon.info().get("state") == "ready", "it tells that it is ready")

    reloaded = daemon.cli("reload")
    health = daemon.cli("health")

    assert (reloaded.stderr, health.stdout) == ("", "ok\n")


PLAIN_AROUND_ASYNC = """
from boilerd import ServeMux

mux = ServeMux()

@mux.use
def noting(next_handler):
    return lambda task: next_handler(task)

@mux.handle("page:fetch")
async def fetch(task):
    return task.payload
"""


def test_plain_middleware_around_async_handlers_in_a_pool_with_slots_is_refused_by_name_without_greenlet(
    directory: Path,
) -> None:
    (directory / "pages.py").write_text(PLAIN_AROUND_ASYNC)
    (directory / "missing").mkdir()
    (directory / "missing" / "greenlet.py").write_text("raise ImportError('it is not installed')")
    env = {"BOILERD_APP": "pages:mux", "PYTHONPATH": str(directory / "missing")}
    env["BOILERD_POOLS"] = '{"web": {"queues": {"web": 1}, "slots": 10}}'

    done = run(directory, **env)
    checked = boilerd("config", "check", env=clean_environment(**env), cwd=directory, anew=True)

    assert_refused(
        done, "middleware noting is a plain function around the async def handler fetch in pool web: make it"
    )
    assert (checked.returncode, checked.stderr) == (2, done.stderr)
