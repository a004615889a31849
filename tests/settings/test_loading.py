"""Settings: where values come from, and the messages for those that are not allowed."""

import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boilerd import Client, EnqueueOptions
from boilerd.errors import ConfigError, InvalidTaskError
from boilerd.settings.definitions import Retry, Settings, definitions
from boilerd.settings.example_file import render_toml
from boilerd.settings.loading import Loaded, load
from boilerd.settings.setting import Setting
from boilerd.settings.urls import MASK, mask_url, socket_url
from boilerd.tasks.options import check_number
from boilerd.units import LONGEST_S, Duration, Size, lasting
from support import as_nobody, boilerd

CONF = Path(__file__).parents[2] / "conf" / "boilerd.toml"
WEIGHTS = (
    "queue names with whole weights of at least 1, such as critical=6,default=3,low=1"
    " (in a file as a table: [queues], then default = 3)"
)
DURATION = "a duration such as 30s, 1h30m or 7d, or a number of seconds"
SIZE = "a size such as 512M or 2G, or a number of bytes"

WriteFile = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a boilerd.toml, and no variable that names a directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def from_variables(**variables: str) -> Loaded:
    return load(environ=variables)


def refusal(load_it: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as raised:
        load_it()
    return str(raised.value)


# --- Where a value comes from


def test_without_anything_every_value_is_its_default() -> None:
    loaded = load(environ={})

    assert loaded.settings == Settings()
    assert loaded.sources == {}
    assert loaded.file is None


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(write_file: WriteFile) -> None:
    path = write_file("concurrency = 2\nmax_tasks = 2\nredis_db = 2")

    loaded = load(
        {"concurrency": "4", "max_tasks": None}, file=path,
        environ={"BOILERD_CONCURRENCY": "3", "BOILERD_MAX_TASKS": "3"},
    )  # fmt: skip

    settings = loaded.settings
    assert (settings.concurrency, settings.max_tasks, settings.redis_db, settings.log_level) == (4, 3, 2, "info")
    assert loaded.sources == {"concurrency": "flag", "max_tasks": "BOILERD_MAX_TASKS", "redis_db": str(path)}


def test_an_empty_variable_is_as_good_as_none() -> None:
    loaded = from_variables(BOILERD_CONCURRENCY="", REDIS_ADDR="")

    assert loaded.settings == Settings()
    assert loaded.sources == {}


def test_the_named_file_wins_over_the_variables_file_over_the_one_in_the_working_directory(tmp_path: Path) -> None:
    for number, name in enumerate(("flag.toml", "variable.toml", "boilerd.toml"), start=1):
        (tmp_path / name).write_text(f"concurrency = {number}")
    environ = {"BOILERD_CONFIG": "variable.toml"}

    files = [load(file="flag.toml", environ=environ), load(environ=environ), load(environ={})]

    assert [str(loaded.file) for loaded in files] == ["flag.toml", "variable.toml", "boilerd.toml"]
    assert [loaded.settings.concurrency for loaded in files] == [1, 2, 3]


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("REDIS_ADDR", "cache:6379", "redis_url", "redis://cache:6379"),
        ("REDIS_PASSWORD", "geheim", "redis_password", "geheim"),
        ("REDIS_DB", "3", "redis_db", 3),
        ("WORKER_SHUTDOWN_TIMEOUT", "45s", "shutdown_timeout", 45.0),
        ("LOG_OUTPUT", "stdout", "log_output", "stdout"),
        ("LOG_FILE", "/tmp/x.log", "log_file", "/tmp/x.log"),
    ],
)
def test_the_originals_variables_set_the_same(variable: str, text: str, name: str, value: object) -> None:
    loaded = load(environ={variable: text})

    assert getattr(loaded.settings, name) == value
    assert loaded.sources == {name: variable}


@pytest.mark.parametrize(
    ("original", "its_text", "name", "own_text", "value"),
    [
        ("REDIS_ADDR", "old:1", "redis_url", "redis://new:2", "redis://new:2"),
        ("REDIS_PASSWORD", "old", "redis_password", "new", "new"),
        ("REDIS_DB", "1", "redis_db", "2", 2),
        ("WORKER_SHUTDOWN_TIMEOUT", "1s", "shutdown_timeout", "2s", 2.0),
        ("LOG_OUTPUT", "file", "log_output", "stdout", "stdout"),
        ("LOG_FILE", "/old", "log_file", "/new", "/new"),
    ],
)
def test_our_own_variable_wins_over_the_originals(
    original: str, its_text: str, name: str, own_text: str, value: object
) -> None:
    own = f"BOILERD_{name.upper()}"

    loaded = load(environ={own: own_text, original: its_text})

    assert getattr(loaded.settings, name) == value
    assert loaded.sources == {name: own}


def test_the_originals_variables_win_over_the_file(write_file: WriteFile) -> None:
    path = write_file("redis_db = 1")

    assert load(file=path, environ={"REDIS_DB": "2"}).settings.redis_db == 2


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("critical=6,default=3,low=1", {"critical": 6, "default": 3, "low": 1}),
        (" mail = 2 , slow ", {"mail": 2, "slow": 1}),
        ("only", {"only": 1}),
    ],
)
def test_queues_can_be_written_in_one_line(text: str, weights: dict[str, int]) -> None:
    assert from_variables(BOILERD_QUEUES=text).settings.queues == weights
    assert load({"queues": text}, environ={}).settings.queues == weights


def test_queues_in_the_file_are_a_table(write_file: WriteFile) -> None:
    path = write_file("[queues]\nmail = 2\nslow = 1")

    assert load(file=path, environ={}).settings.queues == {"mail": 2, "slow": 1}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("TRUE", True), ("false", False), ("0", False)]
)
def test_a_yes_or_no_can_be_written_as_a_word_or_a_digit(text: str, value: bool) -> None:
    assert from_variables(BOILERD_STRICT_PRIORITY=text).settings.strict_priority is value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("log_level", "INFO", "info"),
        ("log_output", " Both ", "both"),
        ("prefetch", "yes", True),
        ("prefetch", "Off", False),
        ("strict_priority", "NO", False),
        ("strict_priority", " on ", True),
        ("concurrency", " 4 ", 4),
        ("shutdown_timeout", " 5m ", 300.0),
        ("max_memory", " 1G ", 1 << 30),
        ("runtime_dir", " a ", " a "),
    ],
)
def test_a_variable_or_flag_is_taken_as_it_is_meant(name: str, text: str, value: object) -> None:
    by_variable = load(environ={f"BOILERD_{name.upper()}": text, "LOG_FILE": "/x"}).settings
    by_flag = load({name: text}, environ={"LOG_FILE": "/x"}).settings

    assert getattr(by_variable, name) == value
    assert getattr(by_flag, name) == value


# --- What will not do


def test_a_queue_that_is_named_twice_is_told() -> None:
    told = refusal(lambda: from_variables(BOILERD_QUEUES="mail=2,low,mail=1"))

    assert told == "BOILERD_QUEUES: queues: queue 'mail' is named twice; give it one weight"


def test_a_directory_whose_name_is_no_text_is_told() -> None:
    told = refusal(lambda: from_variables(BOILERD_RUNTIME_DIR=os.fsdecode(b"/run/\xff")))

    assert told == "BOILERD_RUNTIME_DIR: runtime_dir: '/run/\\udcff' is not a path that is UTF-8 text"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("redis_db", "-1", "a whole number of at least 0"),
        ("redis_db", "one", "a whole number of at least 0"),
        ("concurrency", "0", "a whole number of at least 1 and at most 1000"),
        ("concurrency", "1001", "a whole number of at least 1 and at most 1000"),
        ("concurrency", "1.5", "a whole number of at least 1 and at most 1000"),
        ("max_tasks", "-5", "a whole number of at least 0"),
        ("strict_priority", "perhaps", "true or false"),
        ("shutdown_timeout", "soon", DURATION),
        ("shutdown_timeout", "-1s", DURATION),
        ("max_memory", "2 elephants", SIZE),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("log_output", "syslog", "one of stdout, file, both"),
        ("log_format", "xml", "one of auto, json, text"),
        ("queues", "default=many", WEIGHTS),
        ("queues", "default=0", WEIGHTS),
        ("queues", "default=1000001", WEIGHTS),
        ("queues", ",", WEIGHTS),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_would_do(name: str, text: str, expected: str) -> None:
    variable = f"BOILERD_{name.upper()}"

    by_variable = refusal(lambda: load(environ={variable: text}))
    by_flag = refusal(lambda: load({name: text}, environ={}))

    assert by_variable == f"{variable}: {name}: {text!r} is not {expected}"
    assert by_flag == f"flag: {name}: {text!r} is not {expected}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("app = 5", "app: 5 is not text"),
        ("redis_url = ['x']", "redis_url: ['x'] is not text"),
        ("redis_db = '1'", "redis_db: '1' is not a whole number of at least 0"),
        ("redis_db = 1.0", "redis_db: 1.0 is not a whole number of at least 0"),
        ("concurrency = true", "concurrency: True is not a whole number of at least 1 and at most 1000"),
        ("queues = 'default'", f"queues: 'default' is not {WEIGHTS}"),
        ("queues = 5", f"queues: 5 is not {WEIGHTS}"),
        ("queues = {}", f"queues: {{}} is not {WEIGHTS}"),
        ("queues = {default = 1.5}", f"queues: {{'default': 1.5}} is not {WEIGHTS}"),
        ("strict_priority = 1", "strict_priority: 1 is not true or false"),
        ("strict_priority = 'true'", "strict_priority: 'true' is not true or false"),
        ("shutdown_timeout = true", f"shutdown_timeout: True is not {DURATION}"),
        ("shutdown_timeout = -1", f"shutdown_timeout: -1 is not {DURATION}"),
        ("shutdown_timeout = nan", f"shutdown_timeout: nan is not {DURATION}"),
        ("shutdown_timeout = inf", f"shutdown_timeout: inf is not {DURATION}"),
        ("max_memory = 1.5", f"max_memory: 1.5 is not {SIZE}"),
        ("max_memory = -1", f"max_memory: -1 is not {SIZE}"),
        ("log_level = 3", "log_level: 3 is not one of debug, info, warning, error"),
        ("[retry]\nbase = '1x'", f"retry: base: '1x' is not {DURATION}"),
        ("[[cron]]\nspec = '@daily'\ntype = 'a'\ntimeout = -1", f"cron: [0].timeout: -1 is not {DURATION}"),
    ],
)
def test_a_bad_value_in_the_file_is_told_with_the_file(write_file: WriteFile, text: str, told: str) -> None:
    path = write_file(text)

    assert refusal(lambda: load(file=path, environ={})) == f"{path}: {told}"


@pytest.mark.parametrize("name", ["CONF", "flag", "credential"])
def test_a_file_is_read_strictly_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("concurrency = '5'")

    assert "concurrency: '5' is not a whole number" in refusal(lambda: load(file=name, environ={}))


def test_a_bad_queue_name_is_told_with_the_rule() -> None:
    told = refusal(lambda: from_variables(BOILERD_QUEUES="high prio=2"))

    assert told.startswith("BOILERD_QUEUES: queues: queue 'high prio': use letters, digits,")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("concurrencies", "; did you mean 'concurrency'?"),
        ("log-level", "; did you mean 'log_level'?"),
        ("xyzzy", "; `boilerd config show` lists all"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(write_file: WriteFile, key: str, hint: str) -> None:
    path = write_file(f"{key} = 1")

    assert refusal(lambda: load(file=path, environ={})) == f"{path}: unknown key {key!r}{hint}"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BOILERD_CONCURRENCIES", "BOILERD_CONCURRENCY"),
        ("BOILERD_REDIS", "BOILERD_REDIS_DB"),
        ("BOILERD_REDIS_PASSWORT_FILE", "BOILERD_REDIS_PASSWORD_FILE"),
    ],
)
def test_an_unknown_variable_is_told_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    told = refusal(lambda: load(environ={variable: "1"}))

    assert told == f"unknown variable {variable!r}; did you mean {meant!r}?"


def test_variables_of_others_are_nobodys_business() -> None:
    assert from_variables(BOILER="1", REDIS_HOST="x", PATH="/bin").settings == Settings()


#: What Kubernetes puts into each pod for the Services boilerd, boilerd-web and redis; and Docker for a link.
SERVICES = {
    "BOILERD_PORT": "tcp://10.96.7.1:80", "BOILERD_SERVICE_HOST": "10.96.7.1", "BOILERD_SERVICE_PORT": "80",
    "BOILERD_SERVICE_PORT_HTTP": "80", "BOILERD_PORT_80_TCP": "tcp://10.96.7.1:80", "BOILERD_PORT_80_TCP_PROTO": "tcp",
    "BOILERD_PORT_80_TCP_PORT": "80", "BOILERD_PORT_80_TCP_ADDR": "10.96.7.1",
    "BOILERD_WEB_SERVICE_HOST": "fd00::1", "BOILERD_WEB_PORT": "udp://[fd00::1]:53",
    "BOILERD_NAME": "/web/boilerd", "BOILERD_ENV_GOPATH": "/go",
    "REDIS_PORT": "tcp://10.96.7.2:6379", "REDIS_SERVICE_HOST": "10.96.7.2",
}  # fmt: skip


def test_a_service_named_boilerd_sets_nothing_and_is_told_in_one_line_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("DEBUG", "boilerd.settings"):
        loaded = load(environ={**SERVICES, "BOILERD_CONCURRENCY": "3"})

    assert loaded.settings == Settings(concurrency=3)
    (line,) = caplog.records
    ignored = vars(line)["variables"]
    assert (line.levelname, ignored) == ("DEBUG", sorted(name for name in SERVICES if name.startswith("BOILERD")))


@pytest.mark.parametrize(
    ("variable", "text"),
    [("BOILERD_REDIS_PORT", "6379"), ("BOILERD_PORTS", "tcp://10.0.0.1:80"), ("BOILERD_NAME", "x")],
)
def test_a_misspelt_setting_is_told_although_it_looks_like_a_services_variable(variable: str, text: str) -> None:
    assert f"unknown variable {variable!r}" in refusal(lambda: load(environ={variable: text}))


def test_what_a_service_has_set_is_no_hint_for_a_misspelt_setting() -> None:
    assert "BOILERD_PORT'" not in refusal(lambda: load(environ={**SERVICES, "BOILERD_PROT": "1"}))


# --- The prefix of the keys


@pytest.mark.parametrize("variable", ["BOILERD_KEY_PREFIX", "RQ_KEY_PREFIX"])
def test_the_prefix_is_set_by_our_variable_or_by_rqs(variable: str) -> None:
    loaded = load(environ={variable: "{app}"})

    assert loaded.settings.key_prefix == "{app}"
    assert loaded.sources == {"key_prefix": variable}


@pytest.mark.parametrize("where", ["flag", "BOILERD_KEY_PREFIX", "file"])
def test_a_prefix_that_differs_from_rqs_variable_is_refused_and_both_are_named(
    write_file: WriteFile, where: str
) -> None:
    path = write_file("key_prefix = 'one'" if where == "file" else "key_prefix = 'two'")
    flags = {"key_prefix": "one"} if where == "flag" else {}
    own = {where: "one"} if where.isupper() else {}

    told = refusal(lambda: load(flags, file=path, environ={"RQ_KEY_PREFIX": "two", **own}))

    source = path if where == "file" else where
    cure = "give both the same value, or leave one out"
    assert told == f"key_prefix is 'one' ({source}) and RQ_KEY_PREFIX is 'two'; {cure}"


def test_a_prefix_that_is_overridden_need_not_be_rqs(write_file: WriteFile) -> None:
    path = write_file("key_prefix = 'one'")

    loaded = load(file=path, environ={"RQ_KEY_PREFIX": "two", "BOILERD_KEY_PREFIX": "two"})

    assert loaded.settings.key_prefix == "two"


def test_a_prefix_that_rq_would_refuse_is_refused() -> None:
    told = refusal(lambda: from_variables(BOILERD_KEY_PREFIX="a b"))

    expected = "made of letters, digits and _ . : - { }, as RQ wants"
    assert told == f"BOILERD_KEY_PREFIX: key_prefix: 'a b' is not {expected}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = = 1", "not TOML: Invalid value"),
        (b"\xff", "not TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"[" * 100_000, "not TOML: "),
        (b"a = " + b"1" * 5_000, "not TOML: "),
    ],
    ids=["syntax", "encoding", "nesting", "digits"],
)
def test_a_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.toml").write_bytes(content)

    assert refusal(lambda: load(file="x.toml", environ={})).startswith(f"x.toml: {reason}")


@pytest.mark.parametrize("name", ["state_dir", "runtime_dir", "log_file", "redis_url"])
def test_a_nul_which_no_path_can_have_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.toml").write_text(f'{name} = "a\\u0000b"')

    told = refusal(lambda: load(file="x.toml", environ={}))

    assert told == f"x.toml: {name}: holds a NUL character; leave that out"


def test_a_variable_that_is_nested_too_deep_is_told() -> None:
    told = refusal(lambda: from_variables(BOILERD_RETRY="[" * 100_000))

    assert told.startswith("BOILERD_RETRY: retry: ")


@pytest.mark.parametrize(("name", "reason"), [("none.toml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_told(name: str, reason: str) -> None:
    told = refusal(lambda: load(environ={"BOILERD_CONFIG": name}))

    assert told == f"{name}: {reason}; check --config and BOILERD_CONFIG"


@pytest.fixture
def closed(directory: Path) -> Iterator[Path]:
    """A directory that its owner alone may enter, with settings."""
    (directory / "closed").mkdir()
    (directory / "closed" / "boilerd.toml").write_text("concurrency = 3\n")
    (directory / "closed").chmod(0)
    yield directory / "closed"
    (directory / "closed").chmod(0o700)


def test_a_working_directory_that_may_not_be_entered_has_no_settings(
    monkeypatch: pytest.MonkeyPatch, closed: Path
) -> None:
    closed.chmod(0o700)
    monkeypatch.chdir(closed)
    closed.chmod(0)

    with as_nobody():
        loaded = load(environ={})

    assert loaded.settings.concurrency == 10


def test_settings_of_the_machine_that_may_not_be_read_are_told(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    monkeypatch.setattr("boilerd.settings.loading.SYSTEM_FILE", closed / "boilerd.toml")

    with as_nobody():
        told = refusal(lambda: load(environ={}))
        lenient = load(environ={}, only=("state_dir",))

    assert told == f"{closed}/boilerd.toml: Permission denied; check --config and BOILERD_CONFIG"
    assert lenient.settings.state_dir is None


@pytest.mark.parametrize("output", ["file", "both"])
def test_logging_to_a_file_needs_its_path(output: str) -> None:
    told = refusal(lambda: from_variables(BOILERD_LOG_OUTPUT=output))

    assert told == f"log_file: missing; log_output = {output!r} needs the path of a file"


@pytest.mark.parametrize("app", ["myproject", "a:", ":b", "a:b:c", "a b:mux", ""])
def test_an_app_that_is_no_module_and_name_is_told(app: str) -> None:
    told = refusal(lambda: load({"app": app}, environ={}))

    assert told == f"app: {app!r} is not module:name, such as myproject.tasks:mux"


@pytest.mark.parametrize("url", ["http://host", "host:6379", "", "rediss//host"])
def test_a_url_of_another_kind_is_told(url: str) -> None:
    told = refusal(lambda: load({"redis_url": url}, environ={}))

    assert told == (f"redis_url: {url!r} does not begin with one of redis://, rediss://, unix://, redis+sentinel://")


# --- Secrets


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:geheim@host:6379/0",
        "redis://:geheim@host",
        "redis://:geheim@[::1]:6379",
        "redis://:ge@geheim@host",
        "redis://:geheim/1@host",
        "redis://:geheim?1@host",
        "redis://:geheim#1@host",
        "redis://:geheim@[host",
        "redis://:geheim@ho\u2100st",
        "redis://host?password=geheim",
        "unix:///run/redis.sock?db=1&password=geheim",
        "rediss://host?ssl_password=geheim",
        "rediss://host?ssl_certfile=c.pem&SSL_Password=geheim&db=1",
        "redis+sentinel://user:geheim@one:26379,two:26379/name/0",
        "redis://:geheim/0",
        "redis://user:geheim/0",
        "redis://:ge/heim/geheim",
        "redis://:47:geheim",
        "redis://[geheim",
        "redis://geheim@host",
        "redis://ge/heim/geheim@host:6379/0",
        "unix://geheim@/run/redis.sock",
        "unix://:geheim/run/redis.sock",
        "redis+sentinel://:geheim/name",
        "redis+sentinel://one:26379,two:geheim/name",
        ":geheim@host",
        ":geheim/0",
        "['redis://:geheim/0']",
    ],
)
def test_a_masked_url_never_shows_the_password(url: str) -> None:
    masked = mask_url(url)

    assert "geheim" not in masked
    assert MASK in masked


def test_a_masked_url_shows_all_else() -> None:
    assert mask_url("rediss://user:geheim@host:6379/5?a=b") == f"rediss://user:{MASK}@host:6379/5?a=b"
    assert mask_url("rediss://h?ssl_password=geheim&db=1") == f"rediss://h?ssl_password={MASK}&db=1"
    assert mask_url("redis+sentinel://:geheim@a:1,b:2/name/0") == f"redis+sentinel://:{MASK}@a:1,b:2/name/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:6379/0", "redis://[::1]:6379", "unix:///run/a@b.sock", "unix:///run/x?db=1", "redis://",
        "redis+sentinel://a:1,b,[::1]:3/name/0",
    ],
)  # fmt: skip
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert mask_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://user:geheim@host", "redis://:geheim@[host", "redis://:geheim@ho\u2100st", "http://:geheim/1@host",
        "redis://:geheim/1@host", "redis://:geheim#1@host", "redis://:geheim?1@host", "http://h?password=geheim",
        "redis://:geheim/0", "redis://user:geheim/0", "redis://[geheim/0", "redis://geheim/1@host", ":geheim@host",
    ],
)  # fmt: skip
def test_a_url_that_will_not_do_is_told_without_its_password(url: str) -> None:
    told = refusal(lambda: from_variables(BOILERD_REDIS_URL=url))

    assert told.startswith("redis_url: ")
    assert "geheim" not in told


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("redis://host:6379/O", "'O' is not the number of a database, such as 0"),
        ("redis://host/0/1", "'0/1' is not the number of a database, such as 0"),
        ("rediss://redis://host:6379", "'host:6379' is not the number of a database, such as 0"),
        ("rediss://host/-1", "'-1' is not the number of a database, such as 0"),
        ("redis+sentinel://host/name/O", "'O' is not the number of a database, such as 0"),
        ("redis://host:99999", "Port out of range 0-65535"),
        ("unix://", "the path of a socket stands behind three slashes, as in unix:///run/valkey.sock"),
        ("unix://run/valkey.sock", "the path of a socket stands behind three slashes, as in unix:///run/valkey.sock"),
    ],
)
def test_a_wrong_part_of_a_url_is_told(url: str, wrong: str) -> None:
    assert refusal(lambda: from_variables(BOILERD_REDIS_URL=url)) == f"redis_url: {url!r}: {wrong}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host", "rediss://host:6379/", "redis://:pw@host:6379/15/", "redis://host/3?socket_timeout=1",
        "redis+sentinel://a:1,b:2/name", "redis+sentinel://a:1,b:2/name/3", "unix:///v.sock", "unix://user:pw@/v.sock?db=2",
    ],
)  # fmt: skip
def test_a_url_that_redis_py_takes_as_it_is_meant_will_do(url: str) -> None:
    assert from_variables(BOILERD_REDIS_URL=url).settings.redis_url == url


def test_a_url_without_an_at_behind_its_password_is_told_what_a_password_needs() -> None:
    told = refusal(lambda: from_variables(BOILERD_REDIS_URL="redis://:geheim/0"))

    assert told == (f"redis_url: 'redis://:{MASK}': a password needs an @ behind it, as in redis://:PASSWORD@host:6379")


_AGAIN = "is not taken, because a command that failed is not sent again, for it may have been carried out; leave it out"
_BYTES = "is not taken, because boilerd reads and writes bytes; leave it out"
_ONE = "is not taken, because each process has the connections that it needs; leave it out"


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("decode_responses=true", _BYTES),
        ("encoding=latin-1", _BYTES),
        ("retry=3", _AGAIN),
        ("retry_on_timeout=true", _AGAIN),
        ("retry_on_error=x", _AGAIN),
        ("single_connection_client=true", _ONE),
        ("timeout=3", _ONE),
        ("parser_class=x", "is no option that boilerd takes; leave it out"),
        ("nonsense", "is no option that boilerd takes; leave it out"),
        ("socket_timeuot=1", "is no option that boilerd takes; did you mean socket_timeout?"),
        ("socket_timeout=0", "is not a number of seconds above 0"),
        ("socket_timeout=-1", "is not a number of seconds above 0"),
        ("socket_timeout=nan", "is not a number of seconds above 0"),
        ("socket_timeout=", "is not a number of seconds above 0"),
        ("max_connections=0", "is not a whole number above 0"),
        ("max_connections=many", "is not a whole number above 0"),
        ("health_check_interval=1.5", "is not a whole number"),
        ("socket_keepalive=perhaps", "is not true or false"),
        ("protocol=4", "is not 2 or 3"),
        ("db=x", "is not a whole number"),
        ("ssl_ca_certs=/x", "is for TLS, which has URLs of the form rediss://"),
    ],
)
@pytest.mark.parametrize("take", [lambda url: from_variables(BOILERD_REDIS_URL=url), Client.from_url])
def test_an_option_of_a_url_that_is_not_taken_is_told_by_its_name(
    take: Callable[[str], object], option: str, wrong: str
) -> None:
    url = f"redis://host/0?{option}"

    told = refusal(lambda: take(url))

    assert told == f"redis_url: {url!r}: {option.partition('=')[0]} {wrong}"


def test_an_option_that_a_unix_socket_does_not_have_is_told() -> None:
    told = refusal(lambda: from_variables(BOILERD_REDIS_URL="unix:///x?socket_keepalive=1"))

    assert told == "redis_url: 'unix:///x?socket_keepalive=1': socket_keepalive is for TCP; leave it out"


@pytest.mark.parametrize("text", ["redis_password = 4711", "redis_password = ['4711']"])
def test_a_password_of_the_wrong_type_is_told_without_it(write_file: WriteFile, text: str) -> None:
    path = write_file(text)

    assert refusal(lambda: load(file=path, environ={})) == f"{path}: redis_password: {MASK} is not text"


def test_a_url_of_the_wrong_type_is_told_without_its_password(write_file: WriteFile) -> None:
    path = write_file("redis_url = ['redis://:geheim@host']")

    assert "geheim" not in refusal(lambda: load(file=path, environ={}))


@pytest.mark.parametrize("variable", ["BOILERD_REDIS_PASSWORD_FILE", "REDIS_PASSWORD_FILE"])
def test_a_secret_can_come_from_a_file(tmp_path: Path, variable: str) -> None:
    (tmp_path / "secret").write_text("geheim\n")

    loaded = load(environ={variable: str(tmp_path / "secret")})

    assert loaded.settings.redis_password == "geheim"
    assert loaded.sources == {"redis_password": variable}


def test_a_secret_can_come_as_a_credential_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "redis_password").write_text("geheim\n")
    (tmp_path / "concurrency").write_text("5")

    loaded = from_variables(CREDENTIALS_DIRECTORY=str(tmp_path))

    assert loaded.settings == Settings(redis_password="geheim")
    assert loaded.sources == {"redis_password": "credential redis_password"}


def test_a_credential_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "redis_password").symlink_to(tmp_path / "gone")

    told = refusal(lambda: from_variables(CREDENTIALS_DIRECTORY=str(tmp_path)))

    assert told == f"credential redis_password: cannot read {tmp_path}/redis_password: No such file or directory"


@pytest.mark.parametrize(
    ("text", "state_dir"),
    [
        ("state_dir = '/srv/b'\nconcurrency = 0\n", "/srv/b"),
        ("state_dir = '/srv/b'\nlog_output = 'file'\n", "/srv/b"),
        ("state_dir = '/srv/b'\ncolour = 1\n", None),
        ("state_dir = '/srv/b'\n[", None),
    ],
)
def test_who_wants_a_few_settings_has_them_whatever_is_wrong_with_others(
    write_file: WriteFile, text: str, state_dir: str | None
) -> None:
    path = write_file(text)

    found = load(file=path, environ={"BOILERD_PREFETCH": "maybe", "BOILERD_COLOUR": "1"}, only=("state_dir",))

    assert found.settings.state_dir == state_dir
    assert found.settings.concurrency == load(environ={}).settings.concurrency


def test_an_address_from_boiler_go_is_a_url_for_those_who_want_a_few_settings_too() -> None:
    found = load(environ={"REDIS_ADDR": "cache:6379"}, only=("redis_url",))

    assert found.settings.redis_url == "redis://cache:6379"


def test_a_credentials_directory_without_ours_sets_nothing(tmp_path: Path) -> None:
    assert from_variables(CREDENTIALS_DIRECTORY=str(tmp_path)).settings.redis_password is None


def test_of_several_places_for_a_secret_the_most_special_one_wins(tmp_path: Path) -> None:
    for name in ("redis_password", "original", "own"):
        (tmp_path / name).write_text(f"{name} file")
    environ: dict[str, str] = {}
    steps = {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "REDIS_PASSWORD_FILE": str(tmp_path / "original"),
        "REDIS_PASSWORD": "original text",
        "BOILERD_REDIS_PASSWORD_FILE": str(tmp_path / "own"),
        "BOILERD_REDIS_PASSWORD": "own text",
    }

    found = []
    for variable, text in steps.items():
        environ[variable] = text
        found.append(load(environ=environ).settings.redis_password)

    assert found == ["redis_password file", "original file", "original text", "own file", "own text"]


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file or directory"), (b"\xff", "not UTF-8 text")])
def test_a_secret_that_cannot_be_read_is_told(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)

    told = refusal(lambda: from_variables(REDIS_PASSWORD_FILE=str(path)))

    assert told == f"REDIS_PASSWORD_FILE: cannot read {path}: {reason}"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("redis_password", "geheim", MASK),
        ("redis_password", None, None),
        ("redis_url", "redis://:geheim@host", f"redis://:{MASK}@host"),
        ("shutdown_timeout", Duration(90), "1m30s"),
        ("max_memory", Size(512 * 1024**2), "512M"),
        ("concurrency", 10, 10),
        ("queues", {"a": 1}, {"a": 1}),
        ("strict_priority", True, True),
    ],
)
def test_a_value_is_shown_as_people_may_see_it(name: str, value: object, text: object) -> None:
    (setting,) = [each for each in definitions() if each.name == name]

    assert setting.shown(value) == text


# --- Durations and sizes


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h30m15s", 5415), ("90m", 5400), ("0.25s", 0.25), ("2h5s", 7205),
        ("500ms", 0.5), ("1m1.5ms", 60.0015), ("30", 30), ("1.5", 1.5), (30, 30), (0.5, 0.5), (0, 0), ("0", 0),
        ("7d", 604800), ("1d12h", 129600), ("24855d3h14m7s", 2**31 - 1),
    ],
)  # fmt: skip
def test_a_duration_reads(value: object, seconds: float) -> None:
    assert Duration.parse(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", "s", "h", "-1s", "1 s", " 1s", "1S", "1w", "1h1d", "30m1h", "1.5h", "1e3", "inf", "nan", "1_0",
        -1, True, None, [], float("nan"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(DURATION)):
        Duration.parse(value)


@pytest.mark.parametrize("seconds", [2**31, 2**31 - 0.5, float(2**31)])
def test_a_duration_that_no_task_could_have_as_an_option_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidTaskError, match="timeout"):
        check_number("timeout", seconds, at_least=0)
    for value in (seconds, f"{seconds}", f"{seconds}s"):
        with pytest.raises(ValueError, match="is too long; the longest duration is 68 years"):
            Duration.parse(value)


@pytest.mark.parametrize("value", [float("inf"), 10**400, "9" * 400, "9" * 400 + "h", "24856d"])
def test_what_is_too_long_for_a_duration_is_called_so(value: object) -> None:
    with pytest.raises(ValueError, match=f"is too long; the longest duration is 68 years, or {LONGEST_S // 86400}d"):
        Duration.parse(value)


def test_the_longest_duration_can_be_an_option_of_a_task() -> None:
    check_number("timeout", Duration.parse(LONGEST_S), at_least=0)

    assert LONGEST_S == 2**31 - 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5, "5s"), (59, "59s"), (60, "1m"), (90, "1m30s"), (3600, "1h"), (3661, "1h1m1s"), (86400, "24h"),
     (0.5, "0.5s"), (90.5, "90.5s"), (7205, "2h5s")],
)  # fmt: skip
def test_a_duration_prints_as_people_write_it(seconds: float, text: str) -> None:
    assert str(Duration(seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1s"), (-5, "1s"), (45.4, "45s"), (200, "3m20s"), (599, "9m59s"), (600, "10m"), (659, "10m"), (3659, "1h"),
     (3905, "1h5m"), (86_400, "1d"), (90_061, "1d1h"), (26_143_200, "302d14h"), (2**31, "years"), (math.inf, "years"),
     (math.nan, "years")],
)  # fmt: skip
def test_how_long_something_lasts_is_told_by_two_units_at_most(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


def test_every_duration_reads_back_as_it_was_printed() -> None:
    draw = random.Random(1)
    values = [draw.randrange(10**6) for _ in range(1000)] + [draw.uniform(0, 10**6) for _ in range(1000)]
    values += [1234.5678, 59.9999999, 1e-7, 0.1 + 0.2, LONGEST_S]

    wrong = [value for value in values if Duration.parse(str(Duration(value))) != value]

    assert wrong == []


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512M", 512 * 1024**2), ("2G", 2 * 1024**3), ("4k", 4096), ("5 MB", 5 * 1024**2), ("5MiB", 5 * 1024**2),
        ("100", 100), ("100B", 100), (100, 100), (0, 0),
    ],
)  # fmt: skip
def test_a_size_reads(value: object, size: int) -> None:
    assert Size.parse(value) == size


@pytest.mark.parametrize("value", ["", "M", "-1", "1.5G", "2T", " 1M", "1  M", -1, 1.5, True, None])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(SIZE)):
        Size.parse(value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1K"),
        (1536, "1536"),
        (512 * 1024**2, "512M"),
        (1024**3, "1G"),
        (5 * 1024**4, "5120G"),
    ],
)
def test_a_size_prints_as_people_write_it(size: int, text: str) -> None:
    assert str(Size(size)) == text


def test_every_size_reads_back_as_it_was_printed() -> None:
    draw = random.Random(1)
    values = [draw.randrange(2**16) << draw.choice((0, 9, 10, 20, 30)) for _ in range(1000)]

    wrong = [value for value in values if Size.parse(str(Size(value))) != value]

    assert wrong == []


# --- One definition, seen everywhere


def test_the_committed_file_holds_the_defaults() -> None:
    loaded = load(file=CONF, environ={})

    assert loaded.settings == Settings()
    given = {
        setting.name
        for setting in definitions()
        if setting.default is not None and (setting.default or not setting.is_json)
    }
    assert set(loaded.sources) == given


def test_the_committed_file_is_the_one_that_the_code_makes() -> None:
    assert CONF.read_text("utf-8") == render_toml()


def test_a_periodic_task_of_the_file_has_each_option_that_one_of_the_mux_may_have(write_file: WriteFile) -> None:
    per_tick = {"task_id", "once", "process_at", "deadline", "inherit"}
    options = {
        "queue": "low", "timeout": 300.0, "max_retries": 3, "retention": 60.0, "process_in": 30.0, "unique": 3600.0,
        "unique_until": "end", "concurrency_key": "reports", "concurrency_limit": 2, "headers": {"tenant-id": "7"},
    }  # fmt: skip
    lines = [f"{name} = {json.dumps(value, separators=(',', '='))}\n" for name, value in options.items()]

    (entry,) = load(
        file=write_file("".join(["[[cron]]\nspec = '@daily'\ntype = 'a:b'\n", *lines])), environ={}
    ).settings.cron_entries()

    assert options.keys() == EnqueueOptions.__annotations__.keys() - per_tick
    assert entry.options == options


def test_the_example_of_each_table_in_the_committed_file_has_all_its_keys_and_can_be_read(
    write_file: WriteFile,
) -> None:
    text = re.sub(r"^#(?=\[|\w+ = (?!\"\"))", "", CONF.read_text("utf-8"), flags=re.MULTILINE)

    settings = load(file=write_file(text), environ={}).settings

    for example in (settings.limits["low"], settings.pools["web"], settings.cron[0]):
        assert None not in msgspec.structs.asdict(example).values()
    assert set(msgspec.structs.asdict(settings.cron[0])) <= set(re.findall(r"^(\w+) =", text, re.MULTILINE))


@pytest.mark.parametrize("key", msgspec.structs.fields(Retry), ids=lambda key: key.name)
def test_each_key_of_the_retry_table_has_its_meaning_in_the_committed_file(key: msgspec.structs.FieldInfo) -> None:
    assert re.search(rf"^{key.name} = \S+ +# \w+ \w+", CONF.read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def run_help() -> str:
    """``boilerd run --help`` without the white space that wraps it."""
    done = boilerd("run", "--help")
    assert done.returncode == 0, done.stderr
    return "".join(done.stdout.split())


def by_name(setting: Setting) -> str:
    return setting.name


@pytest.mark.parametrize("setting", definitions(), ids=by_name)
def test_a_setting_has_a_sentence_and_a_variable_in_the_committed_file(setting: Setting) -> None:
    text = CONF.read_text("utf-8")

    assert re.fullmatch(r"\S.*\S\.", setting.doc)
    assert f"\n# {setting.doc}\n# Variable: BOILERD_{setting.name.upper()}\n" in text


@pytest.mark.parametrize("setting", definitions(), ids=by_name)
def test_a_setting_has_a_flag_with_its_sentence_unless_it_is_secret_or_a_table(setting: Setting, run_help: str) -> None:
    flag = f"--{setting.name.replace('_', '-')}VALUE" + "".join(setting.doc.split())

    has_flag = setting.name not in {"redis_password", "metrics_token", "retry", "limits", "pools", "cron", "web"}
    assert setting.has_flag == has_flag
    assert (flag in run_help) == has_flag
    assert (f"--{setting.name.replace('_', '-')}VALUE" in run_help) == has_flag


@pytest.mark.parametrize("setting", definitions(), ids=by_name)
def test_a_setting_takes_its_variable(setting: Setting) -> None:
    texts = {
        "app": "a:b", "redis_url": "unix:///x", "log_file": "/x", "queues": "a=1", "rq_functions": "a.b, a.c.*",
        "inherit_headers": "tenant-id, user_id", "metrics_listen": "/x", "metrics_token": "x" * 16,
        "metrics_allow": "10.0.0.0/8, 192.0.2.7",
        "retry": '{"base": "2s"}', "limits": '{"low": {"max_active": 2}}',
        "cron": '[{"spec": "@daily", "type": "a:b"}]', "web": '{"port": 1}',
    }  # fmt: skip
    default = setting.default
    text = texts.get(setting.name, "x" if default is None else str(default).lower())

    loaded = load(environ={setting.variable: text})

    assert loaded.sources == {setting.name: f"BOILERD_{setting.name.upper()}"}


def test_the_originals_names_all_set_a_setting() -> None:
    names = {setting.form.boiler_go: setting.name for setting in definitions() if setting.form.boiler_go}

    assert names == {
        "REDIS_ADDR": "redis_url",
        "REDIS_PASSWORD": "redis_password",
        "REDIS_DB": "redis_db",
        "WORKER_SHUTDOWN_TIMEOUT": "shutdown_timeout",
        "LOG_OUTPUT": "log_output",
        "LOG_FILE": "log_file",
    }


# --- Directories


def become(monkeypatch: pytest.MonkeyPatch, *, user_id: int, variables: dict[str, str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user_id)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "variables", "paths"),
    [
        ({}, {}, ("/var/lib/boilerd", "/run/boilerd")),
        ({}, {"XDG_STATE_HOME": "/x", "XDG_RUNTIME_DIR": "/r"}, ("/var/lib/boilerd", "/run/boilerd")),
        ({}, {"STATE_DIRECTORY": "/sd", "RUNTIME_DIRECTORY": "/rd"}, ("/sd", "/rd")),
        ({"state_dir": "/s"}, {}, ("/s", "/s/run")),
        ({"runtime_dir": "/r"}, {}, ("/var/lib/boilerd", "/r")),
    ],
)
def test_the_directories_of_root_follow_settings_then_systemd(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], variables: dict[str, str], paths: tuple[str, str]
) -> None:
    become(monkeypatch, user_id=0, variables=variables)

    chosen = Settings(**settings)

    assert (str(chosen.state_path()), str(chosen.runtime_path())) == paths


@pytest.mark.parametrize(
    ("settings", "variables", "paths"),
    [
        ({}, {}, ("/home/me/.local/state/boilerd", "/home/me/.local/state/boilerd/run")),
        ({}, {"XDG_STATE_HOME": "/x"}, ("/x/boilerd", "/x/boilerd/run")),
        ({}, {"XDG_RUNTIME_DIR": "/run/user/7"}, ("/home/me/.local/state/boilerd", "/run/user/7/boilerd")),
        ({}, {"STATE_DIRECTORY": "/sd", "XDG_STATE_HOME": "/x"}, ("/sd", "/sd/run")),
        ({}, {"RUNTIME_DIRECTORY": "/rd", "XDG_RUNTIME_DIR": "/x"}, ("/home/me/.local/state/boilerd", "/rd")),
        ({"state_dir": "/s"}, {"XDG_RUNTIME_DIR": "/run/user/7"}, ("/s", "/s/run")),
        ({"state_dir": "/s"}, {"STATE_DIRECTORY": "/sd"}, ("/s", "/s/run")),
        ({"state_dir": "/s", "runtime_dir": "/r"}, {"RUNTIME_DIRECTORY": "/rd"}, ("/s", "/r")),
    ],
)
def test_the_directories_of_others_follow_settings_then_systemd_then_xdg(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], variables: dict[str, str], paths: tuple[str, str]
) -> None:
    become(monkeypatch, user_id=1000, variables=variables)

    chosen = Settings(**settings)

    assert (str(chosen.state_path()), str(chosen.runtime_path())) == paths


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, user_id=1000, variables={})
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 1)

    told = refusal(Settings().state_path)

    assert told == "state_dir: this user has no home directory; set state_dir to a directory"


def test_a_relative_directory_is_seen_from_the_working_directory(tmp_path: Path) -> None:
    settings = Settings(state_dir="s", runtime_dir="r")

    assert (settings.state_path(), settings.runtime_path()) == (tmp_path / "s", tmp_path / "r")


def test_the_sockets_are_in_the_runtime_directory() -> None:
    settings = Settings(runtime_dir="/r r")

    assert settings.control_socket() == Path("/r r/control.sock")
    assert settings.valkey_socket() == Path("/r r/valkey.sock")
    assert settings.broker_url() == socket_url(Path("/r r/valkey.sock")) == "unix:///r%20r/valkey.sock"


def test_the_broker_is_the_one_that_is_set() -> None:
    assert Settings(redis_url="redis://host").broker_url() == "redis://host"
