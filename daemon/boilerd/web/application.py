"""The dashboard as an ASGI application, to be served by itself or mounted in another."""

import functools
from collections.abc import Callable, Collection, Iterator

import msgspec
import redis
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from boilerd.broker.connection import connect_to, count_commands
from boilerd.broker.hang import wait_one_at_a_time
from boilerd.broker.in_parts import in_parts
from boilerd.broker.overview import Overview
from boilerd.broker.web_sessions import WebSecret, WebSessions
from boilerd.settings.addresses import read_networks
from boilerd.settings.definitions import Settings
from boilerd.settings.finding import find_settings
from boilerd.settings.web import Web
from boilerd.verdict.facts import Facts
from boilerd.web import page as pages
from boilerd.web.access import Access, Authorize
from boilerd.web.answers import KINDS, Asked, answer_action, answer_error, answer_page
from boilerd.web.costs import Costs
from boilerd.web.endpoint import Endpoint
from boilerd.web.guard import LOCAL_NAMES, Guard
from boilerd.web.local_daemon import LocalDaemon
from boilerd.web.login import answer_login, answer_logout
from boilerd.web.openapi import describe
from boilerd.web.page import Action, Page
from boilerd.web.permissions import Permission
from boilerd.web.probes import make_probes
from boilerd.web.proxies import Proxies, check_header
from boilerd.web.redaction import Hook, Redaction
from boilerd.web.refusal import Refusal
from boilerd.web.routing import Prefixed, Routes
from boilerd.web.sampler import Sampler, facts_of
from boilerd.web.sessions import IDLE_S, SEAL_LIVES_S, HeldSessions, Seals, SeenSessions, Sessions, SparedSessions
from boilerd.web.site import Site

#: Where the description of all addresses for programs is.
OPENAPI = "/api/openapi.json"


def app(
    settings: Settings | None = None,
    *,
    authorize: Authorize | None,
    connection: redis.Redis | None = None,
    redact: Hook | None = None,
    read_facts: Callable[[Overview], Facts] | None = None,
) -> ASGIApp:
    """The dashboard, such as for ``app.mount("/jobs", boilerd.web.app(authorize=…))``.

    Args:
        settings: With the table ``[web]``; without them, those of the command line are used.
        authorize: Says who sends a request, or that it is nobody (None). It has to be given: with None for it, the
            users, tokens and the trusted header of the settings count; where they name nobody either, everybody may do
            everything, but only by one of the names in ``hosts`` or those of the loopback.
        connection: The client of Redis, instead of one that the settings name.
        redact: Makes of a task's type and payload, or result, what may be shown of it.
        read_facts: What the verdict is made of, instead of what Redis shows.

    Raises:
        ConfigError: A setting is not allowed.
    """
    settings = settings or find_settings()
    connection = connection or in_parts(wait_one_at_a_time(connect_to(settings)))
    site = make_site(settings, authorize, connection, redact, read_facts)
    probes = make_probes(site, read_networks(settings.metrics_allow), settings.release or "")
    routes = Routes([*probes, *make_routes(site)], functools.partial(_answer_unknown, site))
    return Prefixed(routes, settings.web.prefix)


def make_site(
    settings: Settings,
    authorize: Authorize | None,
    connection: redis.Redis,
    redact: Hook | None,
    read_facts: Callable[[Overview], Facts] | None,
) -> Site:
    """Put together what the endpoints share."""
    web = settings.web
    if authorize is None:
        check_header(web)
    pages.load_pages()
    proxies = Proxies(web.trusted_proxies)
    seals = Seals(WebSecret(connection, 0 if web.read_only else SEAL_LIVES_S).get, _salt(web))
    sessions: Sessions = HeldSessions() if web.read_only else SparedSessions(WebSessions(connection, IDLE_S))
    access = Access(web, SeenSessions(sessions), proxies, authorize, is_read_only=web.read_only)
    hosts = {*LOCAL_NAMES, *web.hosts} if access.is_open or web.hosts else ()
    costs = Costs(count_commands(connection))
    read_all = functools.partial(facts_of, archive_limit=settings.archive_limit)
    return Site(
        connection=connection,
        access=access,
        guard=Guard(proxies, hosts, seals),
        proxies=proxies,
        redaction=Redaction(web.redact, redact),
        sampler=Sampler(connection, read_facts or read_all, costs.pace),
        seals=seals,
        daemon=LocalDaemon(settings),
        costs=costs,
        menu=sorted((page for page in pages.PAGES if page.menu), key=lambda page: page.menu),
        outside=web.links,
        environment=web.environment,
    )


def _salt(web: Web) -> bytes:
    """What stands in the settings alone, and is the same for each dashboard with these users."""
    hashes = [user.password.text for user in web.users.values()] + [token.sha256 for token in web.tokens.values()]
    return "\0".join(sorted(hashes)).encode()


def make_routes(site: Site) -> Iterator[Route]:
    """All addresses; those that name a part as they are stand before those that take any."""
    yield Route("/login", Endpoint(site, None, answer_login, asks_who=False), methods=["GET", "POST"])
    yield Route("/logout", Endpoint(site, None, answer_logout), methods=["POST"])
    static = Endpoint(site, None, _answer_static, "file", asks_who=False)
    yield Route("/static/{version}/{name:path}", static, methods=["GET"])
    yield Route(OPENAPI, Endpoint(site, Permission.VIEW, _answer_openapi, "json"), methods=["GET"])
    declared = [route for page in pages.PAGES for route in _of_page(site, page)]
    declared += [route for action in pages.ACTIONS for route in _of_action(site, action)]
    yield from sorted(declared, key=lambda route: (route.path.count("{"), -len(route.path)))


def _of_page(site: Site, page: Page) -> Iterator[Route]:
    answer = functools.partial(answer_page, page=page)
    base = "/overview" if page.path == "/" else page.path
    yield Route(page.path, Endpoint(site, page.needs, answer), methods=["GET"])
    yield Route(f"{base}.json", Endpoint(site, page.needs, answer, "json"), methods=["GET"])
    if page.rows:
        for form in ("csv", "ndjson"):
            endpoint = Endpoint(site, page.needs, answer, form, also=Permission.EXPORT)
            yield Route(f"{base}.{form}", endpoint, methods=["GET"])


def _of_action(site: Site, action: Action) -> Iterator[Route]:
    answer = functools.partial(answer_action, action=action)
    page, data = (Endpoint(site, action.needs, answer, form, also=action.also) for form in ("html", "json"))
    yield Route(action.path, page, methods=["GET", "POST"])
    yield Route(f"{action.path}.json", data, methods=["GET", "POST"] if action.about else ["POST"])


async def _answer_static(asked: Asked) -> Response:
    return asked.site.static.answer(asked.request)


async def _answer_openapi(asked: Asked) -> Response:
    """What programs may ask, described."""
    described = await asked.site.in_thread(lambda: describe(asked.links.root, pages.PAGES, pages.ACTIONS), asked.who)
    return Response(msgspec.json.encode(described), media_type=KINDS["json"])


async def _answer_unknown(site: Site, scope: Scope, receive: Receive, send: Send, methods: Collection[str]) -> None:
    """A page for an address that is none, or none by this method; what is no page of HTML is for programs."""

    async def refuse(asked: Asked) -> Response:
        if not methods:
            return answer_error(asked, Refusal(404, "there is no such page"))
        answer = answer_error(asked, Refusal(405, "this address does not take that method"))
        answer.headers["allow"] = ", ".join(sorted(methods))
        return answer

    is_data = scope["path"].endswith(tuple(f".{form}" for form in KINDS if form != "html"))
    await Endpoint(site, None, refuse, "json" if is_data else "html")(scope, receive, send)
