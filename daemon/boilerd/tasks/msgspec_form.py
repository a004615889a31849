"""Payloads that msgspec reads: dataclasses, TypedDicts, NamedTuples, Structs, classes of attrs, and unions of such."""

from collections.abc import Callable
from typing import Any

import msgspec
import msgspec.inspect

from boilerd.errors import shown
from boilerd.tasks.payload import shown_key
from boilerd.tasks.type_parts import refuse_old

#: Behind these msgspec shows a value of the payload: errors of tasks are logged, and payloads are not.
_OF_VALUES = ("Invalid value", "Invalid enum value")
#: Behind this stands the name of a field, which may be any text.
_UNKNOWN = "Object contains unknown field"

_PLAIN_CLASSES = "use a plain dataclass with __post_init__, or a msgspec.Struct"


#: Gets the error and the payload that does not fit; what it returns is the payload decoded.
Refused = Callable[[Exception, Any], Any]


class Form:
    """How the payloads of a type are read and written: by msgspec, or by pydantic."""

    #: Makes values that JSON has of a payload as the application has it; None: the usual ones.
    to_plain: Callable[[Any], Any] | None = None

    def decoder(self, refused: Refused) -> Callable[[Any], Any]:
        """A function that makes the payload, as the type, of values that JSON has, or leaves them to `refused`."""
        raise NotImplementedError

    def problem(self, error: Exception, value: Any) -> str:
        """What is wrong with the payload `value`, with paths, and without any part of it but names of fields."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the payloads that fit."""
        raise NotImplementedError


class MsgspecForm(Form):
    """Reads them by msgspec."""

    def __init__(self, model: Any) -> None:
        check_model(model)
        self._model = model

    def decoder(self, refused: Refused) -> Callable[[Any], Any]:
        """One function, no method that calls another: each task with a declared payload comes here."""
        convert, model = msgspec.convert, self._model

        def decode(value: Any) -> Any:
            try:
                return convert(value, model, str_keys=True)
            except (msgspec.ValidationError, TypeError, RecursionError) as error:  # TypeError: of a list in a set
                problem = error
            return refused(problem, value)

        return decode

    def problem(self, error: Exception, value: Any) -> str:
        """The path of the first wrong field, and what is wrong with it."""
        if isinstance(error, TypeError):
            return str(error)
        told, path = _told_of(str(error))
        path = repr(path.replace("`", ""))[1:-1]
        if refused := _refused_by_attrs(error):
            return f"{path}.{refused}"
        return f"{path}: {_without_value(told)}"

    def schema(self) -> dict[str, Any]:
        """As msgspec has it."""
        return msgspec.json.schema(self._model, schema_hook=lambda kind: {"title": kind.__name__})


def _told_of(text: str) -> tuple[str, str]:
    """What msgspec tells of a field, and its path, which comes last; of the payload as a whole it names none."""
    if not text.endswith("`"):  # a value may have the words in it
        return text, "$"
    told, _, path = text[:-1].rpartition(" - at `")
    return (told, path) if told else (text, "$")


def _without_value(told: str) -> str:
    for text in _OF_VALUES:
        if told.startswith(text):
            return text
    return f"{_UNKNOWN} {shown_key(told[len(_UNKNOWN) :].strip(' `'))}" if told.startswith(_UNKNOWN) else told


def _refused_by_attrs(error: Exception) -> str:
    """What is told where a validator refused a value that attrs brings along: its own words have the value in them."""
    trace = error.__cause__.__traceback__ if error.__cause__ else None
    while trace and trace.tb_next:
        trace = trace.tb_next
    if not trace or trace.tb_frame.f_globals.get("__name__") != "attr.validators":
        return ""
    found = trace.tb_frame.f_locals  # of its __call__(self, inst, attr, value)
    return f"{getattr(found.get('attr'), 'name', '?')}: refused by {found.get('self')!r}"


def check_model(model: Any) -> None:
    """Raise TypeError if no JSON value can be decoded as `model`."""
    try:
        msgspec.json.Decoder(model)
    except (NotImplementedError, TypeError) as error:  # the first of a default of attrs that takes the object
        raise TypeError(f"payload: msgspec cannot read {shown(model)}: {error}") from error
    todo: list[object] = [msgspec.inspect.type_info(model)]
    seen: set[int] = set()  # a type may contain itself
    while todo:
        part = todo.pop()
        if isinstance(part, tuple):
            todo += part
        elif isinstance(part, msgspec.inspect.CustomType | msgspec.inspect.RawType):
            _check_rules(part)
            _check_custom(part)
        elif isinstance(part, msgspec.inspect.Type | msgspec.inspect.Field) and id(part) not in seen:
            _check_rules(part)
            seen.add(id(part))
            todo += (getattr(part, name) for name in part.__struct_fields__)


def _check_rules(part: msgspec.inspect.Type | msgspec.inspect.Field) -> None:
    """Raise TypeError if the class has rules or values of its library's that msgspec would pass over without a word."""
    kind = getattr(part, "cls", None)
    refuse_old(kind)
    fields = getattr(kind, "__attrs_attrs__", ())
    if private := next((field.name for field in fields if field.name.startswith("_")), None):
        raise TypeError(
            f"payload: {private!r} of {kind!r}, of attrs, is private and would not be written; {_PLAIN_CLASSES}"
        )
    if any(field.converter for field in fields):
        raise TypeError(f"payload: the converters of {kind!r}, of attrs, would not run; {_PLAIN_CLASSES}")


def _check_custom(part: msgspec.inspect.CustomType | msgspec.inspect.RawType) -> None:
    """Raise TypeError if no JSON value is an instance of the class; msgspec accepts any, for decoders with hooks."""
    kind = msgspec.Raw if isinstance(part, msgspec.inspect.RawType) else part.cls
    if not any(issubclass(plain, kind) for plain in (dict, list, str, int, float, bool, type(None))):
        raise TypeError(f"payload: nothing can be decoded as {kind!r}; use a dataclass, TypedDict or msgspec.Struct")
