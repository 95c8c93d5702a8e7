"""Where in a post the entities of an answer stand.

Knows nothing of models. Always holds: a span is `(start, end)` in Unicode code points, and the text it covers equals
the entity's, but for case and the kind of blanks where no better match is left; two entities of one text get two places
while the post has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Span = tuple[int, int]


def find_spans(text: str, names: Sequence[str]) -> list[Span | None]:
    """The place of each name in `text`, in their order; None for one that is not there.

    Longer names choose first, so that "York" is not taken out of "New York" while it stands elsewhere too.
    """
    found: list[Span | None] = [None] * len(names)
    taken: list[Span] = []
    for index in sorted(range(len(names)), key=lambda at: (-len(names[at]), at)):
        span = _place(text, names[index], taken)
        found[index] = span
        if span is not None:
            taken.append(span)
    return found


def _place(text: str, name: str, taken: Sequence[Span]) -> Span | None:
    words = [re.escape(word) for word in name.split()]
    if not words:
        return None
    places: list[Span] = []
    for pattern, flags in ((re.escape(name), 0), (r"\s+".join(words), 0), (r"\s+".join(words), re.IGNORECASE)):
        places += [match.span() for match in re.finditer(pattern, text, flags)]
        free = (span for span in places if not any(span[0] < end and start < span[1] for start, end in taken))
        if (span := min(free, key=lambda place: not _whole(text, place), default=None)) is not None:
            return span
    return places[0] if places else None


def _whole(text: str, span: Span) -> bool:
    """Whether a place begins and ends where words do."""
    before, after = text[: span[0]][-1:], text[span[1] :][:1]
    return not before.isalnum() and not after.isalnum()
