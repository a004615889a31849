"""Addresses of pages below whatever prefix the dashboard stands under.

A name in a path is written with letters, digits, ``_``, ``-`` and ``:`` as they are, and all else as ``~`` and two
hexadecimal digits for each byte. So it has no percent sign, slash or dot that a proxy could read otherwise.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from markupsafe import Markup, escape

_ODD = re.compile(r"[^A-Za-z0-9_:-]")
#: Stands in a query as it is.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")
#: Characters up to which names in an address are short: it is kept.
_SHORT = 200
_PLACE = re.compile(r"{(\w+)}")
_ESCAPED = re.compile("(?:~[0-9A-Fa-f]{2})+")


def segment(name: str) -> str:
    """A name as a part of a path; any text, also one of bytes that are no text."""
    # Of nothing at all there is a lone tilde.
    return _ODD.sub(_escape, name) or "~"


def unsegment(part: str) -> str:
    """The name that a part of a path stands for."""
    if part == "~":
        return ""
    return _ESCAPED.sub(lambda found: _unescape(found[0]), part)


def _escape(odd: re.Match[str]) -> str:
    return "".join([f"~{byte:02X}" for byte in _in_bytes(odd[0])])


def _in_bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, of a stranger's JSON: there is nothing of this name
        return text.encode("utf-8", "surrogatepass")


def _quoted(text: str) -> str:
    # Most are plain, and a page may have hundreds of them.
    return text if _PLAIN.fullmatch(text) else quote_plus(_in_bytes(text))


def _unescape(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("~", "")).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Links:
    """Makes the addresses of one request.

    Attributes:
        root: The prefix, without a slash at its end.
    """

    root: str = ""

    def to(self, *parts: str, **query: object) -> str:
        """The address of a page: ``to("queues", name)``; what is empty in the query is left out."""
        return self.path("/" + "/".join(map(segment, parts)), query)

    def shown(self, *parts: str, **query: object) -> Markup:
        """The same address as `to`, in HTML."""
        is_short = sum(map(len, parts)) + sum(len(value) for value in query.values() if isinstance(value, str)) < _SHORT
        make = _shown if is_short else _shown.__wrapped__
        return make(self.root, *parts, **query)

    def path(self, path: str, query: Mapping[str, object] | None = None) -> str:
        """The address of a path of ours, which begins with a slash; a tuple in the query is several of a name."""
        kept = {name: value for name, value in (query or {}).items() if value not in {None, ""}}
        pairs = [
            f"{_quoted(name)}={_quoted(str(one))}"
            for name, value in kept.items()
            for one in (value if isinstance(value, tuple) else (value,))
        ]
        return f"{self.root}{path}{'?' if pairs else ''}{'&'.join(pairs)}"


@functools.lru_cache(512, typed=True)  # the rows of a page have most of the addresses that they had before
def _shown(root: str, /, *parts: str, **query: object) -> Markup:
    return escape(Links(root).to(*parts, **query))


def outside(known: Mapping[str, str], **shown: str) -> list[tuple[str, str]]:
    """Name and address of the other tools that know of what is shown; those that want to know more of it are left out.

    Args:
        known: Name → address with places, such as ``https://logs.example/?q={id}``.
        shown: What stands in these places.
    """
    given = {name: quote(value, safe="", errors="surrogateescape") for name, value in shown.items()}
    return [
        (name, address.format_map(given)) for name, address in known.items() if {*_PLACE.findall(address)} <= {*given}
    ]


def is_own_path(path: str) -> bool:
    """Whether it is a path of ours that a browser takes for no other host."""
    return re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", path) is not None
