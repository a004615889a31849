"""One setting as people write and read it: in the file, in variables, as a flag, in messages."""

from collections.abc import Callable, Mapping
from functools import cached_property
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

from boilerd.errors import shown
from boilerd.settings.problems import convert, problem_of
from boilerd.settings.urls import MASK

_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """How people write and read a setting; stands in the Annotated type of its definition.

    Attributes:
        is_secret: True if nobody may see the value. It has no flag, for everybody who can run `ps` reads those; it
            may also come from a file (``…_FILE``) or from a systemd credential of the setting's name.
        expected: Describes a valid value, where the type does not.
        parse: Makes of the text of a variable or flag what the file would hold.
        read: Makes the value of what the file would hold, instead of the type; `strict` as with msgspec.
        check: Raises ValueError or a BoilerdError for a value of the right type that is not allowed.
        mask: Hides the passwords in a value, or in any other text.
        example: The lines in conf/boilerd.toml, for tables without a default.
        boiler_go: The environment variable by which boiler-go knows the setting.
        from_boiler_go: Makes of the text of that variable the text of our own.
        rq: The environment variable by which RQ knows it.
    """

    is_secret: bool = False
    expected: str = ""
    parse: Callable[[str], Any] | None = None
    read: Callable[..., Any] | None = None
    check: Callable[[Any], object] | None = None
    mask: Callable[[str], str] = str
    example: str = ""
    boiler_go: str = ""
    from_boiler_go: Callable[[str], str] = str
    rq: str = ""


class Setting(msgspec.Struct, frozen=True, dict=True):
    """One definition: its name, its type with a description and a `Form`, and its default."""

    name: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"BOILERD_{self.name.upper()}"

    @cached_property
    def variables(self) -> Mapping[str, Callable[[str], str]]:
        """All its environment variables → what makes our own text of theirs; a later one wins."""
        found: dict[str, Callable[[str], str]] = {self.form.boiler_go: self.form.from_boiler_go, self.form.rq: str}
        found[self.variable] = str
        return {name: our_text for name, our_text in found.items() if name}

    @cached_property
    def form(self) -> Form:
        """How people write and read it."""
        return next((each for each in self.type.__metadata__ if isinstance(each, Form)), Form())

    @property
    def limits(self) -> msgspec.Meta:
        """The description and limits that stand with the type."""
        return next(each for each in self.type.__metadata__ if isinstance(each, msgspec.Meta))

    @property
    def doc(self) -> str:
        """The sentence that says what it is."""
        return self.limits.description or ""

    @property
    def is_json(self) -> bool:
        """True if it is made of tables, so that its variable holds JSON, and it has no flag."""
        base = _base_type(self.type)
        return any(isinstance(part, type) and issubclass(part, msgspec.Struct) for part in (base, *get_args(base)))

    @property
    def has_flag(self) -> bool:
        """True if commands take it as a flag."""
        return not self.form.is_secret and not self.is_json

    def parse(self, text: str) -> Any:
        """The value that the file would hold instead of this text; people write INFO, yes and " 4 "."""
        if self.is_json:
            return msgspec.json.decode(text)
        if self.form.parse:
            return self.form.parse(text)
        base = _base_type(self.type)
        if base is str:  # a path or a password may begin with a space
            return text
        meant = text.strip()
        if base is bool:
            return _SWITCHES.get(meant.lower(), meant)
        return meant.lower() if get_origin(base) is Literal else meant

    def convert(self, value: Any, *, strict: bool = True) -> Any:
        """The value of the setting's type for what the file holds; raises msgspec's errors and ValueError."""
        if self.form.read:
            return self.form.read(value, strict=strict)
        return convert(value, self.type, strict=strict)

    def problem(self, value: Any, *, strict: bool = True) -> str:
        """What is wrong with a value that has tables; empty: nothing that its type knows of."""
        if self.form.expected and not isinstance(value, dict | list):
            return f"{shown(value)} is not {self.form.expected}"
        return problem_of(self.type, value, strict=strict)

    def expected(self) -> str:
        """A description of valid values."""
        base = _base_type(self.type)
        if text := self.form.expected or getattr(base, "hint", ""):
            return str(text)
        if get_origin(base) is Literal:
            return "one of " + ", ".join(get_args(base))
        if base is bool:
            return "true or false"
        if base is int:
            most = f" and at most {self.limits.le}" if self.limits.le else ""
            return f"a whole number of at least {self.limits.ge}{most}"
        return "text"

    def masked(self, text: str) -> str:
        """The text of a value without its secrets."""
        return MASK if self.form.is_secret else self.form.mask(text)

    def shown(self, value: Any) -> Any:
        """The value as people may see it: secrets masked, durations and sizes readable."""
        return self.masked(value) if isinstance(value, str) else msgspec.to_builtins(value, enc_hook=str)


def _base_type(annotated: Any) -> Any:
    """The type without its limits and without None."""
    bare = get_args(annotated)[0]
    return get_args(bare)[0] if isinstance(bare, UnionType) else bare
