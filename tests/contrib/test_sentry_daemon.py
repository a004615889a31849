"""Sentry in daemons: what each process sends, with forks, retries, slots and deaths, and how a worker ends."""

import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk

from boilerd import Client
from boilerd.contrib import sentry
from sentry_files import DSN, FileTransport, Item, read_items
from support import RunningDaemon, StartDaemon, Valkey, private_directory, wait_until

CROWD = 5


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RunningDaemon, Valkey]]:
    """One daemon for most of this module: a worker with one slot, and one with many."""
    pools = json.dumps({"slotted": {"queues": {"slotted": 1}, "slots": 10}})
    with private_directory() as directory:
        valkey = Valkey(directory).start()
        env = {
            "BOILERD_APP": "sentry_app:mux", "BOILERD_POOLS": pools, "BOILERD_REDIS_URL": valkey.url,
            "BOILERD_RETRY": '{"base": "0.1s", "max_delay": "0.1s"}',
        }  # fmt: skip
        daemon = RunningDaemon("--concurrency", "1", directory=directory, env=env)
        try:
            yield daemon.ready(), valkey
        finally:
            daemon.close()
            valkey.stop()


@pytest.fixture
def sent(running: tuple[RunningDaemon, Valkey]) -> Callable[..., list[Item]]:
    """What was sent of a task, when it is as much of a kind as is said."""
    daemon, _ = running

    def of(task_id: str, kind: str, count: int = 1) -> list[Item]:
        def found() -> list[Item]:
            items = [item for item in read_items(daemon.directory / "envelopes") if item["kind"] == kind]
            chosen = [item for item in items if item["contexts"].get("boilerd_task", {}).get("id") == task_id]
            return chosen if len(chosen) >= count else []

        chosen = wait_until(found, f"{count} {kind} of {task_id}")
        assert len(chosen) == count
        return chosen

    return of


@pytest.fixture
def enqueue(running: tuple[RunningDaemon, Valkey]) -> Iterator[Callable[..., str]]:
    """Enqueues a task at that daemon's broker, and waits until its outcome is written."""
    daemon, valkey = running
    with Client.from_url(valkey.url) as client:

        def enqueue_(task_type: str, ends: str, payload: Any = None, **options: Any) -> str:
            info = client.enqueue(task_type, payload, **options)
            daemon.wait_for(ends, task_id=info.id)
            return info.id

        yield enqueue_


Sent = Callable[..., list[Item]]
Enqueue = Callable[..., str]


def errors(event: Item) -> list[str]:
    return [value["type"] for value in event["exception"]["values"]]


@pytest.mark.parametrize("queue", ["default", "slotted"])
def test_a_task_that_fails_twice_is_one_event_with_two_transactions(sent: Sent, enqueue: Enqueue, queue: str) -> None:
    task_id = enqueue("say:flaky", "task archived", queue=queue)

    (first, last), events = sent(task_id, "transaction", 2), sent(task_id, "event", 3)

    own, of_logs = (
        [event for event in events if "exception" in event],
        [event for event in events if "logentry" in event],
    )
    (event,) = own
    assert [line["logentry"]["message"] for line in of_logs] == ["the application's own line"] * 2
    assert errors(event) == ["ValueError"]
    assert (event["tags"]["attempt"], event["tags"]["queue"]) == (2, queue)
    assert event["contexts"]["trace"]["trace_id"] == last["contexts"]["trace"]["trace_id"]
    assert {first["pid"], last["pid"]} == {event["pid"]}
    assert task_id in [crumb["message"] for crumb in event["breadcrumbs"]["values"]]


def test_a_task_whose_worker_is_killed_is_reported_by_another_process(sent: Sent, enqueue: Enqueue) -> None:
    task_id = enqueue("say:die", "task archived")

    (event,) = sent(task_id, "event")

    assert errors(event) == ["WorkerDiedError"]
    assert event["tags"]["task_type"] == "say:die"


@pytest.mark.parametrize(
    ("task_type", "queue"), [("say:sleep", "default"), ("say:sleep", "slotted"), ("say:wait", "slotted")]
)
def test_a_timeout_is_reported_with_the_place_where_it_came(
    sent: Sent, enqueue: Enqueue, task_type: str, queue: str
) -> None:
    task_id = enqueue(task_type, "task archived", queue=queue, timeout=1)

    (transaction,), (event,) = sent(task_id, "transaction"), sent(task_id, "event")

    assert errors(event)[-1] == "TaskTimeoutError"
    functions = [frame["function"] for frame in event["exception"]["values"][-1]["stacktrace"]["frames"]]
    assert task_type.removeprefix("say:") in functions
    assert transaction["contexts"]["trace"]["status"] == "deadline_exceeded"


def test_a_cancelled_task_is_no_event(running: tuple[RunningDaemon, Valkey], sent: Sent, enqueue: Enqueue) -> None:
    daemon, valkey = running
    task_id = enqueue("say:wait", "task started", queue="slotted")
    with Client.from_url(valkey.url) as client:
        client.cancel(task_id)
    daemon.wait_for("task archived", task_id=task_id)

    (transaction,) = sent(task_id, "transaction")

    assert transaction["contexts"]["trace"]["status"] == "cancelled"
    items = read_items(daemon.directory / "envelopes")
    assert not [item for item in items if item["kind"] == "event" and task_id in repr(item["contexts"])]


def test_tasks_that_run_at_once_in_slots_keep_their_scopes_apart(
    running: tuple[RunningDaemon, Valkey], sent: Sent
) -> None:
    _, valkey = running
    ids = [f"crowd-{number}" for number in range(CROWD)]
    with Client.from_url(valkey.url) as client:
        for task_id in ids:
            client.enqueue("say:crowd", CROWD, task_id=task_id, queue="slotted")

    for task_id in ids:
        (event,), (transaction,) = sent(task_id, "event"), sent(task_id, "transaction")
        (inner,) = sent(f"of-{task_id}", "transaction")
        said = [crumb["message"] for crumb in event["breadcrumbs"]["values"] if crumb["message"] in ids]
        assert (event["tags"]["own"], said, event["exception"]["values"][-1]["value"]) == (task_id, [task_id], task_id)
        assert inner["contexts"]["trace"]["trace_id"] == transaction["contexts"]["trace"]["trace_id"]


def test_a_request_elsewhere_and_its_task_are_one_trace(
    running: tuple[RunningDaemon, Valkey], sent: Sent, tmp_path: Path
) -> None:
    _, valkey = running
    with sentry_sdk.isolation_scope(), Client.from_url(valkey.url) as client:
        sentry_sdk.init(
            DSN, transport=FileTransport(tmp_path / "web"), traces_sample_rate=1.0, default_integrations=False
        )
        client.use(sentry.publish)
        with sentry_sdk.start_transaction(name="request"):
            task_id = client.enqueue("say:ok").id
        sentry_sdk.get_global_scope().set_client(None)

    (process,), (request,) = sent(task_id, "transaction"), read_items(tmp_path / "web")

    assert process["contexts"]["trace"]["trace_id"] == request["contexts"]["trace"]["trace_id"]
    assert process["contexts"]["trace"]["parent_span_id"] == request["spans"][0]["span_id"]


REAL = """
import sentry_sdk
from boilerd import ServeMux
from boilerd.contrib import sentry

sentry_sdk.init({dsn!r}, auto_enabling_integrations=False)
{before}
mux = ServeMux()
sentry.instrument(mux, flush_s=0.5)

@mux.handle("say:wrong")
def wrong(task):
    raise ValueError(task.id)
"""


@contextmanager
def collector(bodies: list[bytes]) -> Iterator[str]:
    """Takes what an HTTP transport sends; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://key@127.0.0.1:{server.server_port}/1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def came(bodies: list[bytes], text: bytes) -> bool:
    return any(text in body for body in bodies)


def test_an_event_of_before_the_fork_keeps_no_worker_from_sending_its_own(
    start_daemon: StartDaemon, directory: Path, client: Client
) -> None:
    bodies: list[bytes] = []
    with collector(bodies) as dsn:
        before = 'sentry_sdk.capture_message("imported")\nsentry_sdk.flush(5)'
        options = ', _experiments={"transport_compression_algo": "gzip", "transport_compression_level": 0}'
        app = REAL.format(dsn=dsn, before=before).replace(", auto_en", f"{options}, auto_en")
        (directory / "real.py").write_text(app)
        daemon = start_daemon("--concurrency", "2", directory=directory, env={"BOILERD_APP": "real:mux"}).ready()
        ids = [client.enqueue("say:wrong", max_retries=0).id for _ in range(6)]

        for task_id in ids:
            wait_until(functools.partial(came, bodies, task_id.encode()), f"{task_id} came")
        assert daemon.stop() == 0

    assert sum(b"imported" in body for body in bodies) == 1


def test_a_collector_that_does_not_answer_holds_up_no_outcome_and_no_drain(
    start_daemon: StartDaemon, directory: Path, client: Client
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"http://key@127.0.0.1:{silent.getsockname()[1]}/1"
        (directory / "real.py").write_text(REAL.format(dsn=dsn, before=""))
        daemon = start_daemon("--concurrency", "1", directory=directory, env={"BOILERD_APP": "real:mux"}).ready()
        for task_id in ("a", "b", "c"):
            client.enqueue("say:wrong", task_id=task_id, max_retries=0)
        daemon.wait_for("task archived", 3)

        status = daemon.stop()

    assert status == 0
    assert daemon.lines("worker shutdown completed gracefully")
    assert not [line for line in daemon.lines() if "kill" in line["message"]]
