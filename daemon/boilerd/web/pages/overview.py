"""The first page: whether all is well, and the queues."""

import shlex
from collections.abc import Mapping

from boilerd.verdict.finding import Finding
from boilerd.web.heaviest import heaviest
from boilerd.web.links import Links
from boilerd.web.page import Data, page
from boilerd.web.pages.queues import queue_rows
from boilerd.web.permissions import Permission
from boilerd.web.visit import Visit

_STATES = ("pending", "active", "scheduled", "archived", "completed")


@page("/", needs=Permission.VIEW, title="Overview", template="overview.html", menu=10, of_snapshot=True)
def overview(visit: Visit) -> Data:
    """The verdict first."""
    found = visit.snapshot()
    rows = queue_rows(found.overview, found.minutes)
    return {
        "word": found.verdict.word,
        "findings": [_finding(each) for each in found.verdict.findings],
        "totals": {state: sum(row[state] for row in rows) for state in _STATES},
        "workers": found.overview.workers,
        "heaviest": heaviest(found.overview.living),
        "queues": rows,
        "minutes": [{"start": minute.start, **minute.total()._asdict()} for minute in found.minutes],
        "at": found.at,
    }


def _finding(finding: Finding) -> Data:
    path, query = _page_for(finding.command)
    return {
        "kind": finding.kind, "severity": finding.severity, "says": finding.says, "command": finding.command,
        "path": path, "query": query,
    }  # fmt: skip


def _page_for(command: str) -> tuple[str, Mapping[str, str]]:
    """The page that shows what a command would, and its query; an empty path: there is none."""
    _, *words = shlex.split(command)
    match words:
        case ["queue", "ls"]:
            return "/queues", {}
        case ["task", "ls", "--state", "archived", *of]:
            return "/tasks", {"state": "archived", "queue": "".join(of).removeprefix("--queue=")}
        case ["task", "why", *_, task_id]:
            return Links().to("tasks", task_id), {}
    return "", {}
