"""The rules for Prometheus and the board for Grafana: one table of queries, and the two files that are made of it.

What several daemons tell of one Redis is the same, so that each query takes it once: `max by` the labels that count.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from boilerd.exporter.families import FAMILIES

CONF = Path(__file__).resolve().parent.parent / "conf"
BOARD, RULES = CONF / "grafana" / "boilerd.json", CONF / "prometheus" / "boilerd.rules.yml"
#: The outcomes of attempts that failed, and of all that tell of the task.
FAILED = "retried|archived|dropped|lost"
TOLD = f"completed|{FAILED}"


def once(expr: str, *labels: str) -> str:
    """The value that all daemons of a job tell, by these labels."""
    return f"max by ({', '.join(('job', *labels))}) ({expr})"


def rate(metric: str, *labels: str, where: str = "", over: str = "5m", by: str = "rate") -> str:
    """How much a counter grows, by these labels."""
    return once(f"{by}({metric}{{{where}}}[{over}])" if where else f"{by}({metric}[{over}])", *labels)


class Record(NamedTuple):
    """A recording rule."""

    name: str
    expr: str


class Alert(NamedTuple):
    """An alert rule.

    Attributes:
        holds_for: For how long the expression must hold.
        severity: ``critical``: somebody should look now; ``warning``: some day soon.
        says: The sentence that people get.
        fires: Series and their values, minute by minute, at which it fires, for the test of it.
    """

    name: str
    expr: str
    holds_for: str
    severity: str
    says: str
    fires: dict[str, str]


def percentile(name: str, percent: int) -> Record:
    """The percentile of a histogram, by queue and type."""
    expr = f"histogram_quantile({percent / 100}, {rate(f'{name}_bucket', 'queue', 'type', 'le')})"
    return Record(f"job_queue_type:{name}:p{percent}", expr)


def attempts(outcomes: str) -> str:
    """Attempts of ten minutes, by queue and type."""
    told = rate(
        "boilerd_attempts_total", "queue", "type", "outcome", where=f'outcome=~"{outcomes}"', over="10m", by="increase"
    )
    return f"sum by (job, queue, type) ({told})"


RECORDS = [
    *(percentile(name, percent) for name in ("boilerd_task_wait_seconds", "boilerd_task_run_seconds")
      for percent in (50, 95, 99)),
    Record("job_queue_type:boilerd_attempts:increase10m", attempts(TOLD)),
    Record("job_queue_type:boilerd_failed_attempts:increase10m", attempts(FAILED)),
]  # fmt: skip

_JOB = 'job="boilerd"'
_PAIR = f'{_JOB},queue="default",type="email:deliver"'
ALERTS = [
    Alert(
        "BoilerdAbsent",
        "absent(boilerd_build_info)",
        "2m",
        "critical",
        "No daemon tells metrics: none runs, or none can be scraped.",
        {'boilerd_build_info{job="boilerd",instance="a"}': "_x20"},
    ),
    Alert(
        "BoilerdBrokerDown",
        "max by (job) (boilerd_broker_up) == 0",
        "1m",
        "critical",
        "Redis does not answer any daemon of {{ $labels.job }}.",
        {f'boilerd_broker_up{{{_JOB},instance="a"}}': "0x20"},
    ),
    Alert(
        "BoilerdUnhealthy",
        'max by (job, instance, kind) (boilerd_findings{severity="fault"}) > 0',
        "2m",
        "critical",
        "The daemon at {{ $labels.instance }} does not do its work ({{ $labels.kind }}): boilerd health --explain.",
        {f'boilerd_findings{{{_JOB},instance="a",kind="missing",severity="fault"}}': "1x20"},
    ),
    Alert(
        "BoilerdSchedulerSilent",
        "min by (job, host) (boilerd_scheduler_heartbeat_age_seconds) > 20",
        "1m",
        "critical",
        "The scheduler on {{ $labels.host }} has renewed no lease for {{ $value | humanizeDuration }}.",
        {f'boilerd_scheduler_heartbeat_age_seconds{{{_JOB},instance="a",host="a"}}': "0+60x20"},
    ),
    Alert(
        "BoilerdQueueUnserved",
        f"{once('boilerd_queue_served', 'queue')} == 0 and on (job, queue)"
        f""" sum by (job, queue) ({once('boilerd_tasks{state=~"pending|scheduled"}', "queue", "state")}) > 0""",
        "2m",
        "critical",
        "Tasks wait in queue {{ $labels.queue }}, on which no worker works.",
        {
            f'boilerd_queue_served{{{_JOB},instance="a",queue="default"}}': "0x20",
            f'boilerd_tasks{{{_JOB},instance="a",queue="default",state="pending"}}': "3x20",
        },
    ),
    Alert(
        "BoilerdOldestPending",
        f"{once('boilerd_queue_oldest_pending_seconds', 'queue')} > 300 unless on (job, queue)"
        f" {once('boilerd_queue_paused', 'queue')} == 1",
        "5m",
        "warning",
        "The oldest task of queue {{ $labels.queue }} has waited for {{ $value | humanizeDuration }}.",
        {f'boilerd_queue_oldest_pending_seconds{{{_JOB},instance="a",queue="default"}}': "0+60x30"},
    ),
    Alert(
        "BoilerdOverdue",
        f"{once('boilerd_queue_overdue_seconds', 'queue')} > 60",
        "2m",
        "warning",
        "A task of queue {{ $labels.queue }} has been due for {{ $value | humanizeDuration }} and is not pending.",
        {f'boilerd_queue_overdue_seconds{{{_JOB},instance="a",queue="default"}}': "0+60x20"},
    ),
    Alert(
        "BoilerdErrorShare",
        "job_queue_type:boilerd_failed_attempts:increase10m / job_queue_type:boilerd_attempts:increase10m > 0.05"
        " and job_queue_type:boilerd_attempts:increase10m >= 20",
        "5m",
        "warning",
        "{{ $value | humanizePercentage }} of the attempts of {{ $labels.type }} in queue {{ $labels.queue }} fail.",
        {f'boilerd_attempts_total{{{_PAIR},instance="a",outcome="retried"}}': "0+10x30"},
    ),
    Alert(
        "BoilerdLost",
        f"""{rate("boilerd_attempts_total", "queue", "type", where='outcome="lost"', over="15m", by="increase")} > 0""",
        "0m",
        "warning",
        "A worker died with a task of type {{ $labels.type }} in queue {{ $labels.queue }}.",
        {f'boilerd_attempts_total{{{_PAIR},instance="a",outcome="lost"}}': "0x5 1x20"},
    ),
    Alert(
        "BoilerdArchiveGrew",
        f"""{once('delta(boilerd_tasks{state="archived"}[30m])', "queue")} > 0""",
        "0m",
        "warning",
        "Tasks of queue {{ $labels.queue }} failed for good: boilerd failures.",
        {f'boilerd_tasks{{{_JOB},instance="a",queue="default",state="archived"}}': "0+1x30"},
    ),
    Alert(
        "BoilerdCronMissed",
        f"{once('boilerd_cron_missed_ticks', 'name')} >= 2",
        "1m",
        "warning",
        "The periodic task {{ $labels.name }} has missed {{ $value }} ticks.",
        {f'boilerd_cron_missed_ticks{{{_JOB},instance="a",name="nightly"}}': "0x3 2x20"},
    ),
    Alert(
        "BoilerdBrokerMemory",
        f"{once('boilerd_broker_memory_bytes')} / ({once('boilerd_broker_max_memory_bytes')} > 0) > 0.8",
        "5m",
        "warning",
        "Redis uses {{ $value | humanizePercentage }} of its maxmemory.",
        {
            f'boilerd_broker_memory_bytes{{{_JOB},instance="a"}}': "90x20",
            f'boilerd_broker_max_memory_bytes{{{_JOB},instance="a"}}': "100x20",
        },
    ),
    Alert(
        "BoilerdLogLost",
        "max by (job, instance) (boilerd_lost_log_lines) > 0",
        "2m",
        "warning",
        "Log lines of the daemon at {{ $labels.instance }} are lost: whoever reads them has stopped.",
        {f'boilerd_lost_log_lines{{{_JOB},instance="a"}}': "5x20"},
    ),
]
#: What a healthy daemon tells, at which no alert fires.
HEALTHY = {
    'boilerd_build_info{job="boilerd",instance="a"}': "1x30",
    f'boilerd_broker_up{{{_JOB},instance="a"}}': "1x30",
    f'boilerd_broker_memory_bytes{{{_JOB},instance="a"}}': "50x30",
    f'boilerd_broker_max_memory_bytes{{{_JOB},instance="a"}}': "100x30",
    f'boilerd_findings{{{_JOB},instance="a",kind="missing",severity="fault"}}': "0x30",
    f'boilerd_findings{{{_JOB},instance="a",kind="paused",severity="warning"}}': "1x30",
    f'boilerd_scheduler_heartbeat_age_seconds{{{_JOB},instance="a",host="a"}}': "5x30",
    f'boilerd_lost_log_lines{{{_JOB},instance="a"}}': "0x30",
    f'boilerd_queue_served{{{_JOB},instance="a",queue="default"}}': "1x30",
    f'boilerd_queue_served{{{_JOB},instance="a",queue="empty"}}': "0x30",
    f'boilerd_tasks{{{_JOB},instance="a",queue="default",state="pending"}}': "0+10x30",
    f'boilerd_tasks{{{_JOB},instance="a",queue="empty",state="pending"}}': "0x30",
    f'boilerd_tasks{{{_JOB},instance="a",queue="default",state="archived"}}': "7x30",
    f'boilerd_queue_oldest_pending_seconds{{{_JOB},instance="a",queue="default"}}': "30x30",
    f'boilerd_queue_oldest_pending_seconds{{{_JOB},instance="a",queue="paused"}}': "0+60x30",
    f'boilerd_queue_paused{{{_JOB},instance="a",queue="paused"}}': "1x30",
    f'boilerd_queue_overdue_seconds{{{_JOB},instance="a",queue="default"}}': "0.1x30",
    f'boilerd_attempts_total{{{_PAIR},instance="a",outcome="completed"}}': "0+100x30",
    f'boilerd_attempts_total{{{_PAIR},instance="a",outcome="retried"}}': "0+1x30",
    f'boilerd_attempts_total{{{_PAIR},instance="a",outcome="lost"}}': "3x30",
    f'boilerd_attempts_total{{{_JOB},queue="default",type="rare",instance="a",outcome="retried"}}': "0+1x30",
    f'boilerd_cron_missed_ticks{{{_JOB},instance="a",name="nightly"}}': "1x30",
}


# --- The board


class Query(NamedTuple):
    """A line, or several, of a panel; `legend` names each."""

    expr: str
    legend: str = "__auto"


class Panel(NamedTuple):
    """A panel; `unit` is Grafana's."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 8


_IN = 'job=~"$job"'
_QUEUE = f'{_IN},queue=~"$queue"'
_TYPE = f'{_QUEUE},type=~"$type"'
_OVER = "$__rate_interval"


def stat(title: str, expr: str, unit: str = "short") -> Panel:
    """A number."""
    return Panel(title, unit, (Query(expr),), "stat", 4)


def by_queue(title: str, metric: str, unit: str, where: str = "") -> Panel:
    """A gauge of each queue."""
    return Panel(title, unit, (Query(once(f"{metric}{{{_QUEUE}{where}}}", "queue"), "{{queue}}"),))


def grown(metric: str, *labels: str, where: str = "") -> str:
    """How fast a counter grows, summed by these labels."""
    told = rate(metric, "queue", "type", *(label for label in labels if label not in {"queue", "type"}),
                where=f"{_TYPE}{where}", over=_OVER)  # fmt: skip
    return f"sum by ({', '.join(labels)}) ({told})"


def quantiles(title: str, metric: str, *labels: str, unit: str = "s", inside: str = _TYPE) -> Panel:
    """The percentiles of a histogram, over all that is chosen."""
    told = rate(f"{metric}_bucket", *labels, "le", where=inside, over=_OVER)
    return Panel(title, unit, tuple(
        Query(f"histogram_quantile({percent / 100}, sum by (le) ({told}))", f"p{percent}") for percent in (50, 95, 99)
    ))  # fmt: skip


def p95(title: str, metric: str) -> Panel:
    """The 95th percentile by type."""
    told = rate(f"{metric}_bucket", "queue", "type", "le", where=_TYPE, over=_OVER)
    return Panel(title, "s", (Query(f"histogram_quantile(0.95, sum by (type, le) ({told}))", "{{type}}"),))


ROWS: dict[str, tuple[Panel, ...]] = {
    "Health": (
        stat("Redis answers", f"min(boilerd_broker_up{{{_IN}}})"),
        stat("Faults", f'sum(max by (kind) (boilerd_findings{{{_IN},severity="fault"}}))'),
        stat("Workers", f"sum({once(f'boilerd_workers{{{_IN}}}', 'host', 'state')})"),
        stat("Pending", f"""sum({once(f'boilerd_tasks{{{_QUEUE},state="pending"}}', 'queue')})"""),
        stat("Oldest pending", f"max(boilerd_queue_oldest_pending_seconds{{{_QUEUE}}})", "s"),
        stat("Archived", f"""sum({once(f'boilerd_tasks{{{_QUEUE},state="archived"}}', 'queue')})"""),
        Panel(
            "Findings",
            "short",
            (Query(f"sum by (severity) (max by (kind, severity) (boilerd_findings{{{_IN}}}))", "{{severity}}"),),
        ),
        Panel(
            "Tasks by state",
            "short",
            (Query(f"sum by (state) ({once(f'boilerd_tasks{{{_QUEUE}}}', 'queue', 'state')})", "{{state}}"),),
        ),
        Panel(
            "Enqueued and ended",
            "ops",
            (
                Query(f"sum({grown('boilerd_tasks_enqueued_total', 'type')})", "enqueued"),
                Query(grown("boilerd_attempts_total", "outcome"), "{{outcome}}"),
            ),
        ),
    ),
    "Queues": (
        by_queue("Pending", "boilerd_tasks", "short", ',state="pending"'),
        by_queue("Oldest pending", "boilerd_queue_oldest_pending_seconds", "s"),
        by_queue("Scheduled, and to be retried", "boilerd_tasks", "short", ',state="scheduled"'),
        Panel(
            "Active, and its limit",
            "short",
            (
                Query(once(f'boilerd_tasks{{{_QUEUE},state="active"}}', "queue"), "{{queue}}"),
                Query(once(f'boilerd_queue_limit{{{_QUEUE},kind="active"}}', "queue"), "{{queue}}: at most"),
            ),
        ),
        Panel("Enqueued", "ops", (Query(grown("boilerd_tasks_enqueued_total", "queue"), "{{queue}}"),)),
        Panel("Ended", "ops", (Query(grown("boilerd_attempts_total", "queue"), "{{queue}}"),)),
        by_queue("Due, and not pending yet", "boilerd_queue_overdue_seconds", "s"),
        by_queue("Paused", "boilerd_queue_paused", "short"),
        by_queue("Memory in Redis", "boilerd_queue_memory_bytes", "bytes"),
    ),
    "Types": (
        quantiles("Waiting time", "boilerd_task_wait_seconds", "queue", "type"),
        quantiles("Run time", "boilerd_task_run_seconds", "queue", "type"),
        quantiles("Payload", "boilerd_task_payload_bytes", "type", unit="bytes", inside=f'{_IN},type=~"$type"'),
        p95("Waiting time by type, p95", "boilerd_task_wait_seconds"),
        p95("Run time by type, p95", "boilerd_task_run_seconds"),
        Panel("Workers that a type keeps busy", "short", (
            Query(grown("boilerd_task_run_seconds_sum", "type"), "{{type}}"),
        )),
        Panel("Attempts by type", "ops", (Query(grown("boilerd_attempts_total", "type"), "{{type}}"),)),
        Panel("Run time", "s", (Query(grown("boilerd_task_run_seconds_bucket", "le"), "{{le}}"),), "heatmap", 16),
    ),
    "Failures": (
        Panel("Failed attempts by type", "ops", (
            Query(grown("boilerd_attempts_total", "type", "outcome", where=f',outcome=~"{FAILED}"'),
                  "{{type}} {{outcome}}"),
        )),
        Panel("Share that fails, by type", "percentunit", (
            Query(
                f"""{grown('boilerd_attempts_total', 'type', where=f',outcome=~"{FAILED}"')}"""
                f""" / ({grown('boilerd_attempts_total', 'type', where=f',outcome=~"{TOLD}"')} > 0)""",
                "{{type}}",
            ),
        )),
        by_queue("Archived", "boilerd_tasks", "short", ',state="archived"'),
    ),
    "Workers": (
        Panel("Workers by state", "short", (
            Query(f"sum by (state) ({once(f'boilerd_workers{{{_IN}}}', 'host', 'state')})", "{{state}}"),
        )),
        Panel("Memory of workers", "bytes", (
            Query(once(f"boilerd_worker_resident_bytes{{{_IN}}}", "host"), "{{host}}"),
            Query(once(f"boilerd_worker_most_resident_bytes{{{_IN}}}", "host"), "{{host}}: largest"),
        )),
        Panel("Heartbeat of the scheduler", "s", (
            Query(f"min by (host) (boilerd_scheduler_heartbeat_age_seconds{{{_IN}}})", "{{host}}"),
        )),
    ),
    "Periodic tasks": (
        Panel("Missed ticks", "short", (Query(once(f"boilerd_cron_missed_ticks{{{_IN}}}", "name"), "{{name}}"),)),
        Panel("Since the last tick", "s", (
            Query(f"time() - {once(f'boilerd_cron_last_tick_timestamp_seconds{{{_IN}}}', 'name')}", "{{name}}"),
        )),
        Panel("Until the next tick", "s", (
            Query(f"{once(f'boilerd_cron_next_tick_timestamp_seconds{{{_IN}}}', 'name')} - time()", "{{name}}"),
        )),
    ),
    "Redis": (
        Panel("Memory", "bytes", (
            Query(once(f"boilerd_broker_memory_bytes{{{_IN}}}"), "used"),
            Query(once(f"boilerd_broker_max_memory_bytes{{{_IN}}}"), "allowed"),
        )),
        Panel("Connections", "short", (Query(once(f"boilerd_broker_clients{{{_IN}}}"), "connections"),)),
        Panel("What a scrape takes", "s", (
            Query(f"max by (instance) (boilerd_scrape_duration_seconds{{{_IN}}})", "{{instance}}"),
        )),
    ),
}  # fmt: skip
#: A mark where another release, or version of boilerd, begins.
_BUILD = f"boilerd_build_info{{{_IN}}}"
RELEASE = f"{_BUILD} unless on (job, instance, version, release) {_BUILD} offset 1m"
VARIABLES = {
    "job": "label_values(boilerd_build_info, job)",
    "queue": 'label_values(boilerd_tasks{job=~"$job"}, queue)',
    "type": 'label_values(boilerd_attempts_total{job=~"$job",queue=~"$queue"}, type)',
}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: Of Grafana's 24 columns.
_HEIGHT = {"stat": 4, "timeseries": 8, "heatmap": 8}


def render_board() -> str:
    """The board, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        head = {"type": "row", "title": title, "collapsed": False, "panels": []}
        panels.append(head | {"gridPos": _place(0, top, 24, 1)})
        top += 1
        left = height = 0
        for panel in row:
            if left + panel.width > 24:
                left, top = 0, top + height
            height = _HEIGHT[panel.kind]
            panels.append(_panel(panel) | {"gridPos": _place(left, top, panel.width, height)})
            left += panel.width
        top += height
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    board = {
        "uid": "boilerd", "title": "boilerd", "tags": ["boilerd"], "schemaVersion": 39, "version": 1, "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"}, "timezone": "", "editable": True, "graphTooltip": 1,
        "templating": {"list": [_datasource(), *(_variable(name, query) for name, query in VARIABLES.items())]},
        "annotations": {"list": [_annotation()]},
        "panels": panels,
    }  # fmt: skip
    return json.dumps(board, indent=1) + "\n"


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query.expr, "legendFormat": query.legend,
         **({"format": "heatmap"} if panel.kind == "heatmap" else {})}
        for number, query in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "type": panel.kind, "title": panel.title, "datasource": _SOURCE, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"calculate": False} if panel.kind == "heatmap" else {},
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "datasource": _SOURCE, "query": {"query": query, "refId": name},
        "definition": query, "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _annotation() -> dict[str, Any]:
    return {
        "name": "Releases", "datasource": _SOURCE, "enable": True, "expr": RELEASE, "step": "60s",
        "iconColor": "blue", "titleFormat": "release {{release}}", "textFormat": "boilerd {{version}}",
    }  # fmt: skip


# --- The rules


def render_rules() -> str:
    """The rules, as Prometheus reads them: a string of JSON is one of YAML as well."""
    lines = ["# Made by `make generate` from scripts/monitoring.py.", "groups:", "  - name: boilerd", "    rules:"]
    for record in RECORDS:
        lines += [f"      - record: {record.name}", f"        expr: {json.dumps(record.expr)}"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}", f"        expr: {json.dumps(alert.expr)}",
            f"        for: {alert.holds_for}", "        labels:", f"          severity: {alert.severity}",
            "        annotations:", f"          summary: {json.dumps(alert.says)}",
        ]  # fmt: skip
    return "\n".join([*lines, ""])


# --- The page


PAGE = CONF.parent / "docs" / "prometheus.md"


def render_page() -> str:
    """The page with fresh tables."""
    text = PAGE.read_text("utf-8")
    for name, rows in (("metrics", _metrics()), ("alerts", _alerts())):
        begin, end = f"<!-- {name}: made by `make generate` -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        text = "\n".join([head + begin, *rows, end]) + rest.partition(end)[2]
    return text


def _metrics() -> list[str]:
    rows = ["| Metric | Is | Labels | Tells |", "|---|---|---|---|"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.means} |")
    return rows


def _alerts() -> list[str]:
    rows = ["| Alert | Severity | After | Says |", "|---|---|---|---|"]
    return rows + [f"| `{each.name}` | {each.severity} | {each.holds_for} | `{each.says}` |" for each in ALERTS]
