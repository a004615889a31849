"""Read the settings: where a value comes from, and what is wrong with it.

A value comes from, first wins: a flag, the environment, the file, the default.
"""

import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from boilerd import ground
from boilerd.errors import ConfigError, InvalidTaskError, closest, shown
from boilerd.settings.addresses import check_exposure
from boilerd.settings.definitions import Settings, definitions
from boilerd.settings.pools import check_pools
from boilerd.settings.service_variables import service_variables
from boilerd.settings.setting import Setting
from boilerd.settings.urls import check_url

logger = logging.getLogger("boilerd.settings")

#: The settings of the machine.
SYSTEM_FILE = Path("/etc/boilerd/boilerd.toml")
#: RQ's variable for key_prefix.
_RQS = "RQ_KEY_PREFIX"


class Loaded(msgspec.Struct, frozen=True):
    """Settings together with where each value came from."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Loaded:
    """Read the settings.

    Args:
        flags: Values from the command line; those that are None were not given.
        file: The file to read; without it ``BOILERD_CONFIG``, ./boilerd.toml, /etc/boilerd/boilerd.toml,
            the first that exists.
        environ: Instead of the process's environment.
        only: Read only these, leave all others at their defaults, and ignore mistakes in them and in
            the file: for commands that must work on a daemon whose settings were broken.

    Raises:
        ConfigError: A file cannot be read, a key is unknown, or a value is not allowed.
    """
    environ = os.environ if environ is None else environ
    path = _find_file(file, environ)
    known = {setting.name: setting for setting in definitions() if only is None or setting.name in only}
    in_file = _from_file(path, is_lenient=only is not None) if path else {}
    layers = [
        {name: found for name, found in in_file.items() if name in known},
        _from_environment(environ, known.values()),
        {name: (value, "flag") for name, value in (flags or {}).items() if value is not None},
    ]
    if only is None:
        _refuse_unknown(environ)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, (raw, source) in layer.items():
            values[name] = _convert(known[name], raw, source, is_text=layer is not layers[0])
            sources[name] = source
    settings = Settings(**values)
    _check_together(settings)
    check_pools(settings, sources)
    _check_prefix(layers, environ)
    return Loaded(settings, sources, path)


def _find_file(chosen: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    if named := chosen or environ.get("BOILERD_CONFIG"):
        return Path(named)
    here = Path("boilerd.toml")
    # A directory that this user may not enter, such as root's home, has none for it.
    if os.path.lexists(here):
        return here
    try:
        SYSTEM_FILE.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # reading it raises the error
    return SYSTEM_FILE


def _from_file(path: Path, *, is_lenient: bool) -> dict[str, tuple[Any, str]]:
    """All that the file sets; nothing where it is broken and `is_lenient`."""
    try:
        return _read_file(path)
    except ConfigError as error:
        if is_lenient and not isinstance(error.__cause__, ground.UnsafeError):
            return {}
        raise


def _read_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        # It names the code that the daemon runs.
        data = tomllib.loads(ground.read_file(path).decode("utf-8"))
    except ground.UnsafeError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; check --config and BOILERD_CONFIG") from error
    except (ValueError, RecursionError) as error:  # beside TOML's own: no UTF-8, too many digits, nested too deep
        raise ConfigError(f"{path}: not TOML: {error}") from error
    names = [setting.name for setting in definitions()]
    for name in data:
        if name not in names:
            raise ConfigError(f"{path}: unknown key {shown(name)}{_did_you_mean(name, names)}")
    return {name: (value, str(path)) for name, value in data.items()}


def _from_environment(environ: Mapping[str, str], settings: Iterable[Setting]) -> dict[str, tuple[Any, str]]:
    """Credentials, then boiler-go's variables, then our own: a later one wins."""
    found: dict[str, tuple[Any, str]] = {}
    for setting in settings:
        if setting.form.is_secret:
            found |= _from_credential(setting.name, environ)
        for variable, our_text in setting.variables.items():
            if setting.form.is_secret and (path := environ.get(f"{variable}_FILE")):
                found[setting.name] = (_read_secret(Path(path), f"{variable}_FILE"), f"{variable}_FILE")
            if text := environ.get(variable):
                found[setting.name] = (our_text(text), variable)
    return found


def _from_credential(name: str, environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """The secret that systemd's LoadCredential= put into a file of the setting's name, if it did."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory or not os.path.lexists(path := Path(directory) / name):
        return {}
    return {name: (_read_secret(path, f"credential {name}"), f"credential {name}")}


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a variable that looks like ours; misspelt, it would leave the default in force unseen."""
    known = {variable for setting in definitions() for variable in setting.variables} | {"BOILERD_CONFIG"}
    known |= {f"{variable}_FILE" for each in definitions() if each.form.is_secret for variable in each.variables}
    ignored = set(tell_ignored(environ))
    for variable in environ:
        if variable.startswith("BOILERD_") and variable not in known | ignored:
            raise ConfigError(f"unknown variable {shown(variable)}{_did_you_mean(variable, sorted(known))}")


def tell_ignored(environ: Mapping[str, str]) -> list[str]:
    """Log which variables look like settings and are a service's; the daemon calls it again when its log is open."""
    ignored = service_variables(environ)
    if ignored:
        logger.debug("variables of a service named boilerd are no settings", extra={"variables": ignored})
    return ignored


def read_secret_file(path: str) -> str:
    """The secret in a file that a command was told of; raises ConfigError."""
    return _read_secret(Path(path), "--password-file")


def _read_secret(path: Path, source: str) -> str:
    try:
        return ground.read_regular(path).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{source}: cannot read {path}: {reason}") from error


def _convert(setting: Setting, raw: Any, source: str, *, is_text: bool) -> Any:
    """Convert a raw value to the setting's type; `is_text`: it is from a variable or flag, where "10" stands for 10."""
    if isinstance(raw, str) and "\0" in raw:
        raise ConfigError(f"{source}: {setting.name}: holds a NUL character; leave that out")
    given = raw
    try:
        given = setting.parse(raw) if is_text else raw
        value = setting.convert(given, strict=not is_text)
        if setting.form.check:
            setting.form.check(value)
    except (ConfigError, InvalidTaskError) as error:
        raise ConfigError(f"{source}: {setting.name}: {error}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        problem = (
            _problem_of_json(setting, given, error, strict=not is_text)
            if setting.is_json
            else f"{setting.masked(repr(raw))} is not {setting.expected()}"
        )
        raise ConfigError(f"{source}: {setting.name}: {problem}") from error
    return value


def _problem_of_json(setting: Setting, given: Any, error: Exception, *, strict: bool) -> str:
    if isinstance(error, UnicodeEncodeError):  # the bytes of a variable that are no text
        return "not UTF-8 text; write it in UTF-8"
    is_json = not isinstance(error, msgspec.DecodeError) or isinstance(error, msgspec.ValidationError)
    return (is_json and setting.problem(given, strict=strict)) or str(error)


def _check_together(settings: Settings) -> None:
    """Raise ConfigError for a value that does not go with another, or that is wrong in itself."""
    settings.cron_entries()
    if settings.log_output != "stdout" and not settings.log_file:
        raise ConfigError(f"log_file: missing; log_output = {settings.log_output!r} needs the path of a file")
    if settings.app is not None and not re.fullmatch(r"[\w.]+:[\w.]+", settings.app):
        raise ConfigError(f"app: {shown(settings.app)} is not module:name, such as myproject.tasks:mux")
    if settings.redis_url is not None:
        check_url(settings.redis_url)
    check_exposure(
        "metrics_listen",
        settings.metrics_listen,
        is_guarded=bool(settings.metrics_token or settings.metrics_allow),
        guards="metrics_token or metrics_allow",
    )


def _check_prefix(layers: Iterable[Mapping[str, tuple[Any, str]]], environ: Mapping[str, str]) -> None:
    """Raise ConfigError where RQ's own variable has another prefix: its clients and tools would see other tasks."""
    own = [layer["key_prefix"] for layer in layers if layer.get("key_prefix", ("", _RQS))[1] != _RQS]
    rqs = environ.get(_RQS)
    if own and rqs is not None and own[-1][0] != rqs:
        prefix, source = own[-1]
        raise ConfigError(
            f"key_prefix is {prefix!r} ({source}) and {_RQS} is {rqs!r}; give both the same value, or leave one out"
        )


def _did_you_mean(name: str, names: list[str]) -> str:
    close = closest(name, names)
    return f"; did you mean {close!r}?" if close else "; `boilerd config show` lists all"
