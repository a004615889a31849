"""The web dashboard: one ASGI application, which shows what `inspector` reads and does what a person asks.

It needs no application code and holds no state of its own: what it has to know stands in Redis. `page` says how a page
is added, `endpoint` what each request passes. The application is imported when it is asked for: it needs the extra
``web``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boilerd.web.application import app as app
    from boilerd.web.permissions import Permission as Permission
    from boilerd.web.permissions import Principal as Principal

_WHERE = {"app": "application", "Permission": "permissions", "Principal": "permissions"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - only there

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


__all__ = ["Permission", "Principal", "app"]
