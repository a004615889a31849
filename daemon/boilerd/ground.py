"""Ground: whether what a path leads to is root's or our own, and nobody else's to change.

The rule, for every step from / to the end: its owner is root or the user of this process, and nobody else may write
to it. There are three exceptions. Others may write to a directory on the way if it is sticky, as /tmp is. A group may
write where nobody else is in it. A group may also write to a directory on the way to a file, as to /var/log on some
systems: the file itself is checked, and opened from there. A symbolic link is followed where its directory is root's
and ours alone, or where the link itself is.

Each step is opened from the descriptor of the one before, so what was checked is what is used: a path that is looked
at and then used by its name may lead elsewhere the second time.
"""

import errno
import grp
import os
import pwd
import stat
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

#: Linux opens a directory that may be passed, but not listed; elsewhere it has to be listed.
_ON_THE_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: So many symbolic links are one that leads to itself; the system's own limit.
_MOST_LINKS = 40


class UnsafeError(PermissionError):
    """Somebody else could change what a path leads to: `strerror` says who and where, `cure` what would do."""

    def __init__(self, problem: str, cure: str = "") -> None:
        super().__init__(errno.EPERM, "; ".join(filter(None, (problem, cure))))
        self.cure = cure


def open_directory(path: Path, *, makes: bool = False) -> int:
    """A descriptor of the directory, which nobody but root and we can change or replace; the caller closes it.

    Args:
        path: The directory.
        makes: True to make it where it is missing, for its owner alone.

    Raises:
        UnsafeError: Somebody else could; OSError: it is not there, or cannot be made.
    """
    with _Walk(path, _our_owners(), goes_to_file=False) as walk:
        walk.go(makes=makes)
        walk.check_end()
        return os.dup(walk.fd)


def give_directory(path: Path, user: str, uid: int, gid: int) -> None:
    """As root, make the directory where it is missing, and give it to a user.

    Root goes no further than to the first directory that is the user's already: in it, the user could have put
    anything under any name, such as a link to what root must not give away. The user makes the rest itself.

    Raises:
        UnsafeError: It is not root's alone, or it is in use; OSError: it cannot be made.
    """
    with _Walk(path, {0, _owner_of_all()}, goes_to_file=False) as walk:
        walk.go(makes=True, until=uid)
        if walk.info.st_uid == uid:
            return
        walk.check_end()
        fd = _open_itself(walk.fd)
        try:
            if os.listdir(fd):  # noqa: PTH208 - of the directory that was checked, not of a path
                raise UnsafeError("it is root's, and not empty", f"chown -R {user} {path}")
            os.fchown(fd, uid, gid)
        finally:
            os.close(fd)


def share_directory(path: Path, gid: int) -> None:
    """Let a group pass through a directory of ours, which it can neither list nor write to.

    What is made in it belongs to the group as well: where the group is not the one that new files of this process
    have anyway, the directory says so.

    Raises:
        UnsafeError: Others could change it; OSError: it is not ours, or the group is not one of ours.
    """
    passed_fd = open_directory(path)
    try:
        fd = _open_itself(passed_fd)
        try:
            mode = 0o710 if gid == os.getegid() else 0o710 | stat.S_ISGID
            info = os.fstat(fd)
            if (info.st_gid, stat.S_IMODE(info.st_mode)) != (gid, mode):
                os.fchown(fd, -1, gid)
                os.fchmod(fd, mode)
        finally:
            os.close(fd)
    finally:
        os.close(passed_fd)


def open_file(path: Path, flags: int, mode: int = 0o600, *, takes_devices: bool = False) -> int:
    """Open a regular file whose content is root's or our own; never waits for a FIFO's other end.

    Args:
        path: The file.
        flags: As of `os.open`.
        mode: Of a file that is made.
        takes_devices: True if it may be a device, such as /dev/null.

    Raises:
        UnsafeError: Somebody else could have written it, or it is something else; OSError: it cannot be opened.
    """
    with _Walk(path, _our_owners(), goes_to_file=True) as walk:
        found = walk.go()
        return open_in(walk.fd, walk.here / walk.name, flags, mode, expected=found, takes_devices=takes_devices)


def open_in(
    directory_fd: int,
    path: Path,
    flags: int,
    mode: int = 0o600,
    *,
    expected: os.stat_result | None = None,
    takes_devices: bool = False,
) -> int:
    """Open a file of a directory that was checked; as `open_file`, but a symbolic link is refused.

    Args:
        directory_fd: The directory.
        path: The file, by the name that it has there.
        flags: As of `os.open`.
        mode: Of a file that is made.
        expected: What was seen under the name.
        takes_devices: True if it may be a device.
    """
    if expected is None:
        with suppress(FileNotFoundError):
            expected = os.stat(path.name, dir_fd=directory_fd, follow_symlinks=False)
    if expected is not None:
        _check_kind(expected, takes_devices=takes_devices)  # to open a FIFO for writing fails with other words
    fd = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=directory_fd)
    try:
        info = os.fstat(fd)
        _check_kind(info, takes_devices=takes_devices)
        if stat.S_ISREG(info.st_mode):
            _check_file(info, fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file of ours, for its owner alone: whoever reads it finds the old content or the new one, as a whole.

    It is on the disk afterwards. Its directory is made where it is missing.

    Raises:
        UnsafeError: Somebody else could replace it; OSError: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    directory_fd = open_directory(path.parent, makes=True)
    try:
        with suppress(FileNotFoundError):
            os.unlink(fresh.name, dir_fd=directory_fd)
        fd = open_in(directory_fd, fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(fd, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(fd)
        os.rename(fresh.name, path.name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        listed_fd = _open_itself(directory_fd)
        try:
            os.fsync(listed_fd)
        finally:
            os.close(listed_fd)
    finally:
        os.close(directory_fd)


def read_regular(path: Path) -> bytes:
    """The content of a regular file, whoever owns it; never waits for a FIFO's other end, and raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        _check_kind(os.fstat(fd))
        return file.read()


def read_file(path: Path) -> bytes:
    """The content of a file that is root's or our own; raises as `open_file` does."""
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _open_itself(directory_fd: int) -> int:
    """The directory, for what takes more than to pass it."""
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)


class _Walk:
    """The way along a path, a step at a time.

    Args:
        path: Where it goes.
        owners: Whose directories and links are passed.
        goes_to_file: True if it ends before the last name, which is a file's.

    Attributes:
        fd: The directory that it has come to.
        here: Its path, without symbolic links.
        info: What the system says of it.
        name: The file's name there, at the end.
    """

    def __init__(self, path: Path, owners: Collection[int], *, goes_to_file: bool) -> None:
        self.name = ""
        self._path = path.absolute()
        self._owners = owners
        self._goes_to_file = goes_to_file
        self._names = deque(self._path.parts[1:])
        self._links = 0
        self.here, self.fd = Path("/"), os.open("/", _ON_THE_WAY)
        self._look_around()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fd)

    def go(self, *, makes: bool = False, until: int | None = None) -> os.stat_result | None:
        """Go to the end; returns what was found there, or None where the file is missing.

        Args:
            makes: True to make directories that are missing.
            until: Stop at the first directory of this user.
        """
        while self._names:
            name = self._names.popleft()
            self._check_passage()
            found = self._find(name)
            if found is not None and stat.S_ISLNK(found.st_mode):
                self._follow(name, found)
            elif self._goes_to_file and not self._names:
                self.name = name
                return found
            else:
                if found is None and makes:
                    self._make(name)
                if self._enter(name, until):
                    break
        return self.info

    def check_end(self) -> None:
        """Raise UnsafeError if others may write to the directory at the end."""
        if self._writers:
            # A sticky directory is one as /tmp, which others need as it is.
            cure = "" if self.info.st_mode & stat.S_ISVTX else f"chmod 700 {self.here}"
            raise UnsafeError(f"{self._writers} may write to {self._shown()}", cure)

    def _enter(self, name: str, until: int | None) -> bool:
        """Step into a directory; True if it is of the user at whose directories the walk ends."""
        fd = os.open(name, _ON_THE_WAY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = fd
        self.here = self.here.parent if name == ".." else self.here / name
        self.info = os.fstat(fd)
        if self.info.st_uid == until:
            return True
        self._look_around()
        return False

    def _look_around(self) -> None:
        self.info = os.fstat(self.fd)
        _check_owner(self.info, self._owners, self._shown(), self.here)
        self._writers = _other_writers(self.info, self.fd, self._owners)

    def _check_passage(self) -> None:
        """Raise UnsafeError if others could replace what lies in this directory."""
        is_spared = self.info.st_mode & stat.S_ISVTX or (self._goes_to_file and self._writers != EVERYBODY)
        if self._writers and not is_spared:
            cure = f"chmod {_right_of(self._writers)}-w {self.here}"
            raise UnsafeError(f"{self._writers} may write to {self.here}", cure)

    def _find(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _make(self, name: str) -> None:
        """Make a directory: for its owner alone the last one, as usual those that lead to it."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o755 if self._names else 0o700, dir_fd=self.fd)

    def _follow(self, name: str, link: os.stat_result) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if self._writers:
            _check_owner(link, self._owners, f"the symbolic link {self.here / name}", self.here / name)
        target = Path(os.readlink(name, dir_fd=self.fd))
        if target.is_absolute():
            os.close(self.fd)
            self.here, self.fd = Path("/"), os.open("/", _ON_THE_WAY)
            self._look_around()
        self._names.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))

    def _shown(self) -> str:
        return "it" if self.here == self._path else str(self.here)


#: Who may write where the mode gives others the right.
EVERYBODY = "everybody"


def _our_owners() -> Collection[int]:
    return {0, os.geteuid(), _owner_of_all()}


def _owner_of_all() -> int:
    """Whose / is: root's; where a namespace has no root, it has another number for all that is root's outside."""
    return Path("/").stat().st_uid


def _check_kind(info: os.stat_result, *, takes_devices: bool = False) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not (stat.S_ISREG(info.st_mode) or (takes_devices and stat.S_ISCHR(info.st_mode))):
        raise UnsafeError("it is no regular file")


def _check_file(info: os.stat_result, fd: int, path: Path) -> None:
    """Raise UnsafeError for a file that somebody else owns, or may write to."""
    _check_owner(info, _our_owners(), "it", path)
    if writers := _other_writers(info, fd, _our_owners()):
        raise UnsafeError(f"{writers} may write to it", f"chmod {_right_of(writers)}-w {path}")


def _check_owner(info: os.stat_result, owners: Collection[int], shown: str, path: Path) -> None:
    """Raise UnsafeError for what belongs to somebody else."""
    if info.st_uid in owners:
        return
    owner, we = _user(info.st_uid), _user(os.geteuid())
    allowed = "root" if we == "root" else f"root or {we}"
    raise UnsafeError(f"{shown} belongs to {owner}, not to {allowed}", f"chown {we} {path}, or start as {owner}")


def _other_writers(info: os.stat_result, fd: int, owners: Collection[int]) -> str:
    """Who may write beside its owners; empty if nobody may."""
    if not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return ""
    if info.st_mode & stat.S_IWOTH:
        return EVERYBODY
    return f"group {_group(info.st_gid)}" if _has_others(info.st_gid, owners) else ""


def _has_others(gid: int, owners: Collection[int]) -> bool:
    """True if the group has members that are none of the owners. Many users have a group of their own."""
    if gid == 0:  # root's, and of accounts that nobody can log in to
        return False
    members: set[str] = set()
    with suppress(KeyError):
        members |= set(grp.getgrgid(gid).gr_mem)
    return any((user.pw_gid == gid or user.pw_name in members) and user.pw_uid not in owners for user in pwd.getpwall())


def _right_of(writers: str) -> str:
    return "o" if writers == EVERYBODY else "g"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
