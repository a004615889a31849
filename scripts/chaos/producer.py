"""The clients of the chaos: they enqueue through all outages, wait for some of their tasks, and cancel some."""

import random
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import redis
from daemons import QUEUES, pause

from boilerd import BrokerError, Client, DuplicateTaskError, TaskFailedError, TaskIdConflictError, TaskNotFoundError
from boilerd.broker import keys

#: Kinds of tasks, and how many of a hundred are of each; each task is a plain one or an async one.
KINDS = {
    "quick": 72, "slow": 6, "flaky": 6, "doomed": 3, "unique": 3, "shared": 4, "parent": 3, "blocking": 1, "late": 1,
    "cancelled": 1,
}  # fmt: skip
#: How many of a hundred tasks each queue gets.
SHARES = {"critical": 16, "default": 16, "low": 16, "waits": 32, "limited": 4, "threads": 16}
#: Tasks that share one of the keys may run at once, so many of them.
CONCURRENCY = 3
#: More than that may not wait: the end of a run shall not be a long one.
BACKLOG = 2000
#: Somebody waits for every so many-th task; with so many threads; none longer than all of them take.
WAITED_EVERY, WAITING_THREADS, LONGEST_WAIT_S = 50, 20, 300


class Producer(threading.Thread):
    """Enqueues through all outages; a task counts when a call said that it is stored."""

    def __init__(self, number: int, url: str, seed: int, is_over: threading.Event) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.accepted: dict[str, str] = {}
        self.refused = 0
        self.waits: dict[str, Future[str]] = {}
        self._threads = ThreadPoolExecutor(WAITING_THREADS)
        self._number = number
        self._client = Client.from_url(url)
        self._random = random.Random(f"{seed}-{number}")
        self._is_over = is_over

    def run(self) -> None:
        """Until told to stop."""
        kinds, weights = list(KINDS), list(KINDS.values())
        for number in range(sys.maxsize):
            if self._is_over.is_set():
                return
            if number % 100 == 0:
                self._let_them_catch_up()
            task_id = f"p{self._number}-{number}"
            kind = self._random.choices(kinds, weights)[0]
            self._enqueue(task_id, kind)
            if kind == "cancelled":
                self._threads.submit(self._cancel, task_id)
            elif number % WAITED_EVERY == 0 and task_id in self.accepted:
                self.waits[task_id] = self._threads.submit(self._wait, task_id)

    def _wait(self, task_id: str) -> str:
        """How the task ended, as the client tells."""
        try:
            result = self._client.wait(task_id, timeout=LONGEST_WAIT_S)
        except TaskFailedError:
            return "archived"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            return repr(error)
        return "completed" if result == task_id else f"with the result {result!r}"

    def _cancel(self, task_id: str) -> None:
        """Cancel it when it may have begun."""
        pause(self._random.random())
        with suppress(BrokerError, TaskNotFoundError):
            self._client.cancel(task_id)

    def _enqueue(self, task_id: str, kind: str) -> None:
        chance = self._random
        queue = chance.choices(list(SHARES), list(SHARES.values()))[0]
        task_type = f"{chance.choice(['plain', 'async'])}:{kind}"
        payload = chance.randrange(5) if kind in {"unique", "shared"} else None
        special: dict[str, Any] = {
            "unique": {"unique": 3600.0, "unique_until": "end"},
            "shared": {"concurrency_key": f"key-{payload}", "concurrency_limit": CONCURRENCY},
            "late": {"timeout": 1},
        }.get(kind, {})
        while True:
            try:
                self._client.enqueue(
                    task_type, payload, task_id=task_id, queue=queue, retention=7200, once=7200,
                    headers={"id": task_id}, **special,
                )  # fmt: skip
            except TaskIdConflictError:
                pass  # a call before this one stored it, and lost its answer
            except DuplicateTaskError as error:
                if error.task_id != task_id:
                    self.refused += 1
                    return
            except BrokerError:
                pause(0.05)
                continue
            self.accepted[task_id] = task_type
            return

    def _let_them_catch_up(self) -> None:
        while not self._is_over.is_set():
            try:
                if sum(self._client.connection.llen(keys.queue(queue)) for queue in QUEUES) < BACKLOG:
                    return
            except redis.RedisError:
                pass
            pause(0.05)
