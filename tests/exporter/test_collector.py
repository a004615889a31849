"""The metrics of a snapshot, as promtool and a parser of OpenMetrics read them."""

import gzip
from collections.abc import Iterable
from datetime import date

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from boilerd.broker.overview import LivingWorker, Overview, QueueOverview
from boilerd.broker.views import Day, QueueDetail, QueueInfo
from boilerd.exporter.collector import MOST_LABEL, MOST_QUEUES, Texts, collect, shown
from boilerd.exporter.families import FAMILIES
from boilerd.exporter.snapshot import Snapshot, Tick
from boilerd.tasks.histogram import BOUNDS_S, bucket_of
from boilerd.tasks.metric_record import (
    ENQUEUED,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
    Numbers,
    Pair,
)
from boilerd.verdict.finding import Finding, Severity
from prometheus import promtool

LONGEST = len(BOUNDS_S)


def queue(name: str, pending: int = 0, **options: float) -> QueueOverview:
    counts = QueueInfo(name, pending, 1, 2, 3, 4, is_paused=False)
    detail = QueueDetail(counts, 7.5, 1000, 5, 0, Day(date(2026, 1, 1), 0, 0))
    return QueueOverview(detail, **options)  # type: ignore[arg-type]


def numbers(*, run_s: float = 0.2, completed: int = 1) -> Numbers:
    return Numbers({
        OUTCOME_KEYS["completed"]: completed, ENQUEUED: 9, RUN_US: int(run_s * 1e6), RUN_BUCKETS + bucket_of(run_s): 1,
        WAIT_US: 1, WAIT_BUCKETS + LONGEST: 1, PAYLOAD_BYTES: 64, PAYLOAD_BUCKETS: 1,
    })  # fmt: skip


def snapshot(queues: Iterable[QueueOverview] = (), **totals: Numbers) -> Snapshot:
    return Snapshot(
        overview=Overview(
            queues=list(queues),
            workers=3,
            living=[LivingWorker("a", "busy", 100), LivingWorker("a", "idle", 300), LivingWorker("b", "busy")],
            server={"valkey_version": "9.1.0", "used_memory": 5, "maxmemory": 50, "connected_clients": 6},
        ),
        totals={Pair("default", name): found for name, found in totals.items()},
        ticks=[Tick("nightly", 100.0, 200.0, 2), Tick("never", None, 300.0, 0)],
        info={"heartbeat_age_s": 1.5, "lost_lines": 0},
        findings=[Finding("missing", Severity.FAULT, "worker:1 does not serve", "boilerd logs")],
        took_s=0.01,
    )


def text(found: Snapshot, *, is_openmetrics: bool = False) -> str:
    return Texts(collect(found, "2.4.1")).get(is_openmetrics=is_openmetrics, is_gzip=False).decode()


def samples(found: Snapshot) -> dict[tuple[str, ...], float]:
    """Name, and values of the labels in the order of these → value."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text(found))
        for sample in family.samples
    }


def test_promtool_finds_nothing_to_say_about_names_types_and_help() -> None:
    whole = snapshot([queue("default")], mail=numbers())

    done = promtool("check", "metrics", stdin=text(whole))

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_each_row_of_the_table_is_told() -> None:
    told = text(snapshot([queue("default")], mail=numbers()))

    missing = [family.name for family in FAMILIES if f"# TYPE {family.name} " not in told]

    assert missing == []


def test_the_numbers_are_those_of_redis_and_the_daemon() -> None:
    found = samples(snapshot([queue("default", 8, overdue_s=2.0)], mail=numbers(completed=5)))

    assert found["boilerd_broker_up",] == 1
    assert found["boilerd_tasks", "default", "pending"] == 8
    assert found["boilerd_tasks", "default", "archived"] == 4
    assert found["boilerd_queue_oldest_pending_seconds", "default"] == 7.5
    assert found["boilerd_queue_overdue_seconds", "default"] == 2
    assert found["boilerd_queue_limit", "active", "default"] == 5
    assert ("boilerd_queue_limit", "length", "default") not in found
    assert found["boilerd_workers", "a", "busy"] == 1
    assert found["boilerd_worker_resident_bytes", "a"] == 400
    assert found["boilerd_worker_most_resident_bytes", "a"] == 300
    assert found["boilerd_attempts_total", "completed", "default", "mail"] == 5
    assert found["boilerd_attempts_total", "lost", "default", "mail"] == 0
    assert found["boilerd_tasks_enqueued_total", "default", "mail"] == 9
    assert found["boilerd_findings", "missing", "fault"] == 1
    assert found["boilerd_findings", "broker", "fault"] == 0
    assert found["boilerd_cron_missed_ticks", "nightly"] == 2
    assert ("boilerd_cron_last_tick_timestamp_seconds", "never") not in found
    assert found["boilerd_broker_max_memory_bytes",] == 50


def test_a_histogram_adds_up_to_its_end() -> None:
    found = samples(snapshot(mail=numbers(run_s=0.2)))

    assert found["boilerd_task_run_seconds_bucket", "0.1", "default", "mail"] == 0
    assert found["boilerd_task_run_seconds_bucket", "0.25", "default", "mail"] == 1
    assert found["boilerd_task_run_seconds_bucket", "+Inf", "default", "mail"] == 1
    assert found["boilerd_task_run_seconds_sum", "default", "mail"] == pytest.approx(0.2)
    assert found["boilerd_task_wait_seconds_bucket", "21600.0", "default", "mail"] == 0
    assert found["boilerd_task_wait_seconds_count", "default", "mail"] == 1
    assert found["boilerd_task_payload_bytes_bucket", "64.0", "mail"] == 1


def test_openmetrics_has_the_same() -> None:
    whole = snapshot([queue("default")], mail=numbers())

    told = text(whole, is_openmetrics=True)
    families = {family.name: family for family in parse_openmetrics(told)}  # type: ignore[no-untyped-call]

    assert {sample.value for sample in families["boilerd_tasks_enqueued"].samples} == {9}
    assert families["boilerd_build"].samples[0].labels["release"] == "2.4.1"
    assert families["boilerd_task_run_seconds"].type == "histogram"


def test_the_compressed_text_is_the_same_and_each_form_is_made_once() -> None:
    texts = Texts(collect(snapshot([queue("default")])))

    plain, packed = (texts.get(is_openmetrics=False, is_gzip=is_gzip) for is_gzip in (False, True))

    assert gzip.decompress(packed) == plain
    assert texts.get(is_openmetrics=False, is_gzip=True) is packed


def test_without_redis_all_that_it_holds_is_absent() -> None:
    found = samples(Snapshot(broker_error="away", info={"heartbeat_age_s": 3.0}))

    assert found["boilerd_broker_up",] == 0
    assert {name for name, *_ in found} == {
        "boilerd_broker_up", "boilerd_build_info", "boilerd_findings", "boilerd_scrape_duration_seconds",
        "boilerd_scheduler_heartbeat_age_seconds", "boilerd_lost_log_lines",
    }  # fmt: skip


def test_names_of_any_bytes_and_length_are_labels() -> None:
    names = ['quo"te', "back\\slash", "new\nline", "ä€", "\udcff\udcfe", "\x1b[31m", "x" * 10_000]

    found = samples(snapshot([queue(name, 1) for name in names], **{"\udcff": numbers()}))

    told = {key[1] for key in found if key[0] == "boilerd_tasks"}
    assert told == {*names[:4], "\\xff\\xfe", "\x1b[31m", f"{'x' * MOST_LABEL}…"}
    assert found["boilerd_tasks_enqueued_total", "default", "\\xff"] == 9
    assert promtool("check", "metrics", stdin=text(snapshot([queue(name) for name in names]))).returncode == 0


def test_two_names_that_are_shown_alike_are_one_series() -> None:
    names = ["\udcff", "\\xff"]

    told = text(snapshot([queue(name) for name in names]))

    assert {shown(name) for name in names} == {"\\xff"}
    assert told.count("boilerd_queue_paused{") == 1


def test_of_very_many_queues_those_that_hold_something_are_told() -> None:
    empty = [
        QueueOverview(QueueDetail(QueueInfo(f"q{n}", 0, 0, 0, 0, 0, False), 0.0, 0, 0, 0, Day(date(2026, 1, 1), 0, 0)))
        for n in range(MOST_QUEUES)
    ]

    found = samples(snapshot([*empty, queue("zulu", 1)]))

    assert found["boilerd_tasks", "zulu", "pending"] == 1
    assert found["boilerd_queues_left_out",] == 1
    assert len([key for key in found if key[0] == "boilerd_queue_paused"]) == MOST_QUEUES
