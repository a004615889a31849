"""Make HTML of a page's data: every value is escaped, none may be missing, none can be obeyed."""

import functools
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context, Macro

from boilerd.web import charts, frozen, same_page, shown, tracebacks
from boilerd.web.guard import TOKEN
from boilerd.web.kept_rows import KeptRow
from boilerd.web.links import Links

HERE = Path(__file__).parent / "templates"
#: Where a page's context has all that are made of it.
_MADE = "made"
#: Names that a template gets of each row, whatever stands in it.
_METHODS = frozenset(dir(dict))
#: Calls of these are most of those on a page, and Jinja looks for what it is to pass them longer than they take.
_CALLED = frozenset({FunctionType, MethodType})


class _PageContext(Context):
    """What a template, or one that it imports, prints; it tells that it is there, so that it can be emptied."""

    def __init__(self, environment: Environment, parent: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(environment, parent, *args, **kwargs)
        if _MADE in parent:  # else it is of what Jinja keeps for all pages
            parent[_MADE].append(self)

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As Jinja, which has a macro escape as the page does, and passes others what they are marked to want."""
        if type(function) is Macro or (type(function) in _CALLED and not hasattr(function, "jinja_pass_arg")):
            kwargs.pop("_loop_vars", None)  # for those that are passed the context
            kwargs.pop("_block_vars", None)
            return function(*args, **kwargs)
        return super().call(function, *args, **kwargs)

    def empty(self) -> None:
        """Let go of all: macros lead in circles here, and else it lives until the garbage collector comes."""
        self.vars.clear()
        self.parent = {}


class _Generator(CodeGenerator):
    """Leaves it to `shown.finalize` to escape: that looks at each value once, of which a page has a thousand."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(finalize.src)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")


class _Environment(Environment):
    code_generator_class = _Generator

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja: a method first, then what is in it; but without the error that a row makes where it has none."""
        if type(obj) is dict and attribute in obj and attribute not in _METHODS:
            return obj[attribute]
        return super().getattr(obj, attribute)


@functools.cache  # a template is compiled once in a process
def make_environment() -> Environment:
    """Jinja, as all templates need it."""
    environment = _Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.context_class = _PageContext
    environment.add_extension(KeptRow)
    environment.filters.update(shown.FILTERS)
    environment.filters["pieces"] = tracebacks.pieces
    environment.globals.update(
        {
            "version": version("boilerd"),
            "token_field": TOKEN,
            "charts": charts,
            "picture": frozen.picture,
            "to_same": same_page.to_same,
            "to_file": same_page.to_file,
            "own_query": same_page.own_query,
            "own_place": same_page.own_place,
            "to_path": Links().to,
            "brief": shown.brief,
            "percent": shown.percent,
        }
    )
    return environment


class Templates:
    """The templates of all pages."""

    def __init__(self) -> None:
        self._environment = make_environment()

    def render(self, name: str, context: dict[str, Any], *, is_live: bool = False) -> str:
        """The page; or, for a poll, what of it is renewed."""
        context["layout"] = "live.html" if is_live else "layout.html"
        made: list[_PageContext] = []
        try:
            return self._environment.get_template(name).render(context, **{_MADE: made})
        finally:
            while made:
                made.pop().empty()
