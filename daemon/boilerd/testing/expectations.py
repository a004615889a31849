"""Assert what was enqueued; a failure lists what there was, the nearest first, with what differs."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from boilerd.errors import shown
from boilerd.tasks.mux import ServeMux
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.task import check_type
from boilerd.testing.memory_broker import Job, MemoryBroker
from boilerd.testing.records import RecordedTask

#: So many tasks are listed by a failed assertion.
MOST_LISTED = 10
_MISSING = object()


class _Anything:
    """The default of an expectation, where None is a payload."""

    def __repr__(self) -> str:
        return "…"


ANY: Any = _Anything()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a task is to be.

    Attributes:
        payload: As JSON has it; a dictionary needs to be a part of the task's, unless `is_exact`.
        due_in_s: Seconds until it is due, within `tolerance_s`.
        headers: A part of the task's.
    """

    type: str
    payload: Any = ANY
    is_exact: bool = False
    queue: str | None = None
    due_in_s: float | None = None
    headers: Mapping[str, str] | None = None
    tolerance_s: float = 1.0

    def __str__(self) -> str:
        given = {
            "payload": None if self.payload is ANY else self.payload, "queue": self.queue,
            "due in": None if self.due_in_s is None else f"{self.due_in_s:g} s", "headers": self.headers,
        }  # fmt: skip
        told = [f"{name} {value if name == 'due in' else shown(value)}" for name, value in given.items()
                if value is not None or (name == "payload" and self.payload is None)]  # fmt: skip
        return f"task {self.type!r}" + (f" with {', '.join(told)}" if told else "")

    def misses(self, task: RecordedTask, now_s: float) -> list[str]:
        """What of the task is otherwise; empty: it is as expected."""
        found = [] if task.type == self.type else [f"type is {task.type!r}"]
        if self.payload is not ANY:
            found += _differences("payload", self.payload, task.payload, is_exact=self.is_exact)
        if self.queue is not None and task.queue != self.queue:
            found.append(f"queue is {task.queue!r}")
        if self.due_in_s is not None:
            due_in_s = (task.next_run_at.timestamp() if task.next_run_at else now_s) - now_s
            if abs(due_in_s - self.due_in_s) > self.tolerance_s:
                found.append(f"due in {due_in_s:g} s")
        if self.headers is not None:
            found += _differences("headers", dict(self.headers), task.headers, is_exact=False)
        return found


class Seen:
    """Tasks to assert about: those that wait with a client, or that were enqueued in a block.

    Args:
        broker: Has the client's clock.
        find: Returns the tasks, in the order in which they came.
        tolerance_s: By how much a moment of the application's clock may differ from the client's.
        mux: Knows the types of payloads.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        find: Callable[[], Iterable[Job]],
        tolerance_s: Callable[[], float],
        mux: ServeMux | None = None,
    ) -> None:
        self._broker = broker
        self._find = find
        self._tolerance = tolerance_s
        self._mux = mux

    @property
    def tasks(self) -> list[RecordedTask]:
        """The tasks, in the order in which they came; of a client those that wait."""
        return [job.snapshot(self._broker.now_s) for job in self._find()]

    def of(self, task_type: Any) -> list[RecordedTask]:
        """Those of a type."""
        name = type_name(task_type)
        return [task for task in self.tasks if task.type == name]

    def assert_enqueued(
        self,
        task_type: Any,
        payload: Any = ANY,
        *,
        exact: bool = False,
        queue: str | None = None,
        count: int | None = None,
        due_in: float | timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RecordedTask:
        """Assert that there is such a task; returns it, the first one if there are several.

        Args:
            task_type: Name of the type, or what `ServeMux.task` made of a handler.
            payload: Anything that has a JSON form; of a dictionary, also inside of it, the keys that matter.
            exact: True if the payload may have no further keys.
            queue: Its queue.
            count: How many such tasks there are; without it, at least one.
            due_in: Seconds, or a timedelta, until it is due by the client's clock: to the second, and less exact by the
                time that the test took so far, since an application may compute moments by another clock.
            headers: Those that matter.

        Raises:
            AssertionError: There is none, or another number; it says what there is.
        """
        __tracebackhide__ = True
        if count is not None and count < 1:
            raise ValueError(f"count={count} is not a number of at least 1; refute_enqueued says that there is none")
        expected = self._expectation(task_type, payload, due_in, is_exact=exact, queue=queue, headers=headers)
        found = self._matching(expected)
        if found and count in (None, len(found)):
            return found[0]
        wanted = f"there is no {expected}" if not found else f"there are {len(found)}, and not {count}, of {expected}"
        raise AssertionError(f"{wanted}\n" + "\n".join(self._nearest(expected)))

    def refute_enqueued(
        self,
        task_type: Any,
        payload: Any = ANY,
        *,
        exact: bool = False,
        queue: str | None = None,
        due_in: float | timedelta | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Assert that there is no such task; the arguments are those of `assert_enqueued`."""
        __tracebackhide__ = True
        expected = self._expectation(task_type, payload, due_in, is_exact=exact, queue=queue, headers=headers)
        if found := self._matching(expected):
            listed = "\n".join(map(_line, found[:MOST_LISTED]))
            raise AssertionError(f"there is a {expected}\n{listed}")

    def _expectation(self, task_type: Any, payload: Any, due_in: float | timedelta | None, **rest: Any) -> Expectation:
        due_in_s = None if due_in is None else seconds(due_in)
        name = type_name(task_type)
        sent = payload if payload is ANY else as_sent(self._mux, name, payload)
        return Expectation(name, sent, due_in_s=due_in_s, tolerance_s=self._tolerance(), **rest)

    def _matching(self, expected: Expectation) -> list[RecordedTask]:
        now_s = self._broker.now_s
        return [task for task in self.tasks if not expected.misses(task, now_s)]

    def _nearest(self, expected: Expectation) -> Iterator[str]:
        """Lines about what there is, the nearest first."""
        now_s, tasks = self._broker.now_s, self.tasks
        if not tasks:
            yield "no task waits here"
        missed = [(expected.misses(task, now_s), task) for task in tasks]
        # A task of another type is far away, however much else of it fits.
        missed.sort(key=lambda pair: (pair[1].type != expected.type, len(pair[0])))
        for misses, task in missed[:MOST_LISTED]:
            yield _line(task, misses)
        if len(tasks) > MOST_LISTED:
            yield f"  and {len(tasks) - MOST_LISTED} more"


def type_name(task_type: Any) -> str:
    """The name of a type: itself, or that of a typed task."""
    return check_type(getattr(task_type, "type", task_type))


def as_sent(mux: ServeMux | None, task_type: str, payload: Any) -> Any:
    """A payload as it comes out of Redis."""
    declared = mux.payload_type(task_type) if mux else None
    return msgspec.json.decode(encode_payload(payload, to_plain=declared.to_plain if declared else None))


def _line(task: RecordedTask, misses: Sequence[str] = ()) -> str:
    differs = f": {'; '.join(misses)}" if misses else f": payload is {shown(task.payload)}"
    return f"  {task.type} in {task.queue}, {task.state}{differs}"


def _differences(path: str, expected: Any, found: Any, *, is_exact: bool) -> list[str]:
    """Where a value is not as expected, each with its path."""
    if isinstance(expected, dict) and isinstance(found, dict):
        inside = [
            difference
            for key, value in expected.items()
            for difference in _differences(f"{path}.{key}", value, found.get(key, _MISSING), is_exact=is_exact)
        ]
        further = found.keys() - expected.keys() if is_exact else ()
        return inside + [f"{path}.{key} is {shown(found[key])}, expected none" for key in sorted(further)]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for at, (wanted, value) in pairs
                for line in _differences(f"{path}[{at}]", wanted, value, is_exact=is_exact)]  # fmt: skip
    if found is _MISSING:
        return [f"{path} is missing, expected {shown(expected)}"]
    return [] if _is_same(expected, found) else [f"{path} is {shown(found)}, expected {shown(expected)}"]


def _is_same(expected: Any, found: Any) -> bool:
    """Whether two JSON values are equal; True is not 1, as in JSON."""
    return bool(expected == found) and isinstance(expected, bool) == isinstance(found, bool)


def seconds(span: Any) -> float:
    """A span as seconds; raises ValueError if it is negative or no number."""
    found = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise ValueError(f"{shown(span)} is neither a timedelta nor a number of seconds, of at least 0")
    return float(found)


def epoch(at: datetime) -> float:
    """A datetime as seconds since 1970; raises ValueError if it has no time zone."""
    if at.utcoffset() is None:
        raise ValueError(f"{at} has no time zone; use datetime(…, tzinfo=UTC), or client.now + timedelta(…)")
    return at.timestamp()
