"""The file of the bundled Valkey's users, for a server whose socket a group may open.

Only members of the group can open it, beside the daemon's user and root. So the server's user that needs no password is
the one with few rights, and the daemon's own has a secret, which stands beside the socket in a file that only the
daemon's user and root can read. The server itself knows its digest.

The unit boiler-valkey writes it with ``python -m boilerd.daemon.valkey_users USERS SECRET``.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from boilerd import ground
from boilerd.broker.embedded import read_secret, users_file


def write_users(users: Path, secret_path: Path) -> None:
    """Write the server's file of users, and the secret; one that is there already is kept.

    Raises:
        OSError: A file cannot be written.
    """
    secret = read_secret(secret_path)
    if not secret:
        _write(secret_path, secret := secrets.token_hex(32))
    _write(users, users_file(secret))


def _write(path: Path, text: str) -> None:
    """Write a file of ours for its owner alone, as a whole: who reads it finds the old text or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    directory_fd = ground.open_directory(path.parent)
    try:
        with suppress(FileNotFoundError):
            os.unlink(fresh.name, dir_fd=directory_fd)
        fd = ground.open_in(directory_fd, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        os.rename(fresh.name, path.name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    finally:
        os.close(directory_fd)


if __name__ == "__main__":
    write_users(*map(Path, sys.argv[1:3]))
