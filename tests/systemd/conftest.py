"""Fixtures: boilerd installed on a real systemd, which all tests of one process share."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from box import PROJECT, Box, why_not
from service import APP, DROP_IN, Service
from support import private_directory

#: What `scripts/install` writes to.
INSTALLED = (
    "/opt/boilerd", "/usr/local/bin/boilerd", "/usr/local/lib/systemd", "/usr/local/share/man", "/etc/boilerd",
    "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow",
)  # fmt: skip
#: An installation takes half a minute of a machine that does nothing else, and many times that of a busy one; the test
#: that comes first waits for it.
INSTALL_S = 600


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test last as long as an installation may."""
    item.add_marker(pytest.mark.timeout(INSTALL_S + 120))


@pytest.fixture(scope="session")
def _possible() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def fresh_box(_possible: None) -> Iterator[Box]:
    """A systemd of the test's own, with nothing installed."""
    made = Box()
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="session")
def image(_possible: None) -> Iterator[Path]:
    """The files that `make install` brings; to copy them is far cheaper than to install once more."""
    with private_directory() as directory:
        made = Box()
        try:
            made.start().run("make", "-C", PROJECT, "install", timeout=INSTALL_S)
            made.save(directory, *INSTALLED)
        finally:
            made.stop()
        yield directory


@pytest.fixture(scope="session")
def installed(image: Path) -> Iterator[Box]:
    """A systemd on which boilerd is installed, which all tests share."""
    made = Box()
    try:
        yield made.start(image)
    finally:
        made.stop()


@pytest.fixture
def installed_box(image: Path) -> Iterator[Box]:
    """A systemd of the test's own, on which boilerd is installed."""
    made = Box()
    try:
        yield made.start(image)
    finally:
        made.stop()


@pytest.fixture(scope="session")
def wheels(_possible: None) -> Iterator[Path]:
    """What an installation without a network needs."""
    with private_directory() as directory:
        subprocess.run([PROJECT / "scripts" / "install", "wheels", directory], capture_output=True, check=True)
        yield directory


@pytest.fixture
def service(installed: Box) -> Iterator[Service]:
    """The unit as it was installed, with the tests' application."""
    installed.write("/srv/myproject/tasks.py", APP)
    made = Service(installed)
    made.drop_in(DROP_IN)
    yield made
    units = ("boiler-web.socket", "boiler-web", "boiler-worker", "boiler-worker@a", "boiler-worker@b", "boiler-valkey")
    installed.run("systemctl", "kill", "--signal=KILL", *units, check=False)
    installed.run("systemctl", "stop", *units, check=False)
    for unit in (*units, "boiler-worker@"):
        shutil.rmtree(installed.root / f"etc/systemd/system/{unit}.service.d", ignore_errors=True)
    shutil.rmtree(installed.root / "etc/systemd/system/boiler-web.socket.d", ignore_errors=True)
    for path in (installed.root / "var/lib/private").glob("boiler*"):
        shutil.rmtree(path)
    for path in (installed.root / "etc/boilerd").glob("*.toml"):
        path.unlink()
    shutil.rmtree(installed.root / "etc/credstore", ignore_errors=True)
    shutil.copy(PROJECT / "conf" / "boilerd.toml", installed.root / "etc/boilerd/boilerd.toml")
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "reset-failed", check=False)
