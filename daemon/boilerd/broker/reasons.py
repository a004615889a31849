"""Find the reasons in a task's circumstances: sentences, with what would help."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from boilerd.broker.circumstances import DEFERRED, UNCLAIMED, Circumstances, Holder, Longest, Server, Share
from boilerd.broker.constants import MOST_NEAR
from boilerd.broker.explanation import Explanation, Reason, ReasonKind
from boilerd.broker.views import CompletedTask, TaskDetail
from boilerd.errors import MisplacedKeyError, closest
from boilerd.tasks.queues import DEFAULT_POOL
from boilerd.tasks.task import TaskState
from boilerd.units import lasting

#: A scheduler looks for leases that ended, and for due tasks that nobody woke it for, every 5 s.
LOOK_EVERY_S = 5.0
#: What starts a daemon: a unit, or `boilerd run`; which of these, Redis does not know.
_START = "boilerd run"


def explain(found: Circumstances) -> Explanation:
    """All reasons that the circumstances hold."""
    task = found.task
    empty = Explanation(task.id, task.type, task.queue, task.state, task.rq_status, _moment(found.now_s))
    by_state = {TaskState.ACTIVE: _active, TaskState.COMPLETED: _completed, TaskState.ARCHIVED: _archived}
    reasons = _waiting if empty.is_waiting else by_state.get(task.state, _foreign) if task.state else _foreign
    return empty.plus(*reasons(found), *_unique(found))


def explain_gone(queue: str, done: CompletedTask) -> Explanation:
    """Why a task has no record: it completed, and was not kept."""
    fact = f"It completed on worker {done.worker}, and was not kept: its retention is 0 or over."
    reason = Reason(ReasonKind.COMPLETED, fact, since=done.ended_at)
    return Explanation(done.id, done.type, queue, TaskState.COMPLETED, "finished", None, (reason,))


def quiet_daemon(explanation: Explanation, pool: str = "") -> Explanation:
    """The same for whoever knows that the daemon, or its pool, which serves the task's queue here is quiet."""
    who = f"Pool {pool} of the daemon here" if pool else "The daemon here"
    fact = f"{who} is quiet, so that its workers claim nothing; those of other hosts may."
    # That all workers are quiet, as their records have it, is known here a moment later.
    others = [reason for reason in explanation.reasons if reason.kind is not ReasonKind.QUIET]
    said = Reason(ReasonKind.QUIET, fact, remedy=f"boilerd resume {pool}".strip())
    return replace(explanation, reasons=others).plus(said)


# --- It waits


def _waiting(found: Circumstances) -> Iterator[Reason]:
    yield from _timed(found)
    yield from _held(found)
    yield from _in_vain(found)
    if found.task.state is TaskState.PENDING and found.is_listed and not found.misplaced:
        yield from _behind_others(found)


def _timed(found: Circumstances) -> Iterator[Reason]:
    task = found.task
    if not found.is_listed:
        yield Reason(
            ReasonKind.STRAY,
            f"Its record says {task.rq_status}, but it stands in no list of queue {task.queue}: another program took"
            " it out, or Redis lost it; enqueue it again.",
            remedy=_command("boilerd task show", task.id),
        )
    elif task.rq_status == DEFERRED:
        yield _dependencies(found)
    elif task.state is TaskState.SCHEDULED:
        yield _due(found, ReasonKind.DUE, "It is scheduled for a moment")
    elif task.state is TaskState.RETRY:
        most = "?" if task.max_retries is None else str(task.max_retries)
        error = f": {task.last_error}" if task.last_error else ""
        yield _due(found, ReasonKind.RETRY, f"It failed{error}; retry {task.retried} of {most} waits for its moment")


def _due(found: Circumstances, kind: ReasonKind, what: str) -> Reason:
    task = found.task
    due = task.next_run_at
    if due is None or due.timestamp() > found.now_s:
        return Reason(kind, f"{what}.", ends_at=due, remedy=_command("boilerd task run", task.id))
    if any(server.is_ours for server in found.servers):
        late = f"{what}, which has come: a scheduler makes it pending within {LOOK_EVERY_S:.0f} s."
        return Reason(kind, late, since=due, ends_at=_moment(found.now_s + LOOK_EVERY_S))
    return Reason(kind, f"{what}, which has come, but no daemon lives that makes it pending.", since=due, remedy=_START)


def _dependencies(found: Circumstances) -> Reason:
    failed = {
        task_id: state for task_id, state in found.dependencies.items() if state in {"failed", "stopped", "canceled"}
    }
    if found.allows_failures:
        failed = {task_id: state for task_id, state in failed.items() if state != "failed"}
    open_ones = [task_id for task_id, state in found.dependencies.items() if state not in {"", "finished"}]
    if failed:
        told = _listed(f"{task_id} ({state})" for task_id, state in failed.items())
        fact = f"It depends on jobs that have ended, and did not complete: {told}. It never runs unless these do."
        return Reason(
            ReasonKind.DEPENDENCIES, fact, remedy=_command("boilerd task run", next(iter(failed))), tasks=[*failed]
        )
    if open_ones:
        told = _listed(f"{task_id} ({found.dependencies[task_id]})" for task_id in open_ones)
        fact = f"It depends on jobs that have not ended: {told}."
        return Reason(ReasonKind.DEPENDENCIES, fact, remedy=_command("boilerd task why", open_ones[0]), tasks=open_ones)
    fact = "All jobs that it depends on have ended, but the last of them did not call it; enqueue it again."
    return Reason(ReasonKind.DEPENDENCIES, fact)


def _held(found: Circumstances) -> Iterator[Reason]:
    """What keeps everybody from claiming it."""
    queue = found.task.queue
    if found.misplaced:
        yield Reason(
            ReasonKind.MISPLACED, f"Nothing is claimed from queue {queue}: {MisplacedKeyError(*found.misplaced)}."
        )
    if found.is_suspended:
        yield Reason(ReasonKind.SUSPENDED, "`rq suspend` holds the claims of all workers.", remedy="rq resume")
    if not found.serving:
        served = sorted({name for server in found.servers for name in server.queues if name})
        others = f"the workers that live work on {_listed(served)}" if served else "no worker lives at all"
        hint = f"; did you mean {near}?" if (near := closest(queue, served)) else "."
        last = found.last_done
        lately = (
            f" The last task of it completed on worker {last.worker}, at {last.ended_at:%Y-%m-%d %H:%M} UTC."
            if last
            else ""
        )
        yield Reason(
            ReasonKind.UNSERVED, f"Nobody works on queue {queue}: {others}{hint}{lately}",
            remedy=_command("boilerd run --queues", queue) if served else _START,
        )  # fmt: skip
    if found.is_paused:
        fact = f"Queue {queue} is paused, so that nothing is claimed from it."
        yield Reason(ReasonKind.PAUSED, fact, remedy=_command("boilerd queue resume", queue))
    if found.are_quiet and not found.is_suspended:
        fact = f"All workers of queue {queue}, {len(found.serving):,}, are quiet or about to end, and claim nothing."
        yield Reason(ReasonKind.QUIET, fact, remedy=f"boilerd resume {_pool(found.serving)}".strip())


def _in_vain(found: Circumstances) -> Iterator[Reason]:
    """Why it would end without a run once it is claimed."""
    task, declared = found.task, [server.declared for server in found.serving]
    # The hundreds of workers of an application have one object for what it declares.
    known = sorted(
        {pattern for each in {id(each): each for each in declared if each}.values() for pattern in each.types}
    )
    is_told = bool(declared) and all(declared)
    if is_told and found.refusal:
        fact = f"Whoever claims it archives it: {found.refusal}."
        yield Reason(ReasonKind.UNHANDLED, fact)
    elif is_told and not any(map(task.type.startswith, known)):
        hint = f"; did you mean {near}?" if (near := closest(task.type, known)) else "."
        fact = f"No worker of queue {task.queue} has a handler for {task.type}; they have {_listed(known)}{hint}"
        yield Reason(ReasonKind.UNHANDLED, fact, remedy="boilerd reload")
    if task.deadline and task.deadline.timestamp() <= found.now_s:
        fact = "Its deadline has passed: whoever claims it archives it; enqueue it again with a later one."
        yield Reason(ReasonKind.DEADLINE, fact, since=task.deadline)
    elif task.deadline and task.next_run_at and task.deadline <= task.next_run_at:
        fact = "Its deadline passes before it is due: whoever claims it archives it."
        yield Reason(ReasonKind.DEADLINE, fact, remedy=_command("boilerd task run", task.id))


def _behind_others(found: Circumstances) -> Iterator[Reason]:
    """Who comes before a pending task."""
    share = found.share
    stands_aside = share is not None and share.rank is not None
    if found.heavier and not stands_aside:  # its turn in the queue comes once it has a share
        yield _heavier(found)
    if 0 < found.max_active <= found.active:
        fact = (
            f"max_active of queue {found.task.queue} is {found.max_active}, and {found.active} of its tasks run:"
            f" {_holders(found.holders, found.active)}."
        )
        yield _because_of(found.holders, ReasonKind.MAX_ACTIVE, fact)
    if share and (stands_aside or share.running >= share.limit):
        yield _because_of(share.holders, ReasonKind.CONCURRENCY_KEY, _share_fact(share, found.task.concurrency_key))
    if not stands_aside:
        yield _ahead(found)
    if found.longest:
        yield _busy(found.longest, found.task.queue)


def _because_of(holders: Sequence[Holder], kind: ReasonKind, fact: str) -> Reason:
    tasks = [holder.task_id for holder in holders]
    return Reason(kind, fact, remedy=_command("boilerd task why", tasks[0]) if tasks else "", tasks=tasks)


def _share_fact(share: Share, key: str) -> str:
    running = f"{share.running} run: {_holders(share.holders, share.running)}" if share.running else "none runs"
    fact = f"Its concurrency key {key} lets {share.limit} run at a time, and {running}."
    if share.rank is None:
        return f"{fact} {share.waiting:,} wait for a share."
    if share.running < share.limit and not share.rank:
        return f"{fact} It is called within {LOOK_EVERY_S:.0f} s."
    return f"{fact} It is number {share.rank + 1:,} of {share.waiting:,} that wait for a share."


def _heavier(found: Circumstances) -> Reason:
    queue, others = found.task.queue, found.heavier
    names = _listed(f"{each.name} ({each.pending:,} pending)" for each in others)
    fact = f"Workers of queue {queue} take a task of it only while none waits in {names}"
    pending, rate = sum(each.pending for each in others), sum(each.rate for each in others)
    remedy = _scale(found.serving)
    if not all(each.rate for each in others):
        return Reason(ReasonKind.HEAVIER, f"{fact}.", remedy=remedy)
    left_s = pending / rate
    fact += f"; at the last rate, {rate:.3g} a second, that takes about {lasting(left_s)} if no more come."
    return Reason(ReasonKind.HEAVIER, fact, ends_at=_moment(found.now_s + left_s), remedy=remedy)


def _busy(longest: Longest, queue: str) -> Reason:
    what = f"a task of {longest.task_type}" if longest.task_type else "one without a type"
    if longest.is_of_all:
        fact = f"What runs longest on the workers of queue {queue} is {what}, on {longest.worker}."
    else:
        fact = f"On the workers of queue {queue} runs, among others, {what}, on {longest.worker}."
    remedy = _command("boilerd task why", longest.task_id)
    return Reason(ReasonKind.BUSY, fact, since=longest.since, remedy=remedy, tasks=[longest.task_id])


def _pool(serving: Sequence[Server]) -> str:
    """A pool of those that serve the queue; empty: `default` is one."""
    pools = {server.pool for server in serving}
    return "" if DEFAULT_POOL in pools else min(pools, default="")


def _scale(serving: Sequence[Server]) -> str:
    """What gives the queue more workers: a larger pool of those that serve it."""
    pool = _pool(serving)
    return f"boilerd scale {pool and f'{pool}='}N" if serving else ""


def _ahead(found: Circumstances) -> Reason:
    queue, ahead = found.task.queue, found.ahead
    busy = sum(server.is_busy for server in found.serving)
    starting = sum(server.is_starting for server in found.serving)
    quiet = sum(server.is_quiet for server in found.serving)
    workers = f"{busy} of the {len(found.serving)} workers of the queue are busy"
    workers += f", {starting} are starting" if starting else ""
    workers += f", {quiet} are quiet" if quiet else ""
    remedy = _scale(found.serving) if busy == len(found.serving) else "boilerd resume" if quiet else ""
    is_held = found.is_suspended or found.is_paused or found.are_quiet or not found.serving
    if ahead == 0:
        told = "" if is_held else f"; {workers}"
        return Reason(ReasonKind.AHEAD, f"It is the next one of queue {queue}{told}.", remedy=remedy)
    if ahead is None:
        fact = f"At least {MOST_NEAR:,} of the {found.length:,} tasks of queue {queue} are ahead of it"
    else:
        fact = f"{ahead:,} of the {found.length:,} tasks of queue {queue} are ahead of it"
    rate = found.completions / max(found.now_s - found.since_s, 0.001)
    if is_held:
        return Reason(ReasonKind.AHEAD, f"{fact}.")
    if not rate:
        fact += f"; {workers}, and how long it takes is not known, for none completed today."
        return Reason(ReasonKind.AHEAD, fact, remedy=remedy)
    left_s = (MOST_NEAR if ahead is None else ahead) / rate
    at_least = "at least " if ahead is None else ""
    fact += f"; {workers}, and at the last rate, {rate:.3g} a second, that takes {at_least}about {lasting(left_s)}."
    return Reason(
        ReasonKind.AHEAD, fact, ends_at=None if ahead is None else _moment(found.now_s + left_s), remedy=remedy
    )


# --- It runs, or has ended


def _active(found: Circumstances) -> Iterator[Reason]:
    task, claimed = found.task, found.claimed or UNCLAIMED
    on = f"worker {task.worker}" + (f" of host {claimed.host}" if claimed.host else "")
    lease = claimed.lease_ends_s
    has_ended = lease is None or lease <= found.now_s
    if has_ended or not claimed.is_alive:
        yield _lease(found, on, max(lease or 0.0, found.now_s), has_ended=has_ended)
    if found.is_cancelled:
        fact = "Somebody cancelled it, and its worker interrupts the handler; it is archived then."
        yield Reason(ReasonKind.CANCELLED, fact, remedy=_command("boilerd task show", task.id))
    if not has_ended and claimed.is_alive:
        yield Reason(
            ReasonKind.RUNNING, f"It runs on {on}, in attempt {task.retried + 1}.", since=task.started_at,
            ends_at=_interrupted_at(task), remedy=_command("boilerd task cancel", task.id),
        )  # fmt: skip


def _lease(found: Circumstances, on: str, ends_s: float, *, has_ended: bool) -> Reason:
    what = f"Its lease on {on} has ended" if has_ended else f"Its {on} gives no sign of life, and its lease ends"
    if any(server.is_ours for server in found.servers):
        within_s = ends_s + LOOK_EVERY_S - found.now_s
        fact = f"{what}: a scheduler counts a lost attempt within {lasting(within_s)}, and it is retried or archived."
        return Reason(ReasonKind.LEASE, fact, ends_at=_moment(ends_s + LOOK_EVERY_S))
    return Reason(ReasonKind.LEASE, f"{what}, but no daemon lives that takes it over.", remedy=_START)


def _interrupted_at(task: TaskDetail) -> datetime | None:
    ends = [task.deadline] if task.deadline else []
    if task.started_at and task.timeout_s:
        ends += [end] if (end := _moment(task.started_at.timestamp() + task.timeout_s)) else []
    return min(ends, default=None)


def _completed(found: Circumstances) -> Iterator[Reason]:
    task = found.task
    kept = "is kept until it expires" if task.expires_at else "is kept for ever"
    yield Reason(
        ReasonKind.COMPLETED, f"It completed{_on(task)}, and {kept}.", since=task.ended_at, ends_at=task.expires_at,
        remedy=_command("boilerd task show", task.id),
    )  # fmt: skip


def _archived(found: Circumstances) -> Iterator[Reason]:
    task = found.task
    traceback = task.attempts[-1].error.strip() if task.attempts else ""
    error = task.last_error or traceback.rpartition("\n")[2] or "its error is not known"
    if task.max_retries is not None and task.retried >= task.max_retries > 0:
        error = f"after {task.retried} retries of {task.max_retries}: {error}"
    rival = found.lock if found.lock != task.id else ""
    locked = f" Task {rival} has its unique lock, so that it cannot be run meanwhile." if rival else ""
    yield Reason(
        ReasonKind.ARCHIVED, f"It is archived, {error}.{locked}", since=task.ended_at, ends_at=task.expires_at,
        remedy=_command("boilerd task why", rival) if rival else _command("boilerd task run", task.id),
        tasks=[rival] if rival else (),
    )  # fmt: skip


def _foreign(found: Circumstances) -> Iterator[Reason]:
    status = found.task.rq_status or "none"
    fact = f"RQ's tools brought it into a state of theirs, {status}, in which no worker claims it."
    yield Reason(ReasonKind.ENDED, fact, since=found.task.ended_at)


def _unique(found: Circumstances) -> Iterator[Reason]:
    task = found.task
    if found.lock != task.id:
        return
    has_ended = task.state in {TaskState.ARCHIVED, TaskState.COMPLETED}
    fact = (
        "It has a unique lock: an enqueue of the same type and payload is refused meanwhile, which stores no task, so"
        " that there is no ID to ask about; the error names this one."
    )
    remedy = _command("boilerd task delete", task.id) if has_ended else ""
    yield Reason(ReasonKind.UNIQUE, fact, ends_at=_moment(found.lock_ends_s), remedy=remedy)


# --- Words


def _on(task: TaskDetail) -> str:
    return f" on worker {task.worker}" if task.worker else ""


def _holders(holders: Sequence[Holder], number: int) -> str:
    rest = number - len(holders)
    return ", ".join(map(str, holders)) + (f" and {rest:,} more" if rest > 0 else "")


def _listed(names: Iterable[str], most: int = 5) -> str:
    found = list(names)
    return (", ".join(found[:most]) or "none") + (f" and {len(found) - most:,} more" if len(found) > most else "")


def _command(command: str, name: str) -> str:
    """A command for a shell; a name in Redis may be anything."""
    return f"{command} {'-- ' if name.startswith('-') else ''}{shlex.quote(name)}"


def _moment(seconds: float | None) -> datetime | None:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(float(seconds or ""), UTC)
    return None
