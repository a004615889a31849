"""What the daemon tells of its settings on the control socket; `cli.daemon_settings` is the end that asks."""

import json
import os

from msgspec import structs

from boilerd.settings.definitions import definitions
from boilerd.settings.loading import Loaded
from boilerd.supervision.rpc import Told


def told(loaded: Loaded) -> Told:
    """The settings that the daemon runs with.

    ``file`` is the settings file, ``unit_run`` what systemd calls this run of the service, and ``settings`` has
    ``{"value": …, "source": …}`` for each name, with secrets masked. Those stand beside it, by the same names.
    """
    values = structs.asdict(loaded.settings)
    rows = {
        each.name: {"value": each.shown(values[each.name]), "source": loaded.sources.get(each.name, "default")}
        for each in definitions()
    }
    whole = {
        "file": str(loaded.file.absolute()) if loaded.file else None,
        "unit_run": os.environ.get("INVOCATION_ID", ""),
        "settings": rows,
    }
    secrets = {name: value for name, value in values.items() if isinstance(value, str) and rows[name]["value"] != value}
    return Told(json.dumps(whole), json.dumps(secrets))
