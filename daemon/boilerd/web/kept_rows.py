"""Rows of tables that are written once, and shown again while they have the same in them: most of what a page takes.

A template says what a row is made of, and nothing else may be in it but what every reader with the same permissions
gets::

    {% kept queue, is_whole %}<tr>…</tr>{% endkept %}
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context

#: The variable of a context that tells who gets the same where a row has the same in it.
READER = "reader"
#: Of so many rows are those kept that were shown last; twice as many at most.
MOST_ROWS = 500
#: Characters of the longest one that is kept.
MOST_LONG = 4096


class KeptRows:
    """What was written of each row, for all pages and readers."""

    def __init__(self) -> None:
        self._young: dict[bytes, str] = {}
        self._old: dict[bytes, str] = {}

    def get(self, parts: list[Any], write: Callable[[], str]) -> str:
        """What stands for these parts; it is written where it is not there."""
        try:
            key = blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()
        except (TypeError, ValueError, OverflowError, RecursionError):  # no plain value, no text, or nested too deep
            return write()
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key) or write()
            if len(found) <= MOST_LONG:
                self._put(key, found)
        return found

    def _put(self, key: bytes, row: str) -> None:
        # Several threads may do so at once: then some row is written again.
        if len(self._young) >= MOST_ROWS:
            self._old, self._young = self._young, {}
        self._young[key] = row


class KeptRow(Extension):
    """The tag."""

    tags = frozenset({"kept"})  # type: ignore[assignment]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._rows = KeptRows()

    def parse(self, parser: Parser) -> nodes.Node:
        """Make a call of `_write` with what the row is made of, and what writes it."""
        line = next(parser.stream).lineno
        made_of = [parser.parse_expression()]
        while parser.stream.skip_if("comma"):
            made_of.append(parser.parse_expression())
        body = parser.parse_statements(("name:endkept",), drop_needle=True)
        place = nodes.Const(f"{parser.name}:{line}")
        call = self.call_method("_write", [nodes.ContextReference(), nodes.List([place, *made_of])])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _write(self, context: Context, parts: list[Any], caller: Callable[[], str]) -> str:
        return self._rows.get([context.resolve(READER), *parts], caller)
