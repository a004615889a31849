"""What every request passes, before any page sees it: its Host, where it was sent from, and how large it is.

And what every answer has: the headers that keep browsers from doing more with it than to show it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import parse_qsl

import anyio
import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request

from boilerd.web.permissions import Principal
from boilerd.web.proxies import Proxies
from boilerd.web.refusal import Refusal
from boilerd.web.sessions import Seals

#: The name of the form token's field.
TOKEN = "form_token"  # noqa: S105 - a name
MOST_BYTES, MOST_FIELDS = 64 * 1024, 1000
#: How long somebody may take to send them.
BODY_S = 10.0
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: Of an answer that is nobody else's.
HEADERS = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
            b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/@\s]*)(?::\d+)?")


class Guard:
    """Lets requests through, or raises Refusal.

    Args:
        proxies: Whose headers count.
        hosts: Names by which it may be called; empty: any.
        seals: Makes form tokens.
    """

    def __init__(self, proxies: Proxies, hosts: Collection[str], seals: Seals) -> None:
        self._proxies = proxies
        self._hosts = {host.lower() for host in hosts}
        self._seals = seals

    def check_host(self, request: Request) -> None:
        """A page of another name that leads here by DNS may not read anything."""
        given = self._proxies.host(request)
        found = _HOST.fullmatch(given)
        name = found[1].lower() if found else ""
        if self._hosts and name not in self._hosts:
            asked = (name or given)[:100]
            raise Refusal(
                421, f"host {asked!r} is not one of this dashboard's names; add it to hosts of [web] if it is"
            )

    def token(self, principal: Principal | None) -> str:
        """The token that a form of theirs has."""
        return self._seals.seal(*_sealed(principal))

    def check_origin(self, request: Request, principal: Principal | None, form: Mapping[str, Sequence[str]]) -> None:
        """A page of another site may send nothing; a program with a token is none."""
        if principal and principal.is_program:
            return
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site is not None:
            is_ours, seen = site == "same-origin", f"Sec-Fetch-Site: {site}"
        elif origin is not None:
            is_ours, seen = origin.partition("://")[2] == self._proxies.host(request) != "", f"Origin: {origin}"
        else:
            given = next(iter(form.get(TOKEN, ())), "")
            is_ours, seen = (
                self._seals.fits(given, *_sealed(principal)),
                "no Sec-Fetch-Site, no Origin, and no token that fits",
            )
        if not is_ours:
            raise Refusal(
                403,
                f"this was not sent by a page of this dashboard ({seen[:200]}); open the page again and try once more,"
                " and have a proxy pass on the header Host",
            )


def check_framing(request: Request) -> None:
    """What two servers may read in two ways is refused, such as where a body ends.

    A proxy that reads that otherwise takes its rest for the request of another.
    """
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        raise Refusal(400, "this has both Content-Length and Transfer-Encoding; send one of them")
    hosts = len(request.headers.getlist("host"))
    if hosts > 1 or (not hosts and request.scope.get("http_version") == "1.1"):
        raise Refusal(400, f"this has {hosts or 'no'} header{'s' * (hosts > 1)} Host; send one")


async def read_form(request: Request) -> dict[str, list[str]]:
    """What was sent, as a form or as a JSON object of texts; raises Refusal."""
    try:
        with anyio.fail_after(BODY_S):
            body = await _read_body(request)
    except TimeoutError as error:
        raise Refusal(408, f"it took more than {BODY_S:g} s to send this; send it again") from error
    except ClientDisconnect as error:
        raise Refusal(400, "who sent this went away before its end") from error
    return _parse(request, body)


async def _read_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refusal(413, f"more than {MOST_BYTES:,} bytes were sent; send less")
    return body


def _parse(request: Request, body: bytes) -> dict[str, list[str]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return {name: _listed(value) for name, value in msgspec.json.decode(body, type=_Sent).items()}
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="surrogateescape", max_num_fields=MOST_FIELDS
        )
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "what was sent is no form, and no JSON object of texts") from error
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def add_headers(headers: MutableHeaders) -> None:
    """Add what every answer has, and no other part of the dashboard gives one."""
    headers.raw.extend(HEADERS)
    headers.setdefault("cache-control", "private, no-store")


def _sealed(principal: Principal | None) -> tuple[str, str, str]:
    """What a form token is made of."""
    return ("form", principal.name, principal.session) if principal else ("form", "", "")


_Sent = dict[str, str | list[str]]


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
