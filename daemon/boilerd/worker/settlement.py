"""Decide what happens to a failed or lost attempt, and record it.

A worker settles the failures of its own attempts, and what its predecessor held when it died. A scheduler
settles the claims whose lease was lost, and those of dead daemons. A worker that lost a lease may live and end
its attempt all the same: Redis refuses that outcome, a failure's in `record_failure`, a completion's in `Hand`.
"""

import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Container, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from msgspec import structs

from boilerd.broker.broker import Broker
from boilerd.broker.claims import Claim, Completion, Failure, batch_place
from boilerd.broker.constants import MOST_GIVEN_BACK, OTHER
from boilerd.broker.held_claims import HeldClaim, chunks, in_order
from boilerd.broker.job_hash import not_registered, read_payload
from boilerd.broker.neighbours import Declared
from boilerd.errors import TaskCancelledError, WorkerDiedError, describe, shown
from boilerd.process.batches import Batch
from boilerd.process.folding import Folding
from boilerd.process.forks import end_child
from boilerd.process.logs import log_context
from boilerd.process.signals import time_limit
from boilerd.tasks.current import CURRENT
from boilerd.tasks.fingerprint import MOST_NAME, FailureKind, kind_of
from boilerd.tasks.mux import Handler, ServeMux
from boilerd.tasks.retry import Decision, FailedAttempt, Hooks, RetryPolicy, Verdict, decide, is_misfit
from boilerd.tasks.rq_functions import Functions
from boilerd.tasks.task import Task
from boilerd.worker.blame import find_blame
from boilerd.worker.tally import Tally

logger = logging.getLogger("boilerd.task")

#: How an attempt ended whose failure says no more than what becomes of its task.
_ENDED = {Verdict.RETRY: "retried", Verdict.ARCHIVE: "archived", Verdict.DROP: "dropped"}
#: How long one hook may take: its process, which may be the scheduler, does nothing else meanwhile.
HOOK_LIMIT_S = 5.0


@contextmanager
def hook_limit() -> Iterator[None]:
    """Raise TimeoutError in the block after `HOOK_LIMIT_S`; a child that it forks ends with it."""
    pid = os.getpid()
    try:
        with time_limit(HOOK_LIMIT_S, TimeoutError(f"the hook took longer than {HOOK_LIMIT_S:g} s")):
            yield
    finally:
        if os.getpid() != pid:
            end_child()


async def _no_loop(task: Task) -> Any:
    raise TypeError(f"{task.type}: only the handlers of a mux run on a loop")


class RecordsFailures(Protocol):
    """A broker, or one that waits for the end of an outage."""

    def fail(self, worker: str, claim: Claim, failure: Failure, *, is_taken: bool = False) -> Verdict | None:
        """See `Broker.fail`."""


class Rules(msgspec.Struct, frozen=True):
    """The application's rules: how to run a task, and what to do with one that failed.

    Attributes:
        handler: Runs a task: the mux.
        may_call: Whether a job of a plain RQ client may call this function.
        policy: Task type → its retry policy.
        hooks: Called when an attempt fails.
        middleware: Goes around the handler.
        refusals: Folds what is logged of refused jobs and misfits, for whoever can write to Redis can cause thousands
            in a second; and of tasks, if the settings say so.
        declared: What the worker's record tells of the application.
        limit_hook: Limits the time of a hook, by a signal.
        is_async: Whether the type's handler is `async def`: a worker with slots runs it on its loop.
        arun: Runs a task with such a handler on the running loop, inside the middleware.
        home: The package of the type's handler, see `kind_of`.
        release: Of the application; empty: it has none.
        tally: Counts attempts for the metrics; of each process its own.
    """

    handler: Handler
    may_call: Callable[[str], bool]
    policy: Callable[[str], RetryPolicy]
    hooks: Hooks
    middleware: Callable[[Handler], Handler] = lambda handler: handler
    refusals: Folding = msgspec.field(default_factory=lambda: Folding(logger))
    declared: Declared = msgspec.field(default_factory=Declared)
    limit_hook: Callable[[], AbstractContextManager[None]] = hook_limit
    is_async: Callable[[str], bool] = lambda _: False
    arun: Callable[[Task], Awaitable[Any]] = _no_loop
    home: Callable[[str], str] = lambda _: ""
    release: str = ""
    tally: Tally = msgspec.field(default_factory=Tally)

    @classmethod
    def of(
        cls,
        mux: ServeMux,
        default: RetryPolicy,
        middleware: Callable[[Handler], Handler],
        crons: Sequence[str] = (),
        refusals: Folding | None = None,
        *,
        release: str = "",
    ) -> "Rules":
        """The rules that `mux` holds; `default` is the policy of handlers that have none of their own."""
        types = [*mux.patterns(), *([""] if mux.has_handler("") else [])]  # with a not_found handler it takes all
        policy = functools.lru_cache(1024)(lambda task_type: mux.policy(task_type) or default)
        declared = Declared(tuple(types), tuple(crons))
        return cls(
            mux, functools.partial(_may_call, mux), policy, mux.hooks, middleware, refusals or Folding(logger),
            declared, is_async=functools.lru_cache(1024)(mux.is_async), arun=middleware(mux.arun),
            home=functools.lru_cache(1024)(functools.partial(_home, mux)), release=release,
        )  # fmt: skip

    def task_of(self, claim: Claim) -> Task | None:
        """The claimed task with its final number of retries: the client's, else its policy's; None: it cannot run."""
        task, chosen = claim.task, claim.max_retries
        if task is None or (claim.function is not None and not self.may_call(claim.function)):
            return None
        task.complete(self.policy(task.type).max_retries if chosen is None else chosen)
        return task

    def decide_failure(self, task: Task, error: BaseException, traceback: str) -> Failure:
        """Call the application's hooks, then decide. A hook that raises, or takes 5 s, is logged and ignored."""
        policy = self.policy(task.type)
        with log_context(**task.log_fields):
            if self.hooks.error_handler:
                try:
                    with self.limit_hook():
                        self.hooks.error_handler(task, error)
                except BaseException:  # sys.exit() in it must not end the process
                    logger.exception("error_handler raised")
            try:
                with self.limit_hook():
                    decision = decide(error, task, policy, self.hooks)
            except BaseException:
                logger.exception("is_failure or retry_delay raised")
                decision = decide(error, task, policy, Hooks())
            kind = self._kind_of(task, error) if decision.counts else None
            self._tell(task, error, decision, kind)
        ended = "cancelled" if isinstance(error, TaskCancelledError) else ""
        return Failure(
            describe(error), traceback, decision, task.max_retries, kind=kind, ended=ended, is_misfit=is_misfit(error)
        )

    def folded(self, failure: Failure) -> AbstractContextManager[None]:
        """A block in which what is logged of a misfit is folded."""
        return self.refusals if failure.is_misfit else nullcontext()

    def _tell(self, task: Task, error: BaseException, decision: Decision, kind: FailureKind | None) -> None:
        """Call the hook that is told what was decided."""
        if self.hooks.on_failure is None:
            return
        fingerprint = kind.fingerprint if kind else ""
        failed = FailedAttempt(task, error, decision.verdict, decision.delay_s, decision.counts, fingerprint)
        try:
            with self.limit_hook():
                self.hooks.on_failure(failed)
        except BaseException:
            logger.exception("on_failure raised")

    def _kind_of(self, task: Task, error: BaseException) -> FailureKind | None:
        """Which failure this is; None: that cannot be told, as some exceptions fail whoever looks at them."""
        key = None
        try:
            if self.hooks.fingerprint:
                with self.limit_hook():
                    key = self.hooks.fingerprint(task, error)
                if key is not None and not isinstance(key, str):
                    raise TypeError(f"fingerprint returned {shown(key)}; it must return a text, or None")  # noqa: TRY301
        except BaseException:
            logger.exception("fingerprint raised")
            key = None
        try:
            kind = kind_of(task.type, error, home=self.home(task.type), key=key)
        except Exception:
            logger.exception("the failure has no group")
            return None
        return structs.replace(kind, release=self.release[:MOST_NAME]) if self.release else kind

    def without_hooks(self) -> "Rules":
        """The same rules, but no hook is called: to settle what a process left that died in a hook."""
        logger.error("a hook ended its process, going on without asking it")
        return structs.replace(self, hooks=Hooks())

    def record_lost_attempt(
        self,
        broker: RecordsFailures,
        worker: str,
        claim: Claim,
        error: BaseException,
        *,
        is_taken: bool = False,
        is_doubtful: bool = False,
    ) -> None:
        """Settle an attempt whose worker is dead, or lost the lease: it counts as a failed one.

        Args:
            broker: Where the failure is recorded.
            worker: Name of the worker that had the claim.
            claim: Of the attempt.
            error: How the worker was lost.
            is_taken: True if the worker may live, but has lost the lease.
            is_doubtful: True if the claim is one of a batch, and nobody knows which of it was running: none is
                counted, and each is claimed alone the next time, so that one which kills its workers is found out.
        """
        task = self.task_of(claim)
        if task is None:
            self.archive_unrunnable(broker, worker, claim)
            return
        line = describe(error)
        if is_doubtful:
            failure = Failure(line, line, Decision(Verdict.RETRY, counts=False), task.max_retries, is_doubtful=True)
            self._record_lost(broker, worker, claim, failure, is_taken=is_taken)
            return
        with log_context(**task.log_fields):
            logger.error("task failed", extra={"error": line})
        rules = self._with_payload(claim)
        context = copy_context()
        context.run(CURRENT.set, task)  # as in a worker: what a hook enqueues inherits from the task
        failure = context.run(rules.decide_failure, task, error, line)
        self._record_lost(broker, worker, claim, failure, is_taken=is_taken)

    def _record_lost(
        self, broker: RecordsFailures, worker: str, claim: Claim, failure: Failure, *, is_taken: bool
    ) -> None:
        record_failure(broker, worker, claim, replace(failure, ended="lost"), is_taken=is_taken, tally=self.tally)

    def _with_payload(self, claim: Claim) -> "Rules":
        """The rules by which a lost attempt is settled; its payload is read if one of the hooks is to see it.

        It may be too large for this process as well. If that ends it, the next one does not ask the hooks.
        """
        hooks = self.hooks
        if hooks.error_handler or hooks.retry_delay or hooks.fingerprint or hooks.on_failure:
            try:
                read_payload(claim)
            except (ValueError, MemoryError):
                return structs.replace(self, hooks=Hooks())
        return self

    def archive_unrunnable(self, broker: RecordsFailures, worker: str, claim: Claim) -> None:
        """Archive a claimed job that cannot run: damaged, forbidden, or of a function that is not registered."""
        error = not_registered(claim.function) if claim.function else claim.error
        line = describe(error) if error else "the record is missing"
        with self.refusals:
            failure = Failure(line, line, Decision(Verdict.ARCHIVE), 0)
            if not claim.is_missing and record_failure(broker, worker, claim, failure):
                self.tally.add(claim.queue, OTHER, "archived")  # the name of its type may be anything
            # Last: a caller may try all of this again after an outage.
            with log_context(**claim.log_fields):
                logger.error("task refused", extra={"error": line})

    def settle_dead_worker(
        self, broker: Broker, worker: str, batch: Batch, died: WorkerDiedError | None
    ) -> list[Claim]:
        """Settle what a dead worker held, by how far it was in its batch.

        Only the attempt that was running counts as a failed one. Those before it in the batch had
        completed, and were not acknowledged yet; those behind it had not begun.

        Args:
            broker: Where the outcomes are written.
            worker: Its name; no living worker has it yet.
            batch: How far it was.
            died: How it ended; None: the daemon ended it, and no attempt counts.

        Returns:
            The claims whose attempts it may have died of.
        """
        completions, unstarted, rest = sort_batch(broker.held(worker), batch)
        for claim in rest:
            if died is None:
                logger.warning("task released, it will run again", extra=claim.log_fields)
                self.tally.count(claim, "put_back")
                unstarted.append(claim.execution_id)
                continue
            # Of another batch: it died after the claim, before it noted the batch on the scoreboard.
            is_unknown = batch_place(claim.execution_id)[0] != batch.number
            self.record_lost_attempt(broker, worker, claim, died, is_doubtful=is_unknown and not claim.is_alone)
        if completions:
            broker.acknowledge(worker, completions)
            self.tally.count_completed(completions)
        if unstarted:
            broker.release(worker, only=unstarted)
        return rest

    def settle_dead_slots(
        self,
        broker: Broker,
        worker: str,
        cut: bool,
        died: WorkerDiedError | None,
        unbegun: Container[str] = (),
    ) -> list[HeldClaim]:
        """Settle what a dead worker with several slots held.

        Args:
            broker: Where the outcomes are written.
            worker: Its name; no living worker has it yet.
            cut: True if the daemon ended it: no attempt counts.
            died: How it ended; None where the daemon ended it.
            unbegun: See `settling_slots`.

        Returns:
            See `settling_slots`.
        """
        steps = self.settling_slots(broker, worker, died, is_cut=cut, unbegun=unbegun)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return list(end.value)

    def settling_slots(
        self,
        broker: Broker,
        worker: str,
        died: WorkerDiedError | None,
        *,
        is_cut: bool = False,
        unbegun: Container[str] = (),
    ) -> Generator[None, None, list[HeldClaim]]:
        """Settle in steps what a dead worker with several slots held; see `worker.blame`.

        Args:
            broker: Where the outcomes are written.
            worker: Its name; no living worker has it yet.
            died: How it ended a moment ago; None: that is not known, or the daemon ended it.
            is_cut: True if the daemon ended it: no attempt counts.
            unbegun: Execution IDs of which it is known that they had not begun: no death is theirs.

        Returns:
            What it held, the claims whose attempts count as failed first.
        """
        held, counted = in_order(broker.find_held(broker.executions_of(worker))), []
        waited = [claim for claim in held if claim.execution_id in unbegun]
        held = [claim for claim in held if claim.execution_id not in unbegun]
        if not is_cut:
            blame = find_blame(broker, held, died)
            for claim, error in blame.counted:
                for whole in broker.read_claims([claim]):
                    self.record_lost_attempt(broker, worker, whole, error)
                yield
            held, counted = blame.rest, [claim for claim, _ in blame.counted]
        # The last ones first, so that the oldest is at the head in the end.
        yield from self._giving_back(broker, worker, waited, is_doubtful=False)
        yield from self._giving_back(broker, worker, held, is_doubtful=not is_cut)
        return [*counted, *held, *waited]

    def _giving_back(
        self, broker: Broker, worker: str, claims: Sequence[HeldClaim], *, is_doubtful: bool
    ) -> Iterator[None]:
        for some in reversed([*chunks(claims, MOST_GIVEN_BACK)]):
            back = broker.give_back(worker, some, is_doubtful=is_doubtful)
            _tell_released(some, back)
            for claim in some:
                if claim.task_id in back:
                    self.tally.add(claim.queue, claim.task_type or OTHER, "lost" if is_doubtful else "put_back")
            yield


def record_failure(
    broker: RecordsFailures,
    worker: str,
    claim: Claim,
    failure: Failure,
    *,
    is_taken: bool = False,
    tally: Tally | None = None,
) -> Verdict | None:
    """Write a failure and what was decided, then log and count what Redis did; nothing where the lease was lost.

    Returns:
        See `Broker.fail`.
    """
    fields = claim.log_fields
    done = broker.fail(worker, claim, failure, is_taken=is_taken)
    if done is None and is_taken:
        logger.debug("task left to its worker, the lease was renewed", extra=fields)
    elif done is None:
        logger.warning("outcome dropped, the lease was lost", extra=fields)
    elif done is Verdict.RETRY:
        logger.info("task will be retried", extra={**fields, "delay_s": round(failure.decision.delay_s, 3)})
    elif done is Verdict.ARCHIVE:
        logger.warning("task archived", extra={**fields, "error": failure.error})
    else:
        logger.info("task dropped", extra=fields)
    if tally and done is not None:
        tally.count(claim, failure.ended or _ENDED[done], failure.run_s, failure.held_s)
    return done


def release_held(broker: Broker, worker: str, **fields: str) -> None:
    """Release all that a worker holds that has ended; its lines in the log have these fields beside the task's."""
    held = {claim.task_id: claim.log_fields for claim in broker.held(worker)}
    for task_id in broker.release(worker):
        told = held.get(task_id, {"task_id": task_id}) | fields
        logger.warning("task released, it will run again", extra=told)


def _tell_released(claims: Iterable[HeldClaim], task_ids: Collection[str]) -> None:
    for claim in claims:
        if claim.task_id in task_ids:
            logger.warning("task released, it will run again", extra=claim.log_fields)


def _home(mux: ServeMux, task_type: str) -> str:
    """The package of the type's handler, or of the function that a job of plain RQ names."""
    handler: Any = mux.match(task_type)
    while isinstance(handler, ServeMux):
        handler = handler.match(task_type)
    if isinstance(handler, Functions):
        return task_type.partition(".")[0]
    while isinstance(handler, functools.partial):
        handler = handler.func
    return str(getattr(inspect.unwrap(handler), "__module__", "")).partition(".")[0] if handler else ""


def _may_call(mux: ServeMux, function: str) -> bool:
    handler = mux.match(function)
    return isinstance(handler, Functions) and handler.names(function)


def sort_batch(claims: Iterable[Claim], batch: Batch) -> tuple[list[Completion], list[str], list[Claim]]:
    """Sort a worker's claims by what is known of them from how far it was.

    Returns:
        The completions that have no result to be kept, which only the worker has; the execution IDs of the claims
        that it had not begun; and all other claims: the one that runs, and those of another batch.
    """
    ended, unstarted, rest = [], [], []
    for claim in claims:
        number, place = batch_place(claim.execution_id)
        if number == batch.number and place >= batch.finished + batch.is_running:
            unstarted.append(claim.execution_id)
        elif number == batch.number and place < batch.finished and not claim.retention_s:
            ended.append(Completion(claim))
        else:
            rest.append(claim)
    return ended, unstarted, rest
