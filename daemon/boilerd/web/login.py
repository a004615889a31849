"""Log in and out: the pages that need no permission."""

from starlette.responses import RedirectResponse, Response

from boilerd.web.answers import KINDS, Asked, render
from boilerd.web.links import is_own_path
from boilerd.web.refusal import Refusal


async def answer_login(asked: Asked) -> Response:
    """The form, or a session."""
    access = asked.site.access
    if not access.has_login:
        raise Refusal(404, "nobody logs in here")
    wanted = asked.request.query_params.get("next", "/")
    if asked.request.method != "POST":
        return _form(asked, wanted, "")
    name, password, wanted = (next(iter(asked.form.get(key, ())), "") for key in ("name", "password", "next"))
    try:
        session = await access.log_in(asked.request, name, password)
    except Refusal as refusal:
        return _form(asked, wanted, str(refusal), refusal.status)
    response = RedirectResponse(asked.links.path(wanted if is_own_path(wanted) else "/"), 303)
    response.set_cookie(
        access.cookie(asked.request),
        session,
        path=asked.links.root or "/",
        secure=asked.site.proxies.is_secure(asked.request),
        httponly=True,
        samesite="strict",
    )
    return response


async def answer_logout(asked: Asked) -> Response:
    """End the session."""
    access = asked.site.access
    await access.log_out(asked.request)
    response = RedirectResponse(asked.links.path("/login" if access.has_login else "/"), 303)
    response.delete_cookie(
        access.cookie(asked.request),
        path=asked.links.root or "/",
        secure=asked.site.proxies.is_secure(asked.request),
        httponly=True,
        samesite="strict",
    )
    return response


def _form(asked: Asked, wanted: str, problem: str, status: int = 200) -> Response:
    data = {"next": wanted if is_own_path(wanted) else "/", "problem": problem}
    return Response(render(asked, "login.html", data, title="Log in"), status, media_type=KINDS["html"])
