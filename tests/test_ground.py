"""Ground that others own, or may write to, is not used: directories, locks, files, code."""

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from boilerd import ground
from boilerd.ground import UnsafeError
from support import as_nobody

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give something to somebody else")
NOBODY = pwd.getpwnam("nobody")


def refusal(use: Callable[[], object]) -> str:
    with pytest.raises(UnsafeError) as raised:
        use()
    return str(raised.value.strerror)


def open_directory(path: Path, *, makes: bool = False) -> os.stat_result:
    """What the system says of the directory that was opened."""
    fd = ground.open_directory(path, makes=makes)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def someone_elses(path: Path) -> Path:
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    return path


def shared(path: Path, mode: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


# Directories.


def test_a_directory_that_is_missing_is_made_for_its_owner_alone(directory: Path) -> None:
    made = open_directory(directory / "a" / "b", makes=True)

    assert stat.S_IMODE(made.st_mode) == 0o700
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o755


def test_a_directory_that_is_missing_is_told_where_it_is_not_to_be_made(directory: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_directory(directory / "a")


@needs_root
@pytest.mark.parametrize("place", ["", "mine"])
def test_a_directory_of_somebody_else_is_refused_at_the_end_and_on_the_way(directory: Path, place: str) -> None:
    theirs = shared(directory / "theirs", 0o755)
    (theirs / "mine").mkdir()
    someone_elses(theirs)

    told = refusal(lambda: open_directory(theirs / place))

    shown = theirs if place else "it"
    assert told == f"{shown} belongs to nobody, not to root; chown root {theirs}, or start as nobody"


@needs_root
def test_a_directory_of_roots_will_do_for_every_user(directory: Path) -> None:
    directory.chmod(0o755)

    with as_nobody():
        found = open_directory(directory)

    assert found.st_uid == 0


def test_a_directory_that_lies_where_everybody_may_write_is_refused_unless_that_is_sticky(directory: Path) -> None:
    open_, sticky = shared(directory / "open", 0o777), shared(directory / "tmp", 0o1777)

    told = refusal(lambda: open_directory(open_ / "mine", makes=True))
    made = open_directory(sticky / "mine", makes=True)

    assert told == f"everybody may write to {open_}; chmod o-w {open_}"
    assert not (open_ / "mine").exists()
    assert made.st_uid == os.geteuid()


def test_a_group_may_write_only_where_nobody_else_is_in_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = shared(directory / "ours", 0o770)
    (ours / "mine").mkdir()
    if os.geteuid() == 0:
        os.chown(ours, 0, 54321)
    entry = SimpleNamespace(gr_name="devs", gr_mem=[])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: entry)
    users: list[SimpleNamespace] = []
    monkeypatch.setattr(pwd, "getpwall", lambda: users)

    alone = open_directory(ours / "mine")
    entry.gr_mem = ["eve"]
    users.append(SimpleNamespace(pw_name="eve", pw_uid=54321, pw_gid=54322))
    told = refusal(lambda: open_directory(ours / "mine"))

    assert stat.S_ISDIR(alone.st_mode)
    assert told == f"group devs may write to {ours}; chmod g-w {ours}"


def test_a_symbolic_link_is_followed_where_nobody_else_could_have_put_it(directory: Path) -> None:
    # As systemd does it for a service with DynamicUser.
    (directory / "lib" / "private" / "boilerd").mkdir(parents=True)
    (directory / "lib" / "boilerd").symlink_to("private/boilerd")
    (directory / "var").symlink_to(directory / "lib" / ".." / "lib")

    found = open_directory(directory / "var" / "boilerd")

    assert found.st_ino == (directory / "lib" / "private" / "boilerd").stat().st_ino


@needs_root
def test_a_symbolic_link_of_somebody_else_is_refused_where_everybody_may_write(directory: Path) -> None:
    tmp = shared(directory / "tmp", 0o1777)
    (directory / "mine").mkdir()
    link = tmp / "boilerd"
    link.symlink_to(directory / "mine")
    someone_elses(link)

    told = refusal(lambda: open_directory(link))

    assert told.startswith(f"the symbolic link {link} belongs to nobody, not to root; ")


def test_a_symbolic_link_that_leads_to_itself_is_told(directory: Path) -> None:
    (directory / "loop").symlink_to("loop")

    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_directory(directory / "loop")


# What root gives away.


def give(path: Path) -> None:
    ground.give_directory(path, "nobody", NOBODY.pw_uid, NOBODY.pw_gid)


@needs_root
def test_root_gives_the_user_a_directory_that_is_missing_or_empty(directory: Path) -> None:
    (directory / "empty").mkdir()

    give(directory / "empty")
    give(directory / "a" / "missing")

    assert (directory / "empty").stat().st_uid == NOBODY.pw_uid
    assert (directory / "a" / "missing").stat().st_uid == NOBODY.pw_uid
    assert (directory / "a").stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("name", ["run", "run/more"])
def test_root_gives_away_nothing_that_a_link_in_the_users_directory_leads_to(directory: Path, name: str) -> None:
    (directory / "roots").mkdir()
    state = someone_elses(shared(directory / "state", 0o700))
    (state / "run").symlink_to(directory / "roots")

    give(state / name)

    assert (directory / "roots").stat().st_uid == 0
    assert list((directory / "roots").iterdir()) == []


@needs_root
def test_root_gives_away_nothing_that_a_link_of_the_users_in_a_shared_directory_leads_to(directory: Path) -> None:
    (directory / "roots").mkdir()
    tmp = shared(directory / "tmp", 0o1777)
    (tmp / "boilerd").symlink_to(directory / "roots")
    someone_elses(tmp / "boilerd")

    told = refusal(lambda: give(tmp / "boilerd"))

    assert told.startswith(f"the symbolic link {tmp}/boilerd belongs to nobody, not to root; ")
    assert (directory / "roots").stat().st_uid == 0


@needs_root
def test_root_gives_away_no_directory_with_files_in_it(directory: Path) -> None:
    (directory / "file").touch()

    told = refusal(lambda: give(directory))

    assert told == f"it is root's, and not empty; chown -R nobody {directory}"
    assert directory.stat().st_uid == 0


# Files.


def test_a_file_is_read_where_it_is_ours_alone(directory: Path) -> None:
    (directory / "file").write_text("text")
    (directory / "link").symlink_to("file")

    assert ground.read_file(directory / "link") == b"text"


@needs_root
def test_a_file_is_written_as_a_whole_for_its_owner_alone(directory: Path) -> None:
    path = directory / "made" / "file"

    ground.write_file(path, [b"old"])
    (directory / "made" / "file.new").symlink_to(directory / "elsewhere")  # as one that was cut off would be
    ground.write_file(path, [b"new", b" content"])

    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new content", 0o600)
    assert list(path.parent.iterdir()) == [path]
    assert not (directory / "elsewhere").exists()


def test_a_file_of_somebody_else_is_refused(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    someone_elses(path)

    told = refusal(lambda: ground.read_file(path))

    assert told == f"it belongs to nobody, not to root; chown root {path}, or start as nobody"


def test_a_file_lies_safely_where_a_group_may_write_but_not_everybody(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mode in (("log", 0o775), ("open", 0o777)):
        (shared(directory / name, mode) / "file").write_text("text")
    monkeypatch.setattr(ground, "_has_others", lambda gid, owners: True)

    read = ground.read_file(directory / "log" / "file")
    told = refusal(lambda: ground.read_file(directory / "open" / "file"))

    assert read == b"text"
    assert told == f"everybody may write to {directory}/open; chmod o-w {directory}/open"


@needs_root
def test_a_link_of_somebody_else_to_a_file_is_refused_where_a_group_may_write(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "roots").write_text("text")
    link = shared(directory / "log", 0o775) / "file"
    link.symlink_to(directory / "roots")
    someone_elses(link)
    monkeypatch.setattr(ground, "_has_others", lambda gid, owners: True)

    told = refusal(lambda: ground.open_file(link, os.O_WRONLY | os.O_APPEND))

    assert told.startswith(f"the symbolic link {link} belongs to nobody")


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
def test_a_fifo_is_refused_and_not_waited_for(directory: Path, flags: int) -> None:
    os.mkfifo(directory / "fifo")

    told = refusal(lambda: ground.open_file(directory / "fifo", flags))

    assert told == "it is no regular file"


def test_a_file_that_everybody_may_write_does_on_a_file_system_that_nobody_can_write(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "file").write_text("text")
    (directory / "file").chmod(0o666)
    refused = refusal(lambda: ground.read_file(directory / "file"))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_flag=os.ST_RDONLY))

    read = ground.read_file(directory / "file")

    assert refused == f"everybody may write to it; chmod o-w {directory}/file"
    assert read == b"text"
