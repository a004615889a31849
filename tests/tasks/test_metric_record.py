"""A record of metrics: how it is packed, added, read, and named by its queue and type."""

from functools import reduce

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boilerd.broker.constants import LAST_MINUTE
from boilerd.tasks.histogram import BOUNDS_BYTES, BOUNDS_S
from boilerd.tasks.metric_record import (
    ENQUEUED,
    LATER_BOUNDS,
    LATER_BUCKETS,
    MAXIMA,
    MOST_PAYLOAD_BYTES,
    MOST_RUN_US,
    MOST_WAIT_US,
    OUTCOME_KEYS,
    PAYLOAD_BUCKETS,
    PAYLOAD_BYTES,
    RUN_BUCKETS,
    RUN_US,
    WAIT_BUCKETS,
    WAIT_US,
    Numbers,
    Record,
    decode,
    encode,
    merge,
    pack_pair,
    unpack_pair,
)

RECORDS = st.dictionaries(st.integers(10, 127), st.integers(1, 2**40), max_size=40)
#: Any bytes in Redis, as they are read as text.
NAMES = st.binary(max_size=30).map(lambda name: name.decode("utf-8", "surrogateescape"))


def merged(*records: Record) -> Record:
    found: Record = {}
    for record in records:
        merge(found, record)
    return found


def test_records_of_an_older_release_mean_the_same() -> None:
    packed = bytes.fromhex("8a 0a03 0b01 1104 12ce000f4240 13cd03e8 14cc80 15ce00030d40 1e02 5501 7204")

    found = Numbers(decode(packed) or {})

    assert found.attempts | {"completed": 3, "retried": 1} == found.attempts
    assert (found.ended, found.failed, found.enqueued) == (4, 1, 4)
    assert (found.run.sum, found.run.most, found.run.counts[0]) == (1.0, 0.2, 2)
    assert (found.wait.sum, found.wait.counts[14]) == (0.001, 1)
    assert (found.payload.sum, found.payload.counts[2]) == (128, 4)


def test_each_key_means_one_thing_and_takes_one_byte() -> None:
    buckets = [
        *range(LATER_BUCKETS, LATER_BUCKETS + len(LATER_BOUNDS) + 1),
        *range(RUN_BUCKETS, RUN_BUCKETS + len(BOUNDS_S) + 1),
        *range(WAIT_BUCKETS, WAIT_BUCKETS + len(BOUNDS_S) + 1),
        *range(PAYLOAD_BUCKETS, PAYLOAD_BUCKETS + len(BOUNDS_BYTES) + 1),
    ]
    sums = [RUN_US, WAIT_US, PAYLOAD_BYTES, MOST_RUN_US, MOST_WAIT_US, MOST_PAYLOAD_BYTES]

    used = [*OUTCOME_KEYS.values(), ENQUEUED, LAST_MINUTE, *sums, *buckets]

    assert len(used) == len({*used})
    assert (min(used), max(used)) == (10, 123)
    assert {*MAXIMA} == {MOST_RUN_US, MOST_WAIT_US, MOST_PAYLOAD_BYTES}


def test_tasks_that_took_one_attempt_are_those_that_took_no_more() -> None:
    record = {OUTCOME_KEYS["completed"]: 90, OUTCOME_KEYS["archived"]: 6, OUTCOME_KEYS["dropped"]: 4,
              OUTCOME_KEYS["retried"]: 50, OUTCOME_KEYS["lost"]: 7, LATER_BUCKETS: 3, LATER_BUCKETS + 4: 2}  # fmt: skip

    assert Numbers(record).taken == (95, 3, 0, 0, 0, 2)
    assert (Numbers(record) + Numbers(record)).taken == (190, 6, 0, 0, 0, 4)
    assert Numbers({LATER_BUCKETS: 3}).taken == (0, 3, 0, 0, 0, 0)  # somebody else wrote it
    assert Numbers().taken == (0,) * 6


@given(RECORDS)
def test_a_record_is_unpacked_as_it_was_packed(record: Record) -> None:
    assert decode(encode(record)) == record


@given(RECORDS, RECORDS, RECORDS)
def test_it_does_not_matter_in_which_order_records_are_added(one: Record, two: Record, three: Record) -> None:
    assert merged(merged(one, two), three) == merged(one, merged(two, three)) == merged(three, one, two)
    together = reduce(Numbers.__add__, map(Numbers, (one, two, three)))
    assert together == Numbers.sum_of(map(Numbers, (three, two, one)))


def test_numbers_are_added_and_of_the_highest_values_the_higher_one_stays() -> None:
    found = Numbers({RUN_US: 3, MOST_RUN_US: 2, RUN_BUCKETS: 2}) + Numbers({RUN_US: 5, MOST_RUN_US: 5, RUN_BUCKETS: 1})

    assert found.record == {RUN_US: 8, MOST_RUN_US: 5, RUN_BUCKETS: 3}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_none(packed: bytes) -> None:
    found = decode(packed)

    assert found is None or all(number >= 0 for number in found.values())


@pytest.mark.parametrize(
    "packed",
    [
        b"", b"x", b"\xc0", b"\x90", encode({10: -1}), msgspec.msgpack.encode({"completed": 1}),
        msgspec.msgpack.encode({10: "1"}), msgspec.msgpack.encode({10: float("nan")}),
        msgspec.msgpack.encode({10: float("inf")}), b"\x81" * 3000,
        msgspec.msgpack.encode(dict.fromkeys(range(5000), 1)),
    ],
)  # fmt: skip
def test_what_is_no_record_is_none(packed: bytes) -> None:
    assert decode(packed) is None


@given(NAMES, NAMES)
def test_the_name_of_a_pair_leads_back_to_it(queue: str, task_type: str) -> None:
    assert unpack_pair(pack_pair(queue, task_type)) == (queue, task_type)


def test_names_of_pairs_can_be_read_and_told_apart() -> None:
    assert pack_pair("default", "email:send") == b"7:default:email:send"
    assert pack_pair("é", "") == "2:é:".encode()
    assert (
        len({pack_pair(queue, rest) for queue, rest in [("a:b", "c"), ("a", "b:c"), ("a:b:c", ""), ("", "a:b:c")]}) == 4
    )


@given(st.binary(max_size=40))
def test_any_bytes_name_a_pair_or_none(name: bytes) -> None:
    found = unpack_pair(name)

    assert found is None or pack_pair(*found).lstrip(b"0") == name.lstrip(b"0")


@pytest.mark.parametrize("name", [b"", b"7", b"7:", b"x:a:b", b"-1:a:b", b"3:a:b", b":a:b", b"9" * 30 + b":a"])
def test_what_names_no_pair_is_none(name: bytes) -> None:
    assert unpack_pair(name) is None


def test_an_unknown_key_of_a_later_release_is_kept_and_changes_nothing_else() -> None:
    found = Numbers({10: 1, 127: 5}) + Numbers({10: 1, 127: 6})

    assert (found.ended, found.record[127]) == (2, 11)
