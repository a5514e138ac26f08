"""JSON files, read strictly into frozen dataclasses, and written.

A file may come from anywhere. It must hold what the annotations of a class say, and nothing else.
Annotations may be `str`, `int`, `float` (an integer in JSON too), `bool`, `Any`, `Figure`,
`Literal`, `X | None`, `Annotated` with a `Fits`, lists and tuples, `dict` and `Mapping` by string,
dataclasses, and `TypedDict`, which stays a `dict`. A field with a default may be missing, except a
`Literal`: `format: Literal[1] = 1` is required.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from adadm.runtime.bounds import Fits
from adadm.runtime.errors import AdadmError
from adadm.runtime.files import opened, written_whole

Figure = Annotated[float, "null where it is not finite"]
"""A float that may be infinite. JSON has no infinity: null stands for it."""

_Class = TypeVar("_Class")

_DEEPEST = 64
"""Nesting depth of lists and objects. Our files have 6; Python's recursion stops at about 1000."""
_MOST_DIGITS = 19
"""Digits of an integer: enough for 64 bits."""
_MOST_BYTES = 1 << 28
_DIGITS = 6

_NAMES = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}
_PLURALS = {str: "texts", int: "integers", float: "numbers"}


@dataclass(frozen=True)
class Source:
    """A file, and the error to raise if it cannot be used.

    Attributes:
        error: class of the error.
        advice: remedy at the end of each message; may be empty.
    """

    path: Path
    error: type[AdadmError]
    advice: str = ""

    def refused(self, problem: object) -> AdadmError:
        """The error to raise, with a one-line message."""
        return self.error(f"{self.path}: {problem}" + (self.advice and f"; {self.advice}"))


def key(name: str) -> Any:
    """A field of a dataclass whose name in JSON differs."""
    return field(metadata={"key": name})


def read(hint: type[_Class], path: Path, *, error: type[AdadmError], advice: str = "") -> _Class:
    """Read a file as a dataclass, or as another supported type (see the module).

    Args:
        error, advice: as in `Source`.

    Raises:
        AdadmError: of class `error`, if the file cannot be read or does not fit.
    """
    source = Source(path, error, advice)
    return convert(load(source), hint, source)


def load(source: Source) -> Any:
    """Read a file of bounded size with `parse_json`.

    Raises:
        AdadmError: the file cannot be read, or exceeds a bound.
    """
    try:
        with opened(source.path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ValueError(f"expected at most {_MOST_BYTES} bytes, got more")
        return parse_json(content.decode("utf-8-sig"))  # some editors write that mark
    except OSError as error:
        raise source.refused(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise source.refused(f"cannot be read as JSON: {error}") from error


def parse_json(text: str) -> Any:
    """Parse JSON with bounds on its depth and its numbers.

    Raises:
        ValueError: the text is not JSON by RFC 8259, exceeds a bound, or repeats a name in an
            object.
    """
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_without_doubles,
        )
        _check_depth(value)
    except RecursionError as error:
        raise ValueError(f"expected at most {_DEEPEST} levels of nesting, got more") from error
    return value


def convert(value: Any, hint: type[_Class], source: Source) -> _Class:
    """Convert a JSON value to an annotated type.

    Raises:
        AdadmError: the value has the wrong type, or missing or unknown names; it says where.
    """
    try:
        converted: _Class = _converted(value, hint)
    except _Misfit as misfit:
        raise source.refused(misfit) from None
    return converted


class _Misfit(Exception):
    """A value that does not match its annotation, and the keys to it, innermost first."""

    def __init__(self, expected: str, found: str) -> None:
        self.problem, self.keys = f"expected {expected}, {found}", list[str]()

    def __str__(self) -> str:
        return ": ".join(filter(None, (".".join(reversed(self.keys)), self.problem)))


def _below(key: object, value: Any, hint: Any) -> Any:
    try:
        return _converted(value, hint)
    except _Misfit as misfit:
        name = str(key)  # arbitrary text from the file
        misfit.keys.append(name if re.fullmatch(r"\w{1,40}", name) else reprlib.repr(name))
        raise


def _converted(value: Any, hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):  # one type and None
        return None if value is None else _converted(value, inner[0])
    if origin is Annotated and not isinstance(inner[1], Fits):  # a `Figure`
        return math.inf if value is None else _converted(value, inner[0])
    if origin is Annotated:
        converted = _converted(value, inner[0])
        if not inner[1].test(converted):
            raise _Misfit(_named(hint), f"got {reprlib.repr(value)}")
        return converted
    if origin is Literal and any(
        value == choice and type(value) is type(choice) for choice in inner
    ):
        return value
    if origin in (tuple, list) and type(value) is list:
        hints = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        if len(hints) == len(value):
            return origin(map(_below, range(len(value)), value, hints))
    if origin in (dict, Mapping) and type(value) is dict:
        return {name: _below(name, entry, inner[1]) for name, entry in value.items()}
    if (is_dataclass(hint) or is_typeddict(hint)) and type(value) is dict:
        return _object(value, hint)
    if type(value) is hint or (hint is float and type(value) is int):  # True is an int too
        return value
    raise _Misfit(_named(hint), f"got {reprlib.repr(value)}")


def _object(value: dict[str, Any], hint: Any) -> Any:
    hints = get_type_hints(hint, include_extras=True)
    values: dict[str, Any] = {}
    if is_typeddict(hint):
        attributes, required = {name: name for name in hints}, hint.__required_keys__
    else:
        attributes = {part.metadata.get("key", part.name): part.name for part in fields(hint)}
        required = {
            part.name
            for part in fields(hint)
            if get_origin(hints[part.name]) is Literal
            or part.default is part.default_factory is MISSING
        }
    for name, attribute in attributes.items():
        wanted = hints[attribute]
        if name in value:
            values[attribute] = _below(name, value[name], wanted)
        elif attribute in required:
            raise _Misfit(f"{name}, {_named(wanted)}", "got none")
    for name, entry in value.items():
        if name not in attributes:
            unknown = reprlib.repr({name: entry})
            raise _Misfit(f"nothing but {', '.join(attributes)}", f"got {unknown}")
    return {name: values[name] for name in value} if is_typeddict(hint) else hint(**values)


def _named(hint: Any) -> str:
    """Name of a type, for messages."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_named, inner))
    if origin is Annotated:
        return inner[1].described if isinstance(inner[1], Fits) else _named(inner[0])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (tuple, list):
        plain = getattr(inner[0], "__origin__", inner[0])  # of an `Annotated`
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not ... else ""
        return f"a list of {count}{_PLURALS.get(plain, 'entries')}"
    return _NAMES.get(hint, "an object")


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # above some thousands of digits, Python itself raises
        raise ValueError(f"expected integers of at most {_MOST_DIGITS} digits, got {len(digits)}")
    return int(digits)


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):  # 1e999 too
        raise ValueError(f"expected a finite number, got {number}")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the name {reprlib.repr(name)} occurs twice in an object")
        content[name] = value
    return content


def _check_depth(value: Any) -> None:
    """Refuse deep nesting, and text with half of a surrogate pair.

    Raises:
        RecursionError, ValueError: there is such nesting, or such text.
    """
    values, depth = [value], 0
    while values:
        if (depth := depth + 1) > _DEEPEST:
            raise RecursionError
        below = []
        for entry in values:
            if isinstance(entry, str):
                entry.encode()
            elif isinstance(entry, dict):
                below += [*entry, *entry.values()]
            elif isinstance(entry, list):
                below += entry
        values = below


def as_json(value: Any, digits: int | None = None) -> Any:
    """Convert a value for JSON: dataclasses to objects, non-finite floats to null.

    Args:
        digits: significant digits of floats; None does not round.
    """
    if is_dataclass(value):
        return {
            part.metadata.get("key", part.name): as_json(getattr(value, part.name), digits)
            for part in fields(value)
        }
    if isinstance(value, Mapping):
        return {name: as_json(entry, digits) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(entry, digits) for entry in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value


def rounded(value: Any) -> Any:
    """`as_json` with six digits: measurements have no more, and two runs are compared by it."""
    return as_json(value, _DIGITS)


def text(content: Any) -> str:
    """Serialize a value that `as_json` can convert."""
    return json.dumps(as_json(content), indent=2, allow_nan=False) + "\n"


def write(path: Path, content: Any) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text(content), encoding="utf-8")
