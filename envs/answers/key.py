"""Under what an answer is kept: who was asked, what kind of search, the query, and what else shapes the answer.

Knows nothing of stores or providers. Always holds: a key is the same for every way of writing one query (case, width,
blanks, Unicode forms), normalising twice changes nothing, and keys of different parts have different digests.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_QUERY_CHARS = 1_000
"""Queries that differ only after so many characters are one; nobody searches for more."""
MAX_OPTIONS_CHARS = 10_000
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """Made by `AnswerKey.of`; `query` is normalised and `options` canonical JSON. Never holds a service's key."""

    provider: str
    kind: str
    query: str
    options: str
    digest: str = field(init=False, compare=False, repr=False)
    """SHA-256 over all parts, in hexadecimal."""

    def __post_init__(self) -> None:
        """Compute the digest once: a key is looked up several times on its way."""
        parts = json.dumps([self.provider, self.kind, self.query, self.options], ensure_ascii=False)
        object.__setattr__(self, "digest", hashlib.sha256(parts.encode("utf-8")).hexdigest())

    @classmethod
    def of(cls, provider: str, kind: str, query: str, options: Mapping[str, Any]) -> AnswerKey:
        """The key of one search.

        Raises:
            ValueError: the options are no plain JSON or too long, or a name is no valid Unicode.
        """
        for name, text in (("provider", provider), ("kind", kind)):
            if not text or not _is_valid(text):
                raise ValueError(f"{name}={text!r}: must be a name in valid Unicode")
        return cls(provider, kind, normalised(query), canonical(options))


def normalised(query: str) -> str:
    """A query as it is compared: Unicode NFKC, case folded, blanks collapsed, at most `MAX_QUERY_CHARS` characters.

    Lone surrogates, which no file or service can hold, are dropped.
    """
    # Cut first, so that the work is bounded; twice as much, so that blanks that vanish take no words with them.
    text = query[: 2 * MAX_QUERY_CHARS].encode("utf-8", "ignore").decode("utf-8")
    while True:
        # Folding can undo NFKC and the other way round; a second turn is rare, a third one rarer.
        again = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        again = " ".join(again.split())[:MAX_QUERY_CHARS].rstrip()
        if again == text:
            return text
        text = again


def canonical(options: Mapping[str, Any]) -> str:
    """Options as one text: the same for the same options in any order.

    Raises:
        ValueError: something in them is no plain JSON, or they are too long.
    """
    _check(options, "options", 0)
    text = json.dumps(dict(options), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if len(text) > MAX_OPTIONS_CHARS:
        raise ValueError(f"options: {len(text)} characters, at most {MAX_OPTIONS_CHARS} are accepted")
    return text


def _check(value: object, where: str, depth: int) -> None:
    """Refuse what JSON would silently turn into something else (a number as a name, NaN) or cannot write."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where}: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not _is_valid(name):
                raise ValueError(f"{where}: the name {name!r} is no text in valid Unicode")
            _check(item, f"{where}.{name}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        if not _is_valid(value):
            raise ValueError(f"{where}: {value!r} is no valid Unicode")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}={value}: must be a finite number")
    elif not (value is None or isinstance(value, bool | int)):
        raise ValueError(f"{where}: a {type(value).__name__} is no plain JSON")


def _is_valid(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
