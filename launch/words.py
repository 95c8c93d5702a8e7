"""The `key=value` words of a small tool's command line.

Knows nothing of what the keys mean. Always holds: what is not understood is an error that says how to write it,
never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence


class UsageError(ValueError):
    """A command line that cannot be carried out; the message says why."""


def read_words(arguments: Sequence[str], known: Collection[str], required: Collection[str] = ()) -> dict[str, str]:
    """The values by key; a required key has one that is not empty.

    Raises:
        UsageError: a word of another form, an unknown or repeated key, a required key missing.
    """
    values: dict[str, str] = {}
    for word in arguments:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{word!r} is not of the form key=value; --help lists the keys")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else "see --help"))
        if key in values:
            raise UsageError(f"{key} is given twice")
        values[key] = text
    for key in required:
        if not values.get(key):
            raise UsageError(f"{key}=… is missing; --help lists the keys")
    return values
