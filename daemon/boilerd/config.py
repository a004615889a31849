"""Settings: what there is, where a value comes from, and what is wrong with it.

A setting is defined once, in `Settings`: its type and limits, its default, and one sentence.
The file conf/boilerd.toml, the environment variables, the flags of ``boilerd run`` and
``boilerd config show`` all follow from that definition.

A value comes from, first wins: a flag, the environment, the file, the default.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import quote, urlsplit

import msgspec

from boilerd.errors import ConfigError, InvalidTaskError
from boilerd.queues import DEFAULT_WEIGHTS, check_queue
from boilerd.units import Duration, Size

#: Names of the original's environment variables, and the setting that each sets.
ORIGINAL_NAMES = {
    "REDIS_ADDR": "redis_url",
    "REDIS_PASSWORD": "redis_password",
    "REDIS_DB": "redis_db",
    "WORKER_SHUTDOWN_TIMEOUT": "shutdown_timeout",
    "LOG_OUTPUT": "log_output",
    "LOG_FILE": "log_file",
}

#: Settings whose value never leaves the process; each may also come from a file (``…_FILE``)
#: or from a systemd credential of the setting's name.
SECRETS = frozenset({"redis_password"})

MASK = "********"

#: Not urlsplit: a password with / ? # [ in it, unquoted, is the likeliest mistake of all.
_CREDENTIALS = re.compile(
    r"(?P<scheme>[\w+.-]*:?//|(?![\w+.-]*:?//))(?P<user>[^:/@]*)(:.*)?@(?P<rest>[^@]*)", re.DOTALL
)
_PASSWORD_IN_QUERY = re.compile(r"(?<=[?&]password=)[^&#]*")


def _doc(text: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **limits)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set; see the module's first lines for where values come from."""

    app: Annotated[
        str | None,
        _doc("Where the mux is, as module:name; without it, the built-in mux that handles worker:ping."),
    ] = None
    redis_url: Annotated[
        str | None,
        _doc(
            "redis://host:6379/0, rediss:// (TLS), unix:///path, redis+sentinel://host:26379,host:26379/name/0;"
            " without it, an embedded Valkey in state_dir."
        ),
    ] = None
    redis_password: Annotated[
        str | None, _doc("Better in BOILERD_REDIS_PASSWORD_FILE or a systemd credential than here.")
    ] = None
    redis_db: Annotated[int, _doc("Database number; where not 0, it wins over the one in redis_url.", ge=0)] = 0
    concurrency: Annotated[int, _doc("How many worker processes run tasks, one at a time each.", ge=1, le=1000)] = 10
    queues: Annotated[
        dict[str, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]],
        _doc("The queues to work on and their weights; as a variable or flag: critical=6,default=3,low=1."),
    ] = msgspec.field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    strict_priority: Annotated[
        bool,
        _doc("true: a queue is touched only when all heavier ones are empty; false: each claim draws by weight."),
    ] = True
    shutdown_timeout: Annotated[
        Duration, _doc("How long a drain may take; then running tasks go back to the head of their queues.")
    ] = Duration(30)
    max_tasks: Annotated[int, _doc("A worker is replaced by a fresh one after this many tasks; 0: never.", ge=0)] = 0
    max_memory: Annotated[
        Size, _doc("A worker is replaced after a task that left it above this resident size; 0: never.")
    ] = Size(0)
    state_dir: Annotated[
        str | None,
        _doc("For the embedded Valkey's data; default: $STATE_DIRECTORY, /var/lib/boilerd or ~/.local/state/boilerd."),
    ] = None
    runtime_dir: Annotated[
        str | None,
        _doc("For sockets; default: $RUNTIME_DIRECTORY, /run/boilerd, $XDG_RUNTIME_DIR/boilerd or state_dir/run."),
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("The lowest level to log.")] = "info"
    log_output: Annotated[Literal["stdout", "file", "both"], _doc("Where log lines go.")] = "stdout"
    log_file: Annotated[str | None, _doc("Path of the log file, for log_output file or both.")] = None
    log_format: Annotated[
        Literal["auto", "json", "text"], _doc("auto: text where stdout is a terminal, else JSON. Files get JSON.")
    ] = "auto"

    def state_path(self) -> Path:
        """The state directory, with its default resolved."""
        if chosen := self.state_dir or os.environ.get("STATE_DIRECTORY"):
            return Path(chosen).absolute()
        if os.geteuid() == 0:
            return Path("/var/lib/boilerd")
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "boilerd"

    def runtime_path(self) -> Path:
        """The runtime directory, with its default resolved.

        A state directory of one's own brings a runtime directory of its own, so that daemons
        with different state directories never meet.
        """
        if chosen := self.runtime_dir or os.environ.get("RUNTIME_DIRECTORY"):
            return Path(chosen).absolute()
        if self.state_dir:
            return self.state_path() / "run"
        if os.geteuid() == 0:
            return Path("/run/boilerd")
        if base := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(base) / "boilerd"
        return self.state_path() / "run"

    def control_socket(self) -> Path:
        """Where supervisorctl and ``boilerd status`` reach the daemon."""
        return self.runtime_path() / "control.sock"

    def valkey_socket(self) -> Path:
        """Where the embedded Valkey listens."""
        return self.runtime_path() / "valkey.sock"

    def broker_url(self) -> str:
        """The URL to connect to, the embedded Valkey's where none is set; holds no password."""
        return self.redis_url or socket_url(self.valkey_socket())


@dataclass(frozen=True)
class Setting:
    """One definition in `Settings`, as the file, the flags and the help show it."""

    name: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"BOILERD_{self.name.upper()}"

    def expected(self) -> str:
        """What would do, in words."""
        base = _base(self.type)
        if hint := getattr(base, "hint", None):
            return str(hint)
        if get_origin(base) is Literal:
            return "one of " + ", ".join(get_args(base))
        if get_origin(base) is dict:
            return "queue names with whole weights of at least 1, such as critical=6,default=3,low=1"
        if base is bool:
            return "true or false"
        if base is int:
            most = f" and at most {self.limits.le}" if self.limits.le else ""
            return f"a whole number of at least {self.limits.ge}{most}"
        return "text"

    @property
    def limits(self) -> msgspec.Meta:
        """The description and limits that stand with the type."""
        return next(m for m in self.type.__metadata__ if isinstance(m, msgspec.Meta))

    @property
    def doc(self) -> str:
        """The sentence that says what it is."""
        return self.limits.description or ""


def definitions() -> list[Setting]:
    """All settings in their order."""
    hints = Settings.__annotations__
    return [
        Setting(
            name=field.name,
            type=hints[field.name],
            default=field.default_factory() if callable(field.default_factory) else field.default,
        )
        for field in msgspec.structs.fields(Settings)
    ]


@dataclass(frozen=True)
class Loaded:
    """Settings together with where each value came from."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the settings.

    Args:
        flags: Values from the command line; those that are None were not given.
        file: The file to read; without it ``BOILERD_CONFIG``, ./boilerd.toml, /etc/boilerd/boilerd.toml,
            the first that exists.
        environ: Instead of the process's environment.

    Raises:
        ConfigError: A file cannot be read, a key is unknown, or a value is not allowed.
    """
    environ = os.environ if environ is None else environ
    path = _find_file(file, environ)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    layers = [
        _from_file(path) if path else {},
        _from_environment(environ),
        {name: (value, "flag") for name, value in (flags or {}).items() if value is not None},
    ]
    known = {setting.name: setting for setting in definitions()}
    for layer in layers:
        for name, (raw, source) in layer.items():
            values[name] = _convert(known[name], raw, source, is_text=layer is not layers[0])
            sources[name] = source
    settings = Settings(**values)
    _check_together(settings)
    return Loaded(settings, sources, path)


def shown(name: str, value: Any) -> Any:
    """The value as people may see it: secrets masked, durations and sizes readable."""
    if value is None:
        return None
    if name in SECRETS:
        return MASK
    if name == "redis_url":
        return mask_url(value)
    return str(value) if isinstance(value, Duration | Size) else value


def mask_url(url: str) -> str:
    """The URL, or what was meant to be one, without its password."""
    if match := _CREDENTIALS.fullmatch(url):
        url = f"{match['scheme']}{match['user']}:{MASK}@{match['rest']}"
    return _PASSWORD_IN_QUERY.sub(MASK, url)


def check_url(url: str) -> None:
    """Raise ConfigError, without the password, for what is no URL of a Redis."""
    schemes = ("redis://", "rediss://", "unix://", "redis+sentinel://")
    if not url.startswith(schemes):
        raise ConfigError(f"redis_url: {mask_url(url)!r} does not begin with one of {', '.join(schemes)}")
    try:
        parts = urlsplit(url)
        if parts.scheme in {"redis", "rediss"}:
            _ = parts.port
        is_cut = parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment
    except ValueError:
        is_cut = True
    if is_cut:
        raise ConfigError(
            f"redis_url: {mask_url(url)!r} is no URL; in its password write / ? # [ @ as %2F %3F %23 %5B %40"
        )


def socket_url(path: Path) -> str:
    """The URL of a Unix socket."""
    return f"unix://{quote(str(path))}"


def render_toml() -> str:
    """The text of conf/boilerd.toml: every key with its meaning and its default."""
    lines = [
        "# Every setting with its default; made by `make generate` from daemon/boilerd/config.py.",
        "# A flag wins over the environment, that over this file, that over the default.",
        "# boilerd reads --config, $BOILERD_CONFIG, ./boilerd.toml or /etc/boilerd/boilerd.toml, the first there is.",
    ]
    tables: list[str] = []
    for setting in definitions():
        about = [f"# {setting.doc}", f"# Variable: {setting.variable}"]
        if isinstance(setting.default, dict):
            pairs = [f"{key} = {value}" for key, value in setting.default.items()]
            tables += ["", *about, f"[{setting.name}]", *pairs]
        elif setting.default is None:
            lines += ["", *about, f'#{setting.name} = ""']
        else:
            lines += ["", *about, f"{setting.name} = {_toml(setting.default)}"]
    return "\n".join(lines + tables) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Duration | str):
        return f'"{value}"'
    return str(value)


def _find_file(chosen: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    if named := chosen or environ.get("BOILERD_CONFIG"):
        return Path(named)
    candidates = (Path("boilerd.toml"), Path("/etc/boilerd/boilerd.toml"))
    return next((path for path in candidates if path.is_file()), None)


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; check --config and BOILERD_CONFIG") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    names = [setting.name for setting in definitions()]
    for name in data:
        if name not in names:
            raise ConfigError(f"{path}: unknown key {name!r}{_did_you_mean(name, names)}")
    return {name: (value, str(path)) for name, value in data.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Credentials, then the original's names, then our own: a later one wins."""
    found = _from_credentials(environ)
    names = {**ORIGINAL_NAMES, **{setting.variable: setting.name for setting in definitions()}}
    for variable, name in names.items():
        if name in SECRETS and (path := environ.get(f"{variable}_FILE")):
            found[name] = (_read_secret(Path(path), f"{variable}_FILE"), f"{variable}_FILE")
        if value := environ.get(variable):
            # The original has an address there, without a scheme.
            found[name] = (f"redis://{value}" if variable == "REDIS_ADDR" else value, variable)
    secret_files = {f"{variable}_FILE" for variable, name in names.items() if name in SECRETS}
    _refuse_unknown(environ, {*names, *secret_files, "BOILERD_CONFIG"})
    return found


def _from_credentials(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """What systemd's LoadCredential= put into files named as the settings."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    paths = {name: Path(directory) / name for name in SECRETS} if directory else {}
    return {
        name: (_read_secret(path, f"credential {name}"), f"credential {name}")
        for name, path in paths.items()
        if path.is_file()
    }


def _refuse_unknown(environ: Mapping[str, str], known: set[str]) -> None:
    """A misspelt variable would silently leave the default in force."""
    for variable in environ:
        if variable.startswith("BOILERD_") and variable not in known:
            raise ConfigError(f"unknown variable {variable!r}{_did_you_mean(variable, sorted(known))}")


def _read_secret(path: Path, source: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{source}: cannot read {path}: {reason}") from error


def _convert(setting: Setting, raw: Any, source: str, *, is_text: bool) -> Any:
    """Turn what a file, a variable or a flag holds into the setting's type; `is_text`: "10" may stand for 10."""
    try:
        if parse := getattr(_base(setting.type), "parse", None):
            return parse(raw)
        is_queues_text = setting.name == "queues" and isinstance(raw, str) and is_text
        value: Any = _parse_queues(raw) if is_queues_text else raw
        value = msgspec.convert(value, setting.type, strict=not is_text)
        if isinstance(value, dict):
            _check_queues(value)
    except InvalidTaskError as error:
        raise ConfigError(f"{source}: {setting.name}: {error}") from error
    except (msgspec.ValidationError, ValueError) as error:
        told = MASK if setting.name in SECRETS else repr(raw)
        if setting.name == "redis_url":
            told = mask_url(told)
        raise ConfigError(f"{source}: {setting.name}: {told} is not {setting.expected()}") from error
    return value


def _parse_queues(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    return {name.strip(): weight.strip() or "1" for name, _, weight in pairs}


def _check_queues(weights: Mapping[str, int]) -> None:
    if not weights:
        raise ValueError("no queue")
    for name in weights:
        check_queue(name)


def _base(annotated: Any) -> Any:
    """The type without its limits and without None."""
    bare = get_args(annotated)[0]
    return get_args(bare)[0] if isinstance(bare, UnionType) else bare


def _check_together(settings: Settings) -> None:
    """Rules that need more than one setting, or a look at the value's parts."""
    if settings.log_output != "stdout" and not settings.log_file:
        raise ConfigError(f"log_file: missing; log_output = {settings.log_output!r} needs the path of a file")
    if settings.app is not None and not re.fullmatch(r"[\w.]+:[\w.]+", settings.app):
        raise ConfigError(f"app: {settings.app!r} is not module:name, such as myproject.tasks:mux")
    if settings.redis_url is not None:
        check_url(settings.redis_url)


def _did_you_mean(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; `boilerd config show` lists all"
