"""What docs/operating.md says of the service is done on a real systemd."""

import json
import re
from pathlib import Path

from box import Box
from pages import DOCS, blocks, codes, table
from service import APP, DROP_IN, Service
from support import wait_until
from walkthrough import steps

PAGE = DOCS / "operating.md"
#: How a handler tries what a line of a drop-in allows.
TRIES = {
    "ProtectHome": "open('/home/note').read()",
    "ReadWritePaths": "open('/srv/myproject/media/file', 'w').close()",
    "SystemCallFilter": "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "RestrictAddressFamilies": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()",
    "UMask": "pathlib.Path('/var/lib/boilerd/file').touch(), 1 / (os.stat('/var/lib/boilerd/file').st_mode & 0o44)",
    "MemoryDenyWriteExecute": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "ProtectProc": "os.stat('/proc/1')",
}
TRYING = """
import mmap, os, pathlib, socket

@mux.handle("app:tries")
def tries(task):
    refused = []
    for name, code in task.payload.items():
        try:
            eval(code)
        except (OSError, ZeroDivisionError):
            refused.append(name)
    pathlib.Path("/var/lib/boilerd/file").unlink(missing_ok=True)
    task.logger.info("tried", extra={"refused": refused})
"""


def drop_in(part: str) -> str:
    """The drop-in of the page that has this line."""
    (text,) = (block.text for block in blocks(PAGE) if block.language == "ini" and part in block.text)
    return text


def refused(service: Service) -> list[str]:
    """What a task may not do."""
    line = service.wait_for("tried", task_id=service.enqueue("app:tries", json.dumps(TRIES)))
    found = line["refused"]
    assert isinstance(found, list)
    return found


def test_the_commands_of_the_installation_do_what_the_page_says(service: Service) -> None:
    service.drop_in("")  # the settings of the installation
    commands = [
        command.removeprefix("sudo ").removesuffix(" -f")  # root it is, and nobody waits for the end
        for block in blocks(PAGE) if block.language == "console" and "make install" in block.text
        for command, _ in steps(block.text)
    ]  # fmt: skip

    first, *after = commands

    try:
        printed = [service.box.run("sh", "-c", command).stdout for command in after]
        wait_until(lambda: "task completed" in service.box.run("sh", "-c", after[-1]).stdout, "the task is in the log")
    finally:
        service.systemctl("disable", "boiler-worker")

    assert first == "make install"  # which made the box what it is
    assert re.fullmatch(r"[0-9a-f-]{36}\n", printed[1])


def test_what_an_operator_asks_is_answered(service: Service) -> None:
    asked = [*table("operating.md", "Ask").names(), *table("operating.md", "You see").names(1)]
    is_ours = re.compile(r"(?:boilerd|\S*supervisorctl) [^A-Z]*$")  # without a placeholder, as ID
    commands = [code for code in dict.fromkeys(asked) if is_ours.match(code)]
    service.start()

    done = {command: service.box.run(*command.split(), check=False) for command in commands}

    assert {command: ended.stderr for command, ended in done.items() if ended.returncode} == {}
    assert any("supervisorctl" in command for command in commands)


def test_the_service_runs_as_the_applications_user_from_its_environment(installed_box: Box) -> None:
    service = Service(installed_box)
    installed_box.write("/srv/myproject/tasks.py", APP)
    installed_box.run("useradd", "deploy")
    bring_environment(installed_box, "/srv/myproject/.venv")
    service.start()
    before = service.enqueue("worker:ping", "null", "--in", "1h")

    service.systemctl("stop", "boiler-worker")
    service.drop_in(drop_in("User=deploy"))
    service.start()

    line = service.wait_for("task completed", task_id=service.enqueue("app:version"))
    assert (
        installed_box.run("stat", "-c", "%U", f"/proc/{line['pid']}", "/var/lib/boilerd").stdout.split()
        == ["deploy"] * 2
    )
    assert installed_box.run("readlink", "-f", f"/proc/{line['pid']}/cwd").stdout == "/srv/myproject\n"
    assert "/srv/myproject/.venv/bin/boilerd" in installed_box.show("boiler-worker", "ExecStart")["ExecStart"]
    assert before in installed_box.run("boilerd", "task", "ls", "--state", "scheduled").stdout
    service.systemctl("reload", "boiler-worker")


def bring_environment(box: Box, path: str) -> None:
    """A virtual environment that has boilerd, as pip would have installed it."""
    box.run("/usr/bin/python3", "-m", "venv", "--without-pip", path)
    (here,) = (box.root / path.lstrip("/") / "lib").glob("python3*/site-packages")
    (there,) = (box.root / "opt/boilerd/lib").glob("python3*/site-packages")
    (here / "boilerd.pth").write_text(f"/opt/boilerd/lib/{there.parent.name}/site-packages\n")
    box.write(f"{path}/bin/boilerd", f"#!{path}/bin/python\nfrom boilerd.cli import main\nmain()\n")
    (box.root / path.lstrip("/") / "bin/boilerd").chmod(0o755)


def test_the_log_goes_to_a_file_and_to_a_new_one_after_it_was_moved(service: Service) -> None:
    service.drop_in(DROP_IN + drop_in("LogsDirectory="))
    service.start()
    log = Path("/var/log/boilerd/boilerd.log")
    first = service.enqueue("app:version")
    service.wait_for("task completed", task_id=first)

    service.box.run("mv", log, f"{log}.1")
    (reopen,) = (code for code in codes(PAGE.read_text()) if "--signal=USR2" in code)
    service.box.run("sh", "-c", reopen.removeprefix("sudo "))

    wait_until(lambda: service.box.run("test", "-e", log, check=False).returncode == 0, "there is a new file")
    second = service.enqueue("app:version")
    (look,) = (code for code in codes(PAGE.read_text()) if code.startswith("sudo boilerd logs --file"))
    wait_until(lambda: second in service.box.run("sh", "-c", look.removeprefix("sudo ")).stdout, "it is in the new one")
    assert first in service.box.run("cat", f"{log}.1").stdout


def test_each_line_that_the_page_names_allows_what_the_sandbox_forbids(service: Service) -> None:
    lines = [codes(row[2])[0] for row in table("operating.md", "A task that").rows]
    service.box.write("/srv/myproject/tasks.py", APP + TRYING)
    service.box.write("/home/note", "")
    service.box.run("mkdir", "-p", "--mode", "777", "/srv/myproject/media")
    service.start()

    before = refused(service)
    service.drop_in(DROP_IN + "\n".join(lines))
    service.systemctl("restart", "boiler-worker")
    after = refused(service)

    assert [line.partition("=")[0] for line in lines] == list(TRIES)
    assert before == list(TRIES)
    assert after == []


def test_the_memory_of_the_unit_is_bounded(service: Service) -> None:
    service.drop_in(DROP_IN + drop_in("MemoryMax="))

    shown = service.box.show("boiler-worker", "MemoryMax", "OOMPolicy")

    assert shown == {"MemoryMax": str(2 * 1024**3), "OOMPolicy": "continue"}
