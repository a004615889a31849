"""Write answers: a page's data as HTML, JSON, CSV or NDJSON, what an action did, and what went wrong."""

import csv
import functools
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from boilerd.broker.task_rows import TaskRows
from boilerd.errors import BoilerdError, BrokerUnavailableError, QueueNotFoundError
from boilerd.web.frozen import is_keepable
from boilerd.web.kept_rows import READER
from boilerd.web.links import Links, is_own_path, outside
from boilerd.web.own_queues import MENU as OF_QUEUES
from boilerd.web.page import Action, Data, Done, Elsewhere, Missing, Page
from boilerd.web.parameters import check_parameters, is_sized
from boilerd.web.permissions import Principal
from boilerd.web.refusal import Refusal, status_of
from boilerd.web.same_page import SAID
from boilerd.web.shown import cut, harmless
from boilerd.web.site import Site
from boilerd.web.visit import Visit

KINDS = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
}
#: Forms of a list alone.
_ROWS = frozenset({"csv", "ndjson"})
#: Characters of what an action says, in the address that it leads to.
MOST_TOLD = 400
#: What a spreadsheet takes for a formula: where a cell begins; with some settings it does after these separators, too.
_FORMULA = re.compile(r"(^\s*|[;\t]\s*)([=+@\-\uff1d\uff0b\uff0d\uff20])")


@dataclass(slots=True)
class Asked:
    """A request on its way to an answer.

    Attributes:
        form_of_answer: ``html``, ``json``, ``csv`` or ``ndjson``.
        who: Who sends it, once that is known.
        form: What was sent.
        begin_visit: Makes what the page gets; None: there is nobody for whom.
        visit: What the page gets, once it is made.
    """

    site: Site
    request: Request
    form_of_answer: str
    who: Principal | None = None
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)
    begin_visit: Callable[[], Visit] | None = None
    visit: Visit | None = None

    @property
    def links(self) -> Links:
        """Makes addresses below the prefix that this request came by."""
        return Links(self.request.scope.get("root_path", "").rstrip("/"))

    @property
    def path(self) -> str:
        """The path below the prefix, with the query; as the address of a link it leads to no other host."""
        below = self.request.scope["path"].removeprefix(self.links.root)
        path = "/" + quote(below.lstrip("/"), safe="/:~", errors="replace")
        query = self.request.scope["query_string"].decode("ascii", "replace")
        return f"{path}?{query}" if query else path

    @property
    def came_from(self) -> str:
        """The address of the page of ours on which the browser was; empty: it was on another, or does not say."""
        try:
            page = urlsplit(self.request.headers.get("referer", ""))
        except ValueError:
            return ""
        root = self.links.root
        query = "&".join(part for part in page.query.split("&") if part.partition("=")[0] not in SAID)
        below = page.path.removeprefix(root) + (f"?{query}" if query else "")
        is_ours = page.netloc == self.site.proxies.host(self.request) and page.path.startswith(f"{root}/")
        return root + below if is_ours and is_own_path(below) else ""

    @property
    def is_live(self) -> bool:
        """Whether it is a poll, which wants what is renewed alone."""
        return self.request.headers.get("boilerd-live") == "1"


async def answer_page(asked: Asked, page: Page) -> Response:
    """The page, or its rows as a file."""
    if asked.form_of_answer in _ROWS:
        visit = _known(asked)
        check_parameters(page, visit.query)
        if asked.request.method == "HEAD":  # else the audit would have them as exported
            return Response(headers={"content-type": KINDS[asked.form_of_answer]})
        if page.stream:
            return await answer_export(asked, page.path, page.stream(visit))
    return await _answer_shown(asked, page)


async def _answer_shown(asked: Asked, page: Page) -> Response:
    """The page as a whole, or that it has not changed."""
    if (tag := _tag_of_known(asked, page)) and tag == _known_tag(asked):
        return _unchanged(tag)
    visit = _known(asked)
    check_parameters(page, visit.query)

    def make() -> Response:
        note = asked.site.answers.begin(page.fresh_s)
        found = _found(asked, page)
        if isinstance(found, Elsewhere):
            form = "" if asked.form_of_answer == "html" else f".{asked.form_of_answer}"
            return RedirectResponse(asked.links.path(found.to + form), 303)
        template, status = page.template, 200
        if isinstance(found, Missing):
            template, status, found = found.template, 404, found.data
        content, lists = (visit.snapshot().mark, []) if page.of_snapshot else _content(asked, visit, found)
        if status == 200 and not lists and (page.fresh_s or (page.of_shared and visit.reads)):
            note(_sight(asked), content, visit.reads)
        tag = _tag(asked, content, lists)
        if tag == _known_tag(asked):
            return _unchanged(tag)
        text = _written(asked, page, template, visit.seen(found))
        headers = {"etag": tag, "vary": "Boilerd-Live", "content-type": KINDS[asked.form_of_answer]}
        return Response(text, status, headers=headers)

    return await asked.site.in_thread(functools.partial(_counted, asked, make), asked.who)


def _counted(asked: Asked, make: Callable[[], Response]) -> Response:
    """The answer, with the CPU that it takes noted if it is to a poll."""
    began_s = time.thread_time()
    try:
        return make()
    finally:
        if asked.is_live:
            asked.site.costs.pace.note(time.thread_time() - began_s)


def _found(asked: Asked, page: Page) -> Data | Elsewhere | Missing:
    """What a page returns; as people see it, where HTML was asked for."""
    found = page.view(_known(asked))
    if isinstance(found, Elsewhere | Missing) or page.steady is None or asked.form_of_answer != "html":
        return found
    return page.steady(found)


def _written(asked: Asked, page: Page, template: str, data: Mapping[str, Any]) -> str:
    """A page's data in the form that was asked for."""
    if asked.form_of_answer == "html":
        return render(asked, template, data, title=page.title, keepable=template == page.template and is_keepable(page))
    if asked.form_of_answer in _ROWS:
        _known(asked).inspector.note_export(page.path, len(data[page.rows]))
    return _as_data(asked.form_of_answer, data, page.rows)


async def answer_export(asked: Asked, path: str, parts: Generator[Sequence[Any]]) -> Response:
    """A file of rows that are read while it is sent; what goes wrong before the first of them is an answer."""
    visit, form = _known(asked), asked.form_of_answer

    def read() -> list[Mapping[str, Any]] | None:
        # One by one: what is hidden in one may stand in the error of another.
        part = next(parts, None)
        return None if part is None else [visit.seen(row) for row in part]

    first = await asked.site.in_thread(read, asked.who)

    async def send() -> AsyncIterator[str]:
        names: list[str] = []
        rows = first
        try:
            while rows is not None:
                yield _csv(rows, names) if form == "csv" else "".join(f"{_json(row)}\n" for row in rows)
                rows = await asked.site.in_thread(read, asked.who)
        except BrokerUnavailableError as error:  # too late for an answer, which would tell of it
            asked.site.sampler.outages.note(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await asked.site.in_thread(parts.close)

    named = {"content-disposition": f'attachment; filename="{path.strip("/")}.{form}"'}
    return StreamingResponse(send(), headers={**named, "content-type": KINDS[form]})


async def answer_action(asked: Asked, action: Action) -> Response:
    """What was done, or the page that asks before it."""
    check_parameters(action, _known(asked).query)
    answer = _answer_sent if asked.request.method == "POST" else _answer_opened
    return await asked.site.in_thread(functools.partial(answer, asked, action), asked.who)


def _answer_opened(asked: Asked, action: Action) -> Response:
    if action.about is None:
        raise Refusal(405, "this is sent by a form, not opened")
    return _ask(asked, action, action.about(_known(asked)))


def _answer_sent(asked: Asked, action: Action) -> Response:
    try:
        done = _act(asked, action)
    except BoilerdError as error:
        return _ask_again(asked, action, error)
    if not isinstance(done, Done):
        return _ask(asked, action, done, 200 if not done.get("problems") else 422)
    asked.site.forget_all()
    if asked.form_of_answer == "json":
        return Response(_json({"done": done.says, **_known(asked).seen(done.data)}), media_type=KINDS["json"])
    told = cut(done.says, MOST_TOLD)
    query = {**done.query, "told": told, "seal": asked.site.seals.seal("told", told)}
    return RedirectResponse(asked.links.path(done.to, query), 303)


def _ask(asked: Asked, action: Action, found: Data, status: int = 200) -> Response:
    data = found if action.reveals else _known(asked).seen(found)
    if asked.form_of_answer == "json":
        return Response(_json(data), status, media_type=KINDS["json"])
    return _html(render(asked, action.template, data, title=action.title), status)


def _ask_again(asked: Asked, action: Action, error: BoilerdError) -> Response:
    """Ask a person with what is wrong, and what was filled in; raises the error where that would not help."""
    if action.about is None or asked.form_of_answer == "json" or status_of(error) != HTTPStatus.BAD_REQUEST:
        raise error
    visit = _known(asked)
    sent = {name: values[0] for name, values in visit.form.items()}
    about = action.about(replace(visit, form={}))
    return _ask(asked, action, {**about, "sent": sent, "refused": str(error)}, 400)


def _act(asked: Asked, action: Action) -> Done | Data:
    try:
        return action.act(_known(asked))
    except Exception as error:  # what has failed may be done all the same, such as where Redis answered too late
        asked.site.forget_all()
        if isinstance(error, BrokerUnavailableError) and error.was_sent:
            raise Refusal(503, f"{error}; it may have been done all the same, look before you do it again") from error
        raise


def answer_error(asked: Asked, error: BoilerdError) -> Response:
    """A page that says what went wrong; also for polls, which leave the last picture then."""
    if isinstance(error, QueueNotFoundError) and asked.who is not None:
        error = QueueNotFoundError(error.name, [name for name in error.known if asked.who.owns(name)])
    status = status_of(error)
    if asked.form_of_answer not in {"html", "file"}:
        answer = Response(_json({"error": str(error), "status": status}), status, media_type=KINDS["json"])
    else:
        title = (isinstance(error, Refusal) and error.heading) or HTTPStatus(status).phrase
        data = {
            "problem": str(error),
            "status": status,
            "back": asked.came_from if asked.request.method == "GET" else "",
        }
        answer = _html(render(asked, "error.html", data, title=title), status)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:  # a page that somebody opened and that is sent
        answer.headers["allow"] = "POST"
    return answer


def render(asked: Asked, template: str, data: Mapping[str, Any], *, title: str, keepable: bool = False) -> str:
    """The HTML of a template, with what all of them have beside the page's data."""
    site, links, who = asked.site, asked.links, asked.who
    context = {
        "sent": {},
        "refused": "",
        **data,
        "title": title,
        "to": links.shown,
        "links": links,
        "here": asked.path,
        "made_at": datetime.now(UTC),
        "who": who,
        "may": who.may if who else _nothing,
        "query": asked.visit.query if asked.visit else {},
        "token": site.guard.token(who),
        READER: [links.root, site.look, _rights(who)],
        "menu": [page for page in site.menu if _is_for(page, who)],
        "static": lambda name: site.static.address(links, name),
        "told": _told(asked),
        "keepable": keepable,
        "is_sized": is_sized,
        "key_of": lambda page: site.letters[page.path],
        "environment": site.environment,
        "outside": functools.partial(outside, site.outside),
        "has_login": site.access.has_login,
    }
    return site.templates.render(template, context, is_live=asked.is_live)


def _is_for(page: Page, who: Principal | None) -> bool:
    return who is not None and who.may(page.needs) and (who.queues is None or page.path in OF_QUEUES)


def _told(asked: Asked) -> str:
    """What an action said before it led here; nobody else can have it said."""
    query = asked.visit.query if asked.visit else {}
    told = query.get("told", "")
    return told if asked.site.seals.fits(query.get("seal", ""), "told", told) else ""


def _known(asked: Asked) -> Visit:
    if asked.begin_visit is None:
        raise TypeError("a page without a permission has no visit")
    asked.visit = asked.visit or asked.begin_visit()
    return asked.visit


def _nothing(_permission: str) -> bool:
    return False


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type=KINDS["html"])


def _unchanged(tag: str) -> Response:
    return Response(status_code=304, headers={"etag": tag, "vary": "Boilerd-Live"})


def _tag(asked: Asked, content: str, lists: Sequence[TaskRows] = ()) -> str:
    """Changes with the content, and with all else that the answer is made of; by it nobody can guess what is hidden."""
    site, who = asked.site, asked.who
    sealed = site.seals.seal(
        "page", content, asked.path, asked.links.root, asked.form_of_answer, str(asked.is_live), site.look,
        site.redaction.settings, site.guard.token(who), _rights(who),
    )  # fmt: skip
    if not lists:
        return f'"{sealed}"'
    if not _known_tag(asked).startswith(f'"{sealed}.'):
        for rows in lists:  # other ones than before: they are shown, and not asked for twice
            rows.read()
    return f'"{sealed}.{site.seals.seal("rows", sealed, *(rows.digests for rows in lists))}"'


def _sight(asked: Asked) -> str:
    """Is the same for all who see the same, whoever they are."""
    told = asked.path, asked.links.root, asked.form_of_answer, _rights(asked.who)
    return asked.site.seals.seal("sight", *told)


def _rights(who: Principal | None) -> str:
    """What they may see; of some queues that depends on their name, too."""
    if who is None:
        return ""
    return f"{','.join(sorted(who.permissions))} {(who.queues, who.name) if who.queues is not None else ''}"


def _content(asked: Asked, visit: Visit, found: Any) -> tuple[str, list[TaskRows]]:
    """Seals all that a page is made of, for its tag, and the tasks of lists, which are left out but for IDs and scores.

    Most polls end here, before it is looked for what is to be hidden.
    """
    lists: list[TaskRows] = []

    def encode(value: object) -> object:
        if not isinstance(value, TaskRows):
            return str(value)
        lists.append(value)
        return value.members

    try:
        content = msgspec.json.encode(found, enc_hook=encode).decode()
    except (ValueError, TypeError, OverflowError, RecursionError):  # bytes that are no text, or numbers of 100 digits
        content, lists = _json(visit.seen(found)), []
    return asked.site.seals.seal("content", content), lists


def _tag_of_known(asked: Asked, page: Page) -> str | None:
    """The tag of a page that is made of what is known already; None: it has to be made."""
    is_whole = page.of_snapshot and asked.who and asked.who.queues is None
    if is_whole and (snapshot := asked.site.sampler.fresh(is_poll=asked.is_live)):
        return _tag(asked, snapshot.mark)
    content = asked.site.answers.content(_sight(asked)) if page.of_shared or page.fresh_s else None
    return _tag(asked, content) if content else None


def _known_tag(asked: Asked) -> str:
    return asked.request.headers.get("if-none-match", "").removeprefix("W/")


def _as_data(form: str, data: Mapping[str, Any], rows: str) -> str:
    if form == "json":
        return _json(data)
    if form == "ndjson":
        return "".join(f"{_json(row)}\n" for row in data[rows])
    return _csv(data[rows], [])


def _json(value: Any) -> str:
    """JSON in ASCII: a text of bytes that are none reads back as it was."""
    return json.dumps(value, default=_plain, separators=(",", ":"))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)


def _csv(rows: Iterable[Mapping[str, Any]], names: list[str]) -> str:
    """A table with a column for each name, which the first row gives; what is no number or text is JSON."""
    written = io.StringIO()
    writer = csv.writer(written)
    for row in rows:
        if not names:
            names += row
            writer.writerow(names)
        writer.writerow([_cell(row.get(name)) for name in names])
    return written.getvalue().encode("utf-8", "backslashreplace").decode()


def _cell(value: Any) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else _plain(value) if isinstance(value, date) else _json(value)
    return _FORMULA.sub(r"\1'\2", harmless(text))
