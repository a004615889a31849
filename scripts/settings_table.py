"""The table of docs/settings.md, made from the definitions of the settings."""

import re
from pathlib import Path
from typing import Any

from boilerd.settings.definitions import definitions

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
#: The table stands between these two lines of the page.
BEGIN, END = "<!-- table: made by `make generate` -->", "<!-- end of table -->"


def render_settings() -> str:
    """The page with a fresh table."""
    rows = ["| Setting | Variable | Default | Means |", "|---|---|---|---|"]
    for setting in definitions():
        cells = [f"`{setting.name}`", f"`{setting.variable}`", _default(setting.default), setting.doc]
        rows.append(f"| {' | '.join(cells)} |")
    table = "\n".join([BEGIN, *rows, END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: table, PAGE.read_text("utf-8"), flags=re.DOTALL)


def _default(value: Any) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, int | float | str):
        return str(value)
    return "see the file"
