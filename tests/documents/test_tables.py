"""The rows of the tables in the documents, compared with the code."""

import ast
import inspect
import re
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import boilerd
import pytest_boilerd
from boilerd import Client, ConfigError, EnqueueOptions, Inspector, InvalidTaskError, ServeMux, Task, TaskState, retry
from boilerd.broker import keys
from boilerd.process.log_lines import FIELDS
from boilerd.process.signals import HANDLED
from boilerd.settings import urls
from boilerd.settings.definitions import definitions
from boilerd.settings.loading import load
from boilerd.tasks.headers import MAX_HEADER_BYTES
from boilerd.tasks.payload import DEFAULT_MAX_PAYLOAD
from boilerd.tasks.task import check_task_id, check_type
from boilerd.testing.daemon_process import DaemonProcess
from boilerd.units import LONGEST_S
from boilerd.worker.attempt import MAX_RESULT_BYTES
from pages import COMMANDS_IN, DOCS, PAGES, ROOT, blocks, codes, prose, table, tables

DAEMON = ROOT / "daemon" / "boilerd"
#: What an attribute of each of these names may be.
OBJECTS = {"client": Client, "mux": ServeMux, "task": Task, "boilerd": boilerd}
#: Of a task, but for its worker alone.
INTERNAL = {"attach", "complete", "fill", "log_fields", "retry_intervals_s", "runtime"}
#: In our column, but Python's or RQ's.
OF_OTHERS = {"sys.exit", "async def", "Retry(enqueue_at_front=True)"}
SETTINGS = {setting.name for setting in definitions()}
OPTIONS = set(EnqueueOptions.__annotations__)
ARGUMENTS = {name for call in (retry, ServeMux.cron, ServeMux.handle) for name in inspect.signature(call).parameters}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def is_known(code: str) -> bool:
    """Whether a name is one of an application, or of the settings; a call, if its keywords are as well."""
    head = code.removeprefix("@").partition("(")[0].rstrip("=").partition("=")[0].strip("[]")
    owner, _, name = head.partition(".")
    names = SETTINGS | OPTIONS | ARGUMENTS | set(boilerd.__all__) | public(Client) | public(ServeMux)
    keywords = set(re.findall(r"(\w+)=", code.partition("(")[2]))
    if code.startswith("["):  # a table of the settings, also of one queue: [limits.Q]
        return owner in SETTINGS
    is_named = head == "boilerd.testing" or (hasattr(OBJECTS.get(owner), name) if name else head in names)
    return is_named and keywords <= OPTIONS | ARGUMENTS


def sizes() -> dict[str, str]:
    """The limits of size in the guarantees."""
    return {row[0]: row[1] for row in table("guarantees.md", "Thing").rows}


@cache
def messages() -> dict[str, set[str]]:
    """The messages of all log lines in the code, each with its levels."""
    found: dict[str, set[str]] = {}
    for path in DAEMON.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute | ast.Name) and call.args:
                name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
                level, words = {"exception": "error", "log": "info"}.get(name, name), call.args[0]
                if name == "write_to" and isinstance(call.args[2], ast.Attribute):
                    level, words = call.args[2].attr.lower(), call.args[3]
                for part in ast.walk(words):
                    if level in {"debug", "info", "warning", "error"} and isinstance(part, ast.Constant):
                        found.setdefault(str(part.value), set()).add(level)
    return found


# Writing tasks.


def test_the_options_of_an_enqueue_are_those_of_the_code() -> None:
    assert set(table("writing-tasks.md", "Option").names()) == OPTIONS


def test_the_arguments_of_a_retry_policy_are_those_of_the_code() -> None:
    arguments = inspect.signature(retry).parameters.values()

    taken = {argument.name for argument in arguments if argument.kind is not argument.VAR_POSITIONAL}

    assert set(table("writing-tasks.md", "`@retry`").names()) == taken


def test_the_attributes_of_a_task_are_those_of_the_code() -> None:
    named = {re.sub(r"^task\.|\(.*", "", code) for code in table("writing-tasks.md", "Attribute").names()}

    assert named == public(Task) - INTERNAL


def test_the_errors_of_an_enqueue_are_those_of_the_code() -> None:
    named = set(table("writing-tasks.md", "Error").names())
    raised = set(re.findall(r"^ +(\w+Error): ", inspect.getdoc(Client.enqueue) or "", re.MULTILINE))

    assert named == raised - {"TypeError"}
    assert named <= set(boilerd.__all__)


def test_what_a_handler_may_raise_is_in_the_package() -> None:
    for code in table("writing-tasks.md", "The handler raises").names():
        assert is_known(code), code


def test_the_methods_of_an_inspector_have_the_arguments_that_the_page_gives_them() -> None:
    for code in table("writing-tasks.md", "Method").names():
        name, _, given = code.rstrip(")").partition("(")
        has = set(inspect.signature(getattr(Inspector, name)).parameters)
        assert set(given.split(", ")) - {"", "…"} <= has, code


# Testing.


def test_the_fixtures_are_those_of_the_plugin() -> None:
    kind = type(pytest_boilerd.boilerd_mux)
    fixtures = {name for name, value in vars(pytest_boilerd).items() if isinstance(value, kind)}

    assert set(table("testing.md", "Fixture").names()) == fixtures


def test_what_a_daemon_of_a_test_does_has_the_arguments_that_the_page_gives_it() -> None:
    has = public(DaemonProcess) | set(re.findall(r"self\.(\w+)[:=\s]", inspect.getsource(DaemonProcess.__init__)))

    for code in table("testing.md", "`boilerd_daemon`").names():
        name, _, given = code.rstrip(")").partition("(")
        assert name in has, code
        if given:
            assert set(given.split(", ")) <= set(inspect.signature(getattr(DaemonProcess, name)).parameters), code


# Operating.


def test_each_message_of_the_log_is_in_the_code_with_its_level() -> None:
    found = messages()

    rows = [(message, row[1]) for row in table("operating.md", "Message").rows for message in codes(row[0])]

    assert [(message, level) for message, level in rows if level not in found.get(message, ())] == []


def test_what_one_sees_in_the_log_at_night_begins_a_message_of_the_code() -> None:
    seen = table("operating.md", "You see").names()

    unknown = [code for code in seen if " " in code and not COMMANDS_IN.match(f"`{code}`")
               and not any(message.startswith(code) for message in messages())]  # fmt: skip

    assert unknown == []


def test_the_fields_of_a_log_line_come_in_the_order_that_the_page_has() -> None:
    assert " ".join(FIELDS) in codes(prose(DOCS / "operating.md"))


def test_the_signals_to_the_daemon_are_those_that_it_handles() -> None:
    rows = table("operating.md", "To the daemon").rows
    named = {word for row in rows for word in re.findall(r"\b[A-Z]+[12]?\b", row[0])}

    # QUIT stands below the table; CHLD and ALRM are of use inside only.
    assert named | {"QUIT", "CHLD", "ALRM"} == {signal.Signals(signum).name.removeprefix("SIG") for signum in HANDLED}


def test_the_files_of_an_installation_are_named_by_the_installer_or_its_units() -> None:
    installer = "".join(path.read_text() for path in [ROOT / "scripts/install", *(ROOT / "systemd").glob("*.service")])
    paths = table("operating.md", "File").names()

    # A unit names its directories without /var/lib and /run, and its credentials without /etc/credstore.
    unknown = [path for path in paths if path not in installer and path.rpartition("/")[2] not in installer]

    assert unknown == []


# Settings.


def test_each_setting_to_know_is_one() -> None:
    named = [code for found in tables(DOCS / "settings.md") if found.header[0] == "Setting" for code in found.names()]

    assert set(named) >= SETTINGS
    assert [code for code in named if not is_known(code)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_a_page_names_is_one(page: Path) -> None:
    known = {name for setting in definitions() for name in (setting.variable, setting.form.boiler_go)}
    # The last one Kubernetes makes for a service.
    known |= {f"{name}_FILE" for name in known} | {"BOILERD_CONFIG", "BOILERD_PORT"}
    text = page.read_text("utf-8")

    named = set(re.findall(r"\b(?:BOILERD|REDIS|LOG|WORKER)_[A-Z_]+\b", text))

    assert named <= known


def test_the_options_of_a_url_are_those_of_the_code() -> None:
    named = set(table("settings.md", "Options").names())
    others = {name for name in urls._OPTIONS if name.startswith("ssl_")}

    assert named - {"ssl_…"} == set(urls._OPTIONS) - others


# Guarantees.


def test_the_limits_of_size_are_those_of_the_code() -> None:
    limits = sizes()
    claims, ending = ((DAEMON / "broker/lua" / name).read_text() for name in ("claims.lua", "ending.lua"))
    attempts = re.findall(r"'MAXLEN', (\d+)", claims)
    last = re.findall(r"LTRIM', OWN .. ':completed:' .. queue, 0, (\d+)", ending)

    assert limits["payload"].startswith(f"{DEFAULT_MAX_PAYLOAD // 1024**2} MB ")
    assert limits["headers"].startswith(f"{MAX_HEADER_BYTES:,} bytes")
    assert limits["result"].startswith(f"{MAX_RESULT_BYTES // 1024**2} MB ")
    assert limits["times to wait"].startswith("2³¹")
    assert LONGEST_S == 2**31 - 1
    assert [limits["last attempts that a task remembers"]] == attempts
    assert [limits["last completed tasks that a queue remembers"]] == [f"{int(number) + 1:,}" for number in last]


def test_a_daemon_may_have_as_many_workers_as_the_page_says() -> None:
    most = int(sizes()["workers of a daemon"].replace(",", ""))

    assert load({"concurrency": str(most)}, environ={}).settings.concurrency == most
    with pytest.raises(ConfigError, match="concurrency"):
        load({"concurrency": str(most + 1)}, environ={})


@pytest.mark.parametrize(("thing", "check", "most"), [("task type", check_type, 256), ("task ID", check_task_id, 128)])
def test_a_name_may_be_as_long_as_the_page_says(thing: str, check: Any, most: int) -> None:
    limit = sizes()[thing]

    assert limit.startswith(f"{most} of ")
    assert check("a" * most) == "a" * most
    with pytest.raises(InvalidTaskError):
        check("a" * (most + 1))


# Coming from elsewhere.


@pytest.mark.parametrize("name", ["asynq.md", "rq.md", "celery.md"])
def test_every_name_of_ours_beside_one_of_another_program_exists(name: str) -> None:
    cells = [row[1] for found in tables(DOCS / name) if found.header[1] in {"boilerd", "Here"} for row in found.rows]

    named = [code for cell in cells for code in codes(COMMANDS_IN.sub("", cell))]

    assert named
    assert [code for code in named if not is_known(code) and code not in OF_OTHERS] == []


@pytest.mark.parametrize(("name", "state_column"), [("asynq.md", 1), ("a-tasks-way.md", 0)])
def test_every_state_stands_where_the_page_says(name: str, state_column: int) -> None:
    rows = [row for found in tables(DOCS / name) if found.heading == "States" for row in found.rows]
    places = {keys.registry(kind, "Q") for kind in ("scheduled", "failed", "finished")}

    states = {row[state_column] for row in rows if row[state_column].isalpha()}

    assert states == set(TaskState)
    assert {code for row in rows for code in codes(row[2])} == places | {keys.queue("Q"), keys.wip("Q")}


def test_the_picture_of_the_states_has_all_of_them() -> None:
    (picture,) = (block.text for block in blocks(DOCS / "a-tasks-way.md") if block.language == "mermaid")

    assert set(re.findall(r"\b[a-z]+(?= -->|: )", picture)) == set(TaskState)
