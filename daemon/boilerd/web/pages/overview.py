"""The first page: whether all is well, and the queues."""

import shlex
from collections.abc import Mapping
from dataclasses import fields

from msgspec.structs import asdict

from boilerd.verdict.finding import Finding
from boilerd.web.audited import told_on
from boilerd.web.beside import MOST, Beside
from boilerd.web.heaviest import heaviest
from boilerd.web.lately import Ends, added
from boilerd.web.links import Links
from boilerd.web.page import Data, page
from boilerd.web.pages.queues import queue_rows
from boilerd.web.permissions import Permission
from boilerd.web.sampler import Snapshot
from boilerd.web.visit import Visit

#: Minutes of the numbers that tell of lately.
HOUR = 60
_STATES = ("pending", "active", "scheduled", "archived", "completed")


@page("/", needs=Permission.VIEW, title="Overview", template="overview.html", menu=10, of_snapshot=True)
def overview(visit: Visit) -> Data:
    """The verdict first."""
    found = visit.snapshot()
    rows = queue_rows(found.overview, found.minutes, found.at)
    hour = found.minutes[-HOUR:]
    return {
        "word": found.verdict.word,
        "findings": [_finding(each) for each in found.verdict.findings],
        "totals": {state: sum(row[state] for row in rows) for state in _STATES},
        "lately": {**asdict(added(minute.total() for minute in hour)), "archived": sum(
            queue.archived_lately for queue in found.overview.queues)},
        "workers": found.overview.workers,
        "heaviest": heaviest(found.overview.living),
        "queues": rows,
        "minutes": [{"start": minute.start, **asdict(minute.total())} for minute in found.minutes],
        "types": _failing(found.types),
        "at": found.at,
        "is_of_all": visit.who.queues is None,
        "beside": _seen_by(visit, found.beside),
        "marks": _marks(found),
    }  # fmt: skip


def _failing(types: Mapping[str, Ends]) -> list[Data]:
    """The types of which most attempts failed."""
    failing = sorted(((-counts.failed, name) for name, counts in types.items() if counts.failed))[:MOST]
    return [{"type": name, "failed": -failed, "ended": types[name].ended} for failed, name in failing]


def _seen_by(visit: Visit, beside: Beside) -> Data:
    """What this person may see of it."""
    found = {each.name: getattr(beside, each.name) for each in fields(beside)}
    told = [{**entry, "on": told_on(visit, entry["on"])} for entry in beside.audit]
    return {**found, "audit": told if visit.may(Permission.AUDIT) else ()}


def _marks(found: Snapshot) -> list[float]:
    """Where in the chart releases began, in minutes from its left."""
    if not found.minutes:
        return []
    places = [(each.at - found.minutes[0].start).total_seconds() / 60 for each in found.beside.releases]
    return [place for place in places if 0 <= place <= len(found.minutes)]


def _finding(finding: Finding) -> Data:
    path, query = page_for(finding.command)
    return {
        "kind": finding.kind, "severity": finding.severity, "says": finding.says, "command": finding.command,
        "path": path, "query": query,
    }  # fmt: skip


#: Commands without a name in them → the pages that show the same.
_PAGES = {("queue", "ls"): "/queues", ("worker", "ls"): "/workers", ("stats",): "/system"}


def page_for(command: str) -> tuple[str, Mapping[str, str]]:
    """The page that shows what a command would, and its query; an empty path: there is none."""
    _, *words = shlex.split(command)
    match words:
        case ["task", "ls", "--state", state, *of]:
            return "/tasks", {"state": state, "queue": "".join(of).removeprefix("--queue=")}
        case ["types", *_, name]:
            return Links().to("types", name), {}
        case ["task", "why", *_, task_id]:
            return Links().to("tasks", task_id), {}
    return _PAGES.get(tuple(words), ""), {}
