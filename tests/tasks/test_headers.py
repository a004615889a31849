"""Headers: which are allowed, and which an enqueue in a handler takes over."""

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from boilerd import InvalidTaskError, Task
from boilerd.tasks.headers import MAX_HEADER_BYTES, NO_HEADERS, Headers, check_headers, has_request_id, inherit
from boilerd.tasks.options import task_options


def test_headers_are_copied_and_cannot_be_changed() -> None:
    given = {"tenant-id": "7", "trace_1": ""}

    headers: Any = check_headers(given)
    given["tenant-id"] = "8"

    assert headers == {"tenant-id": "7", "trace_1": ""}
    with pytest.raises(TypeError):
        headers["tenant-id"] = "9"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_task_with_headers_can_be_copied(duplicate: Any) -> None:
    task = Task("t1", "a:b", headers=check_headers({"tenant-id": "7"}))

    again = duplicate(task)

    assert again == task
    assert again.headers == {"tenant-id": "7"}


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (["tenant-id"], "headers: list is no mapping of names to texts; use a dict"),
        ({"Tenant": "7"}, "header 'Tenant': use small letters, digits, '-' and '_', as in 'tenant-id'"),
        ({"": "7"}, "header '': use small letters"),
        ({"a b": "7"}, "header 'a b': use small letters"),
        ({"a\n": "7"}, r"header 'a\n': use small letters"),
        ({7: "7"}, "header 7: use small letters"),
        ({"tenant-id": 7}, "header 'tenant-id': int is no text; use a str"),
        ({"tenant-id": None}, "header 'tenant-id': NoneType is no text; use a str"),
        ({"tenant-id": "\udcff"}, "header 'tenant-id': its text is no UTF-8, for it holds surrogates"),
    ],
)
def test_what_is_no_header_is_refused_with_its_name(headers: Any, told: str) -> None:
    with pytest.raises(InvalidTaskError) as raised:
        task_options(headers=headers)

    assert str(raised.value).startswith(told)


def test_headers_may_have_four_kibibytes_together_with_their_names() -> None:
    fits = {"ab": "é" * 1000, "cd": "x" * (MAX_HEADER_BYTES - 2004)}

    assert check_headers(fits) == fits
    with pytest.raises(InvalidTaskError, match="headers: 4097 bytes are more than 4096; put what is large"):
        check_headers(fits | {"cd": fits["cd"] + "x"})


def test_a_value_of_a_header_is_in_no_error_and_no_print() -> None:
    secret = "geheim" * 1000

    with pytest.raises(InvalidTaskError) as raised:
        check_headers({"token": secret})

    assert "geheim" not in str(raised.value) + repr(Headers({"token": secret})) + repr(
        task_options(headers={"a": "geheim"})
    )


def test_whether_an_enqueue_inherits_is_true_or_false() -> None:
    with pytest.raises(InvalidTaskError, match="inherit: 'no' is neither True nor False"):
        task_options(inherit="no")  # type: ignore[arg-type]


OF_TASK = {
    "request_id": "r-1",
    "traceparent": "00-1",
    "tracestate": "a=1",
    "baggage": "b=1",
    "tenant-id": "7",
    "own": "x",
}


def test_of_a_task_s_headers_the_trace_and_what_is_named_are_inherited() -> None:
    assert inherit(NO_HEADERS, OF_TASK, "r-1", ()) == {
        "request_id": "r-1", "traceparent": "00-1", "tracestate": "a=1", "baggage": "b=1",
    }  # fmt: skip
    assert inherit(NO_HEADERS, OF_TASK, "r-1", ["tenant-id", "missing"]).keys() == OF_TASK.keys() - {"own"}


def test_an_enqueue_s_own_headers_win_over_the_inherited_ones() -> None:
    found = inherit({"traceparent": "00-2", "tenant-id": "8"}, OF_TASK, "r-1", ["tenant-id"])

    assert (found["traceparent"], found["tenant-id"], found["baggage"]) == ("00-2", "8", "b=1")


def test_what_would_be_too_much_is_not_inherited_and_the_enqueue_goes_on() -> None:
    given = {"big": "x" * (MAX_HEADER_BYTES - 28)}

    found = inherit(given, OF_TASK | {"baggage": "b" * 100}, "r-1", ["tenant-id"])

    assert found == given | {"tenant-id": "7", "request_id": "r-1"}
    assert check_headers(found) == found


@dataclass
class Said:
    request_id: str | None


class Renamed(msgspec.Struct, rename="camel"):
    request_id: str


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"request_id": "r"}, True), ({"request_id": 7}, False), ({"a": {"request_id": "r"}}, False), (None, False),
        ([1], False), (Said("r"), True), (Said(None), False), (Renamed("r"), False),
        (msgspec.Raw(b'{"request_id":"r"}'), True), (msgspec.Raw(b'[{"request_id":"r"}]'), False),
        (msgspec.Raw(b"{"), False),
    ],
)  # fmt: skip
def test_a_payload_may_name_its_request_itself(payload: Any, says: bool) -> None:
    assert has_request_id(payload) is says
