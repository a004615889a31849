"""Give up root for good, where the settings name a user."""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from boilerd.errors import BootError


def become(user: str, directories: Iterable[Path]) -> None:
    """Go on as `user`, who gets the directories; does nothing if this process is that user already.

    Raises:
        BootError: There is no such user, or this process may not become it.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise BootError(f"user: there is no user {user!r}; create it, or leave the setting out") from None
    if os.geteuid() == account.pw_uid:
        return
    if os.geteuid() != 0:
        raise BootError(f"user: only root can become {user!r}; start as root or as {user!r}")
    try:
        for directory in directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chown(directory, account.pw_uid, account.pw_gid)
        # The groups first: without root nobody may change them.
        os.setgroups(os.getgrouplist(user, account.pw_gid))
        os.setresgid(*[account.pw_gid] * 3)
        os.setresuid(*[account.pw_uid] * 3)
    except OSError as error:
        raise BootError(f"user: cannot become {user!r}: {error}") from error
    os.environ.update({"HOME": account.pw_dir, "USER": user, "LOGNAME": user})
