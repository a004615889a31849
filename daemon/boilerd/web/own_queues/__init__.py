"""Somebody with queues of their own: all that they see and change goes through here, and is of these queues.

`OwnQueues` stands in the place of the inspector. What it does not know it refuses, so that a page which asks for
something new is closed to them until it is said here how that is cut. What is read for everybody, `sights` cuts.
"""

from boilerd.web.own_queues.actions import ActionsPart
from boilerd.web.own_queues.crons import CronsPart
from boilerd.web.own_queues.limits import LimitsPart
from boilerd.web.own_queues.operations import OwnOperations
from boilerd.web.own_queues.queues import QueuesPart
from boilerd.web.own_queues.tasks import TasksPart

#: Pages of the menu that can be cut.
MENU = frozenset({"/", "/queues", "/tasks", "/types", "/crons", "/limits", "/operations"})


class OwnQueues(QueuesPart, CronsPart, ActionsPart, TasksPart, LimitsPart):
    """An inspector of some queues.

    Args:
        inspector: Of all.
        who: Whose queues these are.
    """

    @property
    def operations(self) -> OwnOperations:
        """Operations with their tasks."""
        return OwnOperations(self._all.operations, self, self._who)


__all__ = ["MENU", "OwnQueues"]
