"""Serve the dashboard by itself, by `boilerd web` or by the daemon's process: whether that can be, and the server."""

import errno
import functools
import importlib.util
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boilerd.errors import BootError
from boilerd.process.allocation import use_one_arena
from boilerd.process.gc_pause import rest_collector
from boilerd.process.priority import step_back
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Web
from boilerd.verdict.facts import AskDaemon, Facts, Silence
from boilerd.web.listening import check_place, listen
from boilerd.web.proxies import Proxies, check_header

if TYPE_CHECKING:
    import uvicorn

    from boilerd.broker.overview import Overview

#: What the extra brings.
_NEEDS = ("httptools", "jinja2", "starlette", "uvicorn")
#: Objects after which the collector looks: a page leaves some hundreds in circles, and a look takes 1 to 2 ms.
OBJECTS = 10_000
#: For so long a start waits for the dashboard of a daemon that was killed, which ends within a second.
WAIT_S, LOOK_EVERY_S = 3.0, 0.05


def check_extra(settings: Settings) -> None:
    """Raise BootError if the daemon shall serve the dashboard, and a library is missing that it needs."""
    if settings.web.enabled:
        check_libraries()


def check_libraries() -> None:
    """Raise BootError if a library is missing."""
    for name in _NEEDS:
        if importlib.util.find_spec(name) is None:
            raise BootError(f"web: {name} is missing: pip install 'boilerd[web]'")


def prepare(settings: Settings, *, is_reload: bool = False) -> None:
    """Make sure, before anything is forked, that the daemon can serve it; does nothing where that is not wanted.

    Args:
        settings: Those of the daemon.
        is_reload: True where the daemon runs already, and may listen there itself.

    Raises:
        BootError: It cannot.
        ConfigError: A setting is not allowed.
    """
    if not settings.web.enabled:
        return
    check_header(settings.web)
    Proxies(settings.web.trusted_proxies)
    check_place(settings.web)
    _check_listening(settings.web, is_reload=is_reload)


def make_server(settings: Settings, ask_daemon: AskDaemon, **options: Any) -> "uvicorn.Server":
    """The server, with the options of `connections.make_server`; raises ConfigError.

    The process serves it alone, and steps back behind others: an enqueue waits for none of it.
    """
    step_back()
    from boilerd.web import connections  # noqa: PLC0415 - it needs the extra
    from boilerd.web.application import app  # noqa: PLC0415

    use_one_arena()
    served = app(settings, authorize=None, read_facts=functools.partial(facts_of_host, settings, ask_daemon))
    rest_collector(OBJECTS)
    return connections.make_server(served, **options)


def _check_listening(web: Web, *, is_reload: bool) -> None:
    """Raise BootError if nobody can listen there; what is in use is waited for a moment, and is ours at a reload."""
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            listen(web).close()
        except BootError as error:
            is_in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if is_in_use and is_reload:
                return
            if not is_in_use or time.monotonic() > end_s:
                raise
            select.select([], [], [], LOOK_EVERY_S)
        else:
            break
    if web.socket:
        Path(web.socket).unlink()


def facts_of_host(settings: Settings, ask_daemon: AskDaemon, overview: "Overview") -> Facts:
    """What the verdict is made of: also what the daemon of this host tells, where there is one."""
    from boilerd.web.sampler import facts_of  # noqa: PLC0415 - with the server
    from boilerd.worker.left_outcomes import count_left  # noqa: PLC0415 - as above

    facts = facts_of(overview, settings.archive_limit)
    daemon = ask_daemon()
    if daemon.cause is Silence.ABSENT:  # it is of another host
        return facts
    return facts.of_host(settings, daemon, count_left(settings))
