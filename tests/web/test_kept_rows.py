"""Rows that are written once: what is in one that is kept, for whom, and how many there are."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from jinja2 import nodes
from starlette.applications import Starlette
from starlette.routing import Mount

from boilerd import Client
from boilerd.web import kept_rows
from boilerd.web.kept_rows import KeptRow, KeptRows
from boilerd.web.templating import HERE, make_environment
from browser import WHO, Browser, with_people

#: What is the same wherever a row is written for a reader; of the rest each row says what it is made of.
SAME = frozenset({"to", "may", "charts", "to_path", "links", "brief", "percent"})
#: The variable of lists of all states, by which none of a fixed state is written.
CONSTANT = frozenset({"moment_fields"})
#: A value nested deeper than the stack is.
DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]


class Written:
    """Writes rows, and counts how often."""

    def __init__(self, row: str = "<tr>") -> None:
        self.times = 0
        self._row = row

    def __call__(self) -> str:
        self.times += 1
        return self._row


def test_a_row_is_written_again_only_where_something_in_it_differs() -> None:
    rows, write = KeptRows(), Written()

    for _ in range(2):
        assert rows.get(["a", 1, datetime(2026, 1, 31, tzinfo=UTC)], write) == "<tr>"
    assert write.times == 1

    for part in (2, True, 1.0, "1", [1], None):
        rows.get(["a", part, datetime(2026, 1, 31, tzinfo=UTC)], write)
    assert write.times == 7


@pytest.mark.parametrize("part", [object(), "\udcff", 2**70, DEEP])
def test_a_row_of_what_cannot_be_compared_is_written_each_time(part: Any) -> None:
    rows, write = KeptRows(), Written()

    assert [rows.get(["a", part], write) for _ in range(2)] == ["<tr>", "<tr>"]
    assert write.times == 2


def test_the_rows_that_were_shown_last_are_kept_and_no_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_rows, "MOST_ROWS", 10)
    rows, write, long = KeptRows(), Written(), Written("x" * (kept_rows.MOST_LONG + 1))

    for number in range(100):
        rows.get([number], write)
        rows.get(["shown always"], write)
        rows.get(["long"], long)

    assert len(rows._young) + len(rows._old) <= 20
    assert (write.times, long.times) == (101, 100)


@pytest.mark.parametrize("name", sorted(file.name for file in HERE.glob("*.html") if "{% kept " in file.read_text()))
def test_a_row_says_all_that_it_is_made_of(name: str) -> None:
    template = parsed(name)
    found = [call for call in template.find_all(nodes.CallBlock) if is_kept(call)]
    assert found

    for call in found:
        inputs: Any = call.call.args[1]
        said = {each.name for each in inputs.find_all(nodes.Name)}
        assert used_in(call.body, name) - said <= SAME | CONSTANT, call.lineno


def test_each_reader_gets_rows_of_their_own(connection: redis.Redis, client: Client) -> None:
    client.enqueue("test:echo", None)
    found = {}
    for role in ("admin", "viewer", "admin"):
        with Browser(with_people(connection), **{WHO: role}) as browser:
            found[role] = browser.get("/queues").text
    with Browser(Starlette(routes=[Mount("/below", with_people(connection))]), **{WHO: "admin"}) as browser:
        below = browser.get("/below/queues").text

    assert {role: "/queues/default/pause" in text for role, text in found.items()} == {"admin": True, "viewer": False}
    assert 'href="/tasks?queue=default' in found["admin"]
    assert 'href="/below/tasks?queue=default' in below


def test_a_row_that_changes_is_shown_as_it_is(browser: Browser, client: Client) -> None:
    client.enqueue("test:echo", None)
    before, same = browser.get("/queues").text, browser.get("/queues").text

    browser.post("/queues/default/pause")
    after = browser.get("/queues").text

    assert before.partition("<main")[2].partition("<footer")[0] == same.partition("<main")[2].partition("<footer")[0]
    assert ["/queues/default/resume" in text for text in (before, after)] == [False, True]


def parsed(name: str) -> nodes.Template:
    """The tree of a template."""
    return make_environment().parse(Path(HERE / name).read_text(), name)


def is_kept(call: nodes.CallBlock) -> bool:
    """Whether it is the tag."""
    function = call.call.node
    return isinstance(function, nodes.ExtensionAttribute) and function.identifier == KeptRow.identifier


def used_in(body: list[nodes.Node], name: str) -> set[str]:
    """The variables that this takes from around it, with those of the macros of this or another file that it calls."""
    template = parsed(name)
    files = {each.target: each.template.as_const() for each in template.find_all(nodes.Import)}
    macros = {each.name: each for each in template.find_all(nodes.Macro)}
    return set(_used(body, name, files, macros))


def _used(body: list[nodes.Node], name: str, files: dict[str, str], macros: dict[str, nodes.Macro]) -> Iterator[str]:
    within = nodes.Template(body)
    names = [*within.find_all(nodes.Name)]
    made = {each.name for each in names if each.ctx != "load"} | {"loop"}
    for each in {each.name for each in names} - made:
        if each in macros:
            yield from _of_macro(macros[each], name)
        elif each not in files:
            yield each
    for part in within.find_all(nodes.Getattr):
        if isinstance(part.node, nodes.Name) and part.node.name in files:
            file = files[part.node.name]
            yield from _of_macro(next(one for one in parsed(file).find_all(nodes.Macro) if one.name == part.attr), file)


def _of_macro(macro: nodes.Macro, name: str) -> set[str]:
    return used_in(macro.body, name) - {each.name for each in macro.args}
