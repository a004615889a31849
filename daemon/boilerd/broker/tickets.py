"""Waiters, and the tasks that they wait for."""

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future

from boilerd.broker.connection import raw
from boilerd.broker.endings import Ending
from boilerd.errors import InvalidTaskError
from boilerd.tasks.progress import TaskProgress
from boilerd.tasks.task import check_task_id, no_such_task

#: Called in the thread of the waits, so it must return at once; with None when a task was first looked at and goes on.
TellProgress = Callable[[TaskProgress | None], object]


class Ticket:
    """One waiter."""

    def __init__(self, task_id: str, tell: TellProgress | None, *, has_timeout: bool) -> None:
        self.task_id = task_id
        self.tell = tell
        self.has_timeout = has_timeout
        self.since_s = time.monotonic()
        self.knows_it_goes_on = False
        self.future: Future[Ending] = Future()

    def end(self, ending: Ending | Exception) -> None:
        """Wake the waiter, unless it has left."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(ending, Exception):
            self.future.set_exception(copy.copy(ending))  # each is raised in a thread of its own
        else:
            self.future.set_result(ending)


class Wait:
    """A task that somebody waits for.

    Attributes:
        is_asked: True while an answer about it is under way.
        progress: What its waiters were told last.
    """

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.tickets: list[Ticket] = []
        self.is_asked = False
        self.progress: TaskProgress | None = None

    def tell(self, progress: TaskProgress | None) -> None:
        """Tell all how far it is, unless they know."""
        is_new = progress is not None and progress != self.progress
        self.progress = progress  # of a new attempt, at first none
        for ticket in self.tickets if is_new else ():
            if ticket.tell and progress:
                ticket.tell(progress)

    def goes_on(self) -> None:
        """Tell those who came since the last look that it was looked at, and has not ended."""
        for ticket in [each for each in self.tickets if not each.knows_it_goes_on]:
            ticket.knows_it_goes_on = True
            if ticket.tell:
                ticket.tell(None)

    def end(self, ending: Ending | Exception) -> None:
        """Wake all."""
        tickets, self.tickets = self.tickets, []
        for ticket in tickets:
            ticket.end(ending)


def check_possible(task_id: str) -> None:
    """Raise InvalidTaskError where Redis cannot be asked for the ID; plain RQ may have any that can be sent."""
    try:
        raw(task_id)
    except (AttributeError, UnicodeError):
        check_task_id(task_id)


def missing(task_id: str) -> Exception:
    """The error for a task that is not there."""
    try:
        return no_such_task(task_id)
    except InvalidTaskError as error:
        return error
