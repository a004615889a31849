"""What tests of the web dashboard look with: a browser without a screen, and the settings that it needs."""

import asyncio
import re
from typing import Any, Self
from urllib.parse import urlencode

import httpx
import redis

import boilerd.web
from boilerd.settings.definitions import Settings
from boilerd.settings.web import Web
from boilerd.web.access import Authorize
from boilerd.web.described import QUERIES

#: Says who sends a request, in tests that need people of all roles: a proxy's header.
WHO = "x-who"
ROLES = {"viewer": "viewer", "operator": "operator", "admin": "admin"}


def web_app(connection: redis.Redis, *, authorize: Authorize | None = None, **web: Any) -> Any:
    """The dashboard of what stands in a Redis, with this table `[web]`."""
    return boilerd.web.app(Settings(web=Web(**web)), authorize=authorize, connection=connection)


def with_people(connection: redis.Redis, **web: Any) -> Any:
    """The dashboard behind a proxy that names the people of `ROLES`."""
    return web_app(connection, trusted_proxies=["127.0.0.1"], trusted_header=WHO, roles=ROLES, **web)


class Browser:
    """Sends requests to an application, keeps its cookies, and follows no redirection by itself."""

    def __init__(self, app: Any, *, host: str = "localhost", address: str = "127.0.0.1", **headers: str) -> None:
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(address, 40000)),
            base_url=f"http://{host}",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request."""
        return self._runner.run(self._client.request(method, path, **options))

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Open a page."""
        return self.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form, as one of our own pages does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", path, data=form or {}, headers=named or {"sec-fetch-site": "same-origin"})


def asking(path: str, address: str, **query: str) -> str:
    """The address, with those of these parameters that the page or action of this path knows."""
    return f"{address}?{urlencode({name: value for name, value in query.items() if name in QUERIES.get(path, {})})}"


def text_of(html: str) -> str:
    """A page without its tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())
