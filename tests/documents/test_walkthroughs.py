"""What the pages say is done as they say it, block by block, in an empty folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boilerd import Client
from pages import DOCS, ROOT
from support import Valkey
from walkthrough import Session

REDIS_URL = "redis://localhost:6379/0"


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """A line that is no Python, at the end of a module."""
    kept = path.read_text()
    path.write_text(f"{kept}def\n")
    yield
    path.write_text(kept)


def test_getting_started_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(DOCS / "getting-started.md", {"SyntaxError": lambda: broken(reader.directory / "tasks.py")})


def test_the_readme_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory, BOILERD_STATE_DIR=str(directory / "state")) as reader:
        reader.follow(ROOT / "README.md")


@pytest.mark.parametrize("name", ["writing-tasks.md", "commands.md"])
def test_the_blocks_of_a_page_do_what_it_says(name: str, directory: Path, valkey: Valkey, client: Client) -> None:
    client.enqueue("email:deliver")  # a reader has had tasks in the queue that is looked at

    with Session(directory, BOILERD_REDIS_URL=valkey.url) as reader:
        reader.replace(REDIS_URL, valkey.url).follow(DOCS / name)
