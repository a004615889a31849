"""A small table in memory that the supervisor and its forked children share.

It answers, without asking Redis, which process serves a row at this moment, how far a worker is
in its batch, and what state the daemon is in. The supervisor, which forks and reaps, writes each row's
process; that process writes what it does; the scheduler writes which batches it has ended.

Shared anonymous memory survives any crash of a child, and needs no lock: each cell is one aligned 32-bit word, and
where two processes write the same one, they do so one after the other.

Each field is an array with a cell for each row. Structures of ctypes cost 9 % more for a task where the 1024 objects
are kept (639 ns instead of 584), 70 % where they are made at each access, and 1.6 ms at the start of each command.
"""

import enum
import math
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from boilerd.process.batches import CELL_RANGE, Batches, now_ms
from boilerd.process.held_marks import CELLS, HeldMarks
from boilerd.process.stack_file import StackFile

#: More rows than a host will ever run; 128 bytes each, and room for one error and the marks of what is held.
ROWS = 1024
#: The rows of the scheduler, the embedded broker, the supervisor, the watcher, the exporter and the dashboard; workers
#: have the ones from 0 on.
SCHEDULER_ROW = ROWS - 1
VALKEY_ROW = ROWS - 2
SUPERVISOR_ROW = ROWS - 3
WATCHER_ROW = ROWS - 4
EXPORTER_ROW = ROWS - 5
DASHBOARD_ROW = ROWS - 6
#: An older heartbeat is late: there is one every 5 s, and the pauses in an outage are 3 s at most.
LATE_HEARTBEAT_S = 20.0
#: Arrays: one for each field of a row, and the last for the daemon's own fields.
_ARRAYS = 32
#: Positions in the last array.
_IS_BROKER_AWAY, _PENDING, _ROWS, _HEARTBEAT_MS, _TOLD_LINES, _OOM_KILLS, _OOM_KILLS_BEFORE = range(7)
#: Bytes of an error's text, with a byte that tells their number.
_TEXT_BYTES = 256
#: The same of a group's name.
_GROUP_BYTES = 33


class KillReason(enum.StrEnum):
    """Why the daemon killed one of its processes."""

    NONE = "none"  # it did not
    LIMIT = "ignored its limit"
    TAKEN = "ignored that its task was taken away"
    HUNG = "hung"
    STOPPED = "stopped by a signal"


#: In the order of their numbers on the board.
_REASONS = tuple(KillReason)


class LastLife(NamedTuple):
    """What is known of a process that ended.

    Attributes:
        pid: 0: there was none.
        lived_s: How long it lived.
        resident_bytes: What it had in memory at the last heartbeat; 0: not known.
    """

    pid: int
    lived_s: int
    resident_bytes: int


class SignsOfLife(NamedTuple):
    """What a process that gets on changes on the board; one that runs a task need not."""

    pid: int
    life: int
    progress: int
    began_ms: int
    in_hooks_since_ms: int
    is_busy: int
    is_halted: int


class Scoreboard(Batches):
    """Of each row: process ID, whether it has booted and is busy, last exit status, its batch of tasks.

    Create it before forking.

    Attributes:
        stacks: Where processes write their stacks when they are asked.
    """

    def __init__(self) -> None:
        cells = memoryview(mmap.mmap(-1, 4 * ROWS * _ARRAYS)).cast("i")
        arrays = (cells[i * ROWS : (i + 1) * ROWS] for i in range(_ARRAYS))
        super().__init__(arrays)
        self._pids = next(arrays)
        self._booted = next(arrays)
        self._busy = next(arrays)
        self._in_hooks_since_ms = next(arrays)  # 0: it runs none
        self._exits = next(arrays)
        self._waiting = next(arrays)
        self._lost_lines = next(arrays)
        self._halted = next(arrays)
        self._dismissed = next(arrays)
        self._life = next(arrays)  # changes with each sign of life
        self._kills = next(arrays)  # why the daemon killed the last process: a number of `_REASONS`
        self._kill_limits_s = next(arrays)
        self._silence_s = next(arrays)
        self._beats_ms = next(arrays)  # 0: nothing runs on its loop
        self._limits_ms = next(arrays)  # 0: there is none
        self._stuck = next(arrays)
        self._slots = next(arrays)
        self._retiring = next(arrays)
        self._answers = next(arrays)
        self._quiet = next(arrays)
        self._resident_kib = next(arrays)  # 0: not known
        self._began_ms = next(arrays)
        self._last_pids = next(arrays)
        self._last_resident_kib = next(arrays)
        self._last_lived_s = next(arrays)
        self._daemon = next(arrays)
        self._start_errors = mmap.mmap(-1, ROWS * _TEXT_BYTES)
        self._groups = mmap.mmap(-1, ROWS * _GROUP_BYTES)
        self._held = memoryview(mmap.mmap(-1, 4 * ROWS * CELLS)).cast("I")
        self.beat()  # the first may take its time
        self.stacks = StackFile()

    # --- The process of a row

    def put(self, row: int, pid: int) -> None:
        """Note which process serves `row`; the supervisor calls this."""
        self._began_ms[row] = now_ms()
        self._pids[row] = pid

    def pid(self, row: int) -> int:
        """The process that serves `row`, or 0."""
        return self._pids[row]

    def live(self) -> dict[int, int]:
        """Row → process ID, of all rows that have a process."""
        return {row: pid for row, pid in enumerate(self._pids) if pid}

    def clear(self, row: int, exit_status: int) -> bool:
        """Note that the process of `row` ended, and how (see `exit_status`); True if it had booted."""
        had_booted = bool(self._booted[row])
        self._last_pids[row] = self._pids[row]
        self._last_resident_kib[row], self._resident_kib[row] = self._resident_kib[row], 0
        self._last_lived_s[row] = (now_ms() - self._began_ms[row]) % CELL_RANGE // 1000
        self._pids[row] = self._booted[row] = self._busy[row] = self._waiting[row] = self._halted[row] = 0
        self._dismissed[row] = self._silence_s[row] = 0
        self._beats_ms[row] = self._limits_ms[row] = self._stuck[row] = self._retiring[row] = 0
        self._answers[row] = 0
        self._exits[row] = exit_status
        return had_booted

    def dismiss(self, row: int) -> None:
        """Note that the supervisor wants the process of `row` to end; it calls this before it sends the signal."""
        self._dismissed[row] = True

    def is_dismissed(self, row: int) -> bool:
        """True if the supervisor wants the process of `row` to end: a TERM may come from anybody."""
        return bool(self._dismissed[row])

    def last_exit(self, row: int) -> int:
        """How the last process of `row` ended; 0 also when there was none."""
        return self._exits[row]

    def last_life(self, row: int) -> "LastLife":
        """What is known of the last process of `row` that ended, beside how."""
        return LastLife(self._last_pids[row], self._last_lived_s[row], self._last_resident_kib[row] << 10)

    def note_resident(self, row: int, size_bytes: int) -> None:
        """Note what the process of `row` has in memory; the scheduler calls this at each heartbeat."""
        self._resident_kib[row] = min(size_bytes >> 10, CELL_RANGE - 1)

    def mark_booted(self, row: int, *, has_booted: bool = True) -> None:
        """Note that the process has begun to serve; it takes that back when it crashes by itself."""
        self._booted[row] = has_booted
        self._silence_s[row] = 0

    def has_booted(self, row: int) -> bool:
        """True if the process of `row` has begun to serve."""
        return bool(self._booted[row])

    # --- The application's lifespans, in which a worker leaves no sign of life

    def begin_start(self, row: int, seconds: float) -> None:
        """Note that the worker enters its lifespans, which may take so long; until it is marked as booted, or ends."""
        self.note_start_error(row, "")
        self.allow_silence(row, seconds)

    def is_starting(self, row: int) -> bool:
        """True if the worker enters its lifespans, or has failed to."""
        return bool(self._silence_s[row]) and not self._booted[row]

    def allow_silence(self, row: int, seconds: float) -> None:
        """Note that the process may be so much longer without a sign of life."""
        self._silence_s[row] = min(math.ceil(seconds), CELL_RANGE - 1)
        self.show_life(row)

    def silence_s(self, row: int) -> int:
        """How much longer than others the process may be without a sign of life."""
        return self._silence_s[row]

    def note_start_error(self, row: int, text: str) -> None:
        """Note why the worker did not start."""
        printable = "".join(char if char.isprintable() else " " for char in text[:_TEXT_BYTES])
        encoded = printable.encode("utf-8", "replace")[: _TEXT_BYTES - 1]
        begin = row * _TEXT_BYTES
        self._start_errors[begin : begin + 1 + len(encoded)] = bytes([len(encoded)]) + encoded

    def start_error(self, row: int) -> str:
        """Why the worker did not start, as far as it could tell."""
        begin = row * _TEXT_BYTES
        size = self._start_errors[begin]
        return self._start_errors[begin + 1 : begin + 1 + size].decode("utf-8", "ignore")

    # --- What a worker does

    def mark_busy(self, row: int, *, is_busy: bool) -> None:
        """Note that a task's handler runs, or no longer; the worker calls this before and after each."""
        self._busy[row] = is_busy

    def is_busy(self, row: int) -> bool:
        """True if the worker of `row` runs a task."""
        return bool(self._busy[row])

    def busy(self) -> int:
        """Number of workers that run a task."""
        return sum(self._busy)

    # --- A worker with several slots

    def note_group(self, row: int, group: str) -> None:
        """Note of which group the worker of `row` is, as its slots; at most 32 bytes."""
        encoded = group.encode()
        begin = row * _GROUP_BYTES
        self._groups[begin : begin + 1 + len(encoded)] = bytes([len(encoded)]) + encoded

    def group(self, row: int) -> str:
        """The group of the worker of `row`; empty: nobody has noted it."""
        begin = row * _GROUP_BYTES
        return self._groups[begin + 1 : begin + 1 + self._groups[begin]].decode()

    def note_slots(self, row: int, slots: int) -> None:
        """Note how many tasks the worker of `row` runs at once; the supervisor calls this before it forks one."""
        self._slots[row] = slots

    def slots(self, row: int) -> int:
        """How many tasks the worker of `row` runs at once; 0 is 1, where nobody has noted it."""
        return self._slots[row] or 1

    def note_running(self, row: int, count: int) -> None:
        """Note how many tasks the worker runs; one that has several slots calls this in place of `mark_busy`."""
        self._busy[row] = count

    def running(self, row: int) -> int:
        """How many tasks the worker of `row` runs."""
        return self._busy[row]

    def held_marks(self, row: int) -> HeldMarks:
        """Which tasks the worker of `row`, or the last one there, has claimed ahead and not begun."""
        return HeldMarks(self._held[row * CELLS : (row + 1) * CELLS])

    def note_stuck(self, row: int, count: int) -> None:
        """Note how many of them go on although they were interrupted several times; the worker calls this."""
        self._stuck[row] = count

    def stuck(self, row: int) -> int:
        """How many tasks of the worker go on although they were interrupted several times."""
        return self._stuck[row]

    def beat_loop(self, row: int, *, is_needed: bool = True) -> None:
        """Note that the worker's event loop gets on, or that nothing runs on it; the loop calls this."""
        self._beats_ms[row] = (now_ms() or 1) if is_needed else 0

    def loop_age_s(self, row: int) -> float:
        """Seconds since the worker's event loop got on the last time; 0: nothing runs on it."""
        since_ms = self._beats_ms[row]
        return (now_ms() - since_ms) % CELL_RANGE / 1000 if since_ms else 0.0

    def note_limit(self, row: int, in_s: float | None) -> None:
        """Note in how many seconds the first of the worker's tasks has to end; None: none has to."""
        if in_s is None or in_s * 1000 > CELL_RANGE // 2:
            self._limits_ms[row] = 0
        else:
            self._limits_ms[row] = (now_ms() + round(in_s * 1000)) % CELL_RANGE or 1

    def overdue_s(self, row: int) -> float:
        """For how many seconds a task of the worker runs beyond its limit; negative: it will; -inf: it has none."""
        if not (limit_ms := self._limits_ms[row]):
            return -math.inf
        late_ms = (now_ms() - limit_ms) % CELL_RANGE
        return (late_ms if late_ms < CELL_RANGE // 2 else late_ms - CELL_RANGE) / 1000

    def retire(self, row: int) -> None:
        """Note that the worker claims nothing more, and ends when its tasks have; it calls this."""
        self._retiring[row] = True

    def is_retiring(self, row: int) -> bool:
        """True if the worker of `row` claims nothing more, and ends when its tasks have."""
        return bool(self._retiring[row])

    def tell_stacks(self, row: int) -> None:
        """Have this process, of `row`, write its stacks when it is asked (`stacks_of`), whatever holds it up then."""
        self._answers[row] = self.stacks.answer()

    def stacks_of(self, row: int) -> str:
        """The stacks of the process of `row`, its main thread's first; empty if it does not tell them."""
        return self.stacks.ask(self._pids[row]) if self._answers[row] else ""

    def mark_waiting(self, row: int, *, is_waiting: bool) -> None:
        """Note that the broker does not let a worker through; it calls this before and after each pause for that."""
        self._waiting[row] = is_waiting
        self.show_life(row)

    def mark_halted(self, row: int, *, is_halted: bool) -> None:
        """Note whether a signal has stopped the process (STOP, TTIN …); the scheduler looks at each heartbeat."""
        self._halted[row] = is_halted

    def halted(self) -> list[int]:
        """The rows whose process served, and does nothing until it gets a SIGCONT."""
        return [row for row, is_halted in enumerate(self._halted) if is_halted and self._booted[row]]

    def show_life(self, row: int) -> None:
        """Note that the process gets on; it calls this between tasks, at the latest some seconds after the last."""
        self._life[row] = (self._life[row] + 1) % CELL_RANGE

    def signs_of_life(self, row: int) -> SignsOfLife:
        """What the process changes as long as it gets on."""
        return SignsOfLife(
            self._pids[row], self._life[row], self._progress[row], self._since_ms[row],
            self._in_hooks_since_ms[row], self._busy[row], self._halted[row],
        )  # fmt: skip

    def note_kill(self, row: int, reason: KillReason, *, limit_s: float = 0.0) -> None:
        """Note why the process is killed, before it is; `limit_s`: that of its task, if it ignored that."""
        self._kill_limits_s[row] = min(round(limit_s), CELL_RANGE - 1)
        self._kills[row] = _REASONS.index(reason)

    def last_kill(self, row: int) -> tuple[KillReason, int]:
        """Why the daemon killed the last process of `row`, and its task's limit in seconds."""
        return _REASONS[self._kills[row]], self._kill_limits_s[row]

    def note_lost_line(self, row: int) -> None:
        """Count a log line that the process could not write; it calls this."""
        self._lost_lines[row] += 1

    @property
    def untold_lines(self) -> int:
        """Number of log lines that the daemon's processes have lost, but for those of which the log tells."""
        return sum(self._lost_lines) - self._daemon[_TOLD_LINES]

    def note_told_lines(self, count: int) -> None:
        """Note that the log tells that so many more were lost; the supervisor calls this."""
        self._daemon[_TOLD_LINES] += count

    # --- The application's hooks, which may end the process that calls them

    @contextmanager
    def running_hooks(self, row: int) -> Iterator[None]:
        """Note that application hooks run in the block: if they kill the process, its successor must not call them."""
        self._in_hooks_since_ms[row] = now_ms() or 1
        try:
            yield
        finally:
            self._in_hooks_since_ms[row] = 0

    def in_hooks_s(self, row: int) -> float:
        """Seconds since the process began to call hooks; 0: it calls none."""
        since_ms = self._in_hooks_since_ms[row]
        return (now_ms() - since_ms) % CELL_RANGE / 1000 if since_ms else 0.0

    def died_in_hooks(self, row: int) -> bool:
        """True if the last process of `row` ended in a hook; only the first time that this is asked."""
        has_died, self._in_hooks_since_ms[row] = bool(self._in_hooks_since_ms[row]), 0
        return has_died

    # --- The daemon

    @property
    def rows(self) -> int:
        """The most workers that there ever were at one time; the supervisor sets it."""
        return self._daemon[_ROWS]

    @rows.setter
    def rows(self, value: int) -> None:
        self._daemon[_ROWS] = value

    @property
    def is_quiet(self) -> bool:
        """True if all workers must claim nothing; the supervisor sets it."""
        return self.is_quiet_at(SUPERVISOR_ROW)

    @is_quiet.setter
    def is_quiet(self, value: bool) -> None:
        self.set_quiet(range(ROWS), is_quiet=value)

    def is_quiet_at(self, row: int) -> bool:
        """True if the worker of `row` must claim nothing: all must, or its pool."""
        return bool(self._quiet[row])

    def set_quiet(self, rows: Iterable[int], *, is_quiet: bool) -> None:
        """Note whether the workers of these rows must claim nothing; the supervisor calls this."""
        for row in rows:
            self._quiet[row] = is_quiet

    @property
    def is_broker_away(self) -> bool:
        """True if the scheduler, which sets it, or a worker waits for the broker to let it through."""
        return bool(self._daemon[_IS_BROKER_AWAY]) or any(self._waiting)

    @is_broker_away.setter
    def is_broker_away(self, value: bool) -> None:
        self._daemon[_IS_BROKER_AWAY] = value

    def beat(self) -> None:
        """Note a heartbeat; the scheduler calls this when it has renewed the leases."""
        self._daemon[_HEARTBEAT_MS] = now_ms()

    def note_oom_kills(self, count: int) -> None:
        """Note how many processes the kernel has killed for memory; the scheduler calls this at each heartbeat."""
        self._daemon[_OOM_KILLS_BEFORE] = self._daemon[_OOM_KILLS] or count % CELL_RANGE + 1
        self._daemon[_OOM_KILLS] = count % CELL_RANGE + 1  # 0: nobody has counted

    def has_oom_killed(self, count: int) -> bool:
        """True if it is now more than it was at the last heartbeat but one; False where nobody has counted."""
        before = self._daemon[_OOM_KILLS_BEFORE]
        return bool(before) and count % CELL_RANGE + 1 != before

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the scheduler renewed the leases; at first, since the daemon was started."""
        return (now_ms() - self._daemon[_HEARTBEAT_MS]) % CELL_RANGE / 1000

    @property
    def pending(self) -> int:
        """Number of tasks that waited in the daemon's queues a moment ago; the scheduler sets it."""
        return self._daemon[_PENDING]

    @pending.setter
    def pending(self, value: int) -> None:
        self._daemon[_PENDING] = min(value, CELL_RANGE - 1)
