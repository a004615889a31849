"""Commands on a daemon's host, which see the settings that it runs with."""

import json
import os
import pwd
from pathlib import Path

import pytest

from boilerd import BrokerUnavailableError, Client, Inspector
from boilerd.cli.daemon_settings import as_the_daemon
from boilerd.settings import finding
from boilerd.settings.finding import find_daemon, unit_of
from boilerd.settings.loading import load
from support import StartDaemon, StartValkey, boilerd, clean_environment

USER = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def elsewhere(start_daemon: StartDaemon, start_valkey: StartValkey) -> dict[str, str]:
    """The environment of a command that knows where a daemon is, and nothing of that daemon's own environment."""
    server = start_valkey("--requirepass", "hunter2")
    own = {"BOILERD_REDIS_PASSWORD": "hunter2", "BOILERD_QUEUES": "mail=1", "BOILERD_USER": USER}
    daemon = start_daemon("--concurrency", "1", redis_url=server.url, env=own).ready()
    return clean_environment(BOILERD_STATE_DIR=str(daemon.directory))


def test_commands_connect_as_the_daemon_does_and_show_its_settings_without_secrets(
    elsewhere: dict[str, str], directory: Path
) -> None:
    enqueued = boilerd("enqueue", "test:echo", "-q", "mail", env=elsewhere, cwd=directory)
    health = boilerd("health", env=elsewhere, cwd=directory)
    shown = boilerd("config", "show", "--json", env=elsewhere, cwd=directory)
    given = boilerd("config", "show", "--json", "--concurrency", "7", env=elsewhere, cwd=directory)

    settings = json.loads(shown.stdout)
    assert (enqueued.returncode, health.stdout) == (0, "ok\n"), enqueued.stderr
    assert settings["queues"] == {"value": {"mail": 1}, "source": "BOILERD_QUEUES"}
    assert settings["concurrency"] == {"value": 1, "source": "flag"}
    assert settings["app"]["value"] == "apps:mux"
    assert settings["redis_password"]["value"] == "********"
    assert "hunter2" not in shown.stdout
    assert json.loads(given.stdout)["concurrency"] == {"value": 7, "source": "flag"}


def test_another_settings_file_is_not_mixed_with_the_daemons(elsewhere: dict[str, str], directory: Path) -> None:
    (directory / "boilerd.toml").write_text("concurrency = 3\n")

    shown = boilerd("config", "show", "--json", env=elsewhere, cwd=directory)

    assert json.loads(shown.stdout)["concurrency"] == {"value": 3, "source": "boilerd.toml"}
    assert json.loads(shown.stdout)["queues"]["source"] == "default"


def test_what_code_is_run_and_which_file_is_read_is_not_the_daemons_to_say(
    elsewhere: dict[str, str], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    loaded = load({"state_dir": elsewhere["BOILERD_STATE_DIR"]}, environ={})

    believed, shown = as_the_daemon(loaded), as_the_daemon(loaded, only_shows=True)

    assert (believed.settings.app, shown.settings.app) == (None, "apps:mux")
    assert (believed.settings.user, shown.settings.user) == (None, USER)
    assert believed.settings.redis_password == "hunter2"


@pytest.fixture
def service(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for /run/boilerd, and this one without settings that say where a daemon is."""
    (directory / "cwd").mkdir()
    (directory / "boilerd").mkdir()
    monkeypatch.chdir(directory / "cwd")
    monkeypatch.setattr(finding, "SERVICE_RUN", directory / "boilerd")
    monkeypatch.setattr(finding, "SERVICE_STATE", directory / "state")
    monkeypatch.setattr(finding, "SYSTEM_FILE", directory / "boilerd.toml")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    for name in ("BOILERD_STATE_DIR", "BOILERD_RUNTIME_DIR", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory / "own"))
    return directory / "boilerd"


def test_a_users_commands_look_where_the_service_is_unless_the_user_has_a_daemon(
    service: Path, directory: Path
) -> None:
    loaded = load(environ={})

    without = find_daemon(loaded).settings.runtime_path()
    (directory / "own" / "boilerd").mkdir(parents=True)
    (directory / "own" / "boilerd" / "control.sock").touch()
    own = find_daemon(loaded).settings.runtime_path()
    chosen = find_daemon(load({"runtime_dir": "/elsewhere"}, environ={})).settings.runtime_path()

    assert (without, own, chosen) == (service, directory / "own" / "boilerd", Path("/elsewhere"))


@pytest.mark.parametrize("kind", [Client, Inspector])
def test_a_users_programs_look_where_the_service_is(service: Path, kind: type[Client | Inspector]) -> None:
    with kind.from_settings() as made, pytest.raises(BrokerUnavailableError) as raised:
        made.cancel("any")

    assert str(service / "valkey.sock") in str(raised.value)


def test_an_instances_settings_file_names_its_directory_also_while_it_is_stopped(
    service: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(finding, "SERVICE_RUN", service)
    monkeypatch.setattr(finding, "SERVICE_STATE", directory / "state")
    monkeypatch.setattr(finding, "SYSTEM_FILE", directory / "boilerd.toml")
    for name in ("mail.toml", "other.toml"):
        (directory / name).touch()
    (directory / "state-mail").mkdir()

    found = [find_daemon(load(file=directory / name, environ={})).settings.runtime_dir for name in
             ("mail.toml", "other.toml")]  # fmt: skip

    assert found[0] == str(directory / "boilerd-mail")
    assert found[1] in {None, str(service)}


def test_logs_of_an_instances_settings_file_are_those_of_its_unit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "SYSTEM_FILE", directory / "boilerd.toml")
    elsewhere = directory / "elsewhere"
    elsewhere.mkdir()
    files = [directory / "mail.toml", directory / "boilerd.toml", elsewhere / "mail.toml"]
    for file in files:
        file.touch()

    units = [unit_of(load(file=file, environ={})) for file in files]

    assert units == ["boiler-worker@mail", "boiler-worker", "boiler-worker"]
