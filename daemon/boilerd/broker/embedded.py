"""The users of the embedded Valkey of a daemon that has a ``group``: who they are, and what each may do."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from boilerd.broker import keys

#: The server's user that may do all. One who does not authenticate may only enqueue and look.
DAEMON_USER = "boilerd"
_SECRET = re.compile(rb"[0-9a-f]{64}")


def secret_path(socket_path: Path) -> Path:
    """Where the secret of the server that listens there stands, if it has one."""
    return socket_path.with_suffix(".secret")


def read_secret(path: Path) -> str:
    """The secret of `DAEMON_USER`; empty where there is none, or not for this user.

    Root reads it from a directory of the daemon's user. That one could put a link to another file there, so nothing is
    taken, and sent to whoever listens there, that does not look like a secret.
    """
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            found = file.read(65)
        return found.decode() if _SECRET.fullmatch(found) else ""
    return ""


def users_file(secret: str) -> str:
    """The server's file of users; of the secret it has the digest."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f"user {DAEMON_USER} on #{digest} ~* &* +@all\nuser default on nopass {member_rights()}\n"


def member_rights() -> str:
    """What members of the group may do, as Redis writes it: enqueue, and look.

    Each command that writes is allowed on the keys where enqueue.lua needs it; the last for `boilerd health`.
    """
    bells = f"~{keys.bell('*')} ~{keys.ALARM}"
    return " ".join([
        f"resetchannels resetkeys %R~{keys.RQ}:* %R~{keys.OWN}:*",
        "-@all +@read +@connection +@transaction -@dangerous -@admin +info +time",
        "+eval +evalsha +eval_ro +evalsha_ro +script|load +script|exists",
        f"(+rpush ~{keys.queue('*')} {bells})",
        f"(+rpop +expire {bells})",
        f"(+hset ~{keys.job('*')})",
        f"(+zadd ~{keys.registry('scheduled', '*')})",
        f"(+sadd ~{keys.QUEUES} ~{keys.SERVED})",
        f"(+set ~{keys.unique('*', '*', '*')} ~{keys.once('*')})",
        f"(+del +rpush +pexpire +blpop ~{keys.PROBE})",
    ])  # fmt: skip
