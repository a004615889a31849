"""Fixtures of the web dashboard's tests: nobody has to log in at `browser`, and `people` are behind a proxy."""

from collections.abc import Iterator

import pytest
import redis

from boilerd.web import payload_shapes
from boilerd.web.pages import tasks
from browser import WHO, Browser, web_app, with_people


@pytest.fixture(autouse=True)
def _patient_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine cuts no search short."""
    monkeypatch.setattr(tasks, "WITHIN_S", 20.0)
    monkeypatch.setattr(payload_shapes, "WITHIN_S", 20.0)


@pytest.fixture
def browser(connection: redis.Redis) -> Iterator[Browser]:
    with Browser(web_app(connection)) as found:
        yield found


@pytest.fixture
def viewer(connection: redis.Redis) -> Iterator[Browser]:
    with Browser(with_people(connection), **{WHO: "viewer"}) as found:
        yield found
