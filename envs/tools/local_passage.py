"""Which part of a long document is shown: the one that holds most of the words that were asked for.

Knows nothing of SQLite or of how documents are found. Always holds: a text that is short enough is shown whole, a part
is never longer than asked for, and the same text and words give the same part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, deque
from collections.abc import Collection, Iterator

ELLIPSIS = "… "
"""In front of a part that is not the beginning."""
LEAD_SHARE = 4
"""One part in so many of what is shown may stand before the first word that was asked for."""

_TOKEN = re.compile(r"[^\W_]+")
_BREAK = re.compile(r"[.!?。!?]\s+|\n\s*")
_BLANK = re.compile(r"\s+")


def fold(word: str) -> str:
    """A word as the index compares it: case and diacritics do not count."""
    if word.isascii():
        return word.lower()
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))


def passage(text: str, words: Collection[str], max_chars: int) -> str:
    """At most `max_chars` characters of `text`, around the place where most different `words` stand together.

    The earliest such place counts; without any of the words, and where that place is near it, it is the beginning.
    """
    if len(text) <= max_chars:
        return text
    wanted = {fold(token) for word in words for token in _TOKEN.findall(word)}
    lead = max_chars // LEAD_SHARE
    room = max_chars - len(ELLIPSIS) - lead
    first = _densest(text, wanted, room) if room > 0 else 0
    if first <= lead:
        return text[:max_chars]
    start = _start(text, first - lead, first)
    return ELLIPSIS + text[start : start + max_chars - len(ELLIPSIS)]


def _densest(text: str, wanted: Collection[str], room: int) -> int:
    """Where the first of the words stands that lie within `room` characters and are the most different ones."""
    best, place = 0, 0
    held: deque[tuple[int, str]] = deque()
    counts: Counter[str] = Counter()
    for start, end, word in _found(text, wanted):
        held.append((start, word))
        counts[word] += 1
        while held and end - held[0][0] > room:
            _, gone = held.popleft()
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
        if len(counts) > best:
            best, place = len(counts), held[0][0]
            if best == len(wanted):
                break
    return place


def _found(text: str, wanted: Collection[str]) -> Iterator[tuple[int, int, str]]:
    for match in _TOKEN.finditer(text):
        word = fold(match.group())
        if word in wanted:
            yield match.start(), match.end(), word


def _start(text: str, low: int, high: int) -> int:
    """A place from `low` to `high` where a sentence begins, else a word: what is shown begins there."""
    for pattern in (_BREAK, _BLANK):
        match = pattern.search(text, low, high)
        if match is not None:
            return match.end()
    return low
