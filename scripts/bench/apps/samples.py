"""Where the CPU of a process goes: a timer looks at the stack while it computes. Written to $BENCH_SAMPLES.PID."""

import os
import signal
from collections import Counter
from pathlib import Path

#: Beginning of a module's name → part; what is nearest to the top of the stack counts.
PARTS = {
    "redis.": "client library and socket", "boilerd.broker.connection": "client library and socket",
    "logging": "log lines", "pythonjsonlogger": "log lines", "boilerd.process.logs": "log lines",
    "boilerd.worker.attempt_log": "log lines",
    "boilerd.broker": "commands, answers, JSON",
    "boilerd.worker.attempt": "time limits", "boilerd.process.signals": "time limits",
    "boilerd.tasks.mux": "mux and handler", "app_boilerd": "mux and handler", "work": "mux and handler",
    "boilerd.": "worker's loop",
}  # fmt: skip
EVERY_S = 0.001

counts = Counter()


def start():
    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)


def look(signum, frame):
    counts[part(frame)] += 1
    if counts.total() % 50 == 0:
        Path(f"{os.environ['BENCH_SAMPLES']}.{os.getpid()}").write_text(
            "\n".join(f"{count} {name}" for name, count in counts.items())
        )


def part(frame):
    while frame:
        module = frame.f_globals.get("__name__", "")
        for beginning, name in PARTS.items():
            if module.startswith(beginning):
                return name
        frame = frame.f_back
    return "other"


os.register_at_fork(after_in_child=start)
