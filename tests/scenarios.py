"""An application, and what may become of its tasks: run by a daemon, and by a drain.

A scenario enqueues, yields until all has run, and may go on; what it notes and what it makes of its tasks is compared.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from boilerd import BoilerdError, Client, RetryLater, RevokeTask, ServeMux, SkipRetry, Task, current_task, retry

mux = ServeMux()


class OddError(Exception):
    """What is no failure."""


@mux.use
def marked(handler: Any) -> Any:
    def run(task: Task) -> Any:
        return {"in middleware": True, "is": handler(task)}

    return run


@mux.is_failure
def is_failure(error: BaseException) -> bool:
    return not isinstance(error, OddError)


@mux.error_handler
def told(task: Task, error: BaseException) -> None:
    if task.type == "hook:told":
        error.args = (f"told of attempt {task.attempt}",)
    if task.type == "hook:broken":
        raise RuntimeError("a hook that fails")


def as_seen(task: Task) -> dict[str, Any]:
    return {"attempt": task.attempt, "runs": task.runs, "max_retries": task.max_retries, "queue": task.queue,
            "timeout": task.timeout_s, "payload": task.payload, "current": current_task().id == task.id}  # fmt: skip


@mux.handle("ok:plain")
def ok(task: Task) -> Any:
    return as_seen(task)


@mux.handle("ok:async")
async def ok_async(task: Task) -> Any:
    return as_seen(task)


@mux.handle("ok:odd")
def odd(task: Task) -> Any:
    return object()


@mux.handle("flaky")
@retry(base=0.01, max_retries=3)
def flaky(task: Task) -> Any:
    if task.attempt <= task.payload:
        raise ValueError(f"attempt {task.attempt}")
    return as_seen(task)


@mux.handle("flaky:async")
@retry(base=0.01, max_retries=3)
async def flaky_async(task: Task) -> Any:
    return flaky(task)


@mux.handle("listed")
@retry(base=0.01, retry_on=(OSError,), discard_on=(ConnectionError,))
def listed(task: Task) -> None:
    raise {"os": OSError, "connection": ConnectionError, "value": ValueError}[task.payload](task.attempt)


@mux.handle("asks")
@retry(base=0.01, max_retries=1)
def asks(task: Task) -> Any:
    if task.runs > 3:
        return as_seen(task)
    raise {"later": RetryLater(0.01), "skip": SkipRetry("no use"), "revoke": RevokeTask("not wanted"),
           "oddity": OddError(f"run {task.runs}"), "exit": SystemExit(3),
           "bytes": ValueError("\ud800 and " + "ä" * 3000),
           "group": ExceptionGroup("several", [ValueError("one"), SkipRetry("two")])}[task.payload]  # fmt: skip


@mux.handle("asks:async")
@retry(base=0.01, max_retries=1)
async def asks_async(task: Task) -> Any:
    return asks(task)


@mux.handle("hook:")
@retry(base=0.01, max_retries=1)
def hook(task: Task) -> None:
    raise ValueError("bad")


@dataclass
class Mail:
    to: str


@mux.handle("typed", payload=Mail)
@retry(base=0.01, max_retries=1)
def typed(task: Task) -> str:
    return f"to {task.payload.to}"


@mux.handle("heads")
@retry(base=0.01, max_retries=1)
def heads(task: Task) -> Any:
    if task.attempt == 1:
        raise ValueError("once more")
    return [dict(task.headers), task.request_id]


@mux.handle("writes")
@retry(max_retries=0)
def writes(task: Task) -> None:
    task.write_result({"half": 1})
    raise ValueError("the other half")


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    try:
        yield
        notes.append("stored")
    except BoilerdError as error:
        notes.append(type(error).__name__)


#: A client, and a list for notes.
Scenario = Callable[[Client, list[str]], Iterator[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def single(name: str, task_type: str, payload: Any = None, **options: Any) -> None:
    def run(client: Client, notes: list[str]) -> Iterator[None]:
        client.enqueue(task_type, payload, task_id=name, **options)
        yield

    SCENARIOS[name] = run


single("completes", "ok:plain", {"a": (1, 2)}, retention=60)
single("completes_and_goes", "ok:plain")
single("completes_on_a_loop", "ok:async", 1, retention=60, queue="low", timeout=7.2, max_retries=2)
single("returns_no_json", "ok:odd", retention=60)
single("completes_in_time", "ok:plain", deadline=datetime(2099, 1, 1, tzinfo=UTC), retention=60)
single("comes_too_late", "ok:plain", deadline=datetime(2001, 1, 1, tzinfo=UTC))
single("is_due_later", "ok:plain", process_in=0.05, retention=60)
single("recovers", "flaky", 2, retention=60)
single("recovers_on_a_loop", "flaky:async", 1, retention=60)
single("fails_for_good", "flaky", 9)
single("fails_at_once", "flaky", 9, max_retries=0)
single("has_retries_of_its_own", "flaky", 9, max_retries=1)
single("is_retried_on", "listed", "os", max_retries=2)
single("is_discarded_on", "listed", "connection")
single("is_not_retried_on", "listed", "value")
single("asks_for_later", "asks", "later", retention=60)
single("asks_for_no_retry", "asks", "skip")
single("revokes_itself", "asks", "revoke")
single("is_no_failure", "asks", "oddity", retention=60)
single("exits", "asks", "exit")
single("exits_on_a_loop", "asks:async", "exit")
single("says_what_is_no_text_and_too_much", "asks", "bytes")
single("raises_a_group", "asks", "group")
single("tells_a_hook", "hook:told")
single("survives_a_hook", "hook:broken")
single("fits_its_type", "typed", {"to": "ada", "more": 1}, retention=60)
single("does_not_fit_its_type", "typed", {"to": 1})
single("keeps_its_headers", "heads", headers={"request_id": "r-1", "tenant": "7"}, retention=60)
single("has_no_handler", "unknown:type", max_retries=0)
single("wrote_a_result", "writes", retention=60)
single("has_a_concurrency_key", "ok:plain", concurrency_key="k", concurrency_limit=2, retention=60)


def locked(name: str, task_type: str, payload: Any, until: str | None) -> None:
    def run(client: Client, notes: list[str]) -> Iterator[None]:
        options: dict[str, Any] = {"unique": 60, **({"unique_until": until} if until else {})}
        client.enqueue(task_type, [name, payload], task_id=name, process_in=0.02, **options)
        with noting(notes):
            client.enqueue(task_type, [name, payload], **options)
        yield
        with noting(notes):
            client.enqueue(task_type, [name, payload], task_id=f"{name}-2", **options)
        yield

    SCENARIOS[name] = run


@mux.handle("locked")
@retry(max_retries=0)
def locked_task(task: Task) -> None:
    if error := {"fail": ValueError("bad"), "revoke": RevokeTask()}.get(task.payload[1]):
        raise error


for ending in ("complete", "fail", "revoke"):
    for until in (None, "success", "end", "ttl"):
        locked(f"locked_until_{until}_{ending}", "locked", ending, until)


@scenario
def takes_an_id_twice(client: Client, notes: list[str]) -> Iterator[None]:
    for task_type, payload, options in (("ok:plain", 1, {}), ("ok:plain", 1, {"retention": 60}), ("flaky", 9, {})):
        client.enqueue(task_type, payload, task_id=f"twice-{len(notes)}", **options)  # type: ignore[arg-type]
        with noting(notes):
            client.enqueue("ok:plain", task_id=f"twice-{len(notes)}")
    yield
    for number in (0, 1, 2):
        with noting(notes):
            client.enqueue("ok:plain", task_id=f"twice-{number}", retention=60)
    yield


@scenario
def is_cancelled_while_it_waits(client: Client, notes: list[str]) -> Iterator[None]:
    client.enqueue("ok:plain", 7, task_id="waits", process_in=3600, unique=7200)
    notes.append(str(client.cancel("waits")))
    with noting(notes):
        client.cancel("waits")
    with noting(notes):
        client.enqueue("ok:plain", 7, task_id="waits", unique=7200, retention=60)
    yield
    notes.append(str(client.cancel("waits")))


@scenario
def is_due_at_a_moment(client: Client, notes: list[str]) -> Iterator[None]:
    past = datetime.now(UTC) - timedelta(hours=1)
    notes.append(client.enqueue("ok:plain", task_id="past", process_at=past, retention=60).state)
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    client.enqueue("ok:plain", task_id="soon", process_at=soon, retention=60)
    yield


#: Where tasks go.
QUEUES = ("default", "low")
ENDED: Any = object()
#: The tasks that are looked at.
TASK_IDS = [
    *SCENARIOS,
    *(f"{name}-2" for name in SCENARIOS),
    *(f"twice-{n}" for n in range(3)),
    "waits",
    "past",
    "soon",
]


def play(client: Client, settle: Callable[[], object]) -> dict[str, list[str]]:
    """Play all scenarios side by side; the notes of each."""
    notes: dict[str, list[str]] = {name: [] for name in SCENARIOS}
    running = {name: function(client, notes[name]) for name, function in SCENARIOS.items()}
    while running:
        running = {name: steps for name, steps in running.items() if next(steps, ENDED) is not ENDED}
        settle()
    return notes
