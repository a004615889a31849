"""What they do with one of their tasks."""

from typing import Any

from boilerd.broker.views import TaskDetail
from boilerd.tasks.queues import DEFAULT_QUEUE
from boilerd.web.own_queues.limits import LimitsPart
from boilerd.web.own_queues.tasks import TasksPart

#: Options of a task that is enqueued by hand; `unique`, `once` and the like keep others out.
_OPTIONS = frozenset(
    {
        "queue", "headers", "inherit", "timeout", "max_retries", "retention", "process_in", "process_at",
        "concurrency_key", "concurrency_limit",
    }
)  # fmt: skip


class ActionsPart(TasksPart, LimitsPart):
    """Act on one task, or enqueue one."""

    def run(self, task_id: str) -> None:
        """Run it now."""
        self._all.run(self.task(task_id).id)

    def archive(self, task_id: str) -> None:
        """Set it aside."""
        self._all.archive(self.task(task_id).id)

    def delete(self, task_id: str) -> None:
        """Delete it."""
        self._all.delete(self.task(task_id).id)

    def cancel(self, task_id: str) -> bool:
        """Cancel it."""
        return self._all.cancel(self.task(task_id).id)

    def reschedule(self, task_id: str, at: Any) -> None:
        """Have it run at another moment."""
        self._all.reschedule(self.task(task_id).id, at)

    def move(self, task_id: str, queue: str) -> None:
        """Have it wait in another queue of theirs."""
        self._all.move(self.task(task_id).id, self._own(queue))

    def enqueue(self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Any) -> Any:
        """Enqueue one, which holds back no task of another queue."""
        return self._all.enqueue(task_type, payload, copied_from=copied_from, **self._let(options, copied_from))

    def check_enqueue(self, task_type: str, payload: Any = None, *, copied_from: str = "", **options: Any) -> None:
        """Raise what that would raise."""
        self._all.check_enqueue(task_type, payload, **self._let(options, copied_from))

    def _let(self, options: dict[str, Any], copied_from: str) -> dict[str, Any]:
        """The options, if they hold back no task of another queue."""
        origin = self.task(copied_from) if copied_from else None
        queue = self._own(options.get("queue", DEFAULT_QUEUE))
        if others := sorted(options.keys() - _OPTIONS):
            raise self.refusal(f"{others[0]} is nothing for a task that is enqueued by hand")
        if key := options.get("concurrency_key"):
            self._check_key(key, options.get("concurrency_limit") or 1, queue, origin)
        return {**options, "queue": queue}

    def _check_key(self, key: str, limit: int, queue: str, origin: TaskDetail | None) -> None:
        """A key is one of all queues: with a new one, or more shares, tasks of others would wait; raises Refusal."""
        if origin and (origin.concurrency_key, origin.concurrency_limit) == (key, limit):
            return
        if (key, limit) not in {(each.key, each.limit) for each in self.concurrency_keys([queue]).keys}:
            raise self.refusal(
                "concurrency_key: all queues share it; give one, with its limit, that a task has which runs or waits"
                " for it there, as /limits shows, or copy a task that has it"
            )
