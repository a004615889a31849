"""Declared types of payloads: what pydantic, attrs and msgspec read of them, JSON Schemas, old payloads, misfits."""

import dataclasses
import traceback
import typing
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NoReturn, NotRequired, TypeVar
from uuid import UUID

import attrs
import jsonschema
import msgspec
import pydantic
import pydantic.v1
import pydantic.v1.dataclasses
import pytest
import redis
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr, computed_field, field_serializer
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from boilerd import Client, ConfigError, InvalidPayloadError, RevokeTask, ServeMux, Task
from boilerd.broker import keys
from boilerd.broker.broker import Broker
from boilerd.errors import describe
from boilerd.tasks.payload import encode_payload
from boilerd.tasks.payload_type import MISFIT_RETRY_S, PayloadType
from boilerd.tasks.retry import Decision, Hooks, RetryPolicy, Verdict, decide
from boilerd.testing import RecordingClient, run
from boilerd.worker.attempt import AttemptRunner, Failed, encode_result
from boilerd.worker.settlement import Rules
from builders import WORKER, claim, make_due, task_in
from support import clean_environment, run_python


class Line(BaseModel):
    id: UUID
    placed_at: datetime


class Order(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    first_name: str
    count: int = Field(default=1, gt=0)
    lines: list[Line] = []
    by_name: dict[str, Line] = {}
    tags: set[str] = set()


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    shape: Literal["square"] = "square"
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Circle(BaseModel):
    model_config = ConfigDict(strict=True)

    shape: Literal["circle"] = "circle"
    radius: float


Shape = Annotated[Square | Circle, Field(discriminator="shape")]


@dataclass
class Parcel:
    order: Order
    weight: float


T = TypeVar("T")
Bounded = TypeVar("Bounded", bound=Square)
Named = NewType("Named", Square)


@dataclass
class Boxed(Generic[T]):
    square: Square
    other: T


class Pair(NamedTuple):
    square: Square
    number: int


class Labelled(TypedDict):
    square: Square
    label: NotRequired[str]


@pydantic.dataclasses.dataclass
class Checked:
    age: int = Field(ge=18)


@attrs.define
class Person:
    name: str = attrs.field()
    age: int = attrs.field(default=18, validator=attrs.validators.ge(18))

    @name.validator
    def _check(self, attribute: Any, value: str) -> None:
        if not value:
            raise ValueError("a name has letters")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    to: Annotated[list[str], msgspec.Meta(min_length=1)]
    retries: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0


class V1(msgspec.Struct, tag_field="version", tag=1):
    to: str


class V2(msgspec.Struct, tag_field="version", tag=2):
    to: list[str]


@dataclass
class Email:
    to: str
    copies: list[str] = dataclasses.field(default_factory=list)


class Branch(msgspec.Struct):
    at: int
    sides: list["Branch"] = []


class Note(TypedDict):
    text: str
    stars: NotRequired[int]


LINE = Line(id=UUID(int=7), placed_at=datetime(2027, 1, 31, 8, 0, 0, 5, tzinfo=UTC))
ORDER = Order.model_validate(
    {"firstName": "Ada", "count": 2, "lines": [LINE], "byName": {"x": LINE}, "tags": {"b", "a", "c"}}
)


def sent(payload: Any, model: Any) -> bytes:
    """The payload as a client writes it that knows the mux."""
    declared = PayloadType(model)
    encoded = encode_payload(payload, to_plain=declared.to_plain)
    declared.check(encoded)
    return encoded


def refusal(model: Any, payload: Any, **options: Any) -> InvalidPayloadError:
    with pytest.raises(InvalidPayloadError) as raised:
        PayloadType(model, **options).decode(payload)
    return raised.value


# Types with something of pydantic's in them.


@pytest.mark.parametrize(
    ("model", "payload"),
    [
        (Order, ORDER),
        (list[Order], [ORDER, ORDER]),
        (dict[str, Order], {"x": ORDER}),
        (Order | None, None),
        (Parcel, Parcel(ORDER, 1.5)),
        (list[Order] | Parcel, [ORDER]),
        (Pair, Pair(Square(side=2), 5)),
        (Boxed[int], Boxed(Square(side=2), 5)),
        (list[Named], [Square(side=2)]),
        (list[Bounded], [Square(side=2)]),  # type: ignore[valid-type]
        (Labelled, {"square": Square(side=2)}),
        (Shape, Circle(radius=1.5)),
        (Checked, Checked(age=18)),
        (list[Checked | Square], [Square(side=3), Checked(age=20)]),
        (RootModel[set[int]], RootModel[set[int]]({3, 1, 2})),
        (IPv4Address | Square, Square(side=3)),
    ],
)
def test_what_pydantic_has_a_part_in_comes_back_as_what_it_was(model: Any, payload: Any) -> None:
    encoded = sent(payload, model)

    assert PayloadType(model).decode(msgspec.json.decode(encoded)) == payload


def test_a_model_is_written_by_its_aliases_with_and_without_a_mux() -> None:
    names = {"firstName", "count", "lines", "byName", "tags"}

    assert msgspec.json.decode(sent(ORDER, Order)).keys() == names
    assert msgspec.json.decode(encode_payload({"order": ORDER}))["order"].keys() == names


class Whole(BaseModel):
    data: bytes


def test_what_annotates_a_plain_dataclass_for_pydantic_is_applied() -> None:
    @dataclass
    class Counted:
        count: Annotated[int, Field(gt=0)]

    assert str(refusal(Counted, {"count": 0})) == "payload: $.count: Input should be greater than 0"


def test_a_payload_may_be_the_json_of_a_model_or_hold_models() -> None:
    assert sent({"firstName": "Ada"}, Order) == b'{"firstName":"Ada"}'
    assert PayloadType(Whole).decode(msgspec.json.decode(sent({"data": b"abc"}, Whole))) == Whole(data=b"abc")
    assert PayloadType(list[Square]).decode(msgspec.json.decode(sent([{"side": 1}, Square(side=2)], list[Square]))) == [
        Square(side=1),
        Square(side=2),
    ]


def test_sets_in_a_model_are_sorted_under_their_aliases() -> None:
    class Tagged(BaseModel):
        names: set[str] = Field(alias="allNames")

    tagged = Tagged(allNames={*"hgfedcba"})

    assert sent([tagged], list[Tagged]) == b'[{"allNames":["a","b","c","d","e","f","g","h"]}]'
    assert encode_payload(RootModel[set[str]]({*"hgfedcba"})) == b'["a","b","c","d","e","f","g","h"]'


def test_what_a_model_computes_is_in_a_result_and_in_no_payload() -> None:
    assert sent(Square(side=3), Square) == b'{"shape":"square","side":3}'
    assert encode_payload(Square(side=3)) == b'{"shape":"square","side":3}'
    assert encode_result(Square(side=3)) == b'{"shape":"square","side":3,"area":9}'


def test_a_handler_gets_instances_and_a_client_that_knows_the_mux_refuses_what_is_none() -> None:
    mux = ServeMux()

    @mux.handle("shape:draw", payload=list[Shape])  # type: ignore[type-abstract, unused-ignore]
    def draw(task: Task) -> list[str]:
        return [type(shape).__name__ for shape in task.payload]

    client = RecordingClient(mux=mux)

    assert run(mux, "shape:draw", [Square(side=1), {"shape": "circle", "radius": 2}]) == ["Square", "Circle"]
    client.enqueue("shape:draw", [Square(side=1)])
    assert list(client.run_all(mux)) == [["Square"]]
    with pytest.raises(InvalidPayloadError, match=r"^payload: \$\[0\]\.side: Field required$"):
        client.enqueue("shape:draw", [{"shape": "square"}])
    with pytest.raises(InvalidPayloadError, match=r"^payload: \$\[0\]\.side: Field required$"):
        run(mux, "shape:draw", [{"shape": "square"}])


class Starred(BaseModel):
    name: str

    @field_serializer("name")
    def _stars(self, name: str) -> str:
        return "***"


class OneWayBytes(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")

    data: bytes


class Late(BaseModel):
    moment: datetime

    @field_serializer("moment")
    def _as_number(self, moment: datetime) -> float:
        return moment.timestamp()


@pytest.mark.parametrize("payload", [Starred(name="secret"), OneWayBytes(data=b"abc")])
def test_what_would_come_back_as_something_else_is_refused_where_it_is_enqueued(payload: Any) -> None:
    mux = ServeMux()
    client = RecordingClient(mux=mux)
    mux.handle("a:b", lambda task: None, payload=type(payload))

    with pytest.raises(
        InvalidPayloadError, match=r"read as something else; let its serializers write what its"
    ) as told:
        client.enqueue("a:b", payload)

    assert "secret" not in str(told.value)
    assert client.tasks == []


def test_what_would_come_back_as_something_else_is_refused_in_a_periodic_task_too() -> None:
    mux = ServeMux()
    star = mux.task("a:b", payload=Starred)(lambda task: None)

    with pytest.raises(
        ConfigError, match=r"task type a:b: payload: .*Starred'> writes it as JSON that is read as someth"
    ):
        mux.cron("@daily", star.task(Starred(name="secret")))


class Traced(Late):
    by_name: dict[str, tuple[Late, ...]] = {}
    _trace: object = PrivateAttr(default_factory=object)


def test_a_serializer_whose_words_the_validator_reads_may_stay() -> None:
    late = Late(moment=datetime(2027, 1, 31, tzinfo=UTC))
    traced = Traced(moment=late.moment, by_name={"x": (late,)})

    assert PayloadType(Late).decode(msgspec.json.decode(sent(late, Late))) == late
    assert PayloadType(list[Traced]).decode(msgspec.json.decode(sent([traced], list[Traced])))[0].by_name == {
        "x": (late,)
    }


def test_what_its_own_serializer_spoils_is_refused_without_its_value() -> None:
    class Spoilt(BaseModel):
        number: int

        @field_serializer("number")
        def _spoil(self, number: int) -> str:
            return f"secret {number}"

    mux = ServeMux()
    mux.handle("a:b", lambda task: None, payload=Spoilt)

    with pytest.raises(InvalidPayloadError) as raised:
        RecordingClient(mux=mux).enqueue("a:b", Spoilt(number=4711))

    assert str(raised.value).startswith("payload: $.number: Input should be a valid integer")


def test_a_model_that_holds_another_type_than_it_says_warns_of_no_value() -> None:
    wrong = Whole.model_construct(data=4711)

    assert encode_payload([wrong]) == b'[{"data":4711}]'
    with pytest.raises(InvalidPayloadError, match=r"^payload: \$\.data: Input should be a valid bytes$"):
        sent(wrong, Whole)


class Secret(BaseModel):
    password: SecretStr


class Hidden(BaseModel):
    name: str = Field("x", exclude=True)


class TwoNames(BaseModel):
    name: str = Field("x", serialization_alias="title")


class Nesting(BaseModel):
    inner: list[TwoNames]


@pydantic.dataclasses.dataclass
class Aliased:
    name: str = Field("x", alias="title")


class Around(msgspec.Struct):
    order: Order


@attrs.define
class AroundToo:
    order: Order


class Arbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    inner: Strict


class Old(pydantic.v1.BaseModel):
    name: str


@pydantic.v1.dataclasses.dataclass
class OldToo:
    name: str


@dataclass
class AroundOld:
    inner: OldToo


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Secret, r"holds a secret \(as SecretStr\), which is written as stars; store it elsewhere, and send its name"),
        (list[SecretStr], r"holds a secret"),
        (Hidden, r"'name' of .* is read and never written, so that it would be lost; give it one alias for both"),
        (TwoNames, r"'name' of .* is read and never written"),
        (Nesting, r"'name' of TwoNames is read and never written"),
        (Aliased, r"'title' in .* is an alias outside of a model, .*; derive its class from pydantic.BaseModel"),
        (
            list[Around],
            r"Around'> has classes of pydantic around or beside it, .*; make a dataclass or a pydantic.Base",
        ),
        (AroundToo, r"AroundToo'> has classes of pydantic around or beside it"),
        (Arbitrary, r"pydantic cannot read and describe .*Arbitrary'> as JSON: Cannot generate a JsonSchema"),
        (Old, r"Old'> is of pydantic.v1, whose rules would not run; derive it from pydantic.BaseModel"),
        (list[OldToo], r"OldToo'> is of pydantic.v1"),
        (AroundOld, r"OldToo'> is of pydantic.v1"),
        (dict[str, Old] | list[Square], r"Old'> is of pydantic.v1"),
    ],
)
def test_a_type_that_would_lose_a_value_or_a_rule_is_refused_where_it_is_declared(model: Any, told: str) -> None:
    mux = ServeMux()

    with pytest.raises(TypeError, match=rf"^payload: .*{told}"):
        mux.handle("test:echo", lambda task: None, payload=model)

    assert mux.patterns() == []


def test_a_typed_dict_that_pydantic_cannot_read_is_refused_with_what_would_do() -> None:
    class Plain(typing.TypedDict):
        square: Square

    try:
        pydantic.TypeAdapter(Plain)
    except pydantic.PydanticUserError:  # before Python 3.12
        with pytest.raises(TypeError, match=r"Please use `typing_extensions.TypedDict` instead"):
            PayloadType(Plain)
    else:
        assert PayloadType(Plain).decode({"square": {"side": 1}}) == {"square": Square(side=1)}


#: Decodes a payload of a type without pydantic, where nobody has it; then says what was imported.
WITHOUT_PYDANTIC = """
import json, sys
from dataclasses import dataclass
from typing import Annotated
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "pydantic_core", "attrs", "attr"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from boilerd import InvalidPayloadError, ServeMux
from boilerd.testing import RecordingClient, run
@dataclass
class Email:
    to: Annotated[str, "whom"]
mux = ServeMux()
mux.handle("email:deliver", lambda task: task.payload.to, payload=list[Email] | Email)
client = RecordingClient(mux=mux)
try:
    client.enqueue("email:deliver", {"to": 5})
except InvalidPayloadError as error:
    told = str(error)
got = run(mux, "email:deliver", Email("ada"))
print(json.dumps([got, told, [*mux.schema()], sorted({"pydantic", "attr", "jsonschema"} & {*sys.modules})]))
"""


def test_neither_pydantic_nor_attrs_is_needed_or_imported() -> None:
    got, told, schemas, imported = run_python(WITHOUT_PYDANTIC, env=clean_environment())

    assert got == "ada"
    assert told == "payload: $.to: Expected `str`, got `int`"
    assert schemas == ["email:deliver"]
    assert imported == []


# What an error says, and what it keeps to itself.


class Known(BaseModel):
    free: Any = object()  # which no schema can show
    zone: typing.Any = None
    kind: Literal["a", "b"] = "a"
    number: int = 0
    place: pydantic.AnyUrl | None = None
    by_key: dict[str, int] = {}


@pytest.mark.parametrize(
    ("model", "payload", "told"),
    [
        (Order, {"firstName": 5}, "$.firstName: Input should be a valid string"),
        (
            Order,
            {"firstName": "a", "lines": [{"id": "secret", "placed_at": "secret"}]},
            "$.lines[0].id: Input should be a valid UUID, …; $.lines[0].placed_at: Input should be a valid datetime",
        ),
        (
            Order,
            {"firstName": "a", "byName": {"secret": {"id": 5}}},
            "$.byName[...].id: UUID input should be a string, bytes or UUID object; $.byName[...].placed_at: Field",
        ),
        (
            Shape,
            {"shape": "secret"},
            "$: Input tag … found using 'shape' does not match any of the expected tags: 'square', 'circle'",
        ),
        (
            Shape,
            {"shape": "it's a \"secret\"\n\x1b'x' …"},
            "$: Input tag … found using 'shape' does not match any of the expected tags: 'square', 'circle'",
        ),
        (Square, {"side": 1, "colour": "secret"}, "$.colour: Extra inputs are not permitted"),
        (Known, {"kind": "secret"}, "$.kind: Input should be 'a' or 'b'"),
        (
            Known,
            {"number": "secret"},
            "$.number: Input should be a valid integer, unable to parse string as an integer",
        ),
        (Known, {"place": "secret"}, "$.place: Input should be a valid URL, …"),
        (Known, {"by_key": {"secret": "secret"}}, "$.by_key[...]: Input should be a valid integer, unable"),
        (Parcel, {"order": {}, "weight": "secret"}, "$.order.firstName: Field required; $.weight: Input should be a"),
        (Person, {"name": "secret", "age": -4711}, "$.age: refused by <Validator for x >= 18>"),
        (list[Person], [{"name": "x"}, {"name": ""}], "$[1]: a name has letters"),
        (Strict, {"to": ["a"], "sent\x1b": "secret"}, "$: Object contains unknown field sent\\x1b"),
        (list[Strict], [{"to": ["a"], "x` - at `$.y": 1}], "$[0]: Object contains unknown field x` - at `$.y"),
        (Strict, {"to": ["a"], "x` - at `$.\x1b": 1}, "$.\\x1b: Object contains unknown field x"),
        (V1 | V2, {"version": 4711}, "$.version: Invalid value"),
        (Literal["a", "b"], "x - at `$.secret", "$: Invalid enum value"),
        (list[Literal["a", "b"]], ["x' - at `$.secret`"], "$[0]: Invalid enum value"),
    ],
)
def test_an_error_has_the_path_of_each_wrong_field_and_no_value(model: Any, payload: Any, told: str) -> None:
    error = refusal(model, payload)

    assert str(error).startswith(f"payload: {told}")
    assert not any(text in str(error) for text in ("secret", "4711"))
    assert error.__cause__ is None
    assert error.__context__ is None


def test_an_error_names_ten_wrong_fields_and_how_many_more_there_are() -> None:
    error = refusal(list[Square], [{"side": None}] * 25)

    assert str(error).count("Input should be") == 10
    assert str(error).endswith("; $[9].side: Input should be a valid integer; and 15 more")
    assert "more" not in str(refusal(list[Square], [{"side": None}] * 10))


def test_the_words_of_the_application_s_own_rules_are_told() -> None:
    class Even(BaseModel):
        number: int

        @pydantic.field_validator("number")
        @classmethod
        def _check(cls, number: int) -> int:
            if number % 2:
                raise ValueError("an even number is wanted")
            return number

    assert str(refusal(Even, {"number": 3})) == "payload: $.number: Value error, an even number is wanted"


def test_a_payload_that_is_nested_too_deep_for_pydantic_does_not_fit() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    payload: Any = deep
    for _ in range(100_000):
        payload = [payload]

    assert "recursion limit exceeded" in str(refusal(Known, {"zone": deep}))
    error = refusal(Known, {"zone": payload}, upgrade=fail)
    assert "nested too deep" in str(error)
    assert error.retry_within_s == 0


# attrs.


def test_validators_of_attrs_run() -> None:
    assert PayloadType(Person).decode({"name": "Ada", "age": 36}) == Person("Ada", 36)
    assert str(refusal(Person, {"name": ""})) == "payload: $: a name has letters"


def test_a_private_field_of_attrs_is_refused_which_would_be_lost() -> None:
    @attrs.define
    class Private:
        name: str
        _age: int = 18

    with pytest.raises(
        TypeError, match=r"payload: '_age' of .*Private'>, of attrs, is private and would not be written"
    ):
        PayloadType(list[Private])


def test_a_default_of_attrs_that_msgspec_cannot_make_is_refused_where_it_is_declared() -> None:
    @attrs.define
    class Doubled:
        once: int
        twice: int = attrs.field(default=attrs.Factory(lambda self: 2 * self.once, takes_self=True))

    with pytest.raises(TypeError, match=r"payload: msgspec cannot read .*Doubled"):
        PayloadType(Doubled)


# JSON Schema.

#: For each type payloads, some of which fit: what the schema says of them is what the decoder says.
AGREED: list[tuple[Any, list[Any]]] = [
    (Strict, [{"to": ["a"]}, {"to": []}, {"to": "a"}, {"to": ["a"], "retries": 6}, {"to": ["a"], "x": 1}, {}, None]),
    (V1 | V2, [{"version": 1, "to": "a"}, {"version": 2, "to": ["a"]}, {"version": 2, "to": "a"}, {"version": 3}, {}]),
    (Email, [{"to": "a"}, {"to": "a", "copies": ["b"]}, {"to": "a", "copies": None}, {"copies": []}, "a", {"to": 1}]),
    (list[Email] | None, [None, [], [{"to": "a"}], [{"to": 5}], [None], {"to": "a"}]),
    (Note, [{"text": "a"}, {"text": "a", "stars": 5}, {"text": "a", "stars": "5"}, {"stars": 5}, [], {"text": None}]),
    (Person, [{"name": "a"}, {"name": "a", "age": 20}, {"name": "a", "age": "20"}, {"age": 20}, 5, {"name": None}]),
    (Square, [{"side": 1}, {"side": 1.5}, {"side": "1"}, {"side": 1, "x": 2}, {"shape": "circle", "side": 1}, {}]),
    (Shape, [{"shape": "square", "side": 1}, {"shape": "circle", "radius": 1}, {"shape": "circle"}, {"shape": "x"}]),
    (Labelled, [{"square": {"side": 1}}, {"square": {}}, {"label": "x"}, {"square": {"side": 1}, "label": 5}]),
    (Pair, [[{"side": 1}, 5], [{"side": 1}], [{"side": "x"}, 5], [{"side": 1}, None]]),
    (Parcel, [{"order": {"firstName": "a"}, "weight": 1.5}, {"order": {"firstName": "a", "count": 0}, "weight": 1}]),
    (Branch, [{"at": 1}, {"at": 1, "sides": [{"at": 2}]}, {"at": 1, "sides": [{"at": 2, "sides": [{}]}]}]),
    (tuple[int, str] | dict[str, Email], [[1, "a"], [1], [1, "a", 2], {"x": {"to": "a"}}, {"x": {}}, {}]),
    (Literal["a", 1, None], ["a", 1, None, "b", 2, [None]]),
]
#: A datetime to every validator that does not look at formats.
LATE_LINE = {"id": "00000000-0000-0000-0000-000000000001", "placed_at": "late"}
CASES = [(model, payload) for model, payloads in AGREED for payload in payloads]


def fits(declared: PayloadType, payload: Any) -> bool:
    try:
        declared.decode(payload)
    except InvalidPayloadError:
        return False
    return True


@pytest.mark.parametrize(("model", "payload"), CASES, ids=str)
def test_a_schema_and_the_decoder_agree_on_what_fits(model: Any, payload: Any) -> None:
    declared = PayloadType(model)
    schema = declared.schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    assert jsonschema.Draft202012Validator(schema).is_valid(payload) == fits(declared, payload)


@pytest.mark.parametrize(
    ("model", "payload", "is_valid"),
    [
        (int, 1.0, True), (Annotated[Square, "x"], {"side": 1.0}, True), (UUID, "x", True), (Line, LATE_LINE, True),
        (dict[int, str], {"x": "a"}, True), (set[int], [1, 1], False), (Decimal, 5, False),
    ],
)  # fmt: skip
def test_they_do_not_agree_where_the_page_says_so(model: Any, payload: Any, is_valid: bool) -> None:
    declared = PayloadType(model)

    assert jsonschema.Draft202012Validator(declared.schema()).is_valid(payload) == is_valid
    assert fits(declared, payload) != is_valid


def test_there_are_payloads_enough_of_both_kinds() -> None:
    outcomes = [fits(PayloadType(model), payload) for model, payload in CASES]

    assert len(outcomes) >= 50
    assert min(outcomes.count(True), outcomes.count(False)) > 15


@pytest.mark.parametrize(
    ("model", "title"),
    [
        (Email, "Email"), (Square, "Square"), (list[Email], "list[Email]"), (V1 | V2, "V1 | V2"),
        (dict[str, Square] | None, "dict[str, Square] | None"), (Annotated[Email, "x"], "Email"),
        (dict[str, Hashable], "dict[str, Hashable]"),
    ],
)  # fmt: skip
def test_a_schema_has_the_name_of_the_type(model: Any, title: str) -> None:
    assert PayloadType(model).schema()["title"] == title


def test_a_mux_has_the_schemas_of_all_its_types_and_of_those_of_the_muxes_in_it() -> None:
    inner, outer = ServeMux(), ServeMux()
    inner.handle("email:deliver", lambda task: None, payload=Email)
    inner.handle("other:type", lambda task: None, payload=Email)  # which no task comes to
    outer.handle("email:", inner)
    outer.handle("shape:draw", lambda task: None, payload=Shape)
    outer.handle("bare", lambda task: None)

    assert [*outer.schema()] == ["email:deliver", "shape:draw"]
    assert outer.schema()["email:deliver"] == PayloadType(Email).schema()
    assert outer.payload_type("email:deliver") is inner.payload_type("email:deliver")


# Old payloads.


def to_list(payload: Any) -> Any:
    return {**payload, "version": 2, "to": [payload["to"]]}


def test_an_old_payload_is_upgraded_where_it_does_not_fit_and_only_there() -> None:
    seen: list[Any] = []

    def upgrade(payload: Any) -> Any:
        seen.append(payload)
        return to_list(payload)

    declared = PayloadType(V2, upgrade=upgrade)

    assert declared.decode({"version": 2, "to": ["a"]}) == V2(["a"])
    assert seen == []
    assert declared.decode({"version": 1, "to": "a"}) == V2(["a"])
    assert seen == [{"version": 1, "to": "a"}]
    declared.check(b'{"version": 1, "to": "a"}')


def test_a_dict_for_a_model_whose_serializers_are_tried_is_no_reason_to_refuse_it() -> None:
    assert sent({"moment": "2027-01-31T08:00:00Z"}, Late) == b'{"moment":"2027-01-31T08:00:00Z"}'


def fail(payload: Any) -> NoReturn:
    raise KeyError("to")


def revoke(payload: Any) -> NoReturn:
    raise RevokeTask("nobody wants it any more")


@pytest.mark.parametrize(
    ("upgrade", "told"),
    [
        (fail, "payload: upgrade fail raised KeyError: 'to'"),
        (to_list, "payload: $.to[0]: Expected `str`, got `int`, after upgrade to_list"),
    ],
)
def test_an_upgrade_that_does_not_help_is_named(upgrade: Callable[[Any], Any], told: str) -> None:
    error = refusal(V2, {"to": 5}, upgrade=upgrade)

    assert str(error) == told
    assert error.retry_within_s == MISFIT_RETRY_S


def by_pydantic(payload: Any) -> Any:
    return Square.model_validate(payload)


def by_msgspec(payload: Any) -> Any:
    return msgspec.convert(payload["to"], Literal["a", "b"])


@pytest.mark.parametrize("upgrade", [by_pydantic, by_msgspec])
def test_an_upgrade_that_a_library_refuses_shows_no_value(upgrade: Callable[[Any], Any]) -> None:
    error = refusal(V2, {"to": "secret"}, upgrade=upgrade)

    assert str(error).startswith(f"payload: upgrade {upgrade.__name__} raised a ValidationError, whose words may hold")
    assert "secret" not in "".join(traceback.format_exception(error))


def test_an_upgrade_may_decide_about_the_task() -> None:
    with pytest.raises(RevokeTask):
        PayloadType(V2, upgrade=revoke).decode({})


async def later(payload: Any) -> Any:
    return payload


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"payload": Email, "upgrade": later}, TypeError, "upgrade: later is no plain function"),
        ({"payload": Email, "upgrade": lambda: None}, TypeError, r"cannot be called with \(payload\)"),
        ({"payload": Email, "on_misfit": "drop"}, ValueError, "on_misfit='drop': use 'retry' or 'archive'"),
        ({"upgrade": to_list}, TypeError, "upgrade= and on_misfit= are for payload=, which is missing"),
        ({"on_misfit": "archive"}, TypeError, "upgrade= and on_misfit= are for payload=, which is missing"),
    ],
)
def test_what_could_not_work_is_refused_where_it_is_declared(
    options: dict[str, Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        ServeMux().handle("test:echo", lambda task: None, **options)


# Misfits.


def mux_for(**options: Any) -> ServeMux:
    mux = ServeMux()
    mux.handle("test:echo", lambda task: None, payload=Email, **options)
    return mux


def attempt(broker: Broker, mux: ServeMux) -> Verdict | None:
    """Claim the next task, run it and record what became of it."""
    rules = Rules.of(mux, RetryPolicy(), lambda handler: handler)
    held = claim(broker)
    task = rules.task_of(held)
    assert task is not None
    outcome = AttemptRunner(mux).run(task)
    assert isinstance(outcome, Failed)
    assert "Expected `str`, got `int`" in describe(outcome.error)
    return broker.fail(WORKER, held, rules.decide_failure(task_in(held), outcome.error, outcome.traceback))


def grow_older(connection: redis.Redis, task_id: str, by: timedelta) -> None:
    """Let the task have come to its queue so much earlier."""
    came = datetime.now(UTC) - by
    connection.hset(keys.job(task_id), "enqueued_at", came.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def test_a_task_whose_payload_does_not_fit_is_tried_again_while_it_is_young(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", {"to": 5}).id

    assert attempt(broker, mux_for()) is Verdict.RETRY

    assert connection.hget(keys.job(task_id), "number_of_retries") == b"1"
    make_due(connection)
    assert run(mux_for(), "test:echo", {"to": "now it fits"}) is None
    assert attempt(broker, mux_for()) is Verdict.RETRY


def test_a_task_whose_payload_does_not_fit_is_archived_when_it_has_grown_old(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", {"to": 5}).id
    grow_older(connection, task_id, timedelta(minutes=9))
    assert attempt(broker, mux_for()) is Verdict.RETRY
    connection.hincrbyfloat(keys.job(task_id), "retried_until", -120)
    make_due(connection)  # which notes that it has just come to its queue

    assert attempt(broker, mux_for()) is Verdict.ARCHIVE

    assert connection.zrange(keys.registry("failed", "default"), 0, -1) == [task_id.encode()]
    assert b"got `int`" in (connection.hget(keys.job(task_id), "last_error") or b"")
    assert connection.hget(keys.job(task_id), "retried_until") is None


def test_a_task_that_has_waited_long_before_its_first_attempt_is_archived_at_once(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    grow_older(connection, client.enqueue("test:echo", {"to": 5}).id, timedelta(minutes=11))

    assert attempt(broker, mux_for()) is Verdict.ARCHIVE


def test_a_scheduled_task_is_as_old_as_the_time_since_it_became_due(
    client: Client, broker: Broker, connection: redis.Redis
) -> None:
    task_id = client.enqueue("test:echo", {"to": 5}, process_in=86400).id
    connection.hset(keys.job(task_id), "created_at", "2020-01-01T00:00:00.000000Z")
    grow_older(connection, task_id, timedelta(days=1))
    make_due(connection)

    assert attempt(broker, mux_for()) is Verdict.RETRY


def test_a_foreign_end_of_the_retries_is_passed_over(client: Client, broker: Broker, connection: redis.Redis) -> None:
    task_id = client.enqueue("test:echo", {"to": 5}).id
    connection.hset(keys.job(task_id), "retried_until", "soon")

    assert attempt(broker, mux_for()) is Verdict.RETRY


def test_a_task_without_retries_is_archived_at_once_also_where_its_payload_does_not_fit(
    client: Client, broker: Broker
) -> None:
    client.enqueue("test:echo", {"to": 5}, max_retries=0)

    assert attempt(broker, mux_for()) is Verdict.ARCHIVE


def test_a_type_may_have_its_misfits_archived_at_once(client: Client, broker: Broker) -> None:
    client.enqueue("test:echo", {"to": 5})

    assert attempt(broker, mux_for(on_misfit="archive")) is Verdict.ARCHIVE


def test_a_misfit_is_retried_whatever_retry_on_names_and_unless_discard_on_names_it() -> None:
    error, task = refusal(Email, {"to": 5}), Task("a", "test:echo")

    kept = decide(error, task, RetryPolicy(retry_on=(OSError,)), Hooks())
    discarded = decide(error, task, RetryPolicy(discard_on=(InvalidPayloadError,)), Hooks())

    assert kept == Decision(Verdict.RETRY, 1.0, within_s=MISFIT_RETRY_S)
    assert discarded == Decision(Verdict.ARCHIVE)


def test_a_wrong_payload_that_a_handler_enqueues_is_no_misfit_of_its_own_task() -> None:
    mux = mux_for()

    @mux.handle("parent")
    def parent(task: Task) -> None:
        RecordingClient(mux=mux).enqueue("test:echo", {"to": 5})

    with pytest.raises(InvalidPayloadError) as raised:
        run(mux, "parent")

    assert decide(raised.value, Task("a", "parent"), RetryPolicy(), Hooks()) == Decision(Verdict.ARCHIVE)
