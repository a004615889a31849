"""What commands see of the service's settings, which stand in the unit's environment and its credentials."""

import json

from service import Service

DROP_IN = """[Service]
Environment=BOILERD_REDIS_URL=unix:///run/own/valkey.sock
Environment=BOILERD_CONCURRENCY={concurrency}
"""
#: A Redis of the operator's own, with a password.
OWN = """[Service]
ExecStart=/opt/boilerd/bin/valkey-server --port 0 --unixsocket /run/own/valkey.sock --unixsocketperm 777 \\
    --requirepass hunter2 --save "" --dir /run/own
RuntimeDirectory=own
"""


def shown(service: Service, *words: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        service.box.run("boilerd", "config", "show", "--json", *words).stdout
    )
    return found


def start_with_credential(service: Service) -> None:
    box = service.box
    box.write("/etc/systemd/system/own-redis.service", OWN)
    box.write("/etc/credstore/boilerd.redis_password", "hunter2\n")
    service.drop_in(DROP_IN.format(concurrency=1))
    service.start("own-redis")
    service.start()


def test_roots_commands_see_the_environment_and_the_credential_of_the_unit(service: Service) -> None:
    start_with_credential(service)
    box = service.box

    task_id = service.enqueue("worker:ping", "--retention", "1h")
    service.wait_for("task completed", task_id=task_id)
    health = box.run("boilerd", "health")
    settings = shown(service)
    said = box.run("boilerd", "config", "show").stdout

    assert health.stdout == "ok\n"
    assert box.run("boilerd", "task", "show", task_id).returncode == 0
    assert settings["concurrency"] == {"value": 1, "source": "BOILERD_CONCURRENCY"}
    assert settings["redis_url"]["value"] == "unix:///run/own/valkey.sock"
    assert settings["redis_password"] == {"value": "********", "source": "credential redis_password"}
    assert "hunter2" not in said


def test_a_changed_environment_of_the_unit_is_told_at_a_reload(service: Service) -> None:
    start_with_credential(service)
    service.systemctl("reload", "boiler-worker")
    before = service.lines("the unit's environment has changed, restart it")
    service.drop_in(DROP_IN.format(concurrency=2))

    service.systemctl("reload", "boiler-worker")

    told = service.wait_for("the unit's environment has changed, restart it")
    assert before == []
    assert told["settings"] == ["concurrency"]


def test_a_credential_that_is_left_over_beside_the_embedded_server_stops_no_start(service: Service) -> None:
    service.box.write("/etc/credstore/boilerd.redis_password", "hunter2\n")
    service.drop_in("")

    service.start()

    assert service.box.run("boilerd", "health").stdout == "ok\n"


def test_the_settings_file_of_an_instance_reaches_the_instance(service: Service) -> None:
    box = service.box
    for name, count in (("a", 1), ("b", 2)):
        box.write(f"/etc/boilerd/{name}.toml", f"concurrency = {count}\n")
        service.start(f"boiler-worker@{name}")

    task_id = box.run("boilerd", "enqueue", "-c", "/etc/boilerd/a.toml", "worker:ping", "--in", "1h").stdout.strip()
    there = box.run("boilerd", "task", "show", "-c", "/etc/boilerd/a.toml", task_id)
    other = box.run("env", "-C", "/etc/boilerd", "boilerd", "task", "show", "-c", "b.toml", task_id, check=False)
    scaled = box.run("boilerd", "scale", "-c", "/etc/boilerd/b.toml", "3")
    processes = json.loads(box.run("boilerd", "status", "--json", "-c", "/etc/boilerd/b.toml", check=False).stdout)
    box.run("systemctl", "stop", "boiler-worker@a")
    stopped = box.run("boilerd", "health", "-c", "/etc/boilerd/a.toml", check=False)

    assert (there.returncode, other.returncode, scaled.returncode) == (0, 1, 0)
    assert "does not exist" in other.stderr
    assert len([each for each in processes["processes"] if each["name"].startswith("worker")]) == 3
    assert "/run/boilerd-a/control.sock" in stopped.stdout


def test_a_daemon_of_roots_beside_the_stopped_service_leaves_no_file_in_its_state(service: Service) -> None:
    box = service.box
    service.drop_in("")
    service.start()
    service.systemctl("stop", "boiler-worker")

    done = box.run("boilerd", "run", "--burst", check=False)

    others = box.run("find", "/var/lib/private/boilerd", "!", "-user", "boilerd").stdout
    assert done.returncode == 3
    assert others == ""
    service.start()
    assert box.run("boilerd", "health").stdout == "ok\n"
