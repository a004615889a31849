"""Pools of workers: what a table ``[pools.NAME]`` may say, and what each pool is, with the settings outside of it.

What stands outside of a table is the pool `default`. It leaves to the tables the queues that they name; where no queue
is left for it, there is no such pool.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from boilerd.errors import ConfigError, InvalidTaskError, closest, shown
from boilerd.settings.setting import Form, Setting
from boilerd.tasks.queues import DEFAULT_POOL, check_queue
from boilerd.units import Duration, Size

if TYPE_CHECKING:
    from boilerd.settings.definitions import Settings

#: Worker processes of one daemon.
MOST_WORKERS = 1000
#: Tasks at once in one process.
MOST_SLOTS = 5000
#: More slots than this in all pools are told of: each needs memory.
MANY_SLOTS = 20_000
#: What a waiting task needs: an `async def` handler three coroutines deep, with its claim.
SLOT_BYTES = 5 * 1024
#: Names of Supervisor's groups, and of what a command might mean by such a name.
_TAKEN = ("worker", "scheduler", "valkey", "supervisor", "watcher", "exporter", "dashboard")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def _from_to(least: int, most: int) -> Form:
    return Form(expected=f"a whole number of at least {least} and at most {most}")


def _at_least(text: str) -> Form:
    def check(value: float) -> None:
        if value < Duration.parse(text):
            raise ValueError

    return Form(check=check, expected=f"a duration of at least {text}")


def _check_queues(by_name: Mapping[str, object]) -> None:
    for name in by_name:
        check_queue(name)


class PoolTable(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A table of ``[pools]``; what it leaves out, None, is as outside of it."""

    queues: Annotated[
        Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]], msgspec.Meta(min_length=1)] | None,
        Form(
            check=_check_queues,
            expected="a table of queue names with whole weights of at least 1, such as { mail = 3, news = 1 }",
        ),
    ] = None
    processes: Annotated[Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] | None, _from_to(1, MOST_WORKERS)] = None
    slots: Annotated[Annotated[int, msgspec.Meta(ge=1, le=MOST_SLOTS)], _from_to(1, MOST_SLOTS)] = 1
    strict_priority: Annotated[bool | None, Form()] = None
    prefetch: Annotated[bool | None, Form()] = None
    max_tasks: Annotated[Annotated[int, msgspec.Meta(ge=0)] | None, Form(expected="a whole number of at least 0")] = (
        None
    )
    max_memory: Annotated[Size | None, Form()] = None
    shutdown_timeout: Annotated[Duration | None, Form()] = None
    loop: Annotated[Literal["auto", "asyncio", "uvloop"], Form()] = "auto"
    loop_blocked_after: Annotated[Duration, _at_least("100ms")] = Duration(1)
    max_stuck: Annotated[Annotated[int, msgspec.Meta(ge=1, le=MOST_SLOTS)] | None, _from_to(1, MOST_SLOTS)] = None
    stuck_timeout: Annotated[Duration, _at_least("5s")] = Duration(60)


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as it is to run.

    Attributes:
        name: ``default``, or that of its table.
        queues: Its queues and their weights.
        processes: How many workers it has.
        slots: How many tasks each of them runs at once.
        loop: ``auto``, ``asyncio`` or ``uvloop``.
        loop_blocked_after: A loop that does not get on for so many seconds is told of.
        max_stuck: Stuck tasks in whose place others may run; with more of them a worker retires.
        stuck_timeout: It also retires when one has been stuck for so many seconds.
    """

    name: str
    queues: dict[str, int]
    processes: int
    slots: int
    strict_priority: bool
    prefetch: bool
    max_tasks: int
    max_memory: int
    shutdown_timeout: float
    loop: str
    loop_blocked_after: float
    max_stuck: int
    stuck_timeout: float


POOLS_EXAMPLE = """\
#[pools.web]
#queues = { web = 3, hooks = 1 }   # the pool's own; the pool default leaves them to it
#processes = 2                 # 1 without it
#slots = 200                   # tasks at once in each process; 1 without it
#strict_priority = false       # from here on to shutdown_timeout: as outside of the table without it
#prefetch = false
#max_tasks = 0
#max_memory = 0
#shutdown_timeout = "30s"
#loop = "auto"                 # from here on with slots > 1; auto: uvloop where it is installed; asyncio; uvloop
#loop_blocked_after = "1s"     # an event loop that does not get on for so long is told of
#max_stuck = 20                # tasks that cannot be ended, until the process is replaced; a tenth of slots without it
#stuck_timeout = "60s"         # for how long one of them may go on until then
"""

_KEYS = {
    name: Setting(name, PoolTable.__annotations__[name], default)
    for name, default in zip(PoolTable.__struct_fields__, PoolTable.__struct_defaults__, strict=True)
}


def read_pools(raw: Any, *, strict: bool = True) -> dict[str, PoolTable]:
    """The tables by their names, of what a file or variable holds; raises ConfigError."""
    if not isinstance(raw, dict) or not all(isinstance(table, dict) for table in raw.values()):
        raise ConfigError(f"{shown(raw)} has no tables; write [pools.NAME], then its keys")
    return {name: _read_table(_checked_name(name), table, strict=strict) for name, table in raw.items()}


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{shown(name)}: name it with small letters, digits and -, at most 32, a letter first")
    if name in _TAKEN:
        raise ConfigError(f"{name}: the daemon has a part of this name; choose another")
    return name


def _read_table(name: str, raw: Mapping[str, Any], *, strict: bool) -> PoolTable:
    for key in raw:
        if key not in _KEYS:
            close = closest(key, _KEYS)
            cure = f"did you mean {close!r}?" if close else f"a pool has {', '.join(_KEYS)}"
            raise ConfigError(f"{name}: unknown key {shown(key)}; {cure}")
    table = PoolTable(**{key: _value(name, _KEYS[key], value, strict=strict) for key, value in raw.items()})
    if wrong := _wrong(name, table):
        raise ConfigError(f"{name}{wrong}")
    return table


def _value(pool: str, key: Setting, raw: Any, *, strict: bool) -> Any:
    try:
        value = key.convert(raw, strict=strict)
        if key.form.check:
            key.form.check(value)
    except InvalidTaskError as error:
        raise ConfigError(f"{pool}.{key.name}: {error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{pool}.{key.name}: {shown(raw)} is not {key.expected()}") from error
    return value


def _wrong(name: str, table: PoolTable) -> str:
    """What does not go together in one table; empty: nothing."""
    if table.queues is None and name != DEFAULT_POOL:
        return ".queues: missing; name the pool's queues, such as queues = { mail = 1 }"
    if table.max_stuck is not None and table.max_stuck > table.slots:
        return f".max_stuck: {table.max_stuck} is more than slots ({table.slots}); lower it"
    return ""


def resolve(settings: "Settings") -> list[PoolSettings]:
    """The pools of these settings; `default`, if there is one, is the first."""
    tables = {name: table for name, table in settings.pools.items() if name != DEFAULT_POOL}
    taken = {queue for table in tables.values() for queue in table.queues or ()}
    own = settings.pools.get(DEFAULT_POOL, PoolTable())
    left = {queue: weight for queue, weight in settings.queues.items() if queue not in taken}
    pools = [_pool(name, table, table.queues or {}, table.processes or 1, settings) for name, table in tables.items()]
    if queues := own.queues or left:
        pools.insert(0, _pool(DEFAULT_POOL, own, queues, own.processes or settings.concurrency, settings))
    return pools


def _pool(name: str, table: PoolTable, queues: Mapping[str, int], processes: int, settings: "Settings") -> PoolSettings:
    def said(key: str) -> Any:
        value = getattr(table, key)
        return getattr(settings, key) if value is None else value

    return PoolSettings(
        name=name, queues=dict(queues), processes=processes, slots=table.slots,
        strict_priority=said("strict_priority"), prefetch=said("prefetch"),
        max_tasks=said("max_tasks"), max_memory=said("max_memory"), shutdown_timeout=said("shutdown_timeout"),
        loop=table.loop, loop_blocked_after=table.loop_blocked_after,
        max_stuck=table.max_stuck or max(1, table.slots // 10), stuck_timeout=table.stuck_timeout,
    )  # fmt: skip


def check_pools(settings: "Settings", sources: Mapping[str, str]) -> None:
    """Raise ConfigError where the tables and what is said outside of them do not go together."""
    own = settings.pools.get(DEFAULT_POOL)
    for key, outside in (("processes", "concurrency"), ("queues", "queues")):
        if own and getattr(own, key) is not None and outside in sources:
            raise ConfigError(
                f"pools.default.{key} ({sources['pools']}) and {outside} ({sources[outside]}) both say the same of the"
                " pool default; keep one"
            )
    pools = resolve(settings)
    if own and all(pool.name != DEFAULT_POOL for pool in pools):
        raise ConfigError(
            "pools.default: no queue is left for it, the other tables name all of queues; give it queues, or remove it"
        )
    if (total := sum(pool.processes for pool in pools)) > MOST_WORKERS:
        raise ConfigError(f"all pools together have {total} processes, and may have {MOST_WORKERS}; lower some")


def check_loops(pools: list[PoolSettings]) -> None:
    """Raise ConfigError where a pool is to have uvloop, which is not installed; for those who are to run it."""
    from importlib.util import find_spec  # noqa: PLC0415 - clients read the settings too, and have no loop

    for pool in pools:
        if pool.loop == "uvloop" and pool.slots > 1 and find_spec("uvloop") is None:
            raise ConfigError(
                f"pools.{pool.name}: loop = uvloop is not installed; install boilerd[uvloop], or set loop = auto"
            )


def slotted_pools(pools: list[PoolSettings]) -> list[str]:
    """The names of those whose workers have several slots."""
    return [pool.name for pool in pools if pool.slots > 1]


def served_queues(pools: list[PoolSettings]) -> dict[str, int]:
    """The queues of all pools and their weights, those of the first pool first."""
    served: dict[str, int] = {}
    for pool in pools:
        served |= {queue: weight for queue, weight in pool.queues.items() if queue not in served}
    return served


def shared_queues(pools: list[PoolSettings]) -> dict[str, list[str]]:
    """The queues that several pools serve, each with the names of these."""
    serving = {queue: [pool.name for pool in pools if queue in pool.queues] for queue in served_queues(pools)}
    return {queue: names for queue, names in serving.items() if len(names) > 1}


def memory_warning(pools: list[PoolSettings]) -> str:
    """That very many slots need much memory; empty: there are not so many."""
    slots = sum(pool.processes * pool.slots for pool in pools)
    if slots <= MANY_SLOTS:
        return ""
    megabytes = slots * SLOT_BYTES // 2**20
    return f"all pools: {slots} slots need about {megabytes} MB; lower slots, or add processes on another host"


def slots_of(pools: list[PoolSettings]) -> dict[str, int]:
    """Of each queue that a pool with slots serves, how many of its tasks may run at once here."""
    slotted = {queue for pool in pools if pool.slots > 1 for queue in pool.queues}
    return {queue: sum(p.processes * p.slots for p in pools if queue in p.queues) for queue in sorted(slotted)}
