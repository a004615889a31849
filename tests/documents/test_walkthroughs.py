"""What the pages say is done as they say it, block by block, in an empty folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boilerd import Client
from boilerd.settings.loading import load
from pages import DOCS, PAGES, ROOT, Block, blocks
from support import Valkey, run_python
from walkthrough import NOT_RUN, Session, steps

#: The databases' by tests/databases, with a database; the dashboard's by tests/web.
_PAGES = (
    "getting-started.md",
    "writing-tasks.md",
    "headers.md",
    "sentry.md",
    "slots.md",
    "commands.md",
    "a-workers-life.md",
    "databases.md",
    "results.md",
    "testing.md",
    "pools.md",
    "web.md",
    "web-serving.md",
    "metrics.md",
    "tracing.md",
)
FOLLOWED = {ROOT / "README.md", *(DOCS / name for name in _PAGES)}
#: How commands begin that the tests of other rooms run.
ELSEWHERE = dict.fromkeys(("sudo ", "systemctl ", "journalctl "), "tests/systemd/test_pages.py")
REDIS_URL = "redis://localhost:6379/0"


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """A line that is no Python, at the end of a module."""
    kept = path.read_text()
    path.write_text(f"{kept}def\n")
    yield
    path.write_text(kept)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "getting-started.md"], ids=lambda page: page.name)
def test_a_beginner_has_the_command_before_it_is_called(page: Path) -> None:
    commands = [command for block in blocks(page) if block.language == "console" for command, _ in steps(block.text)]
    first = next(place for place, command in enumerate(commands) if command.startswith("boilerd "))

    before = commands[:first]

    assert any("bin/activate" in command for command in before)
    assert any(command.startswith("pip install ") for command in before)


@pytest.mark.long(8)
def test_getting_started_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(DOCS / "getting-started.md", {"SyntaxError": lambda: broken(reader.directory / "tasks.py")})


def test_the_page_on_a_workers_life_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(DOCS / "a-workers-life.md")
    kept = run_python(
        f"import sys; sys.path.append({str(directory)!r}); import queries; print(len(queries.mux.life.before_forks))"
    )

    assert (directory / "counts.sqlite").exists()
    assert kept == 1


def test_the_page_on_pools_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(DOCS / "pools.md")


def test_the_readme_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(ROOT / "README.md")


def test_the_page_on_tasks_that_wait_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory) as reader:
        reader.follow(DOCS / "slots.md")


def test_the_page_on_tracing_is_followed_to_its_end(directory: Path) -> None:
    with Session(directory, WITH_OPENTELEMETRY="1") as reader:
        reader.follow(DOCS / "tracing.md")


def test_results_are_waited_for_as_the_page_says(directory: Path, valkey: Valkey) -> None:
    with Session(directory, BOILERD_REDIS_URL=valkey.url) as reader:
        reader.follow(DOCS / "results.md")


@pytest.mark.long(10)
@pytest.mark.timeout(180)
def test_the_page_on_testing_is_followed_to_its_end(directory: Path) -> None:
    # As if boilerd were installed anew: an installation of before the plugin does not name it.
    with Session(directory, PYTEST_PLUGINS="pytest_boilerd") as reader:
        reader.follow(DOCS / "testing.md")


@pytest.mark.parametrize("name", ["writing-tasks.md", "headers.md", "sentry.md", "commands.md", "metrics.md"])
def test_the_blocks_of_a_page_do_what_it_says(name: str, directory: Path, valkey: Valkey, client: Client) -> None:
    client.enqueue("email:deliver")  # a reader has had tasks in the queue that is looked at

    # FastAPI imports it.
    with Session(directory, BOILERD_REDIS_URL=valkey.url, WITH_OPENTELEMETRY="1") as reader:
        reader.replace(REDIS_URL, valkey.url).follow(DOCS / name)


@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks(page) if block.language == "toml"], ids=str
)
def test_every_block_of_settings_is_taken(block: Block, directory: Path) -> None:
    (directory / "boilerd.toml").write_text(block.text)

    loaded = load(file=directory / "boilerd.toml", environ={})

    assert set(loaded.sources.values()) != {"default"}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in FOLLOWED], ids=lambda page: page.name)
def test_what_no_reader_follows_is_tested_elsewhere(page: Path) -> None:
    # Drop-ins are tried by tests/systemd/test_pages.py.
    of_ours = {"python", "json"} if page.name == "operating.md" else {"python", "json", "ini"}
    left = [block for block in blocks(page) if block.language in of_ours]
    commands = [command for block in blocks(page) if block.language == "console" for command, _ in steps(block.text)]

    assert left == []
    assert [command for command in commands if not command.startswith(tuple(NOT_RUN | ELSEWHERE))] == []
