"""The slices of a report: by type, seen in training or not, number of entities, box size, searches, difficulty.

Knows nothing of files. Always holds: each slice says whether it is of posts or of entities and how it was cut; a slice
that the records do not tell enough for is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rewards.evaluation.inputs import TrainIndex
from rewards.evaluation.records import GoldEntity, PostRecord
from rewards.evaluation.scored import Label, Scored
from rewards.pairs import form
from sake_ray.data.boxes import Quad
from sake_ray.data.fmnerg import FMNERG_TYPES

_MANY = 4  # entities a post, from which posts are counted together
SEEN_NOTE = (
    "form: the surface form (lower case, stripped) occurs in the training split; type: the type does; both: the form "
    "occurs there with that very type. Recall is over gold entities, precision over claims by the same rule."
)


def type_cells(scored: Scored) -> dict[str, Any]:
    """Scores by type: recall by gold's, precision by the claim's."""
    return scored.entity_cells(
        [entity.type.strip() for _, entity in scored.gold], [claim.type.strip() for _, claim in scored.claims]
    )


def coarse_cells(scored: Scored) -> dict[str, Any]:
    """Scores by coarse type; a type that has none is its own. A wrong fine type is wrong here too."""
    return scored.entity_cells(
        [_coarse(entity.type, entity.coarse) for _, entity in scored.gold],
        [_coarse(claim.type) for _, claim in scored.claims],
    )


def seen_cells(scored: Scored, train: TrainIndex | None) -> dict[str, Any]:
    """Scores on entities that the training split has and has not; from the records' own marks without an index."""
    if train is None:
        marks = [_mark(entity.seen) for _, entity in scored.gold]
        if not any(marks):
            return {"source": None, "note": "no training split was given and gold has no marks"}
        return {
            "source": "records",
            "note": "by the marks of gold (surface form), so there is only recall",
            "form": scored.entity_cells(marks, None),
        }
    gold = [(form(entity.text), entity.type.strip()) for _, entity in scored.gold]
    claims = [(form(claim.text), claim.type.strip()) for _, claim in scored.claims]
    return {
        "source": train.source or "train",
        "note": SEEN_NOTE,
        "form": scored.entity_cells(*([_mark(text in train.forms) for text, _ in side] for side in (gold, claims))),
        "type": scored.entity_cells(*([_mark(kind in train.types) for _, kind in side] for side in (gold, claims))),
        "both": scored.entity_cells(*([_mark(pair in train.pairs) for pair in side] for side in (gold, claims))),
    }


def slice_report(scored: Scored) -> dict[str, Any]:
    """Each slice as `{"by": "post" or "entity", "note", "cells": {label: counts and scores}}`."""
    records = scored.records
    slices = {
        "entities": _posts(scored, [_number(len(record.gold)) for record in records], "gold entities of the post"),
        "groundable": _entities(
            scored,
            ["visible" if entity.boxes else "not_visible" for _, entity in scored.gold],
            ["visible" if claim.box else "not_visible" for _, claim in scored.claims],
            "gold has a box; for precision, the claim has one",
        ),
    }
    if len({_largest(entity) for _, entity in scored.gold if entity.boxes}) > 1:
        slices["box_size"] = _box_sizes(scored)
    if any(record.turns for record in records):
        labels = ["searched" if record.searches else "not_searched" for record in records]
        slices["searched"] = _posts(scored, labels, "whether any search was answered")
    if any(entity.difficulty for _, entity in scored.gold):
        slices["difficulty"] = _entities(
            scored, [entity.difficulty for _, entity in scored.gold], None, "the gold entity's tag; recall only"
        )
        note = "the tag of the post's hardest entity; a post with untagged entities and no unknown one is in none"
        slices["post_difficulty"] = _posts(scored, [hardest(record) for record in records], note)
    return slices


def hardest(record: PostRecord) -> str | None:
    """The difficulty of the post's hardest entity; None where that cannot be told, or there is no entity."""
    tags = {entity.difficulty for entity in record.gold}
    if not tags or None in tags:
        return "unknown" if "unknown" in tags else None
    return next(tag for tag in ("unknown", "ambiguous", "known") if tag in tags)


def _posts(scored: Scored, labels: Sequence[Label], note: str) -> dict[str, Any]:
    return {"by": "post", "note": note, "cells": scored.post_cells(labels)}


def _entities(scored: Scored, gold: Sequence[Label], claims: Sequence[Label] | None, note: str) -> dict[str, Any]:
    return {"by": "entity", "note": note, "cells": scored.entity_cells(gold, claims)}


def _box_sizes(scored: Scored) -> dict[str, Any]:
    areas = sorted(_largest(entity) for _, entity in scored.gold if entity.boxes)
    low, high = (areas[(len(areas) - 1) * part // 3] for part in (1, 2))

    def size(area: float) -> str:
        return "1_small" if area <= low else "2_medium" if area <= high else "3_large"

    note = (
        f"thirds of gold's largest boxes, cut at {low:.0f} and {high:.0f} square pixels; for precision, the claim's box"
    )
    return _entities(
        scored,
        [size(_largest(entity)) if entity.boxes else None for _, entity in scored.gold],
        [size(_area(claim.box)) if claim.box else None for _, claim in scored.claims],
        note,
    )


def _largest(entity: GoldEntity) -> float:
    return max(_area(box) for box in entity.boxes)


def _area(box: Quad) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _coarse(kind: str, coarse: str = "") -> str:
    return coarse or FMNERG_TYPES.get(kind.strip(), "") or kind.strip()


def _mark(seen: bool | None) -> Label:
    return None if seen is None else "seen" if seen else "unseen"


def _number(count: int) -> str:
    return f"{_MANY}+" if count >= _MANY else str(count)
