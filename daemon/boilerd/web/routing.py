"""Find what stands behind an address, below the prefix that the dashboard has."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence

from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

#: Answers a request for which there is no route; has the methods with which there would be one.
Unknown = Callable[[Scope, Receive, Send, Collection[str]], Awaitable[None]]


class Routes:
    """Finds the route of an address among those that begin as it does: to try all of them takes 0.3 ms a request.

    Starlette's application would have two layers around each, for errors that are answered in `Endpoint`.

    Args:
        routes: All of them; each names its first part.
        unknown: Answers where none fits.

    Attributes:
        routes: The same.
    """

    def __init__(self, routes: Sequence[Route], unknown: Unknown) -> None:
        self.routes = routes
        self._unknown = unknown
        self._parts = defaultdict[str, list[Route]](list)
        for route in routes:
            self._parts[_first_part(route.path)].append(route)
        self._others = Router()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":  # a server begins and ends, or somebody would have a WebSocket
            await self._others(scope, receive, send)
            return
        methods: set[str] = set()
        below = scope["path"].removeprefix(scope.get("root_path", ""))
        for route in self._parts.get(_first_part(below), ()):
            match, found = route.matches(scope)
            if match is Match.FULL:
                await route.app({**scope, **found}, receive, send)
                return
            methods |= (route.methods or set()) if match is Match.PARTIAL else set()
        await self._unknown(scope, receive, send, methods)


def _first_part(path: str) -> str:
    return path.removeprefix("/").partition("/")[0]


class Prefixed:
    """Stands under a prefix, behind a proxy that takes it away as well as behind one that leaves it.

    Attributes:
        app: The application below it.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http" and self._prefix:
            root = scope.get("root_path", "")
            below = scope["path"].removeprefix(root)
            if below == self._prefix or below.startswith(f"{self._prefix}/"):
                below = below.removeprefix(self._prefix)
            root += self._prefix
            scope = {**scope, "root_path": root, "path": f"{root}{below or '/'}"}
        await self.app(scope, receive, send)
