"""``boilerd schema``."""

import json

import click

from boilerd.cli.options import BROKER, Loaded, with_settings
from boilerd.cli.output import echo, harmless_json
from boilerd.errors import ConfigError, listed, shown
from boilerd.tasks.loading import load_app


@click.command()
@click.argument("task_type", metavar="[TYPE]", required=False)
@with_settings((*BROKER, "app"))
def schema(loaded: Loaded, *, task_type: str | None) -> None:
    """Show the JSON Schema (draft 2020-12) of the payloads that a task type takes; without TYPE, of each.

    It is the form that the handler declared, for clients in any language and for tests of payloads.

    \b
    boilerd schema email:deliver
    boilerd schema
    """  # noqa: D301 - click looks for the character \b
    mux = load_app(loaded.settings.app)
    if task_type is None:
        _print(mux.schema())
        return
    declared = mux.payload_type(task_type)
    if declared is None:
        known = listed([*mux.schema()])
        raise ConfigError(f"no handler declares the payload of {shown(task_type)} by payload=; declared are: {known}")
    _print(declared.schema())


def _print(value: object) -> None:
    echo(*(harmless_json(line) for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n")))
