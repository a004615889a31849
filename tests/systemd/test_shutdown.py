"""The machine is shut down under load: the daemon writes the outcomes of its drain, whatever its broker is called."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.worker.kept_outcomes import KeptOutcomes
from box import Box
from support import StartValkey, wait_until

#: A handler that notes each run that ended.
APP = """
import os, time
from boilerd import ServeMux
mux = ServeMux()

@mux.handle("app:note")
def note(task):
    time.sleep(0.2)
    with open("/var/lib/boilerd/runs", "a") as file:
        file.write(task.id + "\\n")
"""
BROKER = """
[Unit]
PartOf={target}
[Service]
ExecStart=/opt/boilerd/bin/valkey-server --port 0 --unixsocket /run/broker.sock --unixsocketperm 777 \\
    --dir /srv/broker --appendonly yes --save ""
"""
DAEMON = """[Service]
WorkingDirectory=/srv/myproject
Environment=BOILERD_APP=tasks:mux BOILERD_REDIS_URL=unix:///run/broker.sock BOILERD_CONCURRENCY=4
"""
#: Units that run a broker, in Debian, Fedora, Arch and SUSE; the last is one that nobody can foresee.
NAMES = (
    "redis-server", "redis", "valkey", "valkey-server", "redis@default", "valkey@default", "redis@of-a-target", "other",
)  # fmt: skip
#: All of them so often; without it, a name that is known and one that is not.
ROUNDS = int(os.environ.get("BOILERD_TEST_ROUNDS", "0"))


@pytest.fixture
def machine(installed_box: Box) -> Box:
    installed_box.write("/srv/myproject/tasks.py", APP)
    installed_box.write("/etc/systemd/system/boiler-worker.service.d/test.conf", DAEMON)
    (installed_box.root / "srv/broker").mkdir()
    return installed_box


@pytest.fixture
def disk(machine: Box) -> Iterator[Path]:
    """The files of the machine, which can be read when it is off."""
    fd = os.open(machine.root, os.O_RDONLY | os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{fd}")
    os.close(fd)


def start_broker(machine: Box, name: str) -> None:
    kind, _, instance = name.partition("@")
    unit = f"{kind}@" if instance else kind
    target = "redis.target" if instance == "of-a-target" else ""
    machine.write(f"/etc/systemd/system/{unit}.service", BROKER.format(target=target))
    if target:
        machine.write(f"/etc/systemd/system/{target}", f"[Unit]\nWants={name}.service\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", target or f"{name}.service")


@pytest.mark.long(30)
@pytest.mark.fault(44)
@pytest.mark.parametrize("name", NAMES * ROUNDS or ("redis-server", "other"))
def test_a_shutdown_of_the_machine_under_load_loses_no_outcome(
    machine: Box, disk: Path, name: str, start_valkey: StartValkey, directory: Path
) -> None:
    start_broker(machine, name)
    machine.run("systemctl", "start", "boiler-worker")
    runs = machine.root / "var/lib/private/boilerd/runs"
    with Client.from_url(f"unix://{machine.root}/run/broker.sock") as client:
        client.enqueue_many([("app:note", None)] * 500, retention=3600)
    wait_until(lambda: runs.exists() and len(runs.read_text().split()) > 8, "tasks run")

    machine.stop()

    shutil.copytree(disk / "srv/broker", directory / "broker")
    shutil.copytree(disk / "var/lib/private/boilerd", directory / "state")
    server = start_valkey("--appendonly", "yes", "--dir", str(directory / "broker"))
    ended = (directory / "state/runs").read_text().split()
    with Client.from_url(server.url) as client:
        kept = sorted((directory / "state/outcomes").glob("*"))
        for file in kept:  # as the scheduler does at the next start
            mark, _, worker = file.stem.partition("-")
            KeptOutcomes(directory / "state/outcomes", mark).write(Broker(client.connection), worker)
        states = {task_id: client.connection.hget(keys.job(task_id), "status") for task_id in ended}
        assert {task_id: state for task_id, state in states.items() if state != b"finished"} == {}
        assert len(ended) == len(states)
        assert client.connection.zcard(keys.wip("default")) == 0
        assert (len(kept) > 0) == (name == "other")
