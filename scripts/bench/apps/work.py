"""The work that all peers do."""

import os
import time

import waits

_probes = []


def noop(payload):
    """Nothing."""


def cpu(payload):
    """A millisecond of CPU time."""
    end_s = time.thread_time() + 0.001
    while time.thread_time() < end_s:
        pass


def sleep(payload):
    """Twenty milliseconds of waiting."""
    time.sleep(0.02)


def second(payload):
    """A second of waiting."""
    time.sleep(1)


def probe(payload):
    """Tell when it was enqueued and when it started, both in ns of the clock that all processes share."""
    started_ns = time.monotonic_ns()
    if not _probes:
        _probes.append(os.open(os.environ["BENCH_PROBES"], os.O_WRONLY | os.O_APPEND))
    os.write(_probes[0], b"%d,%d\n" % (payload["at"], started_ns))


KINDS = {"noop": noop, "cpu": cpu, "sleep": sleep, "second": second, "probe": probe, **waits.PLAIN}
