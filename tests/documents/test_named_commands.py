"""Every command that the pages name exists, and every command is in the pages and has an example."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from boilerd.cli import boilerd
from boilerd.settings.definitions import definitions
from pages import COMMANDS_IN, PAGES, ROOT, blocks, codes, prose, table
from walkthrough import steps

MAKE = re.compile(r"^(?:\$ )?(?:sudo )?make (?:\w+=\S+ )*([a-z]+)\b(.*)")
#: The options that are settings stand in docs/settings.md.
SETTINGS = {f"--{setting.name.replace('_', '-')}" for setting in definitions()} | {"--config", "-c", "--help", "-h"}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands below one, each with the words that lead to it; groups too."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child
            yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(boilerd))
ENDS = {path: command for path, command in COMMANDS.items() if not isinstance(command, click.Group)}


def named(code: str) -> tuple[tuple[str, ...], list[str]]:
    """The longest command that the words of a code begin with, and the other words."""
    words = shlex.split(code)
    length = next(length for length in range(len(words), -1, -1) if tuple(words[:length]) in COMMANDS)
    return tuple(words[:length]), words[length:]


def wrong(path: tuple[str, ...], rest: list[str]) -> str:
    """What click finds wrong with a command; placeholders stand for any values."""
    command, above = COMMANDS[path], click.Context(boilerd, **boilerd.context_settings)
    if rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        return f"no command {rest[0]!r}"
    try:
        # A command keeps the option for its help as the first context has it; other tests use it, too.
        context = click.Context(command, parent=above, **command.context_settings)
        _, left, _ = command.make_parser(context).parse_args(list(rest))
    except click.UsageError as error:
        return error.format_message()
    return f"too much: {left}" if left else ""


def listed(text: str) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """All commands in a text: as it is written, its path, its other words.

    What follows a command in a list is one of the same group, or of none.
    """
    for found in COMMANDS_IN.findall(text):
        first, *others = codes(found)
        path, rest = named(first.removeprefix("boilerd"))
        yield first, path, rest
        for code in others:
            inside = named(" ".join([*path[:-1], code]))
            yield code, *(inside if len(inside[0]) >= len(path) else named(code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    in_blocks = [
        f"`{command}`" for block in blocks(page) if block.language == "console" for command, _ in steps(block.text)
    ]  # fmt: skip

    problems = [
        f"{code}: {problem}"
        for text in [prose(page), *in_blocks]
        for code, path, rest in listed(text)
        if (problem := wrong(path, rest))
    ]  # fmt: skip

    assert problems == []


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(["boilerd", *path]))
def test_the_help_of_every_command_has_an_example_that_click_takes(path: tuple[str, ...]) -> None:
    lines = re.findall(r"^ *(?:ssh .*)?\bboilerd (.+)", COMMANDS[path].help or "", re.MULTILINE)

    assert lines
    for line in lines:
        leads_to, rest = named(re.split(r" [|<] | && | {3,}", line)[0])
        ENDS[leads_to].make_context(leads_to[-1], rest)


def test_the_page_on_commands_lists_every_command() -> None:
    rows = table("commands.md", "Command").rows

    found = [path for row in rows for _, path, _ in listed(row[0])]

    assert sorted(found) == sorted(ENDS)


def test_the_page_on_commands_lists_every_option_with_the_commands_that_have_it() -> None:
    has = {path: {name for option in command.params for name in option.opts} for path, command in ENDS.items()}
    rows = table("commands.md", "Options").rows

    found = {
        (path, option.split()[0])
        for names, commands, _ in rows
        for path in (named(code)[0] for code in codes(commands))
        for option in codes(names)
    }  # fmt: skip

    assert found == {(path, name) for path, names in has.items() for name in names - SETTINGS if name[0] == "-"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists_with_its_options(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    texts = [*codes(prose(page)), *(line for block in blocks(page) for line in block.text.splitlines())]

    found = [(target, rest) for text in texts for target, rest in MAKE.findall(text)]

    assert [target for target, _ in found if target not in targets] == []
    assert [f"{target}: {name}" for target, rest in found for name in not_taken(target, rest)] == []


def not_taken(target: str, rest: str) -> list[str]:
    """Of the options and lists that ARGS has for a target: those that its program does not name."""
    paths = {"bench": "scripts/bench/*.py", "install": "scripts/install", "uninstall": "scripts/install"}
    if target not in paths:
        return []
    program = "".join(path.read_text() for path in ROOT.glob(paths[target]))
    lists = ",".join(re.findall(r"--(?:peers|only) ([\w,-]+)", rest))
    named = [*re.findall(r"--[a-z-]+", rest), *filter(None, lists.split(","))]
    return [name for name in named if not re.search(rf"""["' ]{name}["):]""", program)]


def test_the_page_on_contributing_names_programs_and_tests_that_exist() -> None:
    page = ROOT / "CONTRIBUTING.md"
    texts = [*codes(page.read_text()), *(line for block in blocks(page) for line in block.text.splitlines())]

    paths = {path for text in texts for path in re.findall(r"\b(?:scripts|tests|conf|systemd)/[\w./-]+", text)}

    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
