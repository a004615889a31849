"""What one call sets in its context, and the next one finds."""

import decimal
from contextvars import Context, ContextVar

import pytest

from boilerd.process.contexts import FreshContext

variable: ContextVar[str] = ContextVar("variable", default="unset")


def look_and_change(value: str) -> tuple[str, int, bool]:
    """What stands there; then leave something else."""
    context = decimal.getcontext()
    found = variable.get(), context.prec, bool(context.flags[decimal.Inexact])
    variable.set(value)
    context.prec, context.flags[decimal.Inexact] = 3, True
    decimal.setcontext(decimal.Context(prec=7))
    return found


@pytest.mark.parametrize("is_used_before", [True, False], ids=["decimal used before", "not used"])
def test_each_call_finds_the_context_as_it_was_at_first(*, is_used_before: bool) -> None:
    def calls() -> list[tuple[str, int, bool]]:
        variable.set("at first")
        if is_used_before:
            decimal.getcontext().prec = 11
        fresh = FreshContext()
        return [fresh.run(look_and_change, "changed") for _ in range(3)]

    assert Context().run(calls) == [("at first", 11 if is_used_before else 28, False)] * 3
