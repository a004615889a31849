"""``boilerd config``."""

import json

import click

from boilerd.cli.options import ALL, Loaded, with_json_object, with_settings
from boilerd.cli.output import echo
from boilerd.settings.definitions import definitions


@click.group()
def config() -> None:
    """Show and check the settings.

    \b
    boilerd config show
    boilerd config check
    """  # noqa: D301 - click looks for the character \b


@config.command()
@with_json_object
@with_settings(ALL, of="shown daemon")
def show(loaded: Loaded, *, as_json: bool) -> None:
    """Print every setting, its value and where that came from; secrets are masked.

    \b
    boilerd config show
    boilerd config show --json | jq .concurrency.value
    """  # noqa: D301 - click looks for the character \b
    rows = {
        setting.name: (
            setting.shown(getattr(loaded.settings, setting.name)),
            loaded.sources.get(setting.name, "default"),
        )
        for setting in definitions()
    }
    if as_json:
        echo(json.dumps({name: {"value": value, "source": source} for name, (value, source) in rows.items()}))
        return
    for name, (value, source) in rows.items():
        echo(f"{name:<21}{_text(value):<40} {source}".rstrip())


@config.command()
@with_settings(ALL, of="command")
def check(loaded: Loaded) -> None:
    """Check the settings, that the application can be imported, and that the daemon can run it with these settings.

    Exit status: 0 all is well, 2 a setting is wrong, 3 the application does not import.

    \b
    boilerd config check && boilerd reload
    boilerd config check --config mail.toml --app myproject.tasks:mux
    """  # noqa: D301 - click looks for the character \b
    from boilerd.settings.pools import check_loops, slotted_pools  # noqa: PLC0415
    from boilerd.tasks.bridge import check_async  # noqa: PLC0415
    from boilerd.tasks.cron import check_entries  # noqa: PLC0415
    from boilerd.tasks.loading import load_app  # noqa: PLC0415 - only here

    check_loops(loaded.settings.worker_pools())
    mux = load_app(loaded.settings.app, loaded.settings.rq_functions)
    check_async(mux, slotted_pools(loaded.settings.worker_pools()))
    check_entries([*mux.crons, *loaded.settings.cron_entries()], loaded.settings.served_queues(), mux.has_handler)
    echo(f"settings are fine ({loaded.file or 'no file'}); app {loaded.settings.app or '(built-in)'} imports")


def _text(value: object) -> str:
    if isinstance(value, dict) and all(isinstance(weight, int) for weight in value.values()):
        return ",".join(f"{name}={weight}" for name, weight in value.items())
    if isinstance(value, dict | list):
        return json.dumps(value) if value else "-"
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
