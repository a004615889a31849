"""The text of conf/boilerd.toml: every setting with its sentence, its variable and its default."""

from typing import Any

import msgspec

from boilerd.settings.definitions import definitions
from boilerd.settings.setting import Setting
from boilerd.units import Duration, Size

HEAD = """\
# Every setting with its default; made by `make generate` from daemon/boilerd/settings/definitions.py.
# A flag wins over the environment, that over this file, that over the default.
# boilerd reads --config, $BOILERD_CONFIG, ./boilerd.toml or /etc/boilerd/boilerd.toml, the first there is.
"""


def render_toml() -> str:
    """The text of the file; tables come last, as TOML wants it."""
    keys, tables = [], []
    for setting in definitions():
        about = f"\n# {setting.doc}\n# Variable: {setting.variable}\n"
        if setting.is_json:
            tables.append(f"{about}# There it is JSON.\n{_table(setting)}")
        elif isinstance(setting.default, dict):
            tables.append(about + _table(setting))
        elif setting.default is None:
            keys.append(f'{about}#{setting.name} = ""\n')
        else:
            keys.append(about + _line(setting.name, setting.default))
    return "".join([HEAD, *keys, *tables])


def _table(setting: Setting) -> str:
    default = setting.default
    if isinstance(default, msgspec.Struct):
        about = {name: hint.__metadata__[0].description for name, hint in _documented(type(default))}
        lines = [f"{_line(name, getattr(default, name)).rstrip():<31}# {doc}\n" for name, doc in about.items()]
        lines.append(setting.form.example)
    elif default:
        lines = [_line(key, value) for key, value in default.items()]
    else:
        return setting.form.example
    return "".join([f"[{setting.name}]\n", *lines])


def _documented(kind: type) -> list[tuple[str, Any]]:
    """The fields of a table that are no tables themselves; those stand in the example."""
    found = [(name, hint) for name, hint in kind.__annotations__.items() if hasattr(hint, "__metadata__")]
    return [(name, hint) for name, hint in found if hint.__metadata__[0].description]


def _line(key: str, value: Any) -> str:
    return f"{key} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Duration | Size | str):
        return f'"{value}"'
    return str(value)
