"""What the rewards and the evaluation compare: claimed and gold entities, in one pixel space.

Knows nothing of texts, configs or files. Always holds: a gold entity carries every box it has, a claim at
most one; a side that is not visible has no box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sake_ray.data.boxes import Quad

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


def merged(rows: Iterable[Gold]) -> list[Gold]:
    """Rows of one box each as entities: rows of the same text and type are one, in the order of first mention."""
    boxes: dict[tuple[str, str], list[Quad]] = {}
    for row in rows:
        boxes.setdefault((row.text.strip(), row.type.strip()), []).extend(row.boxes)
    return [Gold(text, kind, tuple(found)) for (text, kind), found in boxes.items()]
