"""A program and all its descendants: what they use, and how to hold and end them."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Tree:
    """Programs that fork; their output is thrown away, but for the errors of those that ended too soon."""

    def __init__(self, commands: list[list[str]], env: Mapping[str, str], directory: Path) -> None:
        self._others = _children(os.getpid())
        self._errors = directory / "errors"
        with self._errors.open("wb") as errors:
            self._programs = [
                subprocess.Popen(
                    command, env=dict(env), cwd=directory,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                )
                for command in commands
            ]  # fmt: skip

    def is_up(self) -> bool:
        """End this program when one of the tree's has ended by itself."""
        for program in self._programs:
            if program.poll() is not None:
                last = self._errors.read_text("utf-8", "replace")[-2000:]
                raise SystemExit(f"bench: {program.args} ended with {program.returncode}: {last}")
        return True

    def pids(self) -> list[int]:
        """The programs and their descendants, parents first."""
        children: dict[int, list[int]] = {}
        for pid, fields in _processes().items():
            children.setdefault(int(fields[1]), []).append(pid)
        found = [program.pid for program in self._programs]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have used, those that have ended included."""
        processes = _processes()
        return sum(sum(map(int, processes[pid][11:15])) for pid in self.pids() if pid in processes) / TICK

    def pss_mb(self) -> float:
        """Its share of the memory, in MB: shared pages count for each process in part."""
        return sum(map(pss_mb, self.pids()))

    def hold(self) -> None:
        """Stop all of it, until `go`."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def go(self) -> None:
        """Let it go on, children first."""
        for pid in reversed(self.pids()):
            os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end, then make sure that all of it did: what outlives a program works on in the next measure."""
        pids = set(self.pids())
        for program in self._programs:
            program.terminate()
        end_s = time.monotonic() + 10
        for program in self._programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(max(end_s - time.monotonic(), 0))
        # Workers that were forked while it ended are found as this program's own: see `adopt_orphans`.
        while left := [pid for pid in pids | _children(os.getpid()) - self._others if _is_alive(pid)]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for program in self._programs:
                program.poll()
            time.sleep(0.01)
        for program in self._programs:
            program.wait()


def adopt_orphans() -> None:
    """Become the parent of processes whose own has ended, so that they end with their tree.

    A session of its own would tell them as well, but Linux schedules each session as a group (autogroup): a peer
    would share the cores with the server in another way than where both are started from one shell.
    """
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that one process has used."""
    return sum(map(int, _processes()[pid][11:13])) / TICK


def pss_mb(pid: int) -> float:
    """One process's share of the memory, in MB; 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _children(parent: int) -> set[int]:
    return {pid for pid, fields in _processes().items() if fields[1] == str(parent)}


def _is_alive(pid: int) -> bool:
    found = _processes()
    return pid in found and found[pid][0] != "Z"


def _processes() -> dict[int, list[str]]:
    """Process ID → fields of /proc/PID/stat from the state on.

    0 state, 1 parent, 11 and 12 user and system ticks, 13 and 14 those of its children that have ended.
    """
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal():
            with suppress(OSError):
                found[int(name)] = Path(f"/proc/{name}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return found
