"""``boilerd run --watch``: a child process that sees when the application's files change, and asks for a reload.

What counts is a list of the files with their contents, which is made before the application is imported and compared
again whenever something moves in their folders. So nothing is missed, whenever it was written; and nothing but a
changed ``*.py`` leads to a reload: no compiled file, no log, no editor that writes a file anew as it was.

A thread of the supervisor's would not do: its children are forked.
"""

import importlib.util
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple, Self

from boilerd.errors import BootError, RefusedError, listed

logger = logging.getLogger("boilerd.watcher")

#: Changes that follow each other sooner are one: an editor writes a file in several steps, and git hundreds of files.
STEP_MS = 50
#: But changes that do not end are taken together for no longer than this.
LONGEST_STEP_MS = 1600
#: How often the files are compared in any case, for folders whose system tells of no change; and how many times as
#: long as a comparison takes that is at least, so that very many folders cost no processor of their own.
LOOK_EVERY_MS = 2000
LEAST_PAUSE = 20
#: How often a reload is asked for, while the daemon is not ready for one.
ASK_EVERY_S = 0.1
#: Names of changed files in a line of the log.
_MOST_NAMED = 5
#: Folders in which nobody edits, beside those whose names begin with a dot and virtual environments.
_OTHERS = frozenset({"__pycache__", "node_modules"})


class _File(NamedTuple):
    """A file as it was; the digest is made anew only where the rest differs."""

    stamp: tuple[int, int, int]
    digest: bytes


class Sources(NamedTuple):
    """The Python files of an application, as they were at one moment.

    Attributes:
        roots: The folders that are searched, and single files.
        folders: Where such files may be.
        files: Path → the file.
    """

    roots: tuple[Path, ...]
    folders: frozenset[str]
    files: Mapping[str, _File]

    @classmethod
    def of(cls, app: str | None) -> Self:
        """Those below the working directory, and of the package or module that the setting `app` names."""
        roots: list[Path] = []
        with suppress(OSError):  # the directory is gone, which the import tells
            roots.append(Path.cwd())
        roots += (place for place in _places(app) if not any(place.is_relative_to(root) for root in roots))
        return cls(tuple(roots), frozenset(), {}).now()

    def now(self) -> Self:
        """The same as they are now."""
        folders, files = set(), {}
        for root in self.roots:
            for folder, names in _walk(root):
                folders.add(folder)
                for path in (os.path.join(folder, name) for name in names):  # noqa: PTH118 - thousands, each second
                    with suppress(OSError):  # it was renamed or deleted meanwhile
                        files[path] = _read(path, self.files.get(path))
        return self._replace(folders=frozenset(folders), files=files)

    def changed(self, before: Self) -> list[str]:
        """The files that are new, gone or different, as seen from the working directory."""
        both = sorted({*self.files, *before.files})
        found = [path for path in both if _digest(self.files.get(path)) != _digest(before.files.get(path))]
        return [path.removeprefix(f"{self.roots[0]}{os.sep}") for path in found]


def prepare(*, has_code: bool) -> None:
    """Have Python run each file as it is now.

    Args:
        has_code: True if an application is set. Without one nothing is imported from the working directory, and what
            anybody writes there, such as to /tmp, is no reason for a reload.

    Raises:
        BootError: There is nothing to watch; or the library is missing that tells of changes.
    """
    if not has_code:
        raise BootError("--watch: no application is set, so there is nothing to watch; name one with --app")
    if importlib.util.find_spec("watchfiles") is None:
        raise BootError(
            "--watch needs watchfiles, which is not installed; install it with `pip install 'boilerd[watch]'`"
        )
    # A compiled file stands for one of the same size and second: of two changes in one, Python would run the first.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # of the check, and of the new program


def watch(sources: Sources, reload: Callable[[], object]) -> None:
    """Ask for a reload whenever a file differs from `sources`; returns when the parent has gone.

    Args:
        sources: As they were before the application was imported.
        reload: Asks the daemon for a reload; raises RefusedError while it cannot do that, OSError if nobody answers.
    """
    parent, took_s = os.getppid(), 0.0
    for _ in _moments(lambda: sources.folders, lambda: took_s):  # noqa: B023 - those of the last look
        if os.getppid() != parent:
            return
        began_s = time.monotonic()
        now = sources.now()
        took_s = time.monotonic() - began_s
        if changed := now.changed(sources):
            logger.info("files changed, reloading", extra={"files": listed(changed, _MOST_NAMED)})
            _ask(reload)
        sources = now  # of before the question: what changes from here on is seen the next time


def _moments(folders: Callable[[], frozenset[str]], took_s: Callable[[], float]) -> Iterator[None]:
    """Moments at which files may have changed: at once, then whenever something moves, and every few seconds.

    Args:
        folders: Returns those that are watched.
        took_s: Returns how long the last comparison took.
    """
    import watchfiles  # noqa: PLC0415 - an extra, which imports asyncio

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts what it sees, in each line
    yield
    while True:
        watched, pause_ms = folders(), max(LOOK_EVERY_MS, int(took_s() * 1000 * LEAST_PAUSE))
        try:
            for _ in watchfiles.watch(
                *watched, watch_filter=_is_of_interest, step=STEP_MS, debounce=LONGEST_STEP_MS,
                rust_timeout=pause_ms, yield_on_timeout=True, recursive=False,
            ):  # fmt: skip
                yield
                if folders() != watched:
                    break
        # A folder has gone, or its name is no text, or the system watches no more of them.
        except (OSError, RuntimeError, UnicodeError) as error:
            logger.debug("folders cannot be watched, looking again", extra={"error": str(error)})
            select.select([], [], [], pause_ms / 1000)
            yield


def _is_of_interest(_: object, path: str) -> bool:
    """Whether a change may concern a Python file, or a folder that may hold some."""
    return path.endswith(".py") or os.path.isdir(path)  # noqa: PTH112 - called for every line that a log gets


def _ask(reload: Callable[[], object]) -> None:
    """Ask until the daemon begins it: it refuses while another one is under way, whose check may have read too early.

    A reload that succeeds ends this process.
    """
    while True:
        try:
            reload()
        except (OSError, RefusedError):
            select.select([], [], [], ASK_EVERY_S)
        else:
            return


def _places(app: str | None) -> Iterable[Path]:
    """Where the application's package or module is."""
    name = (app or "").partition(":")[0].partition(".")[0]
    spec = None
    with suppress(ImportError, OSError, ValueError):
        # The working directory comes to the import path later, and what is there may be a link to elsewhere.
        spec = name and (importlib.util.find_spec(name) or PathFinder.find_spec(name, [str(Path.cwd())]))
    if not spec:
        return []
    found = spec.submodule_search_locations or [spec.origin or ""]
    return [Path(place).resolve() for place in found if os.path.exists(place)]  # noqa: PTH110 - "built-in" is none


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The folders below and in a root, with the names of the Python files in each."""
    if root.is_file():
        yield str(root.parent), [root.name]
        return
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not (name.startswith(".") or name in _OTHERS)]
        if "pyvenv.cfg" in names:
            below.clear()
            continue
        yield folder, [name for name in names if name.endswith(".py")]


def _read(path: str, before: _File | None) -> _File:
    info = os.stat(path)  # noqa: PTH116 - as above
    if not stat.S_ISREG(info.st_mode):
        raise OSError(f"{path} is no file")  # a FIFO or a device could be read without an end
    stamp = info.st_ctime_ns, info.st_size, info.st_ino  # programs can choose the other time
    if before is not None and before.stamp == stamp:
        return before
    return _File(stamp, blake2b(Path(path).read_bytes(), digest_size=16).digest())


def _digest(file: _File | None) -> bytes:
    return file.digest if file else b""
