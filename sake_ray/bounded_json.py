"""JSON from text nobody vouches for, read under limits of size and depth.

Knows nothing of files, actions or caches. Always holds: a value over a limit is refused before anything of it is
built, in time linear in the text; every failure is a `JsonRefused` whose `why` is a short fixed word.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# A string is one piece, and one that never ends takes all that is left: no character is looked at twice.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SCALAR = re.compile(r"[^\s,\[\]{}\"]*")
_BLANK = re.compile(r"[ \t\r\n]*")


class JsonRefused(ValueError):
    """A text that is not JSON within the limits; `why` is "too_long", "too_deep" or "bad_json"."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(detail)
        self.why = why


def parse_json(
    text: str, *, max_chars: int, max_depth: int, unique_keys: bool = False, constants: bool = False
) -> object:
    """The value `text` stands for.

    Args:
        text: one value, with blanks around it or none.
        max_chars, max_depth: characters of the text, and levels of brackets, that are read at most.
        unique_keys: whether a key twice in one object is refused (otherwise the later one counts).
        constants: whether `NaN` and `Infinity` are read, as Python's own reader does.

    Raises:
        JsonRefused: over a limit, or no JSON.
    """
    _check_length(len(text), max_chars)
    start = skip_blank(text, 0)
    value, end = _decode(text, start, max_chars, max_depth, _DECODERS[unique_keys, constants])
    rest = skip_blank(text, end)
    if rest != len(text):
        raise JsonRefused("bad_json", f"more text after the JSON value, at character {rest + 1}")
    return value


def decode_strictly(text: str, at: int, *, max_chars: int, max_depth: int) -> tuple[Any, int]:
    """The value that starts at `at`, and where it ends: keys once in an object, numbers finite.

    Raises:
        JsonRefused: over a limit, or no JSON.
    """
    return _decode(text, at, max_chars, max_depth, _DECODERS[True, False])


def _decode(text: str, at: int, max_chars: int, max_depth: int, decoder: json.JSONDecoder) -> tuple[Any, int]:
    _check_bounds(text, at, max_chars, max_depth)
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        raise JsonRefused("bad_json", f"broken JSON at {line}column {error.colno}: {error.msg}") from error
    except JsonRefused:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise JsonRefused("bad_json", f"broken JSON: {error}") from error


def skip_blank(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no JSON blank."""
    match = _BLANK.match(text, at)
    return match.end() if match else at


def _check_bounds(text: str, at: int, max_chars: int, max_depth: int) -> None:
    """Refuse a value at `at` that is too long or too deep, without building it."""
    if text[at : at + 1] not in ('"', "[", "{"):
        scalar = _SCALAR.match(text, at)
        _check_length((scalar.end() if scalar else at) - at, max_chars)
        return
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text, at):
        mark = text[match.start()]
        _check_length(match.end() - at, max_chars)
        if mark in "[{":
            depth += 1
            if depth > max_depth:
                raise JsonRefused("too_deep", f"nested deeper than {max_depth} levels")
        elif mark in "]}":
            depth -= 1
        if depth <= 0:
            return
    _check_length(len(text) - at, max_chars)  # brackets that never close


def _check_length(length: int, max_chars: int) -> None:
    if length > max_chars:
        raise JsonRefused("too_long", f"longer than {max_chars} characters")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JsonRefused("bad_json", f"the key {twice!r} occurs twice in one object")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise JsonRefused("bad_json", f"{name} is not a JSON number")


# By (unique_keys, constants).
_DECODERS = {
    (unique, constants): json.JSONDecoder(
        object_pairs_hook=_unique_keys if unique else None, parse_constant=None if constants else _refuse_constant
    )
    for unique in (False, True)
    for constants in (False, True)
}
