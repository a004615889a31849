"""How many workers have left outcomes that nobody has written yet, without all that writing one needs."""

from contextlib import suppress

from boilerd.broker.connection import mark_of
from boilerd.settings.definitions import Settings

#: Outcomes that wait for less time are about to be written by a worker's successor.
KEPT_S = 60.0


def count_left(settings: Settings) -> int:
    """Of how many workers there are such; 0 where the state directory cannot be read."""
    directory = settings.state_path() / "outcomes"
    with suppress(OSError):
        if directory.exists():
            from boilerd.worker.kept_outcomes import KeptOutcomes  # noqa: PLC0415 - seldom there, and takes its time

            return len(KeptOutcomes(directory, mark_of(settings)).workers(min_age_s=KEPT_S))
    return 0
