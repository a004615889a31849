"""Where the commands and an application's clients look for the daemon of this host.

The units keep their sockets in /run/boilerd and /run/boilerd-NAME; a daemon that a user started has its own place.
"""

import os
from pathlib import Path

import msgspec

from boilerd.settings.definitions import Settings
from boilerd.settings.loading import SYSTEM_FILE, Loaded, load

#: Where boiler-worker.service has its sockets; those of an instance have -NAME behind it.
SERVICE_RUN = Path("/run/boilerd")
#: Where it has its data, also while it is stopped.
SERVICE_STATE = Path("/var/lib/boilerd")
#: Where one may say where the daemon is; then it is nowhere else.
_PLACES = ("runtime_dir", "state_dir")
_UNIT_VARIABLES = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY")


def find_settings() -> Settings:
    """The settings of a program that gives none, as a command without flags has them; raises ConfigError."""
    return find_daemon(load()).settings


def find_daemon(loaded: Loaded) -> Loaded:
    """The settings with the runtime directory of the daemon that they are likely meant for.

    It is the instance's for its settings file, and the service's where this user has no daemon of his own.
    """
    settings = loaded.settings
    if any(getattr(settings, name) for name in _PLACES) or any(map(os.environ.get, _UNIT_VARIABLES)):
        return loaded
    found = _of_instance(loaded.file) or _of_service(settings)
    if found is None:
        return loaded
    return msgspec.structs.replace(
        loaded,
        settings=msgspec.structs.replace(settings, runtime_dir=str(found)),
        sources={**loaded.sources, "runtime_dir": "where the service has it"},
    )


def unit_of(loaded: Loaded) -> str:
    """The unit that runs with this settings file."""
    instance = _instance(loaded.file)
    return f"boiler-worker@{instance}" if instance else "boiler-worker"


def _instance(file: Path | None) -> str:
    """NAME for /etc/boilerd/NAME.toml; empty: it is none of an instance."""
    if file is None or file.absolute().parent != SYSTEM_FILE.parent or file.name == SYSTEM_FILE.name:
        return ""
    return file.stem


def _of_instance(file: Path | None) -> Path | None:
    """The runtime directory of boiler-worker@NAME for its settings file, if there is such an instance."""
    if not (name := _instance(file)):
        return None
    run, state = (place.with_name(f"{place.name}-{name}") for place in (SERVICE_RUN, SERVICE_STATE))
    return run if os.path.lexists(run) or os.path.lexists(state) else None


def _of_service(settings: Settings) -> Path | None:
    """The service's runtime directory, if this user has no daemon, and could reach that one."""
    if os.geteuid() == 0 or not SERVICE_RUN.is_dir():
        return None
    own = settings.control_socket(), settings.valkey_socket()
    return None if any(map(os.path.lexists, own)) else SERVICE_RUN
