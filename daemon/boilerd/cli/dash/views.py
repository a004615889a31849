"""Draw the screens of the dash: they fit into 80 columns and 24 lines, and use more where there is more."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from boilerd.broker.explanation import Reason
from boilerd.broker.views import TaskDetail
from boilerd.cli.dash.state import STATES, State, View
from boilerd.cli.output import harmless, json_text
from boilerd.cli.tables import absolute, lasting, make_table, relative, sized
from boilerd.cli.task import attempt_lines, columns_of, retried
from boilerd.tasks.queues import DEFAULT_POOL

_BARS = " ▁▂▃▄▅▆▇█"
_KEYS = {
    View.QUEUES: "↑↓ choose  Enter open  p pause/resume  ? help  q quit",
    View.TASKS: "↑↓ choose ←→ state n/b page Enter open r run a archive c cancel d delete q back",
    View.TASK: "↑↓ scroll  r run  a archive  c cancel  d delete  q back",
    View.HELP: "any key goes back",
}
_HELP = (
    ("↑ ↓ or k j", "choose a line, scroll"), ("← → or h l, Tab", "the next state of tasks"),
    ("n b or Page keys", "the next and the last page"), ("Enter", "open the queue, the task"),
    ("q Esc", "back; from the first screen: quit"), ("p", "pause or resume the queue, on all hosts"),
    ("r", "run the task now"), ("a", "archive the task"), ("c", "cancel the task; asks first"),
    ("d", "delete the task; asks first"), ("Ctrl-C", "quit"),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """The columns and lines that a part of the screen may take."""

    width: int
    height: int

    def less(self, lines: int) -> "Size":
        """Return what is left when so many lines are taken."""
        return Size(self.width, self.height - lines)


def draw(state: State, title: str, width: int, height: int) -> RenderableType:
    """Draw the whole screen."""
    size = Size(width, height - 4)
    drawers: dict[View, Callable[[State, Size], Iterable[RenderableType]]] = {
        View.QUEUES: _queues, View.TASKS: _tasks, View.TASK: _task, View.HELP: _help,
    }  # fmt: skip
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    head = _line(f"boilerd  {title}  {now}")
    head.stylize("bold", 0, len("boilerd"))
    message = _line(
        state.question or state.error or state.message,
        "bold red" if state.error and not state.question else "bold yellow",
    )
    foot = _line(_KEYS[state.view], "dim")
    verdict = _line(state.verdict if state.view is View.QUEUES else "", "" if _is_well(state) else "bold yellow")
    return Group(head, verdict, *drawers[state.view](state, size), message, foot)


def _is_well(state: State) -> bool:
    return state.verdict.startswith("healthy")


def sparkline(values: Sequence[float]) -> str:
    """Draw a bar for each value; the highest value fills its bar."""
    most = max(values, default=0.0)
    return "".join(_BARS[round(value / most * 8) if most else 0] for value in values)


def _queues(state: State, size: Size) -> Iterable[RenderableType]:
    rows = []
    for queue in state.queues:
        counts, rates = queue.counts, state.rates.get(queue.counts.name, ())
        rows.append((
            counts.name + (" (paused)" if counts.is_paused else ""), counts.pending, counts.active, counts.scheduled,
            counts.archived, lasting(queue.latency_s) if counts.pending else "", queue.today.failed,
            f"{rates[-1]:.0f}/s" if rates else "", counts.problem or sparkline(list(rates)),
        ))  # fmt: skip
    half = max(min(size.height // 2, len(rows) + 1), size.height - 6)
    columns = "QUEUE", "PENDING>", "ACTIVE>", "SCHED+RETRY>", "ARCHIVED>", "LATENCY>", "FAILED>", "RATE>", ""
    yield _table(columns, rows, state.queue_at, Size(size.width, half))
    busy = [worker for worker in state.workers if worker.task_id]
    yield Text(f"\n{_workers(state)}, {len(busy)} busy", style="bold")
    shown = [(w.name, w.runs, relative(w.task_started_at)) for w in busy]
    if shown and size.height - half > 3:
        yield _table(("WORKER", "RUNS", "SINCE"), shown, None, size.less(half + 2))


def _workers(state: State) -> str:
    """How many workers there are, of each pool where there are several."""
    pools = Counter(worker.pool for worker in state.workers)
    each = ", ".join(f"{pool} {count}" for pool, count in sorted(pools.items()))
    return f"{len(state.workers)} workers" + (f" ({each})" if pools.keys() > {DEFAULT_POOL} else "")


def _tasks(state: State, size: Size) -> Iterable[RenderableType]:
    if state.queue is None:
        return
    counts = state.queue.counts
    tabs = _line(f"{counts.name}{' (paused)' if counts.is_paused else ''}  ")
    for one in STATES:
        tabs.append(f" {one} ", style="reverse" if one is state.task_state else "dim")
    yield tabs
    columns = columns_of(state.task_state)
    rows = [(task.id, task.type, *(cell(task) for cell in columns.values())) for task in state.tasks]
    yield _table(("ID", "TYPE", *columns), rows, state.task_at, size.less(2))
    yield Text(f"page {state.page}" if rows else "no such tasks", style="dim")


def _task(state: State, size: Size) -> Iterable[RenderableType]:
    if state.detail is None:
        return
    lines = _lines(state.detail, state.reason)
    state.scroll = min(state.scroll, max(0, len(lines) - size.height))
    for line in lines[state.scroll : state.scroll + size.height]:
        yield _line(line)


def _lines(task: TaskDetail, reason: Reason | None) -> list[str]:
    payload = json_text(task.payload)
    pairs = [
        ("task", task.id), ("type", task.type), ("queue", task.queue), ("state", task.state),
        ("why", reason.fact if reason else ""), ("try", reason.remedy if reason else ""), ("payload", payload),
        ("size", sized(len(payload.encode("utf-8", "replace")))),
        ("headers", json_text(dict(task.headers)) if task.headers else ""), ("retried", retried(task)),
        ("enqueued", absolute(task.enqueued_at)), ("due", absolute(task.next_run_at)),
        ("started", absolute(task.started_at)), ("ended", absolute(task.ended_at)),
        ("kept until", absolute(task.expires_at)), ("last error", task.last_error),
        ("result", "" if task.result is None else json_text(task.result)), ("progress", task.progress or ""),
    ]  # fmt: skip
    return [f"{name:<12}{value}" for name, value in pairs if value] + list(attempt_lines(task))


def _help(_: State, size: Size) -> Iterable[RenderableType]:
    yield _table(("KEY", "DOES"), _HELP, None, size)


def _line(text: str, style: str = "") -> Text:
    """Text that goes to the screen as it is, cut where the terminal ends; see `output`."""
    return Text(harmless(text), style, no_wrap=True, overflow="ellipsis")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], chosen: int | None, size: Size) -> Table:
    """Draw as many rows as fit, the chosen one among them."""
    height = max(size.height, 2)
    first = max(0, (chosen or 0) - height + 2)
    shown = rows[first : first + height - 1]
    return make_table(columns, shown, size.width, chosen=None if chosen is None else chosen - first)
