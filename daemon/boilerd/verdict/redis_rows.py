"""What to find in the things that Redis shows; in the order of the table."""

import shlex
from collections.abc import Iterator, Sequence

from boilerd.broker.constants import LATELY_S
from boilerd.broker.overview import QueueOverview
from boilerd.errors import listed
from boilerd.tasks.task import TaskState
from boilerd.units import lasting
from boilerd.verdict.facts import Facts, Silence
from boilerd.verdict.finding import Found

#: Queues that one sentence names.
MOST_NAMES = 3
#: An archive that is full within this time, at the rate of the last hour, is told of.
FULL_WITHIN_S = 24 * 3600
#: A part of Redis's memory from which on it is told how much is left.
MUCH_MEMORY = 0.9
#: Clocks that differ by less are taken for the same.
CLOCK_S = 5.0
#: Tasks that have waited for less time are what a queue is for.
WAITS_S = 60.0


def disk(facts: Facts) -> Iterator[Found]:
    """A file that Redis cannot write to, so that it takes nothing more."""
    if facts.overview and (size := facts.overview.unwritten_bytes):
        whose = "the embedded Valkey" if facts.is_embedded else "Redis"
        lost = f"{whose} cannot write to its disk and takes no more tasks; {size:,} accepted bytes are in memory alone"
        yield Found(lost, f"df -h {shlex.quote(facts.state_dir)}" if facts.is_embedded else "boilerd stats")


def broker(facts: Facts) -> Iterator[Found]:
    """Any other reason why Redis does not do what is needed."""
    comes_and_goes = facts.silence is Silence.ABSENT or facts.state in {"starting", "draining"}
    if facts.broker_error and not (facts.is_embedded and comes_and_goes) and not [*disk(facts)]:
        yield Found(f"the broker does not do its work: {facts.broker_error}")


def dropping(facts: Facts) -> Iterator[Found]:
    """Archives that have cost tasks today."""
    for queue in _full(facts):
        if dropped := queue.detail.today.dropped:
            yield Found(
                f"the archive of queue {queue.name} is full, and {dropped:,} tasks were dropped today (UTC)",
                _listing(TaskState.ARCHIVED, queue.name),
            )


def misplaced(facts: Facts) -> Iterator[Found]:
    """Keys of another program where boilerd's should be."""
    if facts.overview is None:
        return
    rows = [*facts.overview.wrong, *(queue.detail.counts for queue in facts.own)]
    told = [*facts.overview.misplaced, *(part for row in rows if row.problem for part in row.problem.split("; "))]
    for problem in [*dict.fromkeys(told)][:MOST_NAMES]:
        yield Found(problem)


def late(facts: Facts) -> Iterator[Found]:
    """Tasks that have waited for longer than somebody wants."""
    if facts.max_latency_s is None or facts.overview is None:
        return
    for queue in {queue.name: queue for queue in [*facts.own, *facts.overview.unserved]}.values():
        if queue.detail.latency_s > facts.max_latency_s:
            paused = " (paused)" if queue.detail.counts.is_paused else ""
            age = lasting(queue.detail.latency_s)
            yield Found(f"the oldest task of queue {queue.name}{paused} has waited for {age}")


def suspended(facts: Facts) -> Iterator[Found]:
    """Claims that RQ's tools hold."""
    if facts.overview and facts.overview.is_suspended:
        yield Found("`rq suspend` holds all workers, which claim nothing until `rq resume`")


def unserved(facts: Facts) -> Iterator[Found]:
    """Tasks that nobody will claim. What a daemon that answers serves, it will, when it has started or reloaded."""
    if facts.overview is None:
        return
    if not facts.overview.workers:
        if facts.silence is not Silence.NONE and (waits := _waits(facts)):
            yield Found(f"no worker lives, of whatever host, and {' and '.join(waits)}", "boilerd worker ls")
        return
    others = [q for q in facts.overview.unserved if facts.silence is not Silence.NONE or q.name not in facts.queues]
    if others:
        yield Found(f"no worker works on {_counted(others)}, of whatever host, so that these tasks wait for ever")


def overdue(facts: Facts) -> Iterator[Found]:
    """Scheduled tasks that no scheduler makes pending, though somebody works."""
    if facts.silence is not Silence.NONE and not (facts.overview and facts.overview.workers):
        return
    found = [queue for queue in facts.own if queue.overdue_s >= WAITS_S]
    if found := sorted(found, key=lambda queue: -queue.overdue_s):
        told = [f"{queue.name} (the first for {lasting(queue.overdue_s)})" for queue in found]
        yield Found(
            f"scheduled tasks are due, and no scheduler makes them pending, in {listed(told, MOST_NAMES)}",
            _listing(TaskState.SCHEDULED, found[0].name),
        )


def paused(facts: Facts) -> Iterator[Found]:
    """Queues that somebody paused."""
    if found := [queue for queue in facts.shown if queue.detail.counts.is_paused]:
        yield Found(f"paused: {_counted(found)}")


def full(facts: Facts) -> Iterator[Found]:
    """Archives that are full."""
    for queue in _full(facts):
        if not queue.detail.today.dropped:
            yield Found(
                f"the archive of queue {queue.name} is full, and the next task that is archived drops the oldest one",
                _listing(TaskState.ARCHIVED, queue.name),
            )


def filling(facts: Facts) -> Iterator[Found]:
    """Archives that will be full within a day, as they grow now."""
    for queue in facts.own:
        left, rate = facts.archive_limit - queue.detail.counts.archived, queue.archived_lately / LATELY_S
        if 0 < left < rate * FULL_WITHIN_S:
            yield Found(
                f"{queue.archived_lately:,} tasks of queue {queue.name} failed for good in the last hour; at that rate"
                f" its archive is full in {lasting(left / rate)}",
                _listing(TaskState.ARCHIVED, queue.name),
            )


def failing(facts: Facts) -> Iterator[Found]:
    """Task types that fail suddenly."""
    for found in facts.failing[:MOST_NAMES]:
        yield Found(
            f"type {found.type} fails: {found.failed:,} of its {found.ended:,} attempts of the last 15m did, and"
            f" {found.share_before:.1%} in the day before",
            f"boilerd types {'-- ' if found.type.startswith('-') else ''}{shlex.quote(found.type)}",
        )


def memory(facts: Facts) -> Iterator[Found]:
    """A Redis whose memory is nearly used up."""
    if facts.overview and facts.overview.memory_share >= MUCH_MEMORY:
        yield Found(f"Redis uses {facts.overview.memory_share:.0%} of its maxmemory, and takes no tasks without memory")


def clock(facts: Facts) -> Iterator[Found]:
    """A clock that differs."""
    ahead_s = facts.overview.clock_ahead_s if facts.overview else 0.0
    if abs(ahead_s) > CLOCK_S:
        place = "ahead of" if ahead_s > 0 else "behind"
        yield Found(
            f"the clock of this host is {lasting(abs(ahead_s))} {place} that of Redis, by which tasks become due"
        )


def waiting(facts: Facts) -> Iterator[Found]:
    """Tasks that have waited for a while, and will run."""
    found = [
        queue for queue in facts.own
        if queue.detail.counts.pending > queue.aside and queue.detail.latency_s >= WAITS_S and queue.is_served
        and not queue.detail.counts.is_paused
    ]  # fmt: skip
    if found := sorted(found, key=lambda queue: -queue.detail.latency_s):
        told = [
            f"{queue.name} ({queue.detail.counts.pending:,}, the oldest for {lasting(queue.detail.latency_s)})"
            for queue in found
        ]
        yield Found(f"tasks wait in {listed(told, MOST_NAMES)}")


def concurrency(facts: Facts) -> Iterator[Found]:
    """Tasks that wait for a share of their concurrency key."""
    if found := sorted((queue for queue in facts.own if queue.aside), key=lambda queue: -queue.aside_s):
        told = [f"{queue.name} ({queue.aside:,}, the first for {lasting(queue.aside_s)})" for queue in found]
        first = found[0].first_aside
        yield Found(
            f"tasks wait for others of their concurrency key in {listed(told, MOST_NAMES)}",
            f"boilerd task why {'-- ' if first.startswith('-') else ''}{shlex.quote(first)}",
        )


def _full(facts: Facts) -> list[QueueOverview]:
    return [queue for queue in facts.own if queue.detail.counts.archived >= facts.archive_limit > 0]


def _waits(facts: Facts) -> list[str]:
    """What waits for a daemon."""
    queues = [queue for queue in facts.own if queue.detail.counts.pending + queue.detail.counts.scheduled]
    crons = facts.overview.crons if facts.overview else 0
    told = [f"tasks wait in {_counted(queues)}"] if queues else []
    number = f"{crons:,} periodic tasks" if crons > 1 else "periodic task"
    return told + ([f"nobody enqueues the {number} that daemons had"] if crons else [])


def _counted(queues: Sequence[QueueOverview]) -> str:
    """The queues with the number of tasks that wait in each."""
    numbers = {queue.name: queue.detail.counts.pending + queue.detail.counts.scheduled for queue in queues}
    told = [f"{name} ({number:,} task{'s' * (number != 1)})" for name, number in numbers.items()]
    return f"queue{'s' * (len(told) > 1)} {listed(told, MOST_NAMES)}"


def _listing(state: TaskState, queue: str) -> str:
    """A command for a shell; a name in Redis may be anything."""
    return f"boilerd task ls --state {state} --queue={shlex.quote(queue)}"
