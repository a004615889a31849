"""Threads that run the attempts of plain handlers: made when they are needed, kept for a while.

Not an executor's: these can be struck, the application has no part in them, and a hand-over takes a tenth as long.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from boilerd.errors import describe

logger = logging.getLogger("boilerd.worker")

T = TypeVar("T")
#: A thread without work ends after so long.
IDLE_S = 60.0


class Threads(Generic[T]):
    """Runs each item at once, in a thread of its own at that time.

    Code of the application may raise exceptions in any thread, at any time, as its own time limits do; they may come
    when the attempt has long ended. So no item is ever on the way to a thread alone: it stands in `waiting` until the
    thread has it, and the queue only wakes threads. A thread goes on after such an exception, or is replaced.

    Items may be *held*: such a one begins in the thread that has ended another, before that other's end is told of, so
    that whoever counts what runs never counts too little.

    Args:
        run: Runs an item; does not raise. True: what is held may take its place.
        on_stray: Told of an item whose thread got an exception outside of what `run` guards.
        on_end: Told of an item that has run, twice where such an exception came.

    Attributes:
        held: In the order in which they begin. Others may add to it; `take_back` takes from it.
    """

    def __init__(
        self,
        run: Callable[[T], bool | None],
        on_stray: Callable[[T, BaseException], None],
        on_end: Callable[[T], None] = lambda _: None,
    ) -> None:
        self.run = run
        self.on_stray = on_stray
        self.on_end = on_end
        self.held: dict[T, None] = {}
        self.waiting: dict[T, None] = {}
        self.wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.free = 0  # threads that wait or will at once, less the items that wait for one
        self.made: dict[_Thread[T], threading.Thread] = {}

    def start(self, item: T) -> None:
        """Have a thread run it."""
        self.waiting[item] = None
        self.wakes.put(None)
        with self.lock:
            self.free -= 1
        self.ensure()

    def take_back(self, item: T) -> bool:
        """Take an item from those that are held; False: a thread has it."""
        try:
            del self.held[item]
        except KeyError:
            return False
        return True

    def ensure(self) -> None:
        """Make the threads that are missing; where the system has none, a later call may."""
        while self.free < 0:
            made = _Thread(self)
            thread = threading.Thread(target=made.live, name="boilerd-slot", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                logger.warning("no thread for a task, it waits", extra={"error": describe(error)})
                return
            self.made[made] = thread
            with self.lock:
                self.free += 1

    def look(self) -> None:
        """Replace the threads that have died, where an exception came while another one was seen to."""
        for made, thread in list(self.made.items()):
            if not thread.is_alive():
                del self.made[made]
                made.bury()
        self.ensure()


class _Thread(Generic[T]):
    """One of the threads."""

    def __init__(self, threads: Threads[T]) -> None:
        self._threads = threads
        self._item: T | None = None
        self._next: T | None = None
        self._is_free = True
        self._is_woken = False
        self._stray: BaseException | None = None

    def live(self) -> None:
        """Run items, until there were none for a while."""
        while True:
            try:
                self._give_up()
                while self._serve():
                    pass
                return
            except BaseException as error:  # noqa: BLE001 - see `Threads`; whose it is, nobody can know
                self._stray = error
                # It may have come with what woke the thread.
                self._is_woken = True

    def bury(self) -> None:
        """Let go of what the thread had; in another one."""
        if self._is_free:
            with self._threads.lock:
                self._threads.free -= 1
        self._stray = self._stray or RuntimeError("the thread of the task has ended")
        self._give_up()

    def _serve(self) -> bool:
        """Run the next item; False: there was none for a while."""
        if not self._is_free:
            with self._threads.lock:
                self._threads.free += 1
                self._is_free = True
        if not self._is_woken and not self._wait():
            return False
        self._is_woken = False
        if self._take():
            self._run()
        return True

    def _run(self) -> None:
        """Run the item, and then those that are held."""
        while self._item is not None:
            if self._threads.run(self._item):
                self._take_held()
            self._threads.on_end(self._item)
            self._item, self._next = self._next, None

    def _take_held(self) -> None:
        """Take the item that has been held longest, if there is one."""
        held = self._threads.held
        while held:
            try:
                item = next(iter(held))
                del held[item]
                self._next = item  # as in `_take`
                return
            except (StopIteration, KeyError, RuntimeError):
                continue

    def _wait(self) -> bool:
        """Wait for an item; False: there was none for a while, and from now on none comes here."""
        try:
            self._threads.wakes.get(timeout=IDLE_S)
        except queue.Empty:
            with self._threads.lock:
                if self._threads.free > 0:
                    self._threads.free -= 1
                    self._is_free = False
                    return False
        return True

    def _take(self) -> bool:
        """Take the item that has waited longest; False: there is none."""
        waiting = self._threads.waiting
        while waiting:
            try:
                # No exception of another thread comes from here to the end: Python looks for them at calls and jumps.
                self._item = next(iter(waiting))
                del waiting[self._item]
                self._is_free = False
                return True
            except (StopIteration, KeyError, RuntimeError):  # another thread was faster
                self._item = None
        return False

    def _give_up(self) -> None:
        """Tell of the item that was not run to its end; once more, should another exception come meanwhile."""
        if self._next is not None:
            self._threads.held[self._next] = None
            self._next = None
        if self._item is not None and self._stray is not None:
            self._threads.on_stray(self._item, self._stray)
        self._item = self._stray = None
