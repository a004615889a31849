"""The pages of the documents as tests read them: blocks, tables and code in sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
#: A command in backticks, and those that follow with a comma: `boilerd quiet`, `resume`.
COMMANDS_IN = re.compile(r"`boilerd(?: [^`\n]*)?`(?:, `(?!rq |boilerd\b)[a-z][^`\n]*`)*")
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
#: A bar between cells, outside of code.
_BAR = re.compile(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)")


@dataclass(frozen=True)
class Block:
    """A block of code, and the paragraph before it."""

    page: Path
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0]}"


@dataclass(frozen=True)
class Table:
    """A table with the heading that it stands under; a cell is text."""

    page: Path
    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def names(self, column: int = 0) -> list[str]:
        """All code in a column."""
        return [code for row in self.rows for code in codes(row[column])]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text("utf-8")
    for found in _FENCED.finditer(text):
        before = text[: found.start()].rstrip().rpartition("\n\n")[2]
        yield Block(page, found[2], re.sub(f"^{found[1]}", "", found[3], flags=re.MULTILINE), before)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", page.read_text("utf-8"))


def codes(text: str) -> list[str]:
    """What stands in backticks."""
    return _CODE.findall(text)


def tables(page: Path) -> Iterator[Table]:
    """The tables of a page, in their order."""
    heading, rows = "", list[tuple[str, ...]]()
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in _BAR.split(line)[1:-1]))
        elif rows:
            yield Table(page, heading, rows[0], tuple(rows[2:]))
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def table(name: str, first: str) -> Table:
    """The one table of a page of docs/ whose first column has this title."""
    (found,) = (table for table in tables(DOCS / name) if table.header[0] == first)
    return found
