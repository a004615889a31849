"""What is served: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for probes."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from boilerd.exporter.access import Access
from boilerd.exporter.cached import Cached
from boilerd.exporter.collector import Texts, collect, content_type
from boilerd.exporter.http import Request, Response
from boilerd.exporter.snapshot import Reader, Snapshot
from boilerd.verdict.facts import AskDaemon


class Pages:
    """Answers requests.

    Args:
        reader: Reads what Redis and the daemon tell.
        ask_daemon: Asks the daemon alone.
        access: Says who may ask.
        release: What the application's version is called.
    """

    def __init__(self, reader: Reader, ask_daemon: AskDaemon, access: Access, release: str = "") -> None:
        self._access = access
        self._daemon = Cached(ask_daemon)
        self._snapshots = Cached(lambda: _with_texts(reader.read(), release))
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz,
        }  # fmt: skip

    async def answer(self, request: Request) -> Response:
        """The answer to a request."""
        if why := self._access.refusal(request):
            return Response.text(HTTPStatus.FORBIDDEN, why)
        if (page := self._pages.get(request.path)) is None:
            return Response.text(HTTPStatus.NOT_FOUND, f"there are {', '.join(self._pages)}")
        if request.method not in {"GET", "HEAD"}:
            return Response.text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", Allow="GET, HEAD")
        return await page(request)

    async def _metrics(self, request: Request) -> Response:
        if not self._access.has_token(request):
            headers = {"WWW-Authenticate": "Bearer"}
            return Response.text(HTTPStatus.UNAUTHORIZED, "send metrics_token as a bearer token", **headers)
        _, texts = await self._snapshots.get()
        is_openmetrics = "application/openmetrics-text" in request.headers.get("accept", "")
        is_gzip = "gzip" in request.headers.get("accept-encoding", "")
        headers = {"Content-Type": content_type(is_openmetrics=is_openmetrics), "Vary": "Accept, Accept-Encoding"}
        if is_gzip:
            headers["Content-Encoding"] = "gzip"
        body = await self._snapshots.run(lambda: texts.get(is_openmetrics=is_openmetrics, is_gzip=is_gzip))
        return Response(HTTPStatus.OK, body, headers)

    async def _healthz(self, request: Request) -> Response:
        """Whether the daemon lives: its loop answers."""
        daemon = await self._daemon.get()
        if daemon.silence:
            return self._unwell(request, f"the daemon is {daemon.silence}")
        return Response.text(HTTPStatus.OK, "ok")

    async def _readyz(self, request: Request) -> Response:
        """Whether it does its work."""
        snapshot, _ = await self._snapshots.get()
        return self._unwell(request, snapshot.fault) if snapshot.fault else Response.text(HTTPStatus.OK, "ok")

    def _unwell(self, request: Request, why: str) -> Response:
        """The sentence names queues and processes, so it is for those who may have metrics."""
        return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, why if self._access.has_token(request) else "not ready")


def _with_texts(snapshot: Snapshot, release: str) -> tuple[Snapshot, Texts]:
    return snapshot, Texts(collect(snapshot, release))
