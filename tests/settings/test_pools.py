"""Pools in the settings: what stands where, and the messages for what does not go."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from boilerd.errors import ConfigError
from boilerd.settings.definitions import Settings
from boilerd.settings.loading import load
from boilerd.settings.pools import PoolSettings, check_loops, memory_warning, shared_queues, slots_of
from boilerd.tasks.queues import DEFAULT_WEIGHTS
from support import boilerd, clean_environment

Load = Callable[..., Settings]
WHOLE = "a whole number of at least"


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Read a text as a settings file."""

    def read(text: str, **environ: str) -> Settings:
        path = tmp_path / "settings.toml"
        path.write_text(text, "utf-8")
        return load(file=path, environ=environ).settings

    return read


def pools_of(settings: Settings) -> dict[str, PoolSettings]:
    return {pool.name: pool for pool in settings.worker_pools()}


def refusal(load_it: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as raised:
        load_it()
    return str(raised.value).partition("settings.toml: ")[2] or str(raised.value)


def test_without_a_table_there_is_the_pool_default_of_what_stands_outside(load_text: Load) -> None:
    settings = load_text("concurrency = 4\nmax_tasks = 7\nprefetch = false\nqueues = { a = 2, b = 1 }")

    (pool,) = settings.worker_pools()

    assert (pool.name, pool.processes, pool.slots, pool.queues) == ("default", 4, 1, {"a": 2, "b": 1})
    assert (pool.max_tasks, pool.prefetch, pool.strict_priority, pool.shutdown_timeout) == (7, False, True, 30)
    assert settings.served_queues() == settings.queues


def test_what_a_table_leaves_out_is_as_outside(load_text: Load) -> None:
    pools = pools_of(
        load_text("""
            max_memory = "1G"
            shutdown_timeout = "1m"
            strict_priority = false
            [pools.web]
            queues = { web = 3 }
            processes = 2
            slots = 200
            shutdown_timeout = "5s"
            [pools.slow]
            queues = { slow = 1 }
            slots = 8
            prefetch = false
        """)
    )

    web = pools["web"]
    assert (web.processes, web.slots, web.queues, web.max_stuck) == (2, 200, {"web": 3}, 20)
    assert (web.shutdown_timeout, web.max_memory, web.strict_priority, web.prefetch) == (5, 1024**3, False, True)
    assert (web.loop, web.loop_blocked_after, web.stuck_timeout) == ("auto", 1, 60)
    assert not pools["slow"].prefetch
    assert pools["default"].shutdown_timeout == 60
    assert pools["default"].queues == DEFAULT_WEIGHTS


def test_the_pool_default_leaves_to_a_table_the_queues_that_it_names(load_text: Load) -> None:
    settings = load_text("[pools.slow]\nqueues = { low = 1 }")

    assert {name: [*pool.queues] for name, pool in pools_of(settings).items()} == {
        "default": ["critical", "default"], "slow": ["low"],
    }  # fmt: skip
    assert settings.served_queues() == {"critical": 6, "default": 3, "low": 1}


def test_there_is_no_pool_default_where_the_tables_name_all_of_its_queues(load_text: Load) -> None:
    settings = load_text("queues = { a = 1 }\n[pools.x]\nqueues = { a = 1, b = 1 }")

    assert [*pools_of(settings)] == ["x"]


def test_the_pool_default_may_have_a_table_that_wins_over_what_the_others_take(load_text: Load) -> None:
    settings = load_text("""
        concurrency = 3
        [pools.web]
        queues = { web = 1 }
        [pools.default]
        queues = { web = 1, mail = 1 }
        slots = 50
    """)

    pool = settings.worker_pools()[0]

    assert (pool.name, pool.processes, pool.slots, pool.queues) == ("default", 3, 50, {"web": 1, "mail": 1})
    assert shared_queues(settings.worker_pools()) == {"web": ["default", "web"]}


def test_a_variable_has_the_tables_as_json(load_text: Load) -> None:
    text = json.dumps({"web": {"queues": {"web": "2"}, "slots": "5", "max_memory": "1M"}})

    pools = pools_of(load_text("[pools.old]\nqueues = { old = 1 }", BOILERD_POOLS=text))

    assert [*pools] == ["default", "web"]
    assert (pools["web"].slots, pools["web"].queues, pools["web"].max_memory) == (5, {"web": 2}, 1024**2)


def test_a_variable_of_bytes_that_are_no_text_is_told_so(load_text: Load) -> None:
    with pytest.raises(ConfigError, match=r"^BOILERD_POOLS: pools: not UTF-8 text; write it in UTF-8$"):
        load_text("", BOILERD_POOLS=os.fsdecode(b'{"\xff": {}}'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pools = 3", "pools: 3 has no tables; write [pools.NAME], then its keys"),
        ("[pools]\nweb = 3", "pools: {'web': 3} has no tables; write [pools.NAME], then its keys"),
        ("[pools.web]\nslotz = 3", "pools: web: unknown key 'slotz'; did you mean 'slots'?"),
        (
            "[pools.web]\nxyz = 3",
            "pools: web: unknown key 'xyz'; a pool has queues, processes, slots, strict_priority,",
        ),
        ("[pools.Web]", "pools: 'Web': name it with small letters, digits and -, at most 32, a letter first"),
        ("[pools.worker]", "pools: worker: the daemon has a part of this name; choose another"),
        ("[pools.web]\nslots = 2", "pools: web.queues: missing; name the pool's queues, such as queues = { mail = 1 }"),
        ("[pools.web]\nqueues = {}", "pools: web.queues: {} is not a table of queue names with whole weights"),
        ("[pools.web]\nqueues = { a = 0 }", "pools: web.queues: {'a': 0} is not a table of queue names with whole"),
        ("[pools.web]\nqueues = { 'a b' = 1 }", "pools: web.queues: queue 'a b': use letters, digits, '_', '-' and"),
        ("[pools.web]\nprocesses = 0", f"pools: web.processes: 0 is not {WHOLE} 1 and at most 1000"),
        ("[pools.web]\nslots = 5001", f"pools: web.slots: 5001 is not {WHOLE} 1 and at most 5000"),
        ("[pools.web]\nslots = '9'", f"pools: web.slots: '9' is not {WHOLE} 1 and at most 5000"),
        ("[pools.web]\nmax_tasks = -1", f"pools: web.max_tasks: -1 is not {WHOLE} 0"),
        ("[pools.web]\nprefetch = 1", "pools: web.prefetch: 1 is not true or false"),
        ("[pools.web]\nmax_memory = 'x'", "pools: web.max_memory: 'x' is not a size such as 512M"),
        ("[pools.web]\nshutdown_timeout = 'x'", "pools: web.shutdown_timeout: 'x' is not a duration such as 30s"),
        ("[pools.web]\nloop = 'uv'", "pools: web.loop: 'uv' is not one of auto, asyncio, uvloop"),
        ("[pools.web]\nloop_blocked_after = '99ms'", "pools: web.loop_blocked_after: '99ms' is not a duration of at"),
        ("[pools.web]\nstuck_timeout = 4", "pools: web.stuck_timeout: 4 is not a duration of at least 5s"),
        (
            "[pools.web]\nqueues = { a = 1 }\nslots = 2\nmax_stuck = 3",
            "pools: web.max_stuck: 3 is more than slots (2); lower it",
        ),
    ],
)
def test_what_a_table_may_not_say_is_named_with_what_would_do(load_text: Load, text: str, message: str) -> None:
    assert refusal(lambda: load_text(text)).startswith(message)


@pytest.mark.parametrize(
    ("outside", "inside"), [("concurrency = 2", "processes = 3"), ("queues = { a = 1 }", "queues = { a = 1 }")]
)
def test_a_thing_that_is_said_of_the_pool_default_twice_is_refused(load_text: Load, outside: str, inside: str) -> None:
    message = refusal(lambda: load_text(f"{outside}\n[pools.default]\n{inside}"))

    assert message.startswith(f"pools.default.{inside.split(maxsplit=1)[0]} (")
    assert message.endswith("both say the same of the pool default; keep one")


def test_a_table_for_the_pool_default_that_no_queue_is_left_for_is_refused(load_text: Load) -> None:
    text = "queues = { a = 1 }\n[pools.default]\nslots = 2\n[pools.x]\nqueues = { a = 1 }"

    assert refusal(lambda: load_text(text)).startswith("pools.default: no queue is left for it, the other tables name")


def test_all_pools_together_have_a_thousand_processes_at_most(load_text: Load) -> None:
    text = "concurrency = 500\n[pools.x]\nqueues = { x = 1 }\nprocesses = {}"

    assert load_text(text.replace("{}", "500")).worker_pools()
    assert refusal(lambda: load_text(text.replace("{}", "501"))) == (
        "all pools together have 1001 processes, and may have 1000; lower some"
    )


def test_uvloop_is_asked_for_by_those_who_run_the_pool_alone(load_text: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvloop" else find_spec(name))
    pools = load_text("[pools.x]\nqueues = { x = 1 }\nslots = 2\nloop = 'uvloop'").worker_pools()

    assert refusal(lambda: check_loops(pools)) == (
        "pools.x: loop = uvloop is not installed; install boilerd[uvloop], or set loop = auto"
    )


def test_very_many_slots_are_told_of_with_the_memory_that_they_need(load_text: Load) -> None:
    text = "[pools.x]\nqueues = { x = 1 }\nslots = 5000\nprocesses = {}"

    assert memory_warning(load_text(text.replace("{}", "3")).worker_pools()) == ""
    assert memory_warning(load_text(text.replace("{}", "4")).worker_pools()) == (
        "all pools: 20010 slots need about 97 MB; lower slots, or add processes on another host"
    )


def test_the_slots_of_a_queue_are_those_of_all_pools_that_serve_it(load_text: Load) -> None:
    pools = load_text("[pools.x]\nqueues = { q = 1 }\nslots = 5\n[pools.y]\nqueues = { q = 1, r = 1 }").worker_pools()

    assert slots_of(pools) == {"q": 6}


def test_config_show_has_the_tables_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "boilerd.toml").write_text("[pools.x]\nqueues = { x = 1 }\nshutdown_timeout = 90\nmax_memory = '1G'\n")

    done = boilerd("config", "show", "--json", env=clean_environment(), cwd=tmp_path)

    assert json.loads(done.stdout)["pools"] == {
        "value": {"x": {"queues": {"x": 1}, "max_memory": "1G", "shutdown_timeout": "1m30s"}}, "source": "boilerd.toml",
    }  # fmt: skip
