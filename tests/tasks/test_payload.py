"""Payloads: their JSON, what handlers of a declared type get, and what is refused where."""

import logging
import math
import re
import sys
import traceback
import typing
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest
import redis

from boilerd import Client, InvalidPayloadError, ServeMux, Task, TaskInfo
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.broker.job_hash import NewTask
from boilerd.tasks.options import task_options
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.retry import Decision, Hooks, RetryPolicy, Verdict, decide
from boilerd.tasks.task import NO_STATE
from boilerd.worker.attempt import AttemptRunner, Failed
from boilerd.worker.settlement import Rules, record_failure
from builders import WORKER
from support import Valkey, clean_environment, run_python


@dataclass
class Email:
    to: list[str]
    subject: str = "no subject"


class EmailDict(TypedDict):
    to: list[str]
    subject: NotRequired[str]


class EmailStruct(msgspec.Struct):
    to: list[str]
    subject: str = "no subject"


class V1(msgspec.Struct, tag_field="version", tag=1):
    to: str


class V2(msgspec.Struct, tag_field="version", tag=2):
    to: list[str]


class V1Text(msgspec.Struct, tag_field="version", tag="one"):
    to: str


class Tree(msgspec.Struct):
    branches: "list[Tree]"
    parent: "Tree | None" = None
    size: int | msgspec.UnsetType = msgspec.UNSET


@dataclass
class Order:
    id: UUID
    placed_at: datetime
    price: Decimal
    weight: float
    lines: dict[int, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (None, b"null"),
        ({"to": "ü", "n": [1, 2.5, True]}, b'{"to":"\xc3\xbc","n":[1,2.5,true]}'),
        ("line\n", b'"line\\n"'),
        (2**70, b"1180591620717411303424"),
    ],
)
def test_a_payload_is_written_as_compact_json(payload: Any, encoded: bytes) -> None:
    assert encode_payload(payload) == encoded


def endless() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize("payload", [object(), {1j: 2}, [{"deep": {"in": print}}], "\udcff"])
def test_what_has_no_json_form_is_no_payload(payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload: .+; use what JSON can hold$"):
        encode_payload(payload)


def test_a_payload_that_never_ends_is_refused() -> None:
    with pytest.raises(InvalidPayloadError, match="payload: is nested too deep"):
        encode_payload(endless())


@dataclass
class Point:
    x: float
    note: str | None = None


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (math.nan, "$ is nan"),
        ({"a": [1.5, None, {"b": math.inf}]}, "$.a[2].b is inf"),
        ((0.0, -math.inf), "$[1] is -inf"),
        ([Point(1.0), Point(math.nan)], "$[1].x is nan"),
        ({5: math.nan}, "$.5 is nan"),
    ],
)
def test_a_number_that_json_does_not_have_is_refused_with_its_path(payload: Any, told: str) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        encode_payload(payload)

    assert str(raised.value) == f"payload: {told}, and JSON has neither NaN nor Infinity; use what JSON can hold"


@pytest.mark.parametrize("raw", [b'{"a": [1, null]}', b"null", b'"NaN"', b" 5 "])
def test_json_that_is_written_already_is_taken_over(raw: bytes) -> None:
    assert encode_payload(msgspec.Raw(raw)) == raw


@pytest.mark.parametrize("raw", [b"", b"{bad", b"NaN", b"1 2", b"1],[2", b'"\xff"', b'{"a":1}}', b"1e999"])
def test_what_is_no_json_although_it_says_so_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^payload: .+; use what JSON can hold$"):
        encode_payload(msgspec.Raw(raw))


# What becomes of each kind of value.


class Colour(Enum):
    RED = "red"


@dataclass
class Coordinates:
    x: int
    _y: int


class SafeString(str):
    """As Django has it; and one that lies about its text."""

    def __str__(self) -> str:
        return "not this"


class Number(int):
    """As an ID of an application's own type."""


ROWS = re.findall(
    r"^\| `(.+?)` \| (refused: )?`(.+?)` \|",
    (Path(__file__).parents[2] / "docs" / "writing-tasks.md")
    .read_text()
    .partition("\n## Payloads\n")[2]
    .partition("\n## ")[0],
    re.MULTILINE,
)


@pytest.mark.parametrize(("written", "is_refused", "outcome"), ROWS, ids=[row[0] for row in ROWS])
def test_each_row_of_the_documents_table_of_payloads_is_true(written: str, is_refused: str, outcome: str) -> None:
    payload = eval(written, {**globals(), "Point": Coordinates, "OrderedDict": OrderedDict, "timedelta": timedelta})

    if is_refused:
        with pytest.raises(InvalidPayloadError, match=re.escape(outcome)):
            encode_payload(payload)
    else:
        decoded = msgspec.json.decode(encode_payload(payload))
        assert repr(decoded) == repr(eval(outcome))


def test_the_documents_have_a_table_of_payloads() -> None:
    assert len(ROWS) > 20


class Mixed(msgspec.Struct, rename="upper", tag="m", omit_defaults=True):
    names: set[str]
    note: str = ""


class Row(msgspec.Struct, array_like=True, tag="r"):
    names: frozenset[str]
    number: int


class Letters(Enum):
    ALL = frozenset("abcdefg")


LETTERS = [*"abcdefgh"]
#: Payloads with sets, and what a handler gets of them.
WITH_SETS = [
    (set(LETTERS), LETTERS),
    (frozenset(LETTERS), LETTERS),
    ({"b": [set(LETTERS)], "a": ({"x"}, set())}, {"b": [LETTERS], "a": [["x"], []]}),
    ({1: {"b", "a"}, "x": [3]}, {"1": ["a", "b"], "x": [3]}),
    ({1, "1", None, 2.5, (2, "a")}, ["1", 1, 2.5, [2, "a"], None]),
    ({frozenset("ab"), frozenset("cd"), frozenset("bc")}, [["a", "b"], ["b", "c"], ["c", "d"]]),
    (Mixed(set(LETTERS)), {"type": "m", "NAMES": LETTERS}),
    ([Row(frozenset(LETTERS), 5)], [["r", LETTERS, 5]]),
    (Letters.ALL, LETTERS[:-1]),
    ({"x": Letters.ALL, Colour.RED: {"b", "a"}}, {"x": LETTERS[:-1], "red": ["a", "b"]}),
]


@pytest.mark.parametrize(("payload", "decoded"), WITH_SETS)
def test_sets_are_sorted_wherever_they_are(payload: Any, decoded: Any) -> None:
    assert msgspec.json.decode(encode_payload(payload)) == decoded


#: Prints the unique keys of payloads with sets, whose order is another in each process.
UNIQUE_KEYS = """
import json
from boilerd.testing import RecordingClient
from boilerd.broker.job_hash import NewTask
keys = []
class Store:
    def enqueue(self, tasks):
        keys.extend(task.unique_key for task in tasks)
        return ["pending"]
client = RecordingClient()
client._store = Store()
letters = list("abcdefgh")
sets = {frozenset(letters[n:]) for n in range(8)}
for payload in (set(letters), {"a": [frozenset(letters)]}, {1: {*letters, 5}}, sets):
    client.enqueue("test:echo", payload, unique=60)
print(json.dumps(keys))
"""


def test_equal_payloads_have_one_unique_key_in_all_processes() -> None:
    first, second, third = (
        run_python(UNIQUE_KEYS, env=clean_environment(PYTHONHASHSEED=seed)) for seed in ("1", "2", "3")
    )

    assert first == second == third
    assert len(set(first)) == 4


@pytest.mark.parametrize(
    ("payload", "key"),
    [
        ({1: "a", "1": "b"}, "1"),
        ({"x": [{2.5: 0, "2.5": 0}]}, "2.5"),
        ({"x": {Colour.RED: 0, "red": 0}}, "red"),
        (Order(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal(1), 3, {7: "a", "7": "b"}), "7"),  # type: ignore[dict-item]
        ({1: "a", "1": "b", "long": "x" * 2000}, "1"),
        (msgspec.Raw(b'{"a": {"b": 1, "b": 2}}'), "b"),
        (msgspec.Raw(b'{"a":1,"x":1e2,"a":2}'), "a"),
        ({-1: "\x1b[31m", "-1": "b"}, "-1"),
    ],
)
def test_a_payload_of_which_a_value_would_be_lost_is_refused_with_its_key(payload: Any, key: str) -> None:
    with pytest.raises(InvalidPayloadError, match=rf"^payload: the key '{re.escape(key)}' is in one object twice"):
        encode_payload(payload)


def test_a_key_from_anywhere_is_shown_short_and_without_escapes() -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        encode_payload({"\x1b[31m\u202e\n" + "x" * 1_000_000: math.nan})

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("payload", "decoded"),
    [
        ({SafeString("k"): [SafeString("v")]}, {"k": ["v"]}),
        ({"a": [{Number(5): Number(6)}], "b": None}, {"a": [{"5": 6}], "b": None}),
        (type("Metres", (float,), {})(1.5), 1.5),
        (type("Price", (Decimal,), {})("1.10"), "1.10"),
        (type("Moment", (datetime,), {})(2027, 1, 31, 8, 0, 0, 5, tzinfo=UTC), "2027-01-31T08:00:00.000005Z"),
        (type("Day", (date,), {})(2027, 1, 31), "2027-01-31"),
        ([msgspec.Raw(b"[null]"), None], [[None], None]),
    ],
)
def test_a_subclass_is_taken_as_what_it_is_a_subclass_of(payload: Any, decoded: Any) -> None:
    assert msgspec.json.decode(encode_payload(payload)) == decoded


@pytest.mark.parametrize("key", [True, None, (1, 2), frozenset({1})])
def test_what_could_be_a_value_but_no_key_is_refused_as_a_key(key: Any) -> None:
    with pytest.raises(InvalidPayloadError, match=r"has no JSON form as a key; use what JSON can hold$"):
        encode_payload({key: 1})


def got(model: Any, payload: Any) -> Any:
    """What the handler gets for a payload as it comes out of Redis."""
    mux, seen = ServeMux(), []
    mux.handle("test:echo", lambda task: seen.append(task.payload), payload=model)
    mux(Task("a", "test:echo", payload))
    (only,) = seen
    return only


@pytest.mark.parametrize(
    ("model", "decoded"),
    [
        (Email, Email(["a@b.c"])),
        (EmailDict, {"to": ["a@b.c"]}),
        (EmailStruct, EmailStruct(["a@b.c"])),
        (dict[str, list[str]], {"to": ["a@b.c"]}),
    ],
)
def test_the_handler_gets_the_payload_as_the_type_it_declared(model: Any, decoded: Any) -> None:
    assert got(model, {"to": ["a@b.c"]}) == decoded


@pytest.mark.parametrize(
    ("payload", "decoded"),
    [({"version": 1, "to": "a@b.c"}, V1("a@b.c")), ({"version": 2, "to": ["a@b.c"]}, V2(["a@b.c"]))],
)
def test_the_tag_of_a_union_chooses_the_version(payload: Any, decoded: Any) -> None:
    assert got(V1 | V2, payload) == decoded


def test_a_handler_without_a_declared_type_gets_the_payload_as_it_is() -> None:
    assert got(None, {"to": 5}) == {"to": 5}


def test_what_json_has_no_type_for_comes_back_as_what_it_was(client: Client, broker: Broker) -> None:
    order = Order(UUID(int=7), datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), Decimal("9.90"), 3.0, {1: "a", 2: "b"})
    client.enqueue("test:echo", order)
    claim = broker.advance(WORKER, ("default",)).claims[0]
    assert claim.task is not None

    assert got(Order, claim.task.payload) == order


@pytest.mark.parametrize(
    ("model", "payload", "message"),
    [
        (Email, {"to": ["a", 5]}, "$.to[1]: Expected `str`, got `int`"),
        (EmailDict, {"to": ["a", 5]}, "$.to[1]: Expected `str`, got `int`"),
        (EmailStruct, {"to": ["a"], "subject": None}, "$.subject: Expected `str`, got `null`"),
        (EmailStruct, {"subject": "x"}, "$: Object missing required field `to`"),
        (Email, "a@b.c", "$: Expected `object`, got `str`"),
        (V1 | V2, {"version": 3, "to": "a"}, "$.version: Invalid value 3"),
        (V1 | V2, {"version": 2, "to": "a"}, "$.to: Expected `array`, got `str`"),
        (V1 | V2, {"to": "a"}, "$: Object missing required field `version`"),
        (dict[str, list[int]], {"n": [1, 2, "3"]}, "$[...][2]: Expected `int`, got `str`"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_the_path_of_the_wrong_field(
    model: Any, payload: Any, message: str
) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        got(model, payload)

    assert str(raised.value) == f"payload: {message}"


def test_a_wrong_key_is_told_apart_from_a_wrong_value() -> None:
    with pytest.raises(InvalidPayloadError, match=r"key") as raised:
        got(dict[int, str], {"one": "a"})

    assert str(raised.value).count("`") % 2 == 0


@pytest.mark.parametrize(
    ("model", "payload", "message"),
    [
        (list[Colour], ["secret - at `$.x`\n\x1b[31m"], "payload: $[0]: Invalid enum value"),
        (V1Text, {"version": "it's secret", "to": "a"}, "payload: $.version: Invalid value"),
        (dict[Colour, int], {'the "secret"': 1}, "payload: key in $: Invalid enum value"),
    ],
)
def test_an_error_that_will_be_logged_has_no_text_of_the_payload(model: Any, payload: Any, message: str) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        got(model, payload)

    assert str(raised.value) == message
    assert "secret" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(("model", "payload"), [(set[Any], [[1]]), (frozenset, [{}])])
def test_a_payload_of_which_python_can_make_no_set_does_not_fit(model: Any, payload: Any) -> None:
    with pytest.raises(InvalidPayloadError, match="payload: unhashable type"):
        got(model, payload)


def test_a_payload_too_deep_for_the_type_of_its_handler_is_refused() -> None:
    payload: dict[str, Any] = {"branches": []}
    for _ in range(100_000):  # C code has a limit of its own, from Python 3.12 on
        payload = {"branches": [payload]}

    with pytest.raises(InvalidPayloadError, match="nested too deep"):
        got(Tree, payload)


def test_a_rule_of_the_application_refuses_like_a_wrong_type() -> None:
    @dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 1:
                raise ValueError("n must be positive")

    with pytest.raises(InvalidPayloadError, match="n must be positive"):
        got(Positive, {"n": 0})


def test_a_type_that_can_never_be_decoded_is_refused_where_the_handler_is_registered() -> None:
    class Untagged1(msgspec.Struct):
        a: int

    class Untagged2(msgspec.Struct):
        b: int

    with pytest.raises(TypeError, match="tagged"):
        ServeMux().handle("test:echo", lambda task: None, payload=Untagged1 | Untagged2)


class Plain:
    """Nothing in JSON is one, and nobody says how to make one."""


T = typing.TypeVar("T")


class Generic(typing.Generic[T]):
    """The same with a parameter."""


@dataclass
class Order1:
    lines: "list[Line | None]"


class Line(msgspec.Struct):
    order: Order1 | None
    thing: Plain


@pytest.mark.parametrize(
    "model",
    [
        Plain, Generic[int], complex, msgspec.Raw, list[Plain], dict[str, Plain], dict[Plain, str], Plain | None,
        tuple[int, Plain], tuple[Plain, ...], set[Plain], Annotated[list[Plain], msgspec.Meta(title="x")], Order1, Line,
    ],
)  # fmt: skip
def test_a_class_that_nothing_can_be_decoded_as_is_refused_however_deep_it_is(model: Any) -> None:
    mux = ServeMux()

    with pytest.raises(TypeError, match=r"nothing can be decoded as <class .*; use a dataclass"):
        mux.handle("test:echo", lambda task: None, payload=model)

    assert mux.patterns() == []


@dataclass
class Validated:
    """Stands for a dataclass of pydantic, which is not installed here."""

    age: int
    __pydantic_validator__: ClassVar[object] = object()


@dataclass
class Household:
    people: list[Validated]


@pytest.mark.parametrize("model", [Validated, list[Validated], Validated | None, Household])
def test_a_class_whose_own_rules_would_be_passed_over_is_refused_where_it_is_declared(model: Any) -> None:
    mux = ServeMux()

    with pytest.raises(TypeError, match=r"the validators of <class .*Validated'>, of pydantic, would not run; use a"):
        mux.handle("test:echo", lambda task: None, payload=model)

    assert mux.patterns() == []


@pytest.mark.parametrize(
    ("model", "payload", "decoded"),
    [
        (Tree, {"branches": [{"branches": []}]}, Tree([Tree([])])),
        (object, [1], [1]),
        (Any, {"a": 1}, {"a": 1}),
        (Hashable, "x", "x"),
        (Sequence[int], [1], [1]),
        (Annotated[int, msgspec.Meta(gt=1)], 2, 2),
    ],
)
def test_a_type_that_contains_itself_and_those_of_json_values_can_be_declared(
    model: Any, payload: Any, decoded: Any
) -> None:
    assert got(model, payload) == decoded


def test_a_class_of_attrs_with_converters_is_refused_where_it_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Converted:
        """Stands for a class of attrs, which is not installed here."""

        age: int
        __attrs_attrs__ = (SimpleNamespace(name="age", default=1, validator=None, converter=abs),)

    monkeypatch.setitem(sys.modules, "attrs", SimpleNamespace(NOTHING=object(), Factory=type("Factory", (), {})))

    with pytest.raises(TypeError, match=r"the converters of <class .*Converted'>, of attrs, would not run; use a"):
        ServeMux().handle("test:echo", lambda task: None, payload=Converted)


def test_the_middleware_sees_the_payload_as_it_came() -> None:
    mux, seen = ServeMux(), []

    @mux.use
    def look(next_handler: Any) -> Any:
        def wrapped(task: Task) -> Any:
            seen.append(task.payload)
            return next_handler(task)

        return wrapped

    mux.handle("test:echo", lambda task: seen.append(task.payload), payload=Email)
    mux(Task("a", "test:echo", {"to": []}))

    assert seen == [{"to": []}, Email([])]


def test_an_async_handler_gets_the_decoded_payload_too() -> None:
    mux = ServeMux()

    @mux.handle("test:echo", payload=Email)
    async def handler(task: Task) -> Any:
        return task.payload

    assert mux(Task("a", "test:echo", {"to": ["x"]})) == Email(["x"])


def test_a_payload_that_does_not_fit_is_not_worth_another_attempt() -> None:
    error = InvalidPayloadError("payload: $.to: Expected `array`")

    assert decide(error, Task("a", "test:echo"), RetryPolicy(), Hooks()) == Decision(Verdict.ARCHIVE)


def test_a_task_that_came_with_a_wrong_payload_is_archived_with_its_path(
    broker: Broker, connection: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    mux = ServeMux()
    mux.handle("email:", lambda task: None, payload=Email)
    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)
    broker.enqueue([NewTask("a", "email:deliver", encode_payload({"to": ["secret", 5]}), task_options())])
    claim = broker.advance(WORKER, ("default",)).claims[0]
    assert claim.task is not None

    with caplog.at_level(logging.DEBUG):
        outcome = AttemptRunner(mux).run(claim.task, _Idle())
        assert isinstance(outcome, Failed)
        record_failure(broker, WORKER, claim, rules.decide_failure(claim.task, outcome.error, outcome.traceback))

    line = "InvalidPayloadError: payload: $.to[1]: Expected `str`, got `int`"
    assert connection.hget(keys.job("a"), "last_error") == line.encode()
    assert connection.zrange(keys.registry("failed", "default"), 0, -1) == [b"a"]
    assert "secret" not in caplog.text


class _Idle:
    """The attempt of a task that asks for nothing."""

    state = NO_STATE

    def remaining_s(self) -> float:
        return 60.0

    def cancellation(self) -> str:
        return ""

    def write_result(self, result: Any) -> bool:
        return True


# The client.


@pytest.fixture
def mux() -> ServeMux:
    inner, outer = ServeMux(), ServeMux()
    inner.handle("email:deliver", lambda task: None, payload=Email)
    inner.handle("email:raw", lambda task: None)
    outer.handle("email:", inner)
    outer.handle("order:", lambda task: None, payload=V1 | V2)
    return outer


def test_a_client_that_knows_the_mux_refuses_before_it_sends(
    valkey: Valkey, connection: redis.Redis, mux: ServeMux
) -> None:
    with Client.from_url(valkey.url, mux=mux) as client:
        with pytest.raises(InvalidPayloadError, match=r"\$\.to\[1\]"):
            client.enqueue("email:deliver", {"to": ["a", 5]})
        with pytest.raises(InvalidPayloadError, match=r"\$\.version"):
            client.enqueue("order:placed", {"version": 9})

    assert connection.dbsize() == 0


def test_none_of_many_is_sent_when_one_does_not_fit(valkey: Valkey, connection: redis.Redis, mux: ServeMux) -> None:
    with Client.from_url(valkey.url, mux=mux) as client, pytest.raises(InvalidPayloadError):
        client.enqueue_many([("email:deliver", {"to": []}), ("email:deliver", {"to": 5})])

    assert connection.dbsize() == 0


@pytest.mark.parametrize(
    ("task_type", "payload"),
    [
        ("email:deliver", {"to": ["a"]}),
        ("email:deliver", Email(["a"])),
        ("email:raw", {"to": 5}),
        ("order:placed", V2(["a"])),
        ("unknown:type", {"to": 5}),
    ],
)
def test_a_client_that_knows_the_mux_lets_through_what_fits_and_what_nobody_declared(
    valkey: Valkey, mux: ServeMux, task_type: str, payload: Any
) -> None:
    with Client.from_url(valkey.url, mux=mux) as client:
        assert isinstance(client.enqueue(task_type, payload), TaskInfo)


def test_a_client_that_knows_no_mux_sends_anything(client: Client) -> None:
    assert isinstance(client.enqueue("email:deliver", {"to": 5}), TaskInfo)


def test_a_client_lets_through_what_the_handler_can_decode(valkey: Valkey) -> None:
    mux = ServeMux()
    mux.handle("order:", lambda task: None, payload=Order)
    order = Order(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal("9.90"), 3, {1: "a"})

    with Client.from_url(valkey.url, mux=mux) as client:
        assert isinstance(client.enqueue("order:placed", order), TaskInfo)
