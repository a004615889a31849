"""Give up what a daemon should not have: root, where the settings name a user, and files that all may write to."""

import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from boilerd import ground
from boilerd.errors import BootError, shown


def become(user: str, directories: Iterable[Path], gid: int | None = None) -> None:
    """Go on as `user`, who gets the directories; does nothing if this process is that user already.

    Args:
        user: Its name.
        directories: Those that it gets.
        gid: A further group that this process is to be a member of.

    Raises:
        BootError: There is no such user, this process may not become it, or a directory is not root's to give.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise BootError(f"user: there is no user {shown(user)}; create it, or leave the setting out") from None
    if os.geteuid() == account.pw_uid:
        return
    if os.geteuid() != 0:
        raise BootError(f"user: only root can become {shown(user)}; start as root or as {shown(user)}")
    for directory in directories:
        _give(directory, account)
    try:
        # The groups first: without root nobody may change them.
        os.setgroups([*os.getgrouplist(user, account.pw_gid), *([] if gid is None else [gid])])
        os.setresgid(*[account.pw_gid] * 3)
        os.setresuid(*[account.pw_uid] * 3)
    except OSError as error:
        raise BootError(f"user: cannot become {shown(user)}: {error}") from error
    os.environ.update({"HOME": account.pw_dir, "USER": user, "LOGNAME": user})


def secure_umask() -> None:
    """Where the umask that was inherited lets everybody write to new files, make it the usual one.

    A stricter one stays, and so does one that lets a group write: that is chosen on purpose. Children inherit it.
    """
    inherited = os.umask(0o077)
    os.umask(inherited if inherited & stat.S_IWOTH else inherited | 0o022)


def _give(directory: Path, account: pwd.struct_passwd) -> None:
    try:
        ground.give_directory(directory, account.pw_name, account.pw_uid, account.pw_gid)
    except OSError as error:
        raise BootError(f"user: cannot give {directory} to {account.pw_name!r}: {error.strerror}") from error
