"""The settings of the daemon that runs on this host, for commands that are to see what it sees.

Its environment and its credentials are the service manager's, and no other process has them.
"""

import json
import os
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from boilerd.errors import RefusedError
from boilerd.settings.definitions import definitions
from boilerd.settings.loading import SYSTEM_FILE, Loaded
from boilerd.settings.setting import Setting
from boilerd.settings.urls import MASK
from boilerd.supervision.asking import ask

T = TypeVar("T")

#: They say where the daemon is, which is known by the time it answers.
_ITS_PLACE = frozenset({"runtime_dir", "state_dir"})
#: They say what code is run, by which user, and which file is read; root's commands do not take that from the daemon's.
_ITS_WORD = frozenset({"app", "rq_functions", "user", "log_file"})
#: A program of its own has them: nobody has to reload the daemon for them.
_NOT_ITS = frozenset({"web"})


class _Row(msgspec.Struct):
    """A setting of the daemon's: its value, as people may see it, and where that is from."""

    value: Any
    source: str


class _Answer(msgspec.Struct):
    """The answer to ``boilerd.settings``; `daemon.told` makes it."""

    file: str | None
    unit_run: str
    settings: dict[str, _Row]


def as_the_daemon(loaded: Loaded, *, only_shows: bool = False) -> Loaded:
    """The settings with the running daemon's values, but for what a flag or a variable of this command says.

    They stay as they are where no daemon answers, and where this command was told of another settings file.

    Args:
        loaded: The settings as this command reads them.
        only_shows: True if it does nothing with them, and so may have all.
    """
    answer = _ask(loaded)
    if answer is None or _is_meant_otherwise(loaded, answer):
        return loaded
    kept = _ITS_PLACE | _NOT_ITS | (frozenset() if only_shows else _ITS_WORD)
    kept |= {name for name, source in loaded.sources.items() if source != str(loaded.file)}
    rows = _visible(loaded, {name: row for name, row in answer.settings.items() if name not in kept})
    values = _converted(rows)
    sources = {name: source for name, source in loaded.sources.items() if name not in values}
    sources |= {name: rows[name].source for name in values}
    return msgspec.structs.replace(loaded, settings=msgspec.structs.replace(loaded.settings, **values), sources=sources)


def changed_variables(loaded: Loaded) -> list[str]:
    """The settings for which the service's environment says something else by now than at the daemon's start.

    Only a command that the service manager runs for the service has that environment.
    """
    answer, run = _ask(loaded), os.environ.get("INVOCATION_ID")
    if answer is None or not run or answer.unit_run != run:
        return []
    rows = answer.settings
    return [each.name for each in definitions() if each.name in rows and _differs(each, loaded, rows[each.name])]


def _differs(setting: Setting, loaded: Loaded, row: _Row) -> bool:
    """True if a variable sets the one or did set the other, and they are not the same."""
    source = loaded.sources.get(setting.name, "default")
    if not {source, row.source} & {*setting.variables}:
        return False
    shown = setting.shown(getattr(loaded.settings, setting.name))
    return (source, json.loads(json.dumps(shown))) != (row.source, row.value)


def _is_meant_otherwise(loaded: Loaded, answer: _Answer) -> bool:
    """True if this command has the settings file of another daemon, or of none."""
    return loaded.file not in {None, SYSTEM_FILE} and str(loaded.file.absolute()) != answer.file


def _converted(rows: dict[str, _Row]) -> dict[str, Any]:
    """The values as settings; a daemon of another version may have some that this one does not know."""
    values = {}
    for setting in definitions():
        if setting.name in rows:
            with suppress(msgspec.MsgspecError, ValueError):
                values[setting.name] = setting.convert(rows[setting.name].value)
    return values


def _visible(loaded: Loaded, rows: dict[str, _Row]) -> dict[str, _Row]:
    """The rows with their secrets, or without those that this user may not know."""
    masked = [name for name, row in rows.items() if isinstance(row.value, str) and MASK in row.value]
    secrets = _asked(loaded, "secrets", dict[str, str | None]) if masked else None
    known = {name: _Row(value, rows[name].source) for name, value in (secrets or {}).items() if name in masked}
    return {name: row for name, row in rows.items() if name not in masked} | known


def _ask(loaded: Loaded) -> _Answer | None:
    return _asked(loaded, "settings", _Answer)


def _asked(loaded: Loaded, method: str, kind: type[T]) -> T | None:
    """The daemon's answer; None where none answers, or this user may not ask."""
    with suppress(OSError, RefusedError, msgspec.MsgspecError):
        text: str = ask(loaded.settings.control_socket(), f"boilerd.{method}", kind=str)
        return msgspec.json.decode(text, type=kind)
    return None
