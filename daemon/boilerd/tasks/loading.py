"""Import the application, and find its mux by the name ``module:name``."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from boilerd import ground
from boilerd.errors import AppImportError, shown
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.rq_functions import Functions, load, prefix_of

BUILTIN = "boilerd.tasks.builtin:mux"


def load_app(name: str | None, rq_functions: Sequence[str] = ()) -> ServeMux:
    """Import the application and return its mux; the built-in one for None.

    Where one is named, the working directory comes to the end of the import path: what is installed goes first, so
    that no file there takes the place of a library. Without one nothing is imported from there.

    Args:
        name: ``module:name``.
        rq_functions: The setting of this name: functions of plain RQ's jobs that the mux calls. They are imported too.

    Raises:
        AppImportError: There is no such module or name, or the module raised an error while it was imported; or this
            process is root's, and others may write to the working directory.
    """
    if name or rq_functions:
        _find_modules_here(f"app {shown(name)}" if name else "rq_functions")
    mux = find_mux(name)
    functions = Functions(rq_functions)
    for pattern in rq_functions:
        try:
            load(pattern)
        except (Exception, SystemExit) as error:
            raise _broken(f"rq_functions {shown(pattern)}", error) from error
        try:
            mux.handle(prefix_of(pattern), functions)
        except ValueError as error:
            raise AppImportError(f"rq_functions {shown(pattern)}: {error}") from error
    return mux


def find_mux(name: str | None) -> ServeMux:
    """Import the application from where Python looks for modules, and return its mux; raises AppImportError."""
    module_name, _, attribute = (name or BUILTIN).partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise _broken(f"app {shown(name)}", error) from error
        raise AppImportError(
            f"app {shown(name)}: no module {error.name!r} in {Path.cwd()} nor on the import path"
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(f"app {shown(name)}", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(sys.modules[module_name], "__file__", None)
            raise AppImportError(
                f"app {shown(name)}: module {module_name!r} has no {shown(attribute)}; it is {where or 'built in'}"
            )
        found = getattr(found, part)
    if not isinstance(found, ServeMux):
        raise AppImportError(
            f"app {shown(name)}: a {type(found).__name__} is no mux; give the name of a boilerd.ServeMux"
        )
    return found


def _find_modules_here(setting: str) -> None:
    """Put the working directory on the import path."""
    try:
        here = Path.cwd()
    except OSError as error:  # deleted, as by a deployment
        raise AppImportError(
            f"{setting}: the working directory is gone ({error.strerror}); start in one that is there"
        ) from error
    if os.geteuid() == 0:
        _check_ground(here, setting)
    if str(here) not in sys.path:
        sys.path.append(str(here))


def _check_ground(here: Path, setting: str) -> None:
    """Root runs nobody else's code: whoever may write to the directory would be root."""
    try:
        os.close(ground.open_directory(here))
    except OSError as error:
        raise AppImportError(
            f"{setting}: root does not run code from the working directory {here}: {error.strerror}"
        ) from error


def _broken(setting: str, error: BaseException) -> AppImportError:
    # The frames of importlib say nothing about the application.
    frames = error.__traceback__
    while frames and str(frames.tb_frame.f_globals.get("__name__")).startswith(("boilerd.", "importlib")):
        frames = frames.tb_next
    head = "" if frames else "Traceback (most recent call last):\n"  # of a syntax error no frame is left
    text = head + "".join(traceback.format_exception(type(error), error, frames))
    return AppImportError(f"{setting} cannot be imported: {type(error).__name__}: {error}", text)
