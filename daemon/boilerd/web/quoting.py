"""Hide in errors and results what they quote of hidden values."""

import json
import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "[hidden]"
#: A shorter text is in too many others to be looked for.
_LEAST = 4
#: Of an error that was cut within a hidden text, so much of that tells it.
_LEAST_PART = 8
#: Characters that are compared for one error, and hidden texts; beyond, it is hidden as a whole: it would take seconds.
_MOST_COMPARED, _MOST_TEXTS = 4 * 1024 * 1024, 20_000
#: Characters of a traceback that a worker keeps, the last ones: the first line of so long a one lacks its beginning.
_KEPT = 64 * 1024
#: From the first quotation mark of a line to its last: an apostrophe could be the end of one as well as its beginning.
_QUOTED = re.compile("['\"`‘’“”«»].*['\"`‘’“”«»]")  # noqa: RUF001 - these are meant


class Quotes:
    """Knows the hidden texts of a page, and takes them out of others.

    Args:
        hides_all: Whether all that is quoted is hidden, whatever it is.
    """

    def __init__(self, *, hides_all: bool) -> None:
        self._hides_all = hides_all
        self._texts: set[str] = set()
        self._ordered: list[str] | None = None

    def add(self, value: Any, shown: Any = None) -> None:
        """Hide what is in a value, but not in what is shown of it."""
        if len(self._texts) <= _MOST_TEXTS:  # beyond, every text is hidden as a whole
            self._texts |= {*_texts(value)} - {*_texts(shown)}
            self._ordered = None

    def clean(self, value: Any) -> Any:
        """The value with texts that quote nothing hidden."""
        if isinstance(value, str):
            return self._clean_text(value)
        if isinstance(value, dict):
            return {name: self.clean(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(inner) for inner in value]
        return value

    def _clean_text(self, text: str) -> str:
        if len(self._texts) > _MOST_TEXTS or len(self._texts) * len(text) > _MOST_COMPARED:
            return HIDDEN
        if self._ordered is None:  # the longest first, as one may stand in another
            self._ordered = sorted({form for each in self._texts for form in _forms(each)}, key=len, reverse=True)
        if len(self._ordered) * len(text) > _MOST_COMPARED:
            return HIDDEN
        for hidden in self._ordered:
            text = _without_end(_without_beginning(text.replace(hidden, HIDDEN), hidden), hidden)
        return _without_quoted(text) if self._hides_all else text


def _texts(value: Any) -> Iterator[str]:
    """The texts, numbers and names in a value, as an error could quote them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(str(name))
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str | int | float) and len(str(value)) >= _LEAST and not isinstance(value, bool):
        yield str(value)


def _forms(text: str) -> set[str]:
    """A text as it is, as Python quotes it, and as JSON does."""
    return {text, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _without_quoted(text: str) -> str:
    """The text without all that is quoted in it, and without a first line of which nobody knows what it quotes."""
    if len(text) >= _KEPT:
        text = HIDDEN + "".join(text.partition("\n")[1:])
    return _QUOTED.sub(HIDDEN, text)


def _without_beginning(text: str, hidden: str) -> str:
    """The text without the beginning of a hidden one at its end, where it was cut."""
    end = text.removesuffix("…").removesuffix("...")
    at = end.find(hidden[:_LEAST_PART], max(0, len(end) - len(hidden)))
    return text[:at] + HIDDEN if at >= 0 and len(hidden) > _LEAST_PART and hidden.startswith(end[at:]) else text


def _without_end(text: str, hidden: str) -> str:
    """The text without the end of a hidden one at its beginning: of a long traceback the last characters are kept."""
    ends = text.rfind(hidden[-_LEAST_PART:], 0, len(hidden)) + _LEAST_PART
    is_part = len(hidden) > _LEAST_PART <= ends and hidden.endswith(text[:ends])
    return HIDDEN + text[ends:] if is_part else text
