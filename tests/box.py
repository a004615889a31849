"""A real systemd for the tests: PID 1 of namespaces of its own, over a copy-on-write view of this machine.

It needs root, and nothing that has to be installed. Whatever happens in it is gone with it.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from support import DEADLINE_S, is_running, wait_until

PROJECT = Path(__file__).parents[1]
SYSTEMD = Path("/lib/systemd/systemd")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What tells pip where to look, if not its files.
PASSED_ON = ("HOME", "PIP_", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT")


def why_not() -> str:
    """What is missing here for a box; empty: nothing."""
    if os.geteuid() != 0:
        return "the tests on a real systemd need root"
    missing = [tool for tool in ("unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if not SYSTEMD.exists():
        missing.append("systemd")
    python = ["/usr/bin/python3", "-c", "import ensurepip, venv"]
    if not Path(python[0]).exists() or subprocess.run(python, capture_output=True, check=False).returncode:
        missing.append("/usr/bin/python3 with venv")
    if missing:
        return f"the tests on a real systemd need {', '.join(missing)}: run scripts/debian-packages"
    tried = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--cgroup",
        "--ipc",
        "--uts",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/mnt",
    ]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        return "the tests on a real systemd need namespaces and mounts, which this machine does not allow"
    return ""


class Box:
    """One systemd with all that runs under it."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="boilerd-box-"))
        (self._directory / "tmpfs").mkdir()
        base = Path("/sys/fs/cgroup")
        base = base / "unified" if (base / "unified").is_dir() else base
        self._cgroup = base / self._directory.name
        self._unshare: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def start(self, image: Path | None = None) -> Self:
        """Boot it, over the files of an `image` that `save` made, and wait until it is up."""
        # systemd rules over the cgroup that it finds itself in.
        self._cgroup.mkdir()
        enter = f'echo $$ >{self._cgroup}/cgroup.procs && exec "$@"'
        namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--cgroup",
                      "--ipc", "--uts"]  # fmt: skip
        init = [str(Path(__file__).with_name("box-init")), str(self._directory), str(PROJECT)]
        init += [str(image)] if image else []
        with (self._directory / "log").open("wb") as log:
            self._unshare = subprocess.Popen(
                ["/bin/sh", "-c", enter, "sh", *namespaces, *init],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._pid = wait_until(self._booted_pid, "systemd runs")
        wait_until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in
                   {"running", "degraded"}, "systemd is up")  # fmt: skip
        return self

    def run(
        self, *command: str | Path, check: bool = True, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root, to its end; a failure raises unless told otherwise."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "--all", "--wd=/", "--", *map(str, command)],
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"} | kept | (env or {}), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=options.pop("timeout", 120), check=False, **options,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file in it, with the directories that lead there."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def save(self, image: Path, *paths: str) -> None:
        """Copy these files of it, and what is under them, to an image."""
        copy = ["cp", "-a", "--parents", *(path.lstrip("/") for path in paths), str(image)]
        subprocess.run(copy, cwd=self.root, check=True)

    @property
    def root(self) -> Path:
        """Its files, seen from outside."""
        return Path(f"/proc/{self._pid}/root")

    def journal(self, identifier: str) -> list[str]:
        """What was logged under an identifier, a line each."""
        self.run("journalctl", "--sync", check=False)
        shown = self.run("journalctl", "-t", identifier, "-o", "cat", "--no-pager", "-q").stdout
        return shown.splitlines()

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        shown = self.run("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
        return dict(line.partition("=")[::2] for line in shown.splitlines())

    def stop(self) -> None:
        """Power it off; what does not go in time is killed, and nothing is left behind."""
        if self._unshare is not None:
            if self._pid:
                with suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGRTMIN + 4)  # systemd(1): poweroff.target
            with suppress(subprocess.TimeoutExpired):
                self._unshare.wait(DEADLINE_S)
            self._unshare.kill()  # --kill-child takes the rest along
            self._unshare.wait()
            self._unshare = None
        for directory in sorted(self._cgroup.rglob("*"), reverse=True):
            if directory.is_dir():
                _remove_cgroup(directory)
        _remove_cgroup(self._cgroup)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _booted_pid(self) -> int:
        """The host's number of PID 1, once it is a systemd that listens."""
        assert self._unshare is not None
        if self._unshare.poll() is not None:
            raise AssertionError(f"the box did not start: {(self._directory / 'log').read_text()}")
        # /bin/sh became unshare; its child became systemd.
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        if not children or not is_running(int(children[0])):
            return 0
        is_systemd = Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd"
        is_listening = Path(f"/proc/{children[0]}/root/run/systemd/private").exists()
        return int(children[0]) if is_systemd and is_listening else 0


def _remove_cgroup(path: Path) -> None:
    def is_gone() -> bool:
        with suppress(OSError):  # busy until its last process is reaped
            path.rmdir()
        return not path.exists()

    with suppress(AssertionError):
        wait_until(is_gone, f"{path} is empty", deadline_s=5)
