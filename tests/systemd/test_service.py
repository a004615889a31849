"""The service on a real systemd: start, stop, reload, watchdog, and what it may do."""

import json
import re
import time

import pytest

from service import APP, DROP_IN, Service
from support import wait_until


def test_start_returns_when_it_is_ready_and_a_task_runs(service: Service) -> None:
    service.drop_in("")  # without any settings
    service.start()

    status = service.systemctl("status", "boiler-worker").stdout
    task_id = service.enqueue("worker:ping", '{"message":"hi"}')

    assert service.box.show("boiler-worker", "WatchdogUSec")["WatchdogUSec"] == "30s"
    assert re.search(r'Status: "10 workers, 0 busy, 0 pending"', status)
    assert service.wait_for("task completed", task_id=task_id)["task_type"] == "worker:ping"
    assert all(isinstance(json.loads(line), dict) for line in service.raw_lines())
    shown = service.box.run("boilerd", "logs", "--task", task_id).stdout
    messages = re.findall(r"^\S+ INFO +(.+?)  ", shown, re.MULTILINE)
    assert messages == ["task started", "task processed successfully", "task completed"]


def test_a_start_in_which_no_worker_gets_into_its_lifespans_fails_says_why_and_is_tried_again(service: Service) -> None:
    hangs = "\n@mux.on_worker_start\ndef hang(worker):\n    time.sleep(600)\n"
    service.box.write("/srv/myproject/tasks.py", APP + hangs)
    # A start may take longer than the unit's own limit.
    service.drop_in(
        f"{DROP_IN}TimeoutStartSec=6\nRestartSec=600\nEnvironment=BOILERD_START_TIMEOUT=8 BOILERD_CONCURRENCY=2\n"
    )

    done = service.systemctl("start", "boiler-worker", check=False)

    error = service.wait_for("daemon could not start")["error"]
    shown = service.box.show("boiler-worker", "StatusText", "ExecMainStatus")
    assert done.returncode == 1
    assert error == "no worker has started: TimeoutError: lifespans took longer than start_timeout, 8 s, 1 time"
    assert error in shown["StatusText"]
    assert shown["ExecMainStatus"] == "1"
    assert service.state() == "activating auto-restart"


def test_it_is_started_at_boot_once_it_is_enabled(service: Service) -> None:
    service.systemctl("enable", "boiler-worker")
    try:
        wanted = service.box.show("multi-user.target", "Wants")["Wants"].split()

        assert service.systemctl("is-enabled", "boiler-worker").stdout.strip() == "enabled"
        assert "boiler-worker.service" in wanted
    finally:
        service.systemctl("disable", "boiler-worker")


def test_stop_lets_a_task_end(service: Service) -> None:
    service.start()
    task_id = service.enqueue("app:sleep", "3")
    service.wait_for("task started", task_id=task_id)

    service.systemctl("stop", "boiler-worker")

    assert service.lines("task completed", task_id=task_id)
    assert service.lines("worker shutdown completed gracefully")
    assert service.state() == "inactive dead"
    assert service.box.show("boiler-worker", "Result")["Result"] == "success"


def test_a_stuck_task_is_cut_at_the_shutdown_timeout_and_no_process_stays(service: Service) -> None:
    service.drop_in(f"{DROP_IN}Environment=BOILERD_SHUTDOWN_TIMEOUT=2\n")
    service.start()
    task_id = service.enqueue("app:stuck")
    service.wait_for("stuck now", task_id=task_id)
    cgroup = service.box.show("boiler-worker", "ControlGroup")["ControlGroup"]
    procs = service.box.root / "sys/fs/cgroup" / cgroup.lstrip("/") / "cgroup.procs"
    before = len(procs.read_text().split())

    began_s = time.monotonic()
    service.systemctl("stop", "boiler-worker")
    took_s = time.monotonic() - began_s

    assert before >= 13  # supervisor, broker, scheduler, ten workers
    assert 2 <= took_s < 30  # TimeoutStopSec is 75
    assert service.lines("worker shutdown timed out, forcing exit")
    assert service.lines("task released, it will run again", task_id=task_id)
    assert service.box.show("boiler-worker", "Result")["Result"] == "success"
    assert not procs.exists()
    assert "sleep" not in service.box.run("ps", "-eo", "comm=").stdout.split()


def test_a_drain_longer_than_the_units_timeout_gets_its_time(service: Service) -> None:
    service.drop_in(f"{DROP_IN}TimeoutStopSec=1\n")
    service.start()
    task_id = service.enqueue("app:sleep", "4")
    service.wait_for("task started", task_id=task_id)

    service.systemctl("stop", "boiler-worker")

    assert service.lines("task completed", task_id=task_id)
    assert service.box.show("boiler-worker", "Result")["Result"] == "success"


def test_a_term_to_all_processes_of_the_unit_drains_as_a_stop_does(service: Service) -> None:
    service.start()
    task_id = service.enqueue("app:sleep", "2")
    service.wait_for("task started", task_id=task_id)

    service.systemctl("kill", "boiler-worker")

    wait_until(lambda: service.state() == "inactive dead", "it has ended")
    assert service.lines("task completed", task_id=task_id)
    assert service.lines("worker shutdown completed gracefully")
    assert service.box.show("boiler-worker", "Result")["Result"] == "success"
    service.start()
    recent = service.box.run("boilerd", "task", "recent", "--json").stdout
    assert task_id in recent


def test_an_import_longer_than_the_watchdog_and_the_starts_timeout_is_waited_for(service: Service) -> None:
    service.drop_in(f"{DROP_IN}TimeoutStartSec=6\nWatchdogSec=2\n")
    service.box.write("/srv/myproject/tasks.py", f"{APP}time.sleep(8)\n")
    service.start()
    pid = service.main_pid()

    service.systemctl("reload", "boiler-worker")

    assert (service.main_pid(), service.state()) == (pid, "active running")
    service.wait_for("task completed", task_id=service.enqueue("app:version"))
    service.box.run("kill", "-STOP", str(pid))  # the watchdog is as impatient again as it was
    wait_until(lambda: service.main_pid() != pid, "it was replaced")


def test_a_start_that_failed_says_why(service: Service) -> None:
    service.box.write("/srv/myproject/tasks.py", "import nothing_like_it\n")

    service.systemctl("start", "boiler-worker", check=False)

    assert "nothing_like_it" in service.box.show("boiler-worker", "StatusText")["StatusText"]


def test_a_supervisor_that_hangs_is_replaced_by_the_watchdog_and_nothing_is_lost(service: Service) -> None:
    service.drop_in(f"{DROP_IN}WatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=0.1\n")
    service.start()
    running = service.enqueue("app:sleep", "3")
    service.wait_for("task started", task_id=running)
    pid = service.main_pid()

    service.box.run("kill", "-STOP", str(pid))

    wait_until(lambda: service.state() == "active running" and service.main_pid() not in {0, pid}, "it was replaced")
    service.wait_for("task completed", task_id=running)
    journal = service.box.run("journalctl", "-u", "boiler-worker", "-o", "cat", "-q").stdout
    assert "Watchdog timeout" in journal
    service.wait_for("task completed", task_id=service.enqueue("app:sleep", "0"))


def test_a_supervisor_that_is_killed_comes_back_and_nothing_is_lost(service: Service) -> None:
    service.drop_in(f"{DROP_IN}RestartSec=0.1\n")
    service.start()
    running = service.enqueue("app:sleep", "2")
    service.wait_for("task started", task_id=running)
    service.box.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "boiler-worker")

    wait_until(lambda: service.box.show("boiler-worker", "NRestarts")["NRestarts"] != "0", "it was started again")
    service.wait_for("task completed", task_id=running)


def test_a_reload_interrupts_no_task_and_brings_new_code_and_settings(service: Service) -> None:
    service.start()
    pid = service.main_pid()
    ids = [service.enqueue("app:sleep", "3") for _ in range(10)]
    service.wait_for("task started", count=10)

    service.box.write("/srv/myproject/tasks.py", APP.replace("version 1", "version two"))
    service.box.write("/etc/boilerd/boilerd.toml", "concurrency = 4\n")
    service.systemctl("reload", "boiler-worker")

    assert (service.main_pid(), service.state()) == (pid, "active running")
    assert len(service.lines("task completed")) == len(ids) == len(service.lines("task started"))
    assert not service.lines("task released, it will run again")
    service.wait_for("version two", task_id=service.enqueue("app:version"))
    assert 'Status: "4 workers' in service.systemctl("status", "boiler-worker").stdout


@pytest.mark.parametrize(
    ("path", "text", "error"),
    [
        ("/etc/boilerd/boilerd.toml", "workers = 4\n", "unknown key 'workers'"),
        ("/srv/myproject/tasks.py", "import nothing_like_it\n", "nothing_like_it"),
    ],
)
def test_a_broken_reload_fails_and_the_service_goes_on(service: Service, path: str, text: str, error: str) -> None:
    service.start()
    pid = service.main_pid()

    service.box.write(path, text)
    failed = service.systemctl("reload", "boiler-worker", check=False)

    assert failed.returncode != 0
    assert error in service.wait_for("reload refused, going on as before")["error"]
    status = service.systemctl("status", "boiler-worker", check=False).stdout
    assert re.search(rf'Status: "10 workers.*reload refused: .*{re.escape(error)}', status)
    assert (service.main_pid(), service.state()) == (pid, "active running")
    service.box.write("/etc/boilerd/boilerd.toml", "")
    service.wait_for("version 1", task_id=service.enqueue("app:version"))


def test_two_instances_work_side_by_side_on_their_own_queues(service: Service) -> None:
    for name in ("a", "b"):
        service.box.write(f"/etc/boilerd/{name}.toml", f"concurrency = 2\n[queues]\n{name} = 1\n")
        service.start(f"boiler-worker@{name}")

    for name in ("a", "b"):
        where = ("--config", f"/etc/boilerd/{name}.toml", "--runtime-dir", f"/run/boilerd-{name}")
        task_id = service.enqueue("worker:ping", '{"message":"hi"}', "--queue", name, *where)
        line = service.wait_for("task completed", identifier=f"boiler-worker@{name}", task_id=task_id)
        assert line["queue"] == name
        assert service.box.run("boilerd", "status", *where).stdout.count(f"\n{name} ") == 1


def test_it_writes_nowhere_but_in_its_own_directories_and_may_do_nothing_else(service: Service) -> None:
    service.start()
    allowed = ["/var/lib/boilerd/file", "/run/boilerd/file", "/tmp/file"]
    own = ["/opt/boilerd/file", "/srv/myproject/file"]
    directories = ["etc", "usr", "root", "home", "run", "var/lib", "var/log", "dev", "proc/sys/kernel", "sys/fs/cgroup"]
    refused = [*own, *(f"/{directory}/file" for directory in directories)]

    task_id = service.enqueue("app:confined", json.dumps(allowed + refused))

    line = service.wait_for("confined", task_id=task_id)
    assert {path for path, outcome in line["paths"].items() if outcome == "written"} == set(allowed)
    assert int(line["status"]["CapEff"], 16) == int(line["status"]["CapBnd"], 16) == 0
    assert (line["status"]["NoNewPrivs"], line["status"]["Seccomp"]) == ("1", "2")
    assert not (service.box.root / "tmp/file").exists()


def test_a_broker_that_is_away_at_the_start_is_tried_again_until_it_is_there(service: Service) -> None:
    service.box.write("/etc/boilerd/boilerd.toml", 'redis_url = "unix:///run/boiler-valkey/valkey.sock"\n')
    failed = service.systemctl("start", "boiler-worker", check=False)
    assert failed.returncode != 0
    assert "Redis did not answer" in service.wait_for("daemon could not start")["error"]

    service.start("boiler-valkey")

    wait_until(lambda: service.state() == "active running", "it was tried again")
    service.wait_for("version 1", task_id=service.enqueue("app:version"))


def test_settings_that_are_wrong_are_not_tried_again(service: Service) -> None:
    service.box.write("/etc/boilerd/boilerd.toml", "concurrency = 0\n")

    assert service.systemctl("start", "boiler-worker", check=False).returncode != 0

    assert "concurrency: 0 is not" in service.wait_for("daemon could not start")["error"]
    assert service.state() == "failed failed"
    assert service.box.show("boiler-worker", "NRestarts", "ExecMainStatus") == {"NRestarts": "0", "ExecMainStatus": "3"}


@pytest.mark.parametrize(
    ("drop_in", "status"),
    [
        ("WorkingDirectory=/srv/nowhere", "200"),
        ("ExecStart=\nExecStart=/opt/boilerd/bin/nothing-there run", "203"),
        ("BindReadOnlyPaths=/srv/nowhere", "226"),
    ],
)
def test_a_unit_that_cannot_be_carried_out_is_not_tried_again(service: Service, drop_in: str, status: str) -> None:
    service.drop_in(f"[Service]\n{drop_in}\n")

    assert service.systemctl("start", "boiler-worker", check=False).returncode != 0

    found = service.box.show("boiler-worker", "NRestarts", "ExecMainStatus", "SubState")
    assert found == {"NRestarts": "0", "ExecMainStatus": status, "SubState": "failed"}


def test_the_bundled_broker_as_a_unit_keeps_tasks_while_the_worker_is_stopped(service: Service) -> None:
    service.box.write("/etc/boilerd/boilerd.toml", 'redis_url = "unix:///run/boiler-valkey/valkey.sock"\n')
    service.start("boiler-valkey")
    service.start()
    service.systemctl("stop", "boiler-worker")

    task_id = service.enqueue("app:version")
    service.systemctl("restart", "boiler-valkey")
    service.start()

    service.wait_for("version 1", task_id=task_id)


def test_the_password_comes_as_a_credential_and_is_seen_nowhere(service: Service) -> None:
    service.box.write("/etc/boilerd/boilerd.toml", 'redis_url = "unix:///run/boiler-valkey/valkey.sock"\n')
    service.box.write("/etc/credstore/boilerd.redis_password", "s3cret\n")
    (service.box.root / "etc/credstore/boilerd.redis_password").chmod(0o600)
    service.box.write(
        "/etc/valkey-test.conf", "requirepass s3cret\nport 0\nunixsocket /run/boiler-valkey/valkey.sock\n"
    )
    service.drop_in(
        "[Service]\nExecStart=\nExecStart=/opt/boilerd/bin/valkey-server /etc/valkey-test.conf\n", "boiler-valkey"
    )
    service.start("boiler-valkey")
    service.start()

    wrong = {"BOILERD_REDIS_PASSWORD": "wrong"}
    refused = service.box.run("boilerd", "enqueue", "app:version", env=wrong, check=False)
    as_the_daemon = service.box.run("boilerd", "enqueue", "app:version")
    env = {"BOILERD_REDIS_PASSWORD_FILE": "/etc/credstore/boilerd.redis_password"}
    task_id = service.box.run("boilerd", "enqueue", "app:version", env=env).stdout.strip()
    service.wait_for("version 1", task_id=task_id)
    service.systemctl("reload", "boiler-worker")

    assert "password" in refused.stderr
    assert as_the_daemon.returncode == 0
    shown = [service.box.run("ps", "-eo", "args=").stdout, "\n".join(service.raw_lines()),
             service.systemctl("show", "boiler-worker").stdout]  # fmt: skip
    assert not any("s3cret" in text for text in shown)
    task_id = service.box.run("boilerd", "enqueue", "app:version", env=env).stdout.strip()
    service.wait_for("version 1", task_id=task_id)


def test_quiet_and_scale_work_on_the_service(service: Service) -> None:
    service.start()

    service.box.run("boilerd", "quiet")
    service.box.run("boilerd", "scale", "3")

    wait_until(lambda: 'Status: "quiet, 3 workers, 0 busy, 0 pending"' in
               service.systemctl("status", "boiler-worker").stdout, "the status tells")  # fmt: skip


def test_the_journal_marks_nobody_as_failed_after_a_restart(service: Service) -> None:
    service.start()
    task_id = service.enqueue("app:sleep", "1")
    service.wait_for("task started", task_id=task_id)

    service.systemctl("restart", "boiler-worker")

    assert service.lines("task completed", task_id=task_id)
    assert service.state() == "active running"
    assert not [line for line in map(json.loads, service.raw_lines()) if line["level"] in {"error", "critical"}]
