"""One attempt of a task in this process, for `boilerd task run-here`."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec

from boilerd.broker import key_prefix
from boilerd.broker.connection import connect_to
from boilerd.broker.inspection import Inspection
from boilerd.broker.job_hash import not_registered, request_id_of
from boilerd.cli.enqueue import parse_payload
from boilerd.cli.missing_broker import naming_missing_broker
from boilerd.cli.output import echo, harmless_json
from boilerd.daemon.fork_hooks import start_daemon
from boilerd.daemon.privileges import become
from boilerd.errors import ForbiddenJobError, InvalidTaskError, TaskStateError, shown
from boilerd.process import logs
from boilerd.process.exit_status import FAILED, OK
from boilerd.settings.definitions import Settings
from boilerd.tasks.life import WorkerContext
from boilerd.tasks.loading import load_app
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import Task, check_type, no_such_task
from boilerd.worker.attempt import Completed, Failed, Outcome, encode_result
from boilerd.worker.attempt_log import log_attempts
from boilerd.worker.here import run_here
from boilerd.worker.settlement import Rules

#: The states in which a task can be looked at; one that runs has its handler's effects right now.
_STATES = ("pending", "scheduled", "retry", "completed", "archived")


def run(settings: Settings, what: str, payload: str | None) -> int:
    """Run the task and print its result, or its traceback; the exit status.

    Args:
        settings: Where the broker and the application are.
        what: The ID of a stored task, or with a payload a task type.
        payload: As JSON.
    """
    key_prefix.use(settings.key_prefix)
    with _stdout_for_the_result():
        logs.configure(level=settings.log_level, style=settings.log_format, printed="raw")
        if settings.user and os.geteuid() == 0:
            become(settings.user, ())
        mux = load_app(settings.app, settings.rq_functions)
        rules = Rules.of(mux, settings.retry.policy(), log_attempts)
        task = _stored_task(settings, mux, rules, what) if payload is None else _new_task(rules, what, payload)
        if not mux.has_handler(task.type):
            raise InvalidTaskError(
                f"app {settings.app or '(built-in)'} has no handler for task type {task.type!r};"
                " name the application with --app, or in the settings"
            )
        start_daemon(mux.life)
        try:
            outcome = run_here(rules, mux.life, WorkerContext("here", 0, tuple(settings.served_queues())), task)
        except Exception as error:  # noqa: BLE001 - of a lifespan
            echo(*"".join(traceback.format_exception(error)).splitlines(), err=True)
            return FAILED
        result = encode_result(outcome.result, task) if isinstance(outcome, Completed) else b""
        logs.flush()
    if isinstance(outcome, Completed):
        echo(harmless_json((result or b"null").decode()))
        return OK
    _tell_failure(outcome)
    return FAILED


def _tell_failure(outcome: Outcome) -> None:
    if isinstance(outcome, Failed):
        if isinstance(outcome.error, KeyboardInterrupt):
            raise click.Abort
        echo(*outcome.traceback.splitlines(), err=True)


def _stored_task(settings: Settings, mux: ServeMux, rules: Rules, task_id: str) -> Task:
    """The task as a worker would get it."""
    with naming_missing_broker(settings), connect_to(settings) as connection:
        found = Inspection(connection).as_claimed(task_id)
    if found is None:
        if mux.match(task_id):
            raise InvalidTaskError(f"{shown(task_id)} is a task type and no ID; give it a --payload, such as 'null'")
        raise no_such_task(task_id)
    claim, status = found
    if status == "started":
        raise TaskStateError(f"task {task_id}", "active", "run here", _STATES)
    task = rules.task_of(claim)
    if task is None:
        raise not_registered(claim.function) if claim.function else ForbiddenJobError(str(claim.error))
    return task


def _new_task(rules: Rules, task_type: str, payload: str) -> Task:
    """A task that nobody has enqueued."""
    sent = msgspec.json.decode(encode_payload(parse_payload(payload)))
    task = Task(id="here", type=check_type(task_type), payload=sent, request_id=request_id_of(sent))
    task.complete(rules.policy(task.type).max_retries)
    return task


@contextmanager
def _stdout_for_the_result() -> Iterator[None]:
    """Let all that is printed meanwhile go to stderr, also by programs that the handler starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
