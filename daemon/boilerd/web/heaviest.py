"""The worker that takes far more memory than the others, if there is one."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from boilerd.broker.overview import LivingWorker

#: It takes so many times what half of them take at most, and so many bytes more.
TIMES, BYTES_MORE = 2, 128 << 20


@dataclass(frozen=True, slots=True)
class Heaviest:
    """A worker that takes far more memory than the others; sizes are in MiB.

    Attributes:
        usual_mib: What half of the workers take at most.
    """

    worker: str
    mib: int
    usual_mib: int


def heaviest(living: Sequence[LivingWorker]) -> Heaviest | None:
    """The one that takes most, if that is far more; None also where fewer than two tell."""
    told = [worker for worker in living if worker.resident_bytes]
    if len(told) < 2:
        return None
    most = max(told, key=lambda worker: worker.resident_bytes)
    usual = statistics.median_low(worker.resident_bytes for worker in told if worker is not most)
    if most.resident_bytes < TIMES * usual or most.resident_bytes < usual + BYTES_MORE:
        return None
    return Heaviest(most.name, most.resident_bytes >> 20, int(usual) >> 20)
