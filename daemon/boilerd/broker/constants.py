"""Numbers and names on which several modules have to agree, or Python and the Lua scripts."""

from collections.abc import Mapping

from boilerd.broker import states
from boilerd.broker.claims import COMPLETION_LENGTH
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.tasks.metric_record import ENQUEUED, MAXIMA
from boilerd.tasks.task import ARCHIVE_TTL_S
from boilerd.units import LONGEST_S

#: A claim holds this long without a heartbeat; the scheduler renews it every 5 s.
LEASE_S = 30
#: Is added to the end of each lease in ``rq:wip:Q``. RQ's tools end claims with scores from 0 to their own clock, and
#: give no grace: with this, no clock reaches a claim of ours before the year 2286.
LEASE_OFFSET_S = 10_000_000_000
#: RQ's own value: a worker that sends no heartbeat for this long is gone from its registry.
WORKER_TTL_S = 420 + 60
#: The scheduler looks for due tasks at least this often; a task that is due sooner rings its alarm.
FORWARD_EVERY_S = 5.0
#: Tasks in one script: bounds how long Redis serves nobody else, to about 5 ms.
CHUNK = 500
#: Claims that one script gives back: about 3 ms of Redis.
MOST_GIVEN_BACK = 100
#: Commands of one call of look.lua that is about more than one queue; it takes 0.2 to 0.8 ms, for which who enqueues
#: waits.
MOST_READS = 130
#: Elements of a list that Redis looks through for an ID, from each end: less than a millisecond.
MOST_NEAR = 20_000
#: For how long back it is counted what came into an archive.
LATELY_S = 3600
#: Queues in one call of a script that goes through all of them, and keys for which tasks wait; as above.
SLICE, KEYS_SLICE = 250, 50
#: Bytes of records in one call of pick.lua, which takes Redis up to half a millisecond; a payload of more is not
#: searched for its request ID. And of the JSON of headers at most: if every character is written as an escape.
MOST_SEARCHED, MOST_HEADERS_JSON = 64 * 1024, 8 * MAX_HEADER_BYTES
#: Entries of the audit, and up to a hundred more: Redis forgets them in pieces of that size, which takes it no time.
MOST_AUDITED = 10_000
#: Characters of a name and of a reason that it keeps: an ID that somebody asks for may be of any length.
MOST_TEXT = 200
#: Elements of a bell at most: more would only wake workers for nothing later.
BELL_LENGTH = 128
#: How long Redis keeps a bell, or an alarm, that nobody hears.
BELL_TTL_S = 300
#: Why advance.lua or serve.lua claimed nothing although tasks may wait: the worker holds another claim; not all were
#: looked at; the call came too late.
HOLDS_MORE, LOOK_AGAIN, IS_STALE = 1, 2, 3
#: How store.lua answers; any other answer is the ID of the task that holds the unique lock.
STORED_PENDING, STORED_SCHEDULED, ID_TAKEN, QUEUE_FULL, ID_REMEMBERED = 1, 2, 0, -1, -3
#: Stands behind the answers of enqueue.lua where there are workers, but none that works on the queue asked for.
UNSERVED = -2
#: Failure groups; beyond them, those go that were seen the longest time ago.
MOST_FAILURES = 1000
#: How long a group is kept after it was last seen.
FAILURE_TTL_S = 30 * 24 * 3600
#: A group that is seen again after so long has returned.
FAILURE_SILENT_S = 7 * 24 * 3600
#: Of how many hours and days a group has counts; 1,000 groups that have all of them take 5.6 MB of Redis.
FAILURE_HOURS, FAILURE_DAYS = 48, 30
#: IDs of a group's last tasks.
FAILURE_SAMPLES = 20
#: Releases of which a group has counts; of more, the one goes in which it failed least.
FAILURE_RELEASES = 20
#: Characters of a note on a group.
MOST_NOTE = 1000
#: Period of metrics → how long it is, and for how long it is kept, in seconds. Redis keeps a key for an hour longer.
METRIC_PERIODS: Mapping[str, tuple[int, int]] = {
    "minute": (60, 3 * 3600),
    "ten": (600, 3 * 86400),
    "hour": (3600, 14 * 86400),
    "day": (86400, 90 * 86400),
}
#: Pairs of queue and type in each; beyond, a new one is counted as the type `OTHER` of its queue, or of the queue
#: `OTHER`.
MOST_PAIRS, OTHER = 500, "other"
#: Of these so many are kept free for the type `OTHER` of queues; and so many one script rolls up: about 3 ms of Redis.
MOST_OTHERS, MOST_ROLLED = 50, 50
#: In totals alone: the last minute that was added, counted from 1970; the highest stays.
LAST_MINUTE = 24
#: How long what a daemon tells of itself is kept; its scheduler renews it every 5 s.
DAEMON_TTL_S = 60
#: Last words of workers, of all hosts, and for how long they are kept.
MOST_DEATHS, DEATHS_TTL_S = 200, 86_400
#: How long a periodic task that somebody wants to run now waits for a daemon that has it.
WANTED_TTL_S = 60
#: Ticks in the history of a periodic task, and how long that, and the last tick itself, is kept after it.
MOST_TICKS, TICKS_TTL_S = 100, 400 * 24 * 3600
#: For how long an operation is kept, from when it was ordered; and how many of them.
OPERATION_TTL_S, MOST_OPERATIONS = 7 * 24 * 3600, 1000
#: The fields of a job hash that a claim reads, in the order in which taking.lua answers.
CLAIMED_FIELDS = (
    "data", "status", "task_type", "concurrency_key", "alone", "ended_at", "ttl", "unique_key", "timeout", "deadline",
    "result_ttl", "max_retries", "retries_left", "number_of_retries", "retry_intervals", "enqueued_at", "repeats_left",
    "runs", "ready_at",
)  # fmt: skip

#: Bytes of a task's data, beyond which a list does not read it.
MOST_LISTED = 16 * 1024
#: Tasks of a list of which listed.lua makes one digest, and bytes of their data: Redis takes 0.1 to 0.3 ms for them.
MOST_DIGESTED, MOST_LISTED_BYTES = 25, 128 * 1024
#: Fields of a job that a list shows of one that has more; what somebody puts into the others may be of any size.
SMALL_FIELDS = (
    "status", "origin", "task_type", "description", "timeout", "result_ttl", "deadline", "created_at", "enqueued_at",
    "started_at", "ended_at", "last_error", "last_failed_at", "worker_name", "unique_key", "concurrency_key",
    "concurrency_limit", "number_of_retries", "max_retries", "retries_left", "runs", "progress", "fingerprint",
    "copied_from",
)  # fmt: skip
#: All that `to_task` reads.
LISTED_FIELDS = (*SMALL_FIELDS, "data", "result")

#: The fields that taking.lua itself looks at.
_LOOKED_AT = ("data", "status", "concurrency_key", "alone", "ended_at", "ttl")

#: File in lua/ → the constants that it uses: each becomes a local variable in front of its text.
IN_LUA: Mapping[str, Mapping[str, object]] = {
    "common": {"BELL_LENGTH": BELL_LENGTH, "BELL_TTL_S": BELL_TTL_S, "FORWARD_EVERY_S": FORWARD_EVERY_S},
    "store": {
        "STORED_PENDING": STORED_PENDING,
        "STORED_SCHEDULED": STORED_SCHEDULED,
        "ID_TAKEN": ID_TAKEN,
        "QUEUE_FULL": QUEUE_FULL,
        "ID_REMEMBERED": ID_REMEMBERED,
        "MOST_PAIRS": MOST_PAIRS,
        "OTHER": OTHER,
        "ENQUEUED_TTL_S": METRIC_PERIODS["minute"][1],
        "REFUSED_TTL_S": 2 * 86400,
    },
    "measures": {
        "METRIC_PERIODS": METRIC_PERIODS,
        "MOST_PAIRS": MOST_PAIRS,
        "MOST_OTHERS": MOST_OTHERS,
        "OTHER": OTHER,
        "MAXIMA": (*MAXIMA, LAST_MINUTE),
    },
    "roll": {"ENQUEUED": ENQUEUED, "LAST_MINUTE": LAST_MINUTE, "MOST_ROLLED": MOST_ROLLED},
    "claims": {"LEASE_S": LEASE_S, "LEASE_OFFSET_S": LEASE_OFFSET_S, "ARCHIVE_TTL_S": ARCHIVE_TTL_S, "SLICE": SLICE},
    "act": {
        "ALLOWED_STATUSES": states.ALLOWED_STATUSES,
        "REGISTRY_OF": states.REGISTRY_OF,
        "STATE_OF": states.STATE_OF,
    },
    "audit": {"MOST_AUDITED": MOST_AUDITED, "MOST_TEXT": MOST_TEXT},
    "advance": {"HOLDS_MORE": HOLDS_MORE, "LOOK_AGAIN": LOOK_AGAIN},
    "serve": {"LOOK_AGAIN": LOOK_AGAIN, "IS_STALE": IS_STALE},
    "ending": {"COMPLETION_LENGTH": COMPLETION_LENGTH},
    "taking": {
        "REGISTRY_OF": states.REGISTRY_OF,
        "CLAIMED_FIELDS": CLAIMED_FIELDS,
        **{field.upper(): CLAIMED_FIELDS.index(field) + 1 for field in _LOOKED_AT},
    },
    "enqueue": {"UNSERVED": UNSERVED},
    "publish": {"DAEMON_TTL_S": DAEMON_TTL_S},
    "died": {"MOST_DEATHS": MOST_DEATHS, "DEATHS_TTL_S": DEATHS_TTL_S},
    "tick": {"MOST_TICKS": MOST_TICKS, "TICKS_TTL_S": TICKS_TTL_S, "MOST_TEXT": MOST_TEXT},
    "arrive": {"ARCHIVE_TTL_S": ARCHIVE_TTL_S},
    "birth": {"WORKER_TTL_S": WORKER_TTL_S},
    "extend": {"WORKER_TTL_S": WORKER_TTL_S},
    "release": {"MOST_GIVEN_BACK": MOST_GIVEN_BACK},
    "renew": {"WORKER_TTL_S": WORKER_TTL_S},
    "fail": {
        "MOST_RETRIES": LONGEST_S,
        "FAILURE_TTL_S": FAILURE_TTL_S,
        "FAILURE_SILENT_S": FAILURE_SILENT_S,
        "FAILURE_HOURS": FAILURE_HOURS,
        "FAILURE_DAYS": FAILURE_DAYS,
        "FAILURE_SAMPLES": FAILURE_SAMPLES,
        "FAILURE_RELEASES": FAILURE_RELEASES,
        "MOST_FAILURES": MOST_FAILURES,
    },
    "listed": {
        "MOST_LISTED": MOST_LISTED,
        "MOST_DIGESTED": MOST_DIGESTED,
        "MOST_LISTED_BYTES": MOST_LISTED_BYTES,
        "SMALL_FIELDS": SMALL_FIELDS,
        "LISTED_FIELDS": LISTED_FIELDS,
    },
    "pick": {"MOST_SEARCHED": MOST_SEARCHED, "MOST_HEADERS_JSON": MOST_HEADERS_JSON},
    "look": {"ARCHIVE_TTL_S": ARCHIVE_TTL_S, "LATELY_S": LATELY_S},
    "place": {"ALLOWED_STATUSES": {"queued": True, "scheduled": True}, "STATE_OF": states.STATE_OF},
    "waiting": {"KEYS_SLICE": KEYS_SLICE},
}
