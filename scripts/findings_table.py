"""The table of findings in docs/operating.md, made from `boilerd.verdict.table`."""

import re
from pathlib import Path

from boilerd.verdict.table import TABLE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operating.md"
#: The table stands between these two lines of the page.
BEGIN, END = "<!-- findings: made by `make generate` -->", "<!-- end of findings -->"


def render_findings() -> str:
    """The page with a fresh table."""
    rows = ["| Finding | Is | When | See |", "|---|---|---|---|"]
    rows += [f"| `{row.kind}` | {row.severity} | {row.when} | `{row.command}` |" for row in TABLE]
    table = "\n".join([BEGIN, *rows, END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: table, PAGE.read_text("utf-8"), flags=re.DOTALL)
