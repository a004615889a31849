"""Where the dashboard stands: under a prefix, in another application, on its own; and without its broker."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.routing import Mount

from boilerd import Client
from boilerd.broker.connection import connect
from boilerd.cli import boilerd as main
from boilerd.errors import BootError
from boilerd.process.priority import BEHIND
from boilerd.settings.web import PasswordHash, Web, WebUser
from boilerd.web.listening import check_place, listen
from browser import Browser, web_app
from builders import enqueue
from pages import ROOT
from support import DEADLINE_S, StartValkey, Valkey, boilerd, clean_environment, wait_until


def links_of(html: str) -> set[str]:
    """The first part of every address on a page."""
    found = [part.partition('"')[0] for mark in ("href=", "src=", "action=") for part in html.split(f'{mark}"')[1:]]
    return {link for link in found if link.startswith("/")}


@pytest.mark.parametrize("asked", ["/a/b/queues/default", "/queues/default"], ids=["not stripped", "stripped"])
def test_all_links_stand_under_the_prefix_whatever_the_proxy_does_to_it(
    asked: str, connection: redis.Redis, client: Client
) -> None:
    enqueue(client, "task")

    with Browser(web_app(connection, prefix="/a/b")) as browser:
        shown = browser.get(asked)
        paused = browser.post("/a/b/queues/default/pause")
        style = next(link for link in links_of(shown.text) if link.endswith("app.css"))
        files = browser.get(style), browser.get(style.removeprefix("/a/b"))

    assert shown.status_code == 200
    assert all(link.startswith("/a/b/") for link in links_of(shown.text))
    assert paused.headers["location"].startswith("/a/b/queues/default?")
    assert [file.status_code for file in files] == [200, 200]


@pytest.mark.parametrize("path", ["/a/b", "/a/b/"])
def test_the_prefix_itself_is_the_overview(path: str, connection: redis.Redis) -> None:
    with Browser(web_app(connection, prefix="/a/b")) as browser:
        assert "Overview" in browser.get(path).text


def test_it_is_mounted_in_another_application(connection: redis.Redis, client: Client) -> None:
    enqueue(client, "task")
    outer = Starlette(routes=[Mount("/jobs", web_app(connection))])

    with Browser(outer) as browser:
        overview, shown = browser.get("/jobs/"), browser.get("/jobs/tasks/task")

    assert (overview.status_code, shown.status_code) == (200, 200)
    assert all(link.startswith("/jobs/") for link in links_of(shown.text))


def test_files_have_addresses_that_never_change_and_are_kept(browser: Browser) -> None:
    addresses = [link for link in links_of(browser.get("/").text) if "/static/" in link]

    answers = [browser.get(address) for address in addresses]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["cache-control"] for answer in answers} == {"public, max-age=31536000, immutable"}
    assert browser.get("/static/old/app.css").status_code == 404
    assert browser.get("/static/x/%2e%2e/access.py").status_code == 404


def test_pages_say_that_the_broker_is_away_and_come_back_with_it(directory: Path, start_valkey: StartValkey) -> None:
    server = start_valkey()

    with connect(server.url) as connection, Browser(web_app(connection)) as browser:
        before = browser.get("/queues").status_code
        server.stop()
        away = {path: browser.get(path) for path in ("/tasks?queue=a", "/queues/a", "/tasks/a", "/tasks/a.json")}
        done = browser.post("/queues/a/pause")
        server.start()
        after = wait_until(lambda: browser.get("/queues").status_code == 200, "it is shown again")

    assert (before, after) == (200, True)
    assert {answer.status_code for answer in away.values()} == {503}
    assert done.status_code == 503
    assert "<h1" in away["/tasks/a"].text
    assert away["/tasks/a.json"].json()["status"] == 503


# --- Where it listens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_the_loopback_nobody_has_to_log_in(host: str) -> None:
    check_place(Web(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "jobs.example"])
def test_others_reach_it_only_where_somebody_says_who_they_are(host: str) -> None:
    user = WebUser(password=PasswordHash.parse("scrypt$2$8$1$AAAA$AAAA"))

    check_place(Web(host=host, users={"anna": user}))
    check_place(Web(host=host, trusted_header="x-user", trusted_proxies=["10.0.0.0/8"]))
    with pytest.raises(BootError, match="can be reached by others"):
        check_place(Web(host=host))
    with pytest.raises(BootError):
        check_place(Web(host=host, trusted_header="x-user"))


def test_a_start_for_others_without_users_ends_with_status_3_and_one_line() -> None:
    done = boilerd("web", "--host", "0.0.0.0", "--redis-url", "unix:///nowhere")

    assert done.returncode == 3
    assert done.stderr.startswith("boilerd: error: web.host: 0.0.0.0 can be reached by others")
    assert done.stderr.count("\n") == 1


def test_a_socket_is_for_its_owner_alone_and_takes_the_place_of_a_dead_one(directory: Path) -> None:
    path = directory / "web.sock"

    listen(Web(socket=str(path))).close()
    with listen(Web(socket=str(path))):
        mode = stat.S_IMODE(path.stat().st_mode)
        with pytest.raises(BootError, match="cannot listen"):
            listen(Web(socket=str(path)))

    assert mode == 0o600


def test_a_file_in_the_place_of_the_socket_is_left_alone(directory: Path) -> None:
    path = directory / "web.sock"
    path.write_text("mine")

    with pytest.raises(BootError, match="another file stands there"):
        listen(Web(socket=str(path)))
    assert path.read_text() == "mine"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BootError, match="cannot listen on 127"):
        listen(Web(port=taken.getsockname()[1]))


def test_the_command_serves_until_it_is_told_to_end(valkey: Valkey) -> None:
    env = clean_environment(BOILERD_REDIS_URL=valkey.url)
    command = [sys.executable, "-m", "boilerd", "web", "--port", "0", "--prefix", "/jobs"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            address = line.rpartition(" ")[2].strip()
            shown = httpx.get(f"{address}queues", timeout=DEADLINE_S)
            posted = httpx.post(f"{address}queues/default/pause", timeout=DEADLINE_S)
            threads = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
            nices = {os.getpriority(os.PRIO_PROCESS, each) for each in threads}
        finally:
            process.send_signal(signal.SIGTERM)
        status = process.wait(DEADLINE_S)

    assert line.startswith("boilerd web: http://127.0.0.1:")
    assert address.endswith("/jobs/")
    assert shown.status_code == 200
    assert "server" not in shown.headers
    assert posted.status_code == 403
    assert nices == {BEHIND}
    assert len(threads) > 1
    assert status == 0


def test_the_command_serves_on_a_unix_socket(valkey: Valkey, directory: Path) -> None:
    path = directory / "web.sock"
    env = clean_environment(BOILERD_REDIS_URL=valkey.url)
    command = [sys.executable, "-m", "boilerd", "web", "--socket", str(path), "--read-only"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE_S) as client:
                shown = client.get("/overview.json")
        finally:
            process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)

    assert line == f"boilerd web: unix:{path}\n"
    assert shown.status_code == 200


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        ("one", ""),
        ("open to others", "web.host: 0.0.0.0 can be reached by others"),
        ("two", "systemd passed 2 sockets"),
        ("not listening", "does not listen"),
        ("no socket", "what systemd passed is no socket"),
    ],
)
def test_the_socket_that_systemd_opened_is_taken_if_it_will_do(passed: str, told: str) -> None:
    # In a child, as it has to be descriptor 3.
    script = f"""
import os, socket
from boilerd.errors import BootError
from boilerd.settings.web import Web
from boilerd.web.listening import address_of, inherited
made = socket.socket()
made.bind(("0.0.0.0" if "{passed}" == "open to others" else "127.0.0.1", 0))
if "{passed}" != "not listening":
    made.listen()
if (made_fd := os.open("/dev/null", 0) if "{passed}" == "no socket" else made.fileno()) != 3:
    os.dup2(made_fd, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2" if "{passed}" == "two" else "1")
try:
    found = inherited(Web(port=1))
    assert found.getsockname() == made.getsockname() and not os.get_inheritable(3)
except BootError as error:
    print(error, end="")
os.environ["LISTEN_PID"] = "1"
assert inherited(Web()) is None
os._exit(0)
"""

    done = subprocess.run([sys.executable, "-uc", script], capture_output=True, text=True, check=True)

    assert told in done.stdout
    assert bool(done.stdout) == bool(told)


def test_the_command_makes_hashes_of_passwords_and_tokens() -> None:
    hashed = boilerd("web", "password", stdin="correct horse\n")
    token = boilerd("web", "token")

    assert PasswordHash.parse(hashed.stdout.strip()).text
    assert token.stdout.startswith("token:  boilerd_")
    assert len(token.stdout.split()[-1]) == 64


def test_a_password_that_no_browser_could_send_has_no_hash() -> None:
    done = CliRunner().invoke(main, ["web", "password"], input=b"secret\xe9\n")

    assert done.exit_code == 2
    assert "no UTF-8 text" in done.stderr


def test_the_files_of_others_are_those_of_their_packages() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "vendor", "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_importing_the_room_does_not_import_its_dependencies() -> None:
    script = (
        "import sys, boilerd.web, boilerd.settings.web;"
        " print(sorted({'jinja2', 'starlette', 'uvicorn'} & {*sys.modules}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert done.stdout == "[]\n"
