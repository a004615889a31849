"""The table of findings: what is looked for, how bad it is, and what shows more, the worst first.

The page on operating has the same table, made from this one.
"""

from collections.abc import Iterator

from boilerd.verdict import daemon_rows, redis_rows
from boilerd.verdict.facts import Facts
from boilerd.verdict.finding import Finding, Row, Severity, Verdict

_LOG = "boilerd logs --level warning"
_QUEUES = "boilerd queue ls"
_WORKERS = "boilerd worker ls"

TABLE = (
    Row(
        "disk",
        Severity.FAULT,
        "Redis cannot write its file, so that accepted tasks are in memory alone and no more are taken",
        "df -h STATE_DIR",
        redis_rows.disk,
    ),
    Row("broker", Severity.FAULT, "Redis does not answer, refuses, or takes no new tasks", _LOG, redis_rows.broker),
    Row(
        "absent",
        Severity.FAULT,
        "no daemon runs on this host; what Redis shows is judged all the same",
        _LOG,
        daemon_rows.absent,
    ),
    Row(
        "mute",
        Severity.FAULT,
        "the daemon does not answer; what Redis shows is judged all the same",
        _LOG,
        daemon_rows.mute,
    ),
    Row("down", Severity.FAULT, "a process crashed at its start, and is tried again later", _LOG, daemon_rows.down),
    Row(
        "failed_start",
        Severity.FAULT,
        "a worker cannot start, as a lifespan or a hook of the application fails",
        _LOG,
        daemon_rows.failed_start,
    ),
    Row("stopped", Severity.FAULT, "somebody stopped a worker with supervisorctl", _WORKERS, daemon_rows.stopped),
    Row("missing", Severity.FAULT, "a worker has not served for 5 s", _LOG, daemon_rows.missing),
    Row(
        "broker_away",
        Severity.FAULT,
        "processes of the daemon do not get through to Redis, although this command does",
        _LOG,
        daemon_rows.broker_away,
    ),
    Row("halted", Severity.FAULT, "a signal has stopped a worker", _WORKERS, daemon_rows.halted),
    Row("hanging", Severity.FAULT, "a process neither works nor waits, and is killed soon", _LOG, daemon_rows.hanging),
    Row("heartbeat", Severity.FAULT, "the scheduler has not renewed the leases for 20 s", _LOG, daemon_rows.heartbeat),
    Row("lost_lines", Severity.FAULT, "log lines are lost", _LOG, daemon_rows.lost_lines),
    Row(
        "dropping",
        Severity.FAULT,
        "an archive is full, and tasks were dropped from it today",
        "boilerd task ls --state archived",
        redis_rows.dropping,
    ),
    Row(
        "misplaced",
        Severity.FAULT,
        "a key of another program stands where one of boilerd's should",
        _QUEUES,
        redis_rows.misplaced,
    ),
    Row("late", Severity.FAULT, "a task has waited for longer than `--max-latency`", _QUEUES, redis_rows.late),
    Row("starting", Severity.PASSING, "the daemon starts", "boilerd logs -f", daemon_rows.starting),
    Row("draining", Severity.PASSING, "the daemon drains", "boilerd logs -f", daemon_rows.draining),
    Row("reloading", Severity.PASSING, "the workers have ended for a reload", "boilerd logs -f", daemon_rows.reloading),
    Row(
        "closed",
        Severity.WARNING,
        "this user may not ask the daemon; what Redis shows is judged all the same",
        "id",
        daemon_rows.closed,
    ),
    Row("suspended", Severity.WARNING, "`rq suspend` holds the claims of all workers", _QUEUES, redis_rows.suspended),
    Row(
        "unserved",
        Severity.WARNING,
        "tasks wait in a queue that no living worker works on, or no worker lives, and daemons had periodic tasks",
        _QUEUES,
        redis_rows.unserved,
    ),
    Row(
        "overdue",
        Severity.WARNING,
        "a scheduled task has been due for a minute, and no scheduler makes it pending",
        "boilerd task ls --state scheduled",
        redis_rows.overdue,
    ),
    Row("quiet", Severity.WARNING, "the daemon or one of its pools is quiet", _WORKERS, daemon_rows.quiet),
    Row("paused", Severity.WARNING, "a queue is paused", _QUEUES, redis_rows.paused),
    Row(
        "failing",
        Severity.WARNING,
        "of at least 20 attempts that a task type had in the last 15 minutes half or more failed, and of at least 100"
        " in the day before a tenth or less",
        "boilerd types TYPE",
        redis_rows.failing,
    ),
    Row("full", Severity.WARNING, "an archive is full", "boilerd task ls --state archived", redis_rows.full),
    Row(
        "filling",
        Severity.WARNING,
        "an archive is full within a day, at the rate of the last hour",
        "boilerd task ls --state archived",
        redis_rows.filling,
    ),
    Row(
        "refused_reload",
        Severity.WARNING,
        "the last reload failed, at most 10 minutes ago",
        _LOG,
        daemon_rows.refused_reload,
    ),
    Row("stuck", Severity.WARNING, "tasks in slots do not end after their interrupt", _WORKERS, daemon_rows.stuck),
    Row(
        "kept",
        Severity.WARNING,
        "outcomes that could not be written have waited for a minute in the state directory",
        _LOG,
        daemon_rows.kept,
    ),
    Row("memory", Severity.WARNING, "Redis uses 90 % of its `maxmemory`", "boilerd stats", redis_rows.memory),
    Row(
        "clock",
        Severity.WARNING,
        "the clocks of this host and of Redis differ by more than 5 s",
        "timedatectl",
        redis_rows.clock,
    ),
    Row("waiting", Severity.NOTE, "the oldest task of a queue has waited for a minute", _QUEUES, redis_rows.waiting),
    Row(
        "concurrency",
        Severity.NOTE,
        "tasks wait for a share of their concurrency key",
        "boilerd task why ID",
        redis_rows.concurrency,
    ),
)


def judge(facts: Facts) -> Verdict:
    """The verdict on these facts."""
    return Verdict.of([*_findings(facts)])


def _findings(facts: Facts) -> Iterator[Finding]:
    for row in TABLE:
        for says, command in row.find(facts):
            yield Finding(row.kind, row.severity, says, command or row.command)
