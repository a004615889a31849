"""What to find in the things that a daemon tells of itself; in the order of the table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from boilerd.errors import listed
from boilerd.process.scoreboard import LATE_HEARTBEAT_S
from boilerd.verdict.facts import UP, Facts, Silence
from boilerd.verdict.finding import Found

#: Names that one sentence has.
MOST_NAMES = 3


def absent(facts: Facts) -> Iterator[Found]:
    """No daemon runs here."""
    if facts.silence is Silence.ABSENT:
        yield Found(f"the daemon of this host is {facts.told}{_judged(facts)}")


def mute(facts: Facts) -> Iterator[Found]:
    """One runs here and gives no answer."""
    if facts.silence is Silence.MUTE:
        yield Found(f"the daemon of this host gives no answer: {facts.told}{_judged(facts)}")


def closed(facts: Facts) -> Iterator[Found]:
    """One runs here, and this user may not ask it."""
    if facts.silence is Silence.CLOSED:
        yield Found(f"the daemon of this host is {facts.told}{_judged(facts)}")


def down(facts: Facts) -> Iterator[Found]:
    """Processes that crashed; not those that are about to be replaced, as a worker is that has reached `max_tasks`."""
    starts = facts.info.get("failed_starts", {})
    found = [
        f"{process['name']} ({process['state'].lower()})"
        for process in _processes(facts)
        if process["state"] in {"BACKOFF", "FATAL"} and process["name"] not in starts
    ]
    if found:
        yield Found(f"{_listed(found)} crashed at the start and {_do(found, 'waits', 'wait')} for another try")


def failed_start(facts: Facts) -> Iterator[Found]:
    """Workers whose start the application lets fail; also in a start, which does not end by itself then."""
    for name, why in [*facts.info.get("failed_starts", {}).items()][:MOST_NAMES]:
        yield Found(f"{name} does not serve, its start failed: {why}")


def stopped(facts: Facts) -> Iterator[Found]:
    """Workers that somebody stopped by Supervisor's tools."""
    if found := [name for name in _missing(facts) if _state_of(facts, name) == "STOPPED"]:
        yield Found(f"{_listed(found)} {_do(found, 'was', 'were')} stopped by hand")


def missing(facts: Facts) -> Iterator[Found]:
    """Workers that have not served for some seconds, whatever the cause."""
    entering = facts.working.get("entering", [])
    others = [name for name in _missing(facts) if _state_of(facts, name) in UP]
    if found := [name for name in others if name in entering]:
        yield Found(f"{_listed(found)} {_do(found, 'does', 'do')} not serve yet, and still enter the lifespans")
    if found := [name for name in others if name not in entering]:
        yield Found(f"{_listed(found)} {_do(found, 'does', 'do')} not serve: crashed or hanging at the start")


def broker_away(facts: Facts) -> Iterator[Found]:
    """Processes to which Redis does not answer; where it answers this command, it refuses them."""
    if facts.working.get("is_broker_away") and not facts.broker_error:
        yield Found("processes of the daemon wait for Redis, which is away or refuses them")


def halted(facts: Facts) -> Iterator[Found]:
    """Workers that a signal stopped."""
    if found := facts.working.get("halted"):
        yield Found(f"{_listed(found)} {_do(found, 'is', 'are')} stopped by a signal, until `kill -CONT`")


def hanging(facts: Facts) -> Iterator[Found]:
    """Processes that are killed soon."""
    if found := facts.working.get("hanging"):
        yield Found(f"{_listed(found)} {_do(found, 'hangs and is', 'hang and are')} replaced in some seconds")


def heartbeat(facts: Facts) -> Iterator[Found]:
    """A scheduler that renews no leases."""
    age_s = facts.working.get("heartbeat_age_s", 0.0)
    if age_s > LATE_HEARTBEAT_S:
        yield Found(
            f"the scheduler has given no heartbeat for {age_s:.0f} s: leases end, and no scheduled task becomes pending"
        )


def lost_lines(facts: Facts) -> Iterator[Found]:
    """Log lines that nobody took."""
    if lost := facts.working.get("lost_lines"):
        yield Found(f"{lost:,} log lines were lost: whoever reads stdout has stopped, or the disk is full")


def starting(facts: Facts) -> Iterator[Found]:
    """A start that goes on."""
    yield from _doing(facts, "starting", "starts")


def draining(facts: Facts) -> Iterator[Found]:
    """A drain that goes on."""
    yield from _doing(facts, "draining", "drains, and then ends")


def reloading(facts: Facts) -> Iterator[Found]:
    """A reload for which the workers drain."""
    yield from _doing(facts, "reloading", "reloads")


def quiet(facts: Facts) -> Iterator[Found]:
    """A daemon or pools that claim nothing."""
    pools = [pool["name"] for pool in facts.info.get("pools", []) if pool["is_quiet"]]
    if facts.info.get("is_quiet"):
        yield Found("the daemon is quiet, and claims nothing until `boilerd resume`")
    elif pools:
        names = _listed(pools)
        yield Found(f"{_do(pools, 'pool', 'pools')} {names} {_do(pools, 'is', 'are')} quiet, until `boilerd resume`")


def refused_reload(facts: Facts) -> Iterator[Found]:
    """A reload that failed lately."""
    if trouble := facts.info.get("trouble"):
        yield Found(f"the old code and settings serve; {trouble}")


def stuck(facts: Facts) -> Iterator[Found]:
    """Tasks in slots that go on after their interrupt."""
    pools = [pool for pool in facts.info.get("pools", []) if pool.get("stuck")]
    if number := sum(pool["stuck"] for pool in pools):
        names = _listed([pool["name"] for pool in pools])
        what = "1 task goes" if number == 1 else f"{number:,} tasks go"
        yield Found(f"{what} on after the interrupt, and cannot be ended, in pool {names}")


def kept(facts: Facts) -> Iterator[Found]:
    """Outcomes that a worker could not write before it had to end."""
    if facts.kept:
        workers = "a worker" if facts.kept == 1 else f"{facts.kept:,} workers"
        yield Found(
            f"outcomes of {workers} wait in {facts.state_dir}/outcomes, until a daemon with this Redis writes them"
        )


def _judged(facts: Facts) -> str:
    """What the judgement stands on, where only Redis was asked."""
    if facts.overview is None:
        return ""
    lives = f"{facts.overview.workers:,} workers live" if facts.overview.workers else "no worker lives"
    return f"; only Redis was asked, by which {lives}, of whatever host"


def _doing(facts: Facts, state: str, does: str) -> Iterator[Found]:
    if facts.is_passing and facts.state == state:
        yield Found(f"the daemon {does}: {facts.info.get('status', state).removeprefix(f'{state}, ')}")


def _processes(facts: Facts) -> Sequence[Mapping[str, Any]]:
    return facts.processes if facts.working else ()


def _missing(facts: Facts) -> list[str]:
    """The workers that do not serve, but for those whose state or start says it all."""
    if facts.working.get("is_broker_away"):  # they wait for that
        return []
    starts = facts.info.get("failed_starts", {})
    return [name for name in facts.working.get("missing", []) if name not in starts]


def _state_of(facts: Facts, name: str) -> str:
    return next((process["state"] for process in facts.processes if process["name"] == name), "STARTING")


def _listed(names: Sequence[str]) -> str:
    return listed(names, MOST_NAMES)


def _do(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
