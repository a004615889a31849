"""The file of the bundled Valkey's users, for a server whose socket a group may open.

Only members of the group can open it, beside the daemon's user and root. So the server's user that needs no password is
the one with few rights, and the daemon's own has a secret, which stands beside the socket in a file that only the
daemon's user and root can read. The server itself knows its digest.

The unit boiler-valkey writes it with ``python -m boilerd.daemon.valkey_users USERS SECRET``.
"""

import secrets
import sys
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
        secret = secrets.token_hex(32)
        ground.write_file(secret_path, [secret.encode()])
    ground.write_file(users, [users_file(secret).encode()])


if __name__ == "__main__":
    write_users(*map(Path, sys.argv[1:3]))
