"""The documents: what they link to and name exists."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages import PAGES, ROOT, prose
from support import boilerd, clean_environment

#: Where a name in these pages may begin.
BASES = (ROOT, ROOT / "daemon" / "boilerd", ROOT / "daemon" / "boilerd" / "broker" / "lua")
#: A file or folder in backticks: with a slash, or the ending of a file of ours.
NAMED = re.compile(r"`([\w.@-]+(?:/[\w.@-]*)+|[\w-]+\.(?:py|lua|toml|md|service))`")


def anchors(page: Path) -> Iterator[str]:
    """What GitHub makes of a page's headings."""
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    """The relative links."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_commands_in_the_folder_of_the_readmes_steps_look_at_its_application(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (module,) = re.findall(r"```python\n# tasks\.py\n(.*?)```", readme, re.DOTALL)
    (name_it,) = re.findall(r"^\$ (echo .*)$", readme, re.MULTILINE)
    (tmp_path / "tasks.py").write_text(f"{module}\nmux.cron('@daily', 'email:deliver', name='nightly')\n")
    subprocess.run(name_it, shell=True, cwd=tmp_path, check=True)
    env = clean_environment(BOILERD_STATE_DIR=str(tmp_path), BOILERD_REDIS_URL="redis://127.0.0.1:1")

    checked = boilerd("config", "check", cwd=tmp_path, env=env)
    unknown = boilerd("cron", "run", "weekly", cwd=tmp_path, env=env)

    assert checked.stdout == "settings are fine (boilerd.toml); app tasks:mux imports\n"
    assert unknown.stderr == "boilerd: error: no periodic task 'weekly'; there are: nightly\n"


def test_the_readme_has_at_most_a_hundred_lines() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= 100


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/a-tasks-way.md", "docs/decisions.md"])
def test_every_file_that_a_page_about_the_code_names_exists(name: str) -> None:
    named = set(NAMED.findall((ROOT / name).read_text()))

    missing = sorted(path for path in named if not any((base / path).exists() for base in BASES))

    assert named
    assert missing == []


def test_the_index_lists_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}

    missing = [page.name for page in index.parent.glob("*.md") if page not in linked | {index}]

    assert missing == []


def test_the_page_on_security_names_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())
    texts = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}

    missing = [name for module, name in named if f"def {name}(" not in texts.get(module, "")]

    assert named
    assert missing == []
