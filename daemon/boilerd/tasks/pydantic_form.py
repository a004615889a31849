"""Payloads of types with something of pydantic's in them: one adapter of pydantic's reads and writes the whole type.

What would not come back from JSON as what it was is refused: where the type is declared, if that can be seen there,
else where the payload is enqueued.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec

from boilerd.errors import InvalidPayloadError, shown
from boilerd.tasks.msgspec_form import Form, Refused
from boilerd.tasks.payload import shown_key
from boilerd.tasks.type_parts import has_mark, parts_of, refuse_old

#: An error names so many wrong fields.
MOST_PROBLEMS = 10
#: What pydantic puts into its messages of the type; all else may be of the payload, and is not told.
_OF_THE_TYPE = frozenset(
    {
        "actual_length", "class", "class_name", "decimal_places", "discriminator", "encoding", "expected",
        "expected_schemes", "expected_tags", "expected_type", "expected_version", "field_type", "ge", "gt", "le", "lt",
        "max_digits", "max_length", "min_length", "multiple_of", "pattern", "tz_expected", "whole_digits",
    }
)  # fmt: skip
#: Settings of a model by which it may write what it does not read as the same.
_DOUBTFUL = ("ser_json_bytes", "ser_json_timedelta", "ser_json_temporal", "validate_by_alias")
#: Of JSON that we have written: it is nested deeper than pydantic reads it, which is 200.
_TOO_DEEP = "json_invalid"
#: Kinds of fields that are written by their names where a client does not know the type.
_OWN_NAMES = ("dataclass-field", "typed-dict-field")
_EXPLAINED = "\n\nFor further information"


class PydanticForm(Form):
    """Reads and writes them by pydantic."""

    def __init__(self, model: Any) -> None:
        pydantic = sys.modules["pydantic"]
        self._model = model
        _check_classes(model)
        try:
            self._adapter = pydantic.TypeAdapter(model)
            with warnings.catch_warnings(action="ignore"):  # of defaults that a schema cannot show
                self._schema: dict[str, Any] = self._adapter.json_schema(mode="validation")
                written = self._adapter.json_schema(mode="serialization")
        except (pydantic.PydanticUserError, NameError) as error:
            told = str(error).partition(_EXPLAINED)[0]
            raise TypeError(f"payload: pydantic cannot read and describe {shown(model)} as JSON: {told}") from error
        _check_written(model, self._schema, written)
        _check_aliases(model, self._adapter.core_schema)
        self._names = {name for names in _properties(self._schema).values() for name in names}
        self._is_doubtful = _is_doubtful(self._adapter.core_schema)
        self._dump = functools.partial(self._adapter.dump_python, mode="json", by_alias=True, round_trip=True)
        self.to_plain = self._to_plain
        self._refusals = (pydantic.ValidationError, RecursionError)

    def decoder(self, refused: Refused) -> Callable[[Any], Any]:
        """From JSON, which takes texts for datetimes also in strict models; written anew, as few types need it."""
        validate, refusals = self._adapter.validate_json, self._refusals

        def decode(value: Any) -> Any:
            try:
                return validate(msgspec.json.encode(value))
            except refusals as error:
                problem = error
            return refused(problem, value)

        return decode

    def _to_plain(self, payload: Any) -> Any:
        """As the adapter writes it, without what is computed.

        Raises:
            InvalidPayloadError: It would come back as something else.
        """
        try:
            plain = self._dump(payload, warnings="error")
        except (ValueError, TypeError):
            return self._plain_of_other(payload)
        if self._is_doubtful and not self._comes_back(plain, payload):
            raise InvalidPayloadError(
                f"payload: {shown(self._model)} writes it as JSON that is read as something else;"
                " let its serializers write what its validators read"
            )
        return plain

    def _comes_back(self, plain: Any, payload: Any) -> bool:
        try:
            return _is_same(payload, self._adapter.validate_json(msgspec.json.encode(plain)))
        except self._refusals:
            return True  # that it does not fit, and where, is told when it is checked

    def _plain_of_other(self, payload: Any) -> Any:
        """Of what is no instance of the type, but may fit it: values for JSON, with models among them or not."""
        try:
            return self._dump(payload, warnings="none")
        except (ValueError, TypeError):
            return payload  # such as numbers of numpy, for which `encode_payload` has a form

    def problem(self, error: Any, value: Any) -> str:
        """The path of each wrong field, and what is wrong with it."""
        found = error.errors(include_url=False, include_input=False)
        told = [f"{_path(each, value, self._names)}: {_message(each)}" for each in found[:MOST_PROBLEMS]]
        more = [f"and {len(found) - MOST_PROBLEMS} more"] if len(found) > MOST_PROBLEMS else []
        return "; ".join(told + more)

    def schema(self) -> dict[str, Any]:
        """As pydantic has it for what is read."""
        return self._schema


def _is_same(payload: Any, other: Any) -> bool:
    """True for equal values; private attributes of models, which are never written, may differ."""
    if fields := getattr(type(other), "__pydantic_fields__", None):
        return isinstance(payload, type(other)) and all(
            _is_same(getattr(payload, name), getattr(other, name)) for name in fields
        )
    if isinstance(other, dict):
        return payload.keys() == other.keys() and all(_is_same(payload[key], other[key]) for key in other)
    if isinstance(other, list | tuple):
        return len(payload) == len(other) and all(map(_is_same, payload, other))
    return bool(payload == other)


def _message(problem: dict[str, Any]) -> str:
    """What pydantic says, without what it says of the payload; an error of the application's code has its own words."""
    told = str(problem["msg"])
    for name, value in problem.get("ctx", {}).items():
        if not (name in _OF_THE_TYPE or isinstance(value, Exception) or problem["type"] == _TOO_DEEP) and str(value):
            quoted = f"'{value}'"
            told = told.replace(quoted if quoted in told else str(value), "…")
    return told


def _path(problem: dict[str, Any], value: Any, names: Collection[str]) -> str:
    """Where it is, as in ``$.a[0].b``; other keys than names of fields are texts of the payload, and not shown."""
    path = "$"
    for place, part in enumerate(problem["loc"], 1):
        is_last_of_missing = problem["type"] == "missing" and place == len(problem["loc"])
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, dict) and (str(part) in value or is_last_of_missing):
            path, value = path + _step(problem, str(part), names), value.get(str(part))
        # Anything else is no place in the payload: the name of a member of a union, or of a validator.
    return path


def _step(problem: dict[str, Any], part: str, names: Collection[str]) -> str:
    if part in names:
        return f".{part}"
    return f".{shown_key(part)}" if problem["type"] == "extra_forbidden" else "[...]"


# --- What is refused where the type is declared


def _check_classes(model: Any) -> None:
    for part in parts_of(model):
        refuse_old(part)
        is_other = hasattr(part, "__struct_fields__") or hasattr(part, "__attrs_attrs__")
        if isinstance(part, type) and is_other and not has_mark(part):
            raise TypeError(
                f"payload: {part!r} has classes of pydantic around or beside it, which can read it no more than msgspec"
                " can read theirs; make a dataclass or a pydantic.BaseModel of it"
            )


def _check_written(model: Any, read: dict[str, Any], written: dict[str, Any]) -> None:
    """Raise TypeError if something of the type is written as what is not read as the same."""
    if any(part.get("writeOnly") for part in _objects(read)):
        raise TypeError(
            f"payload: {shown(model)} holds a secret (as SecretStr), which is written as stars;"
            " store it elsewhere, and send its name"
        )
    known = _properties(written)
    for where, names in _properties(read).items():
        if lost := sorted(names - known.get(where, names)):
            raise TypeError(
                f"payload: {lost[0]!r} of {where or shown(model)} is read and never written, so that it would be lost;"
                " give it one alias for both, and no exclude"
            )


def _check_aliases(model: Any, core_schema: Any) -> None:
    """Raise TypeError if a value of the type is written by other names where its type is not known."""
    for part in _objects(core_schema, without="model"):
        if part.get("type") in _OWN_NAMES and part.get("validation_alias"):
            raise TypeError(
                f"payload: {part['validation_alias']!r} in {shown(model)} is an alias outside of a model, which only"
                " clients that know the mux would write; derive its class from pydantic.BaseModel"
            )


def _properties(schema: dict[str, Any]) -> dict[str, set[str]]:
    """The names of the fields of each class, and under an empty name those of the type itself."""
    classes = {"": schema, **schema.get("$defs", {})}
    return {name: {*definition.get("properties", ())} for name, definition in classes.items()}


def _objects(value: Any, *, without: str = "") -> Iterator[dict[str, Any]]:
    """All objects in a schema, from outside to inside, but for those of one type."""
    todo = [value]
    for part in todo:  # which grows meanwhile
        if isinstance(part, dict) and (not without or part.get("type") != without):
            yield part
            todo += part.values()
        elif isinstance(part, list | tuple):
            todo += part


def _is_doubtful(core_schema: Any) -> bool:
    """True if only a try shows whether a value comes back: where functions write it, or settings change its form."""
    for part in _objects(core_schema):
        serialization = part.get("serialization")
        if isinstance(serialization, dict) and str(serialization.get("type")).startswith("function"):
            return True
        if any(name in part for name in _DOUBTFUL):
            return True
    return False
