"""``boilerd task``."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from boilerd.broker.views import TaskDetail
from boilerd.cli.inspecting import STATES, confirm, do_all, inspecting, with_broker, with_yes
from boilerd.cli.known_names import complete_queues, complete_types
from boilerd.cli.move import move
from boilerd.cli.options import Loaded, to_headers, with_json_lines
from boilerd.cli.output import echo, echo_error, json_text
from boilerd.cli.run_here import run_here_
from boilerd.cli.tables import absolute, lasting, print_fields, print_json, print_table, relative
from boilerd.cli.why import why
from boilerd.errors import BoilerdError, TaskNotFoundError, TaskStateError, shown
from boilerd.inspector import Action
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.tasks.task import TaskState
from boilerd.units import LONGEST_S

#: Redis takes half a second for it; who wants more can say so.
LOOKS = 300_000


def retried(detail: TaskDetail, between: str = " of ") -> str:
    """Return how many retries are used up, and of how many, as far as that is known."""
    most = between + ("?" if detail.max_retries is None else str(detail.max_retries))
    return f"{detail.retried}{most}"


def _waits_for(detail: TaskDetail) -> str:
    """Name what a pending task waits for, beside a worker."""
    return f"concurrency key {detail.waits_for}" if detail.waits_for else ""


_COLUMNS: dict[TaskState, dict[str, Callable[[TaskDetail], object]]] = {
    TaskState.PENDING: {
        "WAITS SINCE": lambda task: relative(task.enqueued_at),
        "WAITS FOR": _waits_for,
    },
    TaskState.ACTIVE: {"STARTED": lambda task: relative(task.started_at), "WORKER": lambda task: task.worker},
    TaskState.SCHEDULED: {"DUE": lambda task: relative(task.next_run_at)},
    TaskState.RETRY: {
        "DUE": lambda task: relative(task.next_run_at),
        "RETRIED>": lambda task: retried(task, "/"),
        "LAST ERROR": lambda task: task.last_error,
    },
    TaskState.ARCHIVED: {
        "FAILED": lambda task: relative(task.last_failed_at),
        "RETRIED>": lambda task: retried(task, "/"),
        "LAST ERROR": lambda task: task.last_error,
    },
    TaskState.COMPLETED: {
        "COMPLETED": lambda task: relative(task.ended_at),
        "KEPT": lambda task: relative(task.expires_at) if task.expires_at else "for ever",
    },
}


@click.group()
def task() -> None:
    """Look at tasks, run, archive, cancel and delete them.

    \b
    boilerd task ls --state archived
    boilerd task show 049826ce-3df1-4b26-8678-9d36ba9e617c
    """  # noqa: D301 - click looks for the character \b


@task.command("ls")
@click.option(
    "-q", "--queue", show_default="default", shell_complete=complete_queues,
    help="Of which queue; with --header of all, if it is not given.",
)  # fmt: skip
@click.option(
    "-s",
    "--state",
    type=STATES,
    show_default="pending",
    help="In which state; with --header in all, if it is not given.",
)
@click.option(
    "--header", "headers", metavar="NAME=VALUE", multiple=True, callback=to_headers,
    help="Only those that have it; may be given again.",
)  # fmt: skip
@click.option("--after", metavar="PLACE", default="", help="With --header: where an earlier search stopped.")
@click.option("--page", type=click.IntRange(1), default=1, show_default=True, help="Which page.")
@click.option("--size", type=click.IntRange(1, 10_000), default=30, show_default=True, help="Tasks on a page.")
@click.option(
    "--looks", type=click.IntRange(1), default=LOOKS, show_default=True,
    help="Among how many scheduled and retried tasks, the next ones first, to look for those of one of these states;"
    " with --header among how many tasks.",
)  # fmt: skip
@with_json_lines
@with_broker
def list_(
    loaded: Loaded,
    *,
    queue: str | None,
    state: str | None,
    headers: dict[str, str] | None,
    after: str,
    page: int,
    as_json: bool,
    **limits: int,
) -> None:
    """List the tasks of a queue in a state, the next one first; or those of all queues that have a header.

    Those that wait for a time are scheduled, or to be retried; `boilerd queue ls` counts the two together.

    \b
    boilerd task ls --queue critical --state archived
    boilerd task ls --header request_id=r-9
    boilerd task ls --state retry --json | jq -r .id
    """  # noqa: D301 - click looks for the character \b
    chosen = TaskState(state) if state else None
    if headers:
        if page != 1:
            raise click.UsageError("--header goes on with --after; leave --page out")
        _list_found(loaded, headers, queue=queue, state=chosen, after=after, as_json=as_json, **limits)
    elif after:
        raise click.UsageError("--after is for --header")
    else:
        _list_page(loaded, queue or DEFAULT_QUEUE, chosen or TaskState.PENDING, page, as_json=as_json, **limits)


def _list_page(
    loaded: Loaded, queue: str, chosen: TaskState, page: int, *, size: int, looks: int, as_json: bool
) -> None:
    with inspecting(loaded) as inspector:
        found = inspector.tasks(queue, chosen, page=page, size=size, looks=looks)
        is_partial = chosen in {TaskState.SCHEDULED, TaskState.RETRY} and len(found) < size
        total = inspector.queue(queue).counts.scheduled if is_partial else 0
    if total > looks:
        echo(f"only the next {looks:,} of {total:,} scheduled and retried tasks were looked at; see --looks", err=True)
    if as_json:
        for one in found:
            print_json(one)
        return
    columns = columns_of(chosen)
    print_table(
        ("ID", "TYPE", *columns), [(one.id, one.type, *(cell(one) for cell in columns.values())) for one in found]
    )


def _list_found(loaded: Loaded, sought: dict[str, str], *, as_json: bool, **choice: Any) -> None:
    """List the tasks that have these headers, and say how far was looked."""
    with inspecting(loaded) as inspector:
        found = inspector.find(sought, **choice)
    if as_json:
        for one in found.tasks:
            print_json(one)
    else:
        rows = [(one.id, one.type, one.queue, one.state or one.rq_status, one.last_error) for one in found.tasks]
        print_table(("ID", "TYPE", "QUEUE", "STATE", "LAST ERROR"), rows)
    if found.after:
        echo(f"{found.looked:,} tasks were looked at, and there are more; go on with --after {found.after}", err=True)


@task.command()
@click.option(
    "-q", "--queue", default="default", show_default=True, shell_complete=complete_queues, help="Of which queue."
)
@click.option("--size", type=click.IntRange(1, 1_000), default=30, show_default=True, help="How many at most.")
@with_json_lines
@with_broker
def recent(loaded: Loaded, *, queue: str, size: int, as_json: bool) -> None:
    """List the tasks that completed last, latest first; also those that were not kept.

    \b
    boilerd task recent --queue critical
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        found = inspector.recent(queue, size)
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = [
        (one.id, one.type, relative(one.ended_at), lasting((one.ended_at - one.started_at).total_seconds()), one.worker)
        for one in found
    ]
    print_table(("ID", "TYPE", "COMPLETED", "TOOK>", "WORKER"), rows)


@task.command()
@click.argument("task_id", metavar="ID")
@with_json_lines
@with_broker
def show(loaded: Loaded, *, task_id: str, as_json: bool) -> None:
    """Show a task: its options, its payload, and how each attempt ended.

    \b
    boilerd task show 049826ce-3df1-4b26-8678-9d36ba9e617c
    """  # noqa: D301 - click looks for the character \b
    with inspecting(loaded) as inspector:
        detail = inspector.task(task_id)
    if as_json:
        print_json(detail)
    else:
        _print_task(detail)


def _print_task(detail: TaskDetail) -> None:
    print_fields([
        ("task", detail.id), ("type", detail.type), ("queue", detail.queue),
        ("state", detail.state or detail.rq_status),
        ("payload", json_text(detail.payload)),
        ("headers", json_text(dict(detail.headers)) if detail.headers else ""),
        ("retried", retried(detail)),
        ("timeout", lasting(detail.timeout_s) if detail.timeout_s else "none"),
        ("retention", _retention(detail.retention_s)),
        ("created", absolute(detail.created_at)), ("enqueued", absolute(detail.enqueued_at)),
        ("due", absolute(detail.next_run_at)), ("deadline", absolute(detail.deadline)),
        ("started", absolute(detail.started_at)), ("worker", detail.worker), ("ended", absolute(detail.ended_at)),
        ("kept until", absolute(detail.expires_at)), ("unique", detail.unique_key),
        ("concurrency", detail.concurrency_key), ("waits for", _waits_for(detail)), ("last error", detail.last_error),
        ("failure group", detail.fingerprint),
        ("result", "" if detail.result is None else json_text(detail.result)),
        ("progress", detail.progress),
    ])  # fmt: skip
    for line in attempt_lines(detail):
        echo(line)


def _retention(retention_s: int) -> str:
    if not 0 <= retention_s <= LONGEST_S:  # clients of plain RQ say `sys.maxsize`
        return "for ever"
    return lasting(retention_s) if retention_s else ""


def columns_of(state: TaskState) -> dict[str, Callable[[TaskDetail], object]]:
    """Return the columns beside ID and type for tasks in a state: title → the cell of a task."""
    return _COLUMNS[state]


def attempt_lines(detail: TaskDetail) -> Iterator[str]:
    """Describe how each attempt ended, in lines; an empty line stands before each."""
    for number, attempt in enumerate(detail.attempts, 1):
        ended, started = attempt.ended_at, attempt.started_at
        took = lasting((ended - started).total_seconds()) if ended and started else "?"
        yield ""
        outcome = "completed" if attempt.is_success else "failed"
        yield f"attempt {number}: {outcome} after {took}, {absolute(ended)}, {attempt.worker}"
        if attempt.result is not None:
            yield f"  result {json_text(attempt.result)}"
        yield from (f"  {line}" for line in attempt.error.splitlines())


def _make_command(action: Action, text: str) -> click.Command:
    """Make ``run``, ``archive`` or ``delete``, for given tasks or all tasks of a queue in a state."""

    @click.argument("task_ids", metavar="ID...", nargs=-1)
    @click.option("--all", "takes_all", is_flag=True, help="All of --queue in --state, instead of IDs.")
    @click.option(
        "-q",
        "--queue",
        default="default",
        show_default=True,
        shell_complete=complete_queues,
        help="With --all: of which queue.",
    )
    @click.option("-s", "--state", type=STATES, help="With --all: in which state.")
    @click.option("--type", "task_type", shell_complete=complete_types, help="With --all: of this type only.")
    @click.option(
        "--find", metavar="SEARCH", default="",
        help="With --all: only those that the dashboard's search box finds by it, such as 'error:timeout after:2h'.",
    )  # fmt: skip
    @with_yes
    @with_broker
    def command(loaded: Loaded, *, task_ids: tuple[str, ...], takes_all: bool, **options: Any) -> None:
        if takes_all == bool(task_ids) or (takes_all and not options["state"]):
            raise click.UsageError("give either task IDs, or --all with --state")
        if takes_all:
            _change_all(loaded, action, **options)
        else:
            _change_each(loaded, action, task_ids)

    command.__doc__ = text
    return task.command(action)(command)


def _change_all(
    loaded: Loaded, action: Action, *, queue: str, state: str, task_type: str | None, find: str, yes: bool
) -> None:
    if action != "run":
        of_type = f" of type {task_type}" if task_type else ""
        which = f" that a search for {shown(find)} finds" if find else ""
        confirm(f"{action.capitalize()} all {state} tasks{of_type} of queue {queue}{which}?", yes=yes)
    with inspecting(loaded) as inspector:
        echo(do_all(inspector, action, queue, TaskState(state), task_type, find))


def _change_each(loaded: Loaded, action: Action, task_ids: tuple[str, ...]) -> None:
    with inspecting(loaded) as inspector:
        _try_each(task_ids, getattr(inspector, action))


def _try_each(task_ids: tuple[str, ...], change: Callable[[str], object]) -> None:
    """Change each task; print the errors of those that refuse, and fail after the last task."""
    refusals: list[BoilerdError] = []
    for task_id in task_ids:
        try:
            change(task_id)
        except (TaskNotFoundError, TaskStateError) as error:
            refusals.append(error)
    for refusal in refusals[:-1]:
        echo_error(refusal)
    if refusals:
        raise refusals[-1]


run = _make_command(
    "run",
    """Run scheduled, retried or archived tasks now. An archived one whose retries are used up gets one attempt.

    \b
    boilerd task run 049826ce-3df1-4b26-8678-9d36ba9e617c
    boilerd task run --all --state archived --queue default --type email:deliver
    boilerd task run --all --state archived --queue default --find 'error:timeout after:2h'
    """,
)
archive = _make_command(
    "archive",
    """Set waiting tasks aside; they can be run later.

    \b
    boilerd task archive --all --state retry --queue default --type email:deliver --yes
    """,
)
delete = _make_command(
    "delete",
    """Delete tasks that do not run.

    \b
    boilerd task delete --all --state archived --queue default --yes
    """,
)


task.add_command(move)
task.add_command(run_here_)


@task.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@with_broker
def cancel(loaded: Loaded, *, task_ids: tuple[str, ...]) -> None:
    """Cancel tasks: one that waits is deleted, one that runs is interrupted and archived.

    \b
    boilerd task cancel 049826ce-3df1-4b26-8678-9d36ba9e617c
    """  # noqa: D301 - click looks for the character \b

    def change(task_id: str) -> None:
        if not inspector.cancel(task_id):
            raise TaskStateError(f"task {task_id}", "completed or archived", "cancel", ("waiting", "active"))

    with inspecting(loaded) as inspector:
        _try_each(task_ids, change)


task.add_command(why)
