"""``boilerd run --watch``: a file that changes is a reload."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boilerd import Client
from boilerd.daemon import watching
from boilerd.daemon.watching import Sources, watch
from boilerd.errors import BootError, RefusedError
from support import RunningDaemon, StartDaemon, boilerd, clean_environment, is_running, wait_until

APP = """
import os, time
from boilerd import ServeMux
mux = ServeMux()

@mux.handle("app:until")
def until(task):
    while not os.path.exists(task.payload):
        time.sleep(0.01)

mux.handle("app:version", lambda task: task.logger.info("version {version}"))
"""


def write_app(directory: Path, version: int, *, more: str = "") -> None:
    """As an editor does: another file takes the place of the old one; here always within the same second."""
    fresh = directory / "myapp.py~"
    fresh.write_text(APP.replace("{version}", str(version)) + more)
    os.utime(fresh, (1_700_000_000, 1_700_000_000))
    fresh.rename(directory / "myapp.py")


@pytest.fixture
def daemon(start_daemon: StartDaemon, directory: Path) -> RunningDaemon:
    """A daemon that watches its directory."""
    write_app(directory, 1)
    env = {
        "BOILERD_APP": "myapp:mux",
        "BOILERD_CONCURRENCY": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "BOILERD_SHUTDOWN_TIMEOUT": "30",
    }
    return start_daemon("--watch", directory=directory, env=env).ready()


def generation(daemon: RunningDaemon) -> int:
    return int(daemon.info()["generation"])


def wait_for_generation(daemon: RunningDaemon, number: int) -> None:
    wait_until(
        lambda: (info := daemon.info()).get("generation", 0) >= number and info["state"] == "ready",
        f"generation {number} is ready",
    )


@pytest.mark.long(6)
def test_changes_are_loaded_and_one_that_does_not_import_keeps_the_old_code(
    daemon: RunningDaemon, directory: Path, client: Client
) -> None:
    pid = daemon.pid
    write_app(directory, 2)
    wait_for_generation(daemon, 1)
    client.enqueue("app:version")
    daemon.wait_for("version 2")

    write_app(directory, 3, more="def\n")
    refused = daemon.wait_for("reload refused, going on as before")
    client.enqueue("app:version")
    daemon.wait_for("version 2", 2)
    write_app(directory, 4)
    wait_for_generation(daemon, 2)
    client.enqueue("app:version")

    daemon.wait_for("version 4")
    assert "SyntaxError" in refused["error"]
    assert "def\n" in refused["traceback"]
    assert [line["files"] for line in daemon.lines("files changed, reloading")] == ["myapp.py"] * 3
    assert "importlib" not in refused["traceback"]
    assert daemon.pid == pid


@pytest.mark.long(4)
def test_a_fault_that_is_saved_while_the_workers_drain_keeps_the_old_code(
    daemon: RunningDaemon, directory: Path, client: Client
) -> None:
    client.enqueue("app:until", str(directory / "go"))
    daemon.wait_for("task started")
    write_app(directory, 2)
    daemon.wait_for("reloading, draining the workers")

    write_app(directory, 3, more="def\n")
    daemon.wait_for("reloading, checking once more when the workers have ended")
    (directory / "go").touch()
    daemon.wait_for("reload refused, going on as before")
    client.enqueue("app:version")
    daemon.wait_for("version 1")
    write_app(directory, 4)
    wait_for_generation(daemon, 1)
    client.enqueue("app:version")

    daemon.wait_for("version 4")


@pytest.mark.long(4)
def test_the_last_of_many_quick_changes_is_loaded_in_few_reloads(
    daemon: RunningDaemon, directory: Path, client: Client
) -> None:
    (directory / "parts").mkdir()
    for number in range(300):
        (directory / "parts" / f"part{number}.py").write_text("X = 1\n")
    for version in range(2, 10):
        write_app(directory, version)  # of one size, and within a second or two

    def is_loaded() -> bool:
        client.enqueue("app:version")
        return bool(daemon.lines("version 9"))

    wait_for_generation(daemon, 1)
    wait_until(is_loaded, "the last version runs")
    assert generation(daemon) <= 4


@pytest.mark.long(4)
def test_the_watcher_ends_with_the_daemon_and_is_replaced_when_it_is_killed(
    daemon: RunningDaemon, directory: Path
) -> None:
    first = wait_until(lambda: daemon.pid_of("watcher"), "the watcher runs")
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: (pid := daemon.pid_of("watcher")) not in {0, first} and pid, "another one runs")
    write_app(directory, 2)
    wait_for_generation(daemon, 1)
    third = wait_until(lambda: (pid := daemon.pid_of("watcher")) not in {0, second} and pid, "a third one runs")

    os.kill(daemon.pid, signal.SIGKILL)

    wait_until(lambda: not is_running(third), "the watcher has gone as well")


def test_without_the_extra_the_start_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(BootError, match=r"^--watch needs watchfiles, .* `pip install 'boilerd\[watch\]'`$"):
        watching.prepare(has_code=True)


def test_without_an_application_there_is_nothing_to_watch(directory: Path) -> None:
    done = boilerd("run", "--watch", env=clean_environment(BOILERD_STATE_DIR=str(directory)), cwd=directory)

    assert done.returncode == 3
    assert "--watch: no application is set, so there is nothing to watch; name one with --app" in done.stderr


# Which files count.


@pytest.fixture
def here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(directory)
    write_app(directory, 1)
    return directory.resolve()


def test_python_files_count_and_nothing_else_does(here: Path) -> None:
    before = Sources.of(None)
    for folder in (".git", "__pycache__", "node_modules", "package", "env/lib"):
        (here / folder).mkdir(parents=True)
        (here / folder / "module.py").write_text("X = 1\n")
    (here / "env" / "pyvenv.cfg").touch()
    for name in ("log", "module.pyc", "data.json"):
        (here / name).write_text("x")

    now = before.now()

    assert now.changed(before) == ["package/module.py"]
    assert now.folders == {str(here), str(here / "package")}


def test_what_could_be_read_without_an_end_is_not_read(here: Path) -> None:
    os.mkfifo(here / "fifo.py")
    (here / "device.py").symlink_to("/dev/null")

    assert list(Sources.of(None).files) == [str(here / "myapp.py")]


def test_a_file_counts_as_changed_by_its_content(here: Path) -> None:
    (here / "gone.py").write_text("X = 1\n")
    before = Sources.of(None)
    write_app(here, 1)  # another file with the same content
    unchanged = before.now().changed(before)
    write_app(here, 2)
    (here / "gone.py").unlink()
    (here / "new.py").touch()

    assert unchanged == []
    assert before.now().changed(before) == ["gone.py", "myapp.py", "new.py"]


def test_an_application_that_is_a_link_in_the_working_directory_counts(here: Path, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (here / "linked").symlink_to(tmp_path / "shop")
    before = Sources.of("linked:mux")
    (tmp_path / "shop" / "tasks.py").write_text("X = 1\n")

    changed = before.now().changed(before)

    assert changed == [str((tmp_path / "shop" / "tasks.py").resolve())]


def test_the_applications_package_counts_wherever_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = here / "elsewhere"
    (elsewhere / "shop" / "tasks").mkdir(parents=True)
    (elsewhere / "single.py").touch()
    work = here / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(elsewhere))

    package, module = Sources.of("shop.tasks:mux"), Sources.of("single:mux")

    assert package.roots == (work, elsewhere / "shop")
    assert list(module.files) == [str(elsewhere / "single.py")]


@pytest.mark.parametrize("app", [None, "no_such_module:mux", "sys:mux", "boilerd:mux"])
def test_an_application_that_cannot_be_found_leaves_the_working_directory(here: Path, app: str | None) -> None:
    assert Sources.of(app).roots[0] == here


# How a reload is asked for.


class Ended(Exception):  # noqa: N818 - a request
    """Ends the endless watch of a test."""


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a test say what happens from one look at the files to the next."""

    def script(*steps: Any) -> None:
        def follow(*_: Any) -> Iterator[None]:
            for step in steps:
                step()
                yield
            raise Ended

        monkeypatch.setattr(watching, "_moments", follow)

    return script


def test_a_file_that_changed_while_the_application_was_imported_is_seen(here: Path, moments: Any) -> None:
    before, asked = Sources.of(None), []
    write_app(here, 2)
    moments(lambda: None, lambda: None)

    with pytest.raises(Ended):
        watch(before, lambda: asked.append(1))

    assert len(asked) == 1


def test_a_daemon_that_is_not_ready_for_a_reload_is_asked_again(here: Path, moments: Any) -> None:
    before, answers = Sources.of(None), [RefusedError("a reload is under way"), FileNotFoundError(), None]
    moments(lambda: write_app(here, 2))

    def reload() -> None:
        if error := answers.pop(0):
            raise error

    with pytest.raises(Ended):
        watch(before, reload)

    assert answers == []


def test_a_folder_that_is_made_later_is_watched_too(here: Path) -> None:
    script = (
        "import boilerd.daemon.watching as w; found = w.Sources.of(None); print('ready', flush=True);"
        "w.watch(found, lambda: print('asked', flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=here) as watcher:
        assert watcher.stdout
        assert watcher.stdout.readline() == "ready\n"
        for name in ("first", "second", "\udcff", "behind one that is no text"):
            (here / name).mkdir()
            (here / name / "module.py").write_text("X = 1\n")
            assert watcher.stdout.readline() == "asked\n"
        watcher.kill()


def test_where_folders_cannot_be_watched_they_are_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles  # noqa: PLC0415

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", refuse)
    monkeypatch.setattr(watching, "LOOK_EVERY_MS", 10)
    before, asked = Sources.of(None), []

    def reload() -> None:
        asked.append(1)
        raise Ended

    write_app(here, 2)
    with pytest.raises(Ended):
        watch(before, reload)
    write_app(here, 3)
    moments = watching._moments(lambda: before.folders, lambda: 0.0)

    assert [next(moments), next(moments), next(moments)] == [None] * 3
