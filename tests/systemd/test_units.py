"""The units as files: what systemd itself says of them."""

import re
from pathlib import Path

import pytest

from box import PROJECT, Box

UNITS = sorted((PROJECT / "systemd").glob("*.service"))
SOCKETS = sorted((PROJECT / "systemd").glob("*.socket"))
#: Of 10; see `systemd-analyze security`.
MOST_EXPOSURE = 1.5
#: What the workers' units allow, and no other.
ALLOWED = {"SystemCallFilter=@chown", "SystemCallFilter=setpriority sched_setscheduler"}


def hardening(unit: Path) -> set[str]:
    """The settings under the line that begins what it may do."""
    text = unit.read_text().partition("# --- What it may do")[2].partition("[Install]")[0]
    return {line for line in text.splitlines()[1:] if line and not line.startswith("#")}


@pytest.mark.parametrize("unit", UNITS + SOCKETS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_the_unit(installed: Box, unit: Path) -> None:
    name = unit.name.replace("@.", "@a.")
    done = installed.run("systemd-analyze", "verify", f"/usr/local/lib/systemd/system/{name}", check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_is_hardly_exposed(installed: Box, unit: Path) -> None:
    name = unit.name.replace("@.", "@a.")
    shown = installed.run("systemd-analyze", "security", "--no-pager", name).stdout

    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert found is not None, shown
    assert float(found.group(1)) <= MOST_EXPOSURE


def test_the_instances_may_do_what_the_single_one_may() -> None:
    single, instance = PROJECT / "systemd/boiler-worker.service", PROJECT / "systemd/boiler-worker@.service"

    assert hardening(single) == hardening(instance) != set()


def test_the_broker_may_do_no_more_than_the_workers() -> None:
    relaxed = ALLOWED | {"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"}

    assert hardening(PROJECT / "systemd/boiler-worker.service") - relaxed <= hardening(
        PROJECT / "systemd/boiler-valkey.service"
    )


def test_the_dashboard_may_do_no_more_than_the_workers() -> None:
    worker, web = PROJECT / "systemd/boiler-worker.service", PROJECT / "systemd/boiler-web.service"

    assert hardening(worker) - ALLOWED == hardening(web)


def test_the_unit_waits_longer_than_a_drain_takes() -> None:
    text = (PROJECT / "systemd/boiler-worker.service").read_text()
    defaults = (PROJECT / "conf/boilerd.toml").read_text()

    stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE).group(1))  # type: ignore[union-attr]
    drain_s = int(re.search(r'^shutdown_timeout = "(\d+)s"$', defaults, re.MULTILINE).group(1))  # type: ignore[union-attr]
    assert stop_s >= drain_s + 30 + 10  # the broker gets 30 s


@pytest.mark.parametrize("unit", ["boiler-worker", "boiler-worker@a"])
def test_the_unit_ends_before_a_broker_of_any_name_that_distributions_have(installed: Box, unit: str) -> None:
    after = installed.show(f"{unit}.service", "After")["After"].split()

    brokers = ["boiler-valkey.service"]
    for server in ("redis", "valkey"):
        brokers += [f"{server}.service", f"{server}-server.service", f"{server}@default.service", f"{server}.target"]
    assert set(brokers) - set(after) == set()


@pytest.mark.parametrize("unit", ["boiler-worker", "boiler-worker@a"])
def test_a_worker_that_is_killed_for_memory_does_not_end_the_service(installed: Box, unit: str) -> None:
    assert installed.show(f"{unit}.service", "OOMPolicy") == {"OOMPolicy": "continue"}
