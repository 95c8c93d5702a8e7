"""One setting: its default, help text and limits, and how a text becomes its value.

Knows nothing of sections or files. Always holds: a `Section` that exists has passed every limit its fields name, and a
`ConfigError` names the field, the value it got and the nearest thing that would be valid.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

Value = str | int | float | bool

_MOST = 9_999
_RANGE = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")
_TYPE_WORDS: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class ConfigError(ValueError):
    """A setting that cannot be: the message says which field, which value and what to write instead."""


def setting(
    default: Value,
    help: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    is_path: bool = False,
    is_range: bool = False,
) -> Any:
    """A dataclass field with its meaning and limits.

    Args:
        default: value when neither preset, job nor command line says otherwise.
        help: what it means, with units; shown by `--help` and in docs/configuration.md.
        choices: the only valid values, when there are few.
        low, high: inclusive bounds of a number; `above` is an exclusive lower one.
        is_path: a file or folder of the user's, so that a launcher can make it absolute.
        is_range: MIN:MAX for `read_range`, or the default.
    """
    metadata = {
        "help": help, "choices": tuple(choices), "low": low, "high": high, "above": above, "is_path": is_path,
        "is_range": is_range,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


_TYPES: dict[object, Mapping[str, type]] = {}


def field_types(section: type[Section]) -> Mapping[str, type]:
    """Field name → str, int, float or bool, for a section class."""
    if section not in _TYPES:  # reading annotations takes most of the time a configuration takes
        hints = typing.get_type_hints(section)
        _TYPES[section] = {field.name: hints[field.name] for field in dataclasses.fields(section)}
    return _TYPES[section]


@dataclasses.dataclass(frozen=True)
class Section:
    """Base of every configuration section: checks its fields' types and limits when made."""

    NAME: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Refuse a value outside its field's limits.

        Raises:
            ConfigError: a value has the wrong type, is no valid choice or out of bounds.
        """
        for field in dataclasses.fields(self):
            path = f"{self.NAME}.{field.name}"
            value = getattr(self, field.name)
            wanted = field_types(type(self))[field.name]
            if not _has_type(value, wanted):
                raise ConfigError(f"{path}={value!r}: must be {_TYPE_WORDS[wanted]}, e.g. {path}={show(field.default)}")
            if wanted is float:
                object.__setattr__(self, field.name, float(value))  # one form, so that 1 and 1.0 have one hash
            _check_limits(path, value, field.metadata)
            if field.metadata["is_range"] and value != field.default:
                read_range(path, value)


def parse_value(path: str, text: str, wanted: type, example: Value) -> Value:
    """Turn what a user wrote for `path` into its type; limits are checked by the section.

    Raises:
        ConfigError: the text is no `wanted`; the message gives `example`.
    """
    try:
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        return typing.cast(Value, wanted(text))
    except (ValueError, KeyError):
        words = _TYPE_WORDS[wanted]
        raise ConfigError(f"{path}={text}: must be {words}, e.g. {path}={show(example)}") from None


def read_range(path: str, text: str) -> tuple[int, int]:
    """The two numbers of a MIN:MAX.

    Raises:
        ConfigError: the text is none, or MIN is 0 or above MAX.
    """
    found = _RANGE.fullmatch(text)
    low, high = map(int, found.groups()) if found else (0, 0)
    if 1 <= low <= high:
        return low, high
    meant = sorted(max(1, int(number)) for number in re.findall(r"[0-9]{1,4}", text)[:2]) or [1, 2]
    raise ConfigError(
        f"{path}={text}: must be MIN:MAX, whole numbers from 1 to {_MOST}; nearest: {path}={meant[0]}:{meant[-1]}"
    )


def show(value: Any) -> str:
    """A value as a user writes it on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: str, names: Iterable[str], cutoff: float = 0.0) -> list[str]:
    """Up to three of `names` most like `name`, best first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)


def _has_type(value: object, wanted: type) -> bool:
    if isinstance(value, bool):
        return wanted is bool
    if wanted is float:
        return isinstance(value, int | float)
    return isinstance(value, wanted)


def _check_limits(path: str, value: Any, limits: typing.Mapping[str, Any]) -> None:
    choices = limits["choices"]
    if choices and value not in choices:
        # Case is the commonest slip ("em" for "EM"), so likeness is measured without it.
        folded = {str(choice).lower(): choice for choice in choices}
        best = folded[nearest(str(value).lower(), folded)[0]]
        raise ConfigError(f"{path}={value}: must be one of {', '.join(choices)}; nearest: {path}={best}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{path}={value}: must be a finite number")
    low, high, above = limits["low"], limits["high"], limits["above"]
    if low is not None and value < low:
        raise ConfigError(f"{path}={value}: must be at least {low}; nearest: {path}={low}")
    if high is not None and value > high:
        raise ConfigError(f"{path}={value}: must be at most {high}; nearest: {path}={high}")
    if above is not None and value <= above:
        raise ConfigError(f"{path}={value}: must be greater than {above}")
