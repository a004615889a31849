"""Who sends a request: by a hook, a token, a proxy's header or a session; and logging in and out."""

import hmac
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from boilerd.errors import BrokerError
from boilerd.settings.web import Grant, Web
from boilerd.web import passwords
from boilerd.web.per_loop import PerLoop
from boilerd.web.permissions import Principal
from boilerd.web.proxies import Proxies
from boilerd.web.refusal import Refusal
from boilerd.web.sessions import SeenSessions, new_session
from boilerd.web.tries import Tries, place_of

#: Says who sends a request, in an application that has users of its own; None: nobody whom it knows.
Authorize = Callable[[Request], Principal | Awaitable[Principal | None] | None]
#: Who looks where nobody has to say who they are.
ANYBODY = "anybody"
#: So many passwords may be tried in a minute: for a name from an address, and from an address for any.
TRIES, TRIES_OF_ADDRESS = 5, 20
#: A session ends so long after it began, however much it is used.
LASTS_S = 7 * 86400
#: Threads that look after sessions in Redis, beside those of pages; each has a connection, and all 20 of as many people
#: took 2.6 MB.
MOST_THREADS = 2
#: Whoever waits for longer for a thread, of these or of those of pages, is told so.
PATIENCE_S = 10.0

T = TypeVar("T")


class Access:
    """Knows people and programs.

    Args:
        web: The settings.
        sessions: Where those of people who logged in are kept.
        proxies: Whose headers count.
        authorize: The hook; with one, the users and the header of the settings do not count.
        is_read_only: True if nobody may change anything.
    """

    def __init__(
        self, web: Web, sessions: SeenSessions, proxies: Proxies, authorize: Authorize | None, *, is_read_only: bool
    ) -> None:
        self._web = web
        self._sessions = sessions
        self._proxies = proxies
        self._authorize = authorize
        self._is_read_only = is_read_only
        self._tries, self._tries_of_address = Tries(TRIES), Tries(TRIES_OF_ADDRESS)
        self._hashing = PerLoop(lambda: anyio.CapacityLimiter(2))
        self._asking = PerLoop(lambda: anyio.CapacityLimiter(MOST_THREADS))

    @property
    def is_open(self) -> bool:
        """Whether nobody has to say who they are."""
        return self._authorize is None and not self._web.has_users

    @property
    def has_login(self) -> bool:
        """Whether people log in here."""
        return self._authorize is None and bool(self._web.users)

    async def who(self, request: Request) -> Principal | None:
        """Who sends it; None: nobody who is known."""
        found = await self._find(request)
        return found.reading() if found and self._is_read_only else found

    async def log_in(self, request: Request, name: str, password: str) -> str:
        """The ID of a new session; raises Refusal."""
        who, place = name[:200], place_of(self._proxies.address(request))
        self._tries.count(who, place)
        self._tries_of_address.count(place)
        user = self._web.users.get(name)
        hashed = user.password.text if user else ""
        fits = await anyio.to_thread.run_sync(_fits, password, hashed, limiter=self._hashing.get())
        if not (fits and user):
            raise Refusal(403, "name or password is wrong")
        self._tries.forget(who, place)
        self._tries_of_address.forget(place)
        with suppress(BrokerError):  # what this browser had is of no more use
            await self.log_out(request)
        session = new_session()
        await self._ask(lambda: self._sessions.keep(session, _owner(session, int(time.time()), name, hashed)))
        return session

    async def log_out(self, request: Request) -> None:
        """End the session, wherever it is open."""
        if session := request.cookies.get(self.cookie(request)):
            await self._ask(lambda: self._sessions.end(session))

    async def _ask(self, work: Callable[[], T]) -> T:
        """What a function returns that may wait for Redis; raises Refusal where it comes to no thread."""
        try:
            with anyio.fail_after(PATIENCE_S):
                return await anyio.to_thread.run_sync(work, limiter=self._asking.get())
        except TimeoutError as error:
            raise Refusal(503, f"all threads have waited for Redis for {PATIENCE_S:g} s; try again") from error

    def cookie(self, request: Request) -> str:
        """The name of the cookie; browsers guard one with the prefix against other hosts of the domain."""
        is_alone = self._proxies.is_secure(request) and not request.scope.get("root_path")
        return "__Host-boilerd" if is_alone else "boilerd_session"

    async def _find(self, request: Request) -> Principal | None:
        if self._authorize:
            found = self._authorize(request)
            principal = await found if inspect.isawaitable(found) else found
            if principal is not None and not isinstance(principal, Principal):
                raise TypeError("authorize returns neither a Principal nor None")
            return principal
        if self.is_open:
            return self._anybody(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":  # a browser may send others, that a proxy asked it for
            return self._of_token(token.strip())
        if self._web.trusted_header and self._proxies.trusts(request):
            return self._of_proxy(request.headers.getlist(self._web.trusted_header)) or await self._of_session(request)
        return await self._of_session(request)

    def _anybody(self, request: Request) -> Principal:
        """Who is on this host; raises Refusal for who is elsewhere, and came by a proxy that nobody told us of."""
        if self._proxies.is_by_stranger(request):
            raise Refusal(
                403,
                "this came through a proxy, as its headers or HTTP/1.0 tell, and nobody has to log in here; add users"
                " to [web], or the proxy to trusted_proxies if it lets nobody else through",
            )
        return Principal.of_role(ANYBODY, "admin")

    def _of_token(self, token: str) -> Principal | None:
        hashed = passwords.hash_token(token)
        for name, known in self._web.tokens.items():
            is_it = hmac.compare_digest(known.sha256, hashed)
            if is_it and (known.ends is None or datetime.now(UTC) < known.ends):
                return Principal.of_grant(name, known, is_program=True)
        return None

    def _of_proxy(self, names: Sequence[str]) -> Principal | None:
        if len(names) != 1:  # of two, one may have come from the browser
            return None
        given = self._web.roles.get(names[0]) or self._web.roles.get("*")
        if not (names[0] and given):
            return None
        return Principal.of_grant(names[0], given if isinstance(given, Grant) else Grant(role=given))

    async def _of_session(self, request: Request) -> Principal | None:
        session = request.cookies.get(self.cookie(request))
        if not session or not self._web.users:
            return None
        owner = self._sessions.seen(session) if is_poll(request) else ""
        owner = owner or await self._ask(lambda: self._sessions.owner(session))
        _, began, name = (*owner.split(":", 2), "", "")[:3]
        user = self._web.users.get(name)
        if user is None or not (began.isascii() and began.isdecimal()):
            return None
        is_theirs = hmac.compare_digest(_raw(owner), _raw(_owner(session, int(began), name, user.password.text)))
        if not is_theirs or time.time() > int(began) + LASTS_S:
            return None
        return Principal.of_grant(name, user, session=session)


def is_poll(request: Request) -> bool:
    """Whether an open page asks if it has changed, and wants what is renewed alone."""
    return request.method == "GET" and request.headers.get("boilerd-live") == "1"


def _fits(password: str, hashed: str) -> bool:
    """Whether it is the password; of nobody it takes as long to say no."""
    return passwords.fits(password, hashed or passwords.nobodys_hash())


def _owner(session: str, began: int, name: str, hashed: str) -> str:
    """Whose a session is, and since when.

    It ends when the password changes; who can write to Redis alone can neither make one nor have it last longer.
    """
    return f"{hmac.digest(_raw(hashed), _raw(f'{session}:{began}'), 'sha256').hex()}:{began}:{name}"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
