"""Makes Prometheus's metric families of a snapshot, and the texts that are sent."""

import gzip
import math
import platform
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from boilerd.broker.overview import LivingWorker, Overview, QueueOverview
from boilerd.exporter.families import FAMILIES, Family, Kind
from boilerd.exporter.snapshot import Snapshot
from boilerd.tasks.histogram import BOUNDS_BYTES, SHOWN_BOUNDS_S, Histogram
from boilerd.tasks.metric_record import Numbers
from boilerd.verdict.table import TABLE

#: Queues that have metrics: Redis may hold names of very many.
MOST_QUEUES = 200
#: Characters of a label's value; names of other programs' queues may be of any length.
MOST_LABEL = 200
#: Fast, and it leaves about a fifteenth of what is sent.
_GZIP_LEVEL = 1

_MAKERS = {Kind.COUNTER: CounterMetricFamily, Kind.GAUGE: GaugeMetricFamily, Kind.HISTOGRAM: HistogramMetricFamily}


class Sheet:
    """The families of one snapshot, and their samples; two with the same labels are one, the last."""

    def __init__(self) -> None:
        self._families = {family.name: family for family in FAMILIES}
        self._samples: dict[str, dict[tuple[str, ...], float | Histogram]] = {name: {} for name in self._families}

    def put(self, name: str, value: float | Histogram, *labels: str) -> None:
        """Note the value that has these labels, which stand in the table's order."""
        self._samples[name][tuple(map(shown, labels))] = value

    def metrics(self) -> Iterator[Metric]:
        """The families of which there is something."""
        for name, samples in self._samples.items():
            if samples:
                yield _metric(self._families[name], samples)


def collect(snapshot: Snapshot, release: str = "") -> Sheet:
    """All that the snapshot tells; where Redis did not answer, nothing of what it holds."""
    sheet = Sheet()
    _put_daemon(sheet, snapshot, release)
    sheet.put("boilerd_broker_up", float(snapshot.overview is not None))
    if snapshot.overview is None:
        return sheet
    _put_broker(sheet, snapshot.overview)
    _put_workers(sheet, snapshot.overview.living)
    _put_queues(sheet, snapshot.overview.queues)
    _put_totals(sheet, snapshot)
    for tick in snapshot.ticks:
        if tick.last_s is not None:
            sheet.put("boilerd_cron_last_tick_timestamp_seconds", tick.last_s, tick.name)
        sheet.put("boilerd_cron_next_tick_timestamp_seconds", tick.next_s, tick.name)
        sheet.put("boilerd_cron_missed_ticks", tick.missed, tick.name)
    return sheet


class Texts:
    """The forms in which one sheet is sent; each is made when it is asked for, and once."""

    def __init__(self, sheet: Sheet) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Fixed(list(sheet.metrics())))
        self._made: dict[tuple[bool, bool], bytes] = {}

    def get(self, *, is_openmetrics: bool, is_gzip: bool) -> bytes:
        """The text in Prometheus's own form or that of OpenMetrics, and compressed or not."""
        key = is_openmetrics, is_gzip
        if key not in self._made:
            if is_gzip:
                plain = self.get(is_openmetrics=is_openmetrics, is_gzip=False)
                self._made[key] = gzip.compress(plain, _GZIP_LEVEL)
            else:
                generate = openmetrics.generate_latest if is_openmetrics else generate_latest
                self._made[key] = generate(self._registry)
        return self._made[key]


def content_type(*, is_openmetrics: bool) -> str:
    """What the text is called."""
    return openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else CONTENT_TYPE_PLAIN_0_0_4


def shown(value: str) -> str:
    """A label's value as UTF-8 can have it: names in Redis may be any bytes, and of any length."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if len(text) <= MOST_LABEL else f"{text[:MOST_LABEL]}…"


class _Fixed(Collector):
    """Families that are made already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Them."""
        return self._metrics


def _metric(family: Family, samples: dict[tuple[str, ...], float | Histogram]) -> Metric:
    if family.kind is Kind.INFO:
        info = InfoMetricFamily(family.name.removesuffix("_info"), family.means)
        for labels in samples:
            info.add_metric([], dict(zip(family.labels, labels, strict=True)))
        return info
    metric = _MAKERS[family.kind](family.name, family.means, labels=family.labels)
    bounds = BOUNDS_BYTES if family.name.endswith("_bytes") else SHOWN_BOUNDS_S
    for labels, value in samples.items():
        if isinstance(value, Histogram):
            buckets = [(_bound(bound), float(count)) for bound, count in value.cumulative(bounds)]
            metric.add_metric(labels, buckets, value.sum)
        else:
            metric.add_metric(labels, value)
    return metric  # type: ignore[no-any-return] # the classes have nothing typed in common that takes samples


def _bound(value: float) -> str:
    """A bucket's bound, as clients of Prometheus write it."""
    return "+Inf" if math.isinf(value) else repr(value)


def _put_daemon(sheet: Sheet, snapshot: Snapshot, release: str) -> None:
    broker = _server(snapshot)
    sheet.put("boilerd_build_info", 1, version("boilerd"), platform.python_version(), broker, release)
    sheet.put("boilerd_scrape_duration_seconds", snapshot.took_s)
    found = Counter(finding.kind for finding in snapshot.findings)
    for row in TABLE:
        sheet.put("boilerd_findings", found[row.kind], row.kind, row.severity)
    if snapshot.info:
        host = socket.gethostname()
        sheet.put("boilerd_scheduler_heartbeat_age_seconds", snapshot.info.get("heartbeat_age_s", 0.0), host)
        sheet.put("boilerd_lost_log_lines", snapshot.info.get("lost_lines", 0))


def _server(snapshot: Snapshot) -> str:
    """Name and version of the server; empty where it does not tell."""
    told = snapshot.overview.server if snapshot.overview else {}
    if own := told.get("valkey_version"):
        return f"Valkey {own}"
    return f"Redis {found}" if (found := told.get("redis_version")) else ""


def _put_broker(sheet: Sheet, overview: Overview) -> None:
    sheet.put("boilerd_suspended", float(overview.is_suspended))
    for name, field in (
        ("boilerd_broker_memory_bytes", "used_memory"),
        ("boilerd_broker_max_memory_bytes", "maxmemory"),
        ("boilerd_broker_clients", "connected_clients"),
    ):
        if field in overview.server:
            sheet.put(name, float(overview.server[field]))


def _put_workers(sheet: Sheet, workers: Sequence[LivingWorker]) -> None:
    for (host, state), count in Counter((worker.host, worker.state) for worker in workers).items():
        sheet.put("boilerd_workers", count, host, state)
    sizes: dict[str, list[int]] = {}
    for worker in workers:
        if worker.resident_bytes:
            sizes.setdefault(worker.host, []).append(worker.resident_bytes)
    for host, found in sizes.items():
        sheet.put("boilerd_worker_resident_bytes", sum(found), host)
        sheet.put("boilerd_worker_most_resident_bytes", max(found), host)


def _put_queues(sheet: Sheet, queues: Iterable[QueueOverview]) -> None:
    """Those that hold something come first, where there are too many."""
    ordered = sorted(queues, key=lambda queue: queue.detail.counts.is_idle)
    sheet.put("boilerd_queues_left_out", max(0, len(ordered) - MOST_QUEUES))
    for queue in ordered[:MOST_QUEUES]:
        _put_queue(sheet, queue)


def _put_queue(sheet: Sheet, queue: QueueOverview) -> None:
    detail, counts, name = queue.detail, queue.detail.counts, queue.name
    for state in ("pending", "active", "scheduled", "completed", "archived"):
        sheet.put("boilerd_tasks", getattr(counts, state), name, state)
    sheet.put("boilerd_queue_oldest_pending_seconds", detail.latency_s, name)
    sheet.put("boilerd_queue_overdue_seconds", queue.overdue_s, name)
    sheet.put("boilerd_queue_paused", float(counts.is_paused), name)
    sheet.put("boilerd_queue_served", float(queue.is_served), name)
    sheet.put("boilerd_queue_memory_bytes", detail.memory_bytes, name)
    for kind, limit in (("active", detail.max_active), ("length", detail.max_length)):
        if limit:
            sheet.put("boilerd_queue_limit", limit, name, kind)


def _put_totals(sheet: Sheet, snapshot: Snapshot) -> None:
    by_type: dict[str, list[Numbers]] = {}
    for (queue, task_type), numbers in snapshot.totals.items():
        by_type.setdefault(task_type, []).append(numbers)
        sheet.put("boilerd_tasks_enqueued_total", numbers.enqueued, queue, task_type)
        for outcome, count in numbers.attempts.items():
            sheet.put("boilerd_attempts_total", count, queue, task_type, outcome)
        sheet.put("boilerd_task_wait_seconds", numbers.wait, queue, task_type)
        sheet.put("boilerd_task_run_seconds", numbers.run, queue, task_type)
    for task_type, several in by_type.items():
        sheet.put("boilerd_task_payload_bytes", Numbers.sum_of(several).payload, task_type)
