"""The faults of the chaos, at random moments."""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import redis
from daemons import POOLS, Daemon, Server, pause, signal_all

from boilerd.broker import keys
from boilerd.broker.connection import connect
from boilerd.broker.constants import LEASE_OFFSET_S

#: Faults in a run of 300 s.
PLAN = {
    "worker killed": 70, "worker stopped": 8, "scheduler killed": 12, "supervisor killed": 5, "daemon killed": 7,
    "daemon restarted": 3, "daemon reloaded": 8, "connections cut": 8, "scripts flushed": 4, "broker killed": 5,
    "broker restarted": 3, "pool scaled": 12, "pool quiet": 8, "pool restarted": 5, "leases ended": 10,
}  # fmt: skip
#: A reload has ended after that, or will not.
RELOAD_S = 20.0
#: Within so long workers that are to go have been told.
SIGNALLED_S = 2.0
#: A worker hears so late that a lease has ended.
HEARD_S = 12.0


class Wrecker:
    """Does the faults of a plan at random moments, and notes when."""

    def __init__(self, daemons: list[Daemon], server: Server, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()
        #: Beginning and end of each fault.
        self.times: list[tuple[float, float]] = []
        #: Of these faults, those after which a task may run beside its own successor: its lease had ended.
        self.lease_times: list[tuple[float, float]] = []
        self._daemons, self._server, self._random = daemons, server, chance
        self._actions: dict[str, Callable[[Daemon], object]] = {
            "worker killed": lambda daemon: self._send(daemon.workers(), signal.SIGKILL),
            "worker stopped": self._stop_worker,
            "scheduler killed": lambda daemon: self._send(daemon.pids("scheduler"), signal.SIGKILL),
            "supervisor killed": lambda daemon: self._restart(daemon, signal.SIGKILL),
            "daemon killed": self._kill_daemon,
            "daemon restarted": lambda daemon: self._restart(daemon, signal.SIGTERM),
            "daemon frozen": self._freeze,
            "connections cut": lambda _: self._ask("CLIENT", "KILL", "TYPE", "normal"),
            "scripts flushed": lambda _: self._ask("SCRIPT", "FLUSH"),
            "broker killed": lambda _: self._restart_broker(signal.SIGKILL),
            "broker restarted": lambda _: self._restart_broker(signal.SIGTERM),
            "daemon reloaded": self._reload,
            "pool scaled": self._scale,
            "pool quiet": self._quiet,
            "pool restarted": self._restart_pool,
            "leases ended": self._end_leases,
        }

    def run(self, seconds: float) -> None:
        """All that is planned, spread over the time."""
        names = [name for name, often in PLAN.items() for _ in range(max(1, round(often * seconds / 300)))]
        names += ["daemon frozen"] * (seconds >= 100)
        self._random.shuffle(names)
        start = time.monotonic()
        moments = sorted(self._random.uniform(1, seconds) for _ in names)
        for name, moment in zip(names, moments, strict=True):
            pause(max(0.0, start + moment - time.monotonic()))
            self._do(name)
        pause(max(0.0, start + seconds - time.monotonic()))

    def _do(self, name: str) -> None:
        for daemon in self._daemons:
            if not daemon.is_up():
                daemon.start()  # it met a broker that was away
        daemon = self._random.choice(self._daemons)
        began = time.monotonic()
        if self._actions[name](daemon) is not False:
            self.done[name] += 1
        self.times.append((began, time.monotonic()))
        sys.stderr.write(f"\r{sum(self.done.values())} faults, the last: {name}{' ' * 20}")

    def _send(self, pids: list[int], signum: signal.Signals) -> bool:
        if not pids:
            return False
        try:
            os.kill(self._random.choice(pids), signum)
        except ProcessLookupError:
            return False
        return True

    def _stop_worker(self, daemon: Daemon) -> bool:
        pids = daemon.workers()
        if not pids:
            return False
        pid = self._random.choice(pids)
        self._in_thread(self._stop_for, [pid], self._random.uniform(1, 8))
        return True

    def _freeze(self, daemon: Daemon) -> None:
        self._in_thread(self._stop_for, daemon.everybody(), 40.0, self.lease_times)

    @staticmethod
    def _in_thread(do: Callable[..., object], *words: object) -> None:
        threading.Thread(target=do, args=words, daemon=True).start()

    def _stop_for(self, pids: list[int], seconds: float, *also: list[tuple[float, float]]) -> None:
        began = time.monotonic()
        signal_all(pids, signal.SIGSTOP)
        pause(seconds)
        signal_all(pids, signal.SIGCONT)
        for times in (self.times, *also):
            times.append((began, time.monotonic()))

    def _restart(self, daemon: Daemon, signum: signal.Signals) -> None:
        daemon.end(signum)
        daemon.start()

    def _kill_daemon(self, daemon: Daemon) -> None:
        signal_all(daemon.everybody(), signal.SIGKILL)
        daemon.end(signal.SIGKILL)
        daemon.start()

    def _reload(self, daemon: Daemon) -> bool:
        generation = daemon.ask("reload")
        if generation is not None:
            self._in_thread(self._watch_reload, daemon, generation)
        return generation is not None

    def _watch_reload(self, daemon: Daemon, generation: int) -> None:
        """Note until when it may have cut tasks."""
        began = time.monotonic()
        while time.monotonic() < began + RELOAD_S:
            info = daemon.ask("info")
            if info and info["generation"] > generation:
                break
            pause(0.1)
        self.times.append((began, time.monotonic()))

    def _scale(self, daemon: Daemon) -> bool:
        """Have more workers or fewer; those that go are told at once, or a moment later."""
        pool = self._random.choice(["default", *POOLS])
        size = self._random.randint(1, 3 if pool in POOLS else 6)
        return self._drain(daemon.ask("scale", size, pool))

    def _restart_pool(self, daemon: Daemon) -> bool:
        return self._drain(daemon.ask("restart", [self._random.choice(["default", *POOLS])]))

    def _drain(self, answer: object) -> bool:
        began = time.monotonic()
        self.times.append((began, began + SIGNALLED_S))
        return answer is not None

    def _quiet(self, daemon: Daemon) -> bool:
        pool = self._random.choice(["", *POOLS])
        words = [pool] if pool else []
        self._in_thread(lambda: (pause(self._random.uniform(1, 4)), daemon.ask("resume", *words)))
        return daemon.ask("quiet", *words) is not None

    def _end_leases(self, _: Daemon) -> bool:
        """Let the leases of some running tasks end, as after an outage that only they had."""
        queue = self._random.choice(["default", "waits", "threads"])  # the tasks of `limited` are counted
        began = time.monotonic()
        with connect(self._server.url) as client:
            try:
                pairs = client.zrandmember(keys.wip(queue), 5) or []
                for pair in pairs:
                    client.zadd(keys.wip(queue), {pair: LEASE_OFFSET_S + 1}, xx=True)
            except redis.RedisError:
                pairs = []
        self.lease_times.append((began, time.monotonic() + HEARD_S))
        return bool(pairs)

    def _ask(self, *words: str) -> bool:
        with connect(self._server.url) as client:
            try:
                client.execute_command(*words)
            except redis.RedisError:
                return words[1] == "KILL"  # this connection as well
        return True

    def _restart_broker(self, signum: signal.Signals) -> None:
        self._server.end(signum)
        pause(self._random.uniform(0, 2))
        self._server.start()
