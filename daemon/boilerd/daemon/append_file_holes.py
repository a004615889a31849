"""Holes in the append-only file of the bundled Valkey, which would keep it from starting.

A server that has rewritten its file does not append to the new one, but writes where it stopped. So where a write found
no room on the disk, and the part that did was cut off again, the next write leaves zeros in between (Valkey 9.1). Its
loader refuses them; comments in their place it passes over.

The unit boiler-valkey calls it with ``python -m boilerd.daemon.append_file_holes DIRECTORY``.
"""

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from boilerd import ground

#: A hole begins behind a whole command. Payloads may hold the same bytes, so what follows is read then.
_SIGN = b"\r\n\0"
#: The loader reads a comment in one go.
_LONGEST_COMMENT = 512


def fill_holes(directory: Path) -> list[Path]:
    """Fill holes in the append-only file of a server that does not run; the files that had some.

    Raises:
        OSError: A file cannot be read or written.
    """
    return [path for path in sorted(directory.glob("appendonlydir/*.incr.aof")) if _fill(path)]


def _fill(path: Path) -> bool:
    with os.fdopen(ground.open_file(path, os.O_RDWR), "r+b") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            holes = list(_holes(data)) if data.find(_SIGN) >= 0 else []
        for begin, end in holes:
            file.seek(begin)
            file.write(_comments(end - begin))
    return bool(holes)


def _holes(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where zeros stand between two commands; nothing behind what is no command."""
    at = 0
    while at < len(data):
        if data[at] == 0:
            end = _end_of_zeros(data, at)
            yield at, end
            at = end
        else:
            at = _end_of_command(data, at)


def _end_of_zeros(data: mmap.mmap, at: int) -> int:
    while data[at : at + 4096].strip(b"\0") == b"" and at < len(data):
        at += 4096
    rest = data[at : at + 4096]
    return min(len(data), at + len(rest) - len(rest.lstrip(b"\0")))


def _end_of_command(data: mmap.mmap, at: int) -> int:
    """Where the command, or the comment, that begins there ends; the end of all, where there is none."""
    kind, (number, at) = data[at : at + 1], _line(data, at)
    if kind == b"#":
        return at
    if kind != b"*" or not number.isdigit():
        return len(data)
    for _ in range(int(number)):
        size, at = _line(data, at)
        if not size.isdigit():
            return len(data)
        at += int(size) + 2
    return at


def _line(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    """The line without its first character, and where the next begins."""
    end = data.find(b"\n", at)
    return (b"", len(data)) if end < 0 else (data[at + 1 : end].rstrip(b"\r"), end + 1)


def _comments(size: int) -> bytes:
    """Lines of so many bytes in all that the loader passes over; one byte is too few for that."""
    lines = [b"#" * (_LONGEST_COMMENT - 1) + b"\n"] * ((size - 2) // _LONGEST_COMMENT)
    return b"".join(lines) + b"#" * (size - 1 - sum(map(len, lines))) + b"\n" * (size > 1)


if __name__ == "__main__":
    fill_holes(Path(sys.argv[1]))
