"""Answer requests: the one way to every page and action, in which each check has its place.

Host, then who it is, then whether they may, then where it was sent from; only then a page's function runs. What goes
wrong on the way, or in the function, becomes an answer that says so.
"""

import functools
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from boilerd.broker.overview import Overview
from boilerd.errors import BoilerdError, BrokerUnavailableError
from boilerd.web.answers import Asked, answer_error
from boilerd.web.beside import FRESH_S, Beside, BesideReader
from boilerd.web.guard import add_headers, check_framing, read_form
from boilerd.web.links import unsegment
from boilerd.web.own_queues import OwnQueues
from boilerd.web.own_queues.sights import OwnShared, cut
from boilerd.web.pace import cpu_of
from boilerd.web.permissions import Permission, Principal
from boilerd.web.refusal import Refusal
from boilerd.web.sampler import Snapshot
from boilerd.web.shared import Shared
from boilerd.web.site import Site
from boilerd.web.visit import Visit

logger = logging.getLogger("boilerd.web")

#: Bytes from which on an answer is sent in gzip, and at which level: the next ones take twice as long for a tenth less.
LEAST_PACKED, LEVEL = 1024, 3

Form = Mapping[str, Sequence[str]]
Answer = Callable[[Asked], Awaitable[Response]]


class Endpoint:
    """What stands behind an address.

    Args:
        site: What all of them share.
        needs: The permission; None: everybody may.
        answer: Makes the answer.
        form: How the answer is written: ``html``, ``json``, ``csv`` or ``ndjson``; or ``file``.
        also: A permission that it needs beside, such as to export a page.
        asks_who: Whether it is found out who sends a request, for which Redis may be asked.
        guest: Says for whom one is taken who does not say who it is; None: for nobody.

    Attributes:
        needs: The same.
        also: The same.
    """

    def __init__(
        self,
        site: Site,
        needs: Permission | None,
        answer: Answer,
        form: str = "html",
        *,
        also: Permission | None = None,
        asks_who: bool = True,
        guest: Callable[[Request], Principal | None] | None = None,
    ) -> None:
        self.needs = needs
        self.also = also
        self._site = site
        self._answer = answer
        self._form = form
        self._asks_who = asks_who
        self._guest = guest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        asked = Asked(self._site, Request(scope, receive), self._form)
        work = self._serve(asked, scope, receive, send)
        if not asked.is_live:
            await work
            return
        used_s = await cpu_of(work)
        if asked.who:  # strangers have no say in how often others see something new
            self._site.costs.pace.note(used_s)

    async def _serve(self, asked: Asked, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._respond(asked)
        except BoilerdError as error:
            if isinstance(error, BrokerUnavailableError):
                self._site.sampler.outages.note(error)
            response = answer_error(asked, error)
            if "transfer-encoding" in asked.request.headers:  # its body may not have been read
                response.headers["connection"] = "close"
        except Exception as error:  # noqa: BLE001 - a page's fault ends no others, and is logged
            # Its message may quote a payload.
            where = traceback.format_tb(error.__traceback__)
            fields = {"path": scope["path"][:200], "error": type(error).__name__, "traceback": "".join(where)}
            logger.error("a page failed", extra=fields)  # noqa: TRY400
            failure = f"this page failed by a {type(error).__name__}; the log of the dashboard has more"
            response = answer_error(asked, Refusal(500, failure))
        self._site.costs.note(response.status_code, is_poll=asked.is_live)
        add_headers(MutableHeaders(raw=response.raw_headers))
        if asked.is_live and (wait_s := self._site.costs.pace.wait_s):
            response.headers["boilerd-wait"] = f"{wait_s:.1f}"
        is_packed = response.status_code != 304 and self._may_pack(asked)
        packed = GZipMiddleware(response, LEAST_PACKED, compresslevel=LEVEL) if is_packed else response
        await packed(scope, receive, send)

    def _may_pack(self, asked: Asked) -> bool:
        """Not where a page of another site asks: it would guess what stands beside what it sends, by the size."""
        is_ours = asked.request.headers.get("sec-fetch-site") in {"same-origin", "none"}
        return is_ours or self._form == "file" or (asked.who is not None and asked.who.is_program)

    async def _respond(self, asked: Asked) -> Response:
        site, request = self._site, asked.request
        check_framing(request)
        site.guard.check_host(request)
        # Nothing is sealed in files, and monitoring has to get its answer where Redis hangs.
        if site.seals.is_stale and self._form != "file" and self._guest is None:
            await site.in_thread(site.seals.refresh)
        if self.needs is None:
            if self._asks_who:  # a form of theirs has their token
                asked.who = await site.access.who(request)
            await self._read_form(asked)
            return await self._answer(asked)
        asked.who = await site.access.who(request) or (self._guest(request) if self._guest else None)
        if asked.who is None:
            return _ask_who(asked)
        if missing := [need for need in (self.needs, self.also) if need and not asked.who.may(need)]:
            raise Refusal(403, f"{asked.who.name} may not do this; it needs the permission {missing[0]}")
        await self._read_form(asked)
        asked.begin_visit = functools.partial(_visit, asked, asked.who)
        return await self._answer(asked)

    async def _read_form(self, asked: Asked) -> None:
        if asked.request.method == "POST":
            asked.form = await read_form(asked.request)
            self._site.guard.check_origin(asked.request, asked.who, asked.form)


def _visit(asked: Asked, who: Principal) -> Visit:
    site, request = asked.site, asked.request
    pairs = parse_qsl(request.scope["query_string"].decode("ascii", "replace"), errors="surrogateescape")
    queries: dict[str, list[str]] = {}
    for name, value in pairs:
        queries.setdefault(name, []).append(value)
    inspector: Any = site.inspector(who, site.proxies.address(request))
    read_snapshot = functools.partial(site.sampler.read, is_poll=asked.is_live)
    shared = site.shared
    if who.queues is not None:
        inspector, shared = OwnQueues(inspector, who), OwnShared(shared, who.queues)
        read_snapshot = functools.partial(_cut_snapshot, read_snapshot, who, inspector, shared)
    return Visit(
        inspector=inspector,
        who=who,
        path={name: unsegment(part) for name, part in request.path_params.items()},
        query=dict(pairs),
        queries=queries,
        form=asked.form,
        links=asked.links,
        read_snapshot=functools.cache(read_snapshot),  # an answer is of one picture, which its tag tells
        seen=functools.partial(site.redaction.clean, shows_payloads=who.may(Permission.VIEW_PAYLOAD)),
        seen_by_all=functools.partial(site.redaction.clean, shows_payloads=False),
        shared=shared,
        operators=site.operators,
        is_poll=asked.is_live,
        is_export=asked.form_of_answer in {"csv", "ndjson"},
        daemon=site.daemon,
        costs=site.costs,
    )


def _cut_snapshot(read: Callable[[], Snapshot], who: Principal, inspector: Any, shared: Shared) -> Snapshot:
    def read_beside(overview: Overview) -> Beside:
        return shared.get("beside", FRESH_S, lambda: BesideReader(inspector).read(overview))

    return cut(read(), who, read_beside)


def _ask_who(asked: Asked) -> Response:
    """Send a person to the login, and tell a program that it needs a token."""
    is_person = asked.form_of_answer == "html" and not asked.is_live and "authorization" not in asked.request.headers
    if is_person and asked.site.access.has_login:
        query: dict[str, Any] = {"next": asked.path} if asked.request.method == "GET" else {}
        return RedirectResponse(asked.links.path("/login", query), 303)
    sends_token = asked.request.headers.get("authorization", "").lower().startswith("bearer ")
    why = "the token that was sent is unknown here, or has ended" if sends_token else "nobody is logged in"
    response = answer_error(asked, Refusal(401, f"{why}; send a token as Authorization: Bearer TOKEN"))
    response.headers["www-authenticate"] = "Bearer"
    return response
