"""Names of the groups of child processes; the scheduler and the broker are the only process of theirs."""

from collections.abc import Iterable
from typing import Any

VALKEY = "valkey"
SCHEDULER = "scheduler"
WORKER = "worker"
#: Only in `boilerd run --watch`.
WATCHER = "watcher"
#: Only with the setting `metrics_listen`.
EXPORTER = "exporter"
#: Only with `web = true`.
DASHBOARD = "dashboard"
#: The pool whose group is WORKER; the group of another has the name of the pool.
DEFAULT_POOL = "default"


def group_of(pool: str) -> str:
    """The group of a pool's workers."""
    return WORKER if pool == DEFAULT_POOL else pool


def are_workers(group: str) -> bool:
    """True if the processes of a group are workers."""
    return group not in {VALKEY, SCHEDULER, WATCHER, EXPORTER, DASHBOARD}


def worker_groups(groups: Iterable[Any]) -> list[Any]:
    """Those of Supervisor's groups whose processes are workers: one for each pool."""
    return [group for group in groups if are_workers(group.config.name)]
