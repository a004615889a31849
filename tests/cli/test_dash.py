"""``boilerd dash``, driven in a real terminal: the screens as text, the keys with what they do."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import redis

from boilerd import Client, Inspector, QueueDetail, TaskProgress, TaskState
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.cli.dash.state import PAGE, State, View
from boilerd.cli.dash.views import sparkline
from builders import claim, fail, in_state
from support import DEADLINE_S, StartDaemon, StartValkey, Valkey, clean_environment, wait_until


class Terminal:
    """A tmux of the test's own, with a command in it."""

    def __init__(self, directory: Path, *words: str, width: int = 80, height: int = 24) -> None:
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        command = f"trap : INT; {' '.join(words)}; echo ended with $?; cat"  # Ctrl-C reaches the shell as well
        env = clean_environment(LC_ALL="C.UTF-8", SHELL="/bin/sh")
        size = ["-x", str(width), "-y", str(height)]
        self.run("new-session", "-d", *size, command, env=env)

    def run(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words], env=env, capture_output=True, text=True, check=True, timeout=DEADLINE_S
        )
        return done.stdout

    def screen(self) -> str:
        return self.run("capture-pane", "-p")

    def press(self, *names: str) -> None:
        self.run("send-keys", *names)

    def wait_for(self, *texts: str) -> str:
        """The screen, once it shows all these."""
        try:
            return wait_until(
                lambda: shown if all(text in (shown := self.screen()) for text in texts) else "", str(texts)
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen()}") from None

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def start_dash(valkey: Valkey, directory: Path) -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(url: str = valkey.url, *, words: tuple[str, ...] = (), **size: int) -> Terminal:
        words = (*words, sys.executable, "-m", "boilerd", "dash", "--refresh", "0.2", "--redis-url", url)
        started.append(Terminal(directory, *words, **size))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


StartDash = Callable[..., Terminal]


def test_the_first_screen_shows_queues_and_running_tasks(
    start_dash: StartDash, start_daemon: StartDaemon, client: Client
) -> None:
    daemon = start_daemon("--concurrency", "2").ready()
    running = client.enqueue("test:sleep", 30).id
    client.enqueue("test:echo", process_in=3600, queue="low")
    daemon.wait_for("task started", task_id=running)

    screen = start_dash().wait_for("QUEUE", "2 workers, 1 busy", f"test:sleep {running}")

    lines = {line.split()[0]: line.split()[1:5] for line in screen.splitlines() if line.split()}
    assert (lines["default"], lines["low"]) == (["0", "1", "0", "0"], ["0", "0", "1", "0"])
    assert "p pause/resume" in screen
    assert max(map(len, screen.splitlines())) <= 80


def test_it_follows_what_happens_with_a_sparkline(
    start_dash: StartDash, start_daemon: StartDaemon, client: Client
) -> None:
    start_daemon("--concurrency", "1").ready()
    client.enqueue("test:echo")
    dash = start_dash()
    dash.wait_for("default", "0/s")

    client.enqueue_many([("test:echo", n) for n in range(2000)])

    dash.wait_for("█")


def test_p_pauses_and_resumes_the_chosen_queue(start_dash: StartDash, client: Client, connection: redis.Redis) -> None:
    for queue in ("critical", "default"):
        client.enqueue("test:echo", queue=queue)
    dash = start_dash()
    dash.wait_for("critical", "default")

    dash.press("Down", "p")
    dash.wait_for("default (paused)", "queue default paused")
    assert connection.smembers(keys.PAUSED) == {b"default"}
    dash.press("p")
    dash.wait_for("queue default resumed")
    assert connection.scard(keys.PAUSED) == 0
    assert [(entry.via, entry.what) for entry in Inspector(connection).audit()] == [
        ("dash", "pause"),
        ("dash", "resume"),
    ]


def test_one_gets_from_a_queue_to_a_task_to_its_error_and_back(
    start_dash: StartDash, client: Client, broker: Broker
) -> None:
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    dash = start_dash()
    dash.wait_for("QUEUE", "default")

    dash.press("Enter")
    dash.wait_for("pending  active  scheduled  retry  completed  archived", "no such tasks")
    dash.press("Left")
    dash.wait_for(task_id, "ValueError")
    dash.press("Enter")
    dash.wait_for(f"task        {task_id}", "state       archived", "attempt 1: failed", "  ValueError: bad")
    dash.press("Escape")
    dash.wait_for("page 1")
    dash.press("q")
    dash.wait_for("QUEUE")
    dash.press("q")
    dash.wait_for("ended with 0")


def test_the_screen_of_a_running_task_follows_what_it_writes(
    start_dash: StartDash, client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo")
    held = claim(broker)
    dash = start_dash()
    dash.wait_for("QUEUE", "default")

    dash.press("Enter")
    dash.wait_for("no such tasks")
    dash.press("Right")
    dash.wait_for("page 1")
    dash.press("Enter")
    dash.wait_for("state       active")
    broker.write_result(held, b'"half"')
    dash.wait_for('result      "half"')
    broker.write_progress(held, TaskProgress(1, 2))
    dash.wait_for("progress    1 of 2 (50 %)")


@pytest.mark.parametrize(
    ("state", "key", "told", "after"),
    [
        (TaskState.ARCHIVED, "r", "runs now", TaskState.PENDING),
        (TaskState.SCHEDULED, "r", "runs now", TaskState.PENDING),
        (TaskState.PENDING, "a", "archived", TaskState.ARCHIVED),
        (TaskState.COMPLETED, "r", "cannot run a task that is completed", TaskState.COMPLETED),
    ],
)
def test_keys_change_the_chosen_task(  # noqa: PLR0917 - a row of the table
    start_dash: StartDash, client: Client, broker: Broker, state: TaskState, key: str, told: str, after: TaskState
) -> None:
    task_id = in_state(client, broker, state)
    dash = start_dash()
    dash.wait_for("default")
    dash.press("Enter", *["Right"] * [*TaskState].index(state))
    dash.wait_for(task_id)

    dash.press(key)

    dash.wait_for(told)  # which may be the name of a state, that is there already
    wait_until(lambda: Inspector(client.connection).task(task_id).state is after, f"it is {after}")


@pytest.mark.parametrize(("key", "question"), [("d", "Delete task"), ("c", "Cancel task")])
def test_what_destroys_is_asked_about(
    start_dash: StartDash, client: Client, connection: redis.Redis, key: str, question: str
) -> None:
    task_id = client.enqueue("test:echo").id
    dash = start_dash()
    dash.wait_for("default")
    dash.press("Enter")
    dash.wait_for(task_id)

    dash.press(key)
    dash.wait_for(f"{question} {task_id}? y/n")
    dash.press("n")
    wait_until(lambda: "y/n" not in dash.screen(), "the question has gone")
    assert connection.exists(keys.job(task_id))
    dash.press(key, "y")

    dash.wait_for("no such tasks")
    assert not connection.exists(keys.job(task_id))


def test_pages_are_turned(start_dash: StartDash, client: Client) -> None:
    ids = [client.enqueue("test:echo", task_id=f"task-{n:03}").id for n in range(PAGE + 2)]
    dash = start_dash()
    dash.wait_for("default")
    dash.press("Enter")
    first = dash.wait_for(ids[0], "page 1")

    dash.press("n")
    second = dash.wait_for(ids[-1], "page 2")
    dash.press("n", "b")
    dash.wait_for(ids[0], "page 1")

    assert [task_id in first for task_id in ids] == [True] * PAGE + [False] * 2
    assert [task_id in second for task_id in ids] == [False] * PAGE + [True] * 2


def test_a_long_error_is_scrolled(start_dash: StartDash, client: Client, broker: Broker) -> None:
    task_id = client.enqueue("test:echo").id
    fail(broker, claim(broker), traceback="\n".join(f"line {n:02}" for n in range(40)))
    dash = start_dash()
    dash.wait_for("default")
    dash.press("Enter", "Left")
    dash.wait_for(task_id)
    dash.press("Enter")
    top = dash.wait_for("line 00")

    dash.press(*["Down"] * 60)
    end = dash.wait_for("line 39")
    dash.press(*["Up"] * 60)
    dash.wait_for("line 00")

    assert "line 39" not in top
    assert "line 00" not in end
    assert "scroll" in end


def test_the_help_lists_the_keys(start_dash: StartDash, client: Client) -> None:
    client.enqueue("test:echo")
    dash = start_dash()
    dash.wait_for("default")

    dash.press("?")
    dash.wait_for("archive the task", "pause or resume the queue", "any key goes back")
    dash.press("x")

    dash.wait_for("QUEUE")


def test_an_outage_is_told_and_the_picture_stays_until_it_is_over(
    start_dash: StartDash, start_valkey: StartValkey
) -> None:
    server = start_valkey("--appendonly", "yes", "--appendfsync", "always")
    with Client.from_url(server.url) as client:
        client.enqueue("test:echo", queue="low")
    dash = start_dash(server.url)
    dash.wait_for("low")

    server.stop()
    dash.wait_for("Redis did not answer", "low")
    server.start()

    wait_until(lambda: "did not answer" not in dash.screen(), "it is over")
    dash.wait_for("QUEUE", "low")


def test_a_task_that_goes_away_leads_back_to_the_list(
    start_dash: StartDash, client: Client, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo").id
    dash = start_dash()
    dash.wait_for("default")
    dash.press("Enter")
    dash.wait_for(task_id)
    dash.press("Enter")
    dash.wait_for(f"task        {task_id}")

    Inspector(connection).delete(task_id)

    dash.wait_for("does not exist", "no such tasks")


def test_a_queue_that_goes_away_while_all_are_looked_at_does_not_end_it(
    client: Client, connection: redis.Redis
) -> None:
    class Slow(Inspector):
        def queue_details(self, only: Iterable[str] | None = None) -> list[QueueDetail]:
            found = super().queue_details(only)
            connection.srem(keys.QUEUES, keys.queue("default"))
            return found

    client.enqueue("test:echo")
    state = State(Slow(connection), client.cancel)

    state.refresh()
    told = state.message
    state.refresh()

    assert told == ""
    assert (state.is_over, state.view, state.queues) == (False, View.QUEUES, [])


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (200, 50)])
def test_it_fits_any_terminal(start_dash: StartDash, client: Client, broker: Broker, width: int, height: int) -> None:
    for number in range(60):
        client.enqueue("test:echo", queue=f"queue-{number:02}")
    dash = start_dash(width=width, height=height)

    screen = dash.wait_for("QUEUE", "queue-00", "workers")
    dash.press(*["Down"] * 59)
    dash.wait_for("queue-59")

    assert "boilerd" in screen.splitlines()[0]
    assert max(map(len, screen.splitlines())) <= width


def test_control_c_ends_it_and_leaves_the_terminal_as_it_was(start_dash: StartDash, client: Client) -> None:
    client.enqueue("test:echo")
    dash = start_dash()
    dash.wait_for("default")

    dash.press("C-c")

    dash.wait_for("ended with 0")
    dash.press("e", "c", "h", "o", "Enter")
    dash.wait_for("echo\necho")  # the terminal shows what is typed, and `cat` repeats the line


def test_a_term_ends_it_and_leaves_the_terminal_as_it_was(
    start_dash: StartDash, client: Client, directory: Path
) -> None:
    client.enqueue("test:echo")
    dash = start_dash(words=("echo", "before;", "sh", "-c", f"'echo $$ >{directory}/pid; exec $0 $*'"))
    dash.wait_for("default")
    assert "before" not in dash.screen()

    os.kill(int((directory / "pid").read_text()), signal.SIGTERM)

    dash.wait_for("before", "ended with 0")


def test_a_dumb_terminal_is_told_what_would_do(valkey: Valkey) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "boilerd", "dash", "--redis-url", valkey.url],
        env=clean_environment(TERM="dumb"), stdin=slave, stdout=slave, stderr=subprocess.PIPE,
        text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    os.close(master)
    os.close(slave)

    assert done.returncode == 2
    assert "dash needs a terminal" in done.stderr


def test_without_a_terminal_it_says_what_would_do(valkey: Valkey) -> None:
    words = [sys.executable, "-m", "boilerd", "dash", "--redis-url", valkey.url]
    done = subprocess.run(
        words, env=clean_environment(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )

    assert done.returncode == 2
    assert "dash needs a terminal" in done.stderr


@pytest.mark.parametrize(
    ("values", "bars"), [([], ""), ([0.0, 0.0], "  "), ([1.0], "█"), ([0.0, 5.0, 10.0], " ▄█"), ([8, 1, 2], "█▁▂")]
)
def test_a_sparkline_is_scaled_to_its_highest_value(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars
