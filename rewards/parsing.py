"""What a policy's raw turns say to the released code: tags, and the JSON inside them, read under limits.

Knows nothing of rewards. Always holds: no text makes a reader here raise, and size, depth and number of
what is read are bounded; a text over a bound reads as malformed. An answer is read whole or not at all.

Not how the environment reads them, nor how the paper's rule scores them (`sake_ray.actions`): here words before
and after an answer do not spoil its entities, only its form.
"""

from __future__ import annotations

from collections.abc import Iterator

from rewards.entities import Claim
from sake_ray.bounded_json import JsonRefused, parse_json
from sake_ray.data.boxes import Quad
from sake_ray.types import SearchKind

SEARCH_TAGS = {SearchKind.TEXT: "text_search", SearchKind.IMAGE: "image_search"}

MAX_TEXT = 262_144
MAX_DEPTH = 32
MAX_ITEMS = 256
MAX_COORDINATE = 1e9


def read_answer(turn: str) -> list[Claim] | None:
    """The entities of the turn's last `<answer>` block; None when there is none or it is not a good answer.

    A good answer is a JSON list of `{"entity": str, "type": str, "box2d": [x1, y1, x2, y2] or []}`; further
    keys are ignored. One bad item spoils it all, as in the released code.
    """
    bodies = list(_bodies(turn, "answer"))
    items = _items(bodies[-1]) if bodies else None
    if items is None:
        return None
    claims = [_claim(item) for item in items]
    return None if None in claims else [claim for claim in claims if claim is not None]


def answers_only(turn: str) -> bool:
    """Exactly one `<reason>` block first, then words without search tags, one good answer, and the end."""
    return _is_turn(turn, "answer") and read_answer(turn) is not None


def searches_only(turn: str, kind: SearchKind) -> bool:
    """Exactly one `<reason>` block first, then one search of this kind: a list of objects with a "query"."""
    tag = SEARCH_TAGS[kind]
    if not _is_turn(turn, tag):
        return False
    items = _items(next(_bodies(turn, tag), None)) or []
    return bool(items) and all(isinstance(item, dict) and isinstance(item.get("query"), str) for item in items)


def search_kind(turn: str) -> SearchKind | None:
    """The kind of the well-formed search this turn is, or None."""
    return next((kind for kind in SEARCH_TAGS if searches_only(turn, kind)), None)


def mentions_search(turn: str) -> bool:
    """Whether a search block is opened anywhere in the turn."""
    return any(f"<{tag}>" in turn for tag in SEARCH_TAGS.values())


def _is_turn(turn: str, tag: str) -> bool:
    text = turn.strip()
    if len(text) > MAX_TEXT or not text.startswith("<reason>") or not text.endswith(f"</{tag}>"):
        return False
    for name in ("reason", "answer", *SEARCH_TAGS.values()):
        count = 1 if name in ("reason", tag) else 0
        if text.count(f"<{name}>") != count or text.count(f"</{name}>") != count:
            return False
    return text.index("</reason>") < text.index(f"<{tag}>")


def _bodies(turn: str, tag: str) -> Iterator[str]:
    """What stands between each opening tag and the next closing one, left to right, in linear time."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    at = turn.find(opening)
    while at >= 0:
        end = turn.find(closing, at)
        if end < 0:
            return
        yield turn[at + len(opening) : end]
        at = turn.find(opening, end)


def _items(body: str | None) -> list[object] | None:
    """The JSON list that `body` is, or None."""
    if body is None:
        return None
    try:
        # NaN somewhere in an answer does not spoil it in the released code either.
        value = parse_json(body, max_chars=MAX_TEXT, max_depth=MAX_DEPTH, constants=True)
    except JsonRefused:
        return None
    return value if isinstance(value, list) and len(value) <= MAX_ITEMS else None


def _claim(item: object) -> Claim | None:
    if not isinstance(item, dict):
        return None
    text, kind, box = item.get("entity"), item.get("type"), item.get("box2d")
    if not isinstance(text, str) or not isinstance(kind, str) or not isinstance(box, list):
        return None
    quad = read_quad(box)
    return None if box and quad is None else Claim(text, kind, quad)


def read_quad(box: list[object]) -> Quad | None:
    """Four numbers of a sensible size, or None."""
    if len(box) != 4:
        return None
    sides = [float(side) for side in box if isinstance(side, int | float) and _sensible(side)]
    return (sides[0], sides[1], sides[2], sides[3]) if len(sides) == 4 else None


def _sensible(side: float) -> bool:
    # True is an int to Python; the comparison is false for NaN too, and keeps huge integers away from float().
    return not isinstance(side, bool) and abs(side) <= MAX_COORDINATE
