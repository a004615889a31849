"""The state of the dash, and how its keys change it; knows nothing of the terminal."""

import enum
import time
from collections import deque
from collections.abc import Callable

from boilerd.broker.explanation import Reason
from boilerd.broker.states import ALLOWED
from boilerd.broker.views import QueueDetail, TaskDetail, WorkerInfo
from boilerd.errors import BoilerdError, BrokerError
from boilerd.inspector import Inspector
from boilerd.tasks.task import TaskState

#: The number of bars of a sparkline.
HISTORY = 20
#: The number of tasks on a page; they fit into 24 lines.
PAGE = 15
STATES = tuple(TaskState)


class View(enum.Enum):
    """A screen of the dash."""

    QUEUES = "queues"
    TASKS = "tasks"
    TASK = "task"
    HELP = "help"


class State:
    """The open screens, what they show and the chosen line of each.

    Args:
        inspector: Reads queues, tasks and workers, and changes them.
        cancel: Cancels the task with an ID.
        judge: Says whether all is well.
    """

    def __init__(
        self, inspector: Inspector, cancel: Callable[[str], bool], judge: Callable[[], str] = lambda: ""
    ) -> None:
        self._inspector = inspector
        self._judge = judge
        self._cancel = cancel
        self._views = [View.QUEUES]
        self._pending_action: Callable[[], None] | None = None
        self._processed: dict[str, tuple[float, int]] = {}
        self.is_over = False
        self.error = self.message = self.question = self.verdict = ""
        self.queues: list[QueueDetail] = []
        self.rates: dict[str, deque[float]] = {}
        self.workers: list[WorkerInfo] = []
        self.tasks: list[TaskDetail] = []
        self.detail: TaskDetail | None = None
        self.reason: Reason | None = None
        self.queue_at = self.task_at = self.scroll = 0
        self.page = 1
        self.task_state = TaskState.PENDING

    @property
    def view(self) -> View:
        """The screen on top."""
        return self._views[-1]

    @property
    def queue(self) -> QueueDetail | None:
        """The chosen queue."""
        return self.queues[self.queue_at] if self.queues else None

    @property
    def task(self) -> TaskDetail | None:
        """The task that is shown, or chosen in the list."""
        if self.view is View.TASK:
            return self.detail
        return self.tasks[self.task_at] if self.view is View.TASKS and self.tasks else None

    def refresh(self) -> None:
        """Read again what the screen shows; the old values stay while the broker is away."""
        try:
            self._load()
            self.error = ""
        except BrokerError as error:
            self.error = str(error)
        except BoilerdError as error:  # the task or queue is gone
            self.message = str(error)
            if self.view is not View.QUEUES:
                self._back()

    def press(self, key: str) -> None:
        """Act on a key."""
        if self._pending_action is not None:
            self._answer(key)
            return
        self.message = ""
        actions: dict[str, Callable[[], None]] = {
            "up": lambda: self._move(-1), "k": lambda: self._move(-1),
            "down": lambda: self._move(1), "j": lambda: self._move(1),
            "right": lambda: self._change_state(1), "l": lambda: self._change_state(1),
            "tab": lambda: self._change_state(1),
            "left": lambda: self._change_state(-1), "h": lambda: self._change_state(-1),
            "n": lambda: self._change_page(1), "pagedown": lambda: self._change_page(1),
            "b": lambda: self._change_page(-1), "pageup": lambda: self._change_page(-1),
            "enter": self._open, "escape": self._back, "q": self._back, "?": lambda: self._views.append(View.HELP),
            "p": self._pause_or_resume, "r": lambda: self._act("run"), "a": lambda: self._act("archive"),
            "d": lambda: self._act("delete"), "c": lambda: self._act("cancel"),
        }  # fmt: skip
        if self.view is View.HELP:
            self._back()
        elif key in actions:
            actions[key]()

    def _load(self) -> None:
        if self.view is View.QUEUES:
            self.queues = sorted(self._inspector.queue_details(), key=lambda queue: queue.counts.is_idle)
            self.workers = self._inspector.workers()
            self.verdict = self._judge()
            for queue in self.queues:
                self._measure(queue)
            self.queue_at = _clamped(self.queue_at, self.queues)
        elif self.view is View.TASKS and self.queue:
            name = self.queue.counts.name
            self.queues[self.queue_at] = self._inspector.queue(name)
            self.tasks = self._inspector.tasks(name, self.task_state, page=self.page, size=PAGE)
            self.task_at = _clamped(self.task_at, self.tasks)
        elif self.view is View.TASK and self.detail:
            self.detail = self._inspector.task(self.detail.id)
            self.reason = self._inspector.explain(self.detail.id).reasons[0]

    def _measure(self, queue: QueueDetail) -> None:
        """Record how many tasks a second ended since the last refresh."""
        now_s, name, processed = time.monotonic(), queue.counts.name, queue.today.processed
        before_s, before = self._processed.get(name, (now_s, processed))
        if now_s > before_s:
            rates = self.rates.setdefault(name, deque(maxlen=HISTORY))
            rates.append(max(processed - before, 0) / (now_s - before_s))  # the counter starts again at midnight
        self._processed[name] = (now_s, processed)

    def _move(self, step: int) -> None:
        if self.view is View.QUEUES:
            self.queue_at = _clamped(self.queue_at + step, self.queues)
        elif self.view is View.TASKS:
            self.task_at = _clamped(self.task_at + step, self.tasks)
        else:
            self.scroll = max(0, self.scroll + step)

    def _change_state(self, step: int) -> None:
        """Go on to the next state."""
        if self.view is View.TASKS:
            self.task_state = STATES[(STATES.index(self.task_state) + step) % len(STATES)]
            self.page, self.task_at, self.tasks = 1, 0, []

    def _change_page(self, step: int) -> None:
        """Turn to the next page."""
        if self.view is View.TASKS and (step < 0 or len(self.tasks) == PAGE):
            self.page, self.task_at = max(1, self.page + step), 0

    def _open(self) -> None:
        if self.view is View.QUEUES and self.queue:
            self.page, self.task_at, self.tasks = 1, 0, []
            self._views.append(View.TASKS)
        elif self.view is View.TASKS and self.task:
            self.detail, self.reason, self.scroll = self.task, None, 0
            self._views.append(View.TASK)

    def _back(self) -> None:
        self._views.pop()
        if not self._views:
            self._views, self.is_over = [View.QUEUES], True

    def _pause_or_resume(self) -> None:
        if self.queue is None or self.view is View.TASK:
            return
        name = self.queue.counts.name
        change = self._inspector.resume if self.queue.counts.is_paused else self._inspector.pause
        self._try(lambda: change(name), f"queue {name} {'resumed' if self.queue.counts.is_paused else 'paused'}")

    def _act(self, action: str) -> None:
        """Run, archive, delete or cancel the task; asks before it deletes or cancels."""
        if (task := self.task) is None:
            return
        allowed = [state for state in STATES if action == "cancel" or state in ALLOWED[action]]  # type: ignore[index]
        if task.state not in allowed:
            self.message = f"cannot {action} a task that is {task.state or 'of RQ alone'}"
            return
        change: Callable[[str], object] = self._cancel if action == "cancel" else getattr(self._inspector, action)
        outcome = {"run": "runs now", "archive": "archived", "delete": "deleted", "cancel": "cancelled"}[action]

        def do() -> None:
            self._try(lambda: change(task.id), f"task {task.id} {outcome}")

        if action in {"delete", "cancel"}:
            self.question, self._pending_action = f"{action.capitalize()} task {task.id}? y/n", do
        else:
            do()

    def _answer(self, key: str) -> None:
        action, self._pending_action, self.question = self._pending_action, None, ""
        if key == "y" and action is not None:
            action()

    def _try(self, change: Callable[[], object], message: str) -> None:
        try:
            change()
            self.message = message
        except BoilerdError as error:
            self.message = str(error)


def _clamped(index: int, items: list[QueueDetail] | list[TaskDetail]) -> int:
    return max(0, min(index, len(items) - 1))
