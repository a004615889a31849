"""A web application under a user of its own, and a third user, beside the installed service."""

import pytest

from box import PROJECT, Box
from service import Service

WEB, EVE = "web", "eve"
#: A web application: it enqueues, and asks for status and result.
APPLICATION = """
import sys, time
from boilerd import Client, Inspector
with Client.from_settings() as client:
    task = client.enqueue("worker:ping", {"message": "hi"}, retention=60)
    inspector = Inspector(client.connection)
    while inspector.task(task.id).state != "completed":
        time.sleep(0.05)
    print(inspector.task(task.id).attempts[0].result)
"""


@pytest.fixture
def users(service: Service) -> Box:
    """The box, with a web server's user, who is a member of the group, and a third user."""
    box = service.box
    for name in (WEB, EVE):
        box.run("useradd", "--system", name, check=False)
    box.run("usermod", "-aG", "boilerd", WEB)
    box.write("/srv/web/application.py", APPLICATION)
    return box


def run_as(box: Box, user: str, *words: str) -> tuple[int, str, str]:
    done = box.run("setpriv", "--reuid", user, "--regid", user, "--init-groups", *words, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize("unit", ["boiler-worker", "boiler-valkey"])
def test_a_web_application_enqueues_and_reads_its_result_and_can_do_nothing_else(
    service: Service, users: Box, unit: str
) -> None:
    if unit == "boiler-valkey":
        users.write("/etc/boilerd/boilerd.toml", 'redis_url = "unix:///run/boiler-valkey/valkey.sock"\n')
        service.start(unit)
    service.drop_in("")
    service.start()

    result = run_as(users, WEB, "/opt/boilerd/bin/python", "/srv/web/application.py")
    looks = [run_as(users, WEB, "boilerd", *words)[0] for words in (("status",), ("health",), ("queue", "ls"))]
    acts = [
        run_as(users, WEB, "boilerd", *words)
        for words in (("scale", "2"), ("reload",), ("quiet",), ("queue", "pause", "default"), ("config", "check"))
    ]
    files = [run_as(users, WEB, *words)[0] for words in (("ls", "/run/boilerd"), ("ls", "/var/lib/boilerd/"))]
    third = [
        run_as(users, EVE, "boilerd", *words) for words in (("status",), ("enqueue", "worker:ping"), ("queue", "ls"))
    ]

    assert result == (0, "hi", "")
    assert looks == [0, 0, 0]
    assert [code for code, _, _ in acts] == [1, 1, 1, 1, 0], acts
    assert [code != 0 for code in files] == [True, True]
    assert [code for code, _, _ in third] == [1, 1, 1], third
    assert "usermod -aG boilerd" in third[1][2]
    assert users.run("boilerd", "queue", "pause", "low").returncode == 0
    assert users.run("boilerd", "queue", "resume", "low").returncode == 0
    assert users.run("boilerd", "health").stdout == "ok\n"


def test_an_upgrade_gives_the_data_of_a_user_that_systemd_made_to_the_one_that_stays(service: Service) -> None:
    box = service.box
    box.run("userdel", "boilerd")
    box.run("groupdel", "boilerd", check=False)
    service.drop_in("[Service]\nGroup=\nUnsetEnvironment=BOILERD_GROUP\n")
    service.start()
    task_id = service.enqueue("worker:ping", "--in", "1h")

    box.run("sh", "-c", f"eval \"$(sed -n '/^install_user/,/^}}/p' {PROJECT}/scripts/install)\"; "
            'step() { :; }; run() { "$@"; }; install_user')  # fmt: skip
    service.drop_in("")
    reloaded = service.systemctl("reload", "boiler-worker", check=False)
    after_reload = box.run("boilerd", "task", "show", task_id, check=False)
    service.systemctl("restart", "boiler-worker")

    assert (reloaded.returncode, after_reload.returncode) == (0, 0), after_reload.stderr
    assert box.run("boilerd", "task", "show", task_id).returncode == 0
    assert box.run("stat", "-c", "%U", "/var/lib/private/boilerd/valkey").stdout == "boilerd\n"
    assert box.run("boilerd", "health").stdout == "ok\n"
