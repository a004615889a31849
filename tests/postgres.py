"""A PostgreSQL of the tests' own, such as stands behind an application's connections."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

import psycopg

from support import DEADLINE_S, wait_until

#: All that it writes may be lost, and it has no port; nothing runs in it beside what the tests ask.
_OPTIONS = ("listen_addresses=", "fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off")


class Postgres:
    """A server on a Unix socket; it runs as nobody where the tests run as root, whom PostgreSQL refuses.

    Args:
        directory: Empty; becomes the server's.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / ".s.PGSQL.5432"
        self.url = f"postgresql+psycopg://app@/postgres?host={directory}"
        self._programs = _find_programs()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(directory, nobody.pw_uid, nobody.pw_gid)
            self._user: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        else:
            self._user = {}

    def create(self) -> Self:
        """Make its files."""
        flags = ["--username=app", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        done = self._start_program("initdb", "-D", "data", *flags)
        assert done.wait(DEADLINE_S * 3) == 0, self._log()
        return self

    def start(self) -> Self:
        options = [word for option in _OPTIONS for word in ("-c", option)]
        self._process = self._start_program("postgres", "-D", "data", "-k", str(self._directory), *options)
        wait_until(self._answers, "PostgreSQL answers")
        return self

    def stop(self, signum: signal.Signals = signal.SIGINT) -> None:
        """End it; INT closes the connections of its clients, TERM waits for these."""
        if self._process:
            self._process.send_signal(signum)
            self._process.wait(DEADLINE_S)
            self._process = None

    def connect(self) -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(host=str(self._directory), user="app", dbname="postgres", autocommit=True)

    def empty(self) -> None:
        """Delete all that tests have made; what their tasks have asked may run on although nobody waits for it."""
        with self.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
            connection.execute("drop schema public cascade")
            connection.execute("create schema public")

    def _start_program(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / name, *words], cwd=self._directory, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, **self._user,
            )  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")


def _find_programs() -> Path:
    """The folder of the server's programs: Debian's, the newest, or else where PATH has them."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(versions, key=lambda path: float(path.parts[4]), default=None)
    found = newest or shutil.which("postgres")
    assert found, "PostgreSQL is missing: run scripts/debian-packages"
    return Path(found).parent
