"""What a task leaves behind in its process, and what the next one finds as it was."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from boilerd.process.surroundings import Surroundings
from support import run_python


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process in a directory of its own, five and a half hours ahead of UTC."""
    umask = os.umask(0o027)
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("TZ", "XXX-5:30")
        patch.setenv("KEPT", "kept")
        patch.setattr(sys, "stdout", sys.stdout)
        patch.setattr(sys, "stderr", sys.stderr)
        time.tzset()
        yield
    time.tzset()
    os.umask(umask)


def state() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "directory": Path.cwd(), "umask": umask, "environ": dict(os.environ), "zone": time.tzname,
        "hour": time.localtime(0).tm_hour, "stdout": sys.stdout, "stderr": sys.stderr,
    }  # fmt: skip


def change_directory_to_one_that_goes() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def change_environment() -> None:
    os.environ["NEW"] = "new"
    os.environ["KEPT"] = "changed"
    del os.environ["TZ"]


def change_zone() -> None:
    os.environ["TZ"] = "UTC"
    time.tzset()


def change_zone_and_only_the_variable_back() -> None:
    kept = os.environ["TZ"]
    change_zone()
    os.environ["TZ"] = kept


def replace_environment() -> None:
    os.environ = {}  # type: ignore[assignment] # noqa: B003 - as a task might


def replace_streams() -> None:
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the task leaves it
    sys.stdout.close()


CHANGES = [
    change_directory_to_one_that_goes, lambda: os.umask(0o077), change_environment, os.environ.clear, change_zone,
    change_zone_and_only_the_variable_back, replace_environment, replace_streams,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_task_has_changed_is_put_back(change: Callable[[], object]) -> None:
    before = state()
    surroundings = Surroundings()
    change()

    surroundings.put_back()

    assert state() == before


def test_programs_that_are_started_later_get_the_environment_as_it_was() -> None:
    surroundings = Surroundings()
    change_environment()

    surroundings.put_back()

    shown = subprocess.run(["sh", "-c", "echo $NEW $KEPT $TZ"], capture_output=True, text=True, check=True).stdout
    assert shown == "kept XXX-5:30\n"


def test_a_directory_that_was_moved_meanwhile_is_still_the_one(tmp_path: Path) -> None:
    surroundings = Surroundings()
    os.chdir("/")
    tmp_path.rename(f"{tmp_path}.moved")

    surroundings.put_back()

    assert str(Path.cwd()) == f"{tmp_path}.moved"


def test_a_stream_that_was_closed_is_opened_again() -> None:
    found = run_python("""
import os, sys
from boilerd.process.surroundings import Surroundings

surroundings = Surroundings()
for _ in range(2):
    sys.stdout.close()
    sys.stderr.close()
    surroundings.put_back()
os.close(2)
sys.stderr.close()
surroundings.put_back()
print("lost", file=sys.stderr, flush=True)
print('"written"', flush=True)
""")

    assert found == "written"


@pytest.mark.parametrize("use", [
    "sys.stdout.detach()",
    "sys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer); surroundings.keep_streams(); sys.stdout.close()",
])  # fmt: skip
def test_a_stream_of_any_kind_that_cannot_be_written_to_any_more_is_opened_again(use: str) -> None:
    found = run_python(f"""
import codecs, sys
from boilerd.process.surroundings import Surroundings

surroundings = Surroundings()
{use}
surroundings.put_back()
print('"written"', flush=True)
""")

    assert found == "written"


def test_surroundings_leave_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    made = Surroundings()

    del made

    assert len(list(Path("/proc/self/fd").iterdir())) == before
