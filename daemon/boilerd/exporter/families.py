"""The metrics that the exporter tells: the one table of them, from which the documents are made as well.

`queue` and `type` are the only labels whose values an application chooses, and both are capped.
"""

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
    """Prometheus's word for what a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Family(NamedTuple):
    """A row of the table.

    Attributes:
        name: As it is asked for.
        kind: What it is.
        labels: The names of its labels.
        means: What it tells, as a phrase.
        is_of_daemon: True if it is about the daemon that is asked; else each tells the same, of all hosts.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    means: str
    is_of_daemon: bool = False


_QUEUE, _PAIR = ("queue",), ("queue", "type")

FAMILIES = (
    Family("boilerd_build_info", Kind.INFO, ("version", "python", "broker", "release"), "What runs; always 1", True),
    Family("boilerd_broker_up", Kind.GAUGE, (), "Whether Redis answers; where it is 0, all that it holds is absent"),
    Family("boilerd_broker_memory_bytes", Kind.GAUGE, (), "Memory that Redis uses"),
    Family("boilerd_broker_max_memory_bytes", Kind.GAUGE, (), "Memory that it may use; 0: no limit"),
    Family("boilerd_broker_clients", Kind.GAUGE, (), "Connections that it has"),
    Family("boilerd_findings", Kind.GAUGE, ("kind", "severity"), "What `boilerd health --explain` finds", True),
    Family("boilerd_scheduler_heartbeat_age_seconds", Kind.GAUGE, ("host",), "Time since it renewed the leases", True),
    Family("boilerd_lost_log_lines", Kind.GAUGE, (), "Log lines that nobody took, and nobody knows of yet", True),
    Family("boilerd_workers", Kind.GAUGE, ("host", "state"), "Workers that live: busy, idle, starting or suspended"),
    Family("boilerd_worker_resident_bytes", Kind.GAUGE, ("host",), "Memory of all of a host's workers"),
    Family("boilerd_worker_most_resident_bytes", Kind.GAUGE, ("host",), "Memory of the largest of them"),
    Family("boilerd_suspended", Kind.GAUGE, (), "Whether `rq suspend` holds all claims"),
    Family("boilerd_tasks", Kind.GAUGE, ("queue", "state"), "Tasks in a state; those to be retried are scheduled"),
    Family("boilerd_queue_oldest_pending_seconds", Kind.GAUGE, _QUEUE, "For how long the oldest pending task waits"),
    Family("boilerd_queue_overdue_seconds", Kind.GAUGE, _QUEUE, "For how long a scheduled task has been due"),
    Family("boilerd_queue_paused", Kind.GAUGE, _QUEUE, "Whether it is paused"),
    Family("boilerd_queue_served", Kind.GAUGE, _QUEUE, "Whether a worker that lives works on it, or need not"),
    Family("boilerd_queue_memory_bytes", Kind.GAUGE, _QUEUE, "Memory of its tasks in Redis, roughly"),
    Family("boilerd_queue_limit", Kind.GAUGE, ("queue", "kind"), "Its `max_active` and `max_length`, where it has one"),
    Family("boilerd_queues_left_out", Kind.GAUGE, (), "Queues beyond the 200 that have metrics"),
    Family("boilerd_tasks_enqueued_total", Kind.COUNTER, _PAIR, "Tasks that were enqueued"),
    Family("boilerd_attempts_total", Kind.COUNTER, (*_PAIR, "outcome"), "Attempts that ended"),
    Family("boilerd_task_wait_seconds", Kind.HISTOGRAM, _PAIR, "From when a task could run to its first attempt"),
    Family("boilerd_task_run_seconds", Kind.HISTOGRAM, _PAIR, "How long attempts ran"),
    Family("boilerd_task_payload_bytes", Kind.HISTOGRAM, ("type",), "Size of payloads"),
    Family("boilerd_cron_last_tick_timestamp_seconds", Kind.GAUGE, ("name",), "Last tick of a periodic task", True),
    Family("boilerd_cron_next_tick_timestamp_seconds", Kind.GAUGE, ("name",), "Next tick of a periodic task", True),
    Family("boilerd_cron_missed_ticks", Kind.GAUGE, ("name",), "Ticks that are due, and at which nothing came", True),
    Family("boilerd_scrape_duration_seconds", Kind.GAUGE, (), "How long it took to ask Redis and the daemon", True),
)  # fmt: skip
