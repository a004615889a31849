"""Lifespans and hooks in a daemon: what runs where, at every kind of start and end."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from boilerd import Client, Inspector
from support import RunningDaemon, StartDaemon, wait_until

#: Files say how the next start goes; a line of the log says what ran.
APP = """
import asyncio, logging, os, sys, threading, time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from boilerd import ServeMux

mux = ServeMux()
log = logging.getLogger("app")

def obey(place, worker=None):
    if Path(place).exists():
        exec(Path(place).read_text())

@mux.on_daemon_start
def daemon_start():
    log.info("daemon starts")
    obey("on_daemon_start")

@mux.before_fork
def before_fork():
    log.info("forks")
    obey("on_fork")

@mux.lifespan
@contextmanager
def plain(worker):
    log.info("entered", extra={"number": worker.number})
    obey("on_enter", worker)
    try:
        yield {"plain": os.getpid()}
    finally:
        log.info("left", extra={"number": worker.number})
        obey("on_leave")

@mux.lifespan
@asynccontextmanager
async def asynchronous(worker):
    if Path("on_async_enter").exists():
        try:
            await asyncio.sleep(600)
        finally:
            log.info("cancelled")
    async with asyncio.TaskGroup():
        yield {"loop": asyncio.get_running_loop()}

@mux.on_drain
def drain(worker):
    log.info("drains")
    obey("on_drain")

@mux.error_handler
def error_handler(task, error):
    log.info("told", extra={"state": sorted(task.state)})

@mux.handle("life:state")
def state(task):
    assert task.state["plain"] == os.getpid()
    return sorted(task.state)

@mux.handle("life:loop")
async def loop(task):
    assert task.state["loop"] is asyncio.get_running_loop()

@mux.handle("life:surroundings")
def surroundings(task):
    os.environ["OF_A_TASK"] = "1"
    return [os.environ.get("OF_A_LIFESPAN"), os.getcwd()]

@mux.handle("life:sleep")
def sleep(task):
    time.sleep(task.payload)

@mux.handle("life:until_told")
def until_told(task):
    while not Path("go").exists():
        time.sleep(0.01)

@mux.handle("life:fail")
def fail(task):
    raise ValueError("as told")
"""
TIMES = {"BOILERD_START_TIMEOUT": "20", "BOILERD_STOP_TIMEOUT": "5"}


@pytest.fixture
def start(start_daemon: StartDaemon, directory: Path) -> Callable[..., RunningDaemon]:
    (directory / "living.py").write_text(APP)

    def start(*flags: str, workers: int = 1, **env: str) -> RunningDaemon:
        env = {"BOILERD_APP": "living:mux", **TIMES, **env}
        return start_daemon("--concurrency", str(workers), *flags, directory=directory, env=env)

    return start


def order(daemon: RunningDaemon, *messages: str) -> list[str]:
    return [line["message"] for line in daemon.lines() if line["message"] in messages]


def test_hooks_run_in_their_order_and_lifespans_around_all_tasks_of_a_worker(
    start: Callable[..., RunningDaemon], client: Client
) -> None:
    daemon = start().ready()
    ids = [client.enqueue(name, retention=60).id for name in ("life:state", "life:loop", "life:loop")]
    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id)

    assert daemon.stop() == 0

    told = order(daemon, "daemon starts", "forks", "entered", "worker entered its lifespans", "drains", "left")
    assert told == [
        "daemon starts", *["forks"] * 3, "entered", "worker entered its lifespans", "drains", "left",
    ]  # fmt: skip
    assert {line["pid"] for line in daemon.lines("forks")} == {daemon.pid}
    assert not daemon.lines(level="error")


def test_a_hook_of_a_task_sees_the_state(start: Callable[..., RunningDaemon], client: Client) -> None:
    daemon = start().ready()

    client.enqueue("life:fail", max_retries=0)

    assert daemon.wait_for("told")["state"] == ["loop", "plain"]


def test_what_a_lifespan_sets_stays_but_for_what_is_the_workers(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_enter").write_text(
        "import logging.config, signal\nos.environ['OF_A_LIFESPAN'] = 'kept'\nos.chdir('/tmp')\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,"
        " 'root': {'level': 'ERROR', 'handlers': []}})"
    )
    daemon = start().ready()
    ids = [client.enqueue("life:surroundings", retention=60).id for _ in range(2)]
    for task_id in ids:
        daemon.wait_for("task completed", task_id=task_id)

    results = [Inspector(client.connection).task(task_id).result for task_id in ids]

    assert results == [["kept", "/tmp"]] * 2
    daemon.cli("restart", "worker:0")
    daemon.wait_for("worker entered its lifespans", count=2)
    assert daemon.stop() == 0  # before another task has put the signal handlers back
    assert len(daemon.lines("left")) == 2


def end_by_drain(daemon: RunningDaemon, client: Client) -> None:
    assert daemon.stop() == 0


def end_by_term(daemon: RunningDaemon, client: Client) -> None:
    daemon.kill("worker:1", signal.SIGTERM)


def end_by_restart(daemon: RunningDaemon, client: Client) -> None:
    assert daemon.cli("restart", "worker:1").returncode == 0


def end_by_scaling(daemon: RunningDaemon, client: Client) -> None:
    assert daemon.cli("scale", "1").returncode == 0


def end_by_reload(daemon: RunningDaemon, client: Client) -> None:
    assert daemon.cli("reload").returncode == 0


def end_of_supervisor(daemon: RunningDaemon, client: Client) -> None:
    daemon.process.kill()
    daemon.process.wait()


@pytest.mark.parametrize(
    "end", [end_by_drain, end_by_term, end_by_restart, end_by_scaling, end_by_reload, end_of_supervisor]
)
def test_lifespans_are_left_at_every_end(
    start: Callable[..., RunningDaemon], client: Client, end: Callable[[RunningDaemon, Client], None]
) -> None:
    daemon = start(workers=2).ready()

    end(daemon, client)

    wait_until(lambda: daemon.lines("left", number=1), "the worker left its lifespans")
    assert len(daemon.lines("left", number=1)) == 1
    assert not daemon.lines(level="error")


@pytest.mark.parametrize("limit", ["BOILERD_MAX_TASKS", "BOILERD_MAX_MEMORY"])
def test_recycled_workers_enter_and_leave_as_often(
    start: Callable[..., RunningDaemon], client: Client, limit: str
) -> None:
    daemon = start(**{limit: "1"}).ready()
    for _ in range(4):
        client.enqueue("life:state")
    daemon.wait_for("worker recycled", count=4)

    assert daemon.stop() == 0

    assert len(daemon.lines("entered")) == len(daemon.lines("left")) >= 4
    assert not daemon.lines(level="error")


def test_a_burst_enters_and_leaves(start: Callable[..., RunningDaemon], client: Client) -> None:
    client.enqueue("life:state")
    daemon = start("--burst", workers=2)

    assert daemon.wait() == 0

    assert len(daemon.lines("task completed")) == 1
    assert len(daemon.lines("entered")) == len(daemon.lines("left")) == 2


def test_the_last_outcome_is_written_before_the_lifespans_are_left(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_leave").write_text("os._exit(9)")
    daemon = start(BOILERD_MAX_TASKS="1").ready()
    task_id = client.enqueue("life:state", retention=60).id

    daemon.wait_for("process died", exit="exit status 9")

    daemon.wait_for("entered", count=2)
    assert daemon.cli("task", "show", task_id).stdout.count("completed")


@pytest.mark.parametrize("text", ["raise RuntimeError('no database')", "sys.exit('no database')"])
def test_a_start_that_always_fails_ends_the_daemon_with_status_1_and_the_error(
    start: Callable[..., RunningDaemon], directory: Path, text: str
) -> None:
    (directory / "on_enter").write_text(text)
    daemon = start(workers=2)

    assert daemon.wait() == 1

    assert "no worker has started: " in daemon.errors()
    assert "no database, 3 times" in daemon.errors()
    told = daemon.lines("worker did not start")[0]
    assert "no database" in told["error"]
    assert "living.py" in told["traceback"]
    assert not daemon.lines("left")


def test_a_start_that_fails_first_is_tried_again_and_told_meanwhile(
    start: Callable[..., RunningDaemon], directory: Path
) -> None:
    (directory / "on_enter").write_text("if worker.number: raise RuntimeError('no \\x1b[1m database')")
    daemon = start(workers=2)
    daemon.wait_for("process crashed at start, trying again", count=2)
    health, status = daemon.cli("health"), daemon.cli("status")
    (directory / "on_enter").unlink()

    daemon.serving()

    assert health.returncode == 1
    assert "worker:1" in health.stdout
    assert "starting failed: RuntimeError: no" in health.stdout
    assert "starting failed: RuntimeError: no" in status.stdout
    # Where it crashed too often meanwhile, the daemon is ready without it, and tries it again some seconds later.
    wait_until(lambda: daemon.cli("health").stdout == "ok\n", "all is well")
    assert "failed" not in daemon.cli("status").stdout


def test_a_worker_that_fails_at_recycling_never_ends_the_daemon(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    daemon = start(BOILERD_MAX_TASKS="1", BOILERD_START_TIMEOUT="3").ready()
    # Longer than Supervisor waits until it takes a process for one that has started.
    (directory / "on_enter").write_text("time.sleep(1.1); raise RuntimeError('gone')")
    client.enqueue("life:state")
    daemon.wait_for("process crashed at start, trying again", tries=2)
    health = daemon.cli("health")
    (directory / "on_enter").unlink()

    client.enqueue("life:state")

    daemon.wait_for("task completed", count=2)
    assert "starting failed: RuntimeError: gone, " in health.stdout


@pytest.mark.parametrize(
    ("place", "text"), [("on_enter", "time.sleep(600)"), ("on_async_enter", "")], ids=["plain", "async"]
)
def test_a_start_that_hangs_is_ended_after_start_timeout_and_what_it_entered_is_left(
    start: Callable[..., RunningDaemon], directory: Path, place: str, text: str
) -> None:
    (directory / place).write_text(text)
    daemon = start(BOILERD_START_TIMEOUT="1")

    assert daemon.wait() == 1

    assert "TimeoutError: lifespans took longer than start_timeout, 1 s" in daemon.errors()
    told = order(daemon, "cancelled", "left")
    assert told == ["cancelled", "left"] * len(daemon.lines("left"))
    assert bool(told) == (place == "on_async_enter")


def test_a_start_that_ignores_its_limit_is_given_up(start: Callable[..., RunningDaemon], directory: Path) -> None:
    (directory / "on_enter").write_text("while True:\n  try: time.sleep(60)\n  except Exception: pass")
    daemon = start(BOILERD_START_TIMEOUT="0.7", BOILERD_STOP_TIMEOUT="0.2")

    assert daemon.wait() == 1

    assert "lifespans ignored start_timeout" in daemon.errors()


def test_a_start_that_takes_long_is_no_hang_and_health_tells_of_it(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    daemon = start(workers=2).ready()
    (directory / "on_enter").write_text("while not Path('go').exists(): time.sleep(0.05)")
    daemon.cli("restart", "worker:1")
    told = "worker:1: does not serve, it enters its lifespans\n"
    wait_until(lambda: daemon.cli("health").stdout == told, "it is told")
    (directory / "go").touch()

    daemon.wait_for("worker entered its lifespans", count=3)

    wait_until(lambda: daemon.cli("health").stdout == "ok\n", "all is well")


@pytest.mark.parametrize("place", ["on_enter", "on_async_enter"])
def test_a_term_during_a_start_ends_it_at_once(
    start: Callable[..., RunningDaemon], directory: Path, place: str
) -> None:
    (directory / place).write_text("time.sleep(600)")
    daemon = start(BOILERD_SHUTDOWN_TIMEOUT="600")
    daemon.wait_for("entered")

    assert daemon.stop() == 0

    assert not daemon.lines(level="error")
    assert not daemon.lines("drains")


def test_an_end_that_fails_is_told_and_tasks_stay_done(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_leave").write_text("raise RuntimeError('cannot flush')")
    daemon = start(BOILERD_MAX_TASKS="1").ready()
    client.enqueue("life:state")

    told = daemon.wait_for("worker left its lifespans with an error")
    died = daemon.wait_for("process died")

    assert "cannot flush" in told["error"]
    assert died["exit"] == "exit status 1"
    daemon.wait_for("entered", count=2)
    assert len(daemon.lines("task completed")) == 1
    assert not daemon.lines("task failed")


def test_a_burst_ends_although_its_end_fails(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_leave").write_text("raise RuntimeError('cannot flush')")
    client.enqueue("life:state")

    assert start("--burst").wait() == 0


@pytest.mark.parametrize("text", ["time.sleep(600)", "while True:\n  try: time.sleep(60)\n  except Exception: pass"])
def test_an_end_that_hangs_gets_stop_timeout(
    start: Callable[..., RunningDaemon], client: Client, directory: Path, text: str
) -> None:
    (directory / "on_leave").write_text(text)
    daemon = start(BOILERD_STOP_TIMEOUT="0.2", BOILERD_MAX_TASKS="1").ready()
    client.enqueue("life:state")

    daemon.wait_for("entered", count=2)

    assert daemon.lines("worker left its lifespans with an error") or daemon.lines("worker ends in its lifespans")
    assert daemon.lines("process died", exit="exit status 1")


#: What an application's own logging may do to the daemon's.
SILENCE = """
import logging.config
logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True, 'root': {'level': 60, 'handlers': []}})
raise RuntimeError('as told')
"""


def test_why_a_lifespan_that_silences_the_log_fails_is_told_all_the_same(
    start: Callable[..., RunningDaemon], directory: Path
) -> None:
    (directory / "on_leave").write_text(SILENCE)
    daemon = start().ready()
    daemon.cli("restart")
    daemon.wait_for("worker left its lifespans with an error", error="RuntimeError: as told")
    (directory / "on_enter").write_text(SILENCE)

    daemon.cli("restart")

    daemon.wait_for("worker did not start", error="RuntimeError: as told")


def test_an_end_that_hangs_is_interrupted_before_the_drain_kills_it(
    start: Callable[..., RunningDaemon], directory: Path
) -> None:
    (directory / "on_leave").write_text("time.sleep(600)")
    daemon = start(BOILERD_STOP_TIMEOUT="60", BOILERD_SHUTDOWN_TIMEOUT="0.2").ready()

    assert daemon.stop() == 0

    told = daemon.lines("worker left its lifespans with an error")
    assert ["longer to leave than 2 s" in line["error"] for line in told] == [True]


def test_lifespans_get_time_to_leave_where_a_task_used_up_the_drain(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_leave").write_text("time.sleep(0.3); log.info('flushed')")
    daemon = start(BOILERD_SHUTDOWN_TIMEOUT="0.2").ready()
    task_id = client.enqueue("life:sleep", 600).id
    daemon.wait_for("task started", task_id=task_id)

    assert daemon.stop() == 0

    assert daemon.lines("task released, it will run again")
    assert daemon.lines("flushed")
    assert client.connection.lrange("rq:queue:default", 0, -1) == [task_id.encode()]


def test_a_worker_that_leaves_its_lifespans_already_drains_no_more(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    (directory / "on_leave").write_text("while not Path('go').exists(): time.sleep(0.02)")
    daemon = start(BOILERD_MAX_TASKS="1", BOILERD_STOP_TIMEOUT="30", BOILERD_SHUTDOWN_TIMEOUT="30").ready()
    client.enqueue("life:state")
    daemon.wait_for("left")

    daemon.signal(signal.SIGTERM)
    daemon.wait_for("worker stopped accepting new tasks")
    (directory / "go").touch()

    assert daemon.wait() == 0
    assert not daemon.lines("drains")
    assert not daemon.lines(level="error")


@pytest.mark.parametrize("text", ["raise RuntimeError('as told')", "sys.exit('as told')"])
def test_on_drain_runs_while_the_task_does_and_what_it_raises_is_told(
    start: Callable[..., RunningDaemon], client: Client, directory: Path, text: str
) -> None:
    (directory / "on_drain").write_text(text)
    daemon = start(BOILERD_SHUTDOWN_TIMEOUT="20").ready()
    task_id = client.enqueue("life:until_told").id
    daemon.wait_for("task started", task_id=task_id)

    daemon.signal(signal.SIGTERM)
    daemon.wait_for("on_drain raised")
    (directory / "go").touch()

    assert daemon.wait() == 0
    told = order(daemon, "task started", "drains", "on_drain raised", "task completed", "left")
    assert told == ["task started", "drains", "on_drain raised", "task completed", "left"]


#: A file that its hook obeys → how the hook is told.
DAEMON_HOOKS = {"on_daemon_start": "on_daemon_start daemon_start", "on_fork": "before_fork before_fork"}


@pytest.mark.parametrize("place", DAEMON_HOOKS)
def test_a_daemon_whose_start_hook_fails_does_not_start_and_shows_where(
    start: Callable[..., RunningDaemon], directory: Path, place: str
) -> None:
    (directory / place).write_text("raise RuntimeError('no licence')")
    daemon = start()

    assert daemon.wait() == 3

    assert f"{DAEMON_HOOKS[place]} failed: RuntimeError: no licence" in daemon.errors()
    assert "living.py" in daemon.errors()
    assert len(daemon.lines("forks")) == (place == "on_fork")
    assert not daemon.lines("entered")


@pytest.mark.parametrize("place", DAEMON_HOOKS)
def test_a_reload_whose_start_hook_fails_is_refused(
    start: Callable[..., RunningDaemon], directory: Path, place: str
) -> None:
    daemon = start().ready()
    (directory / place).write_text("raise RuntimeError('no licence')")

    done = daemon.cli("reload")

    assert done.returncode == 1
    assert f"reload refused: {DAEMON_HOOKS[place]} failed: RuntimeError: no licence" in done.stderr
    assert daemon.info()["state"] == "ready"
    assert not daemon.lines("left")


def test_a_reloaded_daemon_whose_workers_do_not_start_goes_on_trying(
    start: Callable[..., RunningDaemon], client: Client, directory: Path
) -> None:
    daemon = start(BOILERD_START_TIMEOUT="1").ready()
    (directory / "on_enter").write_text("raise RuntimeError('gone')")
    daemon.cli("reload", "--no-wait")
    daemon.wait_for("worker did not start", count=2)  # a start would have been given up after one, its time being over
    health = daemon.cli("health")
    (directory / "on_enter").unlink()

    client.enqueue("life:state")

    daemon.wait_for("task completed")
    assert health.returncode == 1
    assert "starting failed: RuntimeError: gone" in health.stdout


def test_threads_that_a_start_hook_leaves_are_told_of_by_name(
    start: Callable[..., RunningDaemon], directory: Path
) -> None:
    (directory / "on_daemon_start").write_text(
        "threading.Thread(target=time.sleep, args=(600,), name='exporter', daemon=True).start()"
    )

    told = start().wait_for("threads are alive after on_daemon_start")

    assert told["threads"] == ["exporter"]
    assert "mux.lifespan" in told["hint"]


def test_a_slow_hook_before_a_fork_is_told_of(start: Callable[..., RunningDaemon], directory: Path) -> None:
    (directory / "on_fork").write_text("time.sleep(0.15)")

    assert start().wait_for("before_fork is slow")["seconds"] >= 0.15


@pytest.mark.parametrize("error", [RuntimeError("still open"), SystemExit("still open")], ids=repr)
def test_nothing_is_forked_while_the_hook_before_it_fails(
    start: Callable[..., RunningDaemon], client: Client, directory: Path, error: BaseException
) -> None:
    daemon = start(BOILERD_MAX_TASKS="1").ready()
    (directory / "on_fork").write_text(f"raise {error!r}")
    client.enqueue("life:state")
    told = daemon.wait_for("process could not be started, trying again")
    (directory / "on_fork").unlink()

    client.enqueue("life:state")

    daemon.wait_for("task completed", count=2)
    assert f"before_fork before_fork failed: {type(error).__name__}: still open" in told["error"]


def test_connections_that_a_hook_closes_before_the_fork_are_not_told_of(
    start_daemon: StartDaemon, directory: Path
) -> None:
    opens = """
import os, socket
from boilerd import ServeMux
mux = ServeMux()
kept = socket.socket(socket.AF_UNIX)
kept.connect(os.environ["BOILERD_REDIS_URL"].removeprefix("unix://"))
"""
    (directory / "closing.py").write_text(f"{opens}mux.before_fork(kept.close)\n")
    daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "closing:mux"}).ready()

    assert not daemon.lines("connections that the import opened are shared by all workers")


def test_a_killed_worker_leaves_nothing_and_its_successor_enters(
    start: Callable[..., RunningDaemon], client: Client
) -> None:
    daemon = start().ready()
    task_id = client.enqueue("life:sleep", 600).id
    daemon.wait_for("task started", task_id=task_id)

    daemon.kill("worker:0")

    daemon.wait_for("entered", count=2)
    assert not daemon.lines("left")
    # Before its lifespans, which may take their time, it settles what the other one held.
    told = order(daemon, "told", "entered")
    assert told == ["entered", "told", "entered"]
