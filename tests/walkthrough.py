"""Follow a page of the documents block by block, as a reader would, and compare what comes with what it shows."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, chdir, nullcontext, suppress
from pathlib import Path
from typing import Self
from unittest.mock import patch

from pages import Block, blocks
from support import DEADLINE_S, TAKE_TERMINAL, clean_environment, shown_by, wait_until

BOILERD = str(Path(sys.executable).with_name("boilerd"))
#: What a test cannot run, by how it begins, and why.
NOT_RUN = {
    "pip install": "needs an index; tests/systemd installs with pip",
    "python3 -m venv": "the environment of the tests has boilerd already",
    "sudo make install": "needs a system of its own; tests/systemd does it in one",
    "make ": "works on this clone; that there is such a target is tested in test_named_commands.py",
    "scripts/debian-packages": "installs packages",
}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: What differs from run to run, and what is shown instead of it.
DIFFERS = [
    (re.compile(pattern), same)
    for pattern, same in (
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)?", "<moment>"),
        (r"\d\d:\d\d:\d\d\.\d{3}", "<clock>"),
        (r"(duration_ms\W+)[\d.]+", r"\1<number>"),
        (r'("pid":)\d+', r"\1<number>"),
        (r"worker:\d+", "worker:<number>"),
        (r"[\w-]+\.[0-9a-f]{6}\.\d+\b", "<worker>"),
        (r"\b\d+(?:\.\d+)?(?:ms|s|m|h|d)\b", "<time>"),
        (r"\b\d+/(\d+)\b", r"<number>/\1"),
        (r"(Valkey|Redis) [\d.]+", r"\1 <version>"),
        (r"\^C", ""),
        (r" +", " "),
        (r" $", ""),
    )
]
#: Commands that only look; they are asked again until they show what the page does.
LOOKS = {"ls", "show", "recent", "status", "stats", "health"}
#: Not in the process of the tests: the first three import the application, and the last one tells the program's name.
APART = {"config", "cron", "run-here", "schema", "--version"}


class Session:
    """A reader with a shell in an empty folder; `environment` is what the shell starts with."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self._home = directory
        path = os.pathsep.join([str(Path(BOILERD).parent), os.environ["PATH"]])
        # Where the page does not say it: in the folder, so that no other daemon of this machine is met.
        places = {"STATE_DIRECTORY": str(directory / "state"), "RUNTIME_DIRECTORY": str(directory / "state" / "run")}
        self._env = clean_environment(PATH=path, HOME=str(directory), NO_COLOR="1", **places, **environment)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._terminal = -1
        self._is_json = False
        self._printed = bytearray()
        #: IDs that came, and those that the page has for them.
        self._ids: dict[str, str] = {}
        self._replaced: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._daemon.wait(DEADLINE_S)
            self._daemon.kill()
            self._daemon.wait()
        if self._reader is not None:
            self._reader.join(DEADLINE_S)  # until everybody has closed the other end
            os.close(self._terminal)

    def replace(self, shown: str, real: str) -> Self:
        """Have another text wherever the page shows this one."""
        self._replaced[shown] = real
        return self

    def follow(
        self, page: Path, around: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None
    ) -> None:
        """Do all that the page says.

        Args:
            page: The page.
            around: By a part of a block: what is done around that block.
        """
        found = list(blocks(page))
        does = {"console": self._type, "python": self._python, "toml": self._save, "json": self._expect,
                "": self._expect, "text": self._pass_by}  # fmt: skip
        self._is_json = any(block.language == "json" for block in found)
        for block in found:
            with next((make() for part, make in (around or {}).items() if part in block.text), nullcontext()):
                does[block.language](block)

    # What each kind of block asks for.

    def _type(self, block: Block) -> None:
        """Type the commands of a block, and compare what they print, where the page shows it."""
        for command, shown in steps(block.text):
            if command.startswith("boilerd run"):
                self._start(command)
                self._expect(Block(block.page, "", shown or "…daemon started…", ""))
            elif not command.startswith(tuple(NOT_RUN)):
                self._compare(command, shown)

    def _python(self, block: Block) -> None:
        """Save it to the file that the page names; run it where none is named."""
        if re.search(r"[Cc]hange the last line of `", block.before):
            self._change_last_line(block)
        elif _named(block):
            self._save(block)
        else:
            done = self._process(sys.executable, "-c", self._real(block.text))
            assert done.returncode == 0, f"{block}\n{done.stdout}"

    def _save(self, block: Block) -> None:
        name = _named(block)
        assert name, f"{block}: no file is named"
        (self.directory / name).write_text(self._real(block.text), "utf-8")

    def _change_last_line(self, block: Block) -> None:
        path = self.directory / (_named(block) or "")
        *kept, _ = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(kept) + block.text, "utf-8")

    def _expect(self, block: Block) -> None:
        """Wait until the daemon has printed these lines, in any order: its processes take turns as they come."""
        if block.text.startswith("^C"):
            os.write(self._terminal, b"\x03")
        for line in block.text.splitlines():
            self._wait_for_line(line)

    def _wait_for_line(self, line: str) -> None:
        wanted = re.compile(f"^{self._pattern(line)}$", re.MULTILINE)
        try:
            wait_until(lambda: wanted.search(self._same(self._log())), f"the daemon prints {line!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._log()}") from None

    def _pass_by(self, block: Block) -> None:
        """Only look at it: a drawing."""

    # Commands.

    def _compare(self, command: str, shown: str) -> None:
        printed = self._run(command)
        end_s = time.monotonic() + DEADLINE_S * bool(LOOKS & set(shlex.split(command)))
        while shown and not self._matches(shown, printed) and time.monotonic() < end_s:
            select.select([], [], [], 0.1)
            printed = self._run(command)
        if not shown:
            assert "error:" not in printed, f"{command}\n{printed}"
        elif not self._matches(shown, printed):
            assert self._same(printed) == self._same(shown), command
        self._ids |= dict(zip(UUID.findall(printed), UUID.findall(shown), strict=False))

    def _run(self, command: str) -> str:
        """What a command prints: `boilerd` in this process, for it is much cheaper there; all else in a shell."""
        command = self._real(command)
        words = shlex.split(command)
        needs_shell = words[0] != "boilerd" or re.search(r"[|<>&;]", re.sub("'.*?'", "", command))
        if not needs_shell and not APART & {*words[1:3]}:
            with chdir(self.directory), patch.dict(os.environ, self._env, clear=True):
                return shown_by(*words[1:])
        note = self._home / "cwd"
        done = self._process("bash", "-c", f"set -e\n{command}\npwd >{shlex.quote(str(note))}")
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        self.directory = Path(note.read_text().strip())
        return done.stdout

    def _process(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.directory, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=6 * DEADLINE_S, check=False,
        )  # fmt: skip

    def _start(self, command: str) -> None:
        """Start the daemon in the background: on a terminal, unless the page shows JSON."""
        _, *words = shlex.split(command)
        if self._is_json:
            ours, theirs = os.pipe()
            line = [BOILERD, *words]
        else:
            ours, theirs = pty.openpty()
            line = [sys.executable, "-c", TAKE_TERMINAL, BOILERD, *words]
        self._daemon = subprocess.Popen(
            line, cwd=self.directory, env=self._env, stdout=theirs, stderr=theirs,
            stdin=subprocess.DEVNULL if self._is_json else theirs,
        )  # fmt: skip
        os.close(theirs)
        self._terminal = ours
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # a terminal whose other end was closed
            while piece := os.read(self._terminal, 65536):
                self._printed += piece

    def _log(self) -> str:
        return self._printed.decode(errors="replace").replace("\r", "")

    # What is shown and what comes.

    def _matches(self, shown: str, printed: str) -> bool:
        lines = map(self._pattern, shown.splitlines())
        wanted = "".join("(?:.*\n)*" if line == ".*" else f"{line}\n" for line in lines)
        return re.fullmatch(wanted, f"{self._same(printed)}\n") is not None

    def _pattern(self, line: str) -> str:
        """A line of a page as a pattern: `…` stands for anything, and alone for any lines."""
        return re.escape(self._same(line)).replace("…", ".*")

    def _same(self, text: str) -> str:
        """A text in which all is equal that differs from run to run; IDs are those of the page."""
        for real, shown in self._ids.items():
            text = text.replace(real, shown)
        known = set(self._ids.values())
        text = UUID.sub(lambda found: found[0] if found[0] in known else "<id>", text)
        lines = text.splitlines()
        for pattern, same in DIFFERS:
            lines = [pattern.sub(same, line) for line in lines]
        return "\n".join(lines)

    def _real(self, text: str) -> str:
        """A text of the page with the IDs that came, and what is replaced."""
        for real, shown in self._ids.items():
            text = text.replace(shown, real)
        for shown, real in self._replaced.items():
            text = text.replace(shown, real)
        return text


def steps(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with what is shown to come of it."""
    for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = step.partition("\n")
        yield re.sub(r" {2,}# .*", "", command).strip(), shown


def _named(block: Block) -> str | None:
    """The file that the block is for: named in its first line, or in the last sentence before it."""
    first = re.match(r"# ([\w.]+\.py)\n", block.text)
    named = re.findall(r"`([\w.]+\.(?:py|toml))`[^`]*:$", block.before)
    return first[1] if first else named[-1] if named else None
