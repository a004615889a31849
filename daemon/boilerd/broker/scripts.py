"""The Lua scripts, as they are sent to Redis."""

import functools
import hashlib
import importlib.resources
from dataclasses import dataclass
from typing import Self

_SCRIPTS = (
    "act", "advance", "birth", "cancel", "death", "enqueue", "expired", "extend", "fail", "forward", "held", "janitor",
    "mark", "release", "result", "tick",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest by which Redis knows it once it has seen it."""

    source: str
    digest: str

    @classmethod
    def of(cls, source: str) -> Self:
        """The script of this text."""
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@functools.cache
def scripts() -> dict[str, Script]:
    """All scripts by name; read once, before the daemon forks."""
    return {name: Script.of(script_source(name)) for name in _SCRIPTS}


@functools.cache
def script_source(name: str) -> str:
    """The text of a script as it is sent to Redis."""
    files = importlib.resources.files("boilerd.broker") / "lua"
    stores = name in {"enqueue", "tick"}
    parts = ("common", "store" if stores else "claims", name)
    # What stores no new task makes room, or keeps what is there: it must go on when Redis is full.
    flags = "" if stores else " flags=allow-oom"
    return f"#!lua{flags}\n" + "\n".join((files / f"{part}.lua").read_text("utf-8") for part in parts)
