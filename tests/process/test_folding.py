"""Lines that strangers can cause are folded beyond a few in a second."""

import logging
import threading
from collections.abc import Iterator

import pytest

from boilerd.process.folding import MOST, Folding

logger = logging.getLogger("test.folding")


class Clock:
    """Seconds that a test sets."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folding(clock: Clock) -> Folding:
    return Folding(logger, clock)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What was logged, as it comes."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def refuse(folding: Folding, times: int, message: str = "refused") -> None:
    for _ in range(times):
        with folding:
            logger.error(message)


def test_a_few_lines_are_written_and_nothing_is_told_of_them(folding: Folding, clock: Clock, lines: list[str]) -> None:
    refuse(folding, MOST)

    clock.now_s += 1
    folding.tell()

    assert lines == ["refused"] * MOST


def test_what_is_more_in_a_second_is_told_with_the_first_line_of_a_later_one(
    folding: Folding, clock: Clock, lines: list[str]
) -> None:
    refuse(folding, MOST + 3399)
    clock.now_s += 1
    refuse(folding, 1)

    assert lines == ["refused"] * MOST + ["refused: and 3,399 more like it", "refused"]


def test_the_end_of_a_flood_is_told_once_its_second_is_over(folding: Folding, clock: Clock, lines: list[str]) -> None:
    refuse(folding, MOST + 1)

    folding.tell()
    early = len(lines)
    clock.now_s += 1
    folding.tell()
    folding.tell()

    assert (early, lines[MOST:]) == (MOST, ["refused: and 1 more like it"])


def test_the_last_word_waits_for_no_second(folding: Folding, lines: list[str]) -> None:
    refuse(folding, MOST + 1)

    folding.tell(is_last=True)

    assert lines[MOST:] == ["refused: and 1 more like it"]


def test_each_message_has_lines_of_its_own_and_those_outside_are_left_alone(folding: Folding, lines: list[str]) -> None:
    refuse(folding, MOST + 5, "flood")
    refuse(folding, 1, "rare")
    for _ in range(2 * MOST):
        logger.error("flood")

    assert (lines.count("flood"), lines.count("rare")) == (3 * MOST, 1)


def test_a_message_with_a_number_of_its_own_is_folded_beyond_that(clock: Clock, lines: list[str]) -> None:
    folding = Folding(logger, clock, most={"of many": 2})

    with folding:
        for _ in range(5):
            logger.error("of many")
            logger.error("of ten")
    folding.tell(is_last=True)

    assert lines == ["of many", "of ten"] * 2 + ["of ten"] * 3 + ["of many: and 3 more like it"]


def test_what_other_threads_log_meanwhile_is_not_folded(folding: Folding, lines: list[str]) -> None:
    refuse(folding, MOST)

    with folding:
        other = threading.Thread(target=logger.error, args=("refused",))
        other.start()
        other.join()
        logger.error("refused")
        inside = len(lines)
        other = threading.Thread(target=refuse, args=(folding, 1))
        other.start()
        other.join()
        logger.error("refused")

    assert (inside, len(lines)) == (MOST + 1, MOST + 1)
