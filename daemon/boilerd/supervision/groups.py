"""Names of the groups of child processes; the scheduler and the broker are the only process of theirs."""

VALKEY = "valkey"
SCHEDULER = "scheduler"
WORKER = "worker"
#: Only in `boilerd run --watch`.
WATCHER = "watcher"
