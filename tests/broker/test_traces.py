"""What is found of one task in the audit, when it is read on from where it was."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from boilerd.broker import keys
from boilerd.broker.audit import Actor, Audit
from boilerd.broker.traces import MOST_ENTRIES, Trail
from boilerd.errors import BrokerRefusedError, BrokerUnavailableError

#: An ID of an entry that no clock has come to.
FAR = 99_999_999_999_999

Before = Callable[[int, Callable[[], object]], None]


class Reader:
    """Follows the trail of the task ``a`` in the queue ``default``, and counts what that asks."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self.audit = Audit(connection, Actor("web", "anna"))
        self.trail = Trail("a", "default")

    def note(self, *kinds: str, task: str = "a") -> None:
        """Have the audit know of these."""
        for what in kinds:
            self.audit.note(what, 1, "done", task=task)

    def found(self) -> list[str]:
        """What was done with the task."""
        return [entry.what for entry in self.trail.follow(self.audit).deeds]

    def asked(self) -> tuple[list[str], int]:
        """The same, and how many commands it took."""
        self._connection.config_resetstat()
        found = self.found()
        return found, self._connection.info("commandstats")["cmdstat_xrevrange"]["calls"]

    def fill(self, count: int) -> None:
        """Have it know of so many things that are of other tasks."""
        with self._connection.pipeline(transaction=False) as pipeline:
            for number in range(count):
                pipeline.xadd(keys.AUDIT, {"what": "run", "on": f'{{"task": "other-{number}"}}'})
            pipeline.execute()


@pytest.fixture
def reader(connection: redis.Redis) -> Reader:
    return Reader(connection)


def test_what_was_read_is_not_read_again(reader: Reader) -> None:
    reader.note("archive")
    reader.fill(1000)

    first, again = reader.asked(), reader.asked()
    reader.note("run", task="b")
    reader.note("run")
    later, at_last = reader.asked(), reader.asked()

    assert first == (["archive"], 8)
    assert again == (["archive"], 1)
    assert later == (["archive", "run"], 3)
    assert at_last == (["archive", "run"], 1)


def test_an_audit_that_knows_nothing_since_then_is_asked_for_nothing_but_its_latest_entry(reader: Reader) -> None:
    reader.note("archive")
    reader.trail = Trail("a", "default", datetime(2999, 1, 1, tzinfo=UTC))

    assert [reader.asked(), reader.asked()] == [([], 1), ([], 1)]


def test_pauses_and_copies_go_on_as_they_were(reader: Reader) -> None:
    reader.audit.note("pause", 1, "done", queue="default")
    before = reader.trail.follow(reader.audit)
    reader.audit.note("resume", 1, "done", queue="default")
    reader.note("copy", task="other")
    reader.audit.note("copy", 1, "done", task="copy", copied_from="a")

    after = reader.trail.follow(reader.audit)

    assert ([pause.ends_at is None for pause in before.pauses], before.copies) == ([True], [])
    assert ([pause.ends_at is None for pause in after.pauses], after.copies) == ([False], ["copy"])
    assert after == Trail("a", "default").follow(reader.audit)


def test_of_more_than_are_told_the_last_are(reader: Reader) -> None:
    reader.note("archive")
    reader.found()
    reader.note("pause", *["run"] * (MOST_ENTRIES - 1), "delete")
    reader.fill(160)

    found = reader.found()

    assert (len(found), found[0], found[-1]) == (MOST_ENTRIES, "run", "delete")
    reader.note("cancel")
    assert reader.found() == [*found[1:], "cancel"]


@pytest.mark.parametrize("comes", [[], ["run"], ["run"] * 3])
@pytest.mark.parametrize("first", [1, FAR])
def test_an_audit_that_is_emptied_is_read_from_its_beginning(
    first: int, comes: Sequence[str], reader: Reader, connection: redis.Redis
) -> None:
    for number in range(2):
        connection.xadd(keys.AUDIT, {"what": "archive", "on": '{"task": "a"}'}, id=f"{first}-{number}")
    before = reader.found()
    connection.flushall()
    reader.note(*comes)

    assert before == ["archive"] * 2
    assert (reader.found(), reader.found()) == (comes, comes)


def test_an_audit_that_was_put_back_to_an_earlier_one_is_read_from_its_beginning(
    reader: Reader, connection: redis.Redis
) -> None:
    reader.note("archive")
    saved: Any = connection.dump(keys.AUDIT)
    reader.note("run")
    before = reader.found()
    connection.restore(keys.AUDIT, 0, saved, replace=True)
    put_back = reader.found()
    reader.note("delete")

    assert (before, put_back) == (["archive", "run"], ["archive"])
    assert reader.found() == ["archive", "delete"]


def test_where_the_last_known_entry_was_taken_away_nothing_is_told_twice(
    reader: Reader, connection: redis.Redis
) -> None:
    reader.note("archive", "run")
    reader.found()
    entries: Any = connection.xrevrange(keys.AUDIT, count=1)
    connection.xdel(keys.AUDIT, entries[0][0])
    reader.note("delete")

    assert reader.found() == ["archive", "delete"]


def test_entries_with_ids_that_somebody_chose_are_told_in_the_order_of_their_numbers(
    reader: Reader, connection: redis.Redis
) -> None:
    found = []
    for number, entry_id in enumerate(("9-9", "9-10", "10-1", f"{FAR}-0", "*", f"{2**64 - 1}-{2**64 - 1}")):
        connection.xadd(keys.AUDIT, {"what": str(number), "on": '{"task": "a"}'}, id=entry_id)
        found.append("".join(reader.found()))

    assert found == ["0", "01", "012", "0123", "01234", "012345"]


def test_an_audit_that_was_another_programs_key_for_a_while_is_read_afterwards(
    reader: Reader, connection: redis.Redis
) -> None:
    reader.note("archive")
    reader.found()
    connection.rename(keys.AUDIT, "elsewhere")
    connection.set(keys.AUDIT, "a text")
    with pytest.raises(BrokerRefusedError, match=keys.AUDIT):
        reader.found()
    connection.rename("elsewhere", keys.AUDIT)
    reader.note("run")

    assert reader.found() == ["archive", "run"]
    connection.delete(keys.AUDIT)
    assert reader.found() == []


@pytest.fixture
def before_command(connection: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Before:
    """Has something happen once, before the command of this number that looks at entries."""
    execute: Any = connection.execute_command

    def arrange(number: int, happens: Callable[[], object]) -> None:
        looks = iter(range(1, 100))

        def counting(*words: Any, **options: Any) -> Any:
            if words[0] == "XREVRANGE" and next(looks) == number:
                happens()
            return execute(*words, **options)

        monkeypatch.setattr(connection, "execute_command", counting)

    return arrange


def is_cut() -> None:
    raise redis.ConnectionError("cut")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_where_redis_is_away_while_it_is_read_nothing_is_lost_and_nothing_told_twice(
    number: int, reader: Reader, before_command: Before
) -> None:
    reader.note("archive")
    reader.found()
    reader.note("run")
    reader.fill(160)
    reader.note("delete")
    before_command(number, is_cut)

    with pytest.raises(BrokerUnavailableError):
        reader.found()

    assert (reader.found(), reader.found()) == (["archive", "run", "delete"],) * 2


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [[], ["archive"]])
def test_what_is_noted_or_read_by_another_thread_meanwhile_is_told_once(
    first: list[str], number: int, reader: Reader, before_command: Before
) -> None:
    reader.note(*first)
    reader.found()
    reader.note("run")
    reader.fill(310)

    def meanwhile() -> None:
        reader.note("delete")
        assert reader.found() == [*first, "run", "delete"]
        reader.note("cancel")

    before_command(number, meanwhile)
    reader.found()

    assert (reader.found(), reader.found()) == ([*first, "run", "delete", "cancel"],) * 2
