"""The web dashboard as a service: it starts at the first request, at a socket that systemd holds."""

import json
import socket
from typing import Any

import pytest

from service import Service

#: Asks a web server, and waits for its answer.
ASK = ("curl", "--silent", "--show-error", "--max-time", "60")


class Dashboard:
    """The service with the sockets of the dashboard, at a free port: a box has the machine's network."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.box = service.box
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.listen(f"ListenStream=127.0.0.1:{self.port}")

    def listen(self, *lines: str) -> None:
        self.service.systemctl("stop", "boiler-web.socket", "boiler-web.service")
        text = "\n".join(["[Socket]", "ListenStream=", *lines, ""])
        self.box.write("/etc/systemd/system/boiler-web.socket.d/test.conf", text)
        self.service.systemctl("daemon-reload")
        self.service.systemctl("start", "boiler-web.socket")

    def overview(self, *options: str, url: str = "") -> Any:
        return json.loads(self.box.run(*ASK, *options, f"{url or self.url}/overview.json").stdout)


@pytest.fixture
def dashboard(service: Service) -> Dashboard:
    service.drop_in("")
    service.start()
    return Dashboard(service)


def test_an_installation_leaves_it_off_and_it_would_be_for_this_machine_alone(service: Service) -> None:
    units = ("boiler-web.socket", "boiler-web.service")

    assert [service.systemctl("is-enabled", unit, check=False).stdout.strip() for unit in units] == ["disabled"] * 2
    assert service.box.show("boiler-web.socket", "Listen") == {"Listen": "127.0.0.1:8383 (Stream)"}
    shown = service.box.show("boiler-web.service", "CPUWeight", "CPUSchedulingPolicy")
    assert shown == {"CPUWeight": "10", "CPUSchedulingPolicy": "3"}  # SCHED_BATCH


def test_the_first_request_starts_it_as_the_daemons_user_and_it_acts_in_the_bundled_broker(
    dashboard: Dashboard,
) -> None:
    before = dashboard.service.state("boiler-web.service")
    dashboard.service.enqueue("worker:ping", "--in", "1h")

    found = dashboard.overview()
    same_site = ("--header", f"Origin: {dashboard.url}", "--request", "POST")
    paused = dashboard.box.run(*ASK, *same_site, f"{dashboard.url}/queues/default/pause.json").stdout
    quiet = dashboard.box.run(*ASK, *same_site, f"{dashboard.url}/daemon/pools/default/quiet.json").stdout
    process = dashboard.box.root / f"proc/{dashboard.service.main_pid('boiler-web.service')}"
    status, policy = (process / "status").read_text(), (process / "stat").read_text().rpartition(")")[2].split()[38]

    assert before == "inactive dead"
    assert (found["word"], found["workers"]) == ("healthy", 10)
    assert "queue default is paused" in paused
    assert "pool default claims nothing more" in quiet
    assert "quiet" in dashboard.box.run("boilerd", "status", check=False).stdout
    assert dashboard.box.run("boilerd", "queue", "resume", "default").returncode == 0
    assert dashboard.box.run("id", "-u", "boilerd").stdout.strip() in status.partition("Uid:")[2].splitlines()[0]
    assert "CapEff:\t0000000000000000" in status
    assert policy == "3"  # SCHED_BATCH
    assert dashboard.box.journal("boiler-web")[-1] == f"boilerd web: {dashboard.url}/"


def test_a_restart_loses_no_request_and_a_daemon_that_is_away_is_told(dashboard: Dashboard) -> None:
    dashboard.overview()

    dashboard.service.systemctl("restart", "boiler-web.service")
    after_restart = dashboard.overview()
    dashboard.service.systemctl("stop", "boiler-web.service")
    after_stop = dashboard.overview()
    dashboard.service.systemctl("stop", "boiler-worker")
    code = ("--output", "/dev/null", "--write-out", "%{http_code}")
    away = dashboard.box.run(*ASK, *code, f"{dashboard.url}/queues/default").stdout

    assert after_restart["word"] == after_stop["word"] == "healthy"
    assert away == "503"


def test_at_a_path_it_is_for_the_group_of_a_proxy(dashboard: Dashboard) -> None:
    dashboard.listen("ListenStream=/run/boiler-web.sock", "SocketGroup=www-data")

    mode = dashboard.box.run("stat", "-c", "%a %U %G", "/run/boiler-web.sock").stdout.strip()
    found = dashboard.overview("--unix-socket", "/run/boiler-web.sock", url="http://localhost")

    assert mode == "660 root www-data"
    assert found["word"] == "healthy"
