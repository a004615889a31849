"""``make web``: a daemon with sample work and its dashboard, for whoever looks for the first time."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from support import clean_environment, free_ports, wait_until

ROOT = Path(__file__).parents[2]


def started(port: int, log: Path) -> "subprocess.Popen[bytes]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with log.open("wb") as file:
        return subprocess.Popen(
            [ROOT / "scripts/web"], env=clean_environment(PORT=str(port), PATH=path), stdout=file, stderr=file
        )


def test_the_sample_is_served_until_it_is_told_to_end(tmp_path: Path) -> None:
    (port,), log = free_ports(), tmp_path / "log"

    with started(port, log) as program:
        wait_until(lambda: f"Open http://127.0.0.1:{port}/ in a browser" in log.read_text(), "the address is told")
        with urlopen(f"http://127.0.0.1:{port}/tasks.json?queue=critical&state=completed") as answer:
            assert answer.status == 200
        program.send_signal(signal.SIGTERM)

    assert program.returncode == 0


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(port, log) as program:
            program.wait(60)

    assert program.returncode == 3
    assert f"cannot listen on 127.0.0.1 port {port}" in log.read_text()
