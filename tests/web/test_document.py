"""The page on the dashboard does what it says."""

import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from starlette.responses import PlainTextResponse

from boilerd import Client, TaskState
from boilerd.broker.broker import Broker
from boilerd.broker.task_filter import NAMES, parse_filter
from boilerd.settings.web import Web, WebToken
from boilerd.web import passwords
from boilerd.web.page import PAGES, load_pages
from boilerd.web.permissions import ROLES, Permission
from boilerd.web.redaction import SECRET_WORDS
from browser import Browser, web_app
from builders import enqueue, in_state, pending
from pages import DOCS, ROOT, blocks, codes, table, tables
from support import Valkey, wait_until

PAGE = DOCS / "web.md"


def test_the_table_has_every_page() -> None:
    load_pages()
    named = {row[0].strip("`") for row in table("web.md", "Address").rows}

    assert named == {
        re.sub(r"\{(\w+)\}", lambda found: {"queue": "Q"}.get(found[1], found[1].upper()), page.path) for page in PAGES
    }


def test_the_table_of_settings_has_what_the_page_lets_one_choose(browser: Browser) -> None:
    fields = re.findall(
        r"<label><span>(.*?)</span>\s*<select[^>]*>(.*?)</select>", browser.get("/settings").text, re.DOTALL
    )

    assert [(row[0], row[1]) for row in table("web.md", "Setting").rows] == [
        (name, ", ".join(re.findall("<option[^>]*>(.*?)</option>", options))) for name, options in fields
    ]


def test_the_pictures_are_those_that_the_script_writes() -> None:
    named = set(re.findall(r"web/(\w+\.png)", PAGE.read_text()))
    written = set(re.findall(r'^    "(\w+\.png)"', (ROOT / "scripts" / "screenshots").read_text(), re.MULTILINE))

    assert named == written == {path.name for path in (DOCS / "web").iterdir()}


def test_the_table_of_roles_has_every_role() -> None:
    assert [row[0].strip("`") for row in table("web.md", "Role").rows] == [*ROLES]


def test_the_table_of_settings_has_each_with_its_default() -> None:
    settings = Web()

    rows = [(codes(row[0]), row[1].replace("`", "")) for row in table("web-serving.md", "In `[web]`").rows]
    defaults = [", ".join(_toml(getattr(settings, name)) for name in names) for names, _ in rows]

    assert {name for names, _ in rows for name in names} == {*Web.__struct_fields__}
    assert [default for _, default in rows] == [each.strip(", ") or "none" for each in defaults]


def _toml(value: object) -> str:
    """A default as the settings write it; empty, if it is empty."""
    return (json.dumps(value) if value else "") if not isinstance(value, bool) else str(value).lower()


def test_the_table_of_permissions_has_every_permission() -> None:
    assert {row[0].strip("`") for row in table("web.md", "Permission").rows} == {*Permission}


def test_all_that_a_search_is_said_to_understand_is_understood() -> None:
    written = [code for row in table("web.md", "Written").rows for code in codes(row[0])]
    now = datetime.now(UTC)

    read = {code: parse_filter(code, now) for code in written}

    assert [code for code, found in read.items() if found.words] == ['"two words"']
    assert [code for code, found in read.items() if found.without] == ["-word"]
    assert {code.partition(":")[0].partition(".")[0] for code in written[2:]} == {
        name.partition(".")[0] for name in NAMES
    }


def test_the_words_of_what_is_hidden_are_those_of_the_code() -> None:
    words = PAGE.read_text().partition("one of these in it:\n")[2].partition(".\n")[0]

    assert re.findall(r"`(\w+)`", words.replace("_", "")) == [*SECRET_WORDS]


def python(name: str) -> list[str]:
    """The examples of this name."""
    found = [block.text for block in blocks(PAGE) if block.language == "python"]
    return [text for text in found if text.startswith(f"# {name}")]


def test_the_example_of_a_program_runs_again_what_has_failed(
    client: Client, broker: Broker, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (code,) = python("run_again.py")
    token, hashed = passwords.new_token()
    monkeypatch.setenv("TOKEN", token)
    task_id = in_state(client, broker, TaskState.ARCHIVED)
    tokens = {"reports": WebToken(sha256=hashed, role=[Permission.VIEW, Permission.RUN], queues=["default"])}

    with Browser(web_app(connection, tokens=tokens), host="localhost:8383") as browser:

        def urlopen(request: Any) -> io.BytesIO:
            path = request.full_url.removeprefix("http://localhost:8383")
            answer = browser.send(
                request.get_method(), path, content=request.data, headers=dict(request.header_items())
            )
            assert answer.status_code == 200, answer.text
            return io.BytesIO(answer.content)

        monkeypatch.setattr("urllib.request.urlopen", urlopen)
        exec(code, {})

    told = capsys.readouterr().out
    assert task_id in told
    assert "run of all archived tasks of queue default has been ordered" in told
    wait_until(lambda: pending(connection) == [task_id], "the task to wait again")


def test_the_example_of_an_application_shows_the_queues_to_its_users(
    valkey: Valkey, client: Client, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (code,) = python("api.py")
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)
    monkeypatch.chdir(tmp_path)
    enqueue(client, "task")
    module = ModuleType("api")
    exec(code, module.__dict__)

    with Browser(module.app, host="any.example") as browser:
        shown = browser.get("/jobs/queues/default", x_user="anna")
        nobody = browser.get("/jobs/queues/default")

    assert shown.status_code == 200
    assert nobody.status_code == 401


def test_the_example_of_an_application_that_mounts_nothing_passes_on_what_is_below_its_path(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (code,) = python("asgi.py")
    monkeypatch.setenv("BOILERD_REDIS_URL", valkey.url)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("asgi")
    exec(code, module.__dict__)
    module.__dict__["django"] = PlainTextResponse("Django's own")

    with Browser(module.__dict__["application"], host="any.example") as browser:
        shown, paused, other = browser.get("/jobs/queues"), browser.post("/jobs/queues/a/pause"), browser.get("/queues")

    assert (shown.status_code, paused.status_code, other.text) == (200, 403, "Django's own")
    assert 'href="/jobs/tasks"' in shown.text


def test_the_table_of_keys_has_those_of_the_page(browser: Browser) -> None:
    listed = re.findall(r"<div><dt>(.*?)</dt>", browser.get("/settings").text)

    found = [re.findall("<kbd>(.*?)</kbd>", keys) for keys in listed]

    assert [codes(row[0]) for row in table("web.md", "Key").rows][:-1] == [keys for keys in found if keys[0] != "g"]


def test_all_that_others_have_is_at_an_address_of_ours_or_refused_with_a_reason() -> None:
    declared = {route.path for route in web_app(redis.Redis()).app.routes}
    found = [row for each in tables(DOCS / "web-and-others.md") if "Here" in each.header for row in each.rows]

    wrong = [code for row in found for code in codes(row[2]) if code.startswith("/") and code not in declared]
    unsaid = [row for row in found if not re.match(r"no: .{20}|.*[`\[]|(every|all|each|CSV)\b", row[2])]

    assert (wrong, unsaid) == ([], [])
    for peer in ("asynqmon", "Sidekiq", "Flower", "rq-dashboard", "bull-board", "Oban", "River"):
        assert sum(peer in row[1] for row in found) > 10, peer
