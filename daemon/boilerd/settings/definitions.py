"""All settings, each defined once, by one field of `Settings`: its type and limits, one sentence, its default.

A `Form` beside the type holds everything that the type cannot say. The file conf/boilerd.toml, the environment
variables, the flags of ``boilerd run``, ``boilerd config show`` and all messages follow from that; `loading` reads
the values.
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from boilerd.errors import ConfigError
from boilerd.settings import pools
from boilerd.settings.addresses import LEAST_TOKEN, check_token, read_address, read_networks
from boilerd.settings.pools import MOST_WORKERS, POOLS_EXAMPLE, PoolSettings, PoolTable, read_pools
from boilerd.settings.setting import Form, Setting
from boilerd.settings.urls import mask_url, socket_url
from boilerd.settings.web import WEB_EXAMPLE, Web, read_web
from boilerd.tasks.cron import CronEntry
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.queues import DEFAULT_WEIGHTS, check_queue
from boilerd.tasks.retry import RetryPolicy
from boilerd.tasks.task import DEFAULT_ARCHIVE_LIMIT, DEFAULT_MAX_RETRIES
from boilerd.units import Duration, Size


def _doc(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


def _parse_names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_weights(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    weights: dict[str, str] = {}
    for name, weight in ((name.strip(), weight.strip()) for name, _, weight in pairs):
        if name in weights:
            raise ConfigError(f"queue {name!r} is named twice; give it one weight")
        weights[name] = weight or "1"
    return weights


def _check_queues(by_name: Mapping[str, object]) -> None:
    for name in by_name:
        check_queue(name)


def _check_prefix(prefix: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.:{}-]+", prefix):
        raise ValueError


#: The path of a socket stands in a URL, and may hold all that the kernel allows but bytes that are no text.
_PATH = Form(check=str.encode, expected="a path that is UTF-8 text")


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[retry]`` table: the policy of handlers that have none of their own."""

    max_retries: Annotated[int, _doc("attempts after the first", ge=0)] = DEFAULT_MAX_RETRIES
    base: Annotated[Duration, _doc("before the first retry")] = Duration(1)
    factor: Annotated[float, _doc("each further delay is so many times as long", ge=1)] = 2.0
    max_delay: Annotated[Duration, _doc("the longest delay")] = Duration(24 * 3600)
    jitter: Annotated[float, _doc("a delay grows by up to this share of itself, at random", ge=0)] = 0.0

    def policy(self) -> RetryPolicy:
        """The policy, as the worker uses it."""
        return RetryPolicy(self.max_retries, float(self.base), self.factor, float(self.max_delay), self.jitter)


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``[limits]``: what a queue may hold, over all hosts; 0: any number."""

    max_active: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_length: Annotated[int, msgspec.Meta(ge=0)] = 0


LIMITS_EXAMPLE = """\
#[limits.low]
#max_active = 2                # tasks that run at once; 0: any number
#max_length = 100000           # tasks that wait; 0: any number
"""


class Cron(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of ``[[cron]]``: a task to enqueue at every tick of a cron line."""

    spec: str
    type: str
    payload: Any = None
    name: str = ""
    timezone: str = "UTC"
    catch_up: bool = False
    queue: str | None = None
    timeout: Duration | None = None
    retention: Duration | None = None
    max_retries: int | None = None
    process_in: Duration | None = None
    unique: Duration | None = None
    unique_until: str | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    headers: dict[str, str] | None = None

    def entry(self) -> CronEntry:
        """The entry, as the scheduler uses it; raises ConfigError."""
        options = {name: getattr(self, name, None) for name in EnqueueOptions.__annotations__}
        return CronEntry(
            name=self.name, spec=self.spec, task_type=self.type, payload=self.payload,
            options={name: value for name, value in options.items() if value is not None},
            timezone=self.timezone, catch_up=self.catch_up,
        )  # fmt: skip


CRON_EXAMPLE = """\
#[[cron]]
#spec = "*/5 * * * *"          # or six fields, seconds first; @every 30s; @daily
#type = "report:refresh"
#payload = { region = "eu" }
#name = "refresh-eu"           # made from the type without it
#timezone = "Europe/Berlin"    # UTC without it
#catch_up = false              # true: the last tick that was missed runs late
#queue = "low"                 # from here on: options as an enqueue has them
#timeout = "5m"
#retention = "24h"
#max_retries = 3
#process_in = "30s"
#unique = "1h"
#unique_until = "end"
#concurrency_key = "reports"
#concurrency_limit = 2
#headers = { tenant-id = "7" }
"""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings with their defaults; `loading` says where other values come from."""

    app: Annotated[
        str | None,
        _doc("Where the mux is, as module:name; without it, the built-in mux that handles worker:ping."),
    ] = None
    rq_functions: Annotated[
        list[Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z_]\w*\.)+([A-Za-z_]\w*\*?|\*)$")]],
        _doc(
            "Functions of plain RQ's jobs that are run, such as myapp.jobs.send or myapp.jobs.*; as a variable or flag"
            " with commas between them. No others are ever imported."
        ),
        Form(
            parse=_parse_names,
            expected="names of functions with their modules and a * at the end at most: myapp.jobs.send or"
            " myapp.jobs.*",
        ),
    ] = msgspec.field(default_factory=list)
    redis_url: Annotated[
        str | None,
        _doc(
            "redis://host:6379/0, rediss:// (TLS), unix:///path, redis+sentinel://host:26379,host:26379/name/0;"
            " without it, an embedded Valkey in state_dir."
        ),
        # boiler-go has an address there, without a scheme.
        Form(mask=mask_url, boiler_go="REDIS_ADDR", from_boiler_go="redis://{}".format),
    ] = None
    redis_password: Annotated[
        str | None,
        _doc("Better in BOILERD_REDIS_PASSWORD_FILE or a systemd credential than here."),
        Form(is_secret=True, boiler_go="REDIS_PASSWORD"),
    ] = None
    redis_db: Annotated[
        int,
        _doc("Database number; where not 0, it wins over the one in redis_url.", ge=0),
        Form(boiler_go="REDIS_DB"),
    ] = 0
    key_prefix: Annotated[
        str | None,
        _doc(
            "What all keys in Redis begin with, one for each application that shares it; default: $RQ_KEY_PREFIX or rq."
        ),
        Form(rq="RQ_KEY_PREFIX", check=_check_prefix, expected="made of letters, digits and _ . : - { }, as RQ wants"),
    ] = None
    concurrency: Annotated[
        int, _doc("How many worker processes run tasks, one at a time each.", ge=1, le=MOST_WORKERS)
    ] = 10
    queues: Annotated[
        dict[str, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]],
        _doc(
            "The queues to work on and their weights; as a variable or flag: critical=6,default=3,low=1.", min_length=1
        ),
        Form(
            parse=_parse_weights,
            check=_check_queues,
            expected="queue names with whole weights of at least 1, such as critical=6,default=3,low=1"
            " (in a file as a table: [queues], then default = 3)",
        ),
    ] = msgspec.field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    strict_priority: Annotated[
        bool,
        _doc("true: a queue is touched only when all heavier ones are empty; false: each claim draws by weight."),
    ] = True
    prefetch: Annotated[
        bool,
        _doc("true: a worker claims several tasks at once while they take milliseconds; false: one by one, always."),
    ] = True
    shutdown_timeout: Annotated[
        Duration,
        _doc("How long a drain may take; then running tasks go back to the head of their queues."),
        Form(boiler_go="WORKER_SHUTDOWN_TIMEOUT"),
    ] = Duration(30)
    start_timeout: Annotated[
        Duration, _doc("How long the lifespans of a worker may take to enter, all together; then it has not started.")
    ] = Duration(60)
    stop_timeout: Annotated[
        Duration, _doc("How long they may take to leave when it ends, in a drain within what is left of that.")
    ] = Duration(5)
    max_tasks: Annotated[int, _doc("A worker is replaced by a fresh one after this many tasks; 0: never.", ge=0)] = 0
    max_memory: Annotated[
        Size, _doc("A worker is replaced after a task that left it above this resident size; 0: never.")
    ] = Size(0)
    max_payload: Annotated[
        Size, _doc("The largest payload that a client may enqueue, as JSON; data beyond belongs elsewhere.")
    ] = Size(DEFAULT_MAX_PAYLOAD)
    inherit_headers: Annotated[
        list[Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_-]+$")]],
        _doc(
            "Headers that an enqueue in a handler takes over from its task, beside request_id, traceparent, tracestate"
            " and baggage; as a variable or flag with commas between them."
        ),
        Form(parse=_parse_names, expected="names of small letters, digits, - and _, such as tenant-id"),
    ] = msgspec.field(default_factory=list)
    archive_limit: Annotated[
        int,
        _doc(
            "How many failed tasks a queue's archive keeps, over all hosts, before it drops the oldest; 0: any number.",
            ge=0,
        ),
    ] = DEFAULT_ARCHIVE_LIMIT
    release: Annotated[
        str | None,
        _doc("What the application's version is called, such as 2.4.1 or a commit; failures and daemons tell it."),
    ] = None
    user: Annotated[str | None, _doc("Started as root, go on as this user, who gets state_dir and runtime_dir.")] = None
    group: Annotated[
        str | None,
        _doc("Its members may enqueue at the embedded Valkey, and look at the daemon; they may do nothing else."),
    ] = None
    state_dir: Annotated[
        str | None,
        _doc("For the embedded Valkey's data; default: $STATE_DIRECTORY, /var/lib/boilerd or ~/.local/state/boilerd."),
        _PATH,
    ] = None
    runtime_dir: Annotated[
        str | None,
        _doc("For sockets; default: $RUNTIME_DIRECTORY, state_dir/run if that is set, else /run or $XDG_RUNTIME_DIR."),
        _PATH,
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("The lowest level to log.")] = "info"
    log_output: Annotated[
        Literal["stdout", "file", "both"], _doc("Where log lines go."), Form(boiler_go="LOG_OUTPUT")
    ] = "stdout"
    log_file: Annotated[
        str | None, _doc("Path of the log file, for log_output file or both."), Form(boiler_go="LOG_FILE")
    ] = None
    log_format: Annotated[
        Literal["auto", "json", "text"], _doc("auto: text where stdout is a terminal, else JSON. Files get JSON.")
    ] = "auto"
    log_stdout: Annotated[
        Literal["auto", "raw", "wrap"],
        _doc(
            "What handlers print: wrap makes log lines of it, with the task's ID; raw leaves it as it is; auto: wrap"
            " where stdout gets JSON lines."
        ),
    ] = "auto"
    log_tasks_per_second: Annotated[
        int,
        _doc(
            "Of how many tasks a second that go well each worker logs the lines, while it counts the others in one"
            " line; 0: all. Failures always have their lines.",
            ge=0,
        ),
    ] = 0
    metrics_listen: Annotated[
        str | None,
        _doc(
            "Where Prometheus may ask for metrics, such as 127.0.0.1:9464, or a path for a Unix socket; needs the extra"
            " metrics. Without it nothing listens."
        ),
        Form(check=read_address, expected="an absolute path, or HOST:PORT such as 127.0.0.1:9464 or [::1]:9464"),
    ] = None
    metrics_token: Annotated[
        str | None,
        _doc("What a client must send to get metrics, as a bearer token; better in BOILERD_METRICS_TOKEN_FILE."),
        Form(
            is_secret=True,
            check=check_token,
            expected=f"at least {LEAST_TOKEN} printable ASCII characters without spaces",
        ),
    ] = None
    metrics_allow: Annotated[
        list[str],
        _doc(
            "Networks and addresses whose clients may ask, such as 10.0.0.0/8; as a variable or flag with commas"
            " between them. Without it any that can reach metrics_listen."
        ),
        Form(
            parse=_parse_names,
            check=read_networks,
            expected="networks or addresses, such as 10.0.0.0/8 or 192.0.2.7",
        ),
    ] = msgspec.field(default_factory=list)
    retry: Annotated[Retry, _doc("How failed tasks are tried again, where a handler does not say it itself.")] = Retry()
    limits: Annotated[
        dict[str, Limit],
        _doc("For a queue, on all hosts together: how many tasks run at once, and how many may wait (0: any number)."),
        Form(example=LIMITS_EXAMPLE, check=_check_queues),
    ] = msgspec.field(default_factory=dict)
    pools: Annotated[
        dict[str, PoolTable],
        _doc(
            "Further pools of workers, each with queues and slots of its own; concurrency and queues describe the pool"
            " default."
        ),
        Form(example=POOLS_EXAMPLE, read=read_pools),
    ] = msgspec.field(default_factory=dict)
    cron: Annotated[
        list[Cron],
        _doc("Tasks to enqueue at the ticks of a cron line, once on however many hosts."),
        Form(example=CRON_EXAMPLE),
    ] = msgspec.field(default_factory=list)
    web: Annotated[
        Web,
        _doc("The web dashboard, `boilerd web`; with `web = true` the daemon serves it."),
        Form(example=WEB_EXAMPLE, read=read_web, expected="true, false or a table"),
    ] = Web()

    def worker_pools(self) -> list[PoolSettings]:
        """The pools of workers; `default`, which the settings outside of a table describe, is the first of them."""
        return pools.resolve(self)

    def served_queues(self) -> dict[str, int]:
        """The queues of all pools, and their weights."""
        return pools.served_queues(self.worker_pools())

    def cron_entries(self) -> list[CronEntry]:
        """The periodic tasks; raises ConfigError."""
        return [cron.entry() for cron in self.cron]

    def queue_limits(self) -> dict[str, int]:
        """``QUEUE:max_active`` and ``QUEUE:max_length`` → how many, where there is a limit."""
        pairs = {
            f"{queue}:{name}": getattr(limit, name)
            for queue, limit in self.limits.items()
            for name in ("max_active", "max_length")
        }
        return {name: value for name, value in pairs.items() if value}

    def state_path(self) -> Path:
        """The state directory, with its default resolved."""
        if chosen := self.state_dir or _from_systemd("STATE_DIRECTORY"):
            return Path(chosen).absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/boilerd")
        try:
            return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "boilerd"
        except RuntimeError as error:  # no HOME, and nobody of this number among the users
            raise ConfigError("state_dir: this user has no home directory; set state_dir to a directory") from error

    def runtime_path(self) -> Path:
        """The runtime directory, with its default resolved.

        If `state_dir` is set, the default is its `run`, so that daemons with different
        state directories never meet.
        """
        if chosen := self.runtime_dir or _from_systemd("RUNTIME_DIRECTORY"):
            return Path(chosen).absolute()
        if self.state_dir:
            return self.state_path() / "run"
        if os.geteuid() == 0:
            return Path("/run/boilerd")
        if base := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(base) / "boilerd"
        return self.state_path() / "run"

    def control_socket(self) -> Path:
        """Where supervisorctl and ``boilerd status`` reach the daemon."""
        return self.runtime_path() / "control.sock"

    def valkey_socket(self) -> Path:
        """Where the embedded Valkey listens."""
        return self.runtime_path() / "valkey.sock"

    def broker_url(self) -> str:
        """The URL to connect to, the embedded Valkey's where none is set; holds no password."""
        return self.redis_url or socket_url(self.valkey_socket())


def _from_systemd(variable: str) -> str:
    """The first directory of those that the unit asked for; see systemd.exec(5)."""
    return os.environ.get(variable, "").partition(":")[0]


@functools.cache
def definitions() -> Sequence[Setting]:
    """All settings in their order."""
    hints = Settings.__annotations__
    return [
        Setting(
            name=field.name,
            type=hints[field.name],
            default=field.default_factory() if callable(field.default_factory) else field.default,
        )
        for field in msgspec.structs.fields(Settings)
    ]
