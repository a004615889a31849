"""The web dashboard as a process of a real daemon, by `web = true`."""

import importlib.util
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from boilerd.errors import BootError
from boilerd.process.priority import BEHIND
from boilerd.process.scoreboard import DASHBOARD_ROW, Scoreboard
from boilerd.settings.definitions import Settings
from boilerd.settings.loading import load
from boilerd.settings.web import Web
from boilerd.verdict.facts import DaemonStatus
from boilerd.web import serving
from boilerd.web.child import Dashboard
from support import DEADLINE_S, RunningDaemon, StartDaemon, is_running, wait_until

#: What `web = true` means, at any port that is free.
ANY_PORT = '{"enabled": true, "port": 0}'


@pytest.fixture
def served(start_daemon: StartDaemon) -> Any:
    """Starts daemons that serve the dashboard."""

    def start(web: str = ANY_PORT, **options: Any) -> RunningDaemon:
        env = {"BOILERD_WEB": web, "BOILERD_CONCURRENCY": "2", **options.pop("env", {})}
        return start_daemon(env=env, **options).ready()

    return start


def address_of(daemon: RunningDaemon, count: int = 1) -> str:
    return str(daemon.wait_for("the dashboard is served", count)["address"])


def overview(address: str) -> Any:
    return httpx.get(f"{address}overview.json", timeout=DEADLINE_S).json()


def test_true_has_the_daemon_serve_it_and_a_table_says_the_rest(directory: Path) -> None:
    (directory / "short.toml").write_text("web = true\n")
    (directory / "long.toml").write_text("[web]\nenabled = true\nport = 9000\n")

    assert load({}, file=directory / "short.toml").settings.web == Web(enabled=True)
    assert load({}, file=directory / "long.toml").settings.web == Web(enabled=True, port=9000)
    assert not Settings().web.enabled


def test_the_dashboard_lives_and_ends_with_the_daemon(served: Any) -> None:
    daemon = served()
    address = address_of(daemon)

    found = overview(address)
    child = daemon.pid_of("dashboard")
    nices = {name: os.getpriority(os.PRIO_PROCESS, daemon.pid_of(name)) for name in ("dashboard", "worker:0")}
    policies = [os.sched_getscheduler(daemon.pid_of(name)) for name in nices] if sys.platform == "linux" else []
    os.kill(daemon.pid, signal.SIGTERM)

    assert (found["word"], found["workers"]) == ("healthy", 2)
    assert nices == {"dashboard": BEHIND, "worker:0": 0}
    assert policies in ([], [os.SCHED_BATCH, os.SCHED_OTHER])
    assert daemon.wait() == 0
    assert not is_running(child)
    with pytest.raises(httpx.ConnectError):
        overview(address)


def test_one_that_is_killed_is_replaced_and_ends_with_a_killed_daemon(served: Any, directory: Path) -> None:
    path = directory / "web.sock"
    daemon = served(f'{{"enabled": true, "socket": "{path}"}}')
    assert address_of(daemon) == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    first = daemon.pid_of("dashboard")
    os.kill(first, signal.SIGKILL)
    address_of(daemon, 2)
    second = wait_until(lambda: (pid := daemon.pid_of("dashboard")) not in {0, first} and pid, "another one runs")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.get("/overview.json", timeout=DEADLINE_S).status_code == 200
    os.kill(daemon.pid, signal.SIGKILL)

    wait_until(lambda: not is_running(second), "it has gone as well")


def test_a_reload_serves_again_at_the_same_address_and_refuses_what_others_reach(served: Any, directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = directory / "boilerd.toml"
    file.write_text(f"[web]\nenabled = true\nport = {port}\n")
    daemon = served("", directory=directory)
    first = address_of(daemon)

    reloaded = daemon.cli("reload")
    second = address_of(daemon, 2)
    file.write_text('[web]\nenabled = true\nhost = "0.0.0.0"\n')
    refused = daemon.cli("reload")

    assert (reloaded.returncode, reloaded.stderr) == (0, "")
    assert first == second == f"http://127.0.0.1:{port}/"
    assert "can be reached by others" in refused.stderr
    assert overview(second)["word"]


@pytest.mark.parametrize(
    ("web", "told"),
    [
        ('{"enabled": true, "host": "0.0.0.0"}', "web.host: 0.0.0.0 can be reached by others"),
        ('{"enabled": true, "trusted_proxies": ["nowhere"]}', "web.trusted_proxies: 'nowhere' is no address"),
        ('{"enabled": true, "trusted_header": "x-user"}', "web.trusted_header: nobody may send it"),
    ],
)
def test_what_it_may_not_serve_is_refused_at_the_start(start_daemon: StartDaemon, web: str, told: str) -> None:
    daemon = start_daemon(env={"BOILERD_WEB": web})

    assert daemon.wait() == 3
    assert told in daemon.errors()


@pytest.mark.parametrize("missing", ["uvicorn", "starlette", "jinja2"])
def test_without_the_extra_the_start_is_refused_by_its_name(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))

    serving.check_extra(Settings())
    with pytest.raises(BootError, match=rf"web: {missing} is missing: pip install 'boilerd\[web\]'"):
        serving.check_extra(Settings(web=Web(enabled=True)))


def test_a_port_that_is_in_use_is_waited_for_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WAIT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(web=Web(enabled=True, port=taken.getsockname()[1]))

        with pytest.raises(BootError, match="cannot listen on 127"):
            serving.prepare(settings)
        serving.prepare(settings, is_reload=True)


@pytest.mark.parametrize("is_reload", [False, True])
def test_a_place_at_which_nobody_can_listen_is_named_by_a_start_and_by_a_reload(
    is_reload: bool, directory: Path
) -> None:
    nowhere = directory / "nowhere" / "web.sock"

    with pytest.raises(BootError, match=f"cannot listen on {nowhere}: No such file or directory"):
        serving.prepare(Settings(web=Web(enabled=True, socket=str(nowhere))), is_reload=is_reload)


def test_a_reload_that_looks_whether_it_can_listen_leaves_nothing(directory: Path) -> None:
    path = directory / "web.sock"

    serving.prepare(Settings(web=Web(enabled=True, socket=str(path))), is_reload=True)

    assert not path.exists()


def nobody() -> DaemonStatus:
    raise AssertionError("no page is asked for")


def test_one_that_cannot_listen_has_failed_to_start_however_long_that_took() -> None:
    scoreboard = Scoreboard()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(web=Web(enabled=True, port=taken.getsockname()[1]))
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            os._exit(Dashboard(settings, nobody, scoreboard=scoreboard, parent=supervisor).serve())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert (status, scoreboard.is_starting(DASHBOARD_ROW)) == (1, True)


def test_one_that_a_reload_has_to_kill_is_not_told_as_a_task_that_was_cut_short(served: Any) -> None:
    daemon = served()
    address_of(daemon)

    killed = daemon.kill("dashboard", signal.SIGSTOP)
    reloaded = daemon.cli("reload")
    address_of(daemon, 2)

    assert (reloaded.returncode, is_running(killed)) == (0, False)
    assert not daemon.lines("reload cut tasks short, they run again")
