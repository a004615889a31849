"""Pages that are kept with their data: which can be, and how one is shown again.

Kept is what the template of a page gets, not what it makes of it: so all that stands in Redis is escaped when it is
shown, whoever has written it.
"""

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from jinja2 import TemplateError, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.routing import compile_path

from boilerd.web.kept_rows import READER
from boilerd.web.links import unsegment
from boilerd.web.page import PAGES, Page
from boilerd.web.permissions import Permission

#: Pages that show nothing that could be kept, or what is kept.
NOT_KEPT = frozenset({"/palette", "/settings", "/snapshots", "/snapshots/{snapshot}"})
#: Beside a moment, which JSON has no value for.
_MOMENT = "boilerd:moment"
#: What the page around one has.
_OWN = frozenset({"about", "template", "path", "query_of_it", "content"})


def is_keepable(page: Page) -> bool:
    """Whether a picture of it can be kept."""
    return page.path not in NOT_KEPT


def find_page(path: str) -> tuple[Page, dict[str, str]] | None:
    """The page at a path below the prefix, without a query, and its parts; None: none that can be kept."""
    for page in sorted(PAGES, key=lambda each: (each.path.count("{"), -len(each.path))):
        if found := compile_path(page.path)[0].match(path):
            parts = {name: unsegment(part) for name, part in found.groupdict().items()}
            return (page, parts) if is_keepable(page) else None
    return None


def freeze(data: Mapping[str, Any]) -> str:
    """The data of a page as JSON in ASCII, with its moments."""
    return json.dumps(data, default=_frozen, separators=(",", ":"))


def _frozen(value: Any) -> Any:
    if isinstance(value, datetime):
        return {_MOMENT: value.isoformat()}
    return value.isoformat() if isinstance(value, date) else str(value)


def thaw(content: str) -> dict[str, Any]:
    """The data of a page; raises ValueError or RecursionError for what is none."""
    found = json.loads(content, object_hook=_thawed)
    if not isinstance(found, dict):
        raise ValueError("no page")  # noqa: TRY004 - of a text that is wrong
    return found


def _thawed(found: dict[str, Any]) -> Any:
    given = found.get(_MOMENT)
    if len(found) == 1 and isinstance(given, str) and re.fullmatch(r"[\d:T.+-]{10,40}", given):
        return datetime.fromisoformat(given)
    return found


@pass_context
def picture(context: Context, shown: Mapping[str, Any]) -> Markup:
    """The main part of a page that is kept, of which nothing can be done; or that it cannot be shown."""
    outer = context.get_all()
    may_see = shown["shows_payloads"] and outer["may"](Permission.VIEW_PAYLOAD)
    inner = {
        **{name: value for name, value in outer.items() if name not in _OWN},
        "title": shown["title"],
        "here": shown["path"],
        "query": shown["query"],
        "may": lambda permission: may_see and permission == Permission.VIEW_PAYLOAD,
        READER: [*outer[READER], "of a kept page", may_see],  # its rows are none of the live page's
        "layout": "live.html",
    }
    try:
        template = context.environment.get_template(shown["template"])
        return Markup(template.render({**thaw(shown["content"]), **inner}))  # noqa: S704 - it has escaped
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError):
        problem = "It was kept by another version, and this one cannot show it; its address with .json has its data."
        return Markup('<h1>{}</h1><p class="problem">{}</p>').format(shown["title"], problem)
