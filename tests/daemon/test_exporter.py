"""The exporter of a real daemon, scraped by a real Prometheus."""

import http.client
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from boilerd import Client
from pages import ROOT
from prometheus import Prometheus
from support import RunningDaemon, StartDaemon, StartValkey, is_running, wait_until

TOKEN = "0123456789abcdef"
BOARD, RULES = ROOT / "conf" / "grafana" / "boilerd.json", ROOT / "conf" / "prometheus" / "boilerd.rules.yml"
#: What Grafana puts in the place of its variables.
VARIABLES = {"$job": "boilerd", "$queue": ".*", "$type": ".*", "$__rate_interval": "10s"}


class Answer:
    """What a page answered."""

    def __init__(self, status: int, headers: Mapping[str, str], body: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def value(self, series: str) -> float:
        """The value of a series, written as it stands on the page."""
        return next(float(line.rpartition(" ")[2]) for line in self.body.splitlines() if line.startswith(f"{series} "))


class _Connection(http.client.HTTPConnection):
    """To a path, or to a host and port."""

    def __init__(self, place: str) -> None:
        super().__init__("localhost", timeout=60)
        self._place = place

    def connect(self) -> None:
        if self._place.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._place)
        else:
            host, _, port = self._place.rpartition(":")
            self.sock = socket.create_connection((host, int(port)), self.timeout)


def place_of(daemon: RunningDaemon, count: int = 1) -> str:
    """Where its exporter listens."""
    return str(daemon.wait_for("metrics are served", count)["address"])


def get(place: str, page: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
    connection = _Connection(place)
    try:
        connection.request(method, page, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.headers), answer.read().decode())
    finally:
        connection.close()


@pytest.fixture
def listening(start_daemon: StartDaemon) -> Any:
    """Starts daemons that serve metrics at any port that is free."""

    def start(**options: Any) -> RunningDaemon:
        env = {"BOILERD_METRICS_LISTEN": "127.0.0.1:0", "BOILERD_CONCURRENCY": "2", **options.pop("env", {})}
        return start_daemon(env=env, **options).ready()

    return start


@pytest.fixture
def scraped(listening: Any, directory: Path) -> Iterator[tuple[RunningDaemon, Prometheus]]:
    """A daemon with all that there may be, and a Prometheus that scrapes it."""
    daemon = listening(
        env={
            "BOILERD_APP": "exporter_app:mux",
            "BOILERD_QUEUES": "default=2,low=1",
            "BOILERD_LIMITS": '{"low": {"max_active": 1}}',
            "BOILERD_RELEASE": "2.4.1",
            "BOILERD_RETRY": '{"base": "60s"}',
        }
    )
    server = Prometheus(directory, place_of(daemon), RULES).start()
    yield daemon, server
    server.stop()


@pytest.mark.long(15)
@pytest.mark.timeout(150)
def test_prometheus_scrapes_a_busy_daemon_and_the_boards_queries_all_return_data(
    scraped: tuple[RunningDaemon, Prometheus], client: Client, connection: redis.Redis
) -> None:
    daemon, server = scraped
    ended = threading.Event()
    for worker in connection.smembers("rq:workers"):
        connection.hset(worker, "rss", 50_000_000)

    def enqueue() -> None:
        while not ended.wait(0.05):
            client.enqueue("mail:send", {"to": "x" * 100})
            client.enqueue("mail:again", queue="low")
            client.enqueue("mail:fail")

    busy = threading.Thread(target=enqueue)
    busy.start()
    try:
        empty = wait_until_none_is_left(server)
    finally:
        ended.set()
        busy.join()

    assert empty == []
    assert server.target()["health"] == "up", server.target()
    assert server.query('boilerd_build_info{release="2.4.1"}')
    assert server.query('ALERTS{alertname="BoilerdAbsent"}') == []
    assert daemon.stop() == 0


def wait_until_none_is_left(server: Prometheus) -> list[str]:
    """Wait until each query of the board has found something; returns those that have not."""
    left = list(board_queries())

    def look() -> bool:
        left[:] = [query for query in left if not finds_numbers(server, query)]
        return not left

    with suppress(AssertionError):
        wait_until(look, "all queries find something", deadline_s=60)
    return left


def finds_numbers(server: Prometheus, query: str) -> bool:
    return any(found["value"][1] != "NaN" for found in server.query(query))


def board_queries() -> Iterator[str]:
    board = json.loads(BOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = str(target["expr"])
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield query


def test_ten_scrapers_have_redis_asked_once_a_second(listening: Any, connection: redis.Redis) -> None:
    place = place_of(listening())
    get(place)

    def sent() -> int:
        """How many commands the exporter has sent since it is there."""
        (found,) = [each for each in connection.client_list() if each["name"] == "boilerd-exporter"]
        return int(found["tot-cmds"])

    def scrape() -> None:
        while not ended.is_set():
            answers.append(get(place).status)

    cost = sent()
    answers: list[int] = []
    ended = threading.Event()
    scrapers = [threading.Thread(target=scrape) for _ in range(10)]
    began_s = time.monotonic()
    for each in scrapers:
        each.start()
    wait_until(lambda: time.monotonic() - began_s > 3.0, "three seconds are over")
    ended.set()
    for each in scrapers:
        each.join()
    took_s = time.monotonic() - began_s
    more = sent() - cost

    assert set(answers) == {200}
    assert len(answers) > 30
    assert more <= cost * (took_s + 1)
    assert more >= cost


def test_readiness_tells_of_faults_and_health_of_the_daemon_alone(listening: Any, start_valkey: StartValkey) -> None:
    server = start_valkey()
    daemon = listening(redis_url=server.url)
    place = place_of(daemon)
    wait_until(lambda: get(place, "/readyz").status == 200, "it is ready")

    server.stop(signal.SIGKILL)
    wait_until(lambda: get(place, "/readyz").status == 503, "it is not")

    away, alive, metrics = get(place, "/readyz"), get(place, "/healthz"), get(place)
    assert away.body.startswith("the broker does not do its work: ")
    assert away.body.count("\n") == 1
    assert (alive.status, alive.body) == (200, "ok\n")
    assert metrics.status == 200
    assert metrics.value("boilerd_broker_up") == 0
    assert "boilerd_tasks{" not in metrics.body
    server.start()
    wait_until(lambda: get(place).value("boilerd_broker_up") == 1, "Redis is there again")
    wait_until(lambda: get(place, "/readyz").status == 200, "it is ready again")


def test_a_drain_is_told_until_the_workers_have_ended_and_waits_for_no_client(
    listening: Any, client: Client, directory: Path
) -> None:
    daemon = listening(env={"BOILERD_SHUTDOWN_TIMEOUT": "30", "BOILERD_APP": "exporter_app:mux"})
    place = place_of(daemon)
    client.enqueue("mail:wait", str(directory / "told"))
    daemon.wait_for("task started", task_type="mail:wait")
    silent = socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])))
    silent.sendall(b"GET /met")

    daemon.signal(signal.SIGTERM)

    wait_until(lambda: get(place, "/readyz").body.startswith("the daemon drains"), "the drain is told")
    (directory / "told").touch()
    assert daemon.wait() == 0
    assert daemon.lines("worker shutdown completed gracefully")
    silent.close()


def test_an_exporter_that_is_killed_is_replaced_and_ends_with_a_killed_daemon(listening: Any, directory: Path) -> None:
    path = directory / "metrics.sock"
    daemon = listening(env={"BOILERD_METRICS_LISTEN": str(path)}, directory=directory)
    assert place_of(daemon) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    first = daemon.pid_of("exporter")
    os.kill(first, signal.SIGKILL)
    place_of(daemon, 2)
    second = wait_until(lambda: (pid := daemon.pid_of("exporter")) not in {0, first} and pid, "another one runs")

    assert get(str(path)).status == 200
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(second), "it has gone as well")


def test_a_reload_takes_new_settings_and_serves_again(listening: Any, directory: Path) -> None:
    (directory / "boilerd.toml").write_text('metrics_listen = "127.0.0.1:0"\n')
    daemon = listening(directory=directory, env={"BOILERD_METRICS_LISTEN": ""})
    assert get(place_of(daemon)).status == 200

    (directory / "boilerd.toml").write_text(f'metrics_listen = "127.0.0.1:0"\nmetrics_token = "{TOKEN}"\n')
    (directory / "boilerd.toml").chmod(0o600)
    done = daemon.cli("reload")

    assert done.returncode == 0, done.stderr
    assert get(place_of(daemon, 2)).status == 401
    (directory / "boilerd.toml").write_text('metrics_listen = "0.0.0.0:0"\n')
    refused = daemon.cli("reload")
    assert "set metrics_token or metrics_allow" in refused.stderr


def test_a_reload_to_a_port_that_is_taken_leaves_the_daemon_at_work(listening: Any, directory: Path) -> None:
    (directory / "boilerd.toml").write_text('metrics_listen = "127.0.0.1:0"\n')
    daemon = listening(directory=directory, env={"BOILERD_METRICS_LISTEN": ""})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        (directory / "boilerd.toml").write_text(f'metrics_listen = "{place}"\n')

        done = daemon.cli("reload")

        assert done.returncode == 0, done.stderr
        line = daemon.wait_for("metrics cannot be served", address=place)
        assert line["error"] == "Address already in use"
        assert daemon.info()["missing"] == []
    wait_until(lambda: daemon.lines("metrics are served", address=place), "the port is free, and it listens there")


def test_with_a_token_only_who_sends_it_gets_metrics_and_sentences(
    listening: Any, directory: Path, start_valkey: StartValkey
) -> None:
    (directory / "token").write_text(f"{TOKEN}\n")
    server = start_valkey()
    where = {"BOILERD_METRICS_LISTEN": "0.0.0.0:0", "BOILERD_METRICS_TOKEN_FILE": str(directory / "token")}
    daemon = listening(env=where, redis_url=server.url)
    place = f"127.0.0.1:{place_of(daemon).rpartition(':')[2]}"

    bearer = {"Authorization": f"Bearer {TOKEN}"}

    refused, wrong, right = get(place), get(place, Authorization="Bearer x"), get(place, **bearer)
    server.stop(signal.SIGKILL)
    wait_until(lambda: get(place, "/readyz").status == 503, "Redis is missed")
    without, with_it = get(place, "/readyz").body, get(place, "/readyz", **bearer).body

    assert (refused.status, wrong.status, right.status) == (401, 401, 200)
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert get(place, "/healthz").body == "ok\n"
    assert without == "not ready\n"
    assert with_it.startswith("the broker does not do its work: ")
    told = daemon.cli("config", "show").stdout + (daemon.directory / "stdout").read_text()
    assert TOKEN not in told
    assert TOKEN not in Path(f"/proc/{daemon.pid}/cmdline").read_text()


def test_pages_methods_and_forms(listening: Any) -> None:
    place = place_of(listening(env={"BOILERD_METRICS_ALLOW": "127.0.0.1"}))

    found = {
        "unknown": get(place, "/other"), "post": get(place, method="POST"), "head": get(place, method="HEAD"),
        "openmetrics": get(place, Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
    }  # fmt: skip

    assert {name: answer.status for name, answer in found.items()} == {
        "unknown": 404, "post": 405, "head": 200, "openmetrics": 200,
    }  # fmt: skip
    assert found["unknown"].body == "there are /metrics, /healthz, /readyz\n"
    assert found["head"].body == ""
    assert found["openmetrics"].headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert found["openmetrics"].body.endswith("# EOF\n")


def test_a_client_that_is_not_allowed_gets_no_page(listening: Any) -> None:
    place = place_of(listening(env={"BOILERD_METRICS_ALLOW": "10.0.0.0/8"}))

    assert {page: get(place, page).status for page in ("/metrics", "/healthz", "/readyz", "/")} == dict.fromkeys(
        ("/metrics", "/healthz", "/readyz", "/"), 403
    )


def test_what_cannot_be_listened_at_ends_a_start_in_one_line(start_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = start_daemon(env={"BOILERD_METRICS_LISTEN": f"127.0.0.1:{port}"})

        assert daemon.wait() == 3

    assert daemon.errors() == (
        f"boilerd: error: metrics_listen 127.0.0.1:{port}: Address already in use; set metrics_listen to another"
        " address or path\n"
    )
