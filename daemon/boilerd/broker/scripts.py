"""The Lua scripts, as they are sent to Redis."""

import functools
import hashlib
import importlib.resources
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

import msgspec

from boilerd.broker.constants import IN_LUA

_SCRIPTS = (
    "act", "adopt", "advance", "annotate", "arrive", "birth", "cancel", "death", "died", "enqueue", "expired",
    "extend", "fail", "forward", "held", "janitor", "listed", "look", "mark", "metrics", "note", "operate", "over",
    "pick", "place", "progress", "publish", "records", "release", "renew", "result", "roll", "runs", "serve", "sift",
    "since", "tick", "tidy", "unlist", "unlock", "waiting", "workers",
)  # fmt: skip
#: Those that only read, so that they run on a replica, and on a Redis that takes no writes.
_READING = frozenset({"listed", "look", "pick", "runs", "sift", "workers"})
#: Those that store new tasks, which a Redis without memory refuses.
_STORING = frozenset({"enqueue", "tick", "arrive"})
#: The parts in front of each script, where they are others than common.lua and claims.lua.
_PARTS = {
    "enqueue": ("common", "locks", "store"),
    "tick": ("common", "locks", "store"),
    "arrive": ("common", "locks"),
    "act": ("common", "claims", "locks", "audit", "strike"),
    "place": ("common", "claims", "locks", "audit", "strike"),
    "cancel": ("common", "claims", "audit"),
    "note": ("common", "audit"),
    "annotate": ("common", "audit"),
    "operate": ("common",),
    "metrics": ("common", "measures"),
    "roll": ("common", "measures"),
    "publish": ("common",),
    "died": ("common",),
    "over": ("common",),
    "unlist": ("common",),
    "workers": ("common",),
    "runs": ("common",),
    "unlock": ("common",),
    "advance": ("common", "claims", "ending", "taking"),
    "serve": ("common", "claims", "ending", "taking"),
}


class Script(msgspec.Struct, frozen=True):
    """A Lua script, and the digest by which Redis knows it once it has seen it.

    Attributes:
        front: What stands in front of it; many have the same, so that all texts take 0.3 MB in place of 1.1.
        own: Its own text.
        is_reading: Whether it only reads, so that a user runs it who may write nothing.
    """

    front: str
    own: str
    digest: str
    is_reading: bool = False

    @property
    def source(self) -> str:
        """The whole text."""
        return self.front + self.own


@functools.cache
def scripts() -> dict[str, Script]:
    """All scripts by name; read once, before the daemon forks."""
    return {name: _script(name) for name in _SCRIPTS}


def script_source(name: str) -> str:
    """The text of a script as it is sent to Redis: behind the parts that it shares with others."""
    return _script(name).source


def _script(name: str) -> Script:
    # A script that stores no new task makes room, or keeps what is there: it must go on when Redis is full.
    flags = "" if name in _STORING else " flags=no-writes" if name in _READING else " flags=allow-oom"
    front, digest = _front(flags, _PARTS.get(name, ("common", "claims")))
    own, digest = _part(name), digest.copy()
    digest.update(own.encode())
    return Script(front, own, digest.hexdigest(), name in _READING)


@functools.cache
def _front(flags: str, parts: tuple[str, ...]) -> tuple[str, Any]:
    """What stands in front of scripts, and the state in which computing their digests goes on: half of all is alike."""
    text = "\n".join([f"#!lua{flags}", *map(_part, parts), ""])
    return text, hashlib.sha1(text.encode(), usedforsecurity=False)


@functools.cache
def _part(name: str) -> str:
    """The text of a file in lua/, behind the constants that it shares with Python."""
    file = _folder() / f"{name}.lua"
    constants = IN_LUA.get(name, {}).items()
    return "".join(f"local {constant} = {_lua(value)}\n" for constant, value in constants) + file.read_text("utf-8")


@functools.cache
def _folder() -> Traversable:
    return importlib.resources.files("boilerd.broker") / "lua"


def _lua(value: object) -> str:
    """The value as Lua writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_lua(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_lua, value)) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)
