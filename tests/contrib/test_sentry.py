"""Sentry in one process: spans, errors and check-ins of tasks that a RecordingClient runs."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from boilerd import (
    BoilerdError,
    Draft,
    FailedAttempt,
    Push,
    RetryLater,
    RevokeTask,
    ServeMux,
    SkipRetry,
    Task,
    TaskInfo,
    retry,
)
from boilerd.contrib import sentry
from boilerd.contrib.sentry_monitors import to_config
from boilerd.errors import InvalidPayloadError, TaskCancelledError, TaskTimeoutError, WorkerDiedError
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.tasks.retry import Verdict
from boilerd.testing import RecordingClient
from sentry_files import DSN, Item, items_of

SECRET = "s3cret"


class Sent(Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Item] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += items_of(envelope)

    def of(self, kind: str) -> list[Item]:
        return [item for item in self.items if item["kind"] == kind]


Init = Callable[..., Sent]


@pytest.fixture
def init() -> Iterator[Init]:
    """Sets Sentry up for one test, without what it would change of the process."""

    def initialise(**options: Any) -> Sent:
        sent = Sent()
        sentry_sdk.init(DSN, transport=sent, default_integrations=False, **{"traces_sample_rate": 1.0, **options})
        return sent

    with sentry_sdk.isolation_scope():
        yield initialise
        sentry_sdk.get_client().close(timeout=0)
        sentry_sdk.get_global_scope().set_client(None)


def app(**options: Any) -> tuple[ServeMux, RecordingClient]:
    """An instrumented mux with handlers that end in each way, and a client that knows it."""
    mux = ServeMux()
    sentry.instrument(mux, **options)

    @mux.handle("say:ok")
    def ok(task: Task) -> None:
        sentry_sdk.add_breadcrumb(message=f"said {task.id}")

    @mux.handle("say:outer")
    def outer(task: Task) -> None:
        client.enqueue("say:ok", task_id="inner")

    @mux.handle("say:wrong")
    @retry(max_retries=2, base=1)
    def wrong(task: Task) -> None:
        payload = task.payload
        sentry_sdk.add_breadcrumb(message=f"said {task.id}")
        raise ValueError("no such page") from KeyError(str(len(str(payload))))

    @mux.handle("say:raise")
    def raise_(task: Task) -> None:
        raise ERRORS[task.payload]

    client = RecordingClient(mux=mux)
    return mux, client


ERRORS: dict[str, BaseException] = {
    "later": RetryLater(1),
    "revoked": RevokeTask(),
    "final": SkipRetry("no use"),
}


def spans(transaction: Item, op: str) -> list[Item]:
    return [span for span in transaction["spans"] if span["op"] == op]


def trace_of(item: Item) -> Any:
    return item["contexts"]["trace"]


def test_a_trace_leads_from_the_enqueue_to_the_attempt_and_on_to_what_that_enqueues(init: Init) -> None:
    sent = init()
    _, client = app()

    with sentry_sdk.start_transaction(name="request"):
        client.enqueue("say:outer", {"to": "ada"}, task_id="outer", queue="low")
    client.drain(until="end", raise_errors=False)

    request, outer, inner = sent.of("transaction")
    (publish,), (process,) = spans(request, "queue.publish"), spans(outer, "queue.process")
    assert {trace_of(item)["trace_id"] for item in (request, outer, inner)} == {publish["trace_id"]}
    assert trace_of(outer)["parent_span_id"] == publish["span_id"]
    assert trace_of(inner)["parent_span_id"] == spans(outer, "queue.publish")[0]["span_id"]
    told = {"messaging.system": "boilerd", "messaging.message.id": "outer", "messaging.destination.name": "low"}
    told_of_both = {**told, "messaging.message.body.size": len('{"to":"ada"}')}
    assert publish["data"].items() >= told_of_both.items()
    assert process["data"].items() >= {**told_of_both, "messaging.message.retry.count": 0}.items()
    assert process["data"]["messaging.message.receive.latency"] >= 0
    assert (outer["transaction"], trace_of(outer)["op"], trace_of(outer)["status"]) == ("say:outer", "queue.task", "ok")
    assert outer["tags"].items() >= {"task_type": "say:outer", "queue": "low"}.items()


def test_a_batch_is_one_span_that_says_how_many_were_stored(init: Init) -> None:
    sent = init()
    _, client = app()

    with sentry_sdk.start_transaction(name="request"):
        client.enqueue_many([("say:ok", 1), ("say:ok", 1), ("say:ok", 2)], unique=60)

    (publish,) = spans(sent.of("transaction")[0], "queue.publish")
    assert publish["description"] == "3 tasks"
    assert (
        publish["data"].items() >= {"messaging.batch.message_count": 2, "messaging.destination.name": "default"}.items()
    )
    assert len({task.headers["sentry-trace"] for task in client.tasks}) == 1


def test_middleware_of_a_client_and_of_its_mux_make_one_span(init: Init) -> None:
    sent = init()
    _, client = app()
    client.use(sentry.publish)

    with sentry_sdk.start_transaction(name="request"):
        client.enqueue("say:ok")

    assert len(spans(sent.of("transaction")[0], "queue.publish")) == 1


def test_an_enqueue_that_fails_says_so_in_its_span(init: Init) -> None:
    sent = init()
    _, client = app()
    client.enqueue("say:ok", task_id="taken")

    with sentry_sdk.start_transaction(name="request"), pytest.raises(BoilerdError):
        client.enqueue("say:ok", task_id="taken")

    (publish,) = spans(sent.of("transaction")[0], "queue.publish")
    assert publish["status"] == "aborted"


def test_the_baggage_of_others_stays_and_no_enqueue_fails_for_want_of_room(init: Init) -> None:
    init()
    _, client = app()
    full = {"own": "x" * (MAX_HEADER_BYTES - 3)}

    with sentry_sdk.start_transaction(name="request"):
        client.enqueue("say:ok", headers={"baggage": "of=another,sentry-release=1"})
        client.enqueue("say:ok", headers=full)

    first, second = (task.headers for task in client.tasks)
    assert first["baggage"].startswith("of=another,sentry-")
    assert "sentry-release=1" not in first["baggage"]
    assert dict(second) == full


def test_without_sentry_nothing_is_done() -> None:
    _, client = app()

    client.enqueue("say:wrong", max_retries=0)
    (attempt,) = client.drain(until="end", raise_errors=False)

    assert dict(attempt.task.headers) == {}
    assert isinstance(attempt.error, ValueError)


@pytest.mark.parametrize(("report", "count"), [("last", 1), ("each", 3)])
def test_an_error_is_an_event_at_the_last_attempt_or_at_each(init: Init, report: sentry.Report, count: int) -> None:
    sent = init()
    mux, client = app(report=report)
    failures: list[FailedAttempt] = []
    mux.on_failure(failures.append)

    client.enqueue("say:wrong", {"secret": SECRET}, task_id="a", headers={"request_id": "r-9"})
    client.drain(until="end", raise_errors=False)

    events = sent.of("event")
    assert len(events) == count
    assert [failed.verdict for failed in failures] == ["retry", "retry", "archive"]
    last, attempts = events[-1], sent.of("transaction")
    assert last["fingerprint"] == [failures[0].fingerprint]
    assert last["tags"] == {
        "task_type": "say:wrong", "queue": "default", "attempt": 3, "request_id": "r-9",
        "failure_group": failures[0].fingerprint,
    }  # fmt: skip
    assert [value["type"] for value in last["exception"]["values"]] == ["KeyError", "ValueError"]
    assert last["exception"]["values"][-1]["mechanism"] == {"type": "boilerd", "handled": False}
    assert last["contexts"]["boilerd_task"].items() >= {"id": "a", "runs": 3, "max_retries": 2}.items()
    assert trace_of(last)["trace_id"] == trace_of(attempts[-1])["trace_id"]
    assert trace_of(last)["span_id"] == spans(attempts[-1], "queue.process")[0]["span_id"]
    assert [crumb["message"] for crumb in last["breadcrumbs"]["values"]] == ["said a"]
    assert {trace_of(attempt)["status"] for attempt in attempts} == {"internal_error"}


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize(
    ("options", "sends_pii"),
    [
        ({}, False),
        ({"send_default_pii": True}, True),
        ({"data_collection": {"queues": False}}, False),
        ({"data_collection": {"queues": True}}, True),
    ],
)
def test_a_payload_and_local_variables_are_sent_where_the_application_says_so(
    init: Init, options: dict[str, Any], sends_pii: bool
) -> None:
    sent = init(**options)
    _, client = app()

    client.enqueue("say:wrong", {"secret": SECRET}, max_retries=0)
    client.drain(until="end", raise_errors=False)

    (event,) = sent.of("event")
    assert (SECRET in repr(sent.items)) is sends_pii
    assert event.get("extra", {}).get("payload") == ({"secret": SECRET} if sends_pii else None)


@pytest.mark.parametrize(
    ("payload", "events", "statuses"),
    [("later", 0, ["aborted"]), ("revoked", 0, ["aborted"]), ("final", 1, ["internal_error"])],
)
def test_what_is_no_failure_is_no_event(init: Init, payload: str, events: int, statuses: list[str]) -> None:
    sent = init()
    _, client = app(report="each")

    client.enqueue("say:raise", payload)
    client.drain(raise_errors=False)

    assert len(sent.of("event")) == events
    assert [trace_of(item)["status"] for item in sent.of("transaction")] == statuses


def told(error: BaseException, verdict: Verdict, *, attempt: int = 1, counts: bool = True) -> list[Item]:
    """What is sent of an attempt of another process."""
    mux = ServeMux()
    sentry.instrument(mux)
    task = Task("a", "say:ok", {"secret": SECRET}, attempt=attempt, headers={"request_id": "r-9"}, request_id="r-9")
    assert mux.hooks.on_failure
    mux.hooks.on_failure(FailedAttempt(task, error, verdict, counts=counts, fingerprint="f" * 12))
    transport = sentry_sdk.get_client().transport
    assert isinstance(transport, Sent)
    return transport.of("event")


def test_a_task_whose_worker_died_is_reported_by_the_process_that_settles_it(init: Init) -> None:
    init()

    (event,) = told(WorkerDiedError("worker died: SIGKILL"), Verdict.ARCHIVE, attempt=26)

    assert event["exception"]["values"][0]["type"] == "WorkerDiedError"
    assert event["tags"].items() >= {"task_type": "say:ok", "attempt": 26, "request_id": "r-9"}.items()
    assert event["transaction"] == "say:ok"
    assert SECRET not in repr(event)


@pytest.mark.parametrize(
    ("error", "verdict", "attempt", "is_told"),
    [
        (TaskTimeoutError("too long"), Verdict.RETRY, 1, False),
        (TaskTimeoutError("too long"), Verdict.ARCHIVE, 3, True),
        (TaskCancelledError("cancelled on request"), Verdict.ARCHIVE, 1, False),
        # Its age decides when it is archived, and nobody is told of that.
        (InvalidPayloadError("to: missing"), Verdict.RETRY, 1, True),
        (InvalidPayloadError("to: missing"), Verdict.RETRY, 2, False),
    ],
)
def test_which_errors_are_events_at_the_last_attempt(
    init: Init, error: BaseException, verdict: Verdict, attempt: int, is_told: bool
) -> None:
    init()

    assert bool(told(error, verdict, attempt=attempt)) is is_told


def test_scopes_of_attempts_that_ended_otherwise_do_not_pile_up(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = init(traces_sample_rate=0.0)
    monkeypatch.setattr(sentry, "_MOST_KEPT", 2)
    mux, _ = app()

    for number in range(5):  # as where nothing is decided
        with pytest.raises(ValueError, match="no such page"):
            mux(Task(f"task-{number}", "say:wrong"))
    hook: Any = mux.hooks.on_failure
    kept = hook.__self__.kept

    assert [*kept] == [("task-3", 1), ("task-4", 1)]
    assert sent.items == []


def test_a_periodic_task_checks_in_with_its_schedule_and_out_when_it_has_ended(init: Init) -> None:
    sent = init(environment="staging")
    mux, client = app()
    mux.cron("30 4 * * *", "say:wrong", name="Nightly", timezone="Europe/Berlin")
    mux.cron("@every 30s", "say:ok", name="often")

    client.enqueue("say:wrong", task_id="cron-Nightly-20261129T033000Z", max_retries=1)
    client.enqueue("say:ok", task_id="cron-often-20261129T033000Z")
    client.enqueue("say:ok", task_id="cron-Nightly-20261130T033000Z")
    client.drain(until="end", raise_errors=False)

    seen = [(item["monitor_slug"], item["status"]) for item in sent.of("check_in")]
    ids = [item["check_in_id"] for item in sent.of("check_in")]
    assert sorted(seen) == [("nightly", status) for status in ("error", "in_progress", "in_progress", "ok")]
    assert len(set(ids)) == 2
    assert sent.of("check_in")[0]["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "30 4 * * *"}, "timezone": "Europe/Berlin",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        ("*/15 * * * *", {"type": "crontab", "value": "*/15 * * * *"}),
        ("0 30 4 ? * MON", {"type": "crontab", "value": "30 4 * * mon"}),
        ("@daily", {"type": "crontab", "value": "@daily"}),
        ("@midnight", {"type": "crontab", "value": "@daily"}),
        ("@every 90m", {"type": "interval", "value": 90, "unit": "minute"}),
        ("@every 48h", {"type": "interval", "value": 2, "unit": "day"}),
        ("@every 30s", None),
        ("*/10 * * * * *", None),
    ],
)
def test_a_monitor_has_the_schedule_of_its_entry(spec: str, schedule: dict[str, Any] | None) -> None:
    config = to_config(CronEntry(spec=spec, task_type="a"))

    assert (config and config["schedule"]) == schedule


def test_check_ins_can_be_left_out(init: Init) -> None:
    sent = init()
    mux, client = app(check_ins=False)
    mux.cron("@daily", "say:ok", name="nightly")

    client.enqueue("say:ok", task_id="cron-nightly-20261129T033000Z")
    client.drain(until="end", raise_errors=False)

    assert sent.of("check_in") == []


def test_a_tick_begins_a_trace_of_its_own(init: Init) -> None:
    init()
    _, client = app()

    client.enqueue("say:ok", task_id="cron-nightly-20261129T033000Z")
    client.enqueue("say:ok")

    tick, other = (task.headers for task in client.tasks)
    assert "sentry-trace" not in tick
    assert "sentry-trace" in other


def test_client_middleware_inside_of_it_finds_the_headers(init: Init) -> None:
    init()
    _, client = app()
    seen: list[set[str]] = []

    @client.use
    def look(drafts: list[Draft], push: Push) -> list[TaskInfo | BoilerdError]:
        seen.extend(set(draft.headers) for draft in drafts)
        return push(drafts)

    with sentry_sdk.start_transaction(name="request"):
        client.enqueue("say:ok")

    assert seen == [{"sentry-trace", "baggage"}]


def test_boilerds_own_line_of_a_failure_is_no_event_and_the_applications_lines_are(init: Init) -> None:
    sentry._prepare()
    sent = init()
    records = [
        logging.LogRecord("boilerd.task", logging.ERROR, "", 0, text, (), None) for text in ("task failed", "other")
    ]

    for record in records:
        sentry_sdk.capture_event({"message": record.msg}, hint={"log_record": record})

    assert [event["message"] for event in sent.of("event")] == ["other"]


class Class(Sent):
    """As sentry_sdk makes transports itself."""

    def __init__(self, options: Any = None) -> None:
        super().__init__()


def test_a_forked_child_has_a_transport_of_its_own(init: Init) -> None:
    sentry._prepare()
    sentry_sdk.init(DSN, transport=Class, default_integrations=False)
    before = sentry_sdk.get_client().transport

    child = os.fork()
    if child == 0:
        os._exit(
            7
            if isinstance(sentry_sdk.get_client().transport, Class) and sentry_sdk.get_client().transport is not before
            else 1
        )
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 7
    assert sentry_sdk.get_client().transport is before


def test_another_word_for_when_to_report_is_refused() -> None:
    with pytest.raises(ValueError, match="report='never': give 'last' or 'each'"):
        sentry.instrument(ServeMux(), report="never")  # type: ignore[arg-type]


@pytest.mark.parametrize("trace", ["", "garbage", "-".join(["0" * 32, "0" * 16, "1"]), "\N{SNOWMAN}"])
@pytest.mark.parametrize("baggage", ["", ",;=%zz", "sentry-sample_rate=x,sentry-sample_rand=y,sentry-trace_id="])
def test_headers_that_are_no_trace_fail_no_task(init: Init, trace: str, baggage: str) -> None:
    sent = init()
    mux, client = app()
    plain = RecordingClient()
    plain.enqueue("say:ok", headers={"sentry-trace": trace, "baggage": baggage})

    (_,) = plain.run_all(mux)

    assert len(sent.of("transaction")) == 1
    assert client.tasks == []
