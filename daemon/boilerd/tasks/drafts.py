"""Client middleware: code of the application around every enqueue."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import msgspec

from boilerd.errors import BoilerdError, shown
from boilerd.tasks.callables import check_plain, name_of
from boilerd.tasks.coroutines import NOT_RUN, discard
from boilerd.tasks.options import EnqueueOptions
from boilerd.tasks.task import TaskInfo


class Draft(msgspec.Struct):
    """A task that is about to be enqueued; client middleware may change it, and all is checked after that.

    Attributes:
        type: The task's type.
        payload: As the caller gave it.
        options: Those that the caller gave and the defaults of its type, but for ``headers`` and ``inherit``:
            ``draft.options["queue"] = "low"``. With another type come the defaults of that one.
        headers: Those of the caller, and those that the enqueue inherits.
        message: What the client made it of.
    """

    type: str
    payload: Any = None
    options: EnqueueOptions = msgspec.field(default_factory=EnqueueOptions)
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    message: Any = None

    def __repr__(self) -> str:
        """Without what the payload and the headers hold."""
        return f"Draft(type={self.type!r}, options={self.options!r}, headers={[*self.headers]!r})"


#: What an enqueue takes among its options, and a draft has elsewhere.
BESIDE_OPTIONS = frozenset({"headers", "inherit"})
Answers = list[TaskInfo | BoilerdError]
#: Enqueues the drafts: for each, in the same order, its TaskInfo or the error that kept it out.
Push = Callable[[list[Draft]], Answers]
#: Gets the drafts of an enqueue or batch, and what enqueues them; it returns an answer for each of them.
ClientMiddleware = Callable[[list[Draft], Push], Answers]


def check_client_middleware(middleware: Sequence[ClientMiddleware]) -> None:
    """Raise ValueError if there is none, TypeError if one cannot be called or is no plain function."""
    if not middleware:
        raise ValueError("give at least one client middleware")
    for each in middleware:
        check_plain("client middleware", each, "drafts", "push")


def check_drafts(drafts: Iterable[Draft]) -> list[Draft]:
    """Return what the middleware pushes; raises TypeError, which shows no payload, if it is anything but drafts."""
    if isinstance(drafts, Draft) or not isinstance(drafts, Iterable):
        raise TypeError(f"push(drafts) got {type(drafts).__name__} in place of the drafts; give it a list of Drafts")
    found = list(drafts)
    for draft in found:
        if not isinstance(draft, Draft):
            raise TypeError(f"push(drafts) got {type(draft).__qualname__} among the drafts; give it Drafts")
    return found


def options_of(draft: Draft) -> dict[str, Any]:
    """The options that the middleware left behind; raises TypeError if they are none, or hold what stands elsewhere."""
    if not isinstance(draft.options, dict):
        raise TypeError(f"draft of {shown(draft.type)}: its options are {type(draft.options).__name__}; give a dict")
    if beside := sorted(BESIDE_OPTIONS & draft.options.keys()):
        raise TypeError(f"draft of {shown(draft.type)}: {beside[0]!r} is none of its options; set draft.headers")
    return {**draft.options}


def wrap_push(middleware: Sequence[ClientMiddleware], push: Push) -> Push:
    """`push` inside the middleware, of which the first is outermost."""
    for each in reversed(middleware):
        push = functools.partial(_pass_through, each, push)
    return push


def _pass_through(middleware: ClientMiddleware, push: Push, drafts: list[Draft]) -> Answers:
    """Call the middleware; raises TypeError if it left a draft without an answer, which would be lost unseen."""
    drafts = check_drafts(drafts)
    count = len(drafts)
    answers: Any = middleware(drafts, push)
    is_list = isinstance(answers, list | tuple)
    if is_list and len(answers) == count and all(isinstance(each, TaskInfo | BoilerdError) for each in answers):
        return cast(Answers, [*answers])
    told = f"{len(answers)} answers" if is_list else _told(answers)
    raise TypeError(
        f"client middleware {name_of(middleware)} returned {told} for {count} drafts; it must return, for each, what"
        " push(drafts) answers or a BoilerdError"
    )


def _told(answers: Any) -> str:
    """What it is, but not what it holds: that may be a payload."""
    if NOT_RUN[type(answers)]:
        return discard(answers)
    return "None" if answers is None else f"a value of type {type(answers).__name__}"
