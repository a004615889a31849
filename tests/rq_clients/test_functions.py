"""Jobs of plain RQ's clients run where the settings name their functions, and nowhere else."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.results import Result

from boilerd import Client, ForbiddenJobError, Inspector, InvalidPayloadError, RetryLater, Task
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.connection import connect
from boilerd.entry_point import ENTRY_POINT
from boilerd.errors import AppImportError, ConfigError, describe
from boilerd.settings.loading import load
from boilerd.tasks.loading import load_app
from boilerd.tasks.retry import RetryPolicy
from boilerd.tasks.rq_functions import Functions
from boilerd.worker.settlement import Rules
from builders import rq_queue
from support import RunningDaemon, StartDaemon, own_daemon, wait_until


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that calls functions, with a Valkey of its own; the tests share it."""
    with own_daemon("--concurrency", "2", "--rq-functions", "rq_jobs.*,rq_jobs.Mailer.send") as made:
        yield made


@pytest.fixture
def served(daemon: RunningDaemon) -> Iterator[Queue]:
    """The queue of that daemon."""
    with connect(daemon.redis_url) as made:
        yield rq_queue(made)


def ended(job: Job) -> Result:
    """How its last attempt ended."""
    wait_until(lambda: job.get_status() in {"finished", "failed"}, f"{job.func_name} ended")
    found = job.latest_result()
    assert found is not None
    return found


def error_of(job: Job) -> str:
    assert ended(job).type is Result.Type.FAILED
    return str(job.connection.hget(job.key, "last_error"), "utf-8")  # type: ignore[arg-type]


def test_a_function_that_the_settings_name_is_called_with_the_jobs_arguments(
    daemon: RunningDaemon, served: Queue
) -> None:
    job = served.enqueue("rq_jobs.add", 1, second=2)

    assert ended(job).return_value == 3
    assert job.return_value(refresh=True) == 3
    line = daemon.wait_for("task completed", task_id=job.id)
    assert (line["task_type"], line["queue"], line["attempt"]) == ("rq_jobs.add", "default", 1)


def test_static_methods_and_async_functions_are_functions(daemon: RunningDaemon, served: Queue) -> None:
    jobs = [served.enqueue("rq_jobs.Mailer.send", "b@example.org"), served.enqueue("rq_jobs.wait", "well")]

    assert [ended(job).return_value for job in jobs] == ["to b@example.org", "well"]


def test_what_cannot_be_called_fails_and_stops_nobody(daemon: RunningDaemon, served: Queue) -> None:
    generator, missing, good = (
        served.enqueue(f"rq_jobs.{name}", *args) for name, *args in (["count"], ["missing"], ["add", 1])
    )

    assert "handler rq_functions rq_jobs.*, rq_jobs.Mailer.send returned a generator" in error_of(generator)
    assert "has no attribute 'missing'" in error_of(missing)
    assert ended(good).return_value == 1
    assert not daemon.lines("process died")


def test_each_function_finds_its_own_job_and_leaves_notes_there(daemon: RunningDaemon, served: Queue) -> None:
    jobs = [served.enqueue("rq_jobs.tell", progress=n) for n in range(4)]

    assert [ended(job).return_value for job in jobs] == [job.id for job in jobs]
    assert [job.get_meta() for job in jobs] == [{"progress": n} for n in range(4)]


def test_a_function_that_fails_is_not_tried_again_unless_its_job_says_so(daemon: RunningDaemon, served: Queue) -> None:
    once = served.enqueue("rq_jobs.fail")
    twice = served.enqueue("rq_jobs.fail", retry=Retry(max=2, interval=[0, 0]))

    assert error_of(once) == "RuntimeError: failed as told"
    assert error_of(twice) == "RuntimeError: failed as told"
    assert len(daemon.lines("task failed", task_id=once.id)) == 1
    assert len(daemon.lines("task failed", task_id=twice.id)) == 3


def test_a_function_that_returns_retry_is_called_again_as_often_as_it_says(
    daemon: RunningDaemon, served: Queue
) -> None:
    job = served.enqueue("rq_jobs.ask_again", 2)

    assert error_of(job) == "SkipRetry: it returned Retry(max=2, interval=0, enqueue_at_front=False) after 2 retries"
    assert len(daemon.lines("task failed", task_id=job.id)) == 3
    assert served.connection.hget(job.key, "number_of_retries") == b"2"


def test_a_function_that_returns_retry_is_told_by_a_name_that_users_know() -> None:
    task = Task("a", "rq_jobs.ask_again", {"args": [2], "kwargs": {}})

    with pytest.raises(RetryLater) as raised:
        Functions(["rq_jobs.*"])(task)

    assert describe(raised.value).startswith("RetryLater: it returned Retry(max=2, ")
    assert raised.value.counts


def test_a_function_that_returns_retry_says_when_it_is_called_again(daemon: RunningDaemon, served: Queue) -> None:
    job = served.enqueue("rq_jobs.ask_again", 2, interval=[3600, 1])

    daemon.wait_for("task will be retried", task_id=job.id)
    due = served.connection.zscore(keys.registry("scheduled", "default"), job.id)
    assert due is not None
    assert 3500 < due - served.connection.time()[0] <= 3601


def test_an_async_function_may_return_retry_as_well(daemon: RunningDaemon, served: Queue) -> None:
    job = served.enqueue("rq_jobs.ask_once")

    assert ended(job).return_value == "done"
    assert len(daemon.lines("task failed", task_id=job.id)) == 1


@pytest.mark.fault(33)
def test_what_a_module_only_imports_is_not_called_by_a_star(daemon: RunningDaemon, served: Queue) -> None:
    target = daemon.directory / "pwned"

    assert "is subprocess.run" in error_of(served.enqueue("rq_jobs.run", ["touch", str(target)]))
    assert not target.exists()


@pytest.mark.fault(33)
def test_a_star_stands_for_no_dots_and_nothing_else_is_imported(daemon: RunningDaemon, served: Queue) -> None:
    names = ["rq_jobs.asyncio.run", "rq_jobs.__builtins__.eval", "os.system", "apps.echo", "rq_jobsx.add"]
    jobs = [served.enqueue(name, "1") for name in names]

    assert [error_of(job) for job in jobs] == [
        f"ForbiddenJobError: function {name!r} is not a registered task; it was not imported" for name in names
    ]


@pytest.mark.fault(33)
def test_a_module_inside_of_a_package_is_not_imported_by_a_star(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = directory / "jobs_in_package"
    package.mkdir()
    (package / "__init__.py").write_text("def send(): return 'sent'")
    (package / "migrate.py").write_text("")
    monkeypatch.syspath_prepend(str(directory))
    functions = Functions(["jobs_in_package.*"])

    assert functions(Task("a", "jobs_in_package.send", {"args": [], "kwargs": {}})) == "sent"
    with pytest.raises(AttributeError, match="has no attribute 'migrate'"):
        functions(Task("a", "jobs_in_package.migrate", {"args": [], "kwargs": {}}))

    assert "jobs_in_package.migrate" not in sys.modules


@pytest.mark.fault(33)
def test_the_callbacks_of_a_function_that_is_called_are_not(daemon: RunningDaemon, served: Queue) -> None:
    callback = Callback("rq_jobs.leave_mark")
    good = served.enqueue("rq_jobs.add", 1, on_success=callback)
    bad = served.enqueue("rq_jobs.fail", on_failure=callback)

    assert ended(good).return_value == 1
    assert error_of(bad) == "RuntimeError: failed as told"
    assert not (daemon.directory / "called").exists()


def test_a_method_of_an_object_is_refused(daemon: RunningDaemon, served: Queue) -> None:
    job = served.enqueue("rq_jobs.add", 1)
    ended(job)
    served.connection.hset(job.key, mapping={"data": b'["rq_jobs.add","Mailer",[1],{}]', "status": "queued"})
    served.connection.delete(f"{keys.RQ}:results:{job.id}")
    served.connection.rpush(keys.queue("default"), job.id)

    wait_until(lambda: job.get_status() == "failed", "it was refused")
    assert "is a method of an object" in error_of(job)


def test_our_own_client_calls_functions_too(daemon: RunningDaemon, served: Queue) -> None:
    good = Client(served.connection).enqueue("rq_jobs.add", {"args": [1], "kwargs": {"second": 4}}, retention=60)
    broken = Client(served.connection).enqueue("rq_jobs.add", [1])

    daemon.wait_for("task completed", task_id=good.id)
    daemon.wait_for("task archived", task_id=broken.id)
    assert (
        b"InvalidPayloadError: arguments of a function: "
        in str(served.connection.hget(keys.job(broken.id), "last_error")).encode()
    )


def test_a_record_that_is_too_much_for_rq_keeps_no_function_from_running(daemon: RunningDaemon, served: Queue) -> None:
    job = served.enqueue_in(timedelta(hours=1), "rq_jobs.find_job")
    served.connection.hset(job.key, "created_at", "long ago")
    Inspector(served.connection).run(job.id)

    daemon.wait_for("task completed", task_id=job.id)
    assert not daemon.lines("process died")


def test_without_the_setting_no_function_is_called(broker: Broker, queue: Queue) -> None:
    queue.enqueue("rq_jobs.add", 1)
    (claim,) = broker.advance("host.run.0", ["default"]).claims

    assert Rules.of(load_app(None), RetryPolicy(), lambda handler: handler).task_of(claim) is None


@pytest.mark.parametrize("pattern", ["*", "jobs", "jobs.", "*.send", "a.*.send", "a b.c", "jobs.**", ".send", "a-b.c"])
def test_a_pattern_that_names_no_module_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load({"rq_functions": pattern}, environ={})

    assert str(raised.value) == (
        f"flag: rq_functions: {pattern!r} is not names of functions with their modules and a * at the end at most:"
        " myapp.jobs.send or myapp.jobs.*"
    )


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("no_such_module.*", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("rq_jobs.missing", "cannot be imported: AttributeError: module 'rq_jobs' has no attribute 'missing'"),
    ],
)
def test_a_pattern_of_what_is_not_there_ends_the_start(start_daemon: StartDaemon, pattern: str, why: str) -> None:
    daemon = start_daemon("--rq-functions", pattern)

    assert daemon.wait() == 3
    assert f"rq_functions {pattern!r} {why}" in daemon.errors()


def test_a_pattern_that_a_handler_has_already_is_refused() -> None:
    with pytest.raises(AppImportError, match=r"^rq_functions 'rq_jobs\.\*': .*'rq_jobs\.'"):
        load_app("apps:mux", ["rq_jobs.*", "rq_jobs.*"])


def test_a_function_that_one_pattern_names_is_not_hidden_by_another(start_daemon: StartDaemon, queue: Queue) -> None:
    start_daemon("--rq-functions", "rq_jobs.add,rq_jobs.*").ready()

    assert ended(queue.enqueue("rq_jobs.add_all", 1, 2, 3)).return_value == 6
    assert ended(queue.enqueue("rq_jobs.add", 1)).return_value == 1


def call(pattern: str, name: str, payload: Any) -> Any:
    return Functions([pattern])(Task("a", name, payload))


def test_a_function_by_name_may_be_from_anywhere() -> None:
    payload = {"args": [["true"]], "kwargs": {}}

    assert call("rq_jobs.run", "rq_jobs.run", payload).returncode == 0
    with pytest.raises(ForbiddenJobError, match=r"is subprocess\.run; name it in rq_functions, without a \*$"):
        call("rq_jobs.*", "rq_jobs.run", payload)
    with pytest.raises(ForbiddenJobError, match=r"is not one of rq_functions; it was not imported$"):
        call("rq_jobs.*", "rq_jobs.asyncio.run", payload)
    with pytest.raises(ForbiddenJobError, match="is not one of rq_functions"):
        call("rq_jobs.add", "rq_jobs.add_more", payload)


@pytest.mark.parametrize(
    "payload", [None, [1], {"args": [1]}, {"args": 1, "kwargs": {}}, {"args": [], "kwargs": [], "x": 1}]
)
def test_a_payload_that_holds_no_arguments_is_told(payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^arguments of a function: "):
        call("rq_jobs.*", "rq_jobs.add", payload)


def test_the_inspector_shows_a_job_by_its_function_and_with_rqs_retries(connection: redis.Redis, queue: Queue) -> None:
    queue.enqueue("rq_jobs.add", "one", "two", job_id="a")
    queue.enqueue("rq_jobs.add", 1, retry=Retry(max=2), result_ttl=-1, job_id="b")

    a, b = (Inspector(connection).task(task_id) for task_id in ("a", "b"))

    assert (a.type, a.payload, a.max_retries) == ("rq_jobs.add", {"args": ["one", "two"], "kwargs": {}}, 0)
    assert (b.type, b.max_retries) == ("rq_jobs.add", 2)
    assert (a.retention_s, b.retention_s) == (500, -1)


def test_the_inspector_shows_the_retention_that_a_claim_gives_a_task_of_rqs_client(
    connection: redis.Redis, queue: Queue
) -> None:
    queue.enqueue(ENTRY_POINT, "test:echo", None, job_id="a")

    shown = Inspector(connection).task("a")

    (claim,) = Broker(connection).advance("w", ["default"]).claims
    assert (shown.type, shown.retention_s) == ("test:echo", claim.retention_s) == ("test:echo", 500)
