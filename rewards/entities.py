"""What the rewards and the evaluation compare: claimed and gold entities, in one pixel space.

Knows nothing of texts, configs or files. Always holds: a gold entity carries every box it has, a claim at
most one; a side that is not visible has no box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sake_ray.data.boxes import Quad
from sake_ray.data.gold import mention_numbers


@dataclass(frozen=True, slots=True)
class Claim:
    """One predicted entity."""

    text: str
    type: str
    box: Quad | None


@dataclass(frozen=True, slots=True)
class Gold:
    """One gold entity with all its boxes (none: not visible)."""

    text: str
    type: str
    boxes: tuple[Quad, ...]


def mentions(rows: Sequence[Gold]) -> list[Gold]:
    """Rows of one box or none as entities, in the order of first mention.

    Mentions are told apart as everywhere where gold has no spans (`sake_ray.data.gold.mention_numbers`).
    """
    names = [(row.text.strip(), row.type.strip()) for row in rows]
    numbers = mention_numbers((*name, row.boxes or None) for name, row in zip(names, rows, strict=True))
    boxes: dict[int, list[Quad]] = {}
    for number, row in zip(numbers, rows, strict=True):
        boxes.setdefault(number, []).extend(row.boxes)
    name_of = dict(zip(numbers, names, strict=True))
    return [Gold(*name_of[number], tuple(found)) for number, found in boxes.items()]
