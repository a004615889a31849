"""What monitoring asks the dashboard: metrics for Prometheus, and whether it, and all that it shows, is well.

People and programs who may see the pages may ask, and clients whom `metrics_allow` names, without a token.
"""

import functools
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from boilerd.errors import BrokerError, BrokerRefusedError
from boilerd.inspector import Inspector
from boilerd.settings.addresses import Network
from boilerd.verdict.finding import Severity
from boilerd.web.answers import Asked
from boilerd.web.endpoint import Endpoint
from boilerd.web.permissions import Permission, Principal
from boilerd.web.proxies import Proxies
from boilerd.web.refusal import Refusal
from boilerd.web.site import Site

if TYPE_CHECKING:
    from boilerd.exporter.collector import Texts

#: What is told is told to all who ask within so many seconds.
FRESH_S = 1.0
#: Whoever asks without saying who it is.
PROBE = Principal("metrics_allow", frozenset({Permission.VIEW}))


def make_probes(site: Site, networks: list[Network], release: str) -> Iterator[Route]:
    """The three addresses."""
    answers: dict[str, Callable[[Asked], Awaitable[Response]]] = {
        "/healthz": _answer_healthz,
        "/readyz": _answer_readyz,
        "/metrics": functools.partial(_answer_metrics, release=release),
    }
    guest = functools.partial(_guest, site.proxies, networks)
    for path, answer in answers.items():
        yield Route(path, Endpoint(site, Permission.VIEW, answer, "json", guest=guest), methods=["GET"])


def _guest(proxies: Proxies, networks: list[Network], request: Request) -> Principal | None:
    """Whoever asks from a network of `metrics_allow`; by a proxy of ours, whoever asks that."""
    with suppress(ValueError):
        found = ip_address(proxies.address(request).partition("%")[0])
        address = getattr(found, "ipv4_mapped", None) or found
        return PROBE if any(address in network for network in networks) else None
    return None


async def _answer_healthz(_asked: Asked) -> Response:
    """That it answers."""
    return Response("ok\n")


async def _answer_readyz(asked: Asked) -> Response:
    """Whether Redis answers, and no queue has a fault."""
    try:
        verdict = (await asked.site.in_thread(asked.site.sampler.read, asked.who)).verdict
    except BrokerError as error:
        raise Refusal(503, str(error)) from error
    bad = [each.says for each in verdict.findings if each.severity in {Severity.FAULT, Severity.PASSING}]
    if not bad:
        return Response("ok\n")
    is_of_some = asked.who is None or asked.who.queues is not None
    raise Refusal(503, "not ready" if is_of_some else bad[0])


async def _answer_metrics(asked: Asked, release: str) -> Response:
    """What the exporter of a daemon tells, but for what is about that daemon alone."""
    if asked.who is None or asked.who.queues is not None:
        raise Refusal(403, "metrics are of all queues, and this is for who has all of them")
    if importlib.util.find_spec("prometheus_client") is None:
        raise Refusal(404, "there are no metrics here without the extra: pip install 'boilerd[metrics]'")
    from boilerd.exporter.collector import content_type  # noqa: PLC0415 - it needs the extra

    headers = asked.request.headers
    is_openmetrics = "application/openmetrics-text" in headers.get("accept", "")
    is_gzip = "gzip" in headers.get("accept-encoding", "")

    def make() -> bytes:
        texts = asked.site.shared.get("metrics", FRESH_S, lambda: _texts(asked.site, release))
        made: bytes = texts.get(is_openmetrics=is_openmetrics, is_gzip=is_gzip)
        return made

    body = await asked.site.in_thread(make, asked.who)
    told = {"content-type": content_type(is_openmetrics=is_openmetrics), "vary": "Accept, Accept-Encoding"}
    return Response(body, headers={**told, **({"content-encoding": "gzip"} if is_gzip else {})})


def _texts(site: Site, release: str) -> "Texts":
    from boilerd.exporter.collector import Texts, collect  # noqa: PLC0415 - as above
    from boilerd.exporter.snapshot import Snapshot  # noqa: PLC0415

    try:
        found = site.sampler.read()
    except BrokerError as error:
        return Texts(collect(Snapshot(broker_error=str(error)), release))
    totals = {}
    with suppress(BrokerRefusedError):  # as in the exporter: all else is worth telling
        totals = Inspector(site.connection).totals()
    told = Snapshot(found.overview, "", totals, findings=found.verdict.findings, took_s=found.took_s)
    return Texts(collect(told, release))
