"""Values out of parsed JSON, refused by the name of the field they stand in.

Knows nothing of what the fields mean. Always holds: what comes back is of the kind asked for, and bounded in number.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from sake_ray.data.problems import FieldError


def object_at(value: object, where: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        FieldError: it is something else.
    """
    if not isinstance(value, dict):
        raise FieldError(where, f"must be an object, not {kind_of(value)}")
    return value


def list_at(value: object, where: str, most: int) -> Sequence[Any]:
    """A JSON list of at most so many items.

    Raises:
        FieldError: it is something else, or longer.
    """
    if not isinstance(value, list):
        raise FieldError(where, f"must be a list, not {kind_of(value)}")
    if len(value) > most:
        raise FieldError(where, f"has {len(value)} items, at most {most} are read")
    return value


def text_at(value: object, where: str) -> str:
    """A JSON string.

    Raises:
        FieldError: it is something else.
    """
    if not isinstance(value, str):
        raise FieldError(where, f"must be text, not {kind_of(value)}")
    return value


def known(row: Mapping[str, Any], names: Sequence[str], prefix: str) -> None:
    """Refuse fields that are none of `names`.

    Raises:
        FieldError: with the nearest known one.
    """
    for key in row:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
            raise FieldError(f"{prefix}{key!r:.60}", f"is not a field of this preset; {hint}")


def kind_of(value: object) -> str:
    """What a value is, as a sentence about JSON says it."""
    names = {type(None): "nothing", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
