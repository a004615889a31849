"""Who sends a request: by a hook, a token, a proxy's header or a session; and logging in and out."""

import hmac
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import anyio
import anyio.to_thread
from starlette.requests import Request

from boilerd.settings.web import Web
from boilerd.web import passwords
from boilerd.web.permissions import Principal
from boilerd.web.proxies import Proxies
from boilerd.web.refusal import Refusal
from boilerd.web.sessions import Sessions, new_session

#: Says who sends a request, in an application that has users of its own; None: nobody whom it knows.
Authorize = Callable[[Request], Principal | Awaitable[Principal | None] | None]
#: Who looks where nobody has to say who they are.
ANYBODY = "anybody"
#: So many passwords may be tried in a minute, for a name and from an address.
TRIES, PER_S = 5, 60.0
#: Names and addresses that are remembered for that.
_MOST_TRIED = 10_000


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
        self, web: Web, sessions: Sessions, proxies: Proxies, authorize: Authorize | None, *, is_read_only: bool
    ) -> None:
        self._web = web
        self._sessions = sessions
        self._proxies = proxies
        self._authorize = authorize
        self._is_read_only = is_read_only
        self._tries: dict[tuple[str, str], deque[float]] = {}
        self._hashing: anyio.CapacityLimiter | None = None

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
        address = self._proxies.address(request)
        self._count_try(name, address)
        user = self._web.users.get(name)
        hashed = user.password.text if user else passwords.nobodys_hash()
        if self._hashing is None:  # it belongs to a running loop
            self._hashing = anyio.CapacityLimiter(2)
        fits = await anyio.to_thread.run_sync(passwords.fits, password, hashed, limiter=self._hashing)
        if not (fits and user):
            raise Refusal(403, "name or password is wrong")
        self._tries.pop(_trier(name, address), None)
        session = new_session()
        await anyio.to_thread.run_sync(self._sessions.keep, session, _owner(session, name, hashed))
        return session

    async def log_out(self, request: Request) -> None:
        """End the session, wherever it is open."""
        if session := request.cookies.get(self.cookie(request)):
            await anyio.to_thread.run_sync(self._sessions.end, session)

    def cookie(self, request: Request) -> str:
        """The name of the cookie; browsers guard one with the prefix against other hosts of the domain."""
        is_alone = self._proxies.is_secure(request) and not request.scope.get("root_path")
        return "__Host-boilerd" if is_alone else "boilerd_session"

    async def _find(self, request: Request) -> Principal | None:
        if self._authorize:
            found = self._authorize(request)
            return await found if inspect.isawaitable(found) else found
        if self.is_open:
            return Principal.of_role(ANYBODY, "admin")
        given = request.headers.get("authorization", "")
        if given and not given.lower().startswith("basic "):  # a password is for the proxy, which passes it on
            return self._of_token(given)
        if self._web.trusted_header and self._proxies.trusts(request):
            return self._of_proxy(request.headers.get(self._web.trusted_header, "")) or await self._of_session(request)
        return await self._of_session(request)

    def _of_token(self, header: str) -> Principal | None:
        scheme, _, token = header.partition(" ")
        hashed = passwords.hash_token(token.strip())
        for name, known in self._web.tokens.items():
            is_it = scheme.lower() == "bearer" and hmac.compare_digest(known.sha256, hashed)
            if is_it and (known.ends is None or datetime.now(UTC) < known.ends):
                return Principal.of_role(name, known.role, is_program=True)
        return None

    def _of_proxy(self, name: str) -> Principal | None:
        role = self._web.roles.get(name) or self._web.roles.get("*")
        return Principal.of_role(name, role) if name and role else None

    async def _of_session(self, request: Request) -> Principal | None:
        session = request.cookies.get(self.cookie(request))
        if not session or not self._web.users:
            return None
        owner = await anyio.to_thread.run_sync(self._sessions.owner, session)
        name = owner.partition(":")[2]
        user = self._web.users.get(name)
        if user is None or not hmac.compare_digest(_raw(owner), _raw(_owner(session, name, user.password.text))):
            return None
        return Principal.of_role(name, user.role, session=session)

    def _count_try(self, name: str, address: str) -> None:
        now_s = time.monotonic()
        tries = self._tries.setdefault(_trier(name, address), deque(maxlen=TRIES))
        if len(tries) == TRIES and now_s - tries[0] < PER_S:
            raise Refusal(429, f"more than {TRIES} tries in a minute; wait for one")
        tries.append(now_s)
        while len(self._tries) > _MOST_TRIED:
            del self._tries[next(iter(self._tries))]


def _trier(name: str, address: str) -> tuple[str, str]:
    return name[:200], address


def _owner(session: str, name: str, hashed: str) -> str:
    """Whose a session is: it ends when the password changes, and who can write to Redis alone cannot make one."""
    return f"{hmac.new(_raw(hashed), _raw(session), 'sha256').hexdigest()}:{name}"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
