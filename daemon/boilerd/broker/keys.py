"""Names of the Redis keys: RQ's own, and boilerd's.

ARCHITECTURE.md describes RQ's layout; only this room knows it. A prefix moves all of it, and `key_prefix` says which;
with a hash tag in it (``{rq}``) all keys are in one slot of a cluster.
"""

import os

#: Read as RQ reads it; to import rq for it would cost every `boilerd enqueue` 0.1 s.
RQ = os.environ.get("BOILERD_KEY_PREFIX") or os.environ.get("RQ_KEY_PREFIX", "rq")
#: boilerd's own keys move with RQ's, so that two prefixes on one Redis share nothing.
OWN = "boilerd" if RQ == "rq" else f"{RQ}:boilerd"

#: set of queue keys
QUEUES = f"{RQ}:queues"
#: set of the names of queues that hold boilerd's tasks, or that boilerd's workers claim from
SERVED = f"{OWN}:queues"
#: set of worker keys
WORKERS = f"{RQ}:workers"
#: string: present while `rq suspend` holds all claims
SUSPENDED = f"{RQ}:suspended"
#: set of queue names from which nothing is claimed
PAUSED = f"{OWN}:paused"
#: set of the queues among these that a move to another broker has paused
MOVING = f"{OWN}:moving"
#: string: tells for a moment whether two addresses lead to one broker
MARK = f"{OWN}:mark"
#: hash ``QUEUE:max_active`` and ``QUEUE:max_length`` → how many; no field, no limit
LIMITS = f"{OWN}:limits"
#: hash: name of a periodic task → its last tick
CRON = f"{OWN}:cron"
#: hash of the names of periodic tasks that somebody wants to run now
CRON_WANTED = f"{OWN}:cron:wanted"
#: hash: name of a periodic task whose ticks pass without a task → since when
CRON_PAUSED = f"{OWN}:cron:paused"
#: hash ``queue:NAME`` and ``cron:NAME`` → since when it is paused, until when, why; as JSON, if said
PAUSES = f"{OWN}:pauses"
#: hash: name of a periodic task → since when it has its schedule, and the schedule
SCHEDULES = f"{OWN}:schedules"
#: sorted set of the fingerprints of failure groups, score = when each was last seen
FAILURES = f"{OWN}:failures"
#: list: written and taken away again, to see whether that can be done
PROBE = f"{OWN}:probe"
#: stream: what people did, latest last
AUDIT = f"{OWN}:audit"
#: sorted set of the IDs of operations, score = when each was ordered
OPERATIONS = f"{OWN}:ops"
#: hash: pair of queue and type → its metrics since ever
METRICS_TOTAL = f"{OWN}:metrics:total"
#: hash ``TYPE QUEUE`` → how many tasks were enqueued since a scheduler took it over into the minute
METRICS_ENQUEUED = f"{OWN}:metrics:enqueued"
#: string ``MINUTE:INDEX``: all minutes before are rolled up, and of this one so many pairs, in the order of their names
METRICS_ROLLED = f"{OWN}:metrics:rolled"
#: sorted set of the names of daemons that live, score = when each told last
DAEMONS = f"{OWN}:daemons"
#: list of the last words of workers that died, latest first, each as JSON
DEATHS = f"{OWN}:deaths"
#: list: an element wakes the scheduler for a task that is due before it looks by itself
ALARM = f"{OWN}:alarm"
#: string: what the dashboards of this broker have in common to seal forms with
WEB_SECRET = f"{OWN}:web:secret"

#: sorted set of the IDs of pages of the dashboard that are kept, score = when
KEPT_PAGES = f"{OWN}:web:kept"


def kept_page(page_id: str) -> str:
    """Hash: a page of the dashboard with its data, as it was."""
    return f"{OWN}:web:kept:{page_id}"


def web_session(digest: str) -> str:
    """String: whose session of the web dashboard it is."""
    return f"{OWN}:web:session:{digest}"


def queue(name: str) -> str:
    """List of job IDs; pushed on the right, claimed on the left."""
    return f"{RQ}:queue:{name}"


def job(task_id: str) -> str:
    """Hash: RQ's record of the task."""
    return f"{RQ}:job:{task_id}"


def results(task_id: str) -> str:
    """Stream: how each attempt ended."""
    return f"{RQ}:results:{task_id}"


def wip(name: str) -> str:
    """Sorted set of ``job ID:execution ID``, score = end of the lease."""
    return f"{RQ}:wip:{name}"


def registry(kind: str, name: str) -> str:
    """Sorted set of job IDs: ``scheduled``, ``finished``, ``failed``, ``deferred``, ``canceled``."""
    return f"{RQ}:{kind}:{name}"


def worker(name: str) -> str:
    """Hash: RQ's record of the worker."""
    return f"{RQ}:worker:{name}"


def worker_executions(name: str) -> str:
    """Set of ``job ID:execution ID`` that the worker holds."""
    return f"{RQ}:worker:{name}:executions"


def execution(pair: str) -> str:
    """Hash: RQ's record of one attempt, by ``job ID:execution ID``."""
    return f"{RQ}:execution:{pair}"


def unique(queue_name: str, task_type: str, digest: str) -> str:
    """String: ID of the task that holds the lock."""
    return f"{OWN}:unique:{queue_name}:{task_type}:{digest}"


def once(task_id: str) -> str:
    """String: present while the ID is remembered, also beyond its record."""
    return f"{OWN}:once:{task_id}"


def completed(name: str) -> str:
    """List of a queue's last completed tasks, latest first, each as JSON."""
    return f"{OWN}:completed:{name}"


def stats(name: str, day: int) -> str:
    """Hash ``processed``, ``failed`` and ``dropped`` of a queue on a day, counted from 1970-01-01."""
    return f"{OWN}:stats:{name}:{day}"


def failure(fingerprint: str) -> str:
    """Hash: what is known of a failure group, with its counts by hour and day."""
    return f"{OWN}:failure:{fingerprint}"


def failure_tasks(fingerprint: str) -> str:
    """List of IDs of the group's last tasks, latest first."""
    return f"{OWN}:failure:{fingerprint}:tasks"


def operation(operation_id: str) -> str:
    """Hash: a bulk action that somebody has ordered, and how far it has come."""
    return f"{OWN}:op:{operation_id}"


def refused(hour: int) -> str:
    """Hash ``full QUEUE`` and ``unique QUEUE`` → how many enqueues were refused in this hour since 1970."""
    return f"{OWN}:refused:{hour}"


def metrics(period: str, number: int) -> str:
    """Hash: pair of queue and type → its metrics in this ``minute``, ``ten``, ``hour`` or ``day`` since 1970."""
    return f"{OWN}:metrics:{period}:{number}"


def daemon(name: str) -> str:
    """String: what a daemon tells of itself, as JSON."""
    return f"{OWN}:daemon:{name}"


def ticks(name: str) -> str:
    """List of the last ticks of a periodic task, latest first, each as JSON."""
    return f"{OWN}:ticks:{name}"


def channel(worker_name: str) -> str:
    """Channel on which RQ's tools send commands to a worker."""
    return f"{RQ}:pubsub:{worker_name}"


def archived(name: str) -> str:
    """Sorted set of IDs of boilerd's archived tasks, score = when they expire; RQ's registry has foreign jobs too."""
    return f"{OWN}:archived:{name}"


def aside(name: str) -> str:
    """Sorted set of IDs of the queue's tasks that wait for a share of their concurrency key, score = since when."""
    return f"{OWN}:aside:{name}"


def bell(name: str) -> str:
    """List: one element per new task; each wakes one idle worker."""
    return f"{OWN}:bell:{name}"


def running(key: str) -> str:
    """Sorted set of IDs of the tasks that run under a concurrency key, score = end of the lease."""
    return f"{OWN}:running:{key}"


def waiting(key: str) -> str:
    """Sorted set of IDs of the tasks that wait for a share of the key, score = since when."""
    return f"{OWN}:waiting:{key}"


def dependencies(task_id: str) -> str:
    """Set of IDs of the jobs that a job of plain RQ waits for."""
    return f"{RQ}:job::{task_id}:dependencies"


def executions(task_id: str) -> str:
    """Sorted set of execution IDs of a job, each from its first heartbeat on."""
    return f"{RQ}:executions:{task_id}"
