"""The manual page, boilerd(1), made from the commands' help."""

import inspect
from collections.abc import Iterator

import click

from boilerd.cli import boilerd

HEAD = r""".\" Made by `make generate` from the commands' help.
.TH BOILERD 1 "" boilerd "boilerd"
.SH NAME
boilerd \- background tasks for Python services
.SH SYNOPSIS
.B boilerd
.I COMMAND
[\fIOPTION\fR]... [\fIARGUMENT\fR]...
"""


def render_manual() -> str:
    """The page in roff, see man(7)."""
    root = click.Context(boilerd, info_name="boilerd")
    lines = [HEAD + ".SH DESCRIPTION", *_text(boilerd.help or ""), ".SH COMMANDS"]
    for context in _leaves(root):
        lines += [f".SS {_escaped(' '.join([context.command_path, *_arguments(context)]))}"]
        lines += _text(context.command.help or "")
        for parameter in context.command.get_params(context):
            if (record := parameter.get_help_record(context)) and parameter.name != "help":
                lines += [".TP", rf"\fB{_escaped(record[0])}\fR", _escaped(" ".join(record[1].split()))]
    lines += [".SH SEE ALSO", r".BR supervisorctl (1), \ systemctl (1), \ journalctl (1)"]
    return "\n".join(lines) + "\n"


def _leaves(context: click.Context) -> Iterator[click.Context]:
    """The commands that do something, in the order of the help."""
    command = context.command
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None and not child.hidden:
            yield from _leaves(click.Context(child, info_name=name, parent=context))


def _arguments(context: click.Context) -> list[str]:
    """What stands behind the command's name in its usage, but for the options."""
    return [piece for piece in context.command.collect_usage_pieces(context) if piece != "[OPTIONS]"]


def _text(help_text: str) -> Iterator[str]:
    """Paragraphs; those after a backspace character keep their lines, as in click."""
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        is_kept = paragraph.startswith("\b")
        yield ".PP"
        if is_kept:
            yield ".nf"
            yield from map(_escaped, paragraph.splitlines()[1:])
            yield ".fi"
        else:
            yield _escaped(" ".join(paragraph.split()))


def _escaped(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
