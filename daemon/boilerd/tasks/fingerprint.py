"""Tell which failure this is: all attempts that failed in one way have one fingerprint, and are one failure group.

What decides are the task's type, the class of the exception and where the application's own code was: module and
function, without line numbers, so that a change elsewhere in the file makes no new group. The message decides only
where none of that code was running, and masked even then, because it is full of IDs, addresses and numbers.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from boilerd.errors import DeadlineExceededError, InvalidPayloadError, LeaseExpiredError, TaskInterrupt, parts_of

#: Functions of the application that tell two failures apart; more would tell apart how one place is reached.
FRAMES = 5
#: Characters of a message that are looked at: it takes 10 µs as a rule, and 3 ms where somebody wants that.
MOST_MASKED = 1000
#: Characters of the message that a group shows; of a name, which a program may have made.
MOST_SHOWN, MOST_NAME = 300, 200
#: Causes that are followed; a chain may be a ring.
MOST_CAUSES = 50
#: Hexadecimal digits of a fingerprint: few enough to type, enough for a thousand groups.
DIGITS = 12

#: Failures that their class alone describes: where the code was at that moment is chance.
_BY_CLASS = (TaskInterrupt, DeadlineExceededError, LeaseExpiredError)
_STDLIB = f"{Path(os.__file__).parent}{os.sep}"
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

_UUID = r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"
#: In this order: what an earlier one has masked, a later one leaves alone.
_MASKS = (
    (_UUID, "UUID"),
    (r"\b0x[0-9a-f]+", "ADDRESS"),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}\b|(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", "IP"),
    (r"\b([a-z][a-z0-9+.-]{0,15}://)(?:[^\s/@'\"]*@)?([^\s/:?#'\"]*)[^\s'\"]*", r"\1\2"),
    (r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*", "EMAIL"),
    (r"(?<![\w/:])(?:~|\.{1,2})?(?:/[^\s/'\":,;()]+)*/([^\s/'\":,;()]+)", r"\1"),
    (r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\"[^\"]*\"(?!\w)", "'…'"),
    # One word for both: a hexadecimal ID may have no letter.
    (r"\b\d+(?:[.,]\d+)*(?:e[+-]?\d+)?\b|\b[0-9a-f]{8,}\b|\d+", "N"),
)
#: Types such as ``user:42:sync`` are one.
_IN_TYPE = rf"{_UUID}|(?<![^\W_])\d+(?![^\W_])"
#: Compiled with the first failure: clients import this module, and have none.
_compiled = functools.cache(functools.partial(re.compile, flags=re.IGNORECASE))


class FailureKind(msgspec.Struct, frozen=True):
    """Which failure this is, with what a person has to know of it; without any payload.

    Attributes:
        fingerprint: Of its group.
        type: The task's.
        error: The class of the exception, with its module.
        message: Its message, masked.
        frames: The application's functions that ran, the innermost first.
        release: Of the application that failed; empty: it has none.
    """

    fingerprint: str
    type: str
    error: str
    message: str = ""
    frames: tuple[str, ...] = ()
    release: str = ""


def kind_of(task_type: str, error: BaseException, *, home: str = "", key: str | None = None) -> FailureKind:
    """Which failure this is.

    Args:
        task_type: The task's.
        error: What the attempt ended in.
        home: The package of the type's handler: it is the application's also where it is installed among libraries.
        key: What decides instead of all else, as the application says.
    """
    chain = _chain(error)
    root = chain[-1]
    name, message = _class_name(root), masked(_message(root))
    is_limit = isinstance(root, _BY_CLASS)
    # A library may have failed in a thread of its own: then what was raised from that says where.
    found = () if is_limit else (_frames(link.__traceback__, home) for link in reversed(chain))
    frames = next(filter(None, found), ())
    if key is None:
        key = "\n".join(
            (_compiled(_IN_TYPE).sub("N", task_type), name, *frames, *([] if frames or is_limit else [message]))
        )
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:DIGITS]
    return FailureKind(digest, _as_text(task_type, MOST_NAME), name, _as_text(message, MOST_SHOWN), frames)


def _chain(error: BaseException) -> list[BaseException]:
    """The error, then what each was raised from; of a group what it holds first.

    A cause that was never raised tells less than what was raised from it.
    """
    chain = [error]
    for link in chain:  # which grows meanwhile
        parts = parts_of(link) if isinstance(link, BaseExceptionGroup) else []
        below = parts[0] if parts else _cause(link)
        if below is not None and len(chain) < MOST_CAUSES:
            chain.append(below)
    return chain


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, (*_BY_CLASS, InvalidPayloadError)):
        return None  # what it was made of is a detail of ours
    cause = error.__cause__
    return cause if cause is not None and cause.__traceback__ is not None else None


def masked(message: str) -> str:
    """The message, in one line, with a word in place of all that is another each time."""
    message = " ".join(message[:MOST_MASKED].split())
    for pattern, mask in _MASKS:
        message = _compiled(pattern).sub(mask, message)
    return message


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the application's code may fail here
        return ""


def _class_name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _as_text(name, MOST_NAME)


def _as_text(value: str, most: int) -> str:
    """The first characters, with escapes for what is no text: a lone surrogate."""
    return value[:most].encode("utf-8", "backslashreplace").decode()


def _frames(traceback: TracebackType | None, home: str) -> tuple[str, ...]:
    """The application's innermost functions, each once: how deep a recursion was is chance."""
    own = dict.fromkeys(reversed([*_own_frames(traceback, home)]))
    return tuple(own)[:FRAMES]


def _own_frames(traceback: TracebackType | None, home: str) -> Iterator[str]:
    while traceback:
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__"))
        if _is_own(module.partition(".")[0], frame.f_code.co_filename, home):
            yield _as_text(f"{module}.{frame.f_code.co_qualname}", MOST_NAME)
        traceback = traceback.tb_next


@functools.lru_cache(4096)
def _is_own(package: str, filename: str, home: str) -> bool:
    """True for code of the application: of the handler's package, or no library's."""
    if package == "boilerd":
        return False
    is_library = filename.startswith((_STDLIB, "<frozen ")) or any(part in filename for part in _INSTALLED)
    return package == home or not is_library
