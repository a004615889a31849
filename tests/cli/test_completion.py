"""What a shell completes: the protocol that the commands' scripts speak, and bash itself."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from click.shell_completion import get_completion_class

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.neighbours import Declared
from boilerd.cli import boilerd, known_names
from boilerd.cli.completion import _Bash
from support import DEADLINE_S, Valkey, clean_environment, python_path

Ask = Callable[..., list[str]]


@pytest.fixture
def worker(broker: Broker) -> None:
    """A living worker, which tells of its handlers."""
    broker.connection.ping()
    seconds, _ = broker.connection.time()
    seen = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(seconds))
    declared = Declared(("email:deliver", "email:bounce", "report:", "")).encoded()
    record = {"queues": "default,mails", "last_heartbeat": seen, "application": declared}
    broker.register("host.run.0", ["default", "mails"], record)


#: As the command, but for a machine that is busy with something else.
PATIENT = "import boilerd.cli.known_names as names; names.LIMIT_S = 20; from boilerd.cli import main; main()"


def variables(shell: str, words: str, **env: str) -> dict[str, str]:
    """What the shell's script gives, for a line whose last word is incomplete."""
    last, count = words.rsplit(" ", 1)[-1], str(len(words.split(" ")) - 1)
    given = {"COMP_WORDS": words, "COMP_CWORD": last if shell == "fish" else count}
    if shell == "bash":
        given = {"COMP_LINE": words, "COMP_WORDBREAKS": " :="}
    return clean_environment(**{"_BOILERD_COMPLETE": f"{shell}_complete", **given, **env})


@pytest.fixture
def ask(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What the shell's script would get, with all the time that it takes."""
    monkeypatch.setattr(known_names, "LIMIT_S", DEADLINE_S)

    def complete(shell: str, words: str, **env: str) -> list[str]:
        kind = _Bash if shell == "bash" else get_completion_class(shell)
        assert kind
        with patch.dict(os.environ, variables(shell, words, **{"BOILERD_REDIS_URL": valkey.url, **env}), clear=True):
            return kind(boilerd, {}, "boilerd", "_BOILERD_COMPLETE").complete().splitlines()

    return complete


def ask_quickly(words: str, **env: str) -> tuple[list[str], float]:
    """What bash gets from the command itself, and the seconds that it took."""
    command, given = [sys.executable, "-m", "boilerd"], variables("bash", words, **env)
    began_s = time.monotonic()
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split(), time.monotonic() - began_s


def test_bash_gets_the_types_of_living_workers(ask: Ask, worker: None) -> None:
    assert ask("bash", "boilerd enqueue ") == ["email:bounce", "email:deliver", "report:"]
    assert ask("bash", "boilerd enqueue rep") == ["report:"]
    assert ask("bash", "boilerd logs --type rep") == ["report:"]
    assert ask("bash", "boilerd task run --all --type rep") == ["report:"]


@pytest.mark.parametrize(("breaks", "answer"), [(" :=", ["deliver"]), (" ", ["email:deliver"])])
def test_bash_gets_what_comes_behind_the_colon_that_parts_its_words(
    ask: Ask, worker: None, breaks: str, answer: list[str]
) -> None:
    assert ask("bash", "boilerd enqueue email:d", COMP_WORDBREAKS=breaks) == answer


@pytest.mark.parametrize(
    ("shell", "answer"), [("zsh", ["plain", "email:deliver", "_"]), ("fish", ["plain,email:deliver"])]
)
def test_other_shells_get_the_types_as_a_whole(ask: Ask, worker: None, shell: str, answer: list[str]) -> None:
    assert ask(shell, "boilerd enqueue email:d") == answer


@pytest.mark.parametrize(
    "words",
    ["enqueue x --queue m", "enqueue -q m", "task ls --queue=m", "queue show m", "queue pause default m"],
)  # fmt: skip
def test_queues_are_those_of_the_settings_and_of_the_broker(ask: Ask, client: Client, words: str) -> None:
    client.enqueue("test:echo", queue="mails")

    assert ask("bash", f"boilerd {words}", BOILERD_QUEUES="movies=1,default=1") == ["mails", "movies"]


def test_the_broker_is_that_of_the_line(ask: Ask, client: Client, valkey: Valkey) -> None:
    client.enqueue("test:echo", queue="mails")

    line = f"boilerd enqueue --redis-url {valkey.url} -q m"

    assert ask("bash", line, BOILERD_REDIS_URL="unix:///nowhere") == ["mails"]


def test_commands_are_completed_with_their_help(ask: Ask) -> None:
    answer = ask("zsh", "boilerd re")

    assert answer[1::3] == ["resume", "reload", "restart"]
    assert answer[2] == "Let it claim again."


@pytest.mark.parametrize("url", ["redis://no.such.host.invalid", "nonsense", "silent"])
def test_a_broker_that_is_away_is_no_error_and_takes_no_time(directory: Path, url: str) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(directory / "silent.sock"))
        silent.listen()
        place = f"unix://{directory}/silent.sock" if url == "silent" else url

        _, start_s = ask_quickly("boilerd enq")
        answer, took_s = ask_quickly("boilerd enqueue em", BOILERD_REDIS_URL=place)

    assert answer == []
    assert took_s < 5 + 3 * start_s  # a look-up or a connection that is waited for takes longer


@pytest.mark.parametrize("line", ["boilerd no-such-command ", ""])
def test_a_line_that_cannot_be_read_is_no_error(line: str) -> None:
    ask_quickly(line, BOILERD_REDIS_URL="unix:///nowhere")


def test_a_setting_that_is_wrong_is_no_error(ask: Ask) -> None:
    assert ask("bash", "boilerd enqueue em", BOILERD_CONCURRENCY="many") == []


def test_foreign_names_in_the_broker_are_left_out(ask: Ask, broker: Broker) -> None:
    broker.connection.sadd(keys.QUEUES, keys.queue("mails"), keys.queue("m\x1b[31m"), keys.queue("m y"), b"\xff")

    assert ask("bash", "boilerd queue show m") == ["mails"]


@pytest.mark.parametrize("name", ["m$(id)", "m`id`", "m;id", "m|id", "m>file", "m*", "m~{a,b}", "m'", 'm"', "m\\"])
def test_a_name_that_a_shell_would_obey_is_left_out(ask: Ask, broker: Broker, name: str) -> None:
    broker.connection.sadd(keys.QUEUES, keys.queue("mails"), keys.queue(name))

    assert ask("bash", "boilerd queue show m") == ["mails"]


def test_a_name_that_would_be_an_option_is_left_out(ask: Ask, broker: Broker) -> None:
    broker.connection.sadd(keys.QUEUES, keys.queue("mails"), keys.queue("--yes"))

    found = ask("bash", "boilerd queue pause ")

    assert "mails" in found
    assert "--yes" not in found


def test_bash_completes_a_type_with_a_colon_at_the_cursor(valkey: Valkey, worker: None, directory: Path) -> None:
    program = directory / "boilerd"
    program.write_text(f"#!{sys.executable}\n{PATIENT}\n")
    program.chmod(0o755)
    script = """
        eval "$(_BOILERD_COMPLETE=bash_source boilerd)"
        COMP_LINE='boilerd enqueue email:d and more' COMP_POINT=23
        COMP_WORDS=(boilerd enqueue email : d and more) COMP_CWORD=4
        $(complete -p boilerd | sed 's/.*-F //; s/ .*//') boilerd
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    bash = shutil.which("bash")
    assert bash

    done = subprocess.run(
        [bash, "--norc", "-c", script], capture_output=True, text=True, check=True,
        env=clean_environment(
            BOILERD_REDIS_URL=valkey.url, PATH=f"{directory}:/usr/bin:/bin", PYTHONPATH=python_path()
        ),
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("deliver\n", "")
