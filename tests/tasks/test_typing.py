"""What type checkers say of right and wrong uses of typed tasks."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILES = Path(__file__).parents[1] / "typing"
RIGHT, WRONG = FILES / "right.py", FILES / "wrong.py"

Found = set[tuple[str, int]]


def marked() -> Found:
    """The lines that must be errors."""
    lines = WRONG.read_text("utf-8").splitlines()
    return {(WRONG.name, number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


def output(*command: str | Path) -> str:
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280, check=False, cwd=FILES)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    return ran.stdout


@contextmanager
def kept() -> Iterator[str]:
    """Where mypy keeps what it knows of libraries, which takes most of its time; nowhere, if that is another user's.

    One at a time: two runs of the tests would write to the same database.
    """
    folder = FILES.parents[1] / ".mypy_cache"
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        yield os.devnull
        return
    own = folder / f"typing-{os.getuid()}"
    own.mkdir(parents=True, exist_ok=True)
    with (own / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield str(own)


def mypy() -> Iterator[tuple[str, int]]:
    with kept() as folder:
        arguments = ("--strict", "--output", "json", "--config-file", FILES / "mypy.ini", "--cache-dir", folder)
        printed = output(sys.executable, "-m", "mypy", *arguments, RIGHT, WRONG)
    for line in printed.splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            yield Path(error["file"]).name, error["line"]


def pyright() -> Iterator[tuple[str, int]]:
    arguments = ("--outputjson", "--pythonpath", sys.executable, "--project", FILES)
    for error in json.loads(output(Path(sys.executable).with_name("basedpyright"), *arguments))["generalDiagnostics"]:
        if error["severity"] == "error":
            yield Path(error["file"]).name, error["range"]["start"]["line"] + 1


@pytest.mark.long(15)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_type_checkers_find_each_wrong_use_and_nothing_else(checker: Callable[[], Iterator[tuple[str, int]]]) -> None:
    found = set(checker())

    assert (sorted(found - marked()), sorted(marked() - found)) == ([], [])
