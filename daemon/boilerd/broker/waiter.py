"""Wait for the ends of tasks: any number of them on one connection and one thread of a client.

Redis tells by itself which of the records have changed (`watch_connection`), so that nobody polls, a new waiter wakes
nobody, and a task that nobody waits for costs nothing. What is waited for is a state of the record and no event: a
lost connection, a failover or a late waiter loses nothing, and jobs of plain RQ can be waited for as well.
"""

import itertools
import logging
import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import Any

import redis

from boilerd.broker import keys
from boilerd.broker.connection import raw, text
from boilerd.broker.endings import Ending, Record
from boilerd.broker.outage import FIRST_PAUSE_S, LONGEST_PAUSE_S
from boilerd.broker.refusals import is_wrong_kind, translate
from boilerd.broker.tickets import TellProgress, Ticket, Wait, check_possible, missing
from boilerd.broker.watch_connection import WatchConnection
from boilerd.errors import (
    BrokerError,
    BrokerUnableError,
    BrokerUnavailableError,
    MisplacedKeyError,
)
from boilerd.tasks.task import no_retention

logger = logging.getLogger("boilerd.client")

#: Some records, those that were not read for longest, are read again so often, whatever Redis tells; a connection that
#: hangs shows so, too.
POLL_S = 2.0
#: The same where Redis tells nothing.
UNTOLD_POLL_S = 0.1
#: Records that are read again at one time.
POLLED = 500
#: Who waits without a timeout hears of an outage after this time.
PATIENCE_S = 30.0
#: Thread and connection are kept for the next waiter for so long.
IDLE_S = 10.0
#: A thread that is just connecting to a server which does not answer ends later by itself.
CLOSE_S = 1.0


class Waiters:
    """The waiters of a client: each process has its own thread for them; the parent's is left to the parent."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        #: By process ID. No lock: another thread might hold it at a fork.
        self._by_pid: dict[int, WaitThread] = {}

    def submit(self, task_id: str, tell: TellProgress | None, *, has_timeout: bool) -> Future[Ending]:
        """See `WaitThread.submit`."""
        pid = os.getpid()
        own = self._by_pid.get(pid) or self._by_pid.setdefault(pid, WaitThread(self._connection))
        for other in self._by_pid.keys() - {pid}:
            if left := self._by_pid.pop(other, None):
                left.leave_to_parent()
        return own.submit(task_id, tell, has_timeout=has_timeout)

    def close(self) -> None:
        """End this process's waits: the waiters get an error."""
        if own := self._by_pid.pop(os.getpid(), None):
            own.close()


class WaitThread:
    """Serves the waiters of a client in this process; the thread lives while there are any, and a little longer.

    Args:
        connection: Of the client; none of its connections is used, but another one like them.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        #: The other threads ring, and the thread of the waits, which alone has it open, hears it.
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._new: deque[Ticket] = deque()
        self._left: deque[Ticket] = deque()
        # Of the thread of the waits alone, from here on; the one that was read last stands at the end.
        self._waits: dict[str, Wait] = {}
        self._watch: WatchConnection | None = None
        self._lost_at_s: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._prefix = raw(keys.job(""))

    def submit(self, task_id: str, tell: TellProgress | None, *, has_timeout: bool) -> Future[Ending]:
        """Wait for a task; who cancels the future has left.

        Args:
            task_id: Its ID.
            tell: Gets each progress of the task's attempts, and None when the task was looked at and has not ended.
            has_timeout: True if whoever waits does so for a limited time, through all outages.

        Returns:
            The ending; or TaskNotFoundError: the task is gone, ValueError: nothing will be left of it, BrokerError.

        Raises:
            InvalidTaskError: No task could have this ID.
            RuntimeError: It was closed; or the system has no thread left.
        """
        check_possible(task_id)
        ticket = Ticket(task_id, tell, has_timeout=has_timeout)
        with self._lock:
            if self._closing.is_set():
                raise _closed()
            # A thread that does not live is of a process whose ID this child of it has got.
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._new.append(ticket)
            self._ring()
        ticket.future.add_done_callback(lambda future: self._note_left(ticket) if future.cancelled() else None)
        return ticket.future

    def close(self) -> None:
        """End all waits with an error, and close the connection."""
        with self._lock:
            self._closing.set()
            thread = self._thread
            self._ring()
        if thread:
            thread.join(CLOSE_S)

    def leave_to_parent(self) -> None:
        """In a child of a fork, close what belongs to the parent's thread, which did not come along."""
        if self._watch:
            self._watch.close()
        for each in self._bell or ():
            each.close()

    def _note_left(self, ticket: Ticket) -> None:
        # No lock: the collector may end an abandoned coroutine in any thread, also in one that holds it.
        self._left.append(ticket)
        self._ring()

    def _start(self) -> None:
        bell = socket.socketpair()
        for each in bell:
            each.setblocking(False)
        thread = threading.Thread(target=self._run, name="boilerd-wait", daemon=True)
        self._bell, self._thread = bell, thread
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._end_thread()
            raise

    def _end_thread(self) -> None:
        for each in self._bell or ():
            each.close()
        self._bell = self._thread = None

    def _ring(self) -> None:
        if bell := self._bell:
            with suppress(OSError):  # full: it is heard anyway; or closed: the thread ends, and nobody waits
                bell[0].send(b"1")

    # --- The thread of the waits

    def _run(self) -> None:
        while self._has_work():
            try:
                self._serve()
            except (redis.RedisError, UnicodeError, BrokerError) as error:
                self._lose(error if isinstance(error, BrokerError) else translate(error))
            except Exception as error:
                logger.exception("waiting for tasks failed")
                self._take_tickets()
                self._end_all(error)

    def _has_work(self) -> bool:
        """False if nobody waits and the thread is to end."""
        with self._lock:
            if not self._closing.is_set() and (self._new or self._waits):
                return True
            self._take_tickets()
            self._end_thread()
            self._end_all(_closed())
        return False

    def _serve(self) -> None:
        """Wait on one connection, until it is lost or nobody has waited for some time."""
        with closing(WatchConnection(self._connection, self._note_change)) as watch:
            self._watch = watch
            poll_s = POLL_S if watch.is_told else UNTOLD_POLL_S
            for wait in self._waits.values():
                wait.is_asked = False
            self._ask(*self._waits.values())
            poll_at_s, idle_at_s = time.monotonic() + poll_s, time.monotonic() + IDLE_S
            while not self._closing.is_set():
                self._ask(*self._take_tickets())
                now_s = time.monotonic()
                if now_s >= poll_at_s:
                    poll_at_s = now_s + poll_s
                    self._ask(*itertools.islice(self._waits.values(), POLLED))
                if self._waits:
                    idle_at_s = now_s + IDLE_S
                elif now_s >= idle_at_s:
                    return
                watch.receive((poll_at_s if self._waits else idle_at_s) - now_s, self._bell[1] if self._bell else None)

    def _take_tickets(self) -> list[Wait]:
        """Note who has come, and who has left; the waits of those who came."""
        found = []
        with suppress(BlockingIOError):
            while self._bell and self._bell[1].recv(4096):
                pass
        while self._new:
            ticket = self._new.popleft()
            wait = self._waits.setdefault(ticket.task_id, Wait(ticket.task_id))
            wait.tickets.append(ticket)
            if wait.progress and ticket.tell:
                ticket.tell(wait.progress)
            found.append(wait)
        self._take_out()
        return [wait for wait in found if wait.tickets]

    def _take_out(self) -> None:
        """Forget who has left."""
        while self._left:
            ticket = self._left.popleft()
            wait = self._waits.get(ticket.task_id)
            if wait and ticket in wait.tickets:
                wait.tickets.remove(ticket)
                if not wait.tickets:
                    del self._waits[ticket.task_id]

    def _note_change(self, key: bytes | None) -> None:
        """Redis says that a record has changed, or that all have."""
        if key is None:
            self._ask(*self._waits.values())
        elif wait := self._waits.get(text(key.removeprefix(self._prefix))):
            self._ask(wait)

    def _ask(self, *waits: Wait) -> None:
        """Read the records, unless that is under way: Redis tells of what comes after the answer."""
        for wait in waits:
            if not wait.is_asked and self._watch:
                wait.is_asked = True
                self._waits[wait.task_id] = self._waits.pop(wait.task_id)
                self._watch.ask([Record.command(wait.task_id)], partial(self._note_record, wait))

    def _note_record(self, wait: Wait, answers: list[Any]) -> None:
        (values,) = answers
        wait.is_asked = False
        if is_wrong_kind(values):
            self._end(wait, MisplacedKeyError(keys.job(wait.task_id), "hash"))
            return
        if isinstance(values, Exception):
            raise values
        self._note_answer()
        record = Record(values)
        wait.tell(record.progress)
        if not record.fields:
            self._end(wait, missing(wait.task_id))
        elif record.has_ended and self._watch:
            wait.is_asked = True
            self._watch.ask(Ending.commands(wait.task_id), partial(self._note_ending, wait))
        elif not record.is_kept:
            self._end(wait, no_retention(wait.task_id))
        else:
            wait.goes_on()

    def _note_ending(self, wait: Wait, answers: list[Any]) -> None:
        wait.is_asked = False
        if any(map(is_wrong_kind, answers)):
            self._end(wait, MisplacedKeyError(keys.results(wait.task_id), "stream"))
            return
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        ending = Ending(wait.task_id, answers)
        if ending.is_whole:
            self._end(wait, ending)
        elif self._waits.get(wait.task_id) is wait:
            self._ask(wait)  # somebody deleted it, or had it run again, at that moment

    def _end(self, wait: Wait, ending: Ending | Exception) -> None:
        if self._waits.get(wait.task_id) is wait:
            del self._waits[wait.task_id]
        wait.end(ending)

    def _end_all(self, error: Exception) -> None:
        for wait in [*self._waits.values()]:
            self._end(wait, error)

    # --- Outages

    def _note_answer(self) -> None:
        if self._lost_at_s is not None:
            logger.info("broker available again", extra={"outage_s": round(time.monotonic() - self._lost_at_s, 3)})
        self._lost_at_s, self._pause_s = None, FIRST_PAUSE_S

    def _lose(self, error: BrokerError) -> None:
        """The connection is lost, or Redis refused: wait a moment before the next one."""
        self._take_tickets()
        if not self._waits:
            return  # a server may close a connection that is idle
        if not isinstance(error, BrokerUnavailableError | BrokerUnableError):
            self._end_all(error)
            return
        if self._lost_at_s is None:
            self._lost_at_s = time.monotonic()
            logger.warning("broker unavailable, waiting", extra={"error": str(error)})
        self._closing.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._give_up(error, time.monotonic() - PATIENCE_S)

    def _give_up(self, error: BrokerError, before_s: float) -> None:
        """Tell those who have waited without a timeout through an outage since then."""
        if self._lost_at_s is None or self._lost_at_s > before_s:
            return
        for wait in [*self._waits.values()]:
            for ticket in [each for each in wait.tickets if not each.has_timeout and each.since_s <= before_s]:
                wait.tickets.remove(ticket)
                ticket.end(error)
            if not wait.tickets:
                del self._waits[wait.task_id]


def _closed() -> RuntimeError:
    return RuntimeError("the client was closed, and waits for no task any more")
