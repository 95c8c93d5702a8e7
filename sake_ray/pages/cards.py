"""The gallery of a page: a card for each post, with one or several answers to it, in blocks read lazily.

Knows nothing of files or of how a page is laid out. Always holds: the index is small and enough to filter and sort by;
what is left out (cards, pictures) is counted, the most instructive is kept, and `limits_note` says so; blocks stay
under `MAX_DETAIL_BYTES` and `MAX_PICTURE_BYTES` in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sake_ray.data.problems import FieldError
from sake_ray.pages.document import data_block, inert_json, picture_block
from sake_ray.pages.marks import KINDS, RIGHT, Mark
from sake_ray.pages.markup import Html
from sake_ray.pages.rows import GoldView, ResultView, RowView, TurnView
from sake_ray.pages.thumbs import REFERENCE_SIDE, Thumb, Thumbs

MAX_CARDS = 5_000
MAX_DETAIL_BYTES = 48 * 1024 * 1024
PICTURE_BYTES_A_CARD = 24_000
MAX_PICTURE_BYTES = 40 * 1024 * 1024
MAX_MEMBERS = 32
_REFERENCES_A_QUERY = 3
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")

Marker = Callable[[RowView], Sequence[Mark]]
"""The verdicts on a row: each of its gold entities and claims in exactly one."""


def own_marks(row: RowView) -> Sequence[Mark]:
    """The verdicts that a row brings.

    Raises:
        FieldError: it brings none.
    """
    if row.marks is None:
        raise FieldError("verdicts", f"post {row.example} has none; evaluate again, or hand in what decides them")
    return row.marks


@dataclass(frozen=True, slots=True)
class Facet:
    """Something cards can be filtered by; `ordered` are its values in the order they are offered."""

    key: str
    label: str
    ordered: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As the page's scripts read it."""
        ordered = {"ordered": list(self.ordered)} if self.ordered else {}
        return {"key": self.key, "label": self.label, **ordered}


ALL_RIGHT, ANY_ERROR = "all right", "any error"
FACETS = (
    Facet("error", "Errors", (ALL_RIGHT, ANY_ERROR, *(name for kind, name in KINDS.items() if kind != RIGHT))),
    Facet("type", "Type"),
    Facet("search", "Searches", ("none", "any", "text", "image", "text and image")),
    Facet("seen", "Entities in training", ("all seen", "some not seen")),
    Facet("difficulty", "Difficulty", ("only known", "some ambiguous", "some unknown")),
    Facet("ended", "Ended by"),
)
SORTS = (
    {"key": "file", "label": "as in the file"},
    {"key": "worst", "label": "worst F1 first", "value": "f1"},
    {"key": "best", "label": "best F1 first", "value": "f1", "down": True},
    {"key": "reward", "label": "lowest reward first", "value": "reward"},
    {"key": "spread", "label": "answers that differ most", "value": "spread", "down": True},
    {"key": "searches", "label": "most searches first", "value": "searches", "down": True},
    {"key": "tokens", "label": "longest first", "value": "tokens", "down": True},
)


@dataclass(frozen=True, slots=True)
class Card:
    """A post and the answers to it; `extra` are further facets, `names` those of the answers."""

    id: str
    title: str
    rows: tuple[RowView, ...]
    names: tuple[str, ...]
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Gallery:
    """Cards turned into blocks."""

    def __init__(
        self,
        cards: Sequence[Card],
        *,
        mark: Marker = own_marks,
        images: Path | None = None,
        facets: Sequence[Facet] = (),
        unit: str = "posts",
    ) -> None:
        """`images` is where a post's picture `<id>.<suffix>` lies when its row names none that is there."""
        self._images = images
        self._facets = (*facets, *FACETS)
        self._unit = unit
        self._marks = {card.id: [list(mark(row)) for row in card.rows[:MAX_MEMBERS]] for card in cards}
        self.given = len(cards)
        self.thumbs = Thumbs(min(MAX_PICTURE_BYTES, PICTURE_BYTES_A_CARD * len(cards)))
        by_interest = sorted(cards, key=lambda card: -_interest(self._marks[card.id]))
        self._details: dict[str, str] = {}
        room = MAX_DETAIL_BYTES
        for card in by_interest[:MAX_CARDS]:
            block = inert_json(self._detail(card))
            room -= len(block)
            if room < 0:
                break
            self._details[card.id] = block
        self.cards = [card for card in cards if card.id in self._details]

    @property
    def limits_note(self) -> str:
        """What the page leaves out; "" when nothing."""
        parts = []
        if len(self.cards) < self.given:
            parts.append(
                f"The page shows {len(self.cards):,} of {self.given:,} {self._unit}: it has a limit of size, and those "
                "with errors go first."
            )
        if self.thumbs.left_out:
            parts.append(
                f"{self.thumbs.left_out:,} pictures are left out for the same reason: the posts with "
                "most errors have theirs."
            )
        if self.thumbs.failed:
            parts.append(f"{self.thumbs.failed:,} pictures could not be read; the cards say why.")
        return " ".join(parts)

    def blocks(self) -> Iterator[Html]:
        """The data of the page's scripts, the small first."""
        values = {name for card in self.cards for name in _values(card, self._marks[card.id])}
        yield data_block(
            "gallery-meta",
            {
                "kinds": KINDS,
                "facets": [facet.as_dict() for facet in self._facets],
                "sorts": [sort for sort in SORTS if sort.get("value", "f1") in values],
                "unit": self._unit,
            },
        )
        yield data_block("gallery-index", [_index(card, self._marks[card.id]) for card in self.cards])
        for number, card in enumerate(self.cards):
            yield Html(f'<script type="application/json" id="d{number}">{self._details[card.id]}</script>\n')
        for name, address in self.thumbs.addresses.items():
            yield picture_block(name, address)

    def _detail(self, card: Card) -> dict[str, Any]:
        first = card.rows[0]
        thumb = self._picture(first)
        return {
            "text": first.post,
            "size": list(first.image_size) if first.image_size else None,
            "pic": thumb.name or None,
            "missing": thumb.missing,
            "gold": [_gold(entity) for entity in first.gold],
            "members": [
                self._member(row, name, found)
                for row, name, found in zip(card.rows, card.names, self._marks[card.id], strict=False)
            ],
        }

    def _picture(self, row: RowView) -> Thumb:
        path = row.image
        if self._images is not None and not (path and Path(path).is_file()):
            name = Path(row.example).name
            near = [self._images / name, *(self._images / f"{name}{suffix}" for suffix in _SUFFIXES)]
            path = next((str(candidate) for candidate in near if candidate.is_file()), path)
        if not path:
            return Thumb("", "the row names none (a stand-in, or an older run); images=FOLDER says where they lie")
        return self.thumbs.add(path, size=row.image_size)

    def _member(self, row: RowView, name: str, found: Sequence[Mark]) -> dict[str, Any]:
        return {
            "name": name,
            "claims": [{"entity": c.entity, "type": c.type, "box": c.box} for c in row.claims],
            "marks": [[mark.kind, mark.gold, mark.claim] for mark in found],
            "f1": _f1(found),
            "turns": [self._turn(turn) for turn in row.turns],
            "stop": row.stop_reason,
            "reward": row.reward,
            "advantage": row.advantage,
            "tokens": row.tokens,
            "sampled": row.sampled_tokens,
            "version": row.version,
            "worker": row.worker,
            "extra": row.extra,
        }

    def _turn(self, turn: TurnView) -> dict[str, Any]:
        results = None if turn.results is None else [self._result(result) for result in turn.results]
        return {
            "text": turn.text,
            "action": turn.action,
            "reason": turn.reason,
            "generate_s": turn.generate_s,
            "search_s": turn.search_s,
            "results": results,
        }

    def _result(self, result: ResultView) -> dict[str, Any]:
        found = [self.thumbs.add(path, side=REFERENCE_SIDE) for path in result.pictures[:_REFERENCES_A_QUERY]]
        return {
            "query": result.query,
            "status": result.status,
            "reason": result.reason,
            "cached": result.cached,
            "text": result.text,
            "pics": [{"pic": thumb.name or None, "missing": thumb.missing} for thumb in found],
        }


def _gold(entity: GoldView) -> dict[str, Any]:
    return {
        "entity": entity.entity,
        "type": entity.type,
        "boxes": [list(box) for box in entity.boxes],
        "coarse": entity.coarse,
        "difficulty": entity.difficulty or "",
        "seen": entity.seen,
        "hits": entity.hits,
        "samples": entity.samples,
    }


def _index(card: Card, found: Sequence[Sequence[Mark]]) -> dict[str, Any]:
    first = card.rows[0]
    words = [entity.entity for entity in first.gold]
    words += [claim.entity for row in card.rows for claim in row.claims]
    words += [result.query for row in card.rows for turn in row.turns for result in turn.results or ()]
    return {
        "id": card.id,
        "title": card.title,
        "text": first.post,
        "words": " ".join(dict.fromkeys(words))[:2_000],
        "facets": {key: sorted(values) for key, values in _facets(card, found).items() if values},
        "values": _values(card, found),
    }


def _facets(card: Card, found: Sequence[Sequence[Mark]]) -> dict[str, set[str]]:
    first = card.rows[0]
    facets: dict[str, set[str]] = {key: set(values) for key, values in card.extra.items()}
    errors = {mark.kind for each in found for mark in each if mark.kind != RIGHT}
    facets["error"] = {KINDS.get(kind, kind) for kind in errors} | {ANY_ERROR if errors else ALL_RIGHT}
    facets["type"] = {e.type for e in first.gold} | {c.type for row in card.rows for c in row.claims}
    facets["search"] = {value for row in card.rows for value in _searches(row)}
    facets["ended"] = {row.stop_reason for row in card.rows if row.stop_reason}
    seen = [entity.seen for entity in first.gold]
    facets["seen"] = {"some not seen"} if False in seen else {"all seen"} if seen and None not in seen else set()
    levels = {entity.difficulty for entity in first.gold}
    facets["difficulty"] = {f"some {level}" for level in ("unknown", "ambiguous") if level in levels}
    if levels == {"known"}:
        facets["difficulty"] = {"only known"}
    return facets


def _searches(row: RowView) -> list[str]:
    kinds = {"image" if "image" in action.lower() else "text" for action in row.searched}
    if not kinds:
        return ["none"]
    return ["any", "text and image" if len(kinds) == 2 else kinds.pop()]


def _values(card: Card, found: Sequence[Sequence[Mark]]) -> dict[str, float]:
    values = {"f1": sum(_f1(each) for each in found) / len(found)}
    rewards = [row.reward["total"] for row in card.rows if row.reward and "total" in row.reward]
    if rewards:
        values["reward"] = round(sum(rewards) / len(rewards), 4)
    if len(card.rows) > 1:
        compared = rewards or [_f1(each) for each in found]
        values["spread"] = round(max(compared) - min(compared), 4)
    if any(row.turns for row in card.rows):
        values["searches"] = sum(len(row.searched) for row in card.rows) / len(card.rows)
    if any(row.tokens for row in card.rows):
        values["tokens"] = sum(row.tokens or 0 for row in card.rows) / len(card.rows)
    return {name: round(value, 4) for name, value in values.items()}


def _f1(found: Sequence[Mark]) -> float:
    """Of text, type and box together; 1 where there is nothing and nothing was claimed."""
    entities = sum((mark.gold is not None) + (mark.claim is not None) for mark in found)
    return 2 * sum(mark.kind == RIGHT for mark in found) / entities if entities else 1.0


def _interest(found: Sequence[Sequence[Mark]]) -> float:
    """Errors per answer, and more where the answers differ."""
    errors = [sum(mark.kind != RIGHT for mark in each) for each in found]
    return sum(errors) / len(errors) + (max(errors) - min(errors)) if errors else 0.0
