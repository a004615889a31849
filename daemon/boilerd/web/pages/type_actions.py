"""Actions with all tasks of a type in a state, of all queues; each becomes an operation."""

import functools
from collections.abc import Mapping, Sequence

from boilerd.broker.operation_record import Deed, Order
from boilerd.broker.operations import allowed
from boilerd.tasks.task import TaskState
from boilerd.web.links import Links
from boilerd.web.page import Data, Done, action
from boilerd.web.pages.bulk import about, act
from boilerd.web.permissions import Permission
from boilerd.web.visit import QueryError, Visit

#: What can be done with all tasks of a type, and in which states it is offered.
OFFERED: Mapping[Deed, Sequence[TaskState]] = {
    "run": (TaskState.ARCHIVED, TaskState.RETRY),
    "archive": (TaskState.PENDING,),
    "delete": (TaskState.ARCHIVED,),
}


def offered(visit: Visit) -> list[Data]:
    """What this person can do, and with the tasks of which state."""
    if visit.who.queues is not None:  # they are for the tasks of all queues
        return []
    return [{"what": deed, "state": state} for deed, states in OFFERED.items() if visit.may(deed) for state in states]


def _order(visit: Visit, deed: Deed) -> Order:
    name, state = visit.path["type"], visit.word("state", OFFERED[deed][0], of=[*map(str, allowed(deed))])
    # Of a function of RQ's, or of no record: a search would take it for something else, or for all tasks.
    if not name or '"' in name or name.endswith("*"):
        raise QueryError(f"type {name}: no search is for it alone; tick its tasks in a list")
    # By its type alone: so those who see no payloads are told what was sought, and may go on with it.
    return Order(deed, state=TaskState(state), search=f'type:"{name}"', sees_payloads=False)


def _about(visit: Visit, deed: Deed) -> Data:
    return {**about(visit, _order(visit, deed)), "back": Links().to("types", visit.path["type"])}


def _act(visit: Visit, deed: Deed) -> Done:
    return act(visit, _order(visit, deed))


for _deed in OFFERED:
    action(
        f"/types/{{type}}/{_deed}",
        needs=Permission(_deed),
        title=_deed.capitalize(),
        about=functools.partial(_about, deed=_deed),
        template="bulk.html",
    )(functools.partial(_act, deed=_deed))
