"""Where log lines go: nobody waits for a reader that has stalled, nor loses a line to one that is slow."""

import errno
import fcntl
import os
import pty
import signal
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from boilerd.process import outlets
from boilerd.process.detached_outlet import DetachedOutlet
from boilerd.process.outlets import FileOutlet, StreamOutlet, is_file
from support import DEADLINE_S, run_python, wait_until

LINE = b"x" * 300 + b"\n"


class Stream:
    """Both ends of a way for lines."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer
        self.seen = b""

    def read(self) -> bytes:
        """All that has come so far."""
        os.set_blocking(self.reader, False)
        with suppress(BlockingIOError):
            while data := os.read(self.reader, 65536):
                self.seen += data
        return self.seen


def pipe() -> Stream:
    return Stream(*os.pipe())


def terminal() -> Stream:
    stream = Stream(*pty.openpty())
    tty.setraw(stream.writer)
    return stream


def sockets() -> Stream:
    ours, theirs = socket.socketpair()
    return Stream(ours.detach(), theirs.detach())


def refuse(*_: Any, **__: Any) -> int:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.fixture(params=["pipe", "terminal", "socket", "pipe of another user", "terminal of another user"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    kind, _, others = request.param.partition(" of ")
    made = {"pipe": pipe, "terminal": terminal, "socket": sockets}[kind]()
    if others:
        monkeypatch.setattr(os, "open", refuse)
    yield made
    monkeypatch.undo()
    os.close(made.reader)
    os.close(made.writer)


def write_until_lost(outlet: StreamOutlet) -> int:
    """How many lines were taken; the next one was lost."""
    taken = 0
    while outlet.write(LINE):
        taken += 1
        assert taken < 100_000
    return taken


def test_a_reader_that_stalls_is_waited_for_once_and_not_for_long(stream: Stream) -> None:
    outlet = StreamOutlet(stream.writer)
    began_s = time.monotonic()

    taken = write_until_lost(outlet)
    lost = [outlet.write(LINE) for _ in range(1000)]

    assert taken > 0
    assert not any(lost)
    assert time.monotonic() - began_s < outlets.ALLOWANCE_S + DEADLINE_S / 2


def test_lines_come_whole_and_in_order_when_the_reader_goes_on(stream: Stream) -> None:
    outlet = StreamOutlet(stream.writer)
    taken = write_until_lost(outlet)
    wait_until(lambda: stream.read().count(b"\n") >= taken - 250 and outlet.is_ready(), "there is room")

    assert outlet.write(b"again\n")

    wait_until(lambda: stream.read().endswith(b"\nagain\n"), "the line after the loss is there")
    assert stream.seen.count(LINE) in {taken, taken - 1}  # a terminal may take a part of the one that was lost
    assert set(stream.seen.split(b"\n")[:-3]) == {LINE[:-1]}


def test_a_reader_that_is_only_slow_loses_nothing(stream: Stream) -> None:
    outlet = StreamOutlet(stream.writer)
    count = 3000
    seen = bytearray()

    def read_slowly() -> None:
        while seen.count(b"\n") < count:
            seen.extend(os.read(stream.reader, 3000))

    reader = threading.Thread(target=read_slowly, daemon=True)
    reader.start()
    taken = [outlet.write(LINE) for _ in range(count)]
    wait_until(lambda: outlet.is_ready() and outlet.write(b"") and not reader.is_alive(), "all was read")

    assert all(taken)
    assert bytes(seen) == LINE * count


def test_the_file_that_others_share_stays_as_it_is(stream: Stream) -> None:
    outlet = StreamOutlet(stream.writer)

    write_until_lost(outlet)

    assert not fcntl.fcntl(stream.writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_lines_go_where_they_went_although_the_descriptor_leads_elsewhere(stream: Stream) -> None:
    outlet = StreamOutlet(stream.writer)
    with Path(os.devnull).open("wb") as null:
        os.dup2(null.fileno(), stream.writer)

    assert outlet.write(LINE)

    wait_until(lambda: stream.read() == LINE, "the line is there")


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_a_closed_outlet_leaves_no_descriptor_open(stream: Stream) -> None:
    before = descriptors()
    outlet = StreamOutlet(stream.writer)

    outlet.close()

    assert descriptors() == before


# --- Files


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[FileOutlet]:
    """A file whose disk hangs: as nobody reads from this one, what is written to it waits without an end."""
    outlet = FileOutlet(str(tmp_path / "log"))
    reader, writer = os.pipe()
    os.dup2(writer, outlet._fd)
    os.close(writer)
    os.set_blocking(outlet._fd, False)
    with suppress(BlockingIOError):
        while True:
            os.write(outlet._fd, LINE)
    os.set_blocking(outlet._fd, True)
    yield outlet
    os.close(reader)


@pytest.fixture
def detach(request: pytest.FixtureRequest) -> Callable[..., DetachedOutlet]:
    """Makes outlets with a process of their own, which ends with the test."""

    def made(outlet: FileOutlet, on_loss: Callable[[], None] = lambda: None) -> DetachedOutlet:
        detached = DetachedOutlet(outlet, on_loss)
        request.addfinalizer(detached.close)
        return detached

    return made


def writer() -> int:
    """The process that writes for the outlet that was made last; its ID may be smaller than others: they begin anew."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(children[-1])


Detach = Callable[..., DetachedOutlet]


def test_a_disk_that_hangs_keeps_the_supervisor_from_nothing(hanging: FileOutlet, detach: Detach) -> None:
    outlet = detach(hanging)
    pid = writer()
    began_s = time.monotonic()

    taken = [outlet.write(LINE) for _ in range(2000)]
    outlet.flush()

    assert 0 < sum(taken) < 2000
    assert not outlet.is_ready()
    assert time.monotonic() - began_s < DEADLINE_S / 2
    assert outlet.errno == errno.EAGAIN
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_lines_for_another_process_are_written_in_order_and_those_that_it_loses_are_told(
    tmp_path: Path, detach: Detach
) -> None:
    losses: list[int] = []
    outlet = detach(FileOutlet(str(tmp_path / "log")), lambda: losses.append(1))
    full = detach(FileOutlet("/dev/full"), lambda: losses.append(1))

    taken = [outlet.write(b"%d\n" % n) for n in range(1000)] + [full.write(LINE)]
    wait_until(lambda: outlet.is_ready() and full.is_ready(), "all is written")

    assert all(taken)
    assert (tmp_path / "log").read_bytes().split() == [b"%d" % n for n in range(1000)]
    assert losses == [1]
    assert (outlet.errno, full.errno) == (0, errno.ENOSPC)


def test_a_disk_that_is_full_in_the_middle_of_a_line_leaves_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    program = f"""
import resource
from boilerd.process.outlets import FileOutlet
outlet = FileOutlet({str(path)!r})
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
taken = [outlet.write({LINE!r})]
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(LINE) * 3 // 2}, most))
taken += [outlet.write({LINE!r})]
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
taken += [outlet.write({LINE!r})]
print(repr(taken).lower())
"""

    taken = run_python(program)

    assert taken == [True, False, True]
    assert path.read_bytes() == LINE * 2


def test_lines_that_are_on_their_way_are_written_although_their_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = f"""
import os
from boilerd.process.detached_outlet import DetachedOutlet
from boilerd.process.outlets import FileOutlet
outlet = DetachedOutlet(FileOutlet({str(path)!r}), print)
print(all(outlet.write(b"%d\\n" % n) for n in range(100)) + 0, flush=True)
os._exit(0)
"""

    assert run_python(script) == 1

    wait_until(lambda: path.read_bytes().split() == [b"%d" % n for n in range(100)], "all lines are there")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_process_that_writes_outlives_a_signal_to_all_of_the_daemon(
    tmp_path: Path, detach: Detach, signum: signal.Signals
) -> None:
    outlet = detach(FileOutlet(str(tmp_path / "log")))

    os.kill(writer(), signum)

    assert outlet.write(b"kept\n")
    wait_until(lambda: (tmp_path / "log").read_bytes() == b"kept\n", "the line is there")


def test_a_process_that_writes_and_was_killed_is_replaced(tmp_path: Path, detach: Detach) -> None:
    outlet = detach(FileOutlet(str(tmp_path / "log")))
    os.kill(writer(), signal.SIGKILL)
    os.waitpid(writer(), 0)

    assert outlet.write(b"kept\n")

    wait_until(lambda: (tmp_path / "log").read_bytes() == b"kept\n", "the line is there")


def test_a_file_that_was_moved_is_opened_again_by_the_process_that_writes(tmp_path: Path, detach: Detach) -> None:
    path = tmp_path / "log"
    outlet = detach(FileOutlet(str(path)))
    path.rename(tmp_path / "log.1")

    outlet.reopen()

    wait_until(path.exists, "the new file is there")


@pytest.mark.parametrize(
    ("opener", "answer"), [(lambda path: path.open("wb"), True), (lambda _: socket.socket(), False)]
)
def test_only_a_file_waits_for_a_disk(tmp_path: Path, opener: Callable[[Path], Any], *, answer: bool) -> None:
    with opener(tmp_path / "log") as opened:
        assert is_file(opened.fileno()) is answer
    assert not is_file(-1)
