"""pytest's plugin of boilerd: fixtures for the tests of applications.

pytest loads it wherever boilerd is installed. So boilerd is imported inside of the fixtures only: in a project that
does not use them it costs no time, and in one that does, coverage counts from the first import on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boilerd import AsyncClient, ServeMux
    from boilerd.testing import DaemonProcess, RecordingClient

_APP = "boilerd_app"
_DAEMON: pytest.StashKey[DaemonProcess] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Take the ini option."""
    # pytest compiles what a plugin's distribution holds in its own way, for its assert statements: 130 ms for boilerd
    # where it may not keep that, and 7 ms where it may. There is no public way out, and no harm where this is none.
    getattr(pluginmanager.rewrite_hook, "_must_rewrite", set()).discard("boilerd")
    parser.addini(_APP, "the mux that the fixtures of boilerd run, as module:name", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line(
        "markers",
        "boilerd(concurrency=1, settings={...}, strict=False): workers and settings of boilerd_daemon; strict: a task"
        " that boilerd_client has left at the end of the test is an error",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the log of a test's daemon where the test failed."""
    daemon = item.stash.get(_DAEMON, None)
    if daemon is not None and call.excinfo is not None:
        item.add_report_section(call.when, "boilerd", daemon.text)
    return (yield)


@pytest.fixture
def boilerd_mux(pytestconfig: pytest.Config) -> ServeMux:
    """The mux that the ini option names, seen from pytest's rootdir; override it where there is another one."""
    from boilerd.tasks.loading import find_mux

    if (root := str(pytestconfig.rootpath)) not in sys.path:
        sys.path.append(root)
    return find_mux(_app(pytestconfig))


@pytest.fixture
def boilerd_client(boilerd_mux: ServeMux, request: pytest.FixtureRequest) -> Iterator[RecordingClient]:
    """A client that keeps its tasks, and runs them when it is asked to; also for clients that modules made."""
    from boilerd.testing import RecordingClient, override

    client, is_strict = RecordingClient(mux=boilerd_mux), _marked(request).get("strict")
    with override(client):
        yield client
    if is_strict and client.tasks:
        left = ", ".join(f"{task.type} ({task.state})" for task in client.tasks)
        pytest.fail(f"the test has left tasks that wait: {left}; drain or cancel them", pytrace=False)


@pytest.fixture
def boilerd_async_client(boilerd_client: RecordingClient) -> AsyncClient:
    """An AsyncClient over the same tasks."""
    from boilerd.async_client import AsyncClient

    return AsyncClient(boilerd_client)


@pytest.fixture
def boilerd_daemon(boilerd_mux: ServeMux, request: pytest.FixtureRequest) -> Iterator[DaemonProcess]:
    """A daemon with its own Valkey and a worker, also for clients that modules made; its log is shown on failure."""
    from boilerd.testing import DaemonProcess, override

    marked, config = _marked(request), request.config
    settings = {"concurrency": marked.get("concurrency", 1), **marked.get("settings", {})}
    daemon = DaemonProcess(_app(config), settings, mux=boilerd_mux, directory=config.rootpath)
    request.node.stash[_DAEMON] = daemon
    try:
        with override(daemon.client):
            yield daemon.start()
    finally:
        daemon.close()


def _app(config: pytest.Config) -> str:
    app: str = config.getini(_APP)
    if not app:
        pytest.fail(
            f'{_APP} is not set, and the fixtures of boilerd need a mux; write {_APP} = "tasks:mux" where pytest has'
            " its configuration, or override the fixture boilerd_mux",
            pytrace=False,
        )
    return app


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments of the markers: of the module, the class and the test; the nearest wins."""
    found: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("boilerd"))):
        unknown = mark.kwargs.keys() - {"concurrency", "settings", "strict"}
        if unknown or mark.args:
            what = ", ".join(sorted(unknown)) or "arguments without a name"
            pytest.fail(f"mark boilerd takes concurrency=, settings= and strict=, and not {what}", pytrace=False)
        found |= mark.kwargs
    return found
