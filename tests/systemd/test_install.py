"""Installing and taking away, on a machine that has a systemd and nothing of boilerd."""

import shutil
import subprocess
from pathlib import Path

import pytest

from box import PROJECT, Box

INSTALL = PROJECT / "scripts" / "install"
SETTINGS = "etc/boilerd/boilerd.toml"


def files(box: Box) -> set[str]:
    """All that is there where an installation may leave something."""
    return set(box.run("find", "/etc", "/opt", "/usr/local", "/var/lib", "-xdev").stdout.splitlines())


def offline(box: Box, wheels: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Install from the wheels, with no network at all."""
    shared = box.root / "var/wheels"
    if not shared.exists():
        shared.mkdir()
        for wheel in wheels.iterdir():
            (shared / wheel.name).write_bytes(wheel.read_bytes())
    return box.run("unshare", "--net", INSTALL, "--wheels", "/var/wheels", *words)


def test_a_dry_run_tells_each_step_and_changes_nothing(fresh_box: Box) -> None:
    before = files(fresh_box)

    done = fresh_box.run("make", "-C", PROJECT, "install", "ARGS=--dry-run")

    assert files(fresh_box) == before
    for word in ("/opt/boilerd", "/usr/local/bin/boilerd", "boiler-worker@.service", "/etc/boilerd/boilerd.toml"):
        assert word in done.stdout
    assert "Nothing was done" in done.stdout


def test_it_installs_without_a_network_and_leaves_nothing_when_it_goes(fresh_box: Box, wheels: Path) -> None:
    before = files(fresh_box)
    offline(fresh_box, wheels)
    fresh_box.run("systemctl", "enable", "--now", "boiler-worker")
    assert fresh_box.run("boilerd", "enqueue", "worker:ping", '{"message":"hi"}').stdout.strip()
    assert (fresh_box.root / "usr/local/share/man/man1/boilerd.1").read_text().startswith('.\\" Made by')

    done = fresh_box.run("make", "-C", PROJECT, "uninstall", "ARGS=--purge")

    after = {path for path in files(fresh_box) if not path.startswith(("/var/lib/systemd", "/var/lib/private"))}
    assert after - before == set()
    assert not list((fresh_box.root / "var/lib/private").glob("boiler*"))
    assert "What stays\n  nothing" in done.stdout
    assert fresh_box.run("systemctl", "status", "boiler-worker", check=False).returncode == 4  # no such unit
    assert not fresh_box.run("pgrep", "-f", "boilerd:", check=False).stdout


def test_what_was_edited_stays_through_upgrades_and_when_it_goes(installed_box: Box, wheels: Path) -> None:
    edited = "concurrency = 3\n"
    (installed_box.root / SETTINGS).write_text(edited)
    installed_box.write("/etc/systemd/system/boiler-worker.service.d/mine.conf", "[Service]\nNice=5\n")

    (installed_box.root / "opt/boilerd/share/boilerd.toml").write_text("# what an older version brought\n")

    again = offline(installed_box, wheels)
    beside = (installed_box.root / f"{SETTINGS}.new").read_text()
    installed_box.run("systemctl", "start", "boiler-worker")
    shown = installed_box.run("boilerd", "config", "show").stdout
    gone = installed_box.run(INSTALL, "uninstall")

    assert "was edited, and stays as it is" in again.stdout
    assert "concurrency          3 " in shown
    assert beside == (PROJECT / "conf/boilerd.toml").read_text()
    assert (installed_box.root / SETTINGS).read_text() == edited
    assert (installed_box.root / "etc/systemd/system/boiler-worker.service.d/mine.conf").exists()
    assert (installed_box.root / "var/lib/private/boilerd/valkey").is_dir()
    assert "/var/lib/private/boilerd" in gone.stdout
    assert not (installed_box.root / "opt/boilerd").exists()


def test_a_running_service_goes_on_through_an_upgrade(installed_box: Box, wheels: Path) -> None:
    installed_box.run("systemctl", "start", "boiler-worker")
    pid = installed_box.show("boiler-worker", "MainPID")

    offline(installed_box, wheels)
    installed_box.run("systemctl", "reload", "boiler-worker")

    assert installed_box.show("boiler-worker", "MainPID") == pid
    assert installed_box.run("boilerd", "health").stdout == "ok\n"


def test_an_installation_that_fails_half_way_changes_nothing(installed_box: Box) -> None:
    (installed_box.root / "var/empty").mkdir()
    installed_box.run("cp", "/usr/bin/python3", "/usr/local/bin/other-python")
    before = files(installed_box)

    done = installed_box.run(INSTALL, "--python", "/usr/local/bin/other-python", "--wheels", "/var/empty", check=False)

    assert done.returncode != 0
    assert files(installed_box) == before
    installed_box.run("systemctl", "start", "boiler-worker")
    assert installed_box.run("boilerd", "health").stdout == "ok\n"


def test_through_an_upgrade_the_command_is_always_there_and_added_libraries_stay(
    installed_box: Box, wheels: Path
) -> None:
    version = installed_box.run("/opt/boilerd/bin/python", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    library = f"/opt/boilerd/lib/python{version.stdout.strip()}/site-packages/mine.py"
    installed_box.write(library, "answer = 42\n")
    installed_box.run("systemctl", "start", "boiler-worker")
    watch = "until [ -e /root/done ]; do boilerd --version >/dev/null || exit 1; done; sleep infinity"
    installed_box.run("systemd-run", "--unit=watch", "/bin/sh", "-c", watch)

    done = offline(installed_box, wheels)
    (installed_box.root / "root/done").touch()

    assert installed_box.show("watch", "ActiveState") == {"ActiveState": "active"}
    assert done.stdout.strip().endswith("Next: systemctl reload boiler-worker")
    installed_box.run("systemctl", "reload", "boiler-worker")
    assert installed_box.run("/opt/boilerd/bin/python", "-c", "import mine; print(mine.answer)").stdout == "42\n"
    assert len(list((installed_box.root / "opt/boilerd/versions").iterdir())) == 1


def test_an_environment_of_the_first_version_becomes_one_that_can_be_exchanged(
    installed_box: Box, wheels: Path
) -> None:
    old = installed_box.root / "opt/boilerd"
    for part in ("bin", "include", "lib", "lib64", "pyvenv.cfg"):
        (old / part).unlink(missing_ok=True)
        if (old / "current" / part).exists():
            (old / "current" / part).rename(old / part)
    shutil.rmtree(old / "versions")
    (old / "current").unlink()
    assert installed_box.run("boilerd", "--version").stdout

    offline(installed_box, wheels)

    assert installed_box.run("boilerd", "--version").stdout
    assert (old / "bin").is_symlink()


def test_an_instance_that_runs_is_named_and_a_password_that_all_can_read_is_told(
    installed_box: Box, wheels: Path
) -> None:
    installed_box.write("/etc/boilerd/mail.toml", "concurrency = 1\n")
    installed_box.write("/etc/boilerd/other.toml", 'redis_url = "redis://:hunter2@127.0.0.1:1/0"\n')
    installed_box.run("systemctl", "start", "boiler-worker@mail")

    done = offline(installed_box, wheels)

    assert "Next: systemctl reload boiler-worker@mail" in done.stdout
    assert "Everybody can read the password in /etc/boilerd/other.toml" in done.stdout
    assert "hunter2" not in done.stdout


def test_what_stays_when_it_goes_is_listed(installed_box: Box) -> None:
    installed_box.write("/etc/credstore/boilerd.redis_password", "secret")
    installed_box.write("/etc/systemd/system/boiler-worker.service.d/mine.conf", "[Service]\nUser=mine\n")
    (installed_box.root / "var/lib/boilerd-mine").mkdir()

    done = installed_box.run(INSTALL, "uninstall")

    stays = done.stdout.partition("What stays")[2].split()
    assert {"/etc/credstore/boilerd.redis_password", "/etc/systemd/system/boiler-worker.service.d"} <= set(stays)
    assert "/var/lib/boilerd-mine" in stays


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (("--python", "/nowhere/python3"), 1, "/nowhere/python3: no such program"),
        (("--wheel", "x"), 2, "--wheels DIR"),
        (("--python", "/root/python3"), 1, "is in a home directory"),
    ],
)
def test_what_cannot_be_done_is_told(fresh_box: Box, words: tuple[str, ...], status: int, error: str) -> None:
    # A Python that believes to live in /root.
    fresh_box.write("/root/python3", '#!/bin/sh\ncase "$2" in *base_prefix*) echo /root/pyenv;; esac\n')
    (fresh_box.root / "root/python3").chmod(0o755)
    before = files(fresh_box)

    done = fresh_box.run(INSTALL, *words, check=False)

    assert done.returncode == status
    assert error in done.stderr
    assert files(fresh_box) == before


def test_only_root_may_install(fresh_box: Box) -> None:
    done = fresh_box.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", INSTALL, check=False)

    assert done.returncode == 1
    assert "run it as root" in done.stderr
