"""The dashboard as OpenAPI describes it: made of the pages and actions that are declared, so that none is missing."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, TypedDict

import msgspec

from boilerd.web.data_shapes import SHAPES
from boilerd.web.described import FIELDS, QUERIES
from boilerd.web.page import Action, Page
from boilerd.web.permissions import Permission
from boilerd.web.redaction import PAYLOADS

#: What stands before the names of schemas.
_REF = "#/components/schemas/{name}"
#: Schemas of our own.
_OWN: Mapping[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error", "status"],
        "properties": {"error": {"type": "string"}, "status": {"type": "integer"}},
    },
    "Done": {"type": "object", "required": ["done"], "properties": {"done": {"type": "string"}}},
}
#: Parts of an address.
_PARTS: Mapping[str, str] = {
    "id": "a task's ID", "queue": "a queue", "type": "a task type", "cron": "a periodic task",
    "operation": "an operation", "fingerprint": "a failure group", "worker": "a worker", "snapshot": "a kept page",
    "pool": "a pool of the daemon of this host; empty: all", "what": "quiet, resume or scale",
}  # fmt: skip
_ESCAPED = "letters, digits, `_`, `-` and `:` as they are, all else as `~` and two hexadecimal digits for each byte"
_MOVED = "it may be of any form, and what is hidden in it is `[hidden]`; to who may not see it, its kind and size"


def describe(root: str, pages: Iterable[Page], actions: Iterable[Action]) -> dict[str, Any]:
    """The document.

    Args:
        root: What all addresses begin with.
        pages: All of them.
        actions: All of them.
    """
    paths: dict[str, dict[str, Any]] = {}
    for address, method, about in [*_of_pages(pages), *_of_actions(actions)]:
        paths.setdefault(address, {})[method] = about
    return {
        "openapi": "3.1.0",
        "info": {"title": "boilerd web", "version": version("boilerd"), "description": "docs/web.md says more."},
        "servers": [{"url": root or "/"}],
        "security": [{"token": []}, {}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _of_pages(pages: Iterable[Page]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for page in pages:
        base = "/overview" if page.path == "/" else page.path
        yield f"{base}.json", "get", _about(page, "json", {"application/json": {"schema": _shape_of(page.path)}})
        if page.rows:
            rows = "application/x-ndjson"
            yield f"{base}.ndjson", "get", _about(page, "ndjson", {rows: {}}, Permission.EXPORT)
            yield f"{base}.csv", "get", _about(page, "csv", {"text/csv": {}}, Permission.EXPORT)


def _of_actions(actions: Iterable[Action]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for action in actions:
        address, has_page = f"{action.path}.json", action.about is not None
        also = [action.also] if action.also else []
        if has_page:
            told = _about(action, "before", {"application/json": {"schema": {"type": "object"}}}, *also)
            yield address, "get", {**told, "summary": f"{action.title}: what would be done"}
        schema = _shape_of(action.path) if action.path in SHAPES else {"$ref": _REF.format(name="Done")}
        sent = _about(action, "do", {"application/json": {"schema": schema}}, *also)
        yield address, "post", {**sent, **_body(FIELDS.get(action.path, {}))}


def _about(of: Page | Action, form: str, content: Mapping[str, Any], *also: Permission) -> dict[str, Any]:
    needs = [of.needs, *also]
    error = {"description": "why not", "content": {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}}
    function: Any = of.view if isinstance(of, Page) else of.act
    told = (getattr(function, "func", function).__doc__ or "").partition("\n")[0]
    return {
        "operationId": re.sub(r"\W+", "_", f"{of.path}_{form}").strip("_"),
        "summary": of.title,
        "description": f"{told} Needs the permission {' and '.join(f'`{each}`' for each in needs)}.".strip(),
        "x-permissions": [str(each) for each in needs],
        "parameters": [*_parameters(of.path)],
        "responses": {"200": {"description": "the data", "content": dict(content)}, "default": error},
    }


def _parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", path):
        about = f"{_PARTS.get(name, name)}: {_ESCAPED}"
        yield {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}
    for name, about in QUERIES.get(path, {}).items():
        schema = {"type": "array", "items": {"type": "string"}} if name == "id" else {"type": "string"}
        yield {"name": name, "in": "query", "description": about, "schema": schema}


def _body(fields: Mapping[str, str]) -> dict[str, Any]:
    """What is sent, as a form or as JSON."""
    if not fields:
        return {}
    properties = {name: {"type": "string", "description": about} for name, about in fields.items()}
    kinds = ("application/json", "application/x-www-form-urlencoded")
    return {"requestBody": {"content": {k: {"schema": {"type": "object", "properties": properties}} for k in kinds}}}


def _name_of(path: str) -> str:
    """What the schema of a page's data is called."""
    return "".join(part.capitalize() for part in re.findall(r"\w+", path)) + "Data" if path != "/" else "OverviewData"


def _shape_of(path: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=_name_of(path))} if path in SHAPES else {"type": "object"}


@functools.cache
def _schemas() -> dict[str, Any]:
    made: Any = TypedDict  # mypy wants each to have a name in the code
    kinds = [made(_name_of(path), dict(fields)) for path, fields in SHAPES.items()]
    _, found = msgspec.json.schema_components(kinds, ref_template=_REF)
    for schema in found.values():
        for name in PAYLOADS & schema.get("properties", {}).keys():
            schema["properties"][name] = {"description": _MOVED}
    return {**_OWN, **found}


__all__ = ["describe"]
