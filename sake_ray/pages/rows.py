"""What a page shows of one answer to one post, read from a row of an evaluation's `posts.jsonl` or of a run's
trajectories, which say the same in slightly different words.

Knows nothing of files or HTML. Always holds: boxes are in original pixels, the claims of a row that has none are those
of its last turn; a text is cut where it is longer than a page should hold, and says so; a row of another form is a
`FieldError`, and what a row leaves out is None or empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sake_ray.actions import ActionLimits, parse_action
from sake_ray.data.boxes import Quad
from sake_ray.data.images import processed_size, to_original
from sake_ray.data.problems import FieldError
from sake_ray.pages.marks import Mark
from sake_ray.types import Answer

MAX_TEXT, MAX_RESULT = 4_000, 1_500
"""Characters shown of a turn or a post, and of what a query gave."""
MAX_LIST = 64
_LIMITS = ActionLimits(max_queries=1_000)
_T = TypeVar("_T")

Pixels = tuple[int, int]
"""`data.min_pixels`, `data.max_pixels` of the run whose turns are read."""


@dataclass(frozen=True, slots=True)
class GoldView:
    """One gold entity; `hits` of `samples` samples without tools had it right, where that is known."""

    entity: str
    type: str
    boxes: tuple[Quad, ...] = ()
    coarse: str = ""
    difficulty: str | None = None
    seen: bool | None = None
    hits: int | None = None
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class ClaimView:
    """One claimed entity."""

    entity: str
    type: str
    box: Quad | None = None


@dataclass(frozen=True, slots=True)
class ResultView:
    """One query and what it gave; `pictures` are paths."""

    query: str
    status: str
    text: str = ""
    reason: str = ""
    cached: bool = False
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnView:
    """One turn; `results` is None where nothing was searched. Times in seconds, `began_s` since the run began."""

    text: str
    action: str
    reason: str = ""
    results: tuple[ResultView, ...] | None = None
    generate_s: float | None = None
    search_s: float | None = None
    began_s: float | None = None
    search_began_s: float | None = None


@dataclass(frozen=True, slots=True)
class RowView:
    """One answer to one post, and how it came about."""

    id: str
    example: str
    post: str
    gold: tuple[GoldView, ...]
    claims: tuple[ClaimView, ...]
    turns: tuple[TurnView, ...] = ()
    image: str = ""
    image_size: tuple[int, int] | None = None
    step: int | None = None
    kind: str = ""
    sample: int = 0
    stop_reason: str = ""
    reward: Mapping[str, float] | None = None
    advantage: float | None = None
    tokens: int | None = None
    sampled_tokens: int | None = None
    version: int | None = None
    worker: str = ""
    score_began_s: float | None = None
    score_s: float | None = None
    marks: tuple[Mark, ...] | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def searched(self) -> tuple[str, ...]:
        """The actions of the turns that were answered by a search, in order."""
        return tuple(turn.action for turn in self.turns if turn.results is not None)


def read_view(row: object, pixels: Pixels | None = None) -> RowView:
    """A row as a page shows it.

    Args:
        row: a parsed line.
        pixels: needed only where claims must be read from the last turn, whose boxes are in processed pixels.

    Raises:
        FieldError: a field is of another form, or claims must be read and `pixels` are not known.
    """
    if not isinstance(row, dict):
        raise FieldError("row", "must be an object")
    size = _size(row.get("image_size"))
    turns = _list(row, "turns", _turn)
    claims = _list(row, "claims", _claim) if row.get("claims") is not None else _said(row, turns, size, pixels)
    gold = _list(row, "gold", _gold)
    example = _text(row, "example") or _text(row, "id")
    return RowView(
        id=_text(row, "id"),
        example=example,
        post=cut(_text(row, "post" if "post" in row else "text"), MAX_TEXT),
        gold=gold,
        claims=claims,
        turns=turns,
        image=_text(row, "image"),
        image_size=size,
        step=_whole(row, "step"),
        kind=_text(row, "kind"),
        sample=_whole(row, "sample") or 0,
        stop_reason=_text(row, "stop_reason"),
        reward=_numbers(row, "reward"),
        advantage=_real(row, "advantage"),
        tokens=_whole(row, "tokens"),
        sampled_tokens=_whole(row, "sampled_tokens"),
        version=_whole(row, "version"),
        worker=str(row["worker"])[:40] if row.get("worker") is not None else "",
        score_began_s=_real(row, "score_began_s"),
        score_s=_real(row, "score_s"),
        marks=_marks(row, len(gold), len(claims)) if row.get("verdicts") is not None else None,
        extra=_facts(row),
    )


def cut(text: str, most: int) -> str:
    """A text at most so long, with a word on what is missing."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters are not shown)"


def _said(
    row: Mapping[str, Any], turns: Sequence[TurnView], size: tuple[int, int] | None, pixels: Pixels | None
) -> tuple[ClaimView, ...]:
    if not turns or row.get("stop_reason") != "answer":
        return ()
    said = parse_action(row["turns"][-1]["text"], _LIMITS)  # the whole text, not what is shown of it
    if not isinstance(said, Answer):
        raise FieldError("stop_reason", "is answer, but the last turn holds none")
    if not any(entity.box for entity in said.entities):
        return tuple(ClaimView(entity.text, entity.type) for entity in said.entities)
    if size is None or pixels is None:
        raise FieldError("claims", "boxes cannot be read without image_size and data.min_pixels, data.max_pixels")
    processed = processed_size(*size, min_pixels=pixels[0], max_pixels=pixels[1])
    return tuple(
        ClaimView(
            e.text, e.type, None if e.box is None else _quad(to_original(e.box, processed, size).as_list(), "box")
        )
        for e in said.entities
    )


def _marks(row: Mapping[str, Any], gold: int, claims: int) -> tuple[Mark, ...]:
    """A row's own verdicts; those beyond what is shown go with what they are about."""

    def mark(item: Mapping[str, Any]) -> Mark:
        found = Mark(_text(item, "kind"), _whole(item, "gold"), _whole(item, "claim"))
        if found.gold is None and found.claim is None:
            raise FieldError("gold", "and claim are both absent")
        return found

    found = _list(row, "verdicts", mark, most=4 * MAX_LIST)
    return tuple(
        m
        for m in found
        if -1 < (m.gold or 0) < gold + (m.gold is None) and -1 < (m.claim or 0) < claims + (m.claim is None)
    )


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Single values of `extra`, and the seconds that an evaluation notes."""
    extra = row.get("extra")
    named = {**(extra if isinstance(extra, dict) else {}), "seconds": row.get("seconds")}
    return {
        str(k)[:40]: f"{v:.4g}" if isinstance(v, float) else str(v)[:200]
        for k, v in named.items()
        if isinstance(v, str | int | float)
    }


def _gold(item: Mapping[str, Any]) -> GoldView:
    seen = item.get("seen")
    return GoldView(
        entity=_text(item, "entity"),
        type=_text(item, "type"),
        boxes=tuple(_quad(box, "boxes") for box in _plain_list(item, "boxes")),
        coarse=_text(item, "coarse"),
        difficulty=_text(item, "difficulty") or None,
        seen=seen if isinstance(seen, bool) else None,
        hits=_whole(item, "hits"),
        samples=_whole(item, "samples"),
    )


def _claim(item: Mapping[str, Any]) -> ClaimView:
    box = item.get("box2d", item.get("box"))
    return ClaimView(_text(item, "entity"), _text(item, "type"), _quad(box, "box2d") if box else None)


def _turn(item: Mapping[str, Any]) -> TurnView:
    # A run writes the results of a search, an evaluation its searches: none of them is then an empty list.
    name = "results" if "results" in item else "searches"
    searched = bool(item.get(name)) if name == "searches" else item.get(name) is not None
    return TurnView(
        text=cut(_text(item, "text"), MAX_TEXT),
        action=_text(item, "action"),
        reason=_text(item, "reason"),
        results=_list(item, name, _result) if searched else None,
        generate_s=_real(item, "generate_s"),
        search_s=_real(item, "search_s"),
        began_s=_real(item, "began_s"),
        search_began_s=_real(item, "search_began_s"),
    )


def _result(item: Mapping[str, Any]) -> ResultView:
    return ResultView(
        query=cut(_text(item, "query"), MAX_RESULT),
        status=_text(item, "status"),
        text=cut(_text(item, "text"), MAX_RESULT),
        reason=_text(item, "reason"),
        cached=item.get("cached") is True,
        pictures=tuple(path for path in _plain_list(item, "pictures") if isinstance(path, str)),
    )


def _list(
    row: Mapping[str, Any], name: str, read: Callable[[Mapping[str, Any]], _T], most: int = MAX_LIST
) -> tuple[_T, ...]:
    found = []
    for index, item in enumerate(_plain_list(row, name)[:most]):
        if not isinstance(item, dict):
            raise FieldError(f"{name}[{index}]", "must be an object")
        try:
            found.append(read(item))
        except FieldError as error:
            raise FieldError(f"{name}[{index}].{error.field}", error.message) from error
    return tuple(found)


def _plain_list(row: Mapping[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FieldError(name, f"must be a list, not {value!r:.60}")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldError(name, f"must be a text, not {value!r:.60}")
    return value


def _real(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FieldError(name, f"must be a finite number, not {value!r:.60}")
    return float(value)


def _whole(row: Mapping[str, Any], name: str) -> int | None:
    value = _real(row, name)
    return None if value is None else int(value)


def _numbers(row: Mapping[str, Any], name: str) -> dict[str, float] | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise FieldError(name, f"must be an object of numbers, not {value!r:.60}")
    return {str(key): number for key in value if (number := _real(value, key)) is not None}


def _size(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        raise FieldError("image_size", f"must be [width, height], not {value!r:.60}")
    return value[0], value[1]


def _quad(value: object, name: str) -> Quad:
    good = isinstance(value, list) and len(value) == 4
    if not good or not all(type(side) in (int, float) and math.isfinite(side) for side in value):  # type: ignore[attr-defined]
        raise FieldError(name, f"must be four finite numbers, not {value!r:.60}")
    x1, y1, x2, y2 = (float(side) for side in value)  # type: ignore[attr-defined]
    return x1, y1, x2, y2
