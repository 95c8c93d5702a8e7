"""JSON from text nobody vouches for, read under limits of size and depth.

Knows nothing of actions or caches. Always holds: a text over a limit is refused before the JSON
parser sees it, numbers are finite, and every failure is a `JsonRefused` whose `why` is a short fixed word.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

# An escape pair is taken as one piece, so an escaped quote never ends a string.
_STRUCTURE = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


class JsonRefused(ValueError):
    """A text that is not JSON within the limits; `why` is "too_long", "too_deep" or "bad_json"."""

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(detail)
        self.why = why


def parse_json(text: str, *, max_chars: int, max_depth: int) -> object:
    """The value `text` stands for.

    Raises:
        JsonRefused: longer than `max_chars`, nested deeper than `max_depth`, or not strict JSON
            (`NaN` and `Infinity` are refused too).
    """
    if len(text) > max_chars:
        raise JsonRefused("too_long", f"{len(text)} characters, at most {max_chars} are read")
    depth = nesting_depth(text)
    if depth > max_depth:
        raise JsonRefused("too_deep", f"nested {depth} deep, at most {max_depth} is read")
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except JsonRefused:
        raise
    except ValueError as error:  # also whole numbers of thousands of digits
        raise JsonRefused("bad_json", str(error)) from error
    return value


def nesting_depth(text: str) -> int:
    """How deep brackets outside strings are nested, in one pass and without recursion."""
    depth = deepest = 0
    in_string = False
    for match in _STRUCTURE.finditer(text):
        piece = match.group()
        if piece == '"':
            in_string = not in_string
        elif in_string or len(piece) == 2:
            continue
        elif piece in "[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise JsonRefused("bad_json", f"{name} is not JSON")
