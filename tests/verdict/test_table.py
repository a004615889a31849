"""The table of findings: each row finds what it is for, and nothing where all is well."""

import itertools
from datetime import date
from typing import Any

import pytest

from boilerd.broker.overview import Overview, QueueOverview
from boilerd.broker.sudden_failures import SuddenFailure
from boilerd.broker.views import Day, QueueDetail, QueueInfo
from boilerd.verdict.facts import Facts, Silence
from boilerd.verdict.finding import Severity
from boilerd.verdict.table import TABLE, judge

#: What a daemon tells of itself that is at work.
INFO: dict[str, Any] = {
    "state": "ready",
    "status": "2 workers, 2 busy, 9 pending",
    "is_quiet": False,
    "trouble": "",
    "lost_lines": 0,
    "is_broker_away": False,
    "heartbeat_age_s": 4.0,
    "missing": [],
    "entering": [],
    "failed_starts": {},
    "halted": [],
    "hanging": [],
    "pools": [{"name": "default", "workers": 2, "slots": 1, "running": 2, "stuck": 0, "is_quiet": False}],
}


def queue(name: str = "mail", *, latency_s: float = 0.0, dropped: int = 0, **found: Any) -> QueueOverview:
    numbers = {"pending": 0, "active": 0, "scheduled": 0, "completed": 0, "archived": 0, "is_paused": False}
    counts = QueueInfo(name, **{**numbers, **{key: found.pop(key) for key in [*found] if key in (*numbers, "problem")}})
    today = Day(date(2027, 1, 1), 0, 0, dropped=dropped)
    return QueueOverview(QueueDetail(counts, latency_s, 0, 0, 0, today), **found)


def redis(*queues: QueueOverview, workers: int = 2, **found: Any) -> Overview:
    return Overview(queues=queues or [queue(pending=5)], workers=workers, **found)


def facts(info: dict[str, Any] | None = None, overview: Overview | None = None, **found: Any) -> Facts:
    """Of a daemon that serves the queue `mail`, and is well but for what is given."""
    usual: dict[str, Any] = {"queues": frozenset({"mail"}), "archive_limit": 1000, "processes": processes()}
    return Facts(info=INFO | (info or {}), overview=overview or redis(), **usual | found)


def processes(**states: str) -> list[dict[str, Any]]:
    names = {"scheduler": "RUNNING", "worker:0": "RUNNING", "worker:1": "RUNNING"}
    return [{"name": name, "state": state} for name, state in (names | states).items()]


def silent(cause: Silence, **found: Any) -> Facts:
    return Facts(cause, "not there", overview=redis(), **found)


SICK = {
    "disk": (facts(overview=redis(unwritten_bytes=70)), "70 accepted bytes are in memory alone"),
    "broker": (facts(broker_error="Redis is out of memory"), "Redis is out of memory"),
    "absent": (silent(Silence.ABSENT), "only Redis was asked, by which 2 workers live"),
    "mute": (silent(Silence.MUTE), "gives no answer"),
    "down": (facts(processes=processes(**{"worker:1": "FATAL"})), "worker:1 (fatal) crashed at the start"),
    "failed_start": (
        facts({"failed_starts": {"worker:0": "OSError: no"}}),
        "worker:0 does not serve, its start failed: OSError",
    ),
    "stopped": (
        facts({"missing": ["worker:0"]}, processes=processes(**{"worker:0": "STOPPED"})),
        "worker:0 was stopped by hand",
    ),
    "missing": (facts({"missing": ["worker:0", "worker:1"]}), "worker:0, worker:1 do not serve"),
    "broker_away": (facts({"is_broker_away": True, "missing": ["worker:0"]}), "wait for Redis"),
    "halted": (facts({"halted": ["worker:1"]}), "worker:1 is stopped by a signal"),
    "hanging": (facts({"hanging": ["worker:1"]}), "worker:1 hangs"),
    "heartbeat": (facts({"heartbeat_age_s": 42.0}), "no heartbeat for 42 s"),
    "lost_lines": (facts({"lost_lines": 1200}), "1,200 log lines were lost"),
    "dropping": (facts(overview=redis(queue(archived=1000, dropped=3))), "3 tasks were dropped today"),
    "misplaced": (facts(overview=redis(queue(problem="rq:wip:mail is no sorted set"))), "rq:wip:mail is no sorted set"),
    "late": (facts(overview=redis(queue(pending=1, latency_s=50)), max_latency_s=30), "mail has waited for 50s"),
    "starting": (facts({"state": "starting", "missing": ["worker:0"]}), "the daemon starts"),
    "draining": (
        facts({"state": "draining", "status": "draining, 1 worker"}),
        "the daemon drains, and then ends: 1 worker",
    ),
    "reloading": (facts({"state": "reloading"}, processes=processes(**{"worker:0": "EXITED"})), "the daemon reloads"),
    "closed": (silent(Silence.CLOSED), "the daemon of this host is not there"),
    "suspended": (facts(overview=redis(is_suspended=True)), "`rq suspend` holds all workers"),
    "unserved": (facts(overview=redis(queue("maill", pending=7, is_served=False))), "queue maill (7 tasks)"),
    "overdue": (
        facts(overview=redis(queue(scheduled=1, overdue_s=75))),
        "no scheduler makes them pending, in mail (the first for 1m15s)",
    ),
    "quiet": (facts({"is_quiet": True}), "the daemon is quiet"),
    "paused": (facts(overview=redis(queue(pending=7, is_paused=True))), "paused: queue mail (7 tasks)"),
    "failing": (
        facts(failing=[SuddenFailure("mail:send", 30, 40, 0.012)]),
        "type mail:send fails: 30 of its 40 attempts of the last 15m did, and 1.2% in the day before",
    ),
    "full": (facts(overview=redis(queue(archived=1000))), "the archive of queue mail is full"),
    "filling": (facts(overview=redis(queue(archived=900, archived_lately=50))), "its archive is full in 2h"),
    "refused_reload": (facts({"trouble": "reload refused: no such module"}), "reload refused: no such module"),
    "stuck": (facts({"pools": [{"name": "web", "stuck": 2, "is_quiet": False}]}), "2 tasks go on after the interrupt"),
    "kept": (facts(kept=2, state_dir="/var/lib/boilerd"), "outcomes of 2 workers wait in /var/lib/boilerd/outcomes"),
    "memory": (facts(overview=redis(memory_share=0.93)), "93% of its maxmemory"),
    "clock": (facts(overview=redis(clock_ahead_s=-60.0)), "1m behind that of Redis"),
    "waiting": (facts(overview=redis(queue(pending=1200, latency_s=180))), "mail (1,200, the oldest for 3m)"),
    "concurrency": (
        facts(overview=redis(queue(pending=3, aside=3, first_aside="it", aside_s=7))),
        "mail (3, the first for 7s)",
    ),
}


@pytest.mark.parametrize("kind", [row.kind for row in TABLE])
def test_a_row_finds_what_it_is_for_and_no_other_row_does(kind: str) -> None:
    sick, words = SICK[kind]

    verdict = judge(sick)

    (finding,) = verdict.findings
    assert finding.kind == kind
    assert words in finding.says
    assert finding.command
    assert verdict.sentence == f"{verdict.word}: {finding.says}"


@pytest.mark.parametrize(
    "well",
    [
        pytest.param(facts(), id="busy"),
        pytest.param(facts(processes=processes(**{"worker:0": "EXITED"})), id="a worker is being replaced"),
        pytest.param(facts(processes=processes(**{"worker:0": "STOPPING"})), id="a worker that retires"),
        pytest.param(facts({"state": "reloading"}), id="a reload that tries what is new"),
        pytest.param(
            facts(overview=redis(queue(pending=10**6, latency_s=59), clock_ahead_s=4.9)), id="a million tasks"
        ),
        pytest.param(facts(overview=redis(queue(pending=5, is_served=False), workers=1)), id="all its workers are new"),
        pytest.param(facts(overview=redis(queue(archived=500, archived_lately=20))), id="an archive with room"),
        pytest.param(facts(overview=redis(queue("other", archived=10**4))), id="an archive with another's limit"),
        pytest.param(
            Facts(info={"state": "ready", "status": "of a daemon from before an upgrade"}), id="an old daemon"
        ),
    ],
)
def test_nothing_is_found_where_all_is_well(well: Facts) -> None:
    verdict = judge(well)

    assert (verdict.sentence, verdict.findings) == ("healthy", [])


@pytest.mark.parametrize(
    ("overview", "waits"),
    [
        (redis(queue(pending=1), workers=0), "tasks wait in queue mail (1 task)"),
        (redis(queue(scheduled=2, overdue_s=75), workers=0), "tasks wait in queue mail (2 tasks)"),
        (redis(queue(), workers=0, crons=1), "nobody enqueues the periodic task that daemons had"),
        (
            redis(queue(scheduled=1), workers=0, crons=1200),
            "tasks wait in queue mail (1 task) and nobody enqueues the 1,200 periodic tasks that daemons had",
        ),
    ],
)
def test_where_no_worker_lives_it_is_told_what_waits_for_one(overview: Overview, waits: str) -> None:
    (finding,) = judge(Facts(Silence.CLOSED, overview=overview)).findings[1:]

    assert (finding.kind, finding.says) == ("unserved", f"no worker lives, of whatever host, and {waits}")


def test_where_no_worker_lives_and_nothing_waits_for_one_nothing_is_found() -> None:
    idle = redis(queue(completed=5), workers=0)

    assert [finding.kind for finding in judge(Facts(Silence.CLOSED, overview=idle)).findings] == ["closed"]


def test_an_embedded_server_that_is_not_there_yet_is_no_fault_of_a_start() -> None:
    found = facts({"state": "starting"}, is_embedded=True, broker_error="Redis did not answer")

    assert [finding.kind for finding in judge(found).findings] == ["starting"]


def test_a_full_disk_of_the_embedded_server_is_told_once_and_with_its_place() -> None:
    overview = redis(unwritten_bytes=5)
    found = facts(overview=overview, is_embedded=True, broker_error="Redis cannot save", state_dir="/var/lib/a b")

    (finding,) = judge(found).findings

    assert (finding.kind, finding.command) == ("disk", "df -h '/var/lib/a b'")


def test_the_worst_findings_come_first_and_the_sentence_has_three_of_them() -> None:
    overview = redis(queue(pending=2, is_paused=True, latency_s=90), is_suspended=True)
    verdict = judge(facts({"heartbeat_age_s": 30.0, "is_quiet": True}, overview, kept=1))

    assert [finding.kind for finding in verdict.findings] == ["heartbeat", "suspended", "quiet", "paused", "kept"]
    assert (verdict.word, verdict.sentence.count("; ")) == ("unhealthy", 3)
    assert verdict.sentence.endswith("; and 2 more")


def test_the_rows_of_the_table_stand_in_the_order_of_their_severity() -> None:
    assert [severity for severity, _ in itertools.groupby(row.severity for row in TABLE)] == [*Severity]
    assert len({row.kind for row in TABLE}) == len(TABLE)


def test_of_a_thousand_workers_one_sentence_names_three() -> None:
    (finding,) = judge(facts({"missing": [f"worker:{row}" for row in range(1000)]})).findings

    assert finding.says.startswith("worker:0, worker:1, worker:2 and 997 more do not serve")
