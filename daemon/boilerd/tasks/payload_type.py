"""What a handler declared with ``payload=``: it reads its payloads, checks those of others, and describes them.

msgspec reads them, unless something of pydantic's is anywhere in the type: then an adapter of pydantic's takes all of
it, so that pydantic's rules are applied by pydantic. Neither pydantic nor attrs is imported for that: a class of theirs
comes from an application that has done so.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import msgspec

from boilerd.errors import BoilerdError, InvalidPayloadError, describe, shown
from boilerd.tasks.callables import check_plain, name_of
from boilerd.tasks.msgspec_form import Form, MsgspecForm
from boilerd.tasks.payload import TOO_DEEP
from boilerd.tasks.type_parts import is_of_pydantic

#: What becomes of a task whose payload does not fit: it is tried again while it is young, or archived at once.
OnMisfit = Literal["retry", "archive"]
Upgrade = Callable[[Any], Any]

#: A rolling deployment takes that long, in which old workers meet the payloads of new code, or the other way round.
MISFIT_RETRY_S = 600.0


class PayloadType:
    """The declared type of a payload.

    Args:
        model: A dataclass, TypedDict, class of msgspec, attrs or pydantic, or a type made of such.
        upgrade: Makes the type's form of today of a payload that does not fit, before that is refused.
        on_misfit: What becomes of a task whose payload does not fit.

    Raises:
        TypeError: No payload could have that type, or rules of its library's would be passed over; or `upgrade` is no
            plain function.
        ValueError: `on_misfit` is neither ``retry`` nor ``archive``.

    Attributes:
        model: The type.
        decode: Makes the payload, as the type, of the values that JSON has. Raises InvalidPayloadError where it does
            not fit; the message has the path of each wrong field, such as ``$.to[1]: Expected `str`, got `int```.
        to_plain: See `msgspec_form.Form`.
    """

    def __init__(self, model: Any, *, upgrade: Upgrade | None = None, on_misfit: OnMisfit = "retry") -> None:
        if upgrade is not None:
            check_plain("upgrade", upgrade, "payload")
        if on_misfit not in get_args(OnMisfit):
            raise ValueError(f"on_misfit={shown(on_misfit)}: use 'retry' or 'archive'")
        self.model = model
        self._form = _form_of(model)
        self.decode = self._form.decoder(self._decode_old)
        self._decode_upgraded = self._form.decoder(self._refuse_upgraded)
        self.to_plain = self._form.to_plain
        self._upgrade = upgrade
        self._retry_within_s = MISFIT_RETRY_S if on_misfit == "retry" else 0.0

    def check(self, encoded: bytes) -> None:
        """Raise InvalidPayloadError if a worker could not decode the payload, which is JSON."""
        try:
            self.decode(msgspec.json.decode(encoded))
        except InvalidPayloadError as error:
            error.retry_within_s = 0.0  # where a handler enqueues it, that is a mistake of the handler's
            raise

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the payloads that fit without an upgrade."""
        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": _title(self.model)}
        return dialect | self._form.schema()

    def _decode_old(self, error: Exception, value: Any) -> Any:
        """Decode a payload that did not fit, after the upgrade; or say what is wrong with it."""
        if self._upgrade is None or isinstance(error, RecursionError):
            raise self._misfit(error, value)
        try:
            value = self._upgrade(value)
        except BoilerdError:  # such as RevokeTask
            raise
        except Exception as failure:
            raise self._error(f"upgrade {name_of(self._upgrade)} raised {describe(failure)}") from failure
        return self._decode_upgraded(value)

    def _refuse_upgraded(self, error: Exception, value: Any) -> NoReturn:
        raise self._misfit(error, value, f", after upgrade {name_of(self._upgrade)}")

    def _misfit(self, error: Exception, value: Any, how: str = "") -> InvalidPayloadError:
        if isinstance(error, RecursionError):
            return InvalidPayloadError(TOO_DEEP)
        return self._error(self._form.problem(error, value) + how)

    def _error(self, problem: str) -> InvalidPayloadError:
        error = InvalidPayloadError(f"payload: {problem}")
        error.retry_within_s = self._retry_within_s
        return error


def _form_of(model: Any) -> Form:
    if not is_of_pydantic(model):
        return MsgspecForm(model)
    from boilerd.tasks.pydantic_form import PydanticForm  # noqa: PLC0415 - for applications with pydantic

    return PydanticForm(model)


def _title(model: Any) -> str:
    """The name of the type, as the application's code has it."""
    if get_origin(model) is Annotated:
        return _title(get_args(model)[0])
    if isinstance(model, type) and get_origin(model) is None:
        return model.__name__
    return re.sub(r"[\w.<>]+\.(?=\w)", "", str(model))
