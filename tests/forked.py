"""Runs `boilerd` commands in forks of the test's process: to start Python anew costs a quarter of a second each time.

Such a command has the streams, the environment, the working directory and the modules of one that was started: what a
test has imported from an application is imported anew. A command that keeps running, or that needs to be a fresh
process, is started as one.
"""

import atexit
import contextvars
import importlib
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from boilerd import cli
from boilerd.process.failpoints import VARIABLE

_TESTS = Path(__file__).parent
#: These serve until they are ended, take the terminal, or replace their own program.
_LASTING = {"run", "web", "dash"}
#: What is read when Python starts, or boilerd is imported.
_AT_START = {
    "BOILERD_CONFIG", "BOILERD_KEY_PREFIX", "RQ_KEY_PREFIX", VARIABLE, "PYTHONIOENCODING", "PYTHONWARNINGS",
    "LANG", "LC_ALL", "PYTHONMALLOC",
}  # fmt: skip
#: What a pipe takes before anybody reads it.
_PIPE_BYTES = 60_000


def may_fork(words: tuple[str, ...], env: Mapping[str, str], stdin: str) -> bool:
    """Whether a command tells the same in a fork."""
    differs = {name for name in _AT_START if env.get(name) != os.environ.get(name)}
    return not differs and not _LASTING & {*words} and "--config" not in words and len(stdin) < _PIPE_BYTES


def run_forked(
    *words: str, env: Mapping[str, str], stdin: str, cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    _import_commands()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        reads, writes = os.pipe()
        os.write(writes, stdin.encode())
        os.close(writes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the threads of this process do nothing in the other
            pid = os.fork()
        if not pid:
            _be_command(words, env, cwd, (reads, out.fileno(), err.fileno()))
        os.close(reads)
        status = _status_of(pid, timeout)
        told = [_all_of(stream) for stream in (out, err)]
    return subprocess.CompletedProcess(["boilerd", *words], status, *told)


def _all_of(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()


def _status_of(pid: int, timeout: float) -> int:
    """Wait until a process has ended; as `subprocess` tells how."""
    end = os.pidfd_open(pid)
    try:
        in_time = bool(select.select([end], [], [], timeout)[0])
    finally:
        os.close(end)
    if not in_time:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert in_time, "the command did not end in time"
    return status


@cache
def _import_commands() -> None:
    """Once here, and no more in each fork."""
    importlib.import_module("boilerd.__main__")
    for place, _ in cli.COMMANDS.values():
        importlib.import_module(place.partition(":")[0])


def _be_command(words: tuple[str, ...], env: Mapping[str, str], cwd: Path | None, streams: tuple[int, ...]) -> NoReturn:
    status = 1
    try:
        _forget_the_test()
        _look_like_a_start(words, env, cwd, streams)
        status = _main()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                status = 120
        os._exit(status)


def _main() -> int:
    try:
        contextvars.Context().run(cli.main)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _forget_the_test() -> None:
    """Put aside what pytest, and the tests' own modules, have changed in the interpreter."""
    atexit._clear()
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    sys.meta_path[:] = [finder for finder in sys.meta_path if "pytest" not in type(finder).__module__]
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(f"{_TESTS}/"):
            del sys.modules[name]


def _look_like_a_start(
    words: tuple[str, ...], env: Mapping[str, str], cwd: Path | None, streams: tuple[int, ...]
) -> None:
    """Have the streams, the environment and the paths of `python -m boilerd`."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - until the process ends
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    if cwd:
        os.chdir(cwd)
    own = (sys.prefix, sys.base_prefix, str(_TESTS.parent / "daemon"))
    sys.path[:] = [
        *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)),
        *(p for p in sys.path if p.startswith(own)),
    ]
    sys.path_importer_cache.clear()
    main = sys.modules["__main__"] = sys.modules["boilerd.__main__"]
    sys.argv = [str(main.__file__), *map(os.fsdecode, map(os.fsencode, words))]
