"""Import the application, and find its mux by the name ``module:name``."""

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from boilerd.errors import AppImportError
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.rq_functions import Functions, load, prefix_of

BUILTIN = "boilerd.tasks.builtin:mux"


def load_app(name: str | None, rq_functions: Sequence[str] = ()) -> ServeMux:
    """Import the application and return its mux; the built-in one for None.

    The working directory is on the import path, as for ``python -m``.

    Args:
        name: ``module:name``.
        rq_functions: The setting of this name: functions of plain RQ's jobs that the mux calls. They are imported too.

    Raises:
        AppImportError: There is no such module or name, or the module raised an error while it was imported.
    """
    mux = _load_mux(name)
    functions = Functions(rq_functions)
    for pattern in rq_functions:
        try:
            load(pattern)
        except (Exception, SystemExit) as error:
            raise _broken(f"rq_functions {pattern!r}", error) from error
        try:
            mux.handle(prefix_of(pattern), functions)
        except ValueError as error:
            raise AppImportError(f"rq_functions {pattern!r}: {error}") from error
    return mux


def _load_mux(name: str | None) -> ServeMux:
    module_name, _, attribute = (name or BUILTIN).partition(":")
    here = _working_directory(name or BUILTIN)
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise _broken(f"app {name!r}", error) from error
        raise AppImportError(f"app {name!r}: no module {error.name!r} in {here} nor on the import path") from error
    except (Exception, SystemExit) as error:
        raise _broken(f"app {name!r}", error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise AppImportError(f"app {name!r}: module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not isinstance(found, ServeMux):
        raise AppImportError(f"app {name!r}: a {type(found).__name__} is no mux; give the name of a boilerd.ServeMux")
    return found


def _working_directory(app: str) -> str:
    try:
        return str(Path.cwd())
    except OSError as error:  # deleted, as by a deployment
        raise AppImportError(
            f"app {app!r}: the working directory is gone ({error.strerror}); start in one that is there"
        ) from error


def _broken(setting: str, error: BaseException) -> AppImportError:
    # The frames of importlib say nothing about the application.
    frames = "".join(traceback.format_exception(error))
    return AppImportError(f"{setting} cannot be imported: {type(error).__name__}: {error}", frames)
