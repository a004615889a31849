"""What a shell completes: the protocol that the commands' scripts speak, and bash itself."""

import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.neighbours import Declared
from support import Valkey, clean_environment, python_path


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


def ask(shell: str, words: str, valkey: Valkey | None = None, *, url: str = "", **env: str) -> list[str]:
    """What the shell's script would get, for a line whose last word is incomplete."""
    command = ["-m", "boilerd"] if url and not valkey else ["-c", PATIENT]
    place = {"bash": {"COMP_LINE": words}, "zsh": {}, "fish": {}}[shell]
    last = words.rsplit(" ", 1)[-1]
    count = {"zsh": str(len(words.split(" ")) - 1), "fish": last, "bash": ""}[shell]
    given = {"_BOILERD_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": count, **place, **env}
    done = subprocess.run(
        [sys.executable, *command],
        env=clean_environment(**{"BOILERD_REDIS_URL": valkey.url if valkey else url, **given}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return list(filter(None, done.stdout.splitlines()))


def test_bash_gets_the_types_of_living_workers(valkey: Valkey, worker: None) -> None:
    assert ask("bash", "boilerd enqueue ", valkey) == ["email:bounce", "email:deliver", "report:"]
    assert ask("bash", "boilerd enqueue rep", valkey) == ["report:"]


@pytest.mark.parametrize(("breaks", "answer"), [(" :=", ["deliver"]), (" ", ["email:deliver"])])
def test_bash_gets_what_comes_behind_the_colon_that_parts_its_words(
    valkey: Valkey, worker: None, breaks: str, answer: list[str]
) -> None:
    assert ask("bash", "boilerd enqueue email:d", valkey, COMP_WORDBREAKS=breaks) == answer


@pytest.mark.parametrize(
    ("shell", "answer"), [("zsh", ["plain", "email:deliver", "_"]), ("fish", ["plain,email:deliver"])]
)
def test_other_shells_get_the_types_as_a_whole(valkey: Valkey, worker: None, shell: str, answer: list[str]) -> None:
    assert ask(shell, "boilerd enqueue email:d", valkey) == answer


@pytest.mark.parametrize(
    "words",
    ["enqueue x --queue m", "enqueue -q m", "task ls --queue=m", "queue show m", "queue pause default m"],
)  # fmt: skip
def test_queues_are_those_of_the_settings_and_of_the_broker(client: Client, valkey: Valkey, words: str) -> None:
    client.enqueue("test:echo", queue="mails")

    assert ask("bash", f"boilerd {words}", valkey, BOILERD_QUEUES="movies=1,default=1") == ["mails", "movies"]


def test_the_broker_is_that_of_the_line(client: Client, valkey: Valkey) -> None:
    client.enqueue("test:echo", queue="mails")

    line = f"boilerd enqueue --redis-url {valkey.url} -q m"

    assert ask("bash", line, BOILERD_REDIS_URL="unix:///nowhere") == ["mails"]


def test_commands_are_completed_without_being_imported() -> None:
    script = (
        "import sys; from boilerd.cli import boilerd;"
        "boilerd.main(prog_name='boilerd', complete_var='_C', standalone_mode=False)"
    )
    env = clean_environment(_C="zsh_complete", COMP_WORDS="boilerd re", COMP_CWORD="1")
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[1::3] == ["resume", "reload", "restart"]


@pytest.mark.parametrize("url", ["unix:///nowhere", "redis://no.such.host.invalid", "nonsense", "silent"])
def test_a_broker_that_is_away_is_no_error_and_takes_no_time(directory: Path, url: str) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(directory / "silent.sock"))
        silent.listen()
        place = f"unix://{directory}/silent.sock" if url == "silent" else url

        began_s = time.monotonic()
        answer = ask("bash", "boilerd enqueue em", url=place)
        took_s = time.monotonic() - began_s

    assert answer == []
    assert took_s < 5  # a look-up or a connection that is waited for takes longer


@pytest.mark.parametrize("line", ["boilerd enqueue 'em", "boilerd no-such-command ", "boilerd enqueue --queue", ""])
def test_a_line_that_cannot_be_read_is_no_error(line: str) -> None:
    ask("bash", line, url="unix:///nowhere")


def test_a_setting_that_is_wrong_is_no_error() -> None:
    assert ask("bash", "boilerd enqueue em", url="unix:///nowhere", BOILERD_CONCURRENCY="many") == []


def test_foreign_names_in_the_broker_are_left_out(valkey: Valkey, broker: Broker) -> None:
    broker.connection.sadd(keys.QUEUES, keys.queue("mails"), keys.queue("m\x1b[31m"), keys.queue("m y"), b"\xff")

    assert ask("bash", "boilerd queue show m", valkey) == ["mails"]


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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    env = clean_environment(_BOILERD_COMPLETE=f"{shell}_source")

    done = subprocess.run([sys.executable, "-m", "boilerd"], env=env, capture_output=True, text=True, check=True)

    assert f"_BOILERD_COMPLETE={shell}_complete" in done.stdout
