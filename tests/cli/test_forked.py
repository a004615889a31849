"""That a command in a fork of the tests' process tells what one that was started tells."""

import subprocess
import sys
from pathlib import Path

import pytest

from boilerd import Client
from forked import may_fork, run_forked
from support import DEADLINE_S, Valkey, clean_environment, python_path


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (("--version",), ""),
        (("queue", "--help"), ""),
        (("nope",), ""),
        (("task", "delete"), ""),
        (("task", "show", "gone"), ""),
        (("task", "show", "\udcff"), ""),
        (("failures", "ls", "--json"), ""),
        (("queue", "delete", "low"), "n\n"),
        (("status",), ""),
        (("schema",), ""),
        (("enqueue", "test:echo", "{"), ""),
        (("logs", "--file", "-"), '{"ts":"2026-01-01T00:00:00Z","level":"info","msg":"ü"}\nno line\n'),
    ],
    ids=str,
)
def test_a_forked_command_tells_the_same_as_one_that_was_started(
    words: tuple[str, ...], stdin: str, valkey: Valkey, client: Client, directory: Path
) -> None:
    client.enqueue("test:echo", task_id="a", queue="low")
    env = clean_environment(
        BOILERD_REDIS_URL=valkey.url, BOILERD_STATE_DIR=str(directory), BOILERD_APP="apps:mux",
        PYTHONPATH=python_path(), TZ="Asia/Tokyo",
    )  # fmt: skip
    started = subprocess.run(
        [sys.executable, "-m", "boilerd", *words], env=env, input=stdin, cwd=directory,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip

    forked = run_forked(*words, env=env, stdin=stdin, cwd=directory, timeout=DEADLINE_S)

    assert may_fork(words, env, stdin)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


@pytest.mark.parametrize("app", ["apps", "support"])
def test_a_forked_command_finds_no_module_of_the_tests(app: str, directory: Path, valkey: Valkey) -> None:
    env = clean_environment(BOILERD_APP=f"{app}:mux", PYTHONPATH="", BOILERD_REDIS_URL=valkey.url)

    told = run_forked("schema", env=env, stdin="", cwd=directory, timeout=DEADLINE_S)

    assert told.returncode == 3
    assert f"no module '{app}'" in told.stderr
